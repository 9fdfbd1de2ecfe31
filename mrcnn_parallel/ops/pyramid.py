"""Reading the feature pyramid at many places: all levels are one table of cells, and one gather.

The gradient of a gather fills a table as large as the pyramid. So those who read a pyramid in
training - both heads and the RPN - say where they want to read, and `read` serves them together.

Letters: B images, L levels, S cells of all levels of one image together, C channels.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from keras import ops

from mrcnn_parallel import backend


class Reading(NamedTuple):
    """Where to read, and what to make of it."""

    cells: object  # int32 tensor of any shape (...), cells of the table
    finish: Callable  # function of their values, (..., C) -> result


def read(feature_maps, readings):
    """Carries out readings of one pyramid.

    Args:
        feature_maps: L tensors (B, H_l, W_l, C), finest first; static H_l and W_l.
        readings: list of Reading, of the table of these feature maps.

    Returns:
        list of their results.
    """
    channels = feature_maps[0].shape[-1]
    table = ops.concatenate(
        [ops.reshape(m, (-1, m.shape[1] * m.shape[2], channels)) for m in feature_maps], axis=1
    )  # (B, S, C)
    table = ops.reshape(table, (-1, channels))  # (B * S, C)
    values = backend.take_rows(table, [ops.reshape(r.cells, (-1,)) for r in readings])
    return [
        reading.finish(ops.reshape(value, (*ops.shape(reading.cells), channels)))
        for reading, value in zip(readings, values, strict=True)
    ]


def level_sizes(feature_maps):
    """(height, width) of every level, a list of L.

    Raises:
        ValueError: a level without a static size.
    """
    sizes = [tuple(m.shape[1:3]) for m in feature_maps]
    if any(side is None for size in sizes for side in size):
        raise ValueError(
            f"the pyramid is read at feature maps of static height and width, got {sizes}; build "
            "the model for one image size."
        )
    return sizes


def level_starts(sizes):
    """Number of cells before each level, and of all levels: (L,) array and S."""
    ends = np.cumsum([height * width for height, width in sizes])
    return np.concatenate([[0], ends[:-1]]), int(ends[-1])


def image_starts(feature_maps, cells):
    """Cells of the table before each image, (B,) int32; `cells` is S."""
    return ops.arange(ops.shape(feature_maps[0])[0], dtype="int32") * cells
