"""Bilinear resampling of one plane, number for number what scikit-image's `resize` gives.

`skimage.transform.resize(order=1, mode="constant")` costs milliseconds a call and refuses bools.
Masks are rounded at 0.5 after it, so a faster stand-in must agree to the last bit, ties included:
the order of the arithmetic here is that of `scipy.ndimage.zoom(grid_mode=True)`. Pixel centres
coincide at both ends, and what lies outside the plane is 0.
"""

import numpy as np


def taps(size_in, size_out):
    """For each of `size_out` samples: the left of its two neighbours, and both weights.

    Returns:
        left: (size_out,) int64 in [-1, size_in - 1]; -1 and size_in lie outside.
        weights: two (size_out,) float64 arrays.
    """
    centre = (np.arange(size_out) + 0.5) * (size_in / size_out) - 0.5
    left = np.floor(centre)
    weight = 1.0 - (centre - left)
    return left.astype(np.int64), (weight, 1.0 - weight)


def resize_plane(plane, shape):
    """Resizes a plane.

    Args:
        plane: (h, w) bool, integer or float, not empty.
        shape: (height, width) of the result.

    Returns:
        (height, width): float64, or float32 from float32 and float16.
    """
    plane = np.asarray(plane)
    rows, cols = np.arange(plane.shape[0]), np.arange(plane.shape[1])
    return resize_indexed(plane, rows, cols, shape)


def resize_indexed(plane, rows, cols, shape):
    """`resize_plane(plane[rows][:, cols], shape)` that reads only the pixels the result needs."""
    top, row_weights = taps(len(rows), shape[0])
    left, col_weights = taps(len(cols), shape[1])
    # Index -1 and len() stand for the zeros around the plane: clip them, and zero their weights.
    result = np.zeros(shape, np.float64)
    corners = []
    for dy, row_weight in enumerate(row_weights):
        y, wy = _clip(top + dy, row_weight, len(rows))
        line = plane[rows[y]]  # (height, w)
        for dx, col_weight in enumerate(col_weights):
            x, wx = _clip(left + dx, col_weight, len(cols))
            corner = line[:, cols[x]]  # (height, width)
            result += corner * wy[:, None] * wx
            corners.append(corner)
    if plane.dtype in (np.float32, np.float16):
        result = result.astype(np.float32)
    return _clip_to_range(result, plane[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1])


def resize_probabilities(plane, shape):
    """`resize_plane` of values that are not negative, to float32 rounding, by OpenCV.

    OpenCV repeats the edge where scikit-image blends it with the zeros around the plane, so what
    lies outside the outermost centres is weighted afterwards. The clipping is left out.

    Args:
        plane: (h, w) float. shape: (height, width) of the result.

    Returns:
        (height, width) float32.
    """
    import cv2

    plane = np.ascontiguousarray(plane, dtype=np.float32)
    result = cv2.resize(plane, shape[::-1], interpolation=cv2.INTER_LINEAR)
    for axis, (size_in, size_out) in enumerate(zip(plane.shape, shape, strict=True)):
        centre = (np.arange(size_out) + 0.5) * (size_in / size_out) - 0.5
        inside = 1.0 - np.maximum(np.maximum(-centre, centre - (size_in - 1)), 0.0)
        outer = np.flatnonzero(inside < 1)
        weights = inside[outer].astype(np.float32)
        if axis == 0:
            result[outer] *= weights[:, None]
        else:
            result[:, outer] *= weights
    return result


def _clip(index, weight, size):
    inside = (index >= 0) & (index < size)
    return np.clip(index, 0, size - 1), np.where(inside, weight, 0.0)


def _clip_to_range(result, plane):
    """skimage's last step: the surrounding zeros must not bring in values below the plane's own.

    It matters: without it a mask that fills its box would lose its four corners. Values of a
    result that reaches 0 anywhere are left alone.
    """
    low, high = plane.min(), plane.max()
    if (low > 0 and result.min() > 0) or (high < 0 and result.max() < 0) or low <= 0 <= high:
        np.clip(result, low, high, out=result)
    return result
