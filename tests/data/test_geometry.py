"""Boxes: the golden numbers, brute-force references, and properties of random boxes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mrcnn_parallel.data import geometry
from tests.helpers import golden, unpack

GOLDEN = golden("utils")


@st.composite
def boxes_px(draw, most=8, size=64):
    """(N, 4) int boxes inside a size x size image, some of them empty."""
    corners = draw(
        hnp.arrays(
            np.int64, st.tuples(st.integers(0, most), st.just(4)), elements=st.integers(0, size)
        )
    )
    y, x = np.sort(corners[:, ::2], axis=1), np.sort(corners[:, 1::2], axis=1)
    return np.stack([y[:, 0], x[:, 0], y[:, 1], x[:, 1]], axis=1)


def painted(box, size=64):
    """The box as a mask of pixels."""
    mask = np.zeros((size, size), bool)
    mask[box[0] : box[2], box[1] : box[3]] = True
    return mask


def greedy_nms(boxes, scores, threshold):
    """Non-maximum suppression as in the textbook, one pair at a time."""
    left = sorted(range(len(boxes)), key=lambda i: (-scores[i], -i))
    keep = []
    while left:
        best = left.pop(0)
        keep.append(best)
        left = [i for i in left if pixel_iou(boxes[best], boxes[i]) <= threshold]
    return keep


def pixel_iou(box1, box2):
    both, either = painted(box1) & painted(box2), painted(box1) | painted(box2)
    return both.sum() / either.sum() if either.any() else 0.0


class TestGoldens:
    def test_extract_bboxes(self):
        masks = unpack(GOLDEN, "masks", GOLDEN["masks_shape"])
        boxes = geometry.extract_bboxes(masks)
        assert boxes.dtype == np.int32
        np.testing.assert_array_equal(boxes, GOLDEN["extract_bboxes"])

    def test_overlaps(self):
        overlaps = geometry.compute_overlaps(GOLDEN["b1"], GOLDEN["b2"])
        np.testing.assert_array_equal(overlaps, GOLDEN["overlaps"])

    def test_overlaps_masks(self):
        masks = unpack(GOLDEN, "masks", GOLDEN["masks_shape"])[..., :5]
        pred_masks = unpack(GOLDEN, "pred_masks", GOLDEN["pred_masks_shape"])
        overlaps = geometry.compute_overlaps_masks(pred_masks, masks)
        assert overlaps.dtype == np.float32
        np.testing.assert_array_equal(overlaps, GOLDEN["overlaps_masks"])

    def test_non_max_suppression(self):
        keep = geometry.non_max_suppression(GOLDEN["b1"], GOLDEN["nms_scores"], 0.3)
        assert keep.dtype == np.int32
        np.testing.assert_array_equal(keep, GOLDEN["nms"])

    def test_apply_box_deltas(self):
        boxes = geometry.apply_box_deltas(GOLDEN["b1"], GOLDEN["apply_box_deltas_in"])
        assert boxes.dtype == np.float32
        np.testing.assert_array_equal(boxes, GOLDEN["apply_box_deltas"])

    def test_box_refinement(self):
        deltas = geometry.box_refinement(GOLDEN["b1"][:15], GOLDEN["b2"])
        assert deltas.dtype == np.float32
        np.testing.assert_array_equal(deltas, GOLDEN["box_refinement"])

    def test_norm_and_denorm_boxes(self):
        norm = geometry.norm_boxes(GOLDEN["b1"], (300, 400))
        np.testing.assert_array_equal(norm, GOLDEN["norm_boxes"])
        pixels = geometry.denorm_boxes(GOLDEN["b1"] / 200, (300, 400))
        np.testing.assert_array_equal(pixels, GOLDEN["denorm_boxes"])

    def test_trim_zeros(self):
        padded = np.concatenate([GOLDEN["trim_zeros"], np.zeros((3, 4), np.int64)])
        np.testing.assert_array_equal(geometry.trim_zeros(padded), GOLDEN["trim_zeros"])


@given(boxes_px())
def test_a_mask_painted_from_a_box_has_that_box(boxes):
    mask = (
        np.stack([painted(box) for box in boxes], axis=-1) if len(boxes) else np.zeros((64, 64, 0))
    )
    area = geometry.box_areas(boxes)
    np.testing.assert_array_equal(
        geometry.extract_bboxes(mask), np.where(area[:, None] > 0, boxes, 0)
    )


@given(hnp.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(0, 4))))
def test_extract_bboxes_equals_the_pixels_extremes(mask):
    for i, box in enumerate(geometry.extract_bboxes(mask)):
        y, x = np.nonzero(mask[:, :, i])
        expected = (y.min(), x.min(), y.max() + 1, x.max() + 1) if len(y) else (0, 0, 0, 0)
        assert tuple(box) == expected


@settings(deadline=None)
@given(boxes_px(most=4), boxes_px(most=4))
def test_overlaps_equal_counted_pixels(boxes1, boxes2):
    expected = [[pixel_iou(a, b) for b in boxes2] for a in boxes1]
    expected = np.reshape(expected, (len(boxes1), len(boxes2)))
    np.testing.assert_allclose(geometry.compute_overlaps(boxes1, boxes2), expected, atol=1e-12)
    masks1, masks2 = (
        np.stack([painted(box) for box in boxes] or [np.zeros((64, 64))], axis=-1)[
            ..., : len(boxes)
        ]
        for boxes in (boxes1, boxes2)
    )
    from_masks = geometry.compute_overlaps_masks(masks1, masks2)
    np.testing.assert_allclose(from_masks, expected, atol=1e-6)


@settings(deadline=None)
@given(boxes_px(), st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0]), st.data())
def test_nms_equals_the_textbook(boxes, threshold, data):
    # Few different scores, so that ties are common.
    scores = np.array([data.draw(st.integers(0, 3)) / 4 for _ in boxes])
    keep = geometry.non_max_suppression(boxes, scores, threshold)
    assert keep.tolist() == greedy_nms(boxes, scores, threshold)


@given(boxes_px(most=5), boxes_px(most=5))
def test_deltas_undo_their_refinement(boxes, gt_boxes):
    count = min(len(boxes), len(gt_boxes))
    solid = lambda b: b + np.array([0, 0, 1, 1])  # noqa: E731 - boxes without area have no deltas
    boxes, gt_boxes = solid(boxes[:count]), solid(gt_boxes[:count])
    deltas = geometry.box_refinement(boxes, gt_boxes)
    np.testing.assert_allclose(geometry.apply_box_deltas(boxes, deltas), gt_boxes, atol=2e-3)


@given(boxes_px(), st.integers(2, 2000), st.integers(2, 2000))
def test_denorm_undoes_norm(boxes, height, width):
    norm = geometry.norm_boxes(boxes, (height, width))
    assert norm.dtype == np.float32
    np.testing.assert_array_equal(geometry.denorm_boxes(norm, (height, width)), boxes)


def test_the_whole_image_is_zero_to_one():
    norm = geometry.norm_boxes(np.array([[0, 0, 480, 640]]), (480, 640))
    np.testing.assert_array_equal(norm, [[0, 0, 1, 1]])


def test_two_empty_boxes_do_not_overlap():
    empty = np.zeros((1, 4))
    assert geometry.compute_overlaps(empty, empty) == 0
    assert geometry.compute_overlaps_masks(np.zeros((4, 4, 1)), np.zeros((4, 4, 1))) == 0


def test_trim_zeros_refuses_a_vector():
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        geometry.trim_zeros(np.zeros(3))


@pytest.mark.parametrize(
    "box",
    [(-1, 0, 5, 5), (0, 0, 11, 5), (0, 0, 5, 21), (6, 0, 5, 5), (0, np.nan, 5, 5)],
)
def test_check_boxes_shows_the_box_that_is_outside(box):
    boxes = np.array([(0, 0, 10, 20), box])
    with pytest.raises(ValueError, match=r"gt: box 1 .* is not inside the image of 10 x 20 pixels"):
        geometry.check_boxes(boxes, (10, 20, 3), "gt")
    geometry.check_boxes(boxes[:1], (10, 20, 3), "gt")


def test_check_boxes_refuses_another_shape():
    with pytest.raises(ValueError, match=r"expected boxes of shape \(N, 4\), got \(3, 5\)"):
        geometry.check_boxes(np.zeros((3, 5)), (10, 10))
