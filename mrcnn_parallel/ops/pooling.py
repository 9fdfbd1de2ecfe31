"""Max pooling of 3 x 3 cells at stride 2; its gradient neither scatters nor reads the input.

XLA's own gradient of a max pooling adds to scattered addresses: on a GPU it takes as long as ten
convolutions. Here each window remembers which of its cells was the largest, the first of equal
ones, and each cell asks the at most four windows that it lies in.

Letters: B images, (H, W) input cells, even; (h, w) = (H / 2, W / 2) windows, C channels.
Window (i, j) covers rows 2 i ... 2 i + 2 and columns 2 j ... 2 j + 2; beyond the edge is nothing.
"""

from keras import ops

ROW = 4  # a cell's place in its window is ROW * row + column; column 3, outside, is no cell's


@ops.custom_gradient
def max_pool_3x3(inputs):
    """As a max pooling with padding "same", of static even sides.

    Args:
        inputs: (B, H, W, C).

    Returns:
        (B, H / 2, W / 2, C).
    """
    (place, outputs), *others = _cells_of_windows(inputs)
    places = ops.full(ops.shape(outputs), place, dtype="uint8")
    for place, cells in others:
        larger = (cells > outputs) | (cells != cells)  # NaN, which must not get lost, counts, too
        outputs = ops.where(larger, cells, outputs)
        places = ops.where(larger, ops.cast(place, "uint8"), places)

    def gradient(upstream):
        height, width = inputs.shape[1:3]
        row, column = ops.arange(height) % 2, ops.arange(width) % 2
        total = 0
        # A cell lies in the window of its own row and column pair and, where these are even, in
        # those above and to the left, too.
        for up in (0, 1):
            for left in (0, 1):
                place = ROW * (row + 2 * up)[:, None, None] + (column + 2 * left)[:, None]
                is_largest = _at_cells(places, up, left) == ops.cast(place, "uint8")
                upstream_here = _at_cells(upstream, up, left)
                total = total + ops.where(is_largest, upstream_here, ops.zeros_like(upstream_here))
        return total

    return outputs, gradient


def _cells_of_windows(inputs):
    """[(place, cells (B, h, w, C))] of every window; beyond the edge, minus infinity."""
    padding = ((0, 0), (0, 1), (0, 1), (0, 0))
    padded = ops.pad(inputs, padding, constant_values=float("-inf"))
    height, width = inputs.shape[1:3]
    return [
        (
            ROW * row + column,
            padded[:, row : row + height - 1 : 2, column : column + width - 1 : 2],
        )
        for row in range(3)
        for column in range(3)
    ]


def _at_cells(windows, up, left):
    """(B, h, w, C) -> (B, H, W, C): what each cell's window has, or the one `up` above and `left`
    to the left of that."""
    height, width = windows.shape[1:3]
    windows = ops.pad(windows, ((0, 0), (up, 0), (left, 0), (0, 0)))[:, :height, :width]
    return ops.repeat(ops.repeat(windows, 2, axis=1), 2, axis=2)
