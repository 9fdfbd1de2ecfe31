"""ParallelModel: a Keras model that runs on several devices, one slice of the batch on each.

This file stands alone: it imports nothing from its package, so it can be copied into any other.
It uses the Keras of the model it is given, on TensorFlow or on JAX, and imports neither before.

    parallel = ParallelModel(keras_model, gpu_count=2)
    parallel.compile(...); parallel.fit(...)          # then save, or go on with keras_model

How it works. The wrapper is a functional model: the inner model's inputs -> one layer (`Replicate`)
-> one identity layer for each output, with the output's name. `Replicate` reads every variable of
the inner model once and runs a pure function, (values, rows) -> (outputs, updates), on each device:

    TensorFlow  under `tf.device`, forward and backward; slices are cut in host memory
    JAX         in `jax.shard_map` over a 1-D mesh; gradients meet in one all-reduce a weight

Then outputs of shape () are averaged and all others are concatenated on axis 0, updates of
non-trainable variables (moving statistics) are averaged, and the variables assigned once.
"""

import functools
import importlib
import inspect
import itertools
import logging
import re
import time

import numpy as np

log = logging.getLogger(__name__)

_SUPPORTED = "ParallelModel wraps a functional keras.Model, or a Sequential one that has been built"
# Replica i adds i times this to the seed of every random generator: replica 0 draws what the model
# alone draws. The odd number nearest to 2**32 / golden ratio: multiples stay far apart modulo 2**32
_SEED_STEP = 0x9E3779B9


class ParallelModel:
    """`keras_model` on `gpu_count` devices; itself a functional model of the same Keras.

    Replica i gets rows `i * (B // n)` to `(i + 1) * (B // n)` of each input, B rows, n replicas.
    An output of shape () is the plain mean of the replicas' values, whatever rows each had; every
    other output is concatenated on axis 0, in order. Names, order and nesting of the outputs are
    the inner model's; a repeated name gets `_1`, `_2`.

    Rows. On TensorFlow the last replica takes the remainder. On JAX replicas have equal rows.
    `predict`, `evaluate` and calls with `training` not True take any number of rows: where it does
    not fit, rows are repeated to fill up and their outputs dropped (a mean of shape () includes
    them). Training on rows that do not fit is a ValueError: fewer than gpu_count, or on JAX not
    divisible by it. The last batch that `fit` cuts from arrays counts too: 250 rows in batches of
    32 end with 26, which 4 JAX replicas refuse. That is checked before the first step.

    State. The variables are the inner model's own. Averages over replicas: moving statistics and
    other floating-point state that a call updates. Each replica draws different random numbers,
    all from the seeds that the inner model stores: give layers a `keras.random.SeedGenerator`.

    Saving. `save`, `save_weights`, `load_weights`, `export` and `to_json` are the inner model's, so
    a file from 8 devices opens on 1 and back. `compile` also compiles the inner model, with the
    same optimizer object, so a `.keras` file has the optimizer's state. To go on training:

        parallel = ParallelModel(keras.models.load_model("run.keras"), gpu_count=4)
        parallel.fit(...)           # compiled already: a compiled model hands over its optimizer

    Losses that layers add (`add_loss`) are averaged over replicas. `predict` gives an output of
    shape () as one value a batch, shape (batches,); `predict_on_batch` as it is.

    A training loop of one's own, or a model that calls this one, on JAX: pass host batches through
    `shard_batch`, and the variables' values through `replicate` before the jitted step.

    Args:
        keras_model: functional Model or built Sequential, inputs (B, ...), dicts and lists allowed.
        gpu_count: number of replicas, >= 1. On a machine without GPUs, CPU devices count.
        jit_replicas: TensorFlow only: compile each replica with XLA. None: on GPUs yes, else no.
            (JAX compiles the whole step.)

    Attributes:
        inner_model: keras_model.
        gpu_count: as given.
        devices: names of the devices, a tuple, replica 0 first.

    Raises:
        ValueError: not such a model; or fewer devices than gpu_count.
    """

    def __new__(cls, keras_model, *args, **kwargs):
        concrete = _concrete_class(cls, _family_of(keras_model))
        return super().__new__(concrete)

    def __init__(self, keras_model, gpu_count, jit_replicas=None):
        started = time.perf_counter()
        family = _family_of(keras_model)
        if isinstance(gpu_count, bool) or not isinstance(gpu_count, (int, np.integer)):
            raise ValueError(f"gpu_count must be a whole number, not {gpu_count!r}.")
        engine = family.engine(int(gpu_count), jit_replicas)
        inputs, outputs, layer = family.graph(keras_model, engine)
        super().__init__(inputs=inputs, outputs=outputs, name=f"parallel_{keras_model.name}")
        self.dtype_policy = keras_model.dtype_policy  # decides about loss scaling in `compile`
        self._engine = engine
        self._replicate_layer = layer
        self.gpu_count = engine.count
        self.devices = tuple(engine.names)
        if getattr(keras_model, "compiled", False) and keras_model.optimizer is not None:
            settings = dict(keras_model._compile_config.config)
            self.compile(**{**settings, "optimizer": keras_model.optimizer})
        log.info(
            "%s runs as %d replica(s) on %s; prepared in %.2f s",
            *(keras_model.name, self.gpu_count, ", ".join(self.devices)),
            time.perf_counter() - started,
        )

    @property
    def inner_model(self):
        """The model that was wrapped; it owns the layers and the variables."""
        return self._replicate_layer.model

    def get_layer(self, name=None, index=None):
        """A layer of the wrapper (an output by its name), else the inner model's of that name."""
        if name is not None and all(layer.name != name for layer in self.layers):
            return self.inner_model.get_layer(name=name)
        return super().get_layer(name=name, index=index)

    def compile(self, *args, **kwargs):
        """As `keras.Model.compile`; the inner model is compiled alike and shares the optimizer."""
        super().compile(*args, **kwargs)
        settings = dict(self._compile_config.config)
        self.inner_model.compile(**{**settings, "optimizer": self.optimizer})

    def summary(self, *args, **kwargs):
        """Prints the wrapper and then the inner model."""
        super().summary(*args, **kwargs)
        self.inner_model.summary(*args, **kwargs)

    def save(self, *args, **kwargs):
        """Saves the inner model, with the state of the optimizer that both share."""
        return self.inner_model.save(*args, **kwargs)

    def save_weights(self, *args, **kwargs):
        """Saves the inner model's weights."""
        return self.inner_model.save_weights(*args, **kwargs)

    def load_weights(self, *args, **kwargs):
        """Loads weights into the inner model, whose variables are this model's."""
        return self.inner_model.load_weights(*args, **kwargs)

    def export(self, *args, **kwargs):
        """Exports the inner model."""
        return self.inner_model.export(*args, **kwargs)

    def to_json(self, **kwargs):
        """The inner model's architecture."""
        return self.inner_model.to_json(**kwargs)

    def get_config(self):
        """Raises NotImplementedError: what can be stored is the inner model."""
        raise NotImplementedError(
            "A ParallelModel has no config of its own, so that its files open on any number of "
            "devices: use its save() and to_json(), or its inner_model."
        )

    def shard_batch(self, batch):
        """Moves a nest of host arrays to where the replicas take their rows from.

        JAX: each device receives its rows only; when the mesh spans hosts, `batch` holds this
        host's rows. Rows that can't be shared equally, and arrays in place already, are returned as
        they are. TensorFlow: tensors in host memory, from which each replica's slice is moved.
        """
        return self._engine.shard_batch(batch)

    def replicate(self, values):
        """A nest of variables' values, on every replica's device (JAX; TensorFlow: as they are)."""
        return self._engine.replicate(values)

    def train_on_batch(self, x, y=None, sample_weight=None, **kwargs):
        """As `keras.Model.train_on_batch`."""
        return super().train_on_batch(*self.shard_batch((x, y, sample_weight)), **kwargs)

    def test_on_batch(self, x, y=None, sample_weight=None, **kwargs):
        """As `keras.Model.test_on_batch`."""
        return super().test_on_batch(*self.shard_batch((x, y, sample_weight)), **kwargs)

    def predict_on_batch(self, x):
        """As `keras.Model.predict_on_batch`; outputs of shape () keep it."""
        outputs = super().predict_on_batch(self.shard_batch(x))
        return self._scalars(lambda value: np.reshape(value, ()), outputs)

    def _scalars(self, function, outputs):
        """`outputs` with `function` on those whose shape in the model is ()."""
        tree = self._replicate_layer.tree
        flat = zip(tree.flatten(outputs), self.outputs, strict=True)
        flat = [x if output.shape else function(x) for x, output in flat]
        return tree.pack_sequence_as(outputs, flat)

    def _fit_arguments(self, fit, args, kwargs, equal):
        """The arguments of a call of `fit` by name; ValueError where arrays make unfit batches."""
        call = dict(inspect.signature(fit).bind(*args, **kwargs).arguments)
        arrays = self._replicate_layer.tree.flatten(call.get("x"))
        if call.get("steps_per_epoch") is None and all(getattr(x, "shape", ()) for x in arrays):
            rows = int(arrays[0].shape[0] * (1.0 - (call.get("validation_split") or 0.0)))
            size = min(rows, call.get("batch_size") or 32)
            for batch in (size, rows % size or size):
                _check_training_rows(batch, self.gpu_count, equal)
        return call


def MultiGpuModel(template_model, num_gpus, **options):
    """ParallelModel under another name that people know."""
    return ParallelModel(template_model, num_gpus, **options)


def _check_devices(count, names):
    """Raises ValueError unless there are `count` devices in `names`."""
    if count < 1:
        raise ValueError(f"gpu_count must be at least 1, not {count}.")
    if count > len(names):
        kind = re.search("[a-zA-Z]{3}", names[0]).group() if names else "no"
        raise ValueError(
            f"gpu_count={count} needs {count} devices ({kind} 0 to {count - 1}), but there are "
            f"{len(names)}: {', '.join(names)}. Try reducing gpu_count."
        )


def _check_training_rows(rows, count, equal):
    """Raises ValueError where `count` replicas can't share a training batch of `rows` rows."""
    if rows < count:
        raise ValueError(_too_few_rows(rows, count))
    if equal and rows % count:
        raise ValueError(
            f"gpu_count={count} does not divide a training batch of {rows} rows, and replicas on "
            "JAX must have equal rows. Use a batch size that gpu_count divides, and drop the last "
            "rows of the data where they don't fill such a batch."
        )


def _common_rows(tensors):
    """The number of rows of all `tensors`; None where the graph doesn't know it."""
    known = {x.shape[0] for x in tensors if x.shape[0] is not None}
    if len(known) > 1:
        raise ValueError(f"All inputs must have as many rows; these have {sorted(known)}.")
    return known.pop() if known else None


def _too_few_rows(rows, count):
    return (
        f"A training batch of {rows} rows is smaller than gpu_count={count}: every replica needs "
        "a row. Use a larger batch size, or drop the last rows of the data that don't fill a batch."
    )


# === Keras families: which Keras a model is made of, and the layers that this needs ===


def _family_of(model):
    """The Keras that `model` is made of, as one of the families below."""
    for cls in type(model).__mro__:
        if cls.__module__.split(".")[0] == "keras" and cls.__name__ == "Model":
            return _Keras3
    raise ValueError(f"{_SUPPORTED}, not {type(model).__name__}.")


@functools.cache
def _concrete_class(cls, family):
    """`cls` (ParallelModel or a subclass) joined to the model class of that Keras."""
    base = family.model_class()
    if issubclass(cls, base):
        return cls
    return type(cls.__name__, (cls, family.training(), base), {"__module__": cls.__module__})


class _Keras3:
    """Keras 3, on TensorFlow or JAX."""

    @staticmethod
    def model_class():
        """Keras' functional model class."""
        import keras

        tensor = keras.Input((1,))
        return type(keras.Model(tensor, tensor))

    @staticmethod
    def training():
        """What must differ in Keras' training functions, by backend."""
        return _JaxTraining if _Keras3.backend() == "jax" else _TensorFlowTraining

    @staticmethod
    def engine(count, jit):
        if _Keras3.backend() == "jax":
            return _Jax(count)
        return _TensorFlow(count, jit)

    @staticmethod
    def backend():
        import keras

        name = keras.backend.backend()
        if name not in ("tensorflow", "jax"):
            raise ValueError(f"ParallelModel runs on TensorFlow and JAX, not on {name}.")
        return name

    @staticmethod
    def graph(model, engine):
        """(inputs, outputs, Replicate layer) of a wrapper around `model`."""
        import keras

        _Keras3.check(model, keras)
        sequential = isinstance(model, keras.Sequential)
        structure = model.inputs[0] if sequential else model.input
        outputs = model.outputs[0] if sequential else model.output
        output_names = [model.layers[-1].name] if sequential else model.output_names
        inputs = keras.tree.map_structure(lambda tensor: _outer_input(keras, tensor), structure)
        names = [tensor.name for tensor in keras.tree.flatten(inputs)]
        layer = _replicate_class(keras)(model, engine, name=_unique("replicate", names))
        names.append(layer.name)
        flat = [
            # not autocast: boxes and class ids must leave as they are under any dtype policy
            keras.layers.Identity(name=_unique(name, names), dtype="float32", autocast=False)(value)
            for name, value in zip(output_names, layer(inputs), strict=True)
        ]
        return inputs, keras.tree.pack_sequence_as(outputs, flat), layer

    @staticmethod
    def check(model, keras):
        """Raises ValueError where `model` is of a kind that can't be wrapped."""
        if isinstance(model, ParallelModel):
            raise ValueError(f"{model.name} is a ParallelModel already: wrap its inner_model.")
        functional = isinstance(model, (_Keras3.model_class(), keras.Sequential))
        if not functional or not model.built or not model.inputs:
            raise ValueError(f"{_SUPPORTED}; {model.name} is a {type(model).__name__} that isn't.")
        if any(tensor.sparse for tensor in model.inputs):
            raise ValueError(f"{model.name} has a sparse input; ParallelModel slices dense ones.")


def _unique(name, taken):
    """`name`, or `name_1`, `name_2`...: the first that `taken` lacks, which gets it."""
    number, result = 0, name
    while result in taken:
        number += 1
        result = f"{name}_{number}"
    taken.append(result)
    return result


def _outer_input(keras, tensor):
    """The wrapper's input for an inner one: the same, or without its batch size, a replica's."""
    if tensor.shape[0] is None:
        return tensor
    return keras.Input(shape=tensor.shape[1:], dtype=tensor.dtype, name=tensor.name)


@functools.cache
def _replicate_class(keras):
    """The Replicate layer, for Keras 3."""
    from keras.src.backend import get_keras_mask, set_keras_mask

    class Recorder(keras.StatelessScope):
        """A stateless scope that knows which variables were assigned in it."""

        def __init__(self, state):
            super().__init__(state, collect_losses=True)
            self.assigned = []

        def add_update(self, update):
            self.assigned.append(update[0])
            super().add_update(update)

    class Replicate(keras.layers.Layer):
        """Runs `model` on the engine's devices; returns its outputs, merged, as a flat list."""

        tree = keras.tree

        def __init__(self, model, engine, name):
            super().__init__(name=name, dtype="float32", autocast=False)
            self.model = model
            self.engine = engine
            self.scalar = [len(output.shape) == 0 for output in model.outputs]
            self.supports_jit = engine.supports_jit

        @property
        def metrics(self):
            """Those of the model's layers, without the ones that the model was compiled with."""
            return [m for layer in self.model._flatten_layers() for m in layer._metrics]

        def compute_output_spec(self, inputs, training=None):
            def merged(output):
                shape = list(output.shape)
                if shape and shape[0] is not None:
                    shape[0] *= self.engine.count
                return keras.KerasTensor(shape, output.dtype)

            return [merged(output) for output in self.model.outputs]

        def call(self, inputs, training=None):
            if self.engine.count == 1:
                return keras.tree.flatten(self.model(inputs, training=training))
            variables = list(self.model.variables)
            if keras.backend.backend() == "tensorflow":  # on JAX Keras has no values for them here
                variables += [v for metric in self.metrics for v in metric.variables]
            outputs, masks, losses, updates = self.engine.run(
                functools.partial(self.run_replica, variables, bool(training)),
                [variable.value for variable in variables],
                inputs,
                [variable.trainable for variable in variables],
                bool(training),
                self.scalar,
            )
            for position, value in updates.items():
                variables[position].assign(value)
            for position, mask in masks.items():
                set_keras_mask(outputs[position], mask)
            self.model._clear_losses()  # the replicas' own: their mean takes their place
            for loss in losses:
                self.add_loss(loss)
            return outputs

        def run_replica(self, variables, training, values, inputs, seed_shift):
            """One replica: (outputs, masks, losses, updates); a pure function."""
            seeds = {k for k, v in enumerate(variables) if v.name == "seed_generator_state"}
            state = [seed_shift(x) if k in seeds else x for k, x in enumerate(values)]
            with Recorder(zip(variables, state, strict=True)) as scope:
                outputs = keras.tree.flatten(self.model(inputs, training=training))
            positions = {id(variable): k for k, variable in enumerate(variables)}
            updates = {}
            for variable in scope.assigned:
                if id(variable) not in positions:
                    raise ValueError(
                        f"A layer of {self.model.name} assigns {variable.path}, which the model "
                        "does not track, so replicas can't. Make it an attribute of its layer; "
                        "random numbers want a keras.random.SeedGenerator there."
                    )
                k = positions[id(variable)]
                value = scope.get_current_value(variable)
                # what is stored is the common seed: replica 0's, whose shift is 0
                updates[k] = value - (state[k] - values[k]) if k in seeds else value
            masks = {k: get_keras_mask(output) for k, output in enumerate(outputs)}
            masks = {k: mask for k, mask in masks.items() if mask is not None}
            return outputs, masks, list(scope.losses), updates

    return Replicate


# === TensorFlow ===


class _TensorFlow:
    """Replicas under `tf.device`; slices cut in host memory, merged where TensorFlow likes."""

    _TOO_SMALL = "ParallelModel: fewer rows in a training batch than replicas:"

    def __init__(self, count, jit):
        self.tf = importlib.import_module("tensorflow")
        gpus = self.tf.config.list_logical_devices("GPU")
        names = [d.name for d in gpus or self.tf.config.list_logical_devices("CPU")]
        _check_devices(count, names)
        self.count, self.names = count, names[:count]
        self.jit = bool(gpus) if jit is None else jit
        self.supports_jit = count == 1  # compiled as a whole, all replicas land on one device

    def shard_batch(self, batch):
        with self.tf.device("/cpu:0"):
            return self.tf.nest.map_structure(
                lambda x: x if x is None else self.tf.convert_to_tensor(x), batch
            )

    def replicate(self, values):
        return values

    def run(self, body, values, inputs, differentiable, training, scalar):
        tf = self.tf
        values = [tf.convert_to_tensor(value) for value in values]  # read once, not per replica
        rows, parts = self._slices(inputs, training)
        results = []
        for i, (device, part) in enumerate(zip(self.names, parts, strict=True)):
            with tf.device(device), tf.name_scope(f"replica_{i}"):
                results.append(self._run_on(device, body, values, part, differentiable, i))
        with tf.device(None), tf.name_scope("merge"):
            outputs, masks, losses, updates = zip(*results, strict=True)
            outputs = [
                self._mean(replicas) if is_scalar else self._concat(replicas, rows, training)
                for is_scalar, *replicas in zip(scalar, *outputs, strict=True)
            ]
            masks = {k: self._concat([m[k] for m in masks], rows, training) for k in masks[0]}
            losses = [self._mean(replicas) for replicas in zip(*losses, strict=True)]
            updates = {k: self._mean([u[k] for u in updates]) for k in updates[0]}
        return outputs, masks, losses, updates

    def _slices(self, inputs, training):
        """(rows, one nest of inputs for each replica), cut on the host so that only slices move."""
        tf, count = self.tf, self.count
        tensors = [x for x in tf.nest.flatten(inputs) if x is not None]
        rows = _common_rows(tensors)
        with tf.device("/cpu:0"), tf.name_scope("slice"):
            if rows is None:
                rows = tf.shape(tensors[0])[0]
                if training:
                    enough = tf.debugging.Assert(rows >= count, [self._TOO_SMALL, rows, count])
                    with tf.control_dependencies([enough]):
                        rows = tf.identity(rows)
                total = rows if training else tf.maximum(rows, count)
            else:
                if training:
                    _check_training_rows(rows, count, equal=False)
                total = max(rows, count)
            starts = [i * (total // count) for i in range(count)] + [total]

            def cut(x, start, stop):
                if x is None:
                    return None
                if total is rows:
                    return x[start:stop]
                return tf.gather(x, tf.range(start, stop) % rows)  # too few rows are repeated

            return rows, [
                tf.nest.map_structure(functools.partial(cut, start=start, stop=stop), inputs)
                for start, stop in itertools.pairwise(starts)
            ]

    def _run_on(self, device, body, values, inputs, differentiable, index):
        """One replica, pinned to `device` forward and backward.

        The ops of a tape's backward pass have no device of their own: left alone, TensorFlow runs
        those of all replicas on the first GPU. A custom gradient makes them under `tf.device`.
        """
        tf = self.tf
        shift = [index * _SEED_STEP, 0]

        def replica(values, inputs):
            return body(values, inputs, lambda seed: seed + tf.constant(shift, seed.dtype))

        if tf.executing_eagerly():
            return replica(values, inputs)
        tensors = [x for x in tf.nest.flatten(inputs) if x is not None]
        wanted = [*differentiable, *(_is_on_a_tape(x) for x in tensors)]

        def unpacked(*flat):
            # XLA compiles the gradients of all arguments: without this, also of frozen weights
            flat = [
                x if want else tf.stop_gradient(x) for x, want in zip(flat, wanted, strict=True)
            ]
            rest = iter(flat[len(values) :])
            rows = tf.nest.map_structure(lambda x: x if x is None else next(rest), inputs)
            return replica(flat[: len(values)], rows)

        if self.jit:
            unpacked = tf.function(unpacked, jit_compile=True, autograph=False)
        nested = []

        @tf.custom_gradient
        def run(*flat):
            watched = [x for x, want in zip(flat, wanted, strict=True) if want]
            with tf.GradientTape(persistent=True) as tape:
                tape.watch(watched)
                nested.append(unpacked(*flat))
            outputs = tf.nest.flatten(nested[-1])

            def backward(*gradients):
                used = [
                    (output, gradient)
                    for output, gradient in zip(outputs, gradients, strict=True)
                    if output.dtype.is_floating and gradient.op.type != "ZerosLike"
                ]
                found = [None] * len(watched)
                if used:
                    targets, upstream = zip(*used, strict=True)
                    with tf.device(device):
                        found = tape.gradient(list(targets), watched, list(upstream))
                found = iter(found)
                found = [next(found) if want else None for want in wanted]
                return [x if x is None else tf.convert_to_tensor(x) for x in found]

            return outputs, backward

        outputs = run(*values, *tensors)
        return tf.nest.pack_sequence_as(nested[-1], outputs)

    def _mean(self, replicas):
        """The mean of one value a replica; of integers, such as counters, the first one's."""
        if not replicas[0].dtype.is_floating:
            return replicas[0]
        return self.tf.add_n(replicas) / len(replicas)

    def _concat(self, replicas, rows, training):
        merged = self.tf.concat(replicas, axis=0)
        if training or (isinstance(rows, int) and rows >= self.count):
            return merged
        total = self.tf.maximum(rows, self.count)
        return merged[: self.tf.shape(merged)[0] * rows // total]

    def translated(self, error):
        """The ValueError for an error raised by the assertion in `_slices`; else None."""
        found = re.search(re.escape(self._TOO_SMALL) + r"\D*(\d+)", str(error))
        if found is None:
            return None
        return ValueError(_too_few_rows(int(found.group(1)), self.count))


def _is_on_a_tape(tensor):
    """Whether a gradient with respect to this input can be asked for; True where unknown."""
    if not tensor.dtype.is_floating:
        return False
    try:
        from tensorflow.python.eager.record import should_record_backprop
    except ImportError:
        return True
    return should_record_backprop([tensor])


class _TensorFlowTraining:
    """What differs in Keras' training functions on TensorFlow."""

    def fit(self, *args, **kwargs):
        self._fit_arguments(super().fit, args, kwargs, equal=False)
        try:
            return super().fit(*args, **kwargs)
        except self._engine.tf.errors.InvalidArgumentError as error:
            translated = self._engine.translated(error)
            if translated is None:
                raise
            raise translated from None

    def predict_step(self, data):
        return self._scalars(lambda x: self._engine.tf.reshape(x, (1,)), super().predict_step(data))


# === JAX ===


class _Jax:
    """Replicas in `jax.shard_map` over a 1-D mesh named "replica"."""

    supports_jit = True

    def __init__(self, count):
        self.jax = jax = importlib.import_module("jax")
        devices = jax.devices()
        _check_devices(count, [str(device) for device in devices])
        self.count, self.names = count, [str(device) for device in devices[:count]]
        self.mesh = jax.sharding.Mesh(np.array(devices[:count]), ("replica",))
        self.whole = jax.sharding.PartitionSpec()
        self.split = jax.sharding.PartitionSpec("replica")
        self.on_all = jax.sharding.NamedSharding(self.mesh, self.whole)
        self.by_rows = jax.sharding.NamedSharding(self.mesh, self.split)
        self.local_count = sum(d.process_index == jax.process_index() for d in devices[:count])

    def shard_batch(self, batch):
        jax = self.jax
        arrays = [x if isinstance(x, jax.Array) else np.asarray(x) for x in jax.tree.leaves(batch)]
        if self.count == 1 or any(x.ndim == 0 or x.shape[0] % self.local_count for x in arrays):
            return batch

        def place(x):
            if not isinstance(x, jax.Array):
                return jax.make_array_from_process_local_data(self.by_rows, np.asarray(x))
            if x.sharding.is_equivalent_to(self.by_rows, x.ndim):
                return x
            return jax.device_put(x, self.by_rows)

        return jax.tree.map(place, batch)

    def replicate(self, values):
        def place(x):
            if isinstance(x, self.jax.Array) and x.sharding.is_equivalent_to(self.on_all, x.ndim):
                return x
            return self.jax.device_put(x, self.on_all)

        return values if self.count == 1 else self.jax.tree.map(place, values)

    def run(self, body, values, inputs, differentiable, training, scalar):
        jax, jnp = self.jax, self.jax.numpy
        rows = _common_rows(jax.tree.leaves(inputs))
        if training:
            _check_training_rows(rows, self.count, equal=True)
        total = -(-rows // self.count) * self.count
        if total != rows:
            repeated = np.arange(total) % rows
            inputs = jax.tree.map(lambda x: x[repeated], inputs)
        if not any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves((values, inputs))):
            values, inputs = self.replicate(values), self.shard_batch(inputs)

        def replica(values, inputs):
            index = jax.lax.axis_index("replica")
            shift = jnp.array([_SEED_STEP, 0], "uint32") * index.astype("uint32")
            outputs, masks, losses, updates = body(values, inputs, lambda seed: seed + shift)
            # () becomes (1,): the mean is taken outside, where it needs no rule for gradients
            outputs = [x[None] if x.ndim == 0 else x for x in outputs]
            losses = [x[None] for x in losses]
            return outputs, masks, losses, {k: self._merge_update(x) for k, x in updates.items()}

        replicas = jax.shard_map(
            replica,
            mesh=self.mesh,
            in_specs=(self.whole, self.split),
            out_specs=(self.split, self.split, self.split, self.whole),
            # Types of varying values would refuse ordinary models: a loop that starts from zeros,
            # as in recurrent layers. And each weight's gradient is then summed once, at the border.
            check_vma=False,
        )
        # jit: without it, a call outside of a compiled step would run operation by operation
        outputs, masks, losses, updates = jax.jit(replicas)(values, inputs)

        def trim(x):
            return x if total == rows else x[: x.shape[0] * rows // total]

        outputs = [
            x.mean().astype(x.dtype) if is_scalar else trim(x)
            for x, is_scalar in zip(outputs, scalar, strict=True)
        ]
        return outputs, {k: trim(x) for k, x in masks.items()}, [x.mean() for x in losses], updates

    def _merge_update(self, value):
        """The mean over replicas; of integers, such as seeds and counters, the first one's."""
        lax = self.jax.lax
        if self.jax.numpy.issubdtype(value.dtype, self.jax.numpy.floating):
            return lax.pmean(value, "replica")
        return lax.all_gather(value, "replica")[0]


class _JaxTraining:
    """What differs in Keras' training functions on JAX: where data and variables are.

    Keras puts batches on the first device, and variables too when it creates, loads or resets them.
    That would cost a copy from there, and a second compilation of the step.
    """

    def fit(self, *args, **kwargs):
        call = self._fit_arguments(super().fit, args, kwargs, equal=True)
        data = {name: call.pop(name, None) for name in ("x", "y", "sample_weight", "class_weight")}
        validation = call.get("validation_data")
        if call.get("validation_split") and validation is None:
            from keras.src.trainers.data_adapters.array_slicing import train_validation_split

            arrays = data["x"], data["y"], data["sample_weight"]
            split = call.pop("validation_split")
            arrays, validation = train_validation_split(arrays, validation_split=split)
            data["x"], data["y"], data["sample_weight"] = arrays
        batch_size, steps = call.get("batch_size"), call.get("steps_per_epoch")
        shuffle = call.get("shuffle", True) and not inspect.isgenerator(data["x"])
        call["x"] = self._sharded(batch_size, steps, shuffle=shuffle, **data)
        if validation is not None:
            size = call.get("validation_batch_size") or batch_size
            parts = dict(zip(("x", "y", "sample_weight"), self._unpack(validation), strict=True))
            call["validation_data"] = self._sharded(size, call.get("validation_steps"), **parts)
        return super().fit(**call)

    def evaluate(self, x=None, y=None, batch_size=None, verbose="auto", **kwargs):
        data = {"x": x, "y": y, "sample_weight": kwargs.pop("sample_weight", None)}
        x = self._sharded(batch_size, kwargs.get("steps"), **data)
        return super().evaluate(x, None, batch_size, verbose, **kwargs)

    def predict(self, x, batch_size=None, verbose="auto", steps=None, **kwargs):
        x = self._sharded(batch_size, steps, x=x)
        return super().predict(x, batch_size, verbose, steps, **kwargs)

    def _sharded(self, batch_size, steps, **data):
        """Keras' own adapter for this data, with `shard_batch` on what it yields."""
        from keras.src.trainers.data_adapters import get_data_adapter

        adapter = get_data_adapter(batch_size=batch_size, steps_per_epoch=steps, **data)
        if "get_jax_iterator" not in vars(adapter):
            batches = adapter.get_jax_iterator
            adapter.get_jax_iterator = lambda: map(self.shard_batch, batches())
        return adapter

    def _unpack(self, data):
        import keras

        return keras.utils.unpack_x_y_sample_weight(data)

    def make_train_function(self, force=False):
        if self.train_function is None or force:
            super().make_train_function(force)
            self.train_function = self._placed(self.train_function)

    def make_test_function(self, force=False):
        if self.test_function is None or force:
            super().make_test_function(force)
            self.test_function = self._placed(self.test_function)

    def make_predict_function(self, force=False):
        if self.predict_function is None or force:
            super().make_predict_function(force)
            self.predict_function = self._placed(self.predict_function)
        return self.predict_function

    def _placed(self, function):
        return lambda state, iterator: function(self.replicate(state), iterator)

    def predict_step(self, state, data):
        outputs, state = super().predict_step(state, data)
        return self._scalars(lambda x: x.reshape((1,)), outputs), state
