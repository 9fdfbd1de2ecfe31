"""Training through ParallelModel: the same updates as one device, and all that `fit` offers."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from mrcnn_parallel import parallel_model
from mrcnn_parallel.parallel_model import ParallelModel
from tests.parallel_models import (
    ON_JAX,
    TrainOnOutput,
    alone,
    arrays,
    assert_close,
    assert_same_training,
    compiled,
    data,
    hidden,
    loss_model,
    regression_model,
)


def batches(rows=12, number=3):
    return [data(rows, seed=k) for k in range(number)]


# === The same update as one device ===


@pytest.mark.parametrize(("count", "jit_replicas"), [(2, False), (3, False), (4, False), (3, True)])
def test_training_on_a_loss_that_the_model_makes(count, jit_replicas):
    if ON_JAX and jit_replicas:
        pytest.skip("an option of TensorFlow")
    parallel = compiled(TrainOnOutput(loss_model(), count, jit_replicas=jit_replicas))
    single = compiled(alone(loss_model()))
    assert_same_training(parallel, single, [([x, y], None) for x, y in batches()])


@pytest.mark.parametrize("piece_bytes", [1, 40, 10**9])
def test_training_with_gradients_in_pieces_of_any_size(piece_bytes, monkeypatch):
    monkeypatch.setattr(parallel_model, "_PIECE_BYTES", piece_bytes)

    def build():
        model = loss_model(hidden, lambda: layers.Dense(6, name="frozen"), hidden_16_bits)
        model.get_layer("frozen").trainable = False
        return model

    parallel, single = compiled(TrainOnOutput(build(), 2)), compiled(alone(build()))
    assert_same_training(parallel, single, [([x, y], None) for x, y in batches()], 1e-2)


def hidden_16_bits():
    return layers.Dense(5, dtype=keras.DTypePolicy("bfloat16"), name="hidden_16_bits")


def test_training_on_a_compiled_loss():
    parallel = compiled(ParallelModel(regression_model(), 4), loss="mse", optimizer="adam")
    single = compiled(regression_model(), loss="mse", optimizer="adam")
    assert_same_training(parallel, single, batches())
    parallel.check_replicas()


def shared_siamese():
    keras.utils.set_random_seed(2)
    left, right = keras.Input((4,), name="left"), keras.Input((4,), name="right")
    layer = layers.Dense(3, name="embedding")
    return keras.Model([left, right], [layer(left), layer(right)])


def test_training_a_siamese_model():
    parallel = compiled(ParallelModel(shared_siamese(), 2), loss=["mse", "mae"])
    single = compiled(shared_siamese(), loss=["mse", "mae"])
    x, _ = data(8)
    y = np.ones((8, 3), "float32")
    assert_same_training(parallel, single, [([x, x[::-1].copy()], [y, 2 * y])])


def test_training_a_model_with_dicts():
    def build():
        keras.utils.set_random_seed(4)
        x, y = keras.Input((4,), name="x"), keras.Input((1,), name="y")
        out = {"sum": layers.Dense(1, name="sum")(x), "twice": layers.Dense(1, name="twice")(y)}
        return keras.Model({"x": x, "y": y}, out)

    loss = {"sum": "mse", "twice": "mae"}
    x, y = data(8)
    batch = [({"x": x, "y": y}, {"sum": y, "twice": y + 1})]
    parallel = compiled(ParallelModel(build(), 2), loss=loss)
    assert_same_training(parallel, compiled(build(), loss=loss), batch)


def recurrent():
    """A loop that starts from zeros, and a mask."""
    keras.utils.set_random_seed(5)
    tokens = keras.Input((6,), dtype="int32")
    value = layers.Embedding(7, 4, mask_zero=True)(tokens)
    value = layers.GRU(3, return_sequences=True)(value)
    return keras.Model(tokens, layers.Dense(1)(value))


def test_training_a_recurrent_model_with_masks():
    random = np.random.default_rng(0)
    tokens = np.sort(random.integers(0, 7, size=(8, 6)), axis=1)[:, ::-1].astype("int32")
    tokens[:, 0] = 1
    targets = random.normal(size=(8, 6, 1)).astype("float32")
    parallel = compiled(ParallelModel(recurrent(), 2), loss="mse")
    assert_same_training(parallel, compiled(recurrent(), loss="mse"), [(tokens, targets)])


def test_losses_of_layers_and_regularizers_are_trained_on():
    class Penalty(layers.Layer):
        def call(self, x):
            self.add_loss(ops.mean(ops.square(x)))
            return x

    def build():
        return loss_model(hidden, Penalty, lambda: layers.Dense(3, kernel_regularizer="l2"))

    class WithLosses(TrainOnOutput):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return y_pred[1] + sum(self.losses)

    class WithLossesAlone(keras.Model):
        compute_loss = WithLosses.compute_loss

    model = build()
    single = compiled(WithLossesAlone(model.inputs, model.outputs))
    parallel = compiled(WithLosses(build(), 2))
    assert_same_training(parallel, single, [([x, y], None) for x, y in batches()])


def test_training_with_frozen_layers_changed_after_wrapping():
    parallel, single = TrainOnOutput(loss_model(), 2), loss_model()
    for model in (parallel.inner_model, single):
        model.get_layer("hidden").trainable = False
    assert {v.path.split("/")[0] for v in parallel.trainable_variables} == {"prediction"}
    frozen = arrays(parallel)[:2]
    parallel, single = compiled(parallel), compiled(alone(single))
    assert_same_training(parallel, single, [([x, y], None) for x, y in batches()])
    assert_close(arrays(parallel)[:2], frozen, 0)


def test_batch_normalization_learns_alike_where_replicas_see_the_same_rows():
    """Each replica normalises by its own rows; with equal slices that is the whole batch's."""

    def build():
        return loss_model(hidden, layers.BatchNormalization)

    x, y = data(4)
    x, y = np.concatenate([x] * 3), np.concatenate([y] * 3)
    parallel, single = compiled(TrainOnOutput(build(), 3)), compiled(alone(build()))
    assert_same_training(parallel, single, [([x, y], None)] * 3)


# === What fit offers ===


@pytest.mark.parametrize(
    "settings",
    [
        {"steps_per_execution": 2},
        {"run_eagerly": True},
        {"optimizer": keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)},
        {"optimizer": keras.optimizers.SGD(0.1, use_ema=True, ema_overwrite_frequency=3)},
        {"optimizer": keras.optimizers.Adam(0.01, global_clipnorm=0.1)},
    ],
    ids=["steps_per_execution", "run_eagerly", "accumulation", "ema", "global_clipnorm"],
)
def test_fit_settings_give_what_one_device_gives(settings):
    x, y = data(8)
    results = []
    for model in (ParallelModel(regression_model(), 2), regression_model()):
        optimizer = settings.get("optimizer", keras.optimizers.SGD(0.1))
        optimizer = optimizer.from_config(optimizer.get_config())
        model.compile(**{"loss": "mse", **settings, "optimizer": optimizer})
        history = model.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0).history
        results.append((history["loss"], arrays(model)))
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-4)
    assert_close(results[0][1], results[1][1])


def test_mixed_float16_scales_the_loss():
    keras.config.set_dtype_policy("mixed_float16")
    parallel = ParallelModel(regression_model(), 2)
    parallel = compiled(parallel, loss="mse")
    scaled = parallel.optimizer
    assert type(scaled).__name__ == "LossScaleOptimizer"
    x, y = data(32)
    history = parallel.fit(x, y, batch_size=8, epochs=4, verbose=0).history["loss"]
    assert history[-1] < 0.8 * history[0]
    assert all(weight.dtype == "float32" for weight in parallel.weights)
    assert float(ops.convert_to_numpy(scaled.dynamic_scale)) > 1


def test_mixed_float16_training_is_close_to_one_devices():
    keras.config.set_dtype_policy("mixed_float16")
    settings = {"loss": "mse", "auto_scale_loss": False}
    models = []
    for model in (ParallelModel(regression_model(), 2), regression_model()):
        optimizer = keras.optimizers.SGD(0.02)  # a small scale: neither model skips a step
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=16.0)
        models.append(compiled(model, optimizer=optimizer, **settings))
    assert_same_training(*models, batches(), tolerance=3e-3)


def test_fit_with_validation_metrics_and_weights_is_that_of_one_device():
    x, y = data(24)
    histories = []
    for model in (ParallelModel(regression_model(), 2), regression_model()):
        model.compile(loss="mse", optimizer="sgd", metrics=["mae"], weighted_metrics=["mse"])
        histories.append(
            model.fit(
                *(x, y, 8),
                epochs=3,
                verbose=0,
                shuffle=False,
                validation_split=1 / 3,
                sample_weight=np.linspace(0, 1, 24),
            ).history
        )
    assert histories[0].keys() == histories[1].keys() and "val_mae" in histories[0]
    for name, values in histories[0].items():
        np.testing.assert_allclose(values, histories[1][name], rtol=1e-4, err_msg=name)


def test_evaluate_and_predict_with_uneven_last_batches():
    x, y = data(13)
    single = compiled(regression_model(), loss="mse", metrics=["mae"])
    parallel = compiled(ParallelModel(regression_model(), 3), loss="mse", metrics=["mae"])
    expected = single.evaluate(x, y, batch_size=5, verbose=0)
    np.testing.assert_allclose(
        parallel.evaluate(x, y, batch_size=5, verbose=0), expected, rtol=1e-5
    )
    validated = parallel.fit(x[:12], y[:12], validation_data=(x, y), batch_size=6, verbose=0)
    assert np.isfinite(validated.history["val_loss"][0])
    np.testing.assert_allclose(
        parallel.predict(x, batch_size=4, verbose=0), parallel.inner_model(x), atol=1e-5
    )
    tested = parallel.test_on_batch(x, y)
    np.testing.assert_allclose(tested[0], parallel.evaluate(x, y, 13, verbose=0)[0], rtol=1e-5)


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        return data(4, seed=index)


def generator():
    while True:
        yield data(4)


@pytest.mark.parametrize("make", [lambda: Batches(workers=2), generator], ids=["dataset", "gen"])
def test_fit_from_other_sources(make):
    parallel = compiled(ParallelModel(regression_model(), 2), loss="mse")
    history = parallel.fit(make(), steps_per_epoch=3, epochs=3, verbose=0, shuffle=False)
    assert history.history["loss"][-1] < history.history["loss"][0]


def test_fit_from_a_tf_dataset():
    tf = pytest.importorskip("tensorflow")
    dataset = tf.data.Dataset.from_tensor_slices(data(12)).batch(6)
    parallel = compiled(ParallelModel(regression_model(), 3), loss="mse")
    losses = parallel.fit(dataset, epochs=3, verbose=0, shuffle=False).history["loss"]
    assert losses[-1] < losses[0]


def test_callbacks(tmp_path):
    class Steps(keras.callbacks.Callback):
        batches = 0

        def on_train_batch_end(self, batch, logs=None):
            self.batches += 1
            assert np.isfinite(logs["loss"])

        def on_epoch_end(self, epoch, logs=None):
            self.weights = arrays(self.model)

    steps, rates, save = Steps(), [], keras.callbacks.ModelCheckpoint
    parallel = compiled(ParallelModel(regression_model(), 2), loss="mse")
    parallel.fit(
        *data(16),
        batch_size=8,
        epochs=3,
        verbose=0,
        validation_data=data(5, seed=9),
        callbacks=[
            steps,
            save(tmp_path / "{epoch}.weights.h5", save_weights_only=True),
            save(tmp_path / "step.keras", save_freq=1),
            keras.callbacks.EarlyStopping(restore_best_weights=True, patience=5),
            keras.callbacks.LearningRateScheduler(lambda e, lr: rates.append(lr) or lr * 0.5),
        ],
    )
    assert steps.batches == 6 and len(rates) == 3 and rates[2] == pytest.approx(rates[0] / 4)
    other = regression_model(seed=1)
    other.load_weights(tmp_path / "3.weights.h5")
    assert_close(arrays(other), steps.weights, 0)
    assert keras.models.load_model(tmp_path / "step.keras").name == parallel.inner_model.name
