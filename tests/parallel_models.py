"""Small models for the tests of ParallelModel, and ways to compare them."""

import keras
import numpy as np
from keras import layers, ops

from mrcnn_parallel.parallel_model import ParallelModel

BACKEND = keras.backend.backend()
ON_JAX = BACKEND == "jax"


class MeanSquares(layers.Layer):
    """The mean squared difference of two tensors, shape ()."""

    def call(self, a, b):
        return ops.mean(ops.square(ops.cast(a, "float32") - ops.cast(b, "float32")))

    def compute_output_shape(self, a_shape, b_shape):
        return ()


def hidden():
    return layers.Dense(8, activation="tanh", name="hidden")


def loss_model(*bodies, seed=7):
    """x (B, 4), y (B, 1) -> [prediction (B, 1), loss ()]; `bodies` make the hidden layers."""
    keras.utils.set_random_seed(seed)
    x, y = keras.Input((4,), name="x"), keras.Input((1,), name="y")
    value = x
    for body in bodies or (hidden,):
        value = body()(value)
    prediction = layers.Dense(1, name="prediction")(value)
    return keras.Model([x, y], [prediction, MeanSquares(name="the_loss")(prediction, y)])


def regression_model(seed=7, **dense):
    """x (B, 4) -> prediction (B, 1)."""
    keras.utils.set_random_seed(seed)
    x = keras.Input((4,), name="x")
    hidden = layers.Dense(8, activation="tanh", name="hidden", **dense)(x)
    return keras.Model(x, layers.Dense(1, name="prediction")(hidden))


class TrainOnOutput(ParallelModel):
    """Trains on the model's own output of shape ()."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return sum(value for value in y_pred if len(value.shape) == 0)


class TrainOnOutputAlone(keras.Model):
    """The same without replicas."""

    compute_loss = TrainOnOutput.compute_loss


def alone(model):
    """`model` itself, trained on its output of shape ()."""
    return TrainOnOutputAlone(model.inputs, model.outputs)


def data(rows=12, seed=3):
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, 4)).astype("float32")
    return x, (x[:, :1] * 2 - x[:, 1:2] + 0.5).astype("float32")


def arrays(model):
    """The values of all weights, as NumPy arrays."""
    return [keras.ops.convert_to_numpy(weight.value) for weight in model.weights]


def assert_close(actual, expected, tolerance=1e-5):
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=tolerance, rtol=tolerance)


def compiled(model, **kwargs):
    kwargs.setdefault("optimizer", keras.optimizers.SGD(0.1, momentum=0.9))
    model.compile(**kwargs)
    return model


def assert_same_training(parallel, single, batches, tolerance=1e-5):
    """Both models, compiled, learn the same from these (x, y) batches."""
    before = arrays(single)
    for x, y in batches:
        results = [m.train_on_batch(x, y, return_dict=True)["loss"] for m in (parallel, single)]
        np.testing.assert_allclose(*results, rtol=max(1e-4, tolerance))
    assert_close(arrays(parallel), arrays(single), tolerance)
    assert any(np.abs(a - b).max() > 1e-3 for a, b in zip(before, arrays(single), strict=True))
