"""Objects in the frame that the network sees, after a Warp: as outlines or as bitmaps.

They stay in that form until all are known, so that objects pasted from another image can cover
them, and become boxes and masks in `collect`.
"""

from typing import NamedTuple

import numpy as np

from mrcnn_parallel.data import polygons
from mrcnn_parallel.data.resample import resize_plane
from mrcnn_parallel.data.sources import Bitmap
from mrcnn_parallel.data.warp import scaled


class Placed(NamedTuple):
    """An object in the frame."""

    class_id: int  # negative for crowds
    box: tuple  # (y1, x1, y2, x2) whole pixels, the smallest around what the frame shows
    parts: list | None  # (n, 2) (x, y) polygons in the frame, or None
    bitmap: np.ndarray | None  # (y2 - y1, x2 - x1) bool, or None

    def mask(self):
        """(y2 - y1, x2 - x1) bool, the object inside its box."""
        if self.bitmap is not None:
            return self.bitmap
        return polygons.box_mask(self.parts, self.box)


def centres(source):
    """(n, 2) float64 (x, y), about the middle of each polygon and bitmap of a Source."""
    middle = [
        (shape.x + shape.mask.shape[1] / 2, shape.y + shape.mask.shape[0] / 2)
        for shape in source.shapes
        if isinstance(shape, Bitmap) and shape.mask.size
    ]
    drawn = source.outlines.centres()
    return np.concatenate([drawn, middle]) if middle else drawn


def place(source, warp, reduced, min_visible, min_side):
    """A Source's instances after a Warp of its image.

    Args:
        reduced: (x, y) factors from the shapes' pixels to the image's.
        min_visible: an instance of which the frame shows a smaller share is dropped.
        min_side: so is one whose box has a shorter side, in pixels; crowds are kept in either case
            while a pixel shows, as they mark where not to learn.

    Returns:
        List of Placed.
    """
    outlines = source.outlines.transformed(scaled(warp.matrix, reduced))
    runs = polygons.scan(outlines, *warp.frame)
    boxes = polygons.run_boxes(runs, outlines).tolist()
    seen = np.bincount(
        outlines.part_instance[runs.part], runs.stop - runs.start, minlength=outlines.count
    )
    shares = (seen / np.maximum(outlines.areas(), 1e-9)).tolist()
    parts = [[] for _ in source.shapes]
    starts = outlines.part_starts.tolist()
    for owner, start, stop in zip(
        outlines.part_instance.tolist(), starts[:-1], starts[1:], strict=True
    ):
        parts[owner].append(outlines.vertices[start:stop])
    objects = []
    for i, class_id in enumerate(source.class_ids.tolist()):
        shape, box, share, mask = source.shapes[i], tuple(boxes[i]), shares[i], None
        if isinstance(shape, Bitmap):
            bitmap, area = warp.bitmap(shape, reduced)
            mask, (height, width) = bitmap.mask, bitmap.mask.shape
            box = (bitmap.y, bitmap.x, bitmap.y + height, bitmap.x + width)
            share = mask.sum() / max(area, 1e-9)
        if _is_kept(class_id, box, share, min_visible, min_side):
            objects.append(Placed(class_id, box, None if mask is not None else parts[i], mask))
    return objects


def _is_kept(class_id, box, share, min_visible, min_side):
    shorter = min(box[2] - box[0], box[3] - box[1])
    if class_id < 0:
        return shorter > 0
    return shorter >= max(min_side, 1) and share >= min_visible


def covered(objects, mask, box, min_visible, min_side):
    """Objects after a mask (h, w) bool inside a box was laid over them, without those it hides."""
    left = []
    for thing in objects:
        y1, x1 = max(box[0], thing.box[0]), max(box[1], thing.box[1])
        y2, x2 = min(box[2], thing.box[2]), min(box[3], thing.box[3])
        if y1 >= y2 or x1 >= x2:
            left.append(thing)
            continue
        own = thing.mask().copy()
        before = own.sum()
        top, start = thing.box[0], thing.box[1]
        own[y1 - top : y2 - top, x1 - start : x2 - start] &= ~mask[
            y1 - box[0] : y2 - box[0], x1 - box[1] : x2 - box[1]
        ]
        after = own.sum()
        if after == before:
            left.append(thing)
            continue
        rows, cols = np.flatnonzero(own.any(axis=1)), np.flatnonzero(own.any(axis=0))
        if not len(rows):
            continue
        own = own[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
        y, x = top + int(rows[0]), start + int(cols[0])
        smaller = (y, x, y + own.shape[0], x + own.shape[1])
        if _is_kept(thing.class_id, smaller, after / before, min_visible, min_side):
            left.append(Placed(thing.class_id, smaller, None, own))
    return left


def collect(objects, frame, config, mini):
    """Objects as arrays.

    Returns:
        class_ids: (n,) int32. boxes: (n, 4) int32 pixels.
        masks: (h, w, n) bool, mini masks, or of the frame's size.
    """
    class_ids = np.array([thing.class_id for thing in objects], np.int32)
    boxes = np.array([thing.box for thing in objects], np.int32).reshape(-1, 4)
    if not mini:
        masks = np.zeros((*frame, len(objects)), bool)
        for i, thing in enumerate(objects):
            y1, x1, y2, x2 = thing.box
            masks[y1:y2, x1:x2, i] = thing.mask()
        return class_ids, boxes, masks
    shape = tuple(int(side) for side in config.MINI_MASK_SHAPE)
    outlines = polygons.join([thing.parts or () for thing in objects])
    masks = polygons.mini_masks(outlines, boxes, shape)
    for i, thing in enumerate(objects):
        if thing.bitmap is not None:
            masks[:, :, i] = np.around(resize_plane(thing.bitmap, shape))
    return class_ids, boxes, masks
