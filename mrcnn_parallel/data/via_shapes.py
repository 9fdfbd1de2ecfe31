"""VGG Image Annotator's shapes: of its three versions in one form, as masks and as polygons.

A shape is the shape_attributes of version 2: {"name": "polygon", "all_points_x": [...],
"all_points_y": [...]}, or rect, circle, ellipse, polyline with their numbers in pixels.
"""

import math

import numpy as np

from mrcnn_parallel.data import segments

NO_AREA = {"point", "line"}
_V3_SHAPES = {  # shape number of version 3: (name, names of the numbers that follow)
    1: ("point", ("cx", "cy")),
    2: ("rect", ("x", "y", "width", "height")),
    3: ("circle", ("cx", "cy", "r")),
    4: ("ellipse", ("cx", "cy", "rx", "ry")),
    5: ("line", ()),
    6: ("polyline", None),  # None: alternating x and y
    7: ("polygon", None),
    8: ("extreme_rect", None),
    9: ("extreme_circle", None),
}


def shape_name(shape):
    return shape.get("name", "polygon")  # the first files had nothing else and no names


def version_3_shape(xy):
    kind, *numbers = xy
    if kind not in _V3_SHAPES:
        raise ValueError(f"VGG Image Annotator's shape number {kind} is unknown.")
    name, fields = _V3_SHAPES[kind]
    if fields is not None:
        return {"name": name, **dict(zip(fields, numbers, strict=False))}
    x, y = numbers[0::2], numbers[1::2]
    if name == "extreme_rect":  # points on the four sides
        width, height = max(x) - min(x), max(y) - min(y)
        return {"name": "rect", "x": min(x), "y": min(y), "width": width, "height": height}
    if name == "extreme_circle":
        return _circle_through(x, y)
    return {"name": name, "all_points_x": x, "all_points_y": y}


def _circle_through(x, y):
    """The circle through three points: x² + y² = 2 cx x + 2 cy y + c."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    cx, cy, c = np.linalg.solve(np.stack([2 * x, 2 * y, np.ones(3)], axis=1), x**2 + y**2)
    return {"name": "circle", "cx": cx, "cy": cy, "r": math.sqrt(c + cx**2 + cy**2)}


def region_mask(shape, height, width):
    """Draws a region.

    Args:
        shape: a region's "shape" from `read_via`. Parts outside the image are cut off.
        height, width: of the image, in pixels.

    Returns:
        (height, width) bool.

    Raises:
        ValueError: an unknown shape.
    """
    from skimage import draw

    size, name = (height, width), shape_name(shape)
    mask = np.zeros(size, bool)
    if name == "rect":
        y1, x1 = max(0, round(shape["y"])), max(0, round(shape["x"]))
        y2, x2 = round(shape["y"] + shape["height"]), round(shape["x"] + shape["width"])
        mask[y1 : max(0, y2), x1 : max(0, x2)] = True
        return mask
    if name in ("polygon", "polyline"):  # a polyline is closed by its ends
        pixels = draw.polygon(shape["all_points_y"], shape["all_points_x"], size)
    elif name == "circle":
        pixels = draw.disk((shape["cy"], shape["cx"]), shape["r"], shape=size)
    elif name == "ellipse":
        # VIA turns clockwise on screen, scikit-image the other way round and less than a turn.
        pixels = draw.ellipse(
            shape["cy"],
            shape["cx"],
            shape["ry"],
            shape["rx"],
            shape=size,
            rotation=-math.remainder(shape.get("theta", 0), math.pi),
        )
    else:
        raise ValueError(f"VGG Image Annotator's shape {name!r} can't be drawn as a mask.")
    mask[pixels] = True
    return mask


def region_polygon(shape, height, width):
    """A region as an (n, 2) float64 polygon; a circle or ellipse has CIRCLE_POINTS vertices.

    Raises:
        ValueError: an unknown shape, or vertices that are none; see segments.parse_points.
        KeyError, TypeError: the shape lacks a number.
    """
    name = shape_name(shape)
    if name in ("polygon", "polyline"):  # a polyline is closed by its ends
        return segments.parse_points(shape["all_points_x"], shape["all_points_y"], height, width)
    if name == "rect":
        x, y = float(shape["x"]), float(shape["y"])
        points = segments.rectangle(y, x, y + float(shape["height"]), x + float(shape["width"]))
    elif name in ("circle", "ellipse"):
        rx, ry = (shape["r"], shape["r"]) if name == "circle" else (shape["rx"], shape["ry"])
        theta = shape.get("theta", 0)
        numbers = [float(value) for value in (shape["cy"], shape["cx"], ry, rx, theta)]
        if not np.isfinite(numbers).all():
            raise ValueError("its centre or radii are no finite numbers")
        points = segments.ellipse(*numbers)
    else:
        raise ValueError(f"VGG Image Annotator's shape {name!r} can't be drawn as a mask")
    return segments.parse_points(points[:, 0], points[:, 1], height, width)
