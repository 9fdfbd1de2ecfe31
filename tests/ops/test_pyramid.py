"""Several readings of one pyramid: what each reads, and the gradient of all together."""

import keras
import numpy as np
import pytest

from mrcnn_parallel.ops import pyramid
from tests.helpers import compiled, gradients

SIZES = [(4, 6), (2, 3)]


def feature_maps(batch=2, channels=3):
    rng = np.random.default_rng(0)
    return [rng.random((batch, *size, channels)).astype(np.float32) for size in SIZES]


def table_of(maps):
    return np.concatenate([m.reshape(len(m), -1, m.shape[-1]) for m in maps], 1).reshape(-1, 3)


CELLS = [np.array([[0, 24], [30, 59]], np.int32), np.array([[[24, 24, 1]]], np.int32)]


def test_each_reading_gets_its_cells():
    maps = feature_maps()

    def read(*maps):
        readings = [pyramid.Reading(cells, lambda values: 2 * values) for cells in CELLS]
        return pyramid.read(list(maps), readings)

    for found, cells in zip(compiled(read, *maps), CELLS, strict=True):
        np.testing.assert_array_equal(found, 2 * table_of(maps)[cells])


class AddAndRead(keras.layers.Layer):
    """Adds a weight to each cell, reads twice, and sums the second reading five-fold."""

    def build(self, shapes):
        self.added = [self.add_weight(shape=shape, name=f"p{i}") for i, shape in enumerate(shapes)]

    def call(self, maps):
        maps = [m + weight for m, weight in zip(maps, self.added, strict=True)]
        readings = [pyramid.Reading(cells, lambda values: values) for cells in CELLS]
        first, second = pyramid.read(maps, readings)
        return keras.ops.sum(first) + 5 * keras.ops.sum(second)

    def compute_output_spec(self, maps):
        return keras.KerasTensor((), "float32")


def test_gradients_of_all_readings_add_up():
    inputs = [keras.Input(batch_shape=(2, *size, 3)) for size in SIZES]
    model = keras.Model(inputs, AddAndRead()(inputs))
    found = gradients(lambda call: call(feature_maps()), model).values()
    times_read = np.bincount(CELLS[0].ravel(), minlength=60)
    times_read = times_read + 5 * np.bincount(CELLS[1].ravel(), minlength=60)
    np.testing.assert_array_equal(table_of(list(found)), np.repeat(times_read[:, None], 3, 1))


def test_open_sizes_are_an_error():
    with pytest.raises(ValueError, match="static height and width"):
        pyramid.level_sizes([keras.KerasTensor((None, None, 4, 3))])
