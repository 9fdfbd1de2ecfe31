"""What ParallelModel must do for models of tf_keras; run by tests/test_parallel_tf_keras.py.

A process of its own, with TF_USE_LEGACY_KERAS=1, LEGACY_MODE=graph or eager, and the package
`mrcnn` of this folder, with parallel_model.py copied into it, on the path.
"""

import os
import sys
from collections import Counter

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

K, layers = keras.backend, keras.layers
IMPORTED = set(sys.modules)
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 4)

from mrcnn.config import Config  # noqa: E402
from mrcnn.model import LOSSES, MaskRCNN  # noqa: E402
from mrcnn.parallel_model import MultiGpuModel, ParallelModel  # noqa: E402

GRAPH = os.environ["LEGACY_MODE"] == "graph"
graph_only = pytest.mark.skipif(not GRAPH, reason="of graph mode")
eager_only = pytest.mark.skipif(GRAPH, reason="of eager execution")


@pytest.fixture(autouse=True)
def _fresh():
    K.clear_session()
    tf.random.set_seed(5)


def seed_weights(model):
    """Gives layers the same weights in every run, in both modes."""
    rng = np.random.default_rng(4)
    for layer in model.layers:
        if layer.name not in ("anchors", "replicate"):
            noise = [rng.normal(0, 0.2, w.shape) for w in layer.get_weights()]
            # positive where they may be variances
            layer.set_weights([0.5 + np.abs(x) if x.ndim == 1 else x for x in noise])


def assert_close(actual, expected, tolerance=1e-5):
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=tolerance, rtol=tolerance)


def optimizer():
    optimizers = keras.optimizers.legacy if GRAPH else keras.optimizers
    return optimizers.SGD(0.02, momentum=0.9)


# === The package in Matterport's idiom ===


def batches(config, count, seed=1):
    """Inputs of the training graph, `count` batches."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        rows = config.BATCH_SIZE
        corner = rng.uniform(0, 0.6, (rows, 2, 2))
        boxes = np.concatenate([corner, corner + 0.3], axis=2).astype("float32")
        boxes *= config.IMAGE_SHAPE[0] if GRAPH else 1
        match = rng.choice([-1, 0, 1], (rows, 80, 1), p=[0.3, 0.4, 0.3])
        yield [
            rng.normal(size=(rows, *config.IMAGE_SHAPE)).astype("float32"),
            rng.uniform(0.5, 1, (rows, config.IMAGE_META_SIZE)).astype("float32"),
            np.maximum(match, 0).astype("int32"),
            rng.normal(size=(rows, 80, 4)).astype("float32"),
            rng.integers(1, config.NUM_CLASSES, (rows, 2)).astype("int32"),
            boxes,
            rng.uniform(size=(rows, 4, 4, 2)) < 0.5,
        ]


def changed_layers(model, before):
    """Names of the layers whose weights are not those of the list `before`."""
    pairs = zip(model.weights, before, model.get_weights(), strict=True)
    return {w.name.split("/")[0] for w, a, b in pairs if np.abs(a - b).max() > 0}


def generator(config, count):
    """Matterport gives (list of inputs, []), which tf_keras takes in graph mode only."""
    return ((x, []) if GRAPH else (tuple(x),) for x in batches(config, count))


def of_one_replica(model, config):
    """Function (inputs) -> (the five losses, gradients of their sum), of a model without replicas.

    The losses are weighted, and weight decay is in the sum, as in the package's `compile`; but in
    graph mode tf_keras ignores losses that don't depend on the inputs, with replicas and without.
    """

    def total(losses):
        weighted = [
            x * config.LOSS_WEIGHTS.get(n, 1.0) for x, n in zip(losses, LOSSES, strict=True)
        ]
        if GRAPH:
            return weighted, tf.add_n(weighted)
        decayed = [w for w in model.trainable_weights if "gamma" not in w.name]
        decayed = [w for w in decayed if "beta" not in w.name]
        l2 = [tf.reduce_sum(w**2) / tf.cast(tf.size(w), tf.float32) for w in decayed]
        return weighted, tf.add_n(weighted) + config.WEIGHT_DECAY * tf.add_n(l2)

    if GRAPH:
        weighted, loss = total(model.outputs[-5:])
        gradients = tf.gradients(loss, model.trainable_weights)
        function = K.function(model.inputs, [*weighted, *gradients])

        def run(inputs):
            values = function(inputs)
            return values[:5], values[5:]

        return run

    def run(inputs):
        with tf.GradientTape() as tape:
            weighted, loss = total(model(inputs, training=True)[-5:])
        gradients = tape.gradient(loss, model.trainable_weights)
        return [w.numpy() for w in weighted], [g.numpy() for g in gradients]

    return run


@pytest.mark.parametrize("count", [2, 3])
def test_training_is_that_of_one_device_with_averaged_gradients(count, tmp_path):
    config = Config(GPU_COUNT=count)
    model = MaskRCNN("training", config)
    parallel = model.keras_model
    inner = parallel.inner_model
    assert isinstance(parallel, ParallelModel) and isinstance(parallel, keras.Model)
    assert parallel.output_names == inner.output_names
    seed_weights(inner)
    first = inner.get_weights()
    history = model.train(generator(config, 5), steps=1, epochs=5)
    assert set(history) == {"loss", *LOSSES}
    trained = inner.get_weights()

    inner.set_weights(first)
    trainable = [i for i, w in enumerate(inner.weights) if w.trainable]
    replica = of_one_replica(inner, config)
    speed = [0.0] * len(trainable)
    moved = np.zeros(5)
    for step, inputs in enumerate(batches(config, 5)):
        parts = zip(*[np.split(x, count) for x in inputs], strict=True)
        losses, gradients = zip(*[replica(list(part)) for part in parts], strict=True)
        expected = np.mean(losses, axis=0)
        assert_close([history[name][step] for name in LOSSES], expected)
        moved += np.std(losses, axis=0)
        weights = inner.get_weights()
        for k, i in enumerate(trainable):
            gradient = np.mean([g[k] for g in gradients], axis=0)
            assert np.linalg.norm(gradient) < config.GRADIENT_CLIP_NORM
            speed[k] = config.LEARNING_MOMENTUM * speed[k] - config.LEARNING_RATE * gradient
            weights[i] = weights[i] + speed[k]
        inner.set_weights(weights)
    assert moved.min() > 0.01  # replicas saw different images
    assert_close(trained, inner.get_weights())
    layers_with_heads = {"conv1", "rpn_conv_shared", "mrcnn_class_logits", "mrcnn_mask"}
    assert layers_with_heads <= changed_layers(inner, first)


def test_a_checkpoint_loads_on_one_device_and_both_detect_the_same(tmp_path):
    training = MaskRCNN("training", Config(GPU_COUNT=2))
    path = str(tmp_path / "mask_rcnn_0001.h5")
    save = keras.callbacks.ModelCheckpoint(path, save_weights_only=True)
    config = training.config
    training.train(generator(config, 2), steps=2, callbacks=[save])

    images, metas = next(batches(config, 1, seed=2))[:2]
    results = []
    for settings in ({"GPU_COUNT": 1, "IMAGES_PER_GPU": 4}, {"GPU_COUNT": 2, "IMAGES_PER_GPU": 2}):
        model = MaskRCNN("inference", Config(**settings))
        model.keras_model.load_weights(path, by_name=True)
        results.append(model.detect(images, metas))
        assert model.config.BATCH_SIZE == 4
        inner = getattr(model.keras_model, "inner_model", model.keras_model)
        trained = training.keras_model.inner_model.get_layer("mrcnn_class_logits").get_weights()
        assert_close(inner.get_layer("mrcnn_class_logits").get_weights(), trained, 0)
    assert results[0][0].shape == (4, 4, 6)
    assert_close(results[1], results[0])

    whole = MaskRCNN("training", Config(GPU_COUNT=1, IMAGES_PER_GPU=4))
    whole.keras_model.load_weights(path)
    assert_close(whole.keras_model.get_weights(), training.keras_model.get_weights(), 0)


def test_only_the_layers_that_are_set_trainable_learn():
    model = MaskRCNN("training", Config(GPU_COUNT=2))
    inner = model.keras_model.inner_model
    model.set_trainable(("mrcnn_",))
    before = inner.get_weights()
    model.train(generator(model.config, 1), steps=1)
    changed = changed_layers(inner, before)
    assert changed and all(name.startswith("mrcnn_") for name in changed)


def devices_of(graph, *kinds):
    found = {kind: Counter() for kind in kinds}
    for operation in graph.get_operations():
        if operation.type in found and not operation.name.startswith("alone/"):
            found[operation.type][operation.device] += 1
    return found


@pytest.mark.parametrize("count", [2, 3])
def test_forward_and_backward_of_a_replica_are_on_its_device(count):
    config = Config(GPU_COUNT=count)
    with tf.name_scope("alone"):
        inner = MaskRCNN("training", Config(IMAGES_PER_GPU=2)).keras_model
    parallel = ParallelModel(inner, count)
    kinds = ["Conv2D", "CropAndResize", "TopKV2", "Conv2DBackpropFilter", "MatMul"]
    if GRAPH:
        parallel.add_loss(tf.add_n([parallel.get_layer(name).output for name in LOSSES]))
        parallel.compile(optimizer(), loss=[None] * len(parallel.outputs))
        next_batch = next(batches(config, 1))
        parallel.train_on_batch(next_batch, [])
        graph = tf.compat.v1.get_default_graph()
    else:

        @tf.function
        def step(*inputs):
            with tf.GradientTape() as tape:
                loss = tf.add_n(parallel(list(inputs), training=True)[-5:])
            return tape.gradient(loss, parallel.trainable_weights)

        graph = step.get_concrete_function(*next(batches(config, 1))).graph
    found = devices_of(graph, *kinds, "ReadVariableOp")
    reads = found.pop("ReadVariableOp")
    for kind, devices in found.items():
        assert set(devices) == set(parallel.devices), (kind, devices)
        assert len(set(devices.values())) == 1, (kind, devices)
    if not GRAPH:  # each variable once, not once a replica
        assert reads.total() == len(inner.weights)


@graph_only
def test_a_session_runs_the_replicas_where_the_graph_says():
    options = tf.compat.v1.RunOptions(output_partition_graphs=True)
    metadata = tf.compat.v1.RunMetadata()
    parallel = ParallelModel(regression_model(), 3)
    parallel.compile(optimizer(), loss="mse", options=options, run_metadata=metadata)
    parallel.train_on_batch(*data(6))
    placed = {}
    for partition in metadata.partition_graphs:
        for node in partition.node:
            if node.op in ("BiasAddGrad", "TanhGrad"):
                placed.setdefault(node.op, set()).add(node.device)
    assert {len(devices) for devices in placed.values()} == {3} and len(placed) == 2


# === Any model ===


class Penalty(layers.Layer):
    """Adds the mean square of its input to the losses."""

    def call(self, x):
        self.add_loss(0.3 * tf.reduce_mean(tf.square(x)))
        return x


def regression_model(*more):
    """x (B, 4) -> prediction (B, 1); `more` are layers before the last."""
    x = keras.Input((4,), name="x")
    y = layers.Dense(8, activation="tanh", name="hidden", kernel_regularizer="l2")(x)
    for layer in more:
        y = layer(y)
    return keras.Model(x, layers.Dense(1, name="prediction")(y))


def data(rows=12, seed=3):
    x = np.random.default_rng(seed).normal(size=(rows, 4)).astype("float32")
    return x, (x[:, :1] * 2 - x[:, 1:2] + 0.5).astype("float32")


def clone(model):
    """Another of the same kind with the same weights."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy


@pytest.mark.parametrize("count", [1, 2, 4])
def test_replicas_learn_what_one_device_learns_from_the_whole_batch(count):
    """With an activity regularizer, losses of layers, and an embedding."""
    ids = keras.Input((3,), dtype="int32", name="ids")
    x = keras.Input((4,), name="x")
    words = layers.Embedding(5, 4, name="words", input_length=3)(ids)
    words = Penalty(name="penalty")(layers.Flatten()(words))
    y = layers.Dense(8, activity_regularizer="l2", kernel_regularizer="l2")(x)
    y = layers.Dense(1, name="prediction")(layers.concatenate([words, y]))
    model = keras.Model({"x": x, "ids": ids}, y)
    copy = clone(model)
    parallel = MultiGpuModel(copy, num_gpus=count)
    features, targets = data()
    ids = np.random.default_rng(0).integers(0, 5, (12, 3)).astype("int32")
    losses = []
    for each in (model, parallel):
        each.compile(optimizer(), loss="mse")
        inputs = {"x": features, "ids": ids}
        losses.append([each.train_on_batch(inputs, targets) for _ in range(3)])
    assert_close(losses[1], losses[0])
    assert losses[0][2] < losses[0][0]
    assert_close(copy.get_weights(), model.get_weights())


def test_a_models_own_added_loss_is_averaged():
    x, target = keras.Input((4,), name="x"), keras.Input((1,), name="target")
    prediction = layers.Dense(1, name="prediction")(x)
    model = keras.Model([x, target], prediction)
    model.add_loss(tf.reduce_mean(tf.square(prediction - target)))
    parallel = ParallelModel(model, 2)
    parallel.compile(optimizer())
    x, y = data(4)
    expected = np.mean((model.predict([x, y], verbose=0) - y) ** 2)
    np.testing.assert_allclose(parallel.train_on_batch([x, y]), expected, rtol=1e-5)


@pytest.mark.parametrize("fused", [True, False])
def test_moving_statistics_are_averaged_over_replicas(fused):
    x = keras.Input((2, 2, 3))
    norm = layers.BatchNormalization(momentum=0.9, fused=fused, name="norm")
    model = keras.Model(x, layers.Dense(1)(layers.Flatten()(norm(x))))
    parallel = ParallelModel(model, 3)
    parallel.compile(optimizer(), loss="mse")
    rows = np.random.default_rng(0).normal(2, 3, (6, 2, 2, 3)).astype("float32")
    mean, variance = np.zeros(3), np.ones(3)
    for _ in range(2):
        parallel.train_on_batch(rows, np.zeros((6, 1)))
        halves = [part.reshape(-1, 3) for part in np.split(rows, 3)]
        mean = 0.9 * mean + 0.1 * np.mean([h.mean(0) for h in halves], axis=0)
        correction = 8 / 7 if fused else 1
        variances = [h.var(0) * correction for h in halves]
        variance = 0.9 * variance + 0.1 * np.mean(variances, axis=0)
    moving = norm.get_weights()[2:]
    assert_close(moving, [mean, variance])
    parallel.test_on_batch(rows, np.zeros((6, 1)))
    parallel.predict(rows, verbose=0)
    assert_close(norm.get_weights()[2:], moving, 0)
    norm.trainable = False
    parallel.compile(optimizer(), loss="mse")
    parallel.train_on_batch(rows, np.zeros((6, 1)))
    assert_close(norm.get_weights()[2:], moving, 0)


def test_a_variable_that_is_assigned_in_a_branch_only_is_named():
    class Counts(layers.Layer):
        def build(self, shape):
            self.seen = self.add_weight(name="seen", shape=(), trainable=False)

        def call(self, x):
            tf.cond(tf.reduce_sum(x) > 0, lambda: self.seen.assign_add(1.0), lambda: 0.0)
            return x

    with pytest.raises(ValueError, match="assigns counts/seen:0 in a conditional branch"):
        parallel = ParallelModel(regression_model(Counts(name="counts")), 2)
        parallel.compile(optimizer(), loss="mse")
        parallel.train_on_batch(*data())


def test_each_replica_drops_other_units():
    x = keras.Input((50,))
    model = keras.Model(x, layers.Dropout(0.5, seed=1)(x, training=True))
    rows = ParallelModel(model, 2).predict(np.ones((4, 50), "float32"), verbose=0)
    assert set(np.unique(rows)) == {0, 2}
    assert (rows[:2] != rows[2:]).any()


def test_any_number_of_rows_is_predicted_and_the_last_replica_takes_the_remainder():
    def plus_first(t):
        return t + t[:1]

    x = keras.Input((1,))
    parallel = ParallelModel(keras.Model(x, layers.Lambda(plus_first)(x)), 3)
    rows = np.arange(8, dtype="float32")[:, None]
    expected = rows + np.array([0, 0, 2, 2, 4, 4, 4, 4])[:, None]
    np.testing.assert_array_equal(parallel.predict(rows, verbose=0), expected)
    model = regression_model()
    parallel = ParallelModel(model, 3)
    for count in (1, 2, 5):
        x, _ = data(count)
        expected = model.predict(x, verbose=0)
        assert_close(parallel.predict(x, verbose=0), expected, 1e-6)
        assert_close(parallel.predict_on_batch(x), expected, 1e-6)


def test_the_last_replica_trains_on_the_remainder():
    model = regression_model()
    copy = clone(model)
    x, y = data(11)
    losses = []
    for each in (model, ParallelModel(copy, 3)):
        each.compile(optimizer(), loss="mse")
        losses.append([each.train_on_batch(x, y) for _ in range(3)])
    assert_close(losses[1], losses[0])
    assert_close(copy.get_weights(), model.get_weights())


def test_a_training_batch_smaller_than_the_number_of_replicas_is_an_error():
    parallel = ParallelModel(regression_model(), 3)
    parallel.compile(optimizer(), loss="mse")
    x, y = data(2)
    message = "A training batch of 2 rows is smaller than gpu_count=3"
    with pytest.raises(ValueError, match=message):
        parallel.fit(x, y, verbose=0)
    with pytest.raises(ValueError, match=message):
        parallel.fit(((x, y) for _ in range(3)), steps_per_epoch=2, verbose=0)
    with pytest.raises(ValueError, match=message):
        parallel.train_on_batch(x, y)
    assert np.isfinite(parallel.evaluate(x, y, verbose=0))


def test_a_reshape_to_the_rows_of_a_whole_batch_is_explained():
    """As in Matterport's DetectionLayer, where the layer doesn't read its config for it."""
    x = keras.Input((4,))
    y = layers.Lambda(lambda t: tf.reshape(t, [4, 2, 2]), name="detections")(x)
    parallel = ParallelModel(keras.Model(x, y), 2)
    rows = data(4)[0]
    message = r"(?s)reshapes its rows.*gpu_count=2.*write -1.*DETECTION_MAX_INSTANCES.*eshape"
    for run in (parallel.predict, parallel.predict_on_batch):
        with pytest.raises(ValueError, match=message):
            run(rows)
    if not GRAPH:
        with pytest.raises(ValueError, match=message):
            parallel(rows)


def test_outputs_keep_their_names_dtypes_and_nesting():
    x = keras.Input((4,), name="x")
    shared = layers.Dense(3, name="embedding")
    ids = layers.Lambda(lambda t: tf.argmax(t, axis=1), name="ids")(x)
    mean = layers.Lambda(tf.reduce_mean, name="mean")(x)
    outputs = {"a": shared(x), "b": [shared(-x), ids, mean]}
    model = keras.Model(x, outputs)
    parallel = ParallelModel(model, 2)
    assert sorted(parallel.output_names) == ["embedding", "embedding_1", "ids", "mean"]
    rows, _ = data(5)
    merged = parallel.predict_on_batch(rows)
    first, second, found, scalar = tf.nest.flatten(merged)  # graph mode gives a flat list
    assert_close([first + second], [2 * np.broadcast_to(model.get_weights()[1], (5, 3))])
    assert found.dtype == np.int64 and found.tolist() == rows.argmax(axis=1).tolist()
    expected = np.mean([rows[:2].mean(), rows[2:].mean()])
    assert np.shape(scalar) == ()
    np.testing.assert_allclose(scalar, expected, rtol=1e-5)
    assert parallel.get_layer("embedding") is not shared
    assert parallel.get_layer("ids").output.shape.as_list() == [None]
    assert parallel.get_layer("mean").output.shape.rank == 0


def test_layers_weights_summary_and_files_are_the_inner_models(tmp_path, capsys):
    model = regression_model()
    parallel = ParallelModel(model, 2)
    assert parallel.get_layer("hidden") is model.get_layer("hidden")
    assert [id(w) for w in parallel.weights] == [id(w) for w in model.weights]
    parallel.summary()
    assert "hidden" in capsys.readouterr().out
    parallel.save(str(tmp_path / "model.h5"))
    loaded = keras.models.load_model(str(tmp_path / "model.h5"), compile=False)
    assert loaded.get_config() == model.get_config()
    assert_close(loaded.get_weights(), model.get_weights(), 0)
    again = ParallelModel(loaded, 3)
    parallel.set_weights([w + 1 for w in parallel.get_weights()])
    parallel.save_weights(str(tmp_path / "weights.h5"))
    again.load_weights(str(tmp_path / "weights.h5"))
    assert_close(loaded.get_weights(), model.get_weights(), 0)


@eager_only
def test_training_goes_on_on_another_number_of_devices(tmp_path):
    """With the optimizer's state, here its momentum."""
    x, y = data()
    parallel = ParallelModel(regression_model(), 2)
    parallel.compile(optimizer(), loss="mse")
    parallel.fit(x, y, verbose=0)
    parallel.save(str(tmp_path / "run.keras"))
    again = ParallelModel(keras.models.load_model(str(tmp_path / "run.keras")), 3)
    for each in (parallel, again):
        each.fit(x, y, verbose=0)
    assert_close(again.get_weights(), parallel.get_weights())
    assert int(again.optimizer.iterations) == 2


@eager_only
@pytest.mark.parametrize("run_eagerly", [True, False])
def test_mixed_precision_and_eager_steps(run_eagerly):
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        model = regression_model(layers.BatchNormalization())
    finally:
        keras.mixed_precision.set_global_policy("float32")
    parallel = ParallelModel(model, 2)
    parallel.compile(optimizer(), loss="mse", run_eagerly=run_eagerly)
    x, y = data()
    losses = parallel.fit(x, y, epochs=5, batch_size=12, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


def test_what_cannot_be_wrapped_is_named():
    model = regression_model()
    with pytest.raises(ValueError, match=r"gpu_count=9 needs 9 devices.*Try reducing gpu_count"):
        ParallelModel(model, 9)
    with pytest.raises(ValueError, match="is a ParallelModel already"):
        ParallelModel(ParallelModel(model, 2), 2)
    sparse = keras.Input((4,), sparse=True)
    with pytest.raises(ValueError, match="sparse"):
        ParallelModel(keras.Model(sparse, layers.Dense(1)(sparse)), 2)

    class Own(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(ValueError, match="ParallelModel wraps a functional"):
        ParallelModel(Own(), 2)


def test_no_other_keras_was_imported():
    assert tf.compat.v1.executing_eagerly_outside_functions() is not GRAPH
    assert "tf_keras" in IMPORTED
    top = {name.split(".")[0] for name in set(sys.modules) - IMPORTED}
    assert not top & {"keras", "jax", "mrcnn_parallel"}
