"""Where ParallelModel's replicas, their gradients, data and variables really are."""

import functools
import logging
import re
from collections import Counter

import keras
import numpy as np
import pytest
from keras import layers

from mrcnn_parallel import parallel_model
from mrcnn_parallel.parallel_model import ParallelModel
from tests.parallel_models import (
    ON_JAX,
    TrainOnOutput,
    data,
    hidden,
    loss_model,
    regression_model,
)

jax_only = pytest.mark.skipif(not ON_JAX, reason="of the JAX engine")
tensorflow_only = pytest.mark.skipif(ON_JAX, reason="of the TensorFlow engine")
COUNTS = (2, 3, 4)


# === JAX ===


def shards(array):
    """[(device, first row, rows)] of a JAX array."""
    found = []
    for shard in array.addressable_shards:
        found.append((shard.device, shard.index[0].start or 0, shard.data.shape[0]))
    return sorted(found, key=lambda shard: shard[1])


@jax_only
@pytest.mark.parametrize("count", COUNTS)
def test_each_device_receives_its_own_rows_of_a_batch(count):
    import jax

    parallel = ParallelModel(regression_model(), count)
    x, y = data(12)
    labels = np.arange(12, dtype="int64")
    placed = parallel.shard_batch({"x": x, "more": (y, None, labels)})
    size = 12 // count
    expected = [(device, i * size, size) for i, device in enumerate(jax.devices()[:count])]
    for array, source in ((placed["x"], x), (placed["more"][0], y), (placed["more"][2], labels)):
        assert shards(array) == expected
        np.testing.assert_array_equal(array, source)
    assert placed["more"][1] is None
    assert parallel.shard_batch(placed)["x"] is placed["x"]
    uneven = data(11)[0]
    assert parallel.shard_batch(uneven) is uneven


@jax_only
@pytest.mark.parametrize("method", ["fit", "train_on_batch", "evaluate", "predict", "validation"])
def test_every_way_in_puts_rows_on_their_devices(method, monkeypatch):
    parallel = ParallelModel(regression_model(), 2)
    parallel.compile(loss="mse", optimizer="sgd")
    batches = []
    original = parallel.shard_batch
    monkeypatch.setattr(
        parallel, "shard_batch", lambda batch: batches.append(original(batch)) or batches[-1]
    )
    x, y = data(8)
    validation = {"validation_data": (x, y), "validation_batch_size": 4}
    {
        "fit": lambda: parallel.fit(x, y, batch_size=4, verbose=0),
        "validation": lambda: parallel.fit(x, y, batch_size=8, verbose=0, **validation),
        "train_on_batch": lambda: parallel.train_on_batch(x, y),
        "evaluate": lambda: parallel.evaluate(x, y, batch_size=4, verbose=0),
        "predict": lambda: parallel.predict(x, batch_size=4, verbose=0),
    }[method]()
    assert len(batches) >= {"train_on_batch": 1, "validation": 3}.get(method, 2)
    for batch in batches:
        for array in keras.tree.flatten(batch):
            assert array is None or len({device for device, _, _ in shards(array)}) == 2


@jax_only
def test_weights_live_on_every_device_and_the_step_is_compiled_once(caplog):
    """Also where a scheduler sets the learning rate, metrics are reset and weights are loaded."""
    import jax

    count = 3
    parallel = TrainOnOutput(loss_model(hidden, layers.BatchNormalization), count)
    parallel.compile(optimizer="adam")
    x, y = data(12)
    halve = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2)
    with jax.log_compiles(), caplog.at_level(logging.DEBUG):
        parallel.fit([x, y], batch_size=6, epochs=2, verbose=0, callbacks=[halve])
        parallel.set_weights(parallel.get_weights())
        parallel.fit([x, y], batch_size=6, epochs=1, verbose=0)
    compiled = [m for m in caplog.messages if re.search("Finished XLA comp.*train_step", m)]
    assert len(compiled) == 1
    for variable in parallel.variables + parallel.optimizer.variables:
        value = variable.value
        assert value.sharding.is_fully_replicated
        assert {shard.device for shard in value.addressable_shards} == set(jax.devices()[:count])


def lowered_step(model, count, rows):
    """The step of `model` on `count` devices after one on `rows` rows, lowered as fit does it."""
    import jax

    parallel = TrainOnOutput(model, count)
    parallel.compile(optimizer="sgd")
    batch = list(data(rows))
    parallel.train_on_batch(batch)
    groups = (
        parallel.trainable_variables,
        parallel.non_trainable_variables,
        parallel.optimizer.variables,
        parallel.metrics_variables,
    )
    state = parallel.replicate(tuple([v.value for v in group] for group in groups))
    return jax.jit(parallel.train_step).lower(state, parallel.shard_batch((batch, None, None)))


@jax_only
def test_a_step_is_one_program_whose_only_collectives_are_all_reduces():
    lowered = lowered_step(loss_model(hidden, layers.BatchNormalization), count=4, rows=8)
    # one for all gradients, joined, and one for each moving statistic (2)
    assert lowered.as_text().count("stablehlo.all_reduce") == 3
    compiled = lowered.compile()
    kinds = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"
    counted = Counter(re.findall(rf" ({kinds})(?:-start)?\(", compiled.as_text()))
    assert set(counted) == {"all-reduce"}
    assert counted["all-reduce"] <= 4  # these and the loss; newer XLA makes them one on CPU too
    from jax.sharding import PartitionSpec

    (_, arguments), _ = compiled.input_shardings
    assert {s.spec for s in keras.tree.flatten(arguments) if s} == {PartitionSpec("replica")}


@jax_only
@pytest.mark.parametrize(
    ("count", "collective", "expected"),
    [
        (2, "collective_permute", ["13xf32", "28xbf16", "32xf32", "54xbf16"]),
        (3, "all_reduce", ["24xf32", "32xf32", "54xbf16", "8xf32", "9xf32"]),
    ],
)
def test_gradients_are_summed_in_joined_pieces_the_last_layers_first(
    count, collective, expected, monkeypatch
):
    """Two replicas swap bfloat16 where layers compute in it; three sum in the weights' dtype."""
    # hidden: 4x8 and 8 values, wide: 8x6 and 6 in 16 bits, mixed: 6x4, 4, and prediction: 4x1 and 1
    monkeypatch.setattr(parallel_model, "_PIECE_BYTES", 7 * 4 + 1)
    wide = functools.partial(layers.Dense, 6, dtype=keras.DTypePolicy("bfloat16"))
    mixed = functools.partial(layers.Dense, 4, dtype=keras.DTypePolicy("mixed_bfloat16"))
    text = lowered_step(loss_model(hidden, wide, mixed), count, rows=6).as_text()
    pieces = re.findall(rf"{collective}.*?: \(tensor<(\d+x\w+)>\)", text, flags=re.DOTALL)
    assert sorted(pieces) == expected


@jax_only
def test_joining_weights_copies_none_of_them():
    text = lowered_step(loss_model(hidden), count=2, rows=4).compile().as_text()
    assert text.count(" concatenate(") == 1  # of the gradients


@jax_only
def test_every_replica_computes_on_its_own_rows_only():
    text = lowered_step(loss_model(hidden), count=4, rows=12).as_text()
    rows = {int(n) for n in re.findall(r"dot_general.*: \(tensor<(\d+)x4xf32>, tensor<4x8", text)}
    assert rows == {3}


@jax_only
def test_outputs_are_spread_over_the_devices():
    import jax

    parallel = ParallelModel(regression_model(), 4)
    outputs = parallel(data(8)[0])
    assert [shard[0] for shard in shards(outputs)] == jax.devices()[:4]


# === TensorFlow ===


def traced_step(parallel, batch, rows=None):
    """The graph of a loss and its gradients."""
    import tensorflow as tf

    @tf.function
    def step(*inputs):
        with tf.GradientTape() as tape:
            loss = parallel(list(inputs), training=True)[1]
        return tape.gradient(loss, [v.value for v in parallel.trainable_variables])

    return step.get_concrete_function(*(tf.TensorSpec((rows, *x.shape[1:])) for x in batch)).graph


def devices_of(graph, *kinds):
    """{operation type: Counter of devices}, outside of functions that the graph calls."""
    found = {kind: Counter() for kind in kinds}
    for operation in graph.get_operations():
        if operation.type in found:
            found[operation.type][operation.device] += 1
    return found


@tensorflow_only
@pytest.mark.parametrize("count", COUNTS)
def test_forward_and_backward_of_a_replica_are_on_its_device(count):
    parallel = ParallelModel(loss_model(hidden), count, jit_replicas=False)
    graph = traced_step(parallel, data(12))
    found = devices_of(graph, "MatMul", "Tanh", "TanhGrad", "StridedSlice", "ReadVariableOp")
    # forward: hidden and prediction; backward: 2 for prediction and, its rows being an input that
    # nothing is asked of, 1 for hidden
    assert found["MatMul"] == dict.fromkeys(parallel.devices, 5)
    assert found["Tanh"] == found["TanhGrad"] == dict.fromkeys(parallel.devices, 1)
    for operation in graph.get_operations():
        if operation.type == "StridedSlice" and "/slice/" in operation.name:
            assert operation.device == "/device:CPU:0"
    assert found["ReadVariableOp"].total() == 4  # each variable once, not once a replica
    named = [o.name for o in graph.get_operations() if o.type == "Tanh"]
    assert sorted(re.findall(r"replica_(\d)", " ".join(named))) == [str(i) for i in range(count)]


@tensorflow_only
def test_compiled_replicas_are_on_their_devices():
    parallel = ParallelModel(loss_model(hidden), 3, jit_replicas=True)
    graph = traced_step(parallel, data(12))
    calls = [o for o in graph.get_operations() if "PartitionedCall" in o.type]
    compiled = [o for o in calls if o.get_attr("f").name]
    assert Counter(o.device for o in compiled) == dict.fromkeys(parallel.devices, 2)
    assert not devices_of(graph, "MatMul")["MatMul"]


@tensorflow_only
def test_compiled_replicas_compute_no_gradients_of_frozen_layers():
    def gradients(model):
        graph = traced_step(ParallelModel(model, 2, jit_replicas=True), data(12))
        functions = graph.as_graph_def().library.function
        backward = [f for f in functions if "backward" in f.signature.name]
        return [len(f.signature.output_arg) for f in backward]

    model = loss_model(hidden)
    assert gradients(model) == [4, 4]  # kernels and biases; not the batch
    model.get_layer("hidden").trainable = False
    assert gradients(model) == [2, 2]


@tensorflow_only
def test_a_replica_sees_its_rows_only():
    graph = traced_step(ParallelModel(loss_model(hidden), 4, jit_replicas=False), data(12), rows=12)
    rows = {o.inputs[0].shape[0] for o in graph.get_operations() if o.type == "Tanh"}
    assert rows == {3}


@tensorflow_only
def test_replicas_that_run_eagerly_are_on_their_devices():
    class Where(layers.Layer):
        seen = ()

        def call(self, x):
            if hasattr(x, "device"):
                self.seen.append((x + 1).device)
            return x

    where = Where()
    where.seen = []
    x = keras.Input((4,))
    parallel = ParallelModel(keras.Model(x, where(x)), 4)
    del where.seen[:]
    parallel(data(8)[0])
    assert [name[-len("/device:CPU:0") :] for name in where.seen] == list(parallel.devices)


@tensorflow_only
def test_batches_stay_in_host_memory_until_they_are_cut():
    placed = ParallelModel(regression_model(), 2).shard_batch({"x": data(4)[0], "none": None})
    assert placed["x"].device.endswith("/device:CPU:0") and placed["none"] is None


@tensorflow_only
def test_replicas_are_compiled_by_default_only_where_all_layers_can_be(monkeypatch):
    import tensorflow as tf

    listed = tf.config.list_logical_devices
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: listed("CPU"))
    assert ParallelModel(regression_model(), 2)._engine.jit
    model = regression_model()
    model.get_layer("hidden").supports_jit = False
    assert not ParallelModel(model, 2)._engine.jit
    monkeypatch.undo()
    assert not ParallelModel(regression_model(), 2)._engine.jit
    assert ParallelModel(regression_model(), 2, jit_replicas=True)._engine.jit
    parallel = ParallelModel(regression_model(), 2)
    parallel.compile(loss="mse", optimizer="sgd")
    assert not parallel.jit_compile  # as a whole it would land on one device
