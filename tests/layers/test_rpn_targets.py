"""RPN targets on the device against the NumPy ones, which are checked against the goldens."""

import numpy as np
import pytest

from mrcnn_parallel.config import Config
from mrcnn_parallel.data.geometry import compute_overlaps
from mrcnn_parallel.data.targets import build_rpn_targets
from mrcnn_parallel.layers.rpn_targets import RPNTargetLayer, match_anchors
from mrcnn_parallel.ops.anchors import image_anchors_px
from tests.helpers import compiled


def scene(seed, crowd=False, objects=5, rows=8):
    rng = np.random.default_rng(seed)
    boxes = np.zeros((rows, 4), np.float32)
    corners = rng.integers(0, 70, (objects, 2))
    boxes[:objects] = np.concatenate([corners, corners + rng.integers(8, 56, (objects, 2))], 1)
    class_ids = np.zeros(rows, np.int32)
    class_ids[:objects] = rng.integers(1, 4, objects)
    if crowd and objects:
        class_ids[objects - 1] = -1
    return class_ids, boxes


@pytest.mark.parametrize("crowd", [False, True])
def test_equals_numpy(crowd):
    config = Config(
        NUM_CLASSES=4,
        IMAGE_MIN_DIM=128,
        IMAGE_MAX_DIM=128,
        RPN_ANCHOR_SCALES=(8, 16, 32, 64, 128),
        RPN_TRAIN_ANCHORS_PER_IMAGE=8000,  # all of them: nothing is left to chance
        RANDOM_SAMPLING=False,
    )
    anchors = image_anchors_px(config, config.IMAGE_SHAPE)
    class_ids, boxes = (np.stack(x) for x in zip(*(scene(s, crowd) for s in range(4)), strict=True))
    layer = RPNTargetLayer(config)
    match, deltas = compiled(
        lambda *x: layer(list(x)), anchors.astype(np.float32), class_ids, boxes
    )
    for image in range(4):
        real = class_ids[image] != 0
        expected_match, expected_deltas = build_rpn_targets(
            config.IMAGE_SHAPE, anchors, class_ids[image][real], boxes[image][real], config
        )
        np.testing.assert_array_equal(match[image, :, 0], expected_match)
        count = (expected_match == 1).sum()
        assert count > 0
        np.testing.assert_allclose(deltas[image, :count], expected_deltas[:count], atol=1e-4)
        assert not deltas[image, count:].any()


# They are matched ten at a time: here in none, in one part, in three of four, in three that overlap
@pytest.mark.parametrize(("objects", "rows"), [(0, 8), (10, 40), (21, 40), (23, 23)])
def test_many_objects_are_matched_in_parts(objects, rows):
    config = Config(IMAGE_MIN_DIM=128, IMAGE_MAX_DIM=128, RPN_ANCHOR_SCALES=(8, 16, 32, 64, 128))
    anchors = image_anchors_px(config, config.IMAGE_SHAPE)
    scenes = [scene(seed, objects > 1, max(objects - seed, 0), rows) for seed in range(4)]
    class_ids, boxes = (np.stack(x) for x in zip(*scenes, strict=True))
    found = compiled(match_anchors, anchors.astype(np.float32), class_ids, boxes)
    for image in range(4):
        iou = compute_overlaps(anchors, boxes[image].astype(np.float64))  # (N, G)
        of_objects = iou * (class_ids[image] > 0)
        best = of_objects.max(axis=0)
        is_best = ((best > 0) & (of_objects >= best * (1 - 1e-6))).any(axis=1)
        positive = (of_objects.max(axis=1) >= 0.7) | is_best
        on_crowd = (iou * (class_ids[image] < 0)).max(axis=1) >= 0.001
        negative = (of_objects.max(axis=1) < 0.3) & ~on_crowd & ~positive
        np.testing.assert_array_equal(found[0][image], positive)
        np.testing.assert_array_equal(found[1][image], negative)


def test_samples_half_positive_at_most():
    config = Config(
        NUM_CLASSES=4,
        IMAGE_MIN_DIM=128,
        IMAGE_MAX_DIM=128,
        RPN_ANCHOR_SCALES=(8, 16, 32, 64, 128),
        RPN_TRAIN_ANCHORS_PER_IMAGE=16,
        SEED=3,
    )
    anchors = image_anchors_px(config, config.IMAGE_SHAPE).astype(np.float32)
    class_ids, boxes = (np.stack(x) for x in zip(*(scene(s) for s in range(6)), strict=True))
    layer = RPNTargetLayer(config)
    first, _ = (np.asarray(x) for x in layer([anchors, class_ids, boxes]))
    second, _ = (np.asarray(x) for x in layer([anchors, class_ids, boxes]))
    for match in (first, second):
        assert ((match == 1).sum(axis=1) <= 8).all()
        np.testing.assert_array_equal((match != 0).sum(axis=1), 16)
    assert (first != second).any()


def test_an_image_without_objects_is_all_background():
    config = Config(NUM_CLASSES=2, IMAGE_MIN_DIM=64, IMAGE_MAX_DIM=64, RANDOM_SAMPLING=False)
    anchors = image_anchors_px(config, config.IMAGE_SHAPE).astype(np.float32)
    match, deltas = RPNTargetLayer(config)(
        [anchors, np.zeros((1, 3), np.int32), np.zeros((1, 3, 4), np.float32)]
    )
    match = np.asarray(match)
    assert (match == -1).sum() == 256 and not (match == 1).any()
    assert not np.asarray(deltas).any()
