"""Choosing a limited number of candidates at random, with static shapes.

Every candidate gets a priority and the top k are taken: the same distribution as shuffling and
cutting, without `nonzero` or `shuffle`, whose shapes depend on the data.
"""

import keras
from keras import ops


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


def choose_mask(candidates, priority, count, limit=None):
    """Like `choose`, as a (B, N) bool mask.

    Args:
        count: static upper bound of the number to choose.
        limit: (B,) int, the number for each image, at most `count`; `count` by default.
    """
    count = min(count, candidates.shape[1])
    score = ops.where(candidates, priority, 0.0)
    best, _ = ops.top_k(score, count)  # (B, count), falling
    if limit is None:
        return (score > 0) & (score >= best[:, -1:])
    position = ops.clip(limit - 1, 0, count - 1)[:, None]
    threshold = ops.take_along_axis(best, position, axis=1)  # (B, 1)
    return (score > 0) & (score >= threshold) & (limit > 0)[:, None]
