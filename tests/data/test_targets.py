"""Training targets: the goldens in Matterport's random order, brute force, and odd cases."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrcnn_parallel.config import Config
from mrcnn_parallel.data import targets
from mrcnn_parallel.data.geometry import apply_box_deltas, box_areas, compute_overlaps
from mrcnn_parallel.data.masks import minimize_mask
from mrcnn_parallel.ops.anchors import image_anchors_px
from tests.helpers import golden, unpack

GOLDEN = golden("utils")
BOXES = GOLDEN["match_gt_boxes"]
IDS = GOLDEN["match_gt_ids"].astype(np.int32)
MASKS = unpack(GOLDEN, "masks", GOLDEN["masks_shape"])[..., :5]


def config(**overrides):
    settings_of_the_goldens = {
        "NUM_CLASSES": 4,
        "IMAGE_MIN_DIM": 128,
        "IMAGE_MAX_DIM": 128,
        "RPN_ANCHOR_SCALES": (8, 16, 32, 64, 128),
        "RPN_TRAIN_ANCHORS_PER_IMAGE": 64,
        "TRAIN_ROIS_PER_IMAGE": 32,
        "MINI_MASK_SHAPE": (28, 28),
    }
    return Config(**{**settings_of_the_goldens, **overrides})


CONFIG = config()
ANCHORS = image_anchors_px(CONFIG, CONFIG.IMAGE_SHAPE)


class TestRPNTargets:
    @pytest.mark.parametrize("name", ["plain", "crowd"])
    def test_as_in_the_golden(self, name):
        np.random.seed(123)
        ids = GOLDEN[f"rpn_targets_{name}_ids"]
        match, deltas = targets.build_rpn_targets((128, 128, 3), ANCHORS, ids, BOXES, CONFIG)
        assert match.dtype == np.int32
        np.testing.assert_array_equal(match, GOLDEN[f"rpn_targets_{name}_match"])
        # A vector's logarithm may differ from a scalar's in the last bit.
        np.testing.assert_allclose(deltas, GOLDEN[f"rpn_targets_{name}_bbox"], rtol=1e-13)

    @settings(deadline=None, max_examples=25)
    @given(st.integers(0, 2**31), st.integers(1, 6), st.booleans())
    def test_equals_the_definition(self, seed, count, crowd):
        rng = np.random.default_rng(seed)
        boxes = random_boxes(rng, count)
        ids = rng.integers(1, 4, count)
        if crowd:
            ids[0] = -ids[0]
        big = config(RPN_TRAIN_ANCHORS_PER_IMAGE=20_000)  # nothing is sampled away
        match, deltas = targets.build_rpn_targets((128, 128), ANCHORS, ids, boxes, big, rng)

        gt_boxes = boxes[ids > 0]
        iou = compute_overlaps(ANCHORS, gt_boxes)
        touches_crowd = (compute_overlaps(ANCHORS, boxes[ids < 0]) >= 0.001).any(axis=1)
        for i in range(0, len(ANCHORS), 7):
            best = iou[i].max() if len(gt_boxes) else 0
            suits = any(iou[i, j] == iou[:, j].max() > 0 for j in range(len(gt_boxes)))
            if best >= 0.7 or suits:
                expected = 1
            else:
                expected = -1 if best < 0.3 and not touches_crowd[i] else 0
            assert match[i] == expected
        positive = np.flatnonzero(match == 1)
        moved = apply_box_deltas(ANCHORS[positive], deltas[: len(positive)] * big.RPN_BBOX_STD_DEV)
        if len(positive):
            np.testing.assert_allclose(moved, gt_boxes[iou[positive].argmax(axis=1)], atol=1e-3)
        assert not deltas[len(positive) :].any()

    @settings(deadline=None, max_examples=25)
    @given(st.integers(0, 2**31), st.integers(0, 6), st.sampled_from([2, 16, 256]))
    def test_counts(self, seed, count, limit):
        rng = np.random.default_rng(seed)
        boxes, ids = random_boxes(rng, count), rng.integers(1, 4, count)
        sampled = config(RPN_TRAIN_ANCHORS_PER_IMAGE=limit)
        match, deltas = targets.build_rpn_targets((128, 128), ANCHORS, ids, boxes, sampled, rng)
        assert (match == 1).sum() <= limit // 2
        assert (match != 0).sum() == limit
        assert deltas.shape == (limit, 4)

    def test_an_image_without_instances_is_background(self):
        none = np.zeros((0, 4), np.int32)
        match, deltas = targets.build_rpn_targets((128, 128), ANCHORS, IDS[:0], none, CONFIG)
        assert (match == 1).sum() == 0
        assert (match == -1).sum() == 64
        assert not deltas.any()

    def test_an_instance_that_no_anchor_touches_matches_none(self):
        far = ANCHORS + 1000
        match, deltas = targets.build_rpn_targets((128, 128), far, IDS, BOXES, CONFIG)
        assert (match == 1).sum() == 0
        assert not deltas.any()

    def test_the_generator_decides(self):
        def draw(seed):
            rng = np.random.default_rng(seed)
            return targets.build_rpn_targets((128, 128), ANCHORS, IDS, BOXES, CONFIG, rng)[0]

        np.testing.assert_array_equal(draw(1), draw(1))
        assert (draw(1) != draw(2)).any()

    def test_boxes_outside_are_refused(self):
        with pytest.raises(ValueError, match=r"build_rpn_targets: box 1 .* is not inside"):
            targets.build_rpn_targets((100, 128), ANCHORS, IDS, BOXES, CONFIG)


class TestDetectionTargets:
    def build(self, rois=GOLDEN["random_rois"], ids=IDS, boxes=BOXES, masks=None, **overrides):
        chosen = config(**overrides)
        if masks is None:
            masks = minimize_mask(boxes, MASKS[..., : len(boxes)], (28, 28))
        return targets.build_detection_targets(rois, ids, boxes, masks, chosen)

    def test_as_in_the_golden(self):
        np.random.seed(322)
        rois, class_ids, deltas, masks = self.build()
        np.testing.assert_array_equal(rois, GOLDEN["bdt_rois"])
        np.testing.assert_array_equal(class_ids, GOLDEN["bdt_class_ids"])
        assert deltas.dtype == GOLDEN["bdt_bboxes"].dtype
        np.testing.assert_array_equal(deltas, GOLDEN["bdt_bboxes"])
        expected = unpack(GOLDEN, "bdt_masks", (32, 28, 28, 4))  # where the mask is not 0
        np.testing.assert_array_equal(masks > 0, expected)
        assert masks.max() <= 1

    def test_full_masks_give_almost_the_same_as_mini_masks(self):
        np.random.seed(322)
        *_, from_mini = self.build()
        np.random.seed(322)
        *_, from_full = self.build(masks=MASKS, USE_MINI_MASK=False)
        assert from_mini.any()
        assert np.abs(from_mini - from_full).mean() < 1e-3

    @settings(deadline=None, max_examples=25)
    @given(st.integers(0, 2**31), st.integers(1, 5))
    def test_equals_the_definition(self, seed, count):
        rng = np.random.default_rng(seed)
        boxes, ids = BOXES[:count], IDS[:count]
        near = np.repeat(boxes, 8, axis=0) + rng.integers(-6, 7, (8 * count, 4))
        near = np.clip(near, 0, 128)
        near = near[(near[:, 2:] > near[:, :2]).all(axis=1)]
        rois = np.concatenate([near, random_boxes(rng, 60)]).astype(np.int32)
        kept, class_ids, deltas, masks = self.build(rois, ids, boxes)
        iou = compute_overlaps(kept, boxes)
        positive = class_ids > 0
        np.testing.assert_array_equal(positive, iou.max(axis=1) > 0.5)
        assert positive.sum() <= int(32 * 0.33)
        assert (positive[:-1] >= positive[1:]).all()  # positive ones first
        np.testing.assert_array_equal(class_ids[positive], ids[iou.argmax(axis=1)[positive]])
        for i in range(32):
            others = np.arange(4) != class_ids[i]
            assert not deltas[i, others].any() and not masks[i, ..., others].any()
        own = deltas[positive, class_ids[positive]] * CONFIG.BBOX_STD_DEV
        if positive.any():
            moved = apply_box_deltas(kept[positive], own)
            np.testing.assert_allclose(moved, boxes[iou.argmax(axis=1)[positive]], atol=1e-2)

    def test_without_instances_everything_is_background(self):
        none = np.zeros((0, 4), np.int32)
        rois, class_ids, deltas, masks = self.build(
            ids=IDS[:0], boxes=none, masks=np.zeros((28, 28, 0), bool)
        )
        assert len(rois) == 32
        assert not class_ids.any() and not deltas.any() and not masks.any()

    def test_crowds_are_left_out(self):
        crowd = IDS.copy()
        crowd[1] = -2  # the box that is the whole image
        _, class_ids, *_ = self.build(np.array([[0, 0, 128, 128]] * 40), crowd)
        assert not class_ids.any()

    def test_only_positive_rois_are_repeated(self):
        _, class_ids, deltas, _ = self.build(np.array([[0, 0, 128, 128]] * 3))
        assert (class_ids == IDS[1]).all()
        assert not deltas.any()

    def test_no_rois_and_boxes_outside_are_refused(self):
        with pytest.raises(ValueError, match="needs at least one ROI"):
            self.build(np.zeros((0, 4), np.int32))
        with pytest.raises(ValueError, match=r"build_detection_targets: box 0 .* is not inside"):
            self.build(boxes=BOXES + 100, masks=np.ones((28, 28, 5), bool))


class TestRandomROIs:
    def test_as_in_the_golden(self):
        np.random.seed(321)
        rois = targets.generate_random_rois((128, 128, 3), 40, IDS, BOXES)
        assert rois.dtype == np.int32
        np.testing.assert_array_equal(rois, GOLDEN["random_rois"])

    @settings(deadline=None, max_examples=50)
    @given(st.integers(0, 2**31), st.integers(0, 6), st.sampled_from([1, 7, 40, 200]))
    def test_they_are_inside_with_area(self, seed, boxes, count):
        rng = np.random.default_rng(seed)
        gt_boxes = random_boxes(rng, boxes)
        rois = targets.generate_random_rois((128, 96), count, None, gt_boxes // [1, 2, 1, 2], rng)
        assert rois.shape == (count, 4)
        assert (box_areas(rois) > 0).all()
        assert (rois >= 0).all() and (rois <= [128, 96, 128, 96]).all()

    def test_most_lie_around_the_instance(self):
        box = np.array([[50, 50, 60, 60]])
        rois = targets.generate_random_rois((128, 128), 100, None, box)
        near = (rois >= 40).all(axis=1) & (rois <= 70).all(axis=1)
        assert near[:90].all()

    def test_a_box_without_room_does_not_hang(self):
        sliver = np.array([[0, 5, 0, 5]])  # no area: nothing can be drawn around it
        rois = targets.generate_random_rois((10, 10), 20, None, sliver)
        assert (box_areas(rois) > 0).all()

    def test_an_image_of_one_pixel_is_refused(self):
        with pytest.raises(ValueError, match="no random ROI with area fits an image of 1 x 1"):
            targets.generate_random_rois((1, 1), 20, None, np.zeros((0, 4)))


def random_boxes(rng, count):
    """(count, 4) int32 boxes of at least 4 pixels a side inside 128 x 128."""
    corner = rng.integers(0, 120, (count, 2))
    size = 4 + rng.integers(0, 60, (count, 2))
    return np.concatenate([corner, np.minimum(corner + size, 128)], axis=1).astype(np.int32)
