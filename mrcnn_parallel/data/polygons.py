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
    """The polygons of N instances; see `assemble`."""

    vertices: np.ndarray  # (V, 2) float64 (x, y) pixels
    part_starts: np.ndarray  # (P + 1,) int64, where each part's vertices begin
    part_instance: np.ndarray  # (P,) int64, ascending
    count: int  # N
    part: np.ndarray  # (V,) int64, which part each vertex belongs to
    following: np.ndarray  # (V,) int64, the vertex that comes after each one around its polygon

    def transformed(self, matrix):
        """The same polygons after (x, y) -> matrix @ (x, y, 1); matrix is (2, 3)."""
        return self._replace(vertices=self.vertices @ matrix[:, :2].T + matrix[:, 2])

    def selected(self, wanted):
        """The polygons of the instances where `wanted` (N,) bool, renumbered."""
        if wanted.all():
            return self
        kept = wanted[self.part_instance]
        lengths = (self.part_starts[1:] - self.part_starts[:-1])[kept]
        owners = (wanted.cumsum() - 1)[self.part_instance[kept]]
        return assemble(self.vertices[kept[self.part]], lengths, owners, int(wanted.sum()))

    def centres(self):
        """(P, 2) mean vertex of each part."""
        if not len(self.part_instance):
            return np.zeros((0, 2))
        starts = self.part_starts
        sums = np.add.reduceat(self.vertices, starts[:-1], axis=0)
        return sums / (starts[1:] - starts[:-1])[:, None]

    def areas(self):
        """(N,) areas in square pixels, overlaps of an instance's parts counted twice."""
        if not len(self.part_instance):
            return np.zeros(self.count)
        x, y = self.vertices.T
        cross = x * y[self.following] - x[self.following] * y
        parts = np.add.reduceat(cross, self.part_starts[:-1])
        return np.bincount(self.part_instance, np.abs(parts) / 2, self.count)


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
    owners, parts = [], []
    for i, own in enumerate(instances):
        for part in own:
            if len(part) > 2:
                owners.append(i)
                parts.append(part)
    vertices = np.concatenate(parts, dtype=np.float64) if parts else np.zeros((0, 2))
    lengths = np.array([len(part) for part in parts], np.int64)
    return assemble(vertices, lengths, np.array(owners, np.int64), len(instances))


def assemble(vertices, lengths, owners, count):
    """Outlines of vertices (V, 2) in P parts.

    Args:
        lengths: (P,) int64 vertices of each part. owners: (P,) int64 instance of each, ascending.
        count: N.
    """
    starts = np.zeros(len(lengths) + 1, np.int64)
    lengths.cumsum(out=starts[1:])
    part = np.arange(len(lengths)).repeat(lengths)
    following = np.arange(1, len(vertices) + 1)
    following[starts[1:] - 1] = starts[:-1]
    return Outlines(vertices, starts, owners, count, part, following)


def scan(outlines, height, width):
    """The pixels of a height x width image that each polygon covers, as Runs."""
    borders = _borders(outlines, height, width)
    start, stop = borders[0::2], borders[1::2]
    inside = start < stop
    start, stop = start[inside], stop[inside]
    line = start // (height + 1)
    part = line // width
    offset = line * (height + 1)
    return Runs(part, line - part * width, start - offset, stop - offset)


def _borders(outlines, height, width):
    """Where polygons begin and end on all columns of all parts laid end to end.

    Row y of column x of part p is at (p * width + x) * (height + 1) + y.

    Returns:
        (2 R,) int64 ascending: in, out, in, out ...; an out may equal the in before.
    """
    fine = outlines.vertices.T * _FINE + 0.5  # whole numbers from here on, but float64
    np.maximum(fine, -_FAR, out=fine)
    np.minimum(fine, _FAR, out=fine)
    np.trunc(fine, out=fine)
    borders = _crossings(fine, outlines, height, width)
    borders.sort()  # an outline crosses a column's centre line an even number of times
    return borders


def _crossings(fine, outlines, height, width):
    """Where outlines cross columns' centre lines.

    An edge is a chain of fine pixels, one for each step along its longer axis. It crosses between
    the chain's pixels at x = 5 c + 2 and 5 c + 3, and of these two the upper one counts.

    Args:
        fine: (2, V) x and y of vertices, fifths of pixels.

    Returns:
        (K,) int64, see _borders, but in any order.
    """
    # The first column whose centre line a vertex isn't to the right of: edges cross those between.
    column = _pixel(fine[0], width)
    change = column[outlines.following] - column
    delta = fine[:, outlines.following] - fine
    size = np.abs(delta)
    steep = size[0] < size[1]
    (edges,) = change.nonzero()
    edges = edges[steep[edges].argsort(kind="stable")]  # those that are not steep first
    steep, ends, number = steep[edges], outlines.following[edges], np.abs(change[edges])
    number = number.astype(np.int64)
    axis = steep.astype(np.int64)  # the longer one
    along, across = delta[axis, edges], delta[1 - axis, edges]
    x, y = fine[:, np.where(along < 0, ends, edges)]  # chains go towards greater y or x
    sums = number.cumsum()
    # The first column of each, less the crossings before, so that one arange numbers all columns.
    first = np.minimum(column[edges], column[ends]) - (sums - number)
    # Steps from x to the last fine pixel on the left of the centre line.
    step = _FINE * first - (x - _CENTRE)
    line = outlines.part[edges] * width + first
    table = np.array([x, y, across / along, step, line]).repeat(number, axis=1)
    x, y, slope, step, line = table
    count = np.arange(float(len(x)))
    line += count
    count *= _FINE
    step += count
    split = len(edges) - int(np.count_nonzero(steep))
    split = int(sums[split - 1]) if split else 0
    y[:split] = _flat_rows(y[:split], slope[:split], step[:split])
    y[split:] = _steep_rows(x[split:], y[split:], slope[split:], step[split:])
    line *= height + 1
    line += _pixel(y, height)
    return line.astype(np.int64)


def _pixel(fine, size):
    """The first pixel from 0 to `size` whose centre isn't before a place in fifths of pixels."""
    pixel = fine + (_FINE - 1 - _CENTRE)
    pixel /= _FINE
    np.floor(pixel, out=pixel)
    np.maximum(pixel, 0, out=pixel)
    return np.minimum(pixel, size, out=pixel)


def _flat_rows(y, slope, step):
    """The smaller y of the two pixels of the chain at `step` and the next."""
    return np.trunc(y + slope * (step + (slope < 0)) + 0.5)


def _steep_rows(x, y, slope, step):
    """y of the chain's pixel before the one that is across."""
    rising = slope > 0
    # Where it crosses, a little early: half-way between two numbers, which the division may miss on
    # either side, the rounding of the product below decides.
    exact = (step + (0.5 - 1e-7)) / slope
    t = np.where(rising, np.ceil(exact), np.floor(exact))
    right = np.trunc(x + slope * t + 0.5) > x + step
    return y + t - (right == rising)


def run_boxes(runs, outlines):
    """The smallest boxes around each instance's runs: (N, 4) int32, zeros where there are none."""
    boxes = np.zeros((outlines.count, 4), np.int32)
    bounds = outlines.part_instance[runs.part].searchsorted(np.arange(outlines.count + 1))
    (ids,) = (bounds[1:] > bounds[:-1]).nonzero()
    if len(ids):
        begins = bounds[ids]
        boxes[ids, 0] = np.minimum.reduceat(runs.start, begins)
        boxes[ids, 1] = np.minimum.reduceat(runs.column, begins)
        boxes[ids, 2] = np.maximum.reduceat(runs.stop, begins)
        boxes[ids, 3] = np.maximum.reduceat(runs.column, begins) + 1
    return boxes


def paint(runs, outlines, height, width):
    """Runs as masks: (N, height, width) bool, a view; the union of each instance's parts."""
    line = (runs.part * width + runs.column) * (height + 1)
    borders = np.array([line + runs.start, line + runs.stop]).T.ravel()
    return _filled(borders, outlines, height, width)


def _filled(borders, outlines, height, width):
    """What `paint` returns, of what _borders returns."""
    parts, owners = len(outlines.part_instance), outlines.part_instance
    lengths = np.empty(len(borders) + 1, np.int64)
    lengths[:-1], lengths[-1] = borders, parts * width * (height + 1)
    lengths[1:] -= borders
    inside = np.zeros(len(lengths), bool)
    inside[1::2] = True
    planes = inside.repeat(lengths).reshape(parts, width, height + 1)
    planes = planes[:, :, :height].transpose(0, 2, 1)  # (P, height, width)
    if parts == outlines.count and (owners == np.arange(parts)).all():
        return planes
    masks = np.zeros((outlines.count, height, width), bool)
    if parts:
        begins = np.flatnonzero(np.diff(owners, prepend=-1))
        masks[owners[begins]] = np.logical_or.reduceat(planes, begins, axis=0)
    return masks


def mini_masks(outlines, boxes, mini_shape):
    """What each box holds of its instance, on a small grid.

    Args:
        boxes: (N, 4) pixels, perhaps not whole ones, with area. mini_shape: (height, width).

    Returns:
        (height, width, N) bool: whether each cell's centre is inside.
    """
    height, width = mini_shape
    box = np.asarray(boxes, np.float64)
    scale = (width, height) / (box[:, 3:1:-1] - box[:, 1::-1])  # (N, 2), x first
    owner = outlines.part_instance[outlines.part]
    vertices = (outlines.vertices - box[owner, 1::-1]) * scale[owner]
    borders = _borders(outlines._replace(vertices=vertices), height, width)
    return _filled(borders, outlines, height, width).transpose(1, 2, 0)


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
