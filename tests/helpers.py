"""What several tests share: the golden files, the golden models, and compiled calls."""

import importlib.util
from pathlib import Path

import keras
import numpy as np
import pytest

GOLDENS = Path(__file__).parent / "goldens"


# For long tests of code that knows neither engine.
once = pytest.mark.skipif(
    keras.backend.backend() == "jax", reason="knows no engine: runs with TensorFlow"
)


def golden(name):
    """The arrays of tests/goldens/golden_{name}.npz."""
    return np.load(GOLDENS / f"golden_{name}.npz")


def unpack(data, key, shape):
    """A mask stored with np.packbits."""
    return np.unpackbits(data[key])[: int(np.prod(shape))].reshape(shape).astype(bool)


def golden_module(name):
    """One of the Python files beside the goldens; their `mrcnn` is this package."""
    import mrcnn_parallel.compat  # noqa: F401

    spec = importlib.util.spec_from_file_location(name, GOLDENS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def compiled(function, *args):
    """function(*args) as one compiled program, its results as NumPy; args are pytrees of arrays."""
    if keras.backend.backend() == "jax":
        import jax

        return keras.tree.map_structure(np.asarray, jax.jit(function)(*args))
    import tensorflow as tf

    args = keras.tree.map_structure(tf.convert_to_tensor, args)
    return keras.tree.map_structure(np.asarray, tf.function(function)(*args))


def gradients(loss_of, model):
    """Gradients of loss_of(model) by trainable variable path, as NumPy.

    Args:
        loss_of: function (call) -> scalar, where call(inputs) runs the model in training mode.
    """
    variables = model.trainable_variables
    if keras.backend.backend() == "jax":
        import jax

        non_trainable = [v.value for v in model.non_trainable_variables]

        def loss(values):
            return loss_of(
                lambda inputs: model.stateless_call(values, non_trainable, inputs, training=True)[0]
            )

        values = jax.jit(jax.grad(loss))([v.value for v in variables])
    else:
        import tensorflow as tf

        @tf.function
        def run():
            with tf.GradientTape() as tape:
                loss = loss_of(lambda inputs: model(inputs, training=True))
            return tape.gradient(loss, [v.value for v in variables])

        values = run()
    return {v.path: np.asarray(g) for v, g in zip(variables, values, strict=True)}
