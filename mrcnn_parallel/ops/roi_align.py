"""ROI sampling: feature pyramid + boxes -> a small grid of features for each box.

Two rules of where to sample:
  crop_and_resize  corners of the box at pixel centres, one sample a cell: what Matterport's
                   weights were trained with (TensorFlow's op of that name, which XLA lacks).
  roi_align        Mask R-CNN, section 3: half-pixel centres, 2 x 2 samples a cell, averaged.

Letters: B images, L levels, R ROIs an image, (h, w) cells of the grid, C channels, S cells of all
levels of one image together (see ops.pyramid).
"""

import numpy as np
from keras import ops

from mrcnn_parallel.ops import boxes as box_ops
from mrcnn_parallel.ops import pyramid

# A corner at exactly 1.0 may round to a hair beyond the last pixel centre, by the order of the
# float32 arithmetic, which compilers change: TensorFlow's op then returns 0 on that edge, or the
# border's value, by luck. Here it always counts as inside: 1e-3 of a cell is far above rounding
# (2e-5 at 256 cells) and far below what an image can show.
EDGE_TOLERANCE = 1e-3


def roi_levels(boxes_norm, image_shape, num_levels=4, finest=2):
    """Pyramid level of each box (Feature Pyramid Networks, equation 1: a 224 px box is on P4).

    Args:
        boxes_norm: (..., 4) normalised boxes.
        image_shape: (height, width) in pixels, numbers or scalar tensors.

    Returns:
        (...) int32 in [0, num_levels), 0 is P2.
    """
    y1, x1, y2, x2 = box_ops.split(boxes_norm)
    height, width = (ops.cast(side, "float32") for side in image_shape)
    side_px = ops.sqrt(ops.maximum((y2 - y1) * (x2 - x1), 1e-12) * (height * width))
    level = 4 + ops.cast(ops.round(ops.log(side_px / 224.0) / np.log(2.0)), "int32")
    return ops.clip(level, finest, finest + num_levels - 1) - finest


def pyramid_roi_align(
    feature_maps, boxes_norm, pool_shape, image_shape, sampling="crop_and_resize"
):
    """Samples each box from the pyramid level that fits its size.

    Args:
        feature_maps: L tensors (B, H_l, W_l, C), finest first; static H_l and W_l.
        boxes_norm: (B, R, 4) float32 normalised boxes.
        pool_shape: (h, w) cells of the grid.
        image_shape: (height, width) of the image in pixels, numbers or scalar tensors.
        sampling: "crop_and_resize" or "roi_align".

    Returns:
        (B, R, h, w, C) in the feature maps' dtype.
    """
    reading = roi_reading(feature_maps, boxes_norm, pool_shape, image_shape, sampling)
    return pyramid.read(feature_maps, [reading])[0]


def roi_reading(
    feature_maps, boxes_norm, pool_shape, image_shape, sampling="crop_and_resize", num_levels=None
):
    """`pyramid_roi_align` as a pyramid.Reading, to be carried out beside others.

    Args:
        num_levels: levels that boxes are sampled from, finest first; all by default.
        feature_maps, boxes_norm, pool_shape, image_shape, sampling: as there.
    """
    num_levels = num_levels or len(feature_maps)
    sizes = pyramid.level_sizes(feature_maps)
    starts, cells = pyramid.level_starts(sizes)  # S
    levels = roi_levels(boxes_norm, image_shape, num_levels)  # (B, R)

    def of_level(values, dtype):
        values = ops.convert_to_tensor([int(x) for x in values[:num_levels]], dtype=dtype)
        return ops.take(values, levels)  # (B, R)

    height = of_level([height for height, _ in sizes], "float32")
    width = of_level([width for _, width in sizes], "float32")
    y1, x1, y2, x2 = box_ops.split(boxes_norm)
    if sampling == "crop_and_resize":
        ys = _corner_grid(y1, y2, height, pool_shape[0])  # (B, R, h)
        xs = _corner_grid(x1, x2, width, pool_shape[1])  # (B, R, w)
    else:
        ys = _bin_grid(y1, y2, height, image_shape[0], 2 * pool_shape[0])
        xs = _bin_grid(x1, x2, width, image_shape[1], 2 * pool_shape[1])
    rows, columns, combine = _bilinear(ys, xs, height, width)

    images = pyramid.image_starts(feature_maps, cells)[:, None]  # (B, 1)
    start = (of_level(starts, "int32") + images)[..., None, None]  # (B, R, 1, 1)
    row_cells = ops.cast(width, "int32")[..., None, None]
    index = start + rows[..., :, None] * row_cells + columns[..., None, :]  # (4, B, R, h, w)

    # Padding is boxes of zeros: all their samples are the first cell of P2. Gathered as such, the
    # gradient would add thousands of rows to one address, one after the other: ten times the rest
    # of the step together. So they gather scattered cells, and get the first one afterwards.
    padding = ops.all(boxes_norm == 0, axis=-1)  # (B, R)
    spread = ops.reshape(ops.arange(int(np.prod(index.shape[2:]))), (1, 1, *index.shape[2:]))
    spread = spread % cells + images[..., None, None]  # (1, B, R, h, w)
    index = ops.where(padding[..., None, None], spread, index)

    def finish(values):
        pooled = combine(values)  # (B, R, h, w, C)
        pooled = _fill_padding(pooled, feature_maps[0][:, 0, 0], padding)
        if sampling == "roi_align":
            shape = (*ops.shape(pooled)[:2], pool_shape[0], 2, pool_shape[1], 2, pooled.shape[-1])
            pooled = ops.mean(ops.reshape(pooled, shape), axis=(3, 5))
        return pooled

    return pyramid.Reading(index, finish)


def _fill_padding(pooled, first_cell, padding):
    """`pooled`, with an image's first cell in all samples of the ROIs that are padding.

    Its gradient sums over ROIs by a matrix product. A sum would have XLA choose a layout for it,
    with the ROIs last, and then bring all else that is done with the samples into that layout.

    Args:
        pooled: (B, R, h, w, C).
        first_cell: (B, C).
        padding: (B, R) bool.

    Returns:
        (B, R, h, w, C).
    """
    is_padding = ops.cast(padding, pooled.dtype)
    # Two rows, since XLA makes a sum of a product with one
    own = ops.stack([is_padding, 1 - is_padding], axis=1)  # (B, 2, R)

    @ops.custom_gradient
    def fill(pooled, first_cell, own):
        where = ops.reshape(own[:, 0] > 0, (-1, pooled.shape[1], 1, 1, 1))

        def gradient(upstream):
            count, size = pooled.shape[1], int(np.prod(pooled.shape[2:]))
            sums = ops.matmul(own, ops.reshape(upstream, (-1, count, size)))[:, 0]
            sums = ops.reshape(sums, (-1, size // pooled.shape[-1], pooled.shape[-1]))
            return (
                ops.where(where, ops.zeros_like(upstream), upstream),
                ops.sum(sums, axis=1),  # (B, C)
                ops.zeros_like(own),
            )

        return ops.where(where, first_cell[:, None, None, None], pooled), gradient

    return fill(pooled, first_cell, own)


def crop_and_resize_masks(masks, boxes, crop_shape):
    """Cuts one box out of each mask, bilinearly; what lies outside the mask is 0.

    Args:
        masks: (B, R, H, W) float32.
        boxes: (B, R, 4) float32, normalised to the mask: 0 and 1 are its first and last row.
        crop_shape: (h, w).

    Returns:
        (B, R, h, w) float32.
    """
    rows, columns = masks.shape[2:4]
    y1, x1, y2, x2 = box_ops.split(boxes)
    height, width = ops.full_like(y1, rows), ops.full_like(x1, columns)
    ys = _corner_grid(y1, y2, height, crop_shape[0])
    xs = _corner_grid(x1, x2, width, crop_shape[1])
    flat = ops.reshape(masks, (-1, masks.shape[1], rows * columns))  # (B, R, H * W)
    ys, xs, combine = _bilinear(ys, xs, height, width)
    index = ys[..., :, None] * columns + xs[..., None, :]  # (4, B, R, h, w)
    index = ops.reshape(index, (4, -1, masks.shape[1], crop_shape[0] * crop_shape[1]))
    values = ops.take_along_axis(flat[None], index, axis=3)
    return combine(ops.reshape(values, (4, -1, masks.shape[1], *crop_shape, 1)))[..., 0]


def _corner_grid(low, high, size, count):
    """crop_and_resize positions in cells, (..., count); the order of the arithmetic is TF's."""
    scale = (high - low) * (size - 1) / (count - 1)
    steps = ops.arange(count, dtype="float32")
    return (low * (size - 1))[..., None] + steps * scale[..., None]


def _bin_grid(low, high, size, image_size, count):
    """ROIAlign positions in cells, (..., count): the middles of `count` equal parts of the box.

    Outside the outermost cell centres the border value counts, as in the paper's code.
    """
    image_size = ops.cast(image_size, "float32")
    low_px, high_px = low * (image_size - 1), high * (image_size - 1) + 1
    low, high = low_px * size / image_size, high_px * size / image_size
    steps = (ops.arange(count, dtype="float32") + 0.5) / count
    grid = low[..., None] + steps * (high - low)[..., None] - 0.5
    return ops.clip(grid, 0.0, size[..., None] - 1)


def _bilinear(ys, xs, height, width):
    """Interpolation between the four cells around each position.

    Args:
        ys, xs: (B, R, h) and (B, R, w) float32 positions.
        height, width: (B, R) float32 sizes that bound them.

    Returns:
        rows: (4, B, R, h) int32, and columns, (4, B, R, w): those of the four cells.
        combine: function of their values (4, B, R, h, w, C) -> (B, R, h, w, C).
    """
    last_y, last_x = height[..., None] - 1, width[..., None] - 1
    inside_y = (ys >= -EDGE_TOLERANCE) & (ys <= last_y + EDGE_TOLERANCE)
    inside_x = (xs >= -EDGE_TOLERANCE) & (xs <= last_x + EDGE_TOLERANCE)
    inside = inside_y[..., :, None] & inside_x[..., None, :]  # (B, R, h, w)
    ys, xs = ops.clip(ys, 0.0, last_y), ops.clip(xs, 0.0, last_x)
    top, left = ops.floor(ys), ops.floor(xs)
    bottom, right = ops.minimum(top + 1, last_y), ops.minimum(left + 1, last_x)
    rows = ops.cast(ops.stack([top, top, bottom, bottom]), "int32")
    columns = ops.cast(ops.stack([left, right, left, right]), "int32")

    def combine(values):
        weight_y = ops.cast(ys - top, values.dtype)[..., :, None, None]
        weight_x = ops.cast(xs - left, values.dtype)[..., None, :, None]
        upper = values[0] + (values[1] - values[0]) * weight_x
        lower = values[2] + (values[3] - values[2]) * weight_x
        values = upper + (lower - upper) * weight_y
        return ops.where(inside[..., None], values, ops.zeros_like(values))

    return rows, columns, combine
