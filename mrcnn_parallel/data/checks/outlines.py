"""What can be wrong with a polygon that is one: it leaves the image, or crosses itself."""

import numpy as np

TOLERANCE = 1.0  # pixels; annotation tools round, and vertices on the border come out just beyond
BLOCK = 2**20  # pairs of edges looked at in one go, to bound the memory


def outside_by(points, height, width):
    """How far the furthest vertex lies outside the image, in pixels; 0 where none does.

    Args:
        points: (n, 2) of (x, y).
    """
    low = -points.min(axis=0)
    high = points.max(axis=0) - [width, height]
    return float(max(low.max(), high.max(), 0.0))


def box_outside_by(box, height, width):
    """The same for COCO's (x, y, width, height); NaN counts as infinitely far."""
    x, y, box_width, box_height = box
    by = max(-x, -y, x + box_width - width, y + box_height - height, 0.0)
    return by if np.isfinite([x, y, box_width, box_height]).all() else float("inf")


def crosses_itself(points):
    """Whether two edges of a closed polygon cross in points that are not their ends.

    Edges that touch, or lie on one another, do not count: annotators close outlines that way.

    Args:
        points: (n, 2) of (x, y); the last vertex is joined to the first.
    """
    moved = np.any(points != np.roll(points, 1, axis=0), axis=1)  # a double click is no edge
    x, y = points[moved].T
    count = len(x)
    if count < 4:
        return False
    dx, dy = np.roll(x, -1) - x, np.roll(y, -1) - y
    rows = max(1, BLOCK // count)
    for first in range(0, count, rows):
        edge = np.arange(first, min(first + rows, count))[:, None]
        # Two edges cross where the ends of each lie on different sides of the other.
        side = np.sign(dx[edge] * (y - y[edge]) - dy[edge] * (x - x[edge]))  # of every vertex
        apart = side * np.roll(side, -1, axis=1) < 0
        ends = np.arange(first, first + len(edge) + 1)[:, None] % count
        side = np.sign(dx * (y[ends] - y) - dy * (x[ends] - x))  # of these ends, to every edge
        if np.any(apart & (side[:-1] * side[1:] < 0)):
            return True
    return False
