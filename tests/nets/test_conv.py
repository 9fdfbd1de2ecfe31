"""Deferred convolutions: one with its batch norm, several as one; against the layers apart."""

import keras
import numpy as np
import pytest
from keras import layers as KL
from keras import ops

from mrcnn_parallel.nets.conv import (
    BatchNorm,
    Conv2D,
    JoinedConv2D,
    _space_to_depth,
    conv_bn,
    relu,
)
from mrcnn_parallel.nets.heads import ROIConv2D
from tests.helpers import gradients

NAMES = ("res", "bn")


def randomise(model, seed=0):
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        noise = rng.normal(size=variable.shape)
        variance = "variance" in variable.path
        variable.assign(np.abs(noise) + 0.1 if variance else noise)


def twins(shape, filters, kernel_size, strides=1, padding=None, conv=None):
    """The same model with the batch norm folded, and as two layers; same random weights."""
    x = keras.Input(shape)
    folded = conv_bn(
        x, filters, kernel_size, NAMES, strides, train_bn=False, padding=padding, conv=conv
    )
    folded = keras.Model(x, KL.Activation(relu)(folded))
    padding = padding or ("valid" if kernel_size == 1 else "same")
    y = (conv or KL.Conv2D)(filters, kernel_size, strides=strides, padding=padding, name="res")(x)
    y = BatchNorm(name="bn")(y, training=False)
    apart = keras.Model(x, KL.Activation("relu")(y))
    randomise(folded)
    apart.set_weights(folded.get_weights())
    return folded, apart


@pytest.mark.parametrize(
    ("shape", "kernel_size", "strides", "padding", "conv"),
    [
        ((8, 10, 3), 1, 1, None, None),
        ((8, 10, 3), 1, 2, None, None),
        ((8, 10, 3), 3, 1, None, None),
        ((8, 10, 3), 3, 2, None, None),
        ((22, 26, 3), 7, 2, "valid", None),
        ((5, 6, 6, 4), 3, 1, None, ROIConv2D),
    ],
)
def test_folded_equals_apart(shape, kernel_size, strides, padding, conv):
    folded, apart = twins(shape, 5, kernel_size, strides, padding, conv)
    assert folded.output_shape == apart.output_shape
    assert [v.path for v in folded.variables] == [v.path for v in apart.variables]
    images = np.random.default_rng(1).normal(size=(2, *shape)).astype("float32")
    expected = ops.convert_to_numpy(apart(images, training=False))
    np.testing.assert_allclose(folded(images, training=False), expected, rtol=1e-4, atol=1e-4)

    def loss(call):
        return ops.mean(ops.square(call(images)))

    ours, theirs = gradients(loss, folded), gradients(loss, apart)
    assert set(ours) == {"res/kernel", "res/bias", "bn/gamma", "bn/beta"}
    for path, gradient in theirs.items():
        scale = np.abs(gradient).max()
        assert scale > 0
        np.testing.assert_allclose(ours[path] / scale, gradient / scale, atol=1e-4, err_msg=path)


def test_training_does_not_move_the_statistics_of_a_folded_batch_norm():
    folded, _ = twins((8, 8, 3), 4, 3)
    images = np.ones((2, 8, 8, 3), "float32")
    before = folded.get_weights()
    expected = ops.convert_to_numpy(folded(images, training=False))
    np.testing.assert_array_equal(folded(images, training=True), expected)
    for old, new in zip(before, folded.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("train_bn", [True, None])
def test_batch_statistics_are_not_folded(train_bn):
    x = keras.Input((8, 8, 3))
    model = keras.Model(x, conv_bn(x, 4, 3, NAMES, train_bn=train_bn))
    images = np.random.default_rng(0).normal(3, 2, (4, 8, 8, 3)).astype("float32")
    out = ops.convert_to_numpy(model(images, training=True))
    np.testing.assert_allclose(out.mean((0, 1, 2)), 0, atol=1e-4)
    assert np.abs(model.get_layer("bn").moving_mean).max() > 0


def test_weights_files_and_configs_are_the_same_folded_or_not(tmp_path):
    models = {}
    for train_bn in (True, False):
        x = keras.Input((8, 8, 3))
        models[train_bn] = keras.Model(x, conv_bn(x, 4, 3, NAMES, train_bn=train_bn))
    randomise(models[True])
    models[True].save_weights(tmp_path / "x.weights.h5")
    models[False].load_weights(tmp_path / "x.weights.h5")
    for a, b in zip(models[True].get_weights(), models[False].get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    models[False].save(tmp_path / "x.keras")
    again = keras.saving.load_model(tmp_path / "x.keras")
    images = np.ones((1, 8, 8, 3), "float32")
    np.testing.assert_array_equal(
        again(images, training=True), ops.convert_to_numpy(models[False](images))
    )


def test_joined_equals_apart():
    x = keras.Input((None, None, 6))
    deferred = [Conv2D(n, 1, deferred=True, name=f"conv{n}")(x) for n in (2, 5)]
    joined = keras.Model(x, JoinedConv2D()([*deferred[0], *deferred[1]]))
    apart = keras.Model(x, [KL.Conv2D(n, 1, name=f"conv{n}")(x) for n in (2, 5)])
    randomise(joined)
    apart.set_weights(joined.get_weights())
    assert joined.output_shape == apart.output_shape
    images = np.random.default_rng(2).normal(size=(2, 4, 3, 6)).astype("float32")
    for ours, theirs in zip(joined(images), apart(images), strict=True):
        np.testing.assert_allclose(ours, ops.convert_to_numpy(theirs), rtol=1e-5, atol=1e-5)


def test_bfloat16_scales_the_kernel_in_float32():
    """Of 1.003 * 1.003 only the product is rounded; 1.003 alone would become 1."""
    keras.config.set_dtype_policy("mixed_bfloat16")
    x = keras.Input((1, 1, 1))
    model = keras.Model(x, conv_bn(x, 1, 1, NAMES, train_bn=False))
    model.get_layer("res").kernel.assign(np.full((1, 1, 1, 1), 1.003, "float32"))
    model.get_layer("bn").gamma.assign([1.003])
    model.get_layer("bn").moving_variance.assign([1 - 1e-3])
    out = model(np.ones((1, 1, 1, 1), "float32"))
    assert keras.backend.standardize_dtype(out.dtype) == "bfloat16"
    assert float(np.asarray(ops.cast(out, "float32")).item()) == 1 + 2**-7  # the next after 1


@pytest.mark.parametrize(("dtype", "channels"), [("float32", 12), ("bfloat16", 16)])
def test_space_to_depth_fills_channels_up_to_eights_in_16_bits(dtype, channels):
    rng = np.random.default_rng(0)
    images = ops.cast(rng.integers(-8, 8, (2, 19, 22, 3)), dtype)  # whole: exact in bfloat16
    kernel = ops.cast(rng.integers(-1, 2, (7, 7, 3, 4)), dtype)
    folded, folded_kernel = _space_to_depth(images, kernel)
    assert folded.shape[-1] == folded_kernel.shape[-2] == channels
    found = ops.conv(*(ops.cast(x, "float32") for x in (folded, folded_kernel)), padding="valid")
    images, kernel = (ops.cast(x, "float32") for x in (images, kernel))
    expected = ops.conv(images, kernel, strides=2, padding="valid")
    np.testing.assert_array_equal(ops.convert_to_numpy(found), ops.convert_to_numpy(expected))


def test_relu_and_its_gradient():
    x = keras.Input((3,))
    layer = KL.Dense(3, kernel_initializer="zeros", activation=relu, name="dense")
    model = keras.Model(x, layer(x))
    layer.bias.assign([-2.0, 0.0, 3.0])
    rows = np.zeros((1, 3), "float32")
    assert ops.convert_to_numpy(model(rows)).tolist() == [[0, 0, 3]]
    gradient = gradients(lambda call: ops.sum(call(rows) * 2), model)["dense/bias"]
    assert gradient.tolist() == [0, 0, 2]
