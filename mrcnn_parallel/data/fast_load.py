"""An image and its ground truth from outlines: no mask of the image's size is ever made.

Without augmentation the result is that of the general path (`load.load_image_gt` through
`load_mask`): the same image and the same boxes to the pixel, as polygons cover the pixels that
COCO's tools give them and these are resized by the same rule. Mini masks are drawn from the
polygon itself rather than from resized pixels, so they differ from the general path's by less than
a pixel of the dataset's image along the edge.

With a DefaultAugmentation the image is warped once, and polygons by the same matrix; images of
custom `load_mask` datasets take the same way, with each mask's box part in a polygon's place.
"""

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
    rows, cols = _source_indices(source.size, plan)
    offset = plan.window[:2] if plan.crop is None else (0, 0)

    drawn = [i for i, shape in enumerate(source.shapes) if not isinstance(shape, Bitmap)]
    outlines = polygons.join([source.shapes[i] for i in drawn])
    runs = polygons.scan(outlines, *source.size)
    boxes = np.zeros((len(source.shapes), 4), np.int32)
    if plan.scale >= 1 and plan.crop is None:
        boxes[drawn] = _enlarged_boxes(polygons.run_boxes(runs, outlines), rows, cols)
    else:
        boxes[drawn] = polygons.run_boxes(_resized_runs(runs, rows, cols, source.size), outlines)
    bitmaps = {}
    for i, shape in enumerate(source.shapes):
        if isinstance(shape, Bitmap):
            bitmaps[i], boxes[i] = resized_bitmap(shape, rows, cols)
    kept = np.flatnonzero((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]))
    if mini:
        mini_shape = tuple(int(side) for side in config.MINI_MASK_SHAPE)
        seen = boxes[drawn, 2] > boxes[drawn, 0]
        placed = _selected(outlines, seen).transformed(_resize_matrix(source.size, plan))
        chosen = np.array(drawn, int)[seen]
        minis = polygons.mini_masks(placed, boxes[chosen], mini_shape)
        masks = minis
        if len(chosen) < len(source.shapes):
            masks = np.zeros((*mini_shape, len(source.shapes)), bool)
            masks[:, :, chosen] = minis
        for i, bitmap in bitmaps.items():
            if bitmap.size:
                masks[:, :, i] = np.around(resize_plane(bitmap, mini_shape))
    else:
        full = np.zeros((*source.size, len(source.shapes)), bool)
        full[:, :, drawn] = polygons.paint(runs, outlines, *source.size).transpose(1, 2, 0)
        for i, shape in enumerate(source.shapes):
            if isinstance(shape, Bitmap):
                paste_bitmap(full[:, :, i], shape)
        masks = resize_mask(full, plan.scale, plan.padding, plan.crop)
    boxes = boxes + np.array([*offset, *offset], np.int32)
    original = (*source.size, source.image.shape[2])
    return GroundTruth(
        image,
        original,
        plan.window,
        plan.scale,
        source.class_ids[kept],
        boxes[kept],
        masks if len(kept) == masks.shape[2] else masks[:, :, kept],
    )


def _source_indices(size, plan):
    """The source row of each row of the picture (without padding), and the same for columns."""
    rows, cols = (nearest_indices(side, plan.scale) for side in size)
    if plan.crop is not None:
        y, x, height, width = plan.crop
        rows, cols = rows[y : y + height], cols[x : x + width]
    return rows, cols


def _enlarged_boxes(boxes, rows, cols):
    """Boxes (N, 4) of instances after rows and columns have been repeated, none left out."""
    index = boxes - (0, 0, 1, 1)  # the last pixels
    resized = np.empty_like(boxes)
    for axis, found in ((0, rows), (1, cols)):
        resized[:, axis] = np.searchsorted(found, index[:, axis], "left")
        resized[:, axis + 2] = np.searchsorted(found, index[:, axis + 2], "right")
    resized[boxes[:, 2] == 0] = 0  # instances without a pixel
    return resized


def _resized_runs(runs, rows, cols, size):
    """Runs after each row and column has been repeated or left out as `rows` and `cols` say.

    Of columns only the first and the last one count, as that is all that boxes need.
    """
    row_of, col_of = (
        np.searchsorted(found, np.arange(side + 1))
        for found, side in zip((rows, cols), size, strict=True)
    )
    start, stop = row_of[runs.start], row_of[runs.stop]
    first, last = col_of[runs.column], col_of[runs.column + 1] - 1
    seen = (start < stop) & (first <= last)
    part, start, stop = runs.part[seen], start[seen], stop[seen]
    # Twice as many runs: a box needs the leftmost and the rightmost column of each.
    columns = np.stack([first[seen], last[seen]], axis=1).ravel()
    return polygons.Runs(np.repeat(part, 2), columns, np.repeat(start, 2), np.repeat(stop, 2))


def _resize_matrix(size, plan):
    """(2, 3) from source (x, y) to the picture's, as nearest_indices maps pixels' centres."""
    matrix = np.zeros((2, 3))
    corner = (0, 0) if plan.crop is None else plan.crop[:2]
    for row, axis in ((0, 1), (1, 0)):  # x is axis 1
        resized = round(size[axis] * plan.scale)
        step = (size[axis] - 1) / (resized - 1) if resized > 1 and size[axis] > 1 else 1.0
        matrix[row, row] = 1 / step
        matrix[row, 2] = 0.5 - 0.5 / step - corner[axis]
    return matrix


def _selected(outlines, seen):
    """The Outlines of the instances where `seen`, renumbered."""
    if seen.all():
        return outlines
    part_kept = seen[outlines.part_instance]
    lengths = np.diff(outlines.part_starts)
    number = np.cumsum(seen) - 1
    return polygons.Outlines(
        outlines.vertices[np.repeat(part_kept, lengths)],
        np.concatenate([[0], np.cumsum(lengths[part_kept])]),
        number[outlines.part_instance[part_kept]],
        int(seen.sum()),
    )


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
