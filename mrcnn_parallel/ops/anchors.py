"""Anchors: the boxes that the RPN scores, laid out over the pyramid. NumPy; they are constants.

Letters: A anchors a cell, N anchors in all, L pyramid levels.
"""

import math

import numpy as np


def generate_anchors(scales, ratios, shape, feature_stride, anchor_stride):
    """Anchors of one pyramid level.

    Args:
        scales: side length(s) in pixels, a number or a sequence, e.g. 32.
        ratios: width / height of the anchors, e.g. [0.5, 1, 2].
        shape: (height, width) of the feature map, in cells.
        feature_stride: pixels of the image per cell.
        anchor_stride: 1 for anchors at every cell, 2 for every other cell ...

    Returns:
        (N, 4) float64 boxes (y1, x1, y2, x2) in pixels, by row, column, ratio.
    """
    scales, ratios = np.meshgrid(np.array(scales), np.array(ratios))
    heights = scales.flatten() / np.sqrt(ratios.flatten())  # (A,)
    widths = scales.flatten() * np.sqrt(ratios.flatten())
    shifts_y = np.arange(0, shape[0], anchor_stride) * feature_stride
    shifts_x = np.arange(0, shape[1], anchor_stride) * feature_stride
    shifts_x, shifts_y = np.meshgrid(shifts_x, shifts_y)
    centers = np.stack([shifts_y, shifts_x], axis=-1).reshape(-1, 1, 2)
    sizes = np.stack([heights, widths], axis=-1).reshape(1, -1, 2)
    boxes = np.concatenate([centers - 0.5 * sizes, centers + 0.5 * sizes], axis=-1)
    return boxes.reshape(-1, 4)  # (N, 4)


def generate_pyramid_anchors(scales, ratios, feature_shapes, feature_strides, anchor_stride):
    """Anchors of all levels, one scale a level.

    Args:
        scales: (L,) side lengths in pixels.
        ratios: width / height of the anchors.
        feature_shapes: (L, 2) feature map sizes.
        feature_strides: (L,) pixels per cell.
        anchor_stride: as in `generate_anchors`.

    Returns:
        (N, 4) float64 boxes in pixels, finest level first.
    """
    return np.concatenate(
        [
            generate_anchors(scale, ratios, shape, stride, anchor_stride)
            for scale, shape, stride in zip(scales, feature_shapes, feature_strides, strict=True)
        ],
        axis=0,
    )


def compute_backbone_shapes(config, image_shape):
    """(height, width) of P2..P6 for an image, (L, 2) int.

    Args:
        config: a Config; a callable BACKBONE brings its own COMPUTE_BACKBONE_SHAPE.
        image_shape: (height, width, ...) in pixels.
    """
    if callable(config.BACKBONE):
        return np.asarray(config.COMPUTE_BACKBONE_SHAPE(image_shape))
    return np.array(
        [
            [math.ceil(image_shape[0] / stride), math.ceil(image_shape[1] / stride)]
            for stride in config.BACKBONE_STRIDES
        ]
    )


def image_anchors_px(config, image_shape):
    """All anchors of an image of that shape, (N, 4) float64 in pixels."""
    return generate_pyramid_anchors(
        config.RPN_ANCHOR_SCALES,
        config.RPN_ANCHOR_RATIOS,
        compute_backbone_shapes(config, image_shape),
        config.BACKBONE_STRIDES,
        config.RPN_ANCHOR_STRIDE,
    )


def image_anchors_norm(config, image_shape):
    """All anchors of an image of that shape, (N, 4) float32, normalised."""
    return normalize_px(image_anchors_px(config, image_shape), image_shape)


def normalize_px(boxes_px, image_shape):
    """Pixel boxes (..., 4) to normalised float32 ones.

    A normalised box runs from 0 to 1 between the centres of the first and the last pixel; a pixel
    box's (y2, x2) lies outside it, so they first lose a pixel.
    """
    height, width = image_shape[:2]
    scale = np.array([height - 1, width - 1, height - 1, width - 1])
    return ((boxes_px - np.array([0, 0, 1, 1])) / scale).astype(np.float32)
