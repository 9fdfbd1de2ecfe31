"""Selecting without sorting, against sorting."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from keras import ops

from mrcnn_parallel import backend
from mrcnn_parallel.ops import selection
from tests.helpers import compiled


def test_first_true():
    mask = np.array([[0, 1, 0, 1, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]], dtype=bool)
    indices, found = compiled(lambda m: selection.first_true(m, 3), mask)
    np.testing.assert_array_equal(indices, [[1, 3, 4], [0, 0, 0], [0, 1, 2]])
    np.testing.assert_array_equal(found, [[1, 1, 1], [0, 0, 0], [1, 1, 1]])


@settings(max_examples=40, deadline=None)
@given(hnp.arrays(bool, st.tuples(st.just(2), st.integers(1, 70))), st.floats(0, 1))
def test_first_true_is_flatnonzero(mask, share):
    count = max(1, round(share * mask.shape[1]))
    indices, found = (np.asarray(x) for x in selection.first_true(mask, count))
    for row, positions, real in zip(mask, indices, found, strict=True):
        assert list(positions[real]) == list(np.flatnonzero(row)[:count])
        assert not positions[~real].any()


@pytest.mark.parametrize("kind", ["different", "few values", "equal", "tiny"])
@pytest.mark.parametrize("count", [1, 40, 125, 126, 500])
def test_top_k_by_counting_is_that_of_keras(kind, count, monkeypatch):
    monkeypatch.setattr(backend, "counts_faster_than_sorts", lambda: True)
    rng = np.random.default_rng(0)
    scores = rng.random((3, 500)).astype(np.float32)
    if kind == "few values":
        scores = np.round(scores * 8) / 8
    if kind == "equal":
        scores[:] = 0.5
        scores[1] = 0
    if kind == "tiny":  # neighbours: what rounding to fewer digits would make equal
        scores = np.float32(0.25) + rng.integers(0, 200, scores.shape) * np.float32(2**-25)
        scores = scores.astype(np.float32)
    values, indices = compiled(lambda x: selection.top_k(x, count), scores)
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    np.testing.assert_array_equal(indices, expected)
    np.testing.assert_array_equal(values, np.take_along_axis(scores, expected, 1))


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(np.int32, (2, 50), elements=st.integers(0, 2**31 - 1)), st.integers(1, 60))
def test_kth_largest(keys, count):
    found = ops.convert_to_numpy(selection.kth_largest(ops.convert_to_tensor(keys), count, 31))
    falling = -np.sort(-keys.astype(np.int64), axis=1)
    expected = falling[:, count - 1] if count <= 50 else [0, 0]
    np.testing.assert_array_equal(found[:, 0], expected)
