"""Masks: the golden masks, SciPy and scikit-image as references, and properties."""

import warnings

import numpy as np
import pytest
import scipy.ndimage
import skimage.transform
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mrcnn_parallel.config import Config
from mrcnn_parallel.data import masks as mask_ops
from mrcnn_parallel.data.geometry import compute_overlaps_masks, extract_bboxes
from tests.helpers import golden, unpack

GOLDEN = golden("utils")
MASKS = unpack(GOLDEN, "masks", GOLDEN["masks_shape"])[..., :5]  # the sixth is empty
BOXES = GOLDEN["extract_bboxes"][:5]
NO_PADDING = [(0, 0), (0, 0), (0, 0)]


@pytest.mark.parametrize("side", [56, 28])
def test_minimize_mask_as_in_the_golden(side):
    mini = mask_ops.minimize_mask(BOXES, MASKS, (side, side))
    assert mini.dtype == bool
    np.testing.assert_array_equal(mini, unpack(GOLDEN, f"mini{side}", (side, side, 5)))


def test_expand_mask_as_in_the_golden():
    mini = unpack(GOLDEN, "mini56", (56, 56, 5))
    full = mask_ops.expand_mask(BOXES, mini, (128, 128, 3))
    assert full.dtype == bool
    np.testing.assert_array_equal(full, unpack(GOLDEN, "expand", (128, 128, 5)))


def test_unmold_mask_as_in_the_golden():
    full = [
        mask_ops.unmold_mask(mask, box, (100, 120, 3))
        for mask in GOLDEN["unmold_in"]
        for box in GOLDEN["unmold_boxes"]
    ]
    expected = unpack(GOLDEN, "unmold_out", (6, 100, 120))
    np.testing.assert_array_equal(np.stack(full), expected)


@settings(deadline=None, max_examples=60)
@given(
    hnp.arrays(bool, st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(1, 3))),
    st.floats(0.3, 3.5),
)
def test_resize_mask_equals_scipy(mask, scale):
    height, width = (round(side * scale) for side in mask.shape[:2])
    if min(height, width) == 0:
        return
    ours = mask_ops.resize_mask(mask, scale, NO_PADDING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = scipy.ndimage.zoom(mask, [scale, scale, 1], order=0)
    assert ours.shape == theirs.shape
    # SciPy's last row or column is empty where its coordinate, by rounding, ends past the image.
    np.testing.assert_array_equal(ours[:-1, :-1], theirs[:-1, :-1])


def test_resize_mask_reaches_the_last_row_whatever_the_rounding():
    mask = np.ones((49, 61, 1), bool)
    for resized in range(50, 1100):
        index = mask_ops.nearest_indices(49, resized / 49)
        assert index[0] == 0 and index[-1] == 48 and len(index) == resized
    assert mask_ops.resize_mask(mask, 7.3, NO_PADDING).all()


def test_resize_mask_pads_and_crops():
    mask = np.random.default_rng(0).random((30, 40, 2)) < 0.5
    padded = mask_ops.resize_mask(mask, 2, [(1, 2), (3, 4), (0, 0)])
    assert padded.shape == (63, 87, 2)
    enlarged = mask_ops.resize_mask(mask, 2, NO_PADDING)
    np.testing.assert_array_equal(padded[1:61, 3:83], enlarged)
    assert padded.sum() == enlarged.sum()
    cropped = mask_ops.resize_mask(mask, 2, NO_PADDING, crop=(5, 7, 32, 32))
    np.testing.assert_array_equal(cropped, enlarged[5:37, 7:39])


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**31), st.integers(1, 4), st.sampled_from([(28, 28), (56, 56), (14, 20)]))
def test_minimize_mask_equals_scikit_image(seed, count, shape):
    rng = np.random.default_rng(seed)
    mask = scipy.ndimage.gaussian_filter(rng.random((70, 90, count)), (4, 4, 0))
    mask = mask > np.median(mask)
    boxes = extract_bboxes(mask)
    mini = mask_ops.minimize_mask(boxes, mask, shape)
    for i, (y1, x1, y2, x2) in enumerate(boxes):
        part = mask[y1:y2, x1:x2, i].astype(float)
        part = skimage.transform.resize(part, shape, order=1, mode="constant", anti_aliasing=False)
        np.testing.assert_array_equal(mini[:, :, i], np.around(part).astype(bool))


@settings(deadline=None, max_examples=40)
@given(st.integers(5, 40), st.integers(5, 40))
def test_expanding_mini_masks_keeps_the_shape(radius_y, radius_x):
    y, x = np.mgrid[:100, :100]
    mask = (((y - 50) / radius_y) ** 2 + ((x - 50) / radius_x) ** 2 <= 1)[..., None]
    boxes = extract_bboxes(mask)
    mini = mask_ops.minimize_mask(boxes, mask, (56, 56))
    back = mask_ops.expand_mask(boxes, mini, mask.shape)
    assert compute_overlaps_masks(mask, back)[0, 0] > 0.9
    # An ellipse's outermost row can be one pixel long: too thin for a mini mask.
    assert np.abs(extract_bboxes(back) - boxes).max() <= 1


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**31), st.floats(1, 3), st.booleans())
def test_mini_masks_of_the_enlarged_mask_need_no_enlarged_mask(seed, scale, cropped):
    rng = np.random.default_rng(seed)
    mask = scipy.ndimage.gaussian_filter(rng.random((50, 64, 3)), (3, 3, 0)) > 0.5
    rows, cols = mask_ops.nearest_indices(50, scale), mask_ops.nearest_indices(64, scale)
    if cropped:
        y, x = rng.integers(0, len(rows) - 40), rng.integers(0, len(cols) - 40)
        rows, cols = rows[y : y + 40], cols[x : x + 40]
    enlarged = mask[rows[:, None], cols]
    enlarged = enlarged[:, :, enlarged.any(axis=(0, 1))]
    kept = mask[rows[:, None], cols].any(axis=(0, 1))
    boxes = extract_bboxes(enlarged)
    direct = mask_ops.minimize_resized_mask(boxes, mask[:, :, kept], rows, cols, (28, 28))
    np.testing.assert_array_equal(direct, mask_ops.minimize_mask(boxes, enlarged, (28, 28)))


def test_masks_of_other_types_count_as_true_where_not_zero():
    as_bytes = MASKS.astype(np.uint8) * 255
    np.testing.assert_array_equal(
        mask_ops.minimize_mask(BOXES, as_bytes, (28, 28)),
        mask_ops.minimize_mask(BOXES, MASKS, (28, 28)),
    )


def test_boxes_that_cannot_be_are_refused():
    mask = np.ones((20, 30, 2), bool)
    with pytest.raises(ValueError, match=r"minimize_mask: box 1 \(3, 3, 3, 9\) has no area"):
        mask_ops.minimize_mask(np.array([[0, 0, 5, 5], [3, 3, 3, 9]]), mask, (28, 28))
    outside = np.array([[0, 0, 5, 5], [0, 0, 21, 5]])
    with pytest.raises(
        ValueError, match=r"minimize_mask: box 1 .* is not inside the image of 20 x"
    ):
        mask_ops.minimize_mask(outside, mask, (28, 28))
    with pytest.raises(ValueError, match=r"expand_mask: box 1 .* is not inside the image of 20 x"):
        mask_ops.expand_mask(outside, np.ones((28, 28, 2), bool), (20, 30))


def test_unmold_mask_cuts_off_what_is_outside_and_takes_empty_boxes():
    mask = np.ones((28, 28), np.float32)
    full = mask_ops.unmold_mask(mask, (-10, 5, 10, 500), (50, 60))
    expected = np.zeros((50, 60), bool)
    expected[:10, 5:] = True
    np.testing.assert_array_equal(full, expected)
    assert not mask_ops.unmold_mask(mask, (5, 5, 5, 9), (50, 60)).any()
    assert not mask_ops.unmold_mask(mask, (50, 60, 70, 80), (50, 60)).any()


def test_mold_mask_gives_what_the_network_trains_on():
    config = Config(NUM_CLASSES=2, MINI_MASK_SHAPE=(28, 28))
    expected = mask_ops.minimize_mask(BOXES, MASKS, (28, 28))
    np.testing.assert_array_equal(mask_ops.mold_mask(MASKS, config), expected)
    full = mask_ops.mold_mask(MASKS.astype(np.uint8), Config(NUM_CLASSES=2, USE_MINI_MASK=False))
    assert full.dtype == bool
    np.testing.assert_array_equal(full, MASKS)
