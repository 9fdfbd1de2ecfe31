"""Choosing a limited number of candidates at random, with static shapes.

Every candidate gets a priority and the top k are taken: the same distribution as shuffling and
cutting, without `nonzero` or `shuffle`, whose shapes depend on the data.
"""

import keras
from keras import ops

from mrcnn_parallel.ops import selection

PRIORITY_BITS = 24  # what float32 holds between 0.5 and 1


def priorities(shape, seed=None):
    """Priorities in (0, 1], (B, N) float32.

    Args:
        shape: (B, N).
        seed: a keras.random.SeedGenerator, or None for a falling order: the first candidates win.
    """
    if seed is not None:
        return 1.0 - keras.random.uniform(shape, dtype="float32", seed=seed)  # never 0
    falling = 1.0 - ops.arange(shape[1], dtype="float32") / shape[1]
    return ops.broadcast_to(falling, shape)


def choose(candidates, priority, count, limit=None):
    """Indices of up to `count` candidates of highest priority.

    Args:
        candidates: (B, N) bool.
        priority: (B, N) float32 in (0, 1].
        count: static number of results; more than N gives N.
        limit: (B,) int, a smaller number for each image; none by default.

    Returns:
        indices: (B, count) int32, by falling priority; 0 where there are fewer.
        chosen: (B, count) bool, false at those.
    """
    count = min(count, candidates.shape[1])
    values, indices = ops.top_k(ops.where(candidates, priority, 0.0), count)
    chosen = values > 0
    if limit is not None:
        chosen = chosen & (ops.arange(count)[None, :] < limit[:, None])
    return ops.where(chosen, ops.cast(indices, "int32"), 0), chosen


def choose_mask(candidates, priority, count):
    """Like `choose`, as a mask, and without sorting.

    Args:
        candidates: (B, N) bool.
        priority: (B, N) float32 in (0, 1]. Those that differ by less than 2**-24 count as equal.
        count: number to choose, static, or (B,) int: one for each image.

    Returns:
        (B, N) bool. More than `count` only where several of the lowest priority chosen are equal.
    """
    # Priorities as integers
    keys = ops.cast(ops.ceil(priority * 2.0**PRIORITY_BITS), "int32")
    keys = ops.where(candidates, keys, 0)  # (B, N), 0 ... 2**24
    total = ops.sum(ops.cast(candidates, "int32"), axis=1)
    count = ops.minimum(ops.cast(count, "int32"), total)[:, None]  # (B, 1)
    threshold = selection.kth_largest(keys, count, PRIORITY_BITS + 1)
    return (keys >= threshold) & candidates & (count > 0)
