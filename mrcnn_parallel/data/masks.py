"""Instance masks in NumPy: resizing with their image, mini masks, and the network's masks back.

Shapes: masks are (H, W, N) bool, N instances last. Mini masks are the inside of each instance's box
at config.MINI_MASK_SHAPE, which takes far less memory than masks of the image's size.
"""

import numpy as np

from mrcnn_parallel.data.geometry import check_boxes, extract_bboxes
from mrcnn_parallel.data.resample import resize_indexed, resize_plane, resize_probabilities


def resize_mask(mask, scale, padding, crop=None):
    """Resizes masks as `resize_image` resized their image.

    Args:
        mask: (H, W, N).
        scale, padding, crop: as resize_image returned them.

    Returns:
        (height, width, N) of the same dtype, nearest neighbour.
    """
    rows, cols = nearest_indices(mask.shape[0], scale), nearest_indices(mask.shape[1], scale)
    if crop is not None:
        y, x, height, width = crop
        return mask[rows[y : y + height, None], cols[x : x + width]]
    (top, bottom), (left, right), _ = padding
    shape = (top + len(rows) + bottom, left + len(cols) + right, mask.shape[2])
    resized = np.zeros(shape, mask.dtype)
    inside = resized[top : top + len(rows), left : left + len(cols)]
    inside[...] = mask if scale == 1 else mask[rows[:, None], cols]
    return resized


def nearest_indices(size, scale):
    """The source pixel of each of round(size * scale) resized pixels along one axis.

    The first and last pixels of both coincide, as in `scipy.ndimage.zoom(order=0)`.
    """
    resized = round(size * scale)
    step = (size - 1) / (resized - 1) if resized > 1 else 1.0
    index = np.floor(np.arange(resized) * step + 0.5).astype(np.int64)
    return np.minimum(index, size - 1)


def minimize_mask(bbox, mask, mini_shape):
    """Cuts each mask to its box and resizes it to a small fixed size.

    Args:
        bbox: (N, 4) pixels. mask: (H, W, N). mini_shape: (height, width).

    Returns:
        (mini_height, mini_width, N) bool.

    Raises:
        ValueError: a box outside the mask or without area.
    """
    check_boxes(bbox, mask.shape, "minimize_mask")
    rows, cols = np.arange(mask.shape[0]), np.arange(mask.shape[1])
    return minimize_resized_mask(bbox, mask, rows, cols, mini_shape)


def minimize_resized_mask(bbox, mask, rows, cols, mini_shape):
    """Mini masks of `mask[rows][:, cols]` without ever building it.

    Args:
        bbox: (N, 4) pixels of the resized mask. mask: (h, w, N), before resizing.
        rows, cols: the source row and column of each resized row and column, ascending, without
            gaps where they enlarge.
        mini_shape: (height, width).

    Returns:
        (mini_height, mini_width, N) bool.
    """
    mini_shape = tuple(int(side) for side in mini_shape)
    mini_mask = np.zeros((*mini_shape, mask.shape[-1]), bool)
    for i, (y1, x1, y2, x2) in enumerate(np.asarray(bbox)[:, :4].tolist()):
        if y2 <= y1 or x2 <= x1:
            raise ValueError(f"minimize_mask: box {i} {(y1, x1, y2, x2)} has no area.")
        y, x = rows[y1:y2], cols[x1:x2]
        plane = mask[y[0] : y[-1] + 1, x[0] : x[-1] + 1, i].astype(bool)
        mini_mask[:, :, i] = np.around(resize_indexed(plane, y - y[0], x - x[0], mini_shape))
    return mini_mask


def expand_mask(bbox, mini_mask, image_shape):
    """Puts mini masks back into masks of the image's size: undoes minimize_mask, up to its loss.

    Args:
        bbox: (N, 4) pixels. mini_mask: (h, w, N). image_shape: (H, W, ...).

    Returns:
        (H, W, N) bool.
    """
    check_boxes(bbox, image_shape, "expand_mask")
    mask = np.zeros((*image_shape[:2], mini_mask.shape[-1]), bool)
    for i, (y1, x1, y2, x2) in enumerate(np.asarray(bbox)[:, :4].tolist()):
        if y2 > y1 and x2 > x1:
            plane = resize_plane(mini_mask[:, :, i].astype(bool), (y2 - y1, x2 - x1))
            mask[y1:y2, x1:x2, i] = np.around(plane)
    return mask


def mold_mask(mask, config):
    """Masks in the form the network trains on: mini masks where config.USE_MINI_MASK, else bool.

    Args:
        mask: (H, W, N) of the image's size, every instance with at least one pixel.
    """
    mask = np.asarray(mask).astype(bool)
    if not config.USE_MINI_MASK:
        return mask
    return minimize_mask(extract_bboxes(mask), mask, config.MINI_MASK_SHAPE)


def unmold_mask(mask, bbox, image_shape):
    """Puts one of the network's masks into its box in the image.

    Args:
        mask: (h, w) float probabilities, typically 28 x 28.
        bbox: (y1, x1, y2, x2) pixels; parts outside the image are cut off.
        image_shape: (H, W, ...).

    Returns:
        (H, W) bool, true from 0.5 on; empty for a box without area.
    """
    full_mask = np.zeros(image_shape[:2], bool)
    paste_mask(mask, bbox, full_mask)
    return full_mask


def paste_mask(mask, bbox, plane):
    """`unmold_mask` into a plane (H, W) of zeros that is there already."""
    y1, x1, y2, x2 = (int(side) for side in bbox)
    top, left = max(y1, 0), max(x1, 0)
    bottom, right = min(y2, plane.shape[0]), min(x2, plane.shape[1])
    if bottom <= top or right <= left:
        return
    target = plane[top:bottom, left:right]
    # As in resample.resize_plane: the zeros around a mask must not eat into one that fills its box
    if mask.min() >= 0.5:
        target[...] = True
        return
    inside = resize_probabilities(mask, (y2 - y1, x2 - x1))
    inside = inside[top - y1 : bottom - y1, left - x1 : right - x1]
    np.greater_equal(inside, 0.5, out=target)
