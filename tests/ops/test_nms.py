"""NMS against a brute-force greedy one, at every kind of scene and any threshold."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrcnn_parallel.ops import nms
from tests.helpers import compiled


def iou(a, b):
    height = max(min(a[2], b[2]) - max(a[0], b[0]), 0)
    width = max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - height * width
    return height * width / union if union > 0 else 0.0


def greedy(boxes, threshold, valid=None, class_ids=None):
    """Indices kept, for boxes sorted by falling score: one box after another."""
    kept = []
    for j, box in enumerate(boxes):
        if valid is not None and not valid[j]:
            continue
        rivals = [i for i in kept if class_ids is None or class_ids[i] == class_ids[j]]
        if all(iou(boxes[i], box) <= threshold for i in rivals):
            kept.append(j)
    return kept


def scenes(kind, count, batch=3, seed=0):
    """(batch, count, 4) float32 boxes whose coordinates are multiples of 1/64, so IoU is exact."""
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 40, (batch, count, 2))
    sides = rng.integers(1, 24, (batch, count, 2))
    if kind == "clusters":  # long chains of boxes that suppress each other
        corners = rng.integers(0, 6, (batch, count, 2)) + 10 * rng.integers(0, 3, (batch, count, 1))
        sides = rng.integers(8, 14, (batch, count, 2))
    if kind == "empty":  # some boxes have no area
        sides = sides * rng.integers(0, 2, (batch, count, 1))
    boxes = np.concatenate([corners, corners + sides], axis=-1) / 64
    if kind == "zeros":
        boxes[:, ::3] = 0
    if kind == "equal":
        boxes[:, 1::2] = boxes[:, ::2][:, : boxes[:, 1::2].shape[1]]
    return boxes.astype(np.float32)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("kind", ["random", "clusters", "empty", "zeros", "equal"])
def test_equals_greedy(kind, threshold):
    boxes = scenes(kind, 70, batch=12)
    keep = compiled(lambda b: nms.greedy_keep(b, threshold, tile=32), boxes)
    for image in range(len(boxes)):
        expected = greedy(boxes[image].astype(np.float64), threshold)
        assert list(np.flatnonzero(keep[image])) == expected


@pytest.mark.parametrize("tile", [1, 7, 64, 1000])
def test_tile_size_changes_nothing(tile):
    boxes = scenes("clusters", 50)
    keep = compiled(lambda b: nms.greedy_keep(b, 0.4, tile=tile), boxes)
    for image in range(len(boxes)):
        assert list(np.flatnonzero(keep[image])) == greedy(boxes[image].astype(np.float64), 0.4)


def test_a_chain_as_long_as_the_tile():
    """Box i overlaps only box i + 1 by more than the threshold: every second one stays."""
    left = np.arange(40) * 3
    boxes = np.stack([0 * left, left, 0 * left + 8, left + 8], axis=1)[None].astype(np.float32) / 64
    keep = compiled(lambda b: nms.greedy_keep(b, 0.4, tile=64), boxes)
    np.testing.assert_array_equal(keep[0], np.arange(40) % 2 == 0)


def test_classes_do_not_suppress_each_other():
    boxes = scenes("clusters", 60)
    class_ids = np.random.default_rng(1).integers(1, 4, boxes.shape[:2]).astype(np.int32)
    valid = np.random.default_rng(2).random(boxes.shape[:2]) > 0.2
    keep = compiled(
        lambda b, v, c: nms.greedy_keep(b, 0.3, valid=v, class_ids=c, tile=25),
        boxes,
        valid,
        class_ids,
    )
    for image in range(len(boxes)):
        expected = greedy(boxes[image].astype(np.float64), 0.3, valid[image], class_ids[image])
        assert list(np.flatnonzero(keep[image])) == expected


@pytest.mark.parametrize("count", [1, 5, 40, 90])
def test_indices_are_padded_and_in_order(count):
    boxes = scenes("random", 60)
    indices, found = compiled(lambda b: nms.non_max_suppression(b, 0.5, count), boxes)
    assert indices.shape == found.shape == (len(boxes), count)
    for image in range(len(boxes)):
        expected = greedy(boxes[image].astype(np.float64), 0.5)[:count]
        assert list(indices[image][found[image]]) == expected
        assert not indices[image][~found[image]].any()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.25, 0.5, 0.9]))
def test_no_kept_pair_overlaps_and_every_dropped_box_has_a_reason(seed, threshold):
    boxes = scenes("clusters" if seed % 2 else "random", 24, batch=1, seed=seed)
    keep = np.asarray(nms.greedy_keep(boxes, threshold, tile=10))[0]
    exact = boxes[0].astype(np.float64)
    for j in range(len(exact)):
        hit = any(keep[i] and iou(exact[i], exact[j]) > threshold for i in range(j))
        assert keep[j] == (not hit)
