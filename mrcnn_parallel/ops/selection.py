"""Finding the few large or true values among many, without sorting them all.

A GPU sorts 16 rows of 261,888 scores in a millisecond. Compiled for one, counting is faster: the
count-th largest key is found bit by bit, and the positions of what is not smaller by counting, too.

Letters: B images, N values each.
"""

from keras import ops

from mrcnn_parallel import backend

LEVELS = 3  # of the tree in which `first_true` counts
SORT_SHARE = 4  # fewer values than this times those wanted are sorted


def top_k(values, count):
    """The largest values of each row, as `ops.top_k` finds them: of equal ones the first.

    Args:
        values: (B, N) float32, none negative, such as probabilities. (Where they are counted,
            negative ones would not be found.)
        count: K <= N, static.

    Returns:
        values: (B, K), falling.
        indices: (B, K) int32.
    """
    if values.shape[1] < SORT_SHARE * count or not backend.counts_faster_than_sorts():
        return ops.top_k(values, count)
    keys = backend.bits_of_float32(values)  # floats that are not negative have the order of these
    least = kth_largest(keys, count, bits=31)  # (B, 1)
    larger, equal = keys > least, keys == least
    missing = count - ops.sum(ops.cast(larger, "int32"), axis=1, keepdims=True)
    first_equal = equal & (ops.cumsum(ops.cast(equal, "int32"), axis=1) <= missing)
    indices, _ = first_true(larger | first_equal, count)
    values, order = ops.top_k(ops.take_along_axis(values, indices, axis=1), count)
    return values, ops.take_along_axis(indices, order, axis=1)


def kth_largest(keys, count, bits):
    """The count-th largest key of each row, (B, 1); 0 where there are fewer or none is asked for.

    Args:
        keys: (B, N) int32 in [0, 2**bits).
        count: static, or (B, 1) int32.
        bits: at most 31.
    """
    found = ops.zeros_like(keys[:, :1])
    for bit in reversed(range(bits)):  # highest first
        higher = found + (1 << bit)
        reached = ops.sum(ops.cast(keys >= higher, "int32"), axis=1, keepdims=True)
        found = ops.where((reached >= count) & (reached > 0), higher, found)
    return found


def first_true(mask, count):
    """Positions of the first `count` true values of each row, in order.

    Args:
        mask: (B, N) bool.
        count: K, at most N.

    Returns:
        indices: (B, K) int32, 0 where there are fewer.
        found: (B, K) bool, false at those.
    """
    size = mask.shape[1]
    width = next(width for width in range(1, size + 1) if width**LEVELS >= size)  # W
    mask = ops.pad(mask, ((0, 0), (0, width**LEVELS - size)))
    # A tree of W children a node. For each child: trues in it and in its elder siblings.
    ends = [ops.cumsum(ops.reshape(ops.cast(mask, "int32"), (-1, width ** (LEVELS - 1), width)), 2)]
    while len(ends) < LEVELS:
        of_parents = ops.reshape(ends[0][..., -1], (-1, ends[0].shape[1] // width, width))
        ends.insert(0, ops.cumsum(of_parents, axis=2))

    slot = ops.arange(count, dtype="int32")[None, :]  # (1, K)
    found = slot < ends[0][:, 0, -1:]
    nth, node = ops.where(found, slot, 0), ops.zeros_like(found, dtype="int32")  # (B, K)
    for of_level in ends:
        of_node = ops.take_along_axis(of_level, node[..., None], axis=1)  # (B, K, W)
        before = of_node <= nth[..., None]
        child = ops.sum(ops.cast(before, "int32"), axis=2)
        nth = nth - ops.max(ops.where(before, of_node, 0), axis=2)
        node = node * width + ops.minimum(child, width - 1)
    return ops.where(found, node, 0), found
