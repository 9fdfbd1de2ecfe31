"""An image and its ground truth from outlines: no mask of the image's size is ever made.

Without augmentation the result is that of the general path (`load.load_image_gt` through
`load_mask`): the same image and the same boxes to the pixel, as polygons cover the pixels that
COCO's tools give them and these are resized by the same rule. Mini masks are drawn from the
polygon itself rather than from resized pixels, so they differ from the general path's by less than
a pixel of the dataset's image along the edge.

With a DefaultAugmentation the image is warped once, and polygons by the same matrix; images of
custom `load_mask` datasets take the same way, with each mask's box part in a polygon's place.
"""

import functools
from typing import NamedTuple

import numpy as np

from mrcnn_parallel.data import polygons
from mrcnn_parallel.data.images import apply_plan, config_plan
from mrcnn_parallel.data.masks import nearest_indices, resize_mask
from mrcnn_parallel.data.resample import resize_plane
from mrcnn_parallel.data.sources import Bitmap, cut_out, describe_image, read_source


class GroundTruth(NamedTuple):
    """What load_image_gt returns, but for the meta's classes."""

    image: np.ndarray  # (H, W, C)
    original_shape: tuple  # (height, width, channels) of the dataset's image
    window: tuple  # (y1, x1, y2, x2) pixels
    scale: float
    class_ids: np.ndarray  # (n,) int32
    boxes: np.ndarray  # (n, 4) int32 pixels
    masks: np.ndarray  # (H, W, n) or (h, w, n) bool


def load_outlined(dataset, config, image_id, mini, rng=None, out=None):
    """Loads an image of a dataset that gives polygons, not augmented.

    Args:
        mini: whether masks are wanted at MINI_MASK_SHAPE, inside their boxes. rng: for crops.
        out: see load_image_gt.

    Returns:
        GroundTruth.
    """
    where = describe_image(dataset, image_id)
    source = read_source(dataset, config, image_id, where)
    plan = config_plan(config, source.size, rng)
    image = apply_plan(source.image, plan, out)
    (rows, cols), firsts = _source_indices(source.size, plan)
    outlines = source.outlines
    runs = polygons.scan(outlines, *source.size)
    if plan.scale >= 1 and plan.crop is None:
        boxes = _enlarged_boxes(polygons.run_boxes(runs, outlines), firsts)
    else:
        boxes = polygons.run_boxes(_resized_runs(runs, firsts), outlines)
    bitmaps = {}
    for i, shape in enumerate(source.shapes):
        if isinstance(shape, Bitmap):
            bitmaps[i], boxes[i] = resized_bitmap(shape, rows, cols)
    kept = boxes[:, 2] > 0  # boxes of what is gone are all zeros
    boxes = boxes[kept]
    if mini:
        mini_shape = tuple(int(side) for side in config.MINI_MASK_SHAPE)
        placed = _source_boxes(boxes, source.size, plan)
        masks = polygons.mini_masks(outlines.selected(kept), placed, mini_shape)
        for i, bitmap in bitmaps.items():
            if bitmap.size:
                plane = np.around(resize_plane(bitmap, mini_shape))
                masks[:, :, np.count_nonzero(kept[:i])] = plane
    else:
        full = polygons.paint(runs, outlines, *source.size).transpose(1, 2, 0)
        for i, shape in enumerate(source.shapes):
            if isinstance(shape, Bitmap):
                paste_bitmap(full[:, :, i], shape)
        masks = resize_mask(full, plan.scale, plan.padding, plan.crop)
        masks = masks if kept.all() else masks[:, :, kept]
    if plan.crop is None:
        boxes += np.array(plan.window[:2] * 2, np.int32)
    original = (*source.size, source.image.shape[2])
    class_ids = source.class_ids[kept]
    return GroundTruth(image, original, plan.window, plan.scale, class_ids, boxes, masks)


def _source_indices(size, plan):
    """Which pixels of the source make which of the picture, without padding; not to be changed.

    Returns:
        indices: the source row of each of the picture's rows, and the same for columns.
        firsts: the picture's first row that comes from each source row or one below, with one more
            entry for the end; and the same for columns.
    """
    pairs = [_axis_indices(side, plan.scale) for side in size]
    if plan.crop is not None:
        y, x, height, width = plan.crop
        pairs = [
            (index[start : start + length], np.clip(first - start, 0, length))
            for (index, first), start, length in zip(pairs, (y, x), (height, width), strict=True)
        ]
    return tuple(zip(*pairs, strict=True))


@functools.lru_cache(maxsize=256)
def _axis_indices(side, scale):
    index = nearest_indices(side, scale)
    return index, np.searchsorted(index, np.arange(side + 1))


def _enlarged_boxes(boxes, firsts):
    """Boxes (N, 4) of instances after rows and columns have been repeated, none left out."""
    resized = np.empty_like(boxes)
    for axis, first in enumerate(firsts):
        resized[:, axis::2] = first[boxes[:, axis::2]]
    return resized


def _resized_runs(runs, firsts):
    """Runs after each row and column has been repeated or left out, see _source_indices.

    Of columns only the first and the last one count, as that is all that boxes need.
    """
    row_of, col_of = firsts
    start, stop = row_of[runs.start], row_of[runs.stop]
    first, last = col_of[runs.column], col_of[runs.column + 1] - 1
    seen = (start < stop) & (first <= last)
    part, start, stop = runs.part[seen], start[seen], stop[seen]
    # Twice as many runs: a box needs the leftmost and the rightmost column of each.
    columns = np.stack([first[seen], last[seen]], axis=1).ravel()
    return polygons.Runs(np.repeat(part, 2), columns, np.repeat(start, 2), np.repeat(stop, 2))


def _source_boxes(boxes, size, plan):
    """Boxes (N, 4) of the picture in pixels of the source, float64.

    The centres of the first and the last pixels coincide, as in nearest_indices.
    """
    shift, step = [], []
    for axis in (0, 1):
        resized = round(size[axis] * plan.scale)
        step.append((size[axis] - 1) / (resized - 1) if resized > 1 and size[axis] > 1 else 1.0)
        shift.append((0 if plan.crop is None else plan.crop[axis]) - 0.5)
    return (boxes + np.array(shift * 2)) * np.array(step * 2) + 0.5


def resized_bitmap(bitmap, rows, cols):
    """A bitmap of the picture that has the source's `rows` and `cols` (ascending).

    Returns:
        mask: (h, w) bool cut to its smallest box, and box: (y1, x1, y2, x2) in that picture; of
        size 0 and zeros where nothing is left.
    """
    height, width = bitmap.mask.shape
    y1, y2 = np.searchsorted(rows, [bitmap.y, bitmap.y + height])
    x1, x2 = np.searchsorted(cols, [bitmap.x, bitmap.x + width])
    if y1 >= y2 or x1 >= x2:
        return np.zeros((0, 0), bool), (0, 0, 0, 0)
    part = bitmap.mask[(rows[y1:y2] - bitmap.y)[:, None], cols[x1:x2] - bitmap.x]
    cut = cut_out(part, int(y1), int(x1))
    if not cut.mask.size:
        return cut.mask, (0, 0, 0, 0)
    height, width = cut.mask.shape
    return cut.mask, (cut.y, cut.x, cut.y + height, cut.x + width)


def paste_bitmap(plane, bitmap):
    """Sets a (H, W) plane to True where a bitmap that lies inside it is."""
    height, width = bitmap.mask.shape
    plane[bitmap.y : bitmap.y + height, bitmap.x : bitmap.x + width] |= bitmap.mask
