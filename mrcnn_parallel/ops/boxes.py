"""Box arithmetic on tensors, batched over any leading dimensions.

Boxes are (y1, x1, y2, x2), deltas (dy, dx, log dh, log dw) (Fast R-CNN, appendix C). Everything is
float32: bfloat16 has 8 bits of mantissa, too few for a coordinate.
"""

import math

from keras import ops

# exp(dh) is capped as in Faster R-CNN implementations: no box grows more than 62.5 times, so that
# a diverging RPN gives large boxes rather than infinities. Matterport has no cap; trained models
# never come near it.
MAX_LOG_SCALE = math.log(1000.0 / 16.0)


def split(boxes):
    """(..., 4) -> y1, x1, y2, x2, each (...)."""
    return boxes[..., 0], boxes[..., 1], boxes[..., 2], boxes[..., 3]


def area(boxes):
    """Area of each box, (..., 4) -> (...)."""
    y1, x1, y2, x2 = split(boxes)
    return (y2 - y1) * (x2 - x1)


def apply_deltas(boxes, deltas):
    """Moves and scales boxes by deltas, both (..., 4)."""
    y1, x1, y2, x2 = split(boxes)
    dy, dx, dh, dw = split(deltas)
    height, width = y2 - y1, x2 - x1
    center_y = y1 + 0.5 * height + dy * height
    center_x = x1 + 0.5 * width + dx * width
    height = height * ops.exp(ops.minimum(dh, MAX_LOG_SCALE))
    width = width * ops.exp(ops.minimum(dw, MAX_LOG_SCALE))
    y1 = center_y - 0.5 * height
    x1 = center_x - 0.5 * width
    return ops.stack([y1, x1, y1 + height, x1 + width], axis=-1)


def deltas_between(boxes, gt_boxes):
    """The deltas that turn `boxes` into `gt_boxes`, both (..., 4).

    An empty box on either side gives zeros instead of an infinity, so that padding is harmless.
    """
    y1, x1, y2, x2 = split(boxes)
    gt_y1, gt_x1, gt_y2, gt_x2 = split(gt_boxes)
    height, width = y2 - y1, x2 - x1
    gt_height, gt_width = gt_y2 - gt_y1, gt_x2 - gt_x1
    valid = (height > 0) & (width > 0) & (gt_height > 0) & (gt_width > 0)
    height, width, gt_height, gt_width = (
        ops.where(valid, side, 1.0) for side in (height, width, gt_height, gt_width)
    )
    dy = ((gt_y1 + 0.5 * gt_height) - (y1 + 0.5 * height)) / height
    dx = ((gt_x1 + 0.5 * gt_width) - (x1 + 0.5 * width)) / width
    deltas = ops.stack([dy, dx, ops.log(gt_height / height), ops.log(gt_width / width)], axis=-1)
    return ops.where(valid[..., None], deltas, 0.0)


def clip(boxes, window):
    """Clips boxes (..., 4) to a window (y1, x1, y2, x2), (4,) or broadcastable to (..., 4)."""
    y1, x1, y2, x2 = split(boxes)
    top, left, bottom, right = split(window)
    return ops.stack(
        [
            ops.maximum(ops.minimum(y1, bottom), top),
            ops.maximum(ops.minimum(x1, right), left),
            ops.maximum(ops.minimum(y2, bottom), top),
            ops.maximum(ops.minimum(x2, right), left),
        ],
        axis=-1,
    )


def pairwise_intersection(boxes1, boxes2):
    """Intersection of all pairs, (..., N, 4) and (..., M, 4) -> (..., N, M)."""
    a_y1, a_x1, a_y2, a_x2 = split(boxes1[..., :, None, :])
    b_y1, b_x1, b_y2, b_x2 = split(boxes2[..., None, :, :])
    height = ops.minimum(a_y2, b_y2) - ops.maximum(a_y1, b_y1)
    width = ops.minimum(a_x2, b_x2) - ops.maximum(a_x1, b_x1)
    return ops.maximum(height, 0.0) * ops.maximum(width, 0.0)


def pairwise_iou(boxes1, boxes2):
    """IoU of all pairs, (..., N, 4) and (..., M, 4) -> (..., N, M); 0 where both are empty."""
    intersection = pairwise_intersection(boxes1, boxes2)
    union = area(boxes1)[..., :, None] + area(boxes2)[..., None, :] - intersection
    return ops.where(union > 0, intersection / ops.where(union > 0, union, 1.0), 0.0)


def normalize(boxes_px, shape):
    """Pixel boxes (..., 4) to normalised ones; `shape` is (height, width), scalars or tensors.

    (y2, x2) lies outside a pixel box but inside a normalised one.
    """
    scale, shift = _pixel_scale(shape)
    return (ops.cast(boxes_px, "float32") - shift) / scale


def denormalize(boxes_norm, shape):
    """Normalised boxes (..., 4) to pixels, rounded half to even, int32."""
    scale, shift = _pixel_scale(shape)
    return ops.cast(ops.round(boxes_norm * scale + shift), "int32")


def _pixel_scale(shape):
    height, width = (ops.cast(side, "float32") for side in (shape[0], shape[1]))
    scale = ops.stack([height, width, height, width], axis=-1) - 1.0
    return scale, ops.convert_to_tensor([0.0, 0.0, 1.0, 1.0], dtype="float32")
