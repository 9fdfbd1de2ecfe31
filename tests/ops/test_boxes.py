"""Box arithmetic: properties that hold for all boxes, under any dtype policy."""

import keras
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mrcnn_parallel.data import geometry
from mrcnn_parallel.ops import boxes as box_ops

coordinate = st.floats(0, 1, width=32, allow_subnormal=False)  # engines flush subnormals to 0


@st.composite
def box_arrays(draw, max_count=8):
    """(N, 4) float32 normalised boxes with sides of at least 0.01."""
    count = draw(st.integers(1, max_count))
    corners = draw(
        hnp.arrays(
            np.float32, (count, 2), elements=st.floats(0, 0.5, width=32, allow_subnormal=False)
        )
    )
    sides = draw(hnp.arrays(np.float32, (count, 2), elements=st.floats(0.015625, 0.5, width=32)))
    return np.concatenate([corners, corners + sides], axis=1)


@settings(max_examples=50, deadline=None)
@given(box_arrays(), st.integers(0, 1000))
def test_deltas_undo_themselves(boxes, seed):
    rng = np.random.default_rng(seed)
    corners = rng.random((len(boxes), 2)) * 0.5
    targets = np.concatenate([corners, corners + 0.05 + rng.random((len(boxes), 2)) * 0.4], 1)
    deltas = box_ops.deltas_between(boxes, targets.astype(np.float32))
    moved = np.asarray(box_ops.apply_deltas(boxes, deltas))
    np.testing.assert_allclose(moved, targets, atol=1e-4)


@settings(max_examples=50, deadline=None)
@given(box_arrays(), box_arrays())
def test_iou_equals_numpy_and_is_symmetric(a, b):
    ours = np.asarray(box_ops.pairwise_iou(a, b))
    np.testing.assert_allclose(ours, geometry.compute_overlaps(a, b), atol=1e-5)
    np.testing.assert_allclose(ours, np.asarray(box_ops.pairwise_iou(b, a)).T, atol=1e-6)
    assert (ours >= 0).all() and (ours <= 1 + 1e-6).all()
    np.testing.assert_allclose(np.diag(np.asarray(box_ops.pairwise_iou(a, a))), 1, atol=1e-5)


@settings(max_examples=50, deadline=None)
@given(box_arrays(), coordinate, coordinate)
def test_clipped_boxes_lie_in_the_window(boxes, top, left):
    window = np.float32([min(top, 0.9), min(left, 0.9), 0.95, 0.95])
    clipped = np.asarray(box_ops.clip(boxes * 2 - 0.5, window))
    assert (clipped >= np.tile(window[:2], 2)).all() and (clipped <= np.tile(window[2:], 2)).all()


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 64), st.integers(2, 64), st.integers(0, 1000))
def test_pixels_survive_normalising(rows, columns, seed):
    rng = np.random.default_rng(seed)
    boxes = rng.integers(0, 1024, (5, 4)).astype(np.float32)
    shape = (16 * rows, 16 * columns)
    back = box_ops.denormalize(box_ops.normalize(boxes, shape), shape)
    np.testing.assert_array_equal(np.asarray(back), boxes)


def test_empty_boxes_give_no_infinities():
    zero = np.zeros((2, 4), np.float32)
    box = np.float32([[0.1, 0.1, 0.5, 0.5]] * 2)
    for a, b in ((zero, box), (box, zero), (zero, zero)):
        np.testing.assert_array_equal(np.asarray(box_ops.deltas_between(a, b)), 0)
        np.testing.assert_array_equal(np.asarray(box_ops.pairwise_iou(a, b)), 0)


def test_huge_deltas_stay_finite():
    box, deltas = np.float32([[0, 0, 1, 1]]), np.float32([[0, 0, 1e4, 1e4]])
    assert np.isfinite(np.asarray(box_ops.apply_deltas(box, deltas))).all()


def test_layers_keep_boxes_in_float32_under_mixed_precision():
    """bfloat16 would turn 1023 into 1024 and 517.5 into 516."""
    from mrcnn_parallel.layers.anchors import NormalizeBoxes

    keras.config.set_dtype_policy("mixed_bfloat16")
    boxes = np.float32([[[0, 517.5, 517.5, 1023]]])
    normalised = np.asarray(NormalizeBoxes((1024, 1024))(boxes))
    assert normalised.dtype == np.float32
    np.testing.assert_allclose(normalised[0, 0], [0, 517.5 / 1023, 516.5 / 1023, 1022 / 1023])
