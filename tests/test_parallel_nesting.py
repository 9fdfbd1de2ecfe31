"""ParallelModel called by another model, whose own `fit` is what runs."""

import keras
import numpy as np
from keras import layers, ops

from mrcnn_parallel.parallel_model import ParallelModel
from tests.parallel_models import (
    arrays,
    assert_close,
    assert_same_training,
    compiled,
    data,
    hidden,
    loss_model,
)


class Trainer(keras.Model):
    """Trains on the wrapper's scalar output, as a package's own training step does."""

    def __init__(self, parallel):
        super().__init__()
        self.parallel = parallel

    def call(self, inputs, training=None):
        return self.parallel([inputs["x"] * 1.0, inputs["y"]], training=training)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return y_pred[1]


def test_a_model_that_calls_a_parallel_model_trains_alike():
    def build():
        return loss_model(hidden, layers.BatchNormalization, lambda: layers.Dropout(0.0, seed=1))

    x, y = data(4)
    x, y = np.concatenate([x] * 2), np.concatenate([y] * 2)
    outer, single = compiled(Trainer(ParallelModel(build(), 2))), compiled(Trainer(build()))
    for model in (outer, single):
        model({"x": x, "y": y})
    assert_same_training(outer, single, [({"x": x, "y": y}, None)] * 2)
    for inner in (outer.parallel.inner_model, single.parallel):
        inner.get_layer("hidden").trainable = False
    for model in (outer, single):
        compiled(model)
    frozen = arrays(outer)[:2]
    assert_same_training(outer, single, [({"x": x, "y": y}, None)] * 2)
    assert_close(arrays(outer)[:2], frozen, 0)
    fits = [m.fit({"x": x, "y": y}, batch_size=4, epochs=2, verbose=0) for m in (outer, single)]
    assert all(np.isfinite(fit.history["loss"]).all() for fit in fits)


def test_stateless_call_of_an_outer_model():
    x, y = data(8)
    outer = Trainer(ParallelModel(loss_model(hidden, layers.BatchNormalization), 2))
    outer({"x": x, "y": y})
    before = arrays(outer)
    values = [v.value for v in outer.trainable_variables]
    state = [v.value for v in outer.non_trainable_variables]
    outputs, updated = outer.stateless_call(values, state, {"x": x, "y": y}, training=True)
    assert_close(arrays(outer), before, 0)
    changed = [np.abs(np.subtract(a, b)).max() for a, b in zip(updated, state, strict=True)]
    assert min(changed) > 0 and outputs[0].shape == (8, 1)


def test_gradients_reach_layers_before_a_parallel_model():
    class Before(Trainer):
        def __init__(self, parallel):
            super().__init__(parallel)
            self.scale = layers.Dense(4, kernel_initializer="identity", name="scale")

        def call(self, inputs, training=None):
            return self.parallel([self.scale(inputs["x"]), inputs["y"]], training=training)

    x, y = data(8)
    outer, single = compiled(Before(ParallelModel(loss_model(), 2))), compiled(Before(loss_model()))
    for model in (outer, single):
        model({"x": x, "y": y})
    start = ops.convert_to_numpy(outer.scale.kernel)
    assert_same_training(outer, single, [({"x": x, "y": y}, None)] * 2)
    assert np.abs(ops.convert_to_numpy(outer.scale.kernel) - start).max() > 1e-3
