"""Boxes in NumPy: overlaps, suppression, refinements, normalised coordinates.

Shapes: N boxes, M other boxes, H x W image. A box is (y1, x1, y2, x2) and its (y2, x2) lies just
outside it. Normalised boxes count in [0, 1] from the centre of the first pixel to that of the last,
and their (y2, x2) lies inside.
"""

import numpy as np


def extract_bboxes(mask):
    """The smallest box around each instance's pixels.

    Args:
        mask: (H, W, N), anything but 0 belongs to the instance.

    Returns:
        (N, 4) int32 pixels; zeros for an instance without a pixel.
    """
    mask = np.asarray(mask)
    mask = mask if mask.dtype == bool else mask != 0
    height, width, count = mask.shape
    if 0 in mask.shape:
        return np.zeros((count, 4), np.int32)
    in_rows, in_cols = _any_column(mask), mask.reshape(height, -1).any(axis=0)
    in_cols = in_cols.reshape(width, count)
    y1, y2 = in_rows.argmax(axis=0), height - in_rows[::-1].argmax(axis=0)
    x1, x2 = in_cols.argmax(axis=0), width - in_cols[::-1].argmax(axis=0)
    boxes = np.stack([y1, x1, y2, x2], axis=1).astype(np.int32)
    boxes[~in_rows.any(axis=0)] = 0
    return boxes


def _any_column(mask):
    """`mask.any(axis=1)`, (H, W, N) -> (H, N), by halves: ten times faster where N is small."""
    while (width := mask.shape[1]) > 1:
        half = (width + 1) // 2  # an odd middle column is taken twice
        mask = mask[:, :half] | mask[:, width - half :]
    return mask[:, 0]


def compute_iou(box, boxes, box_area, boxes_area):
    """IoU of one box with many; the areas are given because callers have them at hand.

    Args:
        box: (4,). boxes: (N, 4). box_area: scalar. boxes_area: (N,).

    Returns:
        (N,) floats; 0 where both boxes are empty.
    """
    height = np.minimum(box[2], boxes[:, 2]) - np.maximum(box[0], boxes[:, 0])
    width = np.minimum(box[3], boxes[:, 3]) - np.maximum(box[1], boxes[:, 1])
    intersection = np.maximum(width, 0) * np.maximum(height, 0)
    return _ratio(intersection, box_area + boxes_area - intersection)


def compute_overlaps(boxes1, boxes2):
    """IoU of every box of one set with every box of another: (N, 4), (M, 4) -> (N, M) float64."""
    boxes1, boxes2 = np.asarray(boxes1), np.asarray(boxes2)
    overlaps = np.zeros((len(boxes1), len(boxes2)))
    area1, area2 = box_areas(boxes1), box_areas(boxes2)
    # One column at a time: N is 261,888 anchors, where (N, M) temporaries would leave the cache.
    for j, box in enumerate(boxes2):
        overlaps[:, j] = compute_iou(box, boxes1, area2[j], area1)
    return overlaps


def box_areas(boxes):
    """(N, 4) -> (N,) in the boxes' own type and units."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def compute_overlaps_masks(masks1, masks2):
    """IoU of every mask of one set with every mask of another.

    Args:
        masks1, masks2: (H, W, N) and (H, W, M), values above 0.5 belong to the instance.

    Returns:
        (N, M) float32; 0 where both masks are empty.
    """
    if masks1.size == 0 or masks2.size == 0:
        return np.zeros((masks1.shape[-1], masks2.shape[-1]), np.float32)
    flat1 = (masks1 > 0.5).reshape(-1, masks1.shape[-1]).astype(np.float32)
    flat2 = (masks2 > 0.5).reshape(-1, masks2.shape[-1]).astype(np.float32)
    intersection = flat1.T @ flat2
    return _ratio(intersection, flat1.sum(0)[:, None] + flat2.sum(0)[None] - intersection)


def _ratio(numerator, denominator):
    """Division with 0/0 = 0, so that two empty boxes or masks do not overlap."""
    result = np.zeros(np.shape(numerator), np.result_type(numerator, denominator, np.float32))
    return np.divide(numerator, denominator, out=result, where=denominator > 0)


def non_max_suppression(boxes, scores, threshold):
    """Greedy non-maximum suppression.

    Args:
        boxes: (N, 4). scores: (N,). threshold: a box whose IoU with a better kept one is above it
            is dropped.

    Returns:
        int32 indices of the kept boxes, best first; among equal scores the later box wins.
    """
    boxes = np.asarray(boxes)
    if boxes.dtype.kind != "f":
        boxes = boxes.astype(np.float32)
    area = box_areas(boxes)
    order = np.argsort(scores, kind="stable")[::-1]
    keep = []
    while order.size:
        best, rest = order[0], order[1:]
        keep.append(best)
        order = rest[compute_iou(boxes[best], boxes[rest], area[best], area[rest]) <= threshold]
    return np.array(keep, np.int32)


def apply_box_deltas(boxes, deltas):
    """Moves and scales boxes: (N, 4) boxes, (N, 4) (dy, dx, log dh, log dw) -> (N, 4) float32."""
    boxes = np.asarray(boxes).astype(np.float32)
    deltas = np.asarray(deltas)
    size = boxes[:, 2:] - boxes[:, :2]
    centre = boxes[:, :2] + 0.5 * size
    centre += deltas[:, :2] * size
    size *= np.exp(deltas[:, 2:])
    corner = centre - 0.5 * size
    return np.concatenate([corner, corner + size], axis=1)


def box_refinement(box, gt_box):
    """What apply_box_deltas needs to turn `box` into `gt_box`: (N, 4), (N, 4) -> (N, 4) float32."""
    box, gt_box = np.asarray(box).astype(np.float32), np.asarray(gt_box).astype(np.float32)
    size, gt_size = box[:, 2:] - box[:, :2], gt_box[:, 2:] - gt_box[:, :2]
    centre, gt_centre = box[:, :2] + 0.5 * size, gt_box[:, :2] + 0.5 * gt_size
    return np.concatenate([(gt_centre - centre) / size, np.log(gt_size / size)], axis=1)


def norm_boxes(boxes, shape):
    """Pixels to normalised coordinates: (N, 4) boxes, (height, width) -> (N, 4) float32."""
    scale, shift = _norm_scale_shift(shape)
    return np.divide(boxes - shift, scale).astype(np.float32)


def denorm_boxes(boxes, shape):
    """Normalised coordinates to whole pixels: (N, 4) boxes, (height, width) -> (N, 4) int32."""
    scale, shift = _norm_scale_shift(shape)
    return np.around(boxes * scale + shift).astype(np.int32)


def _norm_scale_shift(shape):
    height, width = shape
    return np.array([height - 1, width - 1, height - 1, width - 1]), np.array([0, 0, 1, 1])


def trim_zeros(x):
    """The rows of a matrix that are not all zero; arrays are padded with zero rows."""
    if np.ndim(x) != 2:
        raise ValueError(f"trim_zeros needs a matrix, got an array of shape {np.shape(x)}.")
    return x[~np.all(x == 0, axis=1)]


def check_boxes(boxes, image_shape, where="boxes"):
    """Raises a ValueError that shows the first box that is not inside the image.

    Args:
        boxes: (N, 4) pixels. Zero rows (padding) pass.
        image_shape: (height, width, ...).
        where: what to call the boxes in the message.
    """
    boxes = np.asarray(boxes)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"{where}: expected boxes of shape (N, 4), got {boxes.shape}.")
    y1, x1, y2, x2 = boxes.T
    inside = (y1 >= 0) & (x1 >= 0) & (y2 <= image_shape[0]) & (x2 <= image_shape[1])
    good = inside & (y1 <= y2) & (x1 <= x2)  # NaN fails every comparison
    if not good.all():
        index = int(np.argmin(good))
        raise ValueError(
            f"{where}: box {index} (y1, x1, y2, x2) = {tuple(boxes[index].tolist())} is not inside "
            f"the image of {image_shape[0]} x {image_shape[1]} pixels (height x width); clip it."
        )
