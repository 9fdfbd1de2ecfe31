"""Max pooling of 3 x 3 cells at stride 2, with a gradient that only reads and compares.

XLA's own gradient of a max pooling adds to scattered addresses: on a GPU it takes as long as ten
convolutions. Here each input compares itself with the maxima of the at most four windows that it
lies in. Where several cells of a window are the maximum, they share the gradient equally.

Letters: B images, (H, W) input cells, even; (h, w) = (H / 2, W / 2) windows, C channels.
Window (i, j) covers rows 2 i ... 2 i + 2 and columns 2 j ... 2 j + 2; beyond the edge is nothing.
"""

from keras import ops


@ops.custom_gradient
def max_pool_3x3(inputs):
    """As a max pooling with padding "same", of static even sides.

    Args:
        inputs: (B, H, W, C).

    Returns:
        (B, H / 2, W / 2, C).
    """
    cells = _cells_of_windows(inputs)
    outputs = cells[0]
    for cell in cells[1:]:
        outputs = ops.maximum(outputs, cell)

    def gradient(upstream):
        ties = sum(ops.cast(cell == outputs, "float32") for cell in _cells_of_windows(inputs))
        share = ops.cast(ops.cast(upstream, "float32") / ties, upstream.dtype)  # (B, h, w, C)
        height, width = inputs.shape[1:3]
        even_row = (ops.arange(height) % 2 == 0)[:, None, None]
        even_column = (ops.arange(width) % 2 == 0)[None, :, None]
        total = _from_windows(inputs, outputs, share, 0, 0)
        # Even rows are the last of the window above, too; even columns of the one to the left.
        for rows, columns in ((1, 0), (0, 1), (1, 1)):
            part = _from_windows(inputs, outputs, share, rows, columns)
            inside = (even_row if rows else True) & (even_column if columns else True)
            total = total + ops.where(inside, part, ops.zeros_like(part))
        return total

    return outputs, gradient


def _cells_of_windows(inputs):
    """The nine cells of every window, each (B, h, w, C); beyond the edge, minus infinity."""
    padding = ((0, 0), (0, 1), (0, 1), (0, 0))
    padded = ops.pad(inputs, padding, constant_values=float("-inf"))
    height, width = inputs.shape[1:3]
    return [
        padded[:, row : row + height - 1 : 2, column : column + width - 1 : 2]
        for row in range(3)
        for column in range(3)
    ]


def _from_windows(inputs, outputs, share, rows, columns):
    """What each cell gets from its window `rows` above and `columns` to the left, (B, H, W, C)."""

    def at_cells(windows):
        height, width = windows.shape[1:3]
        padding = ((0, 0), (rows, 0), (columns, 0), (0, 0))
        windows = ops.pad(windows, padding)[:, :height, :width]
        return ops.repeat(ops.repeat(windows, 2, axis=1), 2, axis=2)

    return ops.where(inputs == at_cells(outputs), at_cells(share), ops.zeros_like(inputs))
