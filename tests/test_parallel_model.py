"""ParallelModel's outputs, names, structures, state and errors, on 2, 3 and 4 CPU devices."""

import logging
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers, ops

from mrcnn_parallel import parallel_model
from mrcnn_parallel.parallel_model import MultiGpuModel, ParallelModel
from tests.parallel_models import (
    ON_JAX,
    arrays,
    assert_close,
    data,
    loss_model,
    regression_model,
)

COUNTS = (2, 3, 4)


def numpy(tree):
    return keras.tree.map_structure(ops.convert_to_numpy, tree)


# === Outputs ===


@pytest.mark.parametrize("count", COUNTS)
def test_scalars_are_averaged_and_rows_concatenated_in_order(count):
    model, (x, y) = loss_model(), data(12)
    prediction, loss = numpy(ParallelModel(model, count)([x, y]))
    slices = [model([a, b]) for a, b in zip(np.split(x, count), np.split(y, count), strict=True)]
    np.testing.assert_allclose(prediction, numpy(model([x, y]))[0], atol=1e-6)
    np.testing.assert_allclose(loss, np.mean([numpy(s[1]) for s in slices]), atol=1e-6)
    assert prediction.shape == (12, 1) and loss.shape == ()


def test_replica_i_gets_its_rows():
    """Each replica adds its first row's value to all of its rows."""
    x = keras.Input((1,))
    model = keras.Model(x, layers.Lambda(lambda t: t + t[:1], output_shape=(1,))(x))
    rows = np.arange(12, dtype="float32")[:, None]
    for count in COUNTS:
        expected = rows + np.repeat(rows[:: 12 // count], 12 // count, axis=0)
        np.testing.assert_array_equal(numpy(ParallelModel(model, count)(rows)), expected)


@pytest.mark.skipif(ON_JAX, reason="replicas on JAX have equal rows")
def test_the_last_replica_takes_the_remainder():
    model, (x, y) = loss_model(), data(8)
    loss = numpy(ParallelModel(model, 3)([x, y], training=True))[1]
    parts = [numpy(model([x[a:b], y[a:b]]))[1] for a, b in ((0, 2), (2, 4), (4, 8))]
    np.testing.assert_allclose(loss, np.mean(parts), atol=1e-6)


def test_an_output_with_several_rows_for_each_input_row():
    x = keras.Input((2,))
    model = keras.Model(x, layers.Lambda(lambda t: ops.reshape(t, (-1, 1)))(x))
    rows = np.arange(10, dtype="float32").reshape(5, 2)
    np.testing.assert_array_equal(numpy(ParallelModel(model, 3)(rows)), rows.reshape(-1, 1))


@pytest.mark.parametrize("count", COUNTS)
def test_any_number_of_rows_goes_through_predict(count):
    model = loss_model()
    parallel = ParallelModel(model, count)
    for rows in (1, 2, 3, 5, 7, 8):
        x, y = data(rows)
        expected = numpy(model([x, y]))[0]
        np.testing.assert_allclose(parallel.predict([x, y], verbose=0)[0], expected, atol=1e-6)
    np.testing.assert_allclose(numpy(parallel([x, y], training=False))[0], expected, atol=1e-6)
    on_batch = parallel.predict_on_batch([x[:1], y[:1]])
    np.testing.assert_allclose(on_batch[0], expected[:1], atol=1e-6)
    assert on_batch[1].shape == ()


def test_predict_gives_one_scalar_for_each_batch():
    model, (x, y) = loss_model(), data(11)
    prediction, losses = ParallelModel(model, 2).predict([x, y], batch_size=4, verbose=0)
    assert prediction.shape == (11, 1) and losses.shape == (3,)
    halves = [numpy(model([x[i : i + 2], y[i : i + 2]]))[1] for i in (0, 2)]
    np.testing.assert_allclose(losses[0], np.mean(halves), atol=1e-6)


def test_integer_outputs_and_inputs_stay_as_they_are():
    x = keras.Input((), dtype="int32")
    parallel = ParallelModel(keras.Model(x, layers.Lambda(lambda t: t + 1)(x)), 2)
    out = numpy(parallel(np.array([16777217, 2, 3, 2**30], "int32")))
    assert out.dtype == np.int32 and out.tolist() == [16777218, 3, 4, 2**30 + 1]


def test_mixed_precision_does_not_touch_float_inputs_and_outputs():
    """Box coordinates such as 1023 are not bfloat16 or float16 numbers."""
    keras.config.set_dtype_policy("mixed_bfloat16")
    x = keras.Input((4,), dtype="float32")
    model = keras.Model(x, layers.Identity(dtype="float32")(x))
    boxes = np.array([[0, 517.5, 1023, 1023]] * 4, "float32")
    np.testing.assert_array_equal(numpy(ParallelModel(model, 2)(boxes)), boxes)


# === Names and structures ===


def test_output_names_are_the_inner_models_and_repeated_ones_are_numbered():
    """A Siamese model: one layer makes both outputs."""
    shared = layers.Dense(3, name="embedding")
    left, right = keras.Input((4,), name="left"), keras.Input((4,), name="right")
    model = keras.Model([left, right], [shared(left), shared(right)])
    parallel = ParallelModel(model, 2)
    assert model.output_names == ["embedding", "embedding"]
    assert parallel.output_names == ["embedding", "embedding_1"]
    x, _ = data(6)
    assert_close(numpy(parallel([x, x[::-1].copy()])), numpy(model([x, x[::-1].copy()])))
    assert len(parallel.weights) == 2


def test_an_output_that_is_an_input_and_one_called_replicate():
    x = keras.Input((4,), name="x")
    parallel = ParallelModel(keras.Model(x, [x, layers.Dense(1, name="replicate")(x)]), 2)
    rows, _ = data(4)
    assert parallel.output_names == ["x_1", "replicate_1"]
    np.testing.assert_array_equal(numpy(parallel(rows))[0], rows)


def test_dict_inputs_and_outputs_keep_their_structure():
    x, y = keras.Input((4,), name="x"), keras.Input((2,), name="y")
    outputs = {"sum": layers.Dense(3, name="first")(x), "both": [layers.Dense(1)(y), x * 2]}
    model = keras.Model({"x": x, "y": y}, outputs)
    random = np.random.default_rng(0)
    batch = {"x": random.normal(size=(6, 4)), "y": random.normal(size=(6, 2))}
    batch = {name: value.astype("float32") for name, value in batch.items()}
    for result in (ParallelModel(model, 3)(batch), ParallelModel(model, 3).predict(batch)):
        assert set(result) == {"sum", "both"} and len(result["both"]) == 2
        keras.tree.map_structure(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
            numpy(result),
            numpy(model(batch)),
        )


def test_nested_models_and_a_list_of_one_output():
    inner = regression_model()
    x = keras.Input((4,), name="image")
    model = keras.Model([x], [inner(inner_input(x))])
    rows, _ = data(8)
    np.testing.assert_allclose(
        numpy(ParallelModel(model, 4)([rows])), numpy(model([rows])), atol=1e-6
    )


def inner_input(x):
    return layers.Rescaling(0.5)(x)


def test_a_sequential_model_that_is_built():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3), layers.ReLU(name="out")])
    rows, _ = data(6)
    parallel = ParallelModel(model, 2)
    np.testing.assert_allclose(numpy(parallel(rows)), numpy(model(rows)), atol=1e-6)
    assert parallel.output_names == ["out"] and parallel.inner_model is model


def test_a_batch_size_fixed_in_the_model_is_that_of_a_replica():
    x = keras.Input(batch_shape=(3, 4), name="x")
    model = keras.Model(x, layers.Lambda(lambda t: ops.reshape(t, (3, 2, 2)))(x))
    parallel = ParallelModel(model, 2)
    rows, _ = data(6)
    assert parallel.inputs[0].shape == (None, 4) and parallel.outputs[0].shape == (6, 2, 2)
    np.testing.assert_array_equal(numpy(parallel(rows)), rows.reshape(6, 2, 2))


def test_layers_are_found_by_name_on_the_wrapper():
    model = loss_model()
    parallel = ParallelModel(model, 2)
    assert parallel.get_layer("the_loss").output.shape == ()
    assert parallel.get_layer("prediction") is not model.get_layer("prediction")
    assert parallel.get_layer("hidden") is model.get_layer("hidden")
    assert parallel.get_layer(index=0).name == "x"
    with pytest.raises(ValueError, match="nothing_of_the_kind"):
        parallel.get_layer("nothing_of_the_kind")


def test_attributes_summary_and_log(capsys, caplog):
    model = loss_model()
    with caplog.at_level(logging.INFO, parallel_model.__name__):
        parallel = MultiGpuModel(model, num_gpus=3)
    assert isinstance(parallel, ParallelModel) and isinstance(parallel, keras.Model)
    assert parallel.inner_model is model and parallel.gpu_count == 3
    assert len(set(parallel.devices)) == 3
    assert "3 replica(s)" in caplog.text and " s" in caplog.text
    parallel.summary()
    printed = capsys.readouterr().out
    assert "replicate" in printed and "hidden" in printed
    assert [id(v) for v in parallel.variables] == [id(v) for v in model.variables]
    assert parallel.count_params() == model.count_params()


def test_one_replica_is_the_model_itself():
    model, (x, y) = loss_model(lambda: layers.Dropout(0.5, seed=1)), data(5)
    assert_close(numpy(ParallelModel(model, 1)([x, y])), numpy(model([x, y])), 1e-7)


# === State ===


def test_moving_statistics_are_the_mean_of_the_replicas():
    def build():
        return loss_model(lambda: layers.BatchNormalization(momentum=0.5, name="bn"))

    x, y = data(12)
    for count in COUNTS:
        parts = []
        for rows, targets in zip(np.split(x, count), np.split(y, count), strict=True):
            model = build()
            model([rows, targets], training=True)
            parts.append(model.get_layer("bn").get_weights()[2:])
        model = build()
        ParallelModel(model, count)([x, y], training=True)
        assert_close(model.get_layer("bn").get_weights()[2:], np.mean(parts, axis=0))
        before = arrays(model)
        ParallelModel(model, count)([x, y])  # not training: nothing moves
        assert_close(arrays(model), before, 0)


def dropped(parallel, rows=12):
    return numpy(parallel(np.ones((rows, 64), "float32"), training=True))


def dropout_model():
    x = keras.Input((64,))
    return keras.Model(x, layers.Dropout(0.5, seed=11)(x))


@pytest.mark.parametrize("count", [2, 4])
def test_replicas_draw_different_random_numbers_from_one_seed(count):
    model, reference = dropout_model(), dropout_model()
    parallel = ParallelModel(model, count)
    first, second = dropped(parallel), dropped(parallel)
    for draw in (first, second):
        replicas = np.split(draw, count)
        for i in range(count):
            for k in range(i):
                assert np.mean(replicas[i] != replicas[k]) > 0.3
        alone = numpy(reference(np.ones((12 // count, 64), "float32"), training=True))
        np.testing.assert_array_equal(replicas[0], alone)
    assert np.mean(first != second) > 0.3
    # what is stored advances as if one model had been called twice
    assert_close([v.value for v in model.variables], [v.value for v in reference.variables], 0)
    again = ParallelModel(dropout_model(), count)
    np.testing.assert_array_equal(dropped(again), first)


class Unseeded(layers.Layer):
    def call(self, x):
        return x + keras.random.uniform(ops.shape(x))

    def compute_output_shape(self, x_shape):
        return x_shape


def test_random_numbers_that_no_layer_owns_are_an_error_not_the_same_ones_each_step():
    x = keras.Input((4,))
    parallel = ParallelModel(keras.Model(x, Unseeded()(x)), 2)
    with pytest.raises(ValueError, match="SeedGenerator"):
        parallel.predict_on_batch(np.ones((4, 4), "float32"))


def test_losses_of_layers_are_averaged_and_of_weights_counted_once():
    class Penalty(layers.Layer):
        def call(self, x):
            self.add_loss(ops.mean(ops.square(x)))
            return x

    def build():
        return loss_model(Penalty, lambda: layers.Dense(3, kernel_regularizer="l2"))

    model, (x, y) = build(), data(8)
    model([x, y])
    expected = sorted(float(loss) for loss in model.losses)
    parallel = ParallelModel(build(), 2)
    parallel([x, y])
    assert_close([sorted(float(loss) for loss in parallel.losses)], [expected])


def test_masks_of_outputs_survive():
    tokens = keras.Input((5,), dtype="int32")
    embedded = layers.Embedding(9, 3, mask_zero=True)(tokens)
    model = keras.Model(tokens, layers.LSTM(2, return_sequences=True)(embedded))
    parallel = ParallelModel(model, 2)
    rows = np.array([[1, 2, 0, 0, 0], [3, 4, 5, 0, 0], [1, 1, 1, 1, 1], [2, 0, 0, 0, 0]], "int32")
    np.testing.assert_allclose(numpy(parallel(rows)), numpy(model(rows)), atol=1e-6)
    targets = np.random.default_rng(0).normal(size=(4, 5, 2)).astype("float32")
    losses = []
    for trained in (model, parallel):
        trained.compile(loss="mse", optimizer=keras.optimizers.SGD(0.0))
        losses.append(trained.evaluate(rows, targets, verbose=0))
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


# === The file alone ===


def test_the_file_works_alone_in_another_place(tmp_path):
    source = Path(parallel_model.__file__)
    (tmp_path / "somewhere_else.py").write_text(source.read_text())
    (tmp_path / "use.py").write_text(
        "import os, sys\n"
        "import somewhere_else\n"
        "assert not {'keras', 'jax', 'tensorflow', 'mrcnn_parallel'} & set(sys.modules)\n"
        "import keras\n"
        "import numpy as np\n"
        "if keras.backend.backend() == 'tensorflow':\n"
        "    import tensorflow as tf\n"
        "    two = [tf.config.LogicalDeviceConfiguration()] * 2\n"
        "    cpu = tf.config.list_physical_devices('CPU')[0]\n"
        "    tf.config.set_logical_device_configuration(cpu, two)\n"
        "x = keras.Input((4,))\n"
        "model = keras.Model(x, keras.layers.Dense(1)(x))\n"
        "parallel = somewhere_else.ParallelModel(model, gpu_count=2)\n"
        "parallel.compile('sgd', 'mse')\n"
        "parallel.fit(np.ones((8, 4)), np.ones((8, 1)), verbose=0)\n"
        "print(parallel.predict(np.ones((3, 4)), verbose=0).shape)\n"
    )
    done = subprocess.run(
        [sys.executable, "use.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("(3, 1)")
