"""Polygons that leave the image or cross themselves, against brute force."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrcnn_parallel.data.checks import outlines

SQUARE = [(0, 0), (10, 0), (10, 10), (0, 10)]


@pytest.mark.parametrize(
    ("points", "crosses"),
    [
        (SQUARE, False),
        ([(0, 0), (10, 10), (10, 0), (0, 10)], True),  # a bow tie
        ([*SQUARE, (0, 0)], False),  # closed twice
        ([(0, 0), (0, 0), (10, 0), (10, 10), (10, 10), (0, 10)], False),  # double clicks
        ([(0, 0), (10, 0), (5, 0), (5, 8)], False),  # goes back on itself
        ([(0, 0), (10, 0), (10, 10), (5, 0), (0, 10)], False),  # touches an edge
        ([(0, 0), (10, 0), (10, 10), (5, -1), (0, 10)], True),
        ([(0, 0), (5, 5), (9, 0)], False),
    ],
)
def test_crossing(points, crosses):
    assert outlines.crosses_itself(np.array(points, np.float64)) is crosses


def _brute_force(points):
    """Every pair of edges, with whole numbers: no rounding, no vectors."""
    edges = [(a, b) for a, b in zip(points, points[1:] + points[:1], strict=True) if a != b]

    def side(a, b, c):
        return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])

    return any(
        side(a, b, c) * side(a, b, d) < 0 and side(c, d, a) * side(c, d, b) < 0
        for (a, b), (c, d) in itertools.combinations(edges, 2)
    )


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=3, max_size=9))
def test_crossing_agrees_with_brute_force(points):
    found = outlines.crosses_itself(np.array(points, np.float64))
    assert found == _brute_force(points)


def test_long_outlines_are_looked_at_in_parts(monkeypatch):
    angle = np.linspace(0, 2 * np.pi, 500, endpoint=False)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1) * 100
    monkeypatch.setattr(outlines, "BLOCK", 3000)
    assert not outlines.crosses_itself(circle)
    circle[[490, 495]] = circle[[495, 490]]  # only the last part crosses
    assert outlines.crosses_itself(circle)


def test_outside():
    square = np.array(SQUARE, np.float64)
    assert outlines.outside_by(square, 10, 10) == 0
    assert outlines.outside_by(square + np.array([0, 2.5]), 10, 10) == 2.5
    assert outlines.outside_by(square - np.array([4, 1]), 10, 10) == 4
    assert outlines.box_outside_by((0, 0, 10, 10), 10, 10) == 0
    assert outlines.box_outside_by((-3, 0, 10, 10), 10, 10) == 3
    assert outlines.box_outside_by((0, 5, 10, 10), 10, 10) == 5
    assert outlines.box_outside_by((0, float("nan"), 1, 1), 10, 10) == float("inf")
