"""Polygons of all instances at once: what they cover, beside COCO's tools, and bookkeeping."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrcnn_parallel.data import polygons, segments


def random_instances(rng, height, width):
    """Up to six instances of none to three polygons; some rounded, some partly outside."""
    instances = []
    for _ in range(rng.integers(0, 7)):
        parts = []
        for _ in range(rng.integers(0, 4)):
            centre = rng.uniform(-0.2, 1.2, 2) * (width, height)
            part = centre + rng.normal(0, rng.uniform(1, 60), (rng.integers(1, 30), 2))
            grid = rng.choice([0, 1, 5])
            part = np.round(part * grid) / grid if grid else part
            parts.append(np.clip(part, 0, (width, height)) if rng.random() < 0.5 else part)
        instances.append(parts)
    return instances


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**31), st.integers(1, 90), st.integers(1, 90))
def test_pixels_areas_and_boxes(seed, height, width):
    instances = random_instances(np.random.default_rng(seed), height, width)
    outlines = polygons.join(instances)
    runs = polygons.scan(outlines, height, width)
    masks = polygons.paint(runs, outlines, height, width)
    assert masks.shape == (len(instances), height, width) and masks.dtype == bool
    for parts, mask in zip(instances, masks, strict=True):
        good = [part for part in parts if len(part) > 2]
        expected = segments.to_mask(good, height, width) if good else np.zeros_like(mask)
        np.testing.assert_array_equal(mask, expected)
    rows, columns = masks.any(axis=2), masks.any(axis=1)
    for box, row, column in zip(polygons.run_boxes(runs, outlines), rows, columns, strict=True):
        ends = [(np.argmax(line), len(line) - np.argmax(line[::-1])) for line in (row, column)]
        (y1, y2), (x1, x2) = ends if row.any() else ((0, 0), (0, 0))
        assert box.tolist() == [y1, x1, y2, x2]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31))
def test_selected_instances_are_those_of_the_shorter_list(seed):
    rng = np.random.default_rng(seed)
    instances = random_instances(rng, 50, 60)
    wanted = rng.random(len(instances)) < 0.6
    ours = polygons.join(instances).selected(wanted)
    kept = [parts for parts, good in zip(instances, wanted, strict=True) if good]
    for part, expected in zip(ours, polygons.join(kept), strict=True):
        np.testing.assert_array_equal(part, expected)


def test_mini_masks_of_instances_with_no_one_and_two_polygons():
    square, corner = np.array([[10.0, 10], [20, 10], [20, 20], [10, 20]]), np.zeros((3, 2))
    corner[1:] = (4, 0), (0, 4)
    outlines = polygons.join([[square], [], [square, corner]])
    boxes = np.array([[10, 10, 20, 20], [0, 0, 9, 9], [0, 0, 20, 20]])
    masks = polygons.mini_masks(outlines, boxes, (20, 30))
    assert masks.shape == (20, 30, 3)
    assert masks[:, :, 0].all() and not masks[:, :, 1].any()
    assert masks[10:, 15:, 2].all() and masks[0, 0, 2] and not masks[5:10, :, 2].any()


def test_centres_and_areas():
    square = np.array([[10.0, 10], [20, 10], [20, 20], [10, 20]])
    outlines = polygons.join([[square, square + 30], [], [square[:2]], [square * 2]])
    np.testing.assert_allclose(outlines.centres(), [[15, 15], [45, 45], [30, 30]])
    np.testing.assert_allclose(outlines.areas(), [200, 0, 0, 400])
    nothing = polygons.join([[]])
    assert nothing.centres().shape == (0, 2) and nothing.areas().tolist() == [0]


@pytest.mark.parametrize("far", [1e7, 1e12])
def test_vertices_far_away(far):
    outlines = polygons.join([[np.array([[-far, -far], [far, -far], [far, far], [-far, far]])]])
    assert polygons.paint(polygons.scan(outlines, 8, 9), outlines, 8, 9).all()
