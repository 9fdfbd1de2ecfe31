"""What instances are made of: polygons and run-length encodings, checked before they are drawn.

A segment is a list of (n, 2) float64 arrays of (x, y) pixels, or a compressed RLE {"size": [H, W],
"counts": bytes} as COCO has it. x = 0 is the left edge of the first pixel and x = W the right edge
of the last. The C++ code that draws them trusts what it gets: anything from a file goes through
`parse_polygon` or `parse_rle` first, which raise a ValueError that says what is wrong.
"""

import math

import numpy as np

MAX_PIXELS = 2**28  # 16,384 x 16,384; a larger size in a file is taken for damage
CIRCLE_POINTS = 64  # of circles and ellipses as polygons: 0.2 % of the area is lost


class EmptyPolygonError(ValueError):
    """A polygon of fewer than three vertices."""


def import_coco_api():
    """The module faster_coco_eval; an ImportError with the line to type where it is missing."""
    try:
        import faster_coco_eval
    except ImportError as error:
        raise ImportError(
            "COCO data and metrics need faster-coco-eval: pip install faster-coco-eval"
        ) from error
    return faster_coco_eval


def parse_size(height, width):
    """An image's size from a file as two positive ints.

    Raises:
        ValueError: no numbers, not whole, not positive, or absurdly large.
    """
    for value in (height, width):
        whole = type(value) in (int, float) and math.isfinite(value) and value == int(value)
        if not whole or value < 1:
            raise ValueError(f"the size {width!r} x {height!r} (width x height) is no size")
    if height * width > MAX_PIXELS:
        raise ValueError(f"the size {width} x {height} is larger than {MAX_PIXELS} pixels")
    return int(height), int(width)


def parse_points(x, y, height, width, least=3):
    """Vertices given as two lists of numbers, as an (n, 2) float64 array.

    Args:
        x, y: lists of n numbers.
        height, width: of the image, in pixels; vertices may lie outside, but not by more than the
            image's own size.
        least: how many vertices there must be.

    Raises:
        EmptyPolygonError: too few vertices.
        ValueError: not numbers, not finite, or far outside.
    """
    try:
        points = np.stack([np.asarray(x, np.float64), np.asarray(y, np.float64)], axis=-1)
    except (TypeError, ValueError, OverflowError):
        raise ValueError("its vertices are not pairs of numbers") from None
    return _checked(points, height, width, least)


def parse_polygon(values, height, width):
    """COCO's [x1, y1, x2, y2, ...] as an (n, 2) float64 array; errors as `parse_points`."""
    try:
        flat = np.asarray(values, np.float64)
    except (TypeError, ValueError, OverflowError):
        raise ValueError("its vertices are not numbers") from None
    if flat.ndim != 1 or flat.size % 2:
        raise ValueError(f"its {flat.size} numbers are not a flat list of x and y")
    return _checked(flat.reshape(-1, 2), height, width, 3)


def _checked(points, height, width, least):
    if points.ndim != 2 or len(points) < least:
        raise EmptyPolygonError(f"it has {len(points)} vertices, {least} are needed")
    (x1, y1), (x2, y2) = points.min(axis=0), points.max(axis=0)
    # Written so that NaN, which fails every comparison, is refused as well.
    if not (x1 >= -width and y1 >= -height and x2 <= 2 * width and y2 <= 2 * height):
        raise ValueError(
            f"its vertices, x {x1:g} to {x2:g}, y {y1:g} to {y2:g}, are not numbers near the image "
            f"of {width} x {height} pixels"
        )
    return points


def rectangle(y1, x1, y2, x2):
    """A box in pixels as a polygon of four vertices."""
    return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], np.float64)


def ellipse(cy, cx, ry, rx, theta=0.0):
    """An ellipse as a polygon; theta turns it, in radians, clockwise on screen."""
    angle = np.arange(CIRCLE_POINTS) * (2 * math.pi / CIRCLE_POINTS)
    along, across = rx * np.cos(angle), ry * np.sin(angle)
    return np.stack(
        [
            cx + along * math.cos(theta) - across * math.sin(theta),
            cy + along * math.sin(theta) + across * math.cos(theta),
        ],
        axis=1,
    )


# === Run lengths ===


def parse_rle(segmentation, height, width):
    """An RLE of either kind from a file as a compressed one.

    Args:
        segmentation: {"size": [H, W], "counts": list of ints, text or bytes}.
        height, width: of the image.

    Raises:
        ValueError: it can't be decoded, or is not of the image's size.
    """
    if not isinstance(segmentation, dict) or not {"size", "counts"} <= set(segmentation):
        raise ValueError("its segmentation is neither polygons nor an RLE with size and counts")
    size, counts = segmentation["size"], segmentation["counts"]
    if not isinstance(size, (list, tuple)) or list(size) != [height, width]:
        raise ValueError(f"its RLE has the size {size!r}, the image is {[height, width]}")
    if isinstance(counts, (str, bytes)):
        text = counts.encode("utf-8", "replace") if isinstance(counts, str) else counts
        _check_counts(decode_counts(text), height * width)
        return {"size": [height, width], "counts": text}
    if not isinstance(counts, list) or not all(type(count) is int for count in counts):
        raise ValueError("its RLE's counts are neither text nor a list of whole numbers")
    _check_counts(counts, height * width)
    return import_coco_api().mask.frPyObjects(
        {"size": [height, width], "counts": counts}, height, width
    )


def _check_counts(counts, pixels):
    if any(count < 0 for count in counts) or sum(counts) != pixels:
        raise ValueError(f"its RLE does not add up to the image's {pixels} pixels")


def decode_counts(text):
    """The run lengths in a compressed RLE: a list of ints, background first.

    Each number is written in 5-bit digits, the lowest first, on top of "0"; bit 6 says that another
    digit follows, bit 5 of the last is the sign. From the fourth on they are differences to the
    number two before.
    """
    counts, value, shift = [], 0, 0
    for byte in text:
        digit = byte - 48
        if not 0 <= digit < 64:
            raise ValueError(f"its RLE holds the character {chr(byte)!r}, which has no meaning")
        value |= (digit & 31) << shift
        shift += 5
        if digit & 32:
            if shift > 60:
                raise ValueError("its RLE holds a number that is too large")
            continue
        if digit & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("its RLE ends in the middle of a number")
    return counts


def labels_to_rles(labels, wanted=bool):
    """Every number in a picture of instance numbers as an RLE; one pass over the pixels.

    Args:
        labels: (H, W) ints.
        wanted: function number -> whether to encode it; by default all but 0.

    Returns:
        {number: compressed RLE}, by rising number.
    """
    height, width = labels.shape
    flat = labels.ravel(order="F")
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    ends = np.append(starts[1:], flat.size)
    numbers = flat[starts]
    frompy = import_coco_api().mask.frPyObjects
    rles = {}
    for number in np.unique(numbers):
        if not wanted(int(number)):
            continue
        own = numbers == number
        # Background before each run, the run, and so on; then the background after the last.
        edges = np.stack([starts[own], ends[own]], axis=1).ravel()
        counts = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
        rles[int(number)] = frompy({"size": [height, width], "counts": counts}, height, width)
    return rles


# === Segments ===


def is_polygons(segment):
    """Whether a segment is a list of polygons."""
    return isinstance(segment, (list, tuple))


def to_rle(segment, height, width):
    """A segment, or a (H, W) mask, as a compressed RLE."""
    mask_api = import_coco_api().mask
    if isinstance(segment, dict):
        return segment
    if is_polygons(segment):
        flat = [np.asarray(part, np.float64).ravel().tolist() for part in segment]
        return mask_api.merge(mask_api.frPyObjects(flat, height, width))
    return mask_api.encode(np.asfortranarray(segment, dtype=np.uint8))


def to_mask(segment, height, width):
    """A segment, or a (H, W) mask, as a (H, W) bool mask."""
    if isinstance(segment, np.ndarray):
        return segment.astype(bool)
    return import_coco_api().mask.decode(to_rle(segment, height, width)).astype(bool)


def area_and_box(segment, height, width):
    """How many pixels a segment covers in the image, and COCO's [x, y, width, height] around them.

    Polygons give the box of their vertices inside the image, as COCO's own files have it.
    """
    mask_api = import_coco_api().mask
    rle = to_rle(segment, height, width)
    area = float(mask_api.area(rle))
    if is_polygons(segment):
        points = np.clip(np.concatenate(segment), 0, [width, height])
        (x1, y1), (x2, y2) = points.min(axis=0), points.max(axis=0)
        return area, [float(x1), float(y1), float(x2 - x1), float(y2 - y1)]
    return area, np.asarray(mask_api.toBbox(rle), np.float64).ravel().tolist()
