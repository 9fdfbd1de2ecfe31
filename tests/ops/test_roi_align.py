"""ROI sampling against loops over every cell."""

import math

import numpy as np
import pytest

from mrcnn_parallel.ops import roi_align
from tests.helpers import compiled

SHAPE = (128.0, 128.0)


def bilinear(image, y, x):
    """Value at (y, x), clamped to the image."""
    y, x = min(max(y, 0), image.shape[0] - 1), min(max(x, 0), image.shape[1] - 1)
    top, left = math.floor(y), math.floor(x)
    bottom, right = min(top + 1, image.shape[0] - 1), min(left + 1, image.shape[1] - 1)
    upper = image[top, left] * (1 - x + left) + image[top, right] * (x - left)
    lower = image[bottom, left] * (1 - x + left) + image[bottom, right] * (x - left)
    return upper * (1 - y + top) + lower * (y - top)


def naive(maps, box, size, sampling):
    y1, x1, y2, x2 = (float(v) for v in box)
    side = math.sqrt(max((y2 - y1) * (x2 - x1), 1e-12) * SHAPE[0] * SHAPE[1])
    level = min(max(4 + round(math.log2(side / 224)), 2), 5) - 2
    image = maps[level].astype(np.float64)
    height, width = image.shape[:2]
    out = np.zeros((size, size, image.shape[2]))
    for i in range(size):
        for j in range(size):
            if sampling == "crop_and_resize":
                y = y1 * (height - 1) + i * (y2 - y1) * (height - 1) / (size - 1)
                x = x1 * (width - 1) + j * (x2 - x1) * (width - 1) / (size - 1)
                out[i, j] = bilinear(image, y, x)
                continue
            for di in (0.25, 0.75):
                for dj in (0.25, 0.75):
                    ys = np.array([y1 * 127, y2 * 127 + 1]) * height / 128
                    xs = np.array([x1 * 127, x2 * 127 + 1]) * width / 128
                    y = ys[0] + (i + di) / size * (ys[1] - ys[0]) - 0.5
                    x = xs[0] + (j + dj) / size * (xs[1] - xs[0]) - 0.5
                    out[i, j] += bilinear(image, y, x) / 4
    return out


def inputs(seed=0, rois=9):
    rng = np.random.default_rng(seed)
    maps = [rng.normal(size=(2, s, s, 3)).astype(np.float32) for s in (32, 16, 8, 4)]
    corners = rng.random((2, rois, 2)) * 0.6
    boxes = np.concatenate([corners, corners + 0.02 + rng.random((2, rois, 2)) * 0.38], -1)
    return maps, boxes.astype(np.float32)


@pytest.mark.parametrize("sampling", ["crop_and_resize", "roi_align"])
def test_equals_loops(sampling):
    maps, boxes = inputs()
    pooled = compiled(
        lambda m, b: roi_align.pyramid_roi_align(m, b, (5, 5), SHAPE, sampling), maps, boxes
    )
    for image in range(2):
        for roi in range(boxes.shape[1]):
            expected = naive([m[image] for m in maps], boxes[image, roi], 5, sampling)
            np.testing.assert_allclose(pooled[image, roi], expected, atol=2e-5)


def test_a_constant_map_gives_that_constant():
    _, boxes = inputs()
    maps = [np.full((2, s, s, 1), 3.5, np.float32) for s in (32, 16, 8, 4)]
    for sampling in ("crop_and_resize", "roi_align"):
        pooled = roi_align.pyramid_roi_align(maps, boxes, (4, 4), SHAPE, sampling)
        np.testing.assert_allclose(np.asarray(pooled), 3.5, rtol=1e-6)


def test_padding_samples_the_first_cell_of_the_finest_level():
    maps, boxes = inputs()
    boxes[:, 4:] = 0
    pooled = np.asarray(roi_align.pyramid_roi_align(maps, boxes, (3, 3), SHAPE))
    for image in range(2):
        expected = np.broadcast_to(maps[0][image, 0, 0], pooled[image, 4:].shape)
        np.testing.assert_array_equal(pooled[image, 4:], expected)


def test_gradient_sums_over_all_samples_of_a_cell():
    """Of the sum of the pooled values, each map's gradient is the sum of its samples' weights."""
    import keras

    maps, boxes = inputs()
    boxes[:, 6:] = 0

    if keras.backend.backend() == "jax":
        import jax

        gradient = jax.grad(lambda m: roi_align.pyramid_roi_align(m, boxes, (5, 5), SHAPE).sum())(
            maps
        )
    else:
        import tensorflow as tf

        tensors = [tf.convert_to_tensor(m) for m in maps]
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            total = tf.reduce_sum(roi_align.pyramid_roi_align(tensors, boxes, (5, 5), SHAPE))
        gradient = tape.gradient(total, tensors)
    gradient = [np.asarray(g) for g in gradient]
    # The pooled values are linear in the maps, so their sum is <gradient, maps>.
    pooled = np.asarray(roi_align.pyramid_roi_align(maps, boxes, (5, 5), SHAPE))
    inner = sum(float((g * m).sum()) for g, m in zip(gradient, maps, strict=True))
    np.testing.assert_allclose(inner, pooled.sum(), rtol=1e-4, atol=1e-3)
    # And each of the 9 x 25 samples of 2 images and 3 channels has weights that sum to 1.
    np.testing.assert_allclose(sum(g.sum() for g in gradient), 2 * 9 * 25 * 3, rtol=1e-5)
    # The padding's share is all in the first cell.
    assert gradient[0][:, 0, 0].min() >= 3 * 25


def test_masks_are_cut_as_loops_cut_them():
    rng = np.random.default_rng(0)
    masks = (rng.random((2, 3, 12, 10)) > 0.5).astype(np.float32)
    corners = rng.random((2, 3, 2)) * 0.5
    boxes = np.concatenate([corners, corners + 0.45], -1).astype(np.float32)
    cut = np.asarray(roi_align.crop_and_resize_masks(masks, boxes, (6, 6)))
    for image in range(2):
        for k in range(3):
            y1, x1, y2, x2 = boxes[image, k].astype(float)
            for i in range(6):
                for j in range(6):
                    y, x = (y1 + i * (y2 - y1) / 5) * 11, (x1 + j * (x2 - x1) / 5) * 9
                    expected = bilinear(masks[image, k][..., None], y, x)[0]
                    np.testing.assert_allclose(cut[image, k, i, j], expected, atol=1e-5)


def test_outside_of_a_mask_is_zero():
    masks = np.ones((1, 1, 8, 8), np.float32)
    boxes = np.float32([[[-0.5, -0.5, 1.5, 1.5]]])
    cut = np.asarray(roi_align.crop_and_resize_masks(masks, boxes, (5, 5)))[0, 0]
    np.testing.assert_array_equal(cut[[0, -1]], 0)
    np.testing.assert_array_equal(cut[1:-1, 1:-1], 1)
