"""Polygons to boxes and masks in a few NumPy calls for all instances of an image together.

The rule for which pixels a polygon covers is that of COCO's tools, to the pixel: vertices are
rounded to fifths of a pixel, and a pixel belongs to the polygon if its centre does. What a scan
yields are runs: column, first row, row after the last. A mini mask is such a scan on a grid of
MINI_MASK_SHAPE laid over the instance's box, so no mask of the image's size is ever made.

Vertices are (x, y); pixel (i, j) covers x from j to j + 1 and y from i to i + 1.
Letters: N instances, P parts (polygons; an instance may have several), V vertices, R runs.
"""

from typing import NamedTuple

import numpy as np

_FINE = 5  # COCO's tools round vertices to 1 / 5 pixel
_CENTRE = _FINE // 2  # the fifth that lies at a pixel's centre
_FAR = 1e7  # fifths; vertices beyond are pulled in, so that keys fit into an int64


class Outlines(NamedTuple):
    """The polygons of N instances."""

    vertices: np.ndarray  # (V, 2) float64 (x, y) pixels
    part_starts: np.ndarray  # (P + 1,) int64, where each part's vertices begin
    part_instance: np.ndarray  # (P,) int64, ascending
    count: int  # N

    def transformed(self, matrix):
        """The same polygons after (x, y) -> matrix @ (x, y, 1); matrix is (2, 3)."""
        return self._replace(vertices=self.vertices @ matrix[:, :2].T + matrix[:, 2])

    def instance_of_vertices(self):
        """(V,) which instance each vertex belongs to."""
        return np.repeat(self.part_instance, np.diff(self.part_starts))

    def areas(self):
        """(N,) areas in square pixels, overlaps of an instance's parts counted twice."""
        if not len(self.part_instance):
            return np.zeros(self.count)
        (x, y), after = self.vertices.T, self.following()
        parts = np.add.reduceat(x * y[after] - x[after] * y, self.part_starts[:-1])
        return np.bincount(self.part_instance, np.abs(parts) / 2, self.count)

    def following(self):
        """(V,) the vertex that comes after each one, around its polygon."""
        after = np.arange(1, len(self.vertices) + 1)
        after[self.part_starts[1:] - 1] = self.part_starts[:-1]
        return after


class Runs(NamedTuple):
    """Pieces of columns that are inside, in order of part, column and row."""

    part: np.ndarray  # (R,)
    column: np.ndarray  # (R,)
    start: np.ndarray  # (R,) first row
    stop: np.ndarray  # (R,) row after the last


def join(instances):
    """Lists of (n, 2) polygons, one list an instance -> Outlines.

    Polygons of less than three vertices cover nothing and are left out.
    """
    parts = [(i, part) for i, parts in enumerate(instances) for part in parts if len(part) > 2]
    lengths = np.array([0, *(len(part) for _, part in parts)])
    vertices = np.concatenate([part for _, part in parts]) if parts else np.zeros((0, 2))
    owners = np.array([i for i, _ in parts], np.int64)
    return Outlines(np.asarray(vertices, np.float64), np.cumsum(lengths), owners, len(instances))


def scan(outlines, height, width):
    """The pixels of a height x width image that each polygon covers, as Runs."""
    fine = np.clip(_FINE * outlines.vertices + 0.5, -_FAR, _FAR).astype(np.int64)
    part = np.repeat(np.arange(len(outlines.part_instance)), np.diff(outlines.part_starts))
    edge, column, y = _crossings(fine, fine[outlines.following()], width)
    row = (y - _CENTRE + _FINE - 1) // _FINE
    np.minimum(np.maximum(row, 0, out=row), height, out=row)
    # An outline crosses a column's centre line an even number of times: in, out, in, out ...
    key = (part * (width * (height + 1)))[edge] + column * (height + 1) + row
    key.sort()
    start, stop = key[0::2], key[1::2]
    inside = start < stop
    start, stop = start[inside], stop[inside]
    line = start // (height + 1)
    part = line // width
    offset = line * (height + 1)
    return Runs(part, line - part * width, start - offset, stop - offset)


def _crossings(begin, end, width):
    """Where edges cross columns' centre lines.

    An edge is a chain of fine pixels, one for each step along its longer axis. It crosses between
    the chain's pixels at x = 5 c + 2 and 5 c + 3, and of these two the upper one counts.

    Args:
        begin, end: (E, 2) int64 fifths of pixels.

    Returns:
        edge, column c, fine y of each crossing, three (K,) int64 arrays.
    """
    (x, y), (x_end, y_end) = begin.T, end.T
    dx, dy = x_end - x, y_end - y
    left, right = np.minimum(x, x_end), np.maximum(x, x_end)
    first = np.maximum((left - _CENTRE + _FINE - 1) // _FINE, 0)
    number = np.minimum((right - _CENTRE - 1) // _FINE, width - 1) - first + 1
    steep = np.abs(dx) < np.abs(dy)
    # Edges that cross something, those that are not steep first.
    crosses = number > 0
    flat = np.flatnonzero(crosses & ~steep)
    edges = np.concatenate([flat, np.flatnonzero(crosses & steep)])
    number, steep, dx, dy = number[edges], steep[edges], dx[edges], dy[edges]
    swap = np.where(steep, dy, dx) < 0  # chains go towards greater y (steep) or greater x
    x, y = np.where(swap, x_end[edges], x[edges]), np.where(swap, y_end[edges], y[edges])
    slope = np.where(steep, dx, dy) / np.where(steep, dy, dx)
    column = np.arange(number.sum()) + np.repeat(first[edges] - np.cumsum(number) + number, number)
    # Steps from x to the last fine pixel on the left of the centre line.
    step = _FINE * column - np.repeat(x - _CENTRE, number)
    y, slope = np.repeat(y, number), np.repeat(slope, number)
    split = int(number[: len(flat)].sum())
    y[:split] = _flat_rows(y[:split], slope[:split], step[:split])
    x = np.repeat(x[len(flat) :], number[len(flat) :])
    y[split:] = _steep_rows(x, y[split:], slope[split:], step[split:])
    return np.repeat(edges, number), column, y


def _flat_rows(y, slope, step):
    """The smaller y of the two pixels of the chain at `step` and the next."""
    return (y + slope * (step + (slope < 0)) + 0.5).astype(np.int64)


def _steep_rows(x, y, slope, step):
    """y of the chain's pixel before the one that is across."""
    rising = slope > 0
    # The first pixel t with round(x + slope t) on the other side. Where that is half-way between
    # two numbers, the rounding of the product decides.
    exact = (step + 0.5) / slope
    t = np.where(rising, np.ceil(exact), np.floor(exact) + 1)
    right = (x + slope * (t - ~rising) + 0.5).astype(np.int64) > x + step
    t += np.where(right, 0, np.where(rising, 1, -1))
    return y + t.astype(np.int64) - 1


def run_boxes(runs, outlines):
    """The smallest boxes around each instance's runs: (N, 4) int32, zeros where there are none."""
    boxes = np.zeros((outlines.count, 4), np.int32)
    if not len(runs.part):
        return boxes
    instance = outlines.part_instance[runs.part]
    begins = np.flatnonzero(np.diff(instance, prepend=-1))
    ids = instance[begins]
    boxes[ids, 0] = np.minimum.reduceat(runs.start, begins)
    boxes[ids, 1] = np.minimum.reduceat(runs.column, begins)
    boxes[ids, 2] = np.maximum.reduceat(runs.stop, begins)
    boxes[ids, 3] = np.maximum.reduceat(runs.column, begins) + 1
    return boxes


def paint(runs, outlines, height, width):
    """Runs as masks: (N, height, width) bool, a view; the union of each instance's parts."""
    parts = len(outlines.part_instance)
    steps = np.zeros(parts * width * (height + 1), np.int8)
    line = (runs.part * width + runs.column) * (height + 1)
    steps[line + runs.start] = 1
    steps[line + runs.stop] -= 1  # two runs of a column may touch
    planes = np.cumsum(steps.reshape(parts, width, height + 1), axis=2, dtype=np.int8)
    planes = planes[:, :, :height].view(bool).transpose(0, 2, 1)  # (P, height, width)
    if parts == outlines.count and (np.diff(outlines.part_instance) == 1).all():
        return planes
    masks = np.zeros((outlines.count, height, width), bool)
    if parts:
        begins = np.flatnonzero(np.diff(outlines.part_instance, prepend=-1))
        ids = outlines.part_instance[begins]
        masks[ids] = np.logical_or.reduceat(planes, begins, axis=0)
    return masks


def mini_masks(outlines, boxes, mini_shape):
    """What each box holds of its instance, on a small grid.

    Args:
        boxes: (N, 4) pixels, with area. mini_shape: (height, width).

    Returns:
        (height, width, N) bool: whether each cell's centre is inside.
    """
    height, width = (int(side) for side in mini_shape)
    box = np.asarray(boxes, np.float64)
    scale = np.array([width, height]) / (box[:, 3:1:-1] - box[:, 1::-1])  # (N, 2), x first
    owner = outlines.instance_of_vertices()
    vertices = (outlines.vertices - box[owner, 1::-1]) * scale[owner]
    grid = outlines._replace(vertices=vertices)
    return paint(scan(grid, height, width), grid, height, width).transpose(1, 2, 0)


def box_mask(parts, box):
    """The mask of one instance inside a box: (y2 - y1, x2 - x1) bool.

    Args:
        parts: list of (n, 2) polygons. box: (y1, x1, y2, x2) whole pixels, not negative.
    """
    y1, x1, y2, x2 = (int(side) for side in box)
    outlines = join([parts])
    # Not the outline moved by the box: rounding must be that of the frame.
    part, column, start, stop = scan(outlines, y2, x2)
    start = np.maximum(start, y1)
    inside = (column >= x1) & (start < stop)
    runs = Runs(part[inside], column[inside] - x1, start[inside] - y1, stop[inside] - y1)
    return paint(runs, outlines, y2 - y1, x2 - x1)[0]
