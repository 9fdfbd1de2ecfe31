"""Choosing candidates: never a wrong one, never too many, all of them alike."""

import keras
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mrcnn_parallel.ops import sampling


def test_the_first_candidates_without_a_seed():
    mask = np.array([[0, 1, 1, 0, 1, 1], [0, 0, 0, 0, 0, 1]], dtype=bool)
    priority = sampling.priorities(mask.shape)
    indices, chosen = (np.asarray(x) for x in sampling.choose(mask, priority, 3))
    np.testing.assert_array_equal(indices, [[1, 2, 4], [5, 0, 0]])
    np.testing.assert_array_equal(chosen, [[1, 1, 1], [1, 0, 0]])
    limited = np.asarray(sampling.choose_mask(mask, priority, np.int32([2, 0])))
    np.testing.assert_array_equal(limited, [[0, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0]])


def test_choices_are_candidates_and_equally_likely():
    mask = np.zeros((400, 10), dtype=bool)
    mask[:, [1, 3, 4, 8]] = True
    priority = sampling.priorities(mask.shape, keras.random.SeedGenerator(0))
    priority = np.asarray(priority)
    assert priority.min() > 0 and priority.max() <= 1
    chosen = np.asarray(sampling.choose_mask(mask, priority, 2))
    assert not (chosen & ~mask).any()
    np.testing.assert_array_equal(chosen.sum(axis=1), 2)
    counts = chosen.sum(axis=0)[[1, 3, 4, 8]]  # 200 each expected, standard deviation 10
    assert counts.min() > 150 and counts.max() < 250

    indices, found = (np.asarray(x) for x in sampling.choose(mask, priority, 2))
    assert found.all()
    for row in range(len(mask)):
        assert set(indices[row]) == set(np.flatnonzero(chosen[row]))


def test_more_places_than_candidates():
    mask = np.ones((2, 3), dtype=bool)
    priority = sampling.priorities(mask.shape)
    indices, chosen = sampling.choose(mask, priority, 8)
    assert np.asarray(indices).shape == (2, 3) and np.asarray(chosen).all()
    assert np.asarray(sampling.choose_mask(mask, priority, 8)).all()


@settings(max_examples=40, deadline=None)
@given(hnp.arrays(bool, (3, 300)), hnp.arrays(np.int32, 3, elements=st.integers(0, 320)))
def test_mask_is_of_the_largest(mask, count):
    rng = np.random.default_rng(0)
    keys = np.stack([rng.choice(2**24, 300, replace=False) + 1 for _ in mask])  # all different
    priority = (keys / 2**24).astype(np.float32)
    chosen = np.asarray(sampling.choose_mask(mask, priority, count))
    for row, keys_of_row, wanted, picked in zip(mask, keys, count, chosen, strict=True):
        best = sorted(np.flatnonzero(row), key=lambda i: -keys_of_row[i])[:wanted]
        assert set(np.flatnonzero(picked)) == set(best)
