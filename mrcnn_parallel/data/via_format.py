"""VGG Image Annotator's JSON files, of versions 1, 2 and 3: which regions an image has.

Formats: https://www.robots.ox.ac.uk/~vgg/software/via/. Versions 1 and 2 write one entry an image,
with `regions` as a dict (1) or a list (2), alone or inside a saved project; version 3 writes a
project of files, views and metadata.
"""

import json
import logging
import math

import numpy as np

log = logging.getLogger(__name__)

_NO_AREA = {"point", "line"}
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


def read_via(path):
    """Reads an annotation file.

    Args:
        path: JSON file.

    Returns:
        {file name: list of regions}. A region is {"shape": shape_attributes of version 2, e.g.
        {"name": "polygon", "all_points_x": [...], "all_points_y": [...]}, "attributes": dict}.
        Images without regions have an empty list; points and lines, which have no area, are left
        out.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no annotation file of VGG Image Annotator.
    """
    with open(path, encoding="utf-8") as file:
        try:
            content = json.load(file)
        except ValueError as error:
            raise ValueError(f"{path} is not a JSON file: {error}.") from error
    if isinstance(content, dict) and {"file", "view", "metadata"} <= set(content):
        images = _version_3(content)
    else:
        entries = content.get("_via_img_metadata", content) if isinstance(content, dict) else None
        if not isinstance(entries, dict) or not all(
            isinstance(entry, dict) and "filename" in entry for entry in entries.values()
        ):
            raise ValueError(
                f"{path} is not an annotation file of VGG Image Annotator: it has no entries with "
                "a 'filename'."
            )
        images = {entry["filename"]: _regions(entry) for entry in entries.values()}
    dropped = 0
    for name, regions in images.items():
        images[name] = [region for region in regions if _name(region["shape"]) not in _NO_AREA]
        dropped += len(regions) - len(images[name])
    if dropped:
        log.warning("%s: %d points or lines have no area and are left out.", path, dropped)
    return images


def _regions(entry):
    regions = entry.get("regions") or []
    if isinstance(regions, dict):
        regions = regions.values()
    return [
        {"shape": region["shape_attributes"], "attributes": region.get("region_attributes", {})}
        for region in regions
    ]


def _name(shape):
    return shape.get("name", "polygon")  # the first files had nothing else and no names


def _version_3(content):
    images = {file["fname"]: [] for file in content["file"].values()}
    names = {}  # view -> file name; a view of several files compares them and has no regions
    for view, info in content["view"].items():
        if len(info["fid_list"]) == 1:
            names[str(view)] = content["file"][str(info["fid_list"][0])]["fname"]
    for entry in content["metadata"].values():
        if entry["xy"] and str(entry["vid"]) in names:
            region = {"shape": _version_3_shape(entry["xy"]), "attributes": entry.get("av", {})}
            images[names[str(entry["vid"])]].append(region)
    return images


def _version_3_shape(xy):
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

    size, name = (height, width), _name(shape)
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
