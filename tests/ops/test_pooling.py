"""Max pooling against Keras's, its gradient against the definition."""

import keras
import numpy as np
import pytest
from keras import layers as KL
from keras import ops

from mrcnn_parallel.nets.conv import MaxPool3x3
from mrcnn_parallel.ops import pooling
from tests.helpers import gradients


def model_of(pool, images):
    """pool(images + variable), to differentiate by the image."""
    layer = KL.Dense(images.size, use_bias=True, kernel_initializer="zeros", name="image")
    x = keras.Input((1,))
    y = KL.Reshape(images.shape)(layer(x))
    model = keras.Model(x, pool(y))
    layer.bias.assign(images.ravel())
    return model


def image_gradient(pool, images, weights):
    def loss(call):
        return ops.sum(call(np.zeros((1, 1), "float32"))[0] * weights)

    return gradients(loss, model_of(pool, images))["image/bias"].reshape(images.shape)


@pytest.mark.parametrize("shape", [(8, 12, 3), (2, 2, 1), (7, 6, 2)])
def test_equals_keras_where_no_cells_are_equal(shape):
    rng = np.random.default_rng(0)
    images = rng.permutation(int(np.prod(shape))).reshape(shape).astype("float32") - 9
    weights = rng.normal(size=((shape[0] + 1) // 2, (shape[1] + 1) // 2, shape[2]))
    weights = weights.astype("float32")
    theirs = KL.MaxPooling2D((3, 3), strides=(2, 2), padding="same")
    out = ops.convert_to_numpy(MaxPool3x3()(images[None]))
    np.testing.assert_array_equal(out, ops.convert_to_numpy(theirs(images[None])))
    np.testing.assert_allclose(
        image_gradient(MaxPool3x3(), images, weights),
        image_gradient(theirs, images, weights),
        atol=1e-5,
    )


def test_of_equal_cells_the_first_gets_the_gradient():
    images = np.random.default_rng(1).integers(0, 2, (8, 8, 4)).astype("float32")
    weights = np.random.default_rng(2).random((4, 4, 4)).astype("float32")
    gradient = image_gradient(MaxPool3x3(), images, weights)
    expected = np.zeros_like(images)
    for i, j, c in np.ndindex(*weights.shape):
        window = images[2 * i : 2 * i + 3, 2 * j : 2 * j + 3, c]
        row, column = np.unravel_index(window.argmax(), window.shape)
        expected[2 * i + row, 2 * j + column, c] += weights[i, j, c]
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)


def test_nan_is_not_lost():
    images = np.zeros((1, 6, 6, 1), "float32")
    images[0, 1, 3] = np.nan  # in the middle of a window's row
    outputs = ops.convert_to_numpy(pooling.max_pool_3x3(images))[0, ..., 0]
    np.testing.assert_array_equal(np.isnan(outputs), [[0, 1, 0], [0, 0, 0], [0, 0, 0]])
