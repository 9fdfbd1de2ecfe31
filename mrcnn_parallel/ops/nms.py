"""Exact greedy non-maximum suppression with static shapes, for a batch of images at once.

Greedy NMS keeps a box unless a kept box of higher score overlaps it by more than the threshold.
That is the one solution of `keep[j] = not any(i < j, keep[i], iou[i, j] > threshold)`, which is
reached by repeating the assignment from all-kept until nothing changes. Boxes are taken in tiles,
best scores first: a tile is first suppressed by the boxes kept before it, then the repetition runs
inside the tile. So no (N, N) matrix is ever held, and the result is exact at any threshold.

Letters: B images, N boxes sorted by falling score, T boxes in a tile, K results.
"""

from keras import ops

from mrcnn_parallel.ops import boxes as box_ops
from mrcnn_parallel.ops import selection

TILE = 1024
# Outside of a CUDA graph each check of whether anything still changes waits for the host, some 80
# us, while a step takes about 15; most tiles of proposals settle in 5.
STEPS_A_CHECK = 6


def greedy_keep(boxes, threshold, valid=None, class_ids=None, tile=TILE):
    """Which boxes greedy NMS keeps.

    Args:
        boxes: (B, N, 4) float32, sorted by falling score.
        threshold: IoU above which the later box is dropped.
        valid: (B, N) bool, boxes that take part; all by default.
        class_ids: (B, N) int, only boxes of one class suppress each other; all by default.
        tile: boxes handled at once.

    Returns:
        (B, N) bool.
    """
    batch, count = ops.shape(boxes)[0], boxes.shape[1]
    if valid is None:
        valid = ops.ones((batch, count), dtype="bool")
    kept = []
    for start in range(0, count, tile):
        now = slice(start, min(start + tile, count))
        alive = valid[:, now]
        if start:
            before = slice(0, start)
            hits = _suppresses(boxes, class_ids, before, now, threshold)  # (B, start, T)
            hits = hits & ops.concatenate(kept, axis=1)[:, :, None]
            alive = alive & ops.logical_not(ops.any(hits, axis=1))
        size = now.stop - start
        earlier = ops.arange(size)[:, None] < ops.arange(size)[None, :]
        inside = _suppresses(boxes, class_ids, now, now, threshold) & earlier  # (B, T, T)
        kept.append(_fixed_point(alive, inside))
    return ops.concatenate(kept, axis=1)


def non_max_suppression(boxes, threshold, max_count, valid=None, class_ids=None):
    """The kept boxes' indices, best first.

    Args:
        boxes, threshold, valid, class_ids: as in `greedy_keep`.
        max_count: K, the number of results.

    Returns:
        indices: (B, K) int32 into N; 0 where there are fewer than K.
        found: (B, K) bool, false at those.
    """
    count = boxes.shape[1]
    keep = greedy_keep(boxes, threshold, valid, class_ids)
    indices, found = selection.first_true(keep, min(max_count, count))
    missing = max_count - indices.shape[1]
    if missing > 0:
        indices = ops.pad(indices, [[0, 0], [0, missing]])
        found = ops.pad(found, [[0, 0], [0, missing]])
    return indices, found


def _suppresses(boxes, class_ids, rows, columns, threshold):
    hits = box_ops.pairwise_iou(boxes[:, rows], boxes[:, columns]) > threshold
    if class_ids is not None:
        hits = hits & (class_ids[:, rows, None] == class_ids[:, None, columns])
    return hits


def _fixed_point(alive, suppresses):
    """Iterates keep = alive & not any(keep & suppresses) from keep = alive; (B, T), (B, T, T)."""

    def changed(_, go_on):
        return go_on

    def step(_, keep):
        return alive & ops.logical_not(ops.any(keep[:, :, None] & suppresses, axis=1))

    def several_steps(keep, _):
        before = ops.fori_loop(1, STEPS_A_CHECK, step, keep)
        keep = step(None, before)
        return keep, ops.any(keep != before)

    # A chain of T boxes, each suppressing the next, settles one box a step: at most T + 1.
    keep, _ = ops.while_loop(
        changed,
        several_steps,
        several_steps(alive, None),
        maximum_iterations=-(-suppresses.shape[1] // STEPS_A_CHECK),
    )
    return keep
