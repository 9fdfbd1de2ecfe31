"""AP, recall and matching: the goldens, and cases that can be counted by hand."""

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrcnn_parallel.training import metrics
from tests.helpers import golden, unpack

GOLDEN = golden("utils")
ARGUMENTS = (
    GOLDEN["match_gt_boxes"],
    GOLDEN["match_gt_ids"],
    unpack(GOLDEN, "masks", GOLDEN["masks_shape"])[..., :5],
    GOLDEN["match_pred_boxes"],
    GOLDEN["match_pred_ids"],
    GOLDEN["match_pred_scores"],
    unpack(GOLDEN, "pred_masks", GOLDEN["pred_masks_shape"]),
)


@pytest.mark.parametrize("percent", [50, 75])
def test_matches_and_ap_as_in_the_golden(percent):
    gt_match, pred_match, overlaps = metrics.compute_matches(*ARGUMENTS, percent / 100)
    np.testing.assert_array_equal(gt_match, GOLDEN[f"match{percent}_gt"])
    np.testing.assert_array_equal(pred_match, GOLDEN[f"match{percent}_pred"])
    np.testing.assert_array_equal(overlaps, GOLDEN[f"match{percent}_ov"])
    average, precisions, recalls, overlaps = metrics.compute_ap(*ARGUMENTS, percent / 100)
    assert average == GOLDEN[f"ap{percent}"]
    np.testing.assert_array_equal(precisions, GOLDEN[f"ap{percent}_prec"])
    np.testing.assert_array_equal(recalls, GOLDEN[f"ap{percent}_rec"])
    np.testing.assert_array_equal(overlaps, GOLDEN[f"match{percent}_ov"])


def test_ap_range_as_in_the_golden(caplog):
    with caplog.at_level(logging.INFO):
        assert metrics.compute_ap_range(*ARGUMENTS, verbose=0) == GOLDEN["ap_range"]
        assert not caplog.messages
        metrics.compute_ap_range(*ARGUMENTS, verbose=1)
    assert len(caplog.messages) == 11
    assert caplog.messages[0] == "AP @0.50: 0.667"
    assert caplog.messages[-1] == "AP @0.50-0.95: 0.496"


def test_ap_range_takes_thresholds_of_any_kind():
    expected = np.mean([metrics.compute_ap(*ARGUMENTS, t)[0] for t in (0.5, 0.75)])
    for thresholds in ([0.5, 0.75], (0.5, 0.75), np.array([0.5, 0.75])):
        assert metrics.compute_ap_range(*ARGUMENTS, thresholds, verbose=0) == expected


def test_recall_as_in_the_golden():
    recall, ids = metrics.compute_recall(ARGUMENTS[3], ARGUMENTS[0], 0.5)
    assert recall == GOLDEN["recall"]
    np.testing.assert_array_equal(ids, GOLDEN["recall_ids"])


def squares(*corners, side=10):
    """Boxes and masks of side x side squares in a 100 x 100 image."""
    boxes = np.array([(y, x, y + side, x + side) for y, x in corners]).reshape(-1, 4)
    masks = np.zeros((100, 100, len(corners)), bool)
    for i, (y, x) in enumerate(corners):
        masks[y : y + side, x : x + side, i] = True
    return boxes, masks


def evaluate(gt, gt_ids, pred, pred_ids, scores, threshold=0.5):
    (gt_boxes, gt_masks), (pred_boxes, pred_masks) = squares(*gt), squares(*pred)
    return metrics.compute_ap(
        gt_boxes,
        np.array(gt_ids),
        gt_masks,
        pred_boxes,
        np.array(pred_ids),
        np.array(scores, float),
        pred_masks,
        threshold,
    )


class TestByHand:
    def test_all_found(self):
        average, *_ = evaluate([(0, 0), (50, 50)], [1, 2], [(50, 50), (0, 0)], [2, 1], [0.9, 0.8])
        assert average == 1

    def test_half_found(self):
        average, *_ = evaluate([(0, 0), (50, 50)], [1, 2], [(0, 0)], [1], [0.9])
        assert average == 0.5

    def test_the_wrong_class_is_no_match(self):
        average, *_ = evaluate([(0, 0)], [1], [(0, 0)], [2], [0.9])
        assert average == 0

    def test_a_better_scored_false_alarm_halves_the_precision(self):
        average, precisions, _, _ = evaluate([(0, 0)], [1], [(0, 0), (50, 50)], [1, 1], [0.5, 0.9])
        assert average == 0.5
        np.testing.assert_array_equal(precisions, [0.5, 0.5, 0.5, 0])

    def test_a_worse_scored_false_alarm_costs_nothing(self):
        assert evaluate([(0, 0)], [1], [(0, 0), (50, 50)], [1, 1], [0.9, 0.5])[0] == 1

    def test_one_object_is_found_once(self):
        """Also the one that the best prediction found, which Matterport gives away twice."""
        (gt_boxes, gt_masks), (pred_boxes, pred_masks) = squares((0, 0)), squares((0, 0), (0, 1))
        gt_match, pred_match, _ = metrics.compute_matches(
            gt_boxes, [1], gt_masks, pred_boxes, [1, 1], np.array([0.9, 0.8]), pred_masks
        )
        assert gt_match.tolist() == [0]
        assert pred_match.tolist() == [0, -1]

    def test_a_taken_object_does_not_hide_the_next_best(self):
        pred_match = self.matches([(0, 0), (0, 3)], [(0, 0), (0, 1)])
        assert pred_match == [0, 1]

    def matches(self, gt, pred):
        (gt_boxes, gt_masks), (pred_boxes, pred_masks) = squares(*gt), squares(*pred)
        scores = -np.arange(len(pred))
        ids = np.ones(max(len(gt), len(pred)), int)
        return metrics.compute_matches(
            gt_boxes, ids, gt_masks, pred_boxes, ids[: len(pred)], scores, pred_masks
        )[1].tolist()

    def test_score_threshold_limits_the_overlap(self):
        (gt_boxes, gt_masks), (pred_boxes, pred_masks) = squares((0, 0)), squares((0, 2))  # 2/3
        for threshold, expected in ((0.0, 0), (0.6, 0), (0.7, -1)):
            _, pred_match, _ = metrics.compute_matches(
                gt_boxes, [1], gt_masks, pred_boxes, [1], np.ones(1), pred_masks, 0.5, threshold
            )
            assert pred_match.tolist() == [expected]

    def test_padding_is_cut_off(self):
        (gt_boxes, gt_masks), (pred_boxes, pred_masks) = squares((0, 0)), squares((0, 0))
        pad = np.zeros((3, 4), int)
        gt_match, pred_match, overlaps = metrics.compute_matches(
            np.concatenate([gt_boxes, pad]),
            np.array([1, 0, 0, 0]),
            np.concatenate([gt_masks, np.zeros((100, 100, 3), bool)], axis=2),
            np.concatenate([pred_boxes, pad]),
            np.array([1, 0, 0, 0]),
            np.array([0.9, 0, 0, 0]),
            np.concatenate([pred_masks, np.zeros((100, 100, 3), bool)], axis=2),
        )
        assert (gt_match.tolist(), pred_match.tolist(), overlaps.shape) == ([0], [0], (1, 1))

    def test_nothing_to_find(self):
        assert evaluate([], [], [], [], [])[0] == 1
        assert evaluate([], [], [(0, 0)], [1], [0.9])[0] == 0

    def test_nothing_found(self):
        assert evaluate([(0, 0)], [1], [], [], [])[0] == 0

    def test_recall_without_boxes(self):
        box, none = np.array([[0, 0, 5, 5]]), np.zeros((0, 4))
        assert metrics.compute_recall(none, box, 0.5)[0] == 0
        assert metrics.compute_recall(box, none, 0.5)[0] == 1


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**31), st.integers(1, 6), st.integers(0, 8))
def test_ap_is_the_area_under_the_monotonic_curve(seed, num_gt, num_pred):
    rng = np.random.default_rng(seed)
    gt = [tuple(rng.integers(0, 10, 2) * 9) for _ in range(num_gt)]
    pred = [tuple(rng.integers(0, 10, 2) * 9) for _ in range(num_pred)]
    gt_ids, pred_ids = rng.integers(1, 3, num_gt), rng.integers(1, 3, num_pred)
    scores = rng.permutation(num_pred)
    average, *_ = evaluate(gt, gt_ids, pred, pred_ids, scores)
    # Greedy, in order of the scores; then precision at every recall level, the best from there on.
    free, hits = list(range(num_gt)), []
    for i in np.argsort(-scores):
        found = [j for j in free if gt[j] == pred[i] and gt_ids[j] == pred_ids[i]]
        hits.append(bool(found))
        if found:
            free.remove(found[-1])
    precision = [sum(hits[: k + 1]) / (k + 1) for k in range(num_pred)]
    expected = sum(max(precision[k:]) / num_gt for k in range(num_pred) if hits[k])
    assert average == pytest.approx(expected, abs=1e-6)
