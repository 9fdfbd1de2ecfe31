"""Bilinear resampling against scikit-image, bit for bit."""

import numpy as np
import pytest
import skimage.transform
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mrcnn_parallel.data.resample import resize_indexed, resize_plane

SIDES = st.integers(1, 60)


def skimage_resize(plane, shape):
    if plane.dtype == bool:
        plane = plane.astype(float)
    return skimage.transform.resize(plane, shape, order=1, mode="constant", anti_aliasing=False)


@settings(deadline=None, max_examples=200)
@given(hnp.arrays(bool, st.tuples(SIDES, SIDES)), st.tuples(SIDES, SIDES))
def test_bools_give_exactly_what_scikit_image_gives(plane, shape):
    result = resize_plane(plane, shape)
    assert result.dtype == np.float64
    np.testing.assert_array_equal(result, skimage_resize(plane, shape))


@settings(deadline=None, max_examples=100)
@given(
    hnp.arrays(np.float32, st.tuples(SIDES, SIDES), elements=st.floats(0, 1, width=32)),
    st.tuples(SIDES, SIDES),
)
def test_probabilities_give_exactly_what_scikit_image_gives(plane, shape):
    result = resize_plane(plane, shape)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, skimage_resize(plane, shape))


@pytest.mark.parametrize("side", [16, 28, 48, 56, 96, 112, 333, 800])
def test_sizes_where_samples_fall_halfway_between_pixels(side):
    plane = np.random.default_rng(side).random((side, side)) < 0.5
    for shape in ((56, 56), (28, 28), (14, 14)):
        np.testing.assert_array_equal(resize_plane(plane, shape), skimage_resize(plane, shape))


def test_a_full_plane_stays_full():
    assert resize_plane(np.ones((3, 5), bool), (20, 30)).min() == 1.0


def test_indices_stand_for_the_enlarged_plane():
    rng = np.random.default_rng(0)
    plane = rng.random((20, 30)) < 0.4
    rows, cols = np.sort(rng.integers(0, 20, 50)), np.sort(rng.integers(0, 30, 40))
    rows, cols = np.union1d(rows, np.arange(5, 15)), np.repeat(np.arange(2, 25), 2)
    np.testing.assert_array_equal(
        resize_indexed(plane, rows, cols, (28, 28)),
        resize_plane(plane[rows][:, cols], (28, 28)),
    )
