"""ParallelModel: a Keras model that runs on several devices, one slice of the batch on each.

This file stands alone: it imports nothing from its package, so it can be copied into any other.
It uses the Keras of the model it is given, and imports none before: Keras 3, on TensorFlow or on
JAX, or tf_keras (which `tensorflow.keras` is with TF_USE_LEGACY_KERAS=1), with or without eager
execution.

    parallel = ParallelModel(keras_model, gpu_count=2)
    parallel.compile(...)
    parallel.fit(...)

How it works. The wrapper is a functional model: the inner model's inputs -> one layer, `Replicate`
-> an identity layer for each output, with the output's name. `Replicate` reads every variable of
the inner model once, runs a pure function (values, rows) -> (outputs, updates) on each device,
averages outputs of shape (), concatenates the others on axis 0, and assigns the averaged updates.

    TensorFlow  a replica is ops under `tf.device`, forward and backward, fed with its slice of
                the batch, which is cut in host memory
    JAX         the replicas are one `jax.shard_map` over a 1-D mesh; gradients are summed in a
                few large pieces, while the backward pass still makes the next ones. Two devices
                swap these pieces, which on GPUs their copy engines do, and add them

In this file: ParallelModel and its checks; for each family of Keras (3, tf_keras) the graph of the
wrapper, the Replicate layer and what that Keras does in its own way; for each engine (TensorFlow,
JAX) how replicas run, and what it changes in Keras' training functions.
"""

import contextlib
import functools
import importlib
import inspect
import itertools
import logging
import operator
import os
import re
import time

import numpy as np

log = logging.getLogger(__name__)

_SUPPORTED = "ParallelModel wraps a functional keras.Model, or a Sequential one that has been built"
# Replica i adds i times this to the seed of every random generator, so that replica 0 draws what
# the model alone draws. 2**32 / golden ratio: its multiples stay far apart modulo 2**32.
_SEED_STEP = 0x9E3779B9
# JAX sums gradients in pieces of this many bytes or more: large enough to use the links well, small
# enough that the first ones travel while the backward pass makes the others.
_PIECE_BYTES = 32 * 2**20
# Options for XLA, which by itself sends all pieces after the backward pass, one after the other. On
# two H100 sending early takes 2.5 GiB off the peak, which the pieces' gradients would hold.
_SEND_EARLY = {
    "xla_gpu_experimental_collective_start_as_early_as_possible": True,
    "xla_gpu_experimental_parallel_collective_overlap_limit": 8,  # the pieces, and a few scalars
    "xla_gpu_collective_permute_combine_threshold_bytes": 0,  # it would join the last two pieces
}


def _of_inner_model(name):
    """A method of the wrapper that is the inner model's."""

    def method(self, *args, **kwargs):
        return getattr(self.inner_model, name)(*args, **kwargs)

    method.__name__, method.__doc__ = name, f"`inner_model.{name}`."
    return method


class ParallelModel:
    """`keras_model` on `gpu_count` devices; itself a functional model of the same Keras.

    Replica i gets rows `i * (B // n)` to `(i + 1) * (B // n)` of each input (B rows, n replicas).
    An output of shape () is the plain mean of the replicas' values, whatever rows each had; every
    other output is concatenated on axis 0, in order. Names, order and nesting of the outputs are
    the inner model's; a repeated name gets `_1`, `_2`. `get_layer` finds layers of both models.

    Rows. On TensorFlow the last replica takes the remainder; on JAX replicas have equal rows.
    `predict`, `evaluate` and calls with `training` not True take any number of rows: where it does
    not fit, rows are repeated to fill up and their outputs dropped (a mean of shape () includes
    them). Training with fewer rows than gpu_count, or on JAX with rows that gpu_count does not
    divide, is a ValueError. That holds for the last batch which `fit` cuts from arrays, too: 250
    rows in batches of 32 end with 26, which 4 replicas on JAX refuse, before the first step.

    State. The variables are the inner model's own. Moving statistics and other floating-point state
    that a call updates is averaged over the replicas. Each replica draws other random numbers, all
    from the seeds that the model stores: layers own a `keras.random.SeedGenerator`, as Keras' do.
    Losses that layers add (`add_loss`) are averaged.

    Saving. `save`, `save_weights`, `load_weights`, `export` and `to_json` are the inner model's, so
    a file from 8 devices opens on 1 and back. `compile` also compiles the inner model, with the
    same optimizer object, so a `.keras` file has the optimizer's state. To go on training:

        parallel = ParallelModel(keras.models.load_model("run.keras"), gpu_count=4)
        parallel.fit(...)           # a compiled model hands over its optimizer, loss and metrics

    `predict` gives an output of shape () as one value a batch, shape (batches,).

    On JAX a loop of one's own, or the `fit` of a model that calls this one, should pass batches
    through `shard_batch` and variables' values through `replicate` before each compiled step, and
    give `compiler_options` to `jax.jit`.

    On JAX, two replicas swap gradients: in bfloat16 those of layers that compute in it. They are
    added in the dtype of the variables.

    Args:
        keras_model: functional Model or built Sequential; inputs (B, ...), dicts and lists allowed.
        gpu_count: number of replicas, >= 1. On a machine without GPUs, CPU devices count.
        jit_replicas: TensorFlow only: compile each replica with XLA. None: on GPUs, if all layers
            support it. TensorFlow can't compile loops that gradients go through. (On JAX, Keras
            compiles the whole step.)

    Attributes:
        inner_model: keras_model.
        gpu_count: as given.
        devices: names of the devices, a tuple, replica 0 first.

    Raises:
        ValueError: keras_model is of another kind, or there are fewer devices than gpu_count.
    """

    def __new__(cls, keras_model, *args, **kwargs):
        return super().__new__(_concrete_class(cls, _family_of(keras_model)))

    def __init__(self, keras_model, gpu_count, jit_replicas=None):
        started = time.perf_counter()
        if isinstance(gpu_count, bool) or not isinstance(gpu_count, (int, np.integer)):
            raise ValueError(f"gpu_count must be a whole number, not {gpu_count!r}.")
        family = _family_of(keras_model)
        _check_model(keras_model, family)
        engine = family.engine(keras_model, int(gpu_count), jit_replicas)
        inputs, outputs, layer = family.graph(keras_model, engine)
        super().__init__(inputs=inputs, outputs=outputs, name=f"parallel_{keras_model.name}")
        self._engine = engine
        self._replicate = layer
        self.gpu_count = engine.count
        self.devices = tuple(engine.names)
        self._take_over(keras_model)
        seconds = time.perf_counter() - started
        where = f"{self.gpu_count} replica(s) on {', '.join(self.devices)}"
        log.info("%s: %s, prepared in %.2f s", keras_model.name, where, seconds)

    @property
    def inner_model(self):
        """The model that was wrapped; it owns the layers and the variables."""
        return self._replicate.model

    save = _of_inner_model("save")
    save_weights = _of_inner_model("save_weights")
    load_weights = _of_inner_model("load_weights")
    export = _of_inner_model("export")
    to_json = _of_inner_model("to_json")

    def get_config(self):
        """Raises NotImplementedError: what can be stored is the inner model."""
        raise NotImplementedError(
            "A ParallelModel has no config of its own, so that its files open on any number of "
            "devices: use its save() and to_json(), or its inner_model."
        )

    def make_parallel(self):
        """The replicas' merged outputs, as in Matterport's ParallelModel; symbolic tensors."""
        return self.outputs

    def get_layer(self, name=None, index=None):
        """A layer of the wrapper, such as an output, or else the inner model's of that name."""
        if name is not None and all(layer.name != name for layer in self.layers):
            return self.inner_model.get_layer(name=name)
        return super().get_layer(name=name, index=index)

    def summary(self, *args, **kwargs):
        """Prints the wrapper and then the inner model."""
        super().summary(*args, **kwargs)
        self.inner_model.summary(*args, **kwargs)

    def shard_batch(self, batch):
        """Puts a nest of host arrays where the replicas take their rows from.

        JAX: each device receives its own rows only; where the mesh spans hosts, `batch` is this
        host's rows. Arrays in place already, and rows that can't be shared equally, are returned as
        they are. TensorFlow: tensors in host memory, from which only slices move to the devices.
        """
        return self._engine.shard_batch(batch)

    def replicate(self, values):
        """A nest of variables' values, on every replica's device (TensorFlow: as they are)."""
        return self._engine.replicate(values)

    @property
    def compiler_options(self):
        """What `jax.jit(step, compiler_options=...)` should be given for a training step; a dict.

        `fit` does so by itself. Empty where there is nothing to set.
        """
        return dict(self._engine.compiler_options)

    def check_replicas(self):
        """Raises RuntimeError unless all devices have the same weights, to the bit.

        On JAX each device updates weights of its own, with gradients that it received. Should
        copies between devices arrive damaged, the replicas drift apart. TensorFlow has one copy.
        """
        variables = self.trainable_variables + self.non_trainable_variables
        different = [variables[k].path for k in self._engine.different(variables)]
        if different:
            more = f" and {len(different) - 1} more" if different[1:] else ""
            raise RuntimeError(
                f"The replicas have come apart: {different[0]}{more} differ(s) between "
                f"{', '.join(self.devices)}. Copies between these devices arrive damaged; check "
                "the machine (NVIDIA GPUs: NVLink, IOMMU, PCI Access Control Services), or train "
                "on one device, from a checkpoint."
            )

    def train_on_batch(self, x, y=None, sample_weight=None, **kwargs):
        """As `keras.Model.train_on_batch`."""
        return super().train_on_batch(*self.shard_batch((x, y, sample_weight)), **kwargs)

    def test_on_batch(self, x, y=None, sample_weight=None, **kwargs):
        """As `keras.Model.test_on_batch`."""
        return super().test_on_batch(*self.shard_batch((x, y, sample_weight)), **kwargs)

    def predict_on_batch(self, x):
        """As `keras.Model.predict_on_batch`; outputs of shape () keep it."""
        outputs = super().predict_on_batch(self.shard_batch(x))
        return self._map_scalars(lambda value: np.reshape(value, ()), outputs)

    def _map_scalars(self, function, outputs):
        """`outputs`, with `function` applied to those whose shape in the model is ()."""
        tree = self._replicate.tree
        flat = zip(tree.flatten(outputs), self.outputs, strict=True)
        flat = [x if output.shape else function(x) for x, output in flat]
        return tree.pack_sequence_as(outputs, flat)

    def _check_batches(self, call, equal):
        """ValueError where `fit` with the arguments `call` would cut unfit batches from arrays."""
        arrays = self._replicate.tree.flatten(call.get("x"))
        if call.get("steps_per_epoch") is None and all(getattr(x, "shape", ()) for x in arrays):
            rows = int(arrays[0].shape[0] * (1.0 - (call.get("validation_split") or 0.0)))
            size = min(rows, call.get("batch_size") or 32)
            for batch in (size, rows % size or size):
                _check_training_rows(batch, self.gpu_count, equal)


def MultiGpuModel(template_model, num_gpus, **options):
    """ParallelModel under another name that people know."""
    return ParallelModel(template_model, num_gpus, **options)


def _check_model(model, family):
    """Raises ValueError where `model` is of a kind that can't be wrapped."""
    if isinstance(model, ParallelModel):
        raise ValueError(f"{model.name} is a ParallelModel already: wrap its inner_model.")
    if not isinstance(model, family.kinds()) or not model.built or not model.inputs:
        raise ValueError(f"{_SUPPORTED}; {model.name} is a {type(model).__name__} that isn't.")
    if family.has_sparse_input(model):
        raise ValueError(
            f"{model.name} has a sparse or ragged input; ParallelModel slices dense ones."
        )


def _check_devices(count, names):
    """Raises ValueError unless there are `count` devices in `names`."""
    if count < 1:
        raise ValueError(f"gpu_count must be at least 1, not {count}.")
    if count > len(names):
        raise ValueError(
            f"gpu_count={count} needs {count} devices like {names[0]}, but there are {len(names)}: "
            f"{', '.join(names)}. Try reducing gpu_count."
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


def _too_few_rows(rows, count):
    return (
        f"A training batch of {rows} rows is smaller than gpu_count={count}: every replica needs "
        "a row. Use a larger batch size, or drop the last rows of the data that don't fill a batch."
    )


def _common_rows(tensors):
    """The number of rows of all `tensors`; None where a graph doesn't know it yet."""
    known = {x.shape[0] for x in tensors if x.shape[0] is not None}
    if len(known) > 1:
        raise ValueError(f"All inputs must have as many rows; these have {sorted(known)}.")
    return known.pop() if known else None


def _arguments(function, args, kwargs):
    """The arguments of a call, by name."""
    call = dict(inspect.signature(function).bind(*args, **kwargs).arguments)
    call.update(call.pop("kwargs", {}))
    return call


# === Keras families: which Keras a model is made of, and the model and layer classes it needs ===
#
# A family has model_class(), the functional model's class, and training(), what a wrapper's class
# has besides; kinds() and has_sparse_input(model) for the checks; engine(model, count, jit) and
# graph(model, engine), which make the parts.


def _family_of(model):
    """The Keras that `model` is made of, as one of the families below."""
    for cls in type(model).__mro__:
        if (cls.__module__, cls.__name__) == ("keras.src.models.model", "Model"):
            return _Keras3
        if cls.__module__.split(".")[0] == "tf_keras" and cls.__name__ == "Model":
            return _TfKeras
    raise ValueError(f"{_SUPPORTED}, not {type(model).__name__}.")


@functools.cache
def _concrete_class(cls, family):
    """`cls`, ParallelModel or a subclass, joined to the functional model class of that Keras."""
    base = family.model_class()
    if issubclass(cls, base):
        return cls
    return type(cls.__name__, (cls, *family.training(), base), {"__module__": cls.__module__})


class _Keras3:
    """Keras 3, on TensorFlow or JAX."""

    @staticmethod
    def model_class():
        import keras

        tensor = keras.Input((1,))
        return type(keras.Model(tensor, tensor))

    @staticmethod
    def training():
        import keras

        on_jax = keras.backend.backend() == "jax"
        return _Keras3Model, _JaxTraining if on_jax else _TensorFlowTraining

    @staticmethod
    def engine(model, count, jit):
        import keras

        name = keras.backend.backend()
        if name == "jax":
            return _Jax(count)
        if name != "tensorflow":
            raise ValueError(f"ParallelModel runs on TensorFlow and JAX, not on {name}.")
        return _TensorFlow(count, jit, all(layer.supports_jit for layer in model._flatten_layers()))

    @staticmethod
    def kinds():
        import keras

        return _Keras3.model_class(), keras.Sequential

    @staticmethod
    def has_sparse_input(model):
        return any(tensor.sparse for tensor in model.inputs)

    @staticmethod
    def graph(model, engine):
        """(inputs, outputs, Replicate layer) of a wrapper around `model`."""
        import keras

        sequential = isinstance(model, keras.Sequential)
        inner_inputs = model.inputs[0] if sequential else model.input
        inner_outputs = model.outputs[0] if sequential else model.output
        output_names = [model.layers[-1].name] if sequential else model.output_names

        def outer(tensor):  # a batch size that is fixed in the model is that of a replica
            if tensor.shape[0] is None:
                return tensor
            return keras.Input(shape=tensor.shape[1:], dtype=tensor.dtype, name=tensor.name)

        inputs = keras.tree.map_structure(outer, inner_inputs)
        taken = {tensor.name for tensor in keras.tree.flatten(inputs)}
        layer = _keras3_replicate()(model, engine, name=_unique("replicate", taken))
        outputs = [
            # not autocast: boxes and class ids must leave as they are under any dtype policy
            keras.layers.Identity(name=_unique(name, taken), dtype="float32", autocast=False)(value)
            for name, value in zip(output_names, layer(inputs), strict=True)
        ]
        return inputs, keras.tree.pack_sequence_as(inner_outputs, outputs), layer


class _Keras3Model:
    """What is Keras 3's own in a wrapper."""

    def _take_over(self, keras_model):
        """The settings of a compiled model become the wrapper's."""
        self.dtype_policy = keras_model.dtype_policy  # `compile` scales losses by it
        if keras_model.compiled and keras_model.optimizer is not None:
            settings = {**keras_model._compile_config.config, "optimizer": keras_model.optimizer}
            self.compile(**settings, auto_scale_loss=False)

    def compile(self, *args, **kwargs):
        """As `keras.Model.compile`; the inner model is compiled alike and shares the optimizer."""
        super().compile(*args, **kwargs)
        settings = {**self._compile_config.config, "optimizer": self.optimizer}
        super().compile.__func__(self.inner_model, **settings, auto_scale_loss=False)


def _unique(name, taken):
    """`name`, or the first of `name_1`, `name_2`... that is not in the set `taken`; added to it."""
    names = itertools.chain([name], (f"{name}_{k}" for k in itertools.count(1)))
    result = next(candidate for candidate in names if candidate not in taken)
    taken.add(result)
    return result


@functools.cache
def _keras3_replicate():
    """The Replicate layer's class."""
    import keras
    from keras.src.backend import get_keras_mask, set_keras_mask

    class Recorder(keras.StatelessScope):
        """A stateless scope that remembers which variables were assigned in it."""

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
                gradient_dtypes=self.gradient_dtypes(variables),
                training=bool(training),
                scalar=[len(output.shape) == 0 for output in self.model.outputs],
            )
            for k, value in updates.items():
                variables[k].assign(value)
            for k, mask in masks.items():
                set_keras_mask(outputs[k], mask)
            self.model._clear_losses()  # the replicas' own; their mean takes their place
            for loss in losses:
                self.add_loss(loss)
            return outputs

        def gradient_dtypes(self, variables):
            """The dtype each variable's gradient may travel in; None for those that get none.

            Where a layer computes in bfloat16, its gradients have hardly more digits than that.
            """
            layers = [x for x in self.model._flatten_layers() if x.compute_dtype == "bfloat16"]
            short = {id(variable) for layer in layers for variable in layer._trainable_variables}
            return [
                None if not v.trainable else "bfloat16" if id(v) in short else str(v.dtype)
                for v in variables
            ]

        def run_replica(self, variables, training, values, inputs, seed_shift):
            """One replica: (outputs, masks, losses, updates), two of them dicts by position."""
            positions = {id(variable): k for k, variable in enumerate(variables)}
            seeds = {k for k, v in enumerate(variables) if v.name == "seed_generator_state"}
            state = [seed_shift(x) if k in seeds else x for k, x in enumerate(values)]
            with Recorder(zip(variables, state, strict=True)) as scope:
                outputs = keras.tree.flatten(self.model(inputs, training=training))
            updates = {}
            for variable in scope.assigned:
                k = positions.get(id(variable))
                if k is None:
                    raise ValueError(
                        f"A layer of {self.model.name} assigns {variable.path}, which the model "
                        "does not track, so replicas can't. Make it an attribute of its layer; "
                        "random numbers want a keras.random.SeedGenerator there."
                    )
                value = scope.get_current_value(variable)
                # the seed that is stored is the one before the shift
                updates[k] = value - (state[k] - values[k]) if k in seeds else value
            masks = {k: get_keras_mask(output) for k, output in enumerate(outputs)}
            masks = {k: mask for k, mask in masks.items() if mask is not None}
            return outputs, masks, list(scope.losses), updates

    return Replicate


# === tf_keras ===


class _TfKeras:
    """tf_keras, with eager execution or in TensorFlow 1's graph mode."""

    @staticmethod
    def model_class():
        import tf_keras

        tensor = tf_keras.Input((1,))
        return type(tf_keras.Model(tensor, tensor))

    @staticmethod
    def training():
        return _TfKerasModel, _TensorFlowTraining

    @staticmethod
    def engine(model, count, jit):
        return _TensorFlow(count, jit, may_jit=False)

    @staticmethod
    def kinds():
        return _TfKeras.model_class()

    @staticmethod
    def has_sparse_input(model):
        return any(layer.sparse or layer.ragged for layer in model._input_layers)

    @staticmethod
    def graph(model, engine):
        """(inputs, outputs, Replicate layer) of a wrapper around `model`."""
        import tensorflow as tf
        import tf_keras

        def outer(tensor, name):  # a batch size that is fixed in the model is that of a replica
            # The tensor itself where it will do: in graph mode Matterport's Lambdas close over it.
            if tensor.shape[0] is None:
                return tensor
            return tf_keras.Input(shape=tensor.shape[1:], dtype=tensor.dtype, name=name)

        inputs = map(outer, model.inputs, model.input_names)
        inputs = tf.nest.pack_sequence_as(model.input, [*inputs])
        taken = set(model.input_names)
        layer = _tf_keras_replicate()(model, engine, name=_unique("replicate", taken))
        outputs = [
            tf_keras.layers.Identity(name=_unique(name, taken), dtype="float32", autocast=False)(x)
            for name, x in zip(model.output_names, layer.connect(inputs), strict=True)
        ]
        return inputs, tf.nest.pack_sequence_as(model.output, outputs), layer


class _TfKerasModel:
    """What is tf_keras' own in a wrapper."""

    # Matterport's `compile` gives the model these, empty. tf_keras would wrap and track them as it
    # does layers, and `add_loss` would then fail: "unhashable type: 'ListWrapper'".
    _UNTRACKED = ("metrics_tensors", "_losses", "_per_input_losses", "loss")

    def __setattr__(self, name, value):
        if name in self._UNTRACKED:
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def _take_over(self, keras_model):
        """The settings of a compiled model become the wrapper's; not in graph mode."""
        settings = getattr(keras_model, "_compile_config", None)
        if settings is not None:
            self.compile(**{**settings.config, "optimizer": keras_model.optimizer})

    def compile(self, *args, **kwargs):
        """As `tf_keras.Model.compile`; with eager execution the inner model is compiled alike."""
        super().compile(*args, **kwargs)
        settings = getattr(self, "_compile_config", None)
        if settings is not None:
            settings = {**settings.config, "optimizer": self.optimizer}
            super().compile.__func__(self.inner_model, **settings)

    @property
    def weights(self):
        """The inner model's, in its order, which `get_weights` and `set_weights` have too."""
        return self.inner_model.weights

    @property
    def losses(self):
        """As in tf_keras, without those that the inner model's layers have of whole batches."""
        return self._of_replicas(super().losses)

    @property
    def updates(self):
        """As in tf_keras, without those that the inner model's layers have of whole batches."""
        return self._of_replicas(super().updates)

    def _of_replicas(self, tensors):
        others = {id(x) for x in self._replicate.of_whole_batches}
        return [x for x in tensors if id(x) not in others]


@functools.cache
def _tf_keras_replicate():
    """The Replicate layer's class."""
    import tensorflow as tf
    import tf_keras

    class Replicate(tf_keras.layers.Layer):
        """Runs `model` on the engine's devices; returns its outputs, merged, as a flat list."""

        tree = tf.nest
        # Layers of such modules are not rewritten by AutoGraph. The model's own layers still are.
        __module__ = tf_keras.layers.Layer.__module__

        def __init__(self, model, engine, name):
            super().__init__(name=name, dtype="float32", autocast=False)
            self.model = model
            self.engine = engine
            self.shapes_only = False
            self.graph_mode = not tf.compat.v1.executing_eagerly_outside_functions()
            # Where layers keep the losses that they add in a call
            self.loss_list = "_losses" if self.graph_mode else "_eager_losses"
            # The symbolic losses and updates of the model itself, of whole batches
            layers = list(model._flatten_layers())
            self.of_whole_batches = tuple(x for y in layers for x in [*y._losses, *y._updates])

        def connect(self, inputs):
            """The symbolic outputs; outside of graph mode without a replica being run for them."""
            self.shapes_only = not self.graph_mode
            outputs = self(inputs)
            self.shapes_only = False
            return outputs

        def call(self, inputs, training=None):
            model = self.model
            if self.shapes_only:
                shapes = [[None, *x.shape[1:]] if x.shape.rank else x.shape for x in model.outputs]
                dtypes = [x.dtype for x in model.outputs]
                return [*map(tf.compat.v1.placeholder, dtypes, shapes)]
            if self.engine.count == 1:
                return tf.nest.flatten(model(inputs, training=training))
            variables = list(model.variables)
            phase = training
            if training is None and self.graph_mode:  # each layer looks it up by itself
                phase = tf_keras.backend.learning_phase()
            outputs, _, losses, updates = self.engine.run(
                functools.partial(self.run_replica, variables, training),
                variables,
                inputs,
                gradient_dtypes=[v.dtype.name if v.trainable else None for v in variables],
                training=phase if tf.is_tensor(phase) else bool(phase),
                scalar=[output.shape.rank == 0 for output in model.outputs],
            )
            for k, value in updates.items():
                update = variables[k].assign(value)
                if self.graph_mode:  # there it must be among the updates of the layer it belongs to
                    self.owner(variables[k]).add_update(update)
            for loss in losses:
                self.add_loss(loss, inputs=True)
            return outputs

        def owner(self, variable):
            """The layer of the model that made `variable`."""
            for layer in self.model._flatten_layers():
                own = layer._trainable_weights + layer._non_trainable_weights
                if any(variable is weight for weight in own):
                    return layer
            return self

        def run_replica(self, variables, training, values, inputs, seed_shift):
            """One replica: (outputs, masks, losses, updates), the last a dict by position."""
            lists = [getattr(layer, self.loss_list) for layer in self.model._flatten_layers()]
            marks = [len(losses) for losses in lists]
            with (
                _own_values(self.model, variables, values) as updates,
                _own_batch_size(self.model, self.engine.count),
            ):
                outputs = tf.nest.flatten(self.model(inputs, training=training))
            lists = [getattr(layer, self.loss_list) for layer in self.model._flatten_layers()]
            losses = []
            for mine, mark in zip(lists, marks, strict=True):
                losses += mine[mark:]
                del mine[mark:]  # the mean of the replicas' losses takes their place
            return outputs, {}, losses, updates

    return Replicate


@contextlib.contextmanager
def _own_values(model, variables, values):
    """In it `variables`, of a tf_keras model, have `values`; what is assigned goes to a dict.

    That dict, which it gives, has the new values by position. Operations which take a variable's
    handle, such as a lookup in an embedding, read the variable itself.
    """
    import tensorflow as tf

    graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
    current, assigned, in_branches = list(values), {}, set()

    def methods(k):
        def read(*args, **kwargs):
            return current[k]

        def assign(value, *args, **kwargs):
            value = tf.cast(value, current[k].dtype)
            if graph is None or value.graph is graph:
                current[k] = assigned[k] = value
            else:
                in_branches.add(k)
            return value

        def assign_add(delta, *args, **kwargs):
            return assign(current[k] + tf.cast(delta, current[k].dtype))

        def assign_sub(delta, *args, **kwargs):
            return assign(current[k] - tf.cast(delta, current[k].dtype))

        reading = {"value": read, "read_value": read}
        return {**reading, "assign": assign, "assign_add": assign_add, "assign_sub": assign_sub}

    def add_update(layer, updates, *args, **kwargs):
        """Of a layer. Batch normalization assigns in a branch, and the branches' result is the
        new value: in graph mode, where one graph is for training and for inference."""
        for update in tf.nest.flatten(updates):
            update = update() if callable(update) else update
            if not in_branches:
                type(layer).add_update(layer, update, *args, **kwargs)
            elif len(in_branches) == 1:
                k = in_branches.pop()
                current[k] = assigned[k] = tf.convert_to_tensor(update)

    with contextlib.ExitStack() as stack:

        def override(owner, name, method):
            vars(owner)[name] = method  # hides the class's
            stack.callback(vars(owner).pop, name)

        for k, variable in enumerate(variables):
            for name, method in methods(k).items():
                # mixed precision wraps variables
                override(getattr(variable, "_variable", variable), name, method)
        for layer in model._flatten_layers():
            override(layer, "add_update", functools.partial(add_update, layer))
        yield assigned
    for k in in_branches:
        raise ValueError(
            f"{model.name} assigns {variables[k].name} in a conditional branch, where replicas "
            "can't: let the layer assign it always, to itself where nothing changes."
        )


@contextlib.contextmanager
def _own_batch_size(model, count):
    """In it, layers that have a Matterport `config` read a replica's batch size as BATCH_SIZE.

    Matterport's DetectionLayer reshapes to `config.BATCH_SIZE` rows, which are those of all
    replicas together.
    """
    configs = {id(c): c for c in (getattr(x, "config", None) for x in model._flatten_layers())}
    with contextlib.ExitStack() as stack:
        for config in configs.values():
            size = getattr(config, "BATCH_SIZE", None)
            if size is not None and getattr(config, "GPU_COUNT", None) == count:
                stack.callback(setattr, config, "BATCH_SIZE", size)
                config.BATCH_SIZE = size // count
        yield


# === TensorFlow ===


class _TensorFlow:
    """Replicas under `tf.device`; slices cut in host memory, merged where TensorFlow likes."""

    compiler_options = {}
    _TOO_FEW = "ParallelModel: fewer rows in a training batch than replicas:"
    _WHOLE_BATCH = "A layer reshapes its rows to a number that a replica does not have"

    def __init__(self, count, jit, may_jit):
        self.tf = importlib.import_module("tensorflow")
        gpus = self.tf.config.list_logical_devices("GPU")
        names = [d.name for d in gpus or self.tf.config.list_logical_devices("CPU")]
        _check_devices(count, names)
        self.count, self.names = count, names[:count]
        self.jit = (bool(gpus) and may_jit) if jit is None else jit
        self.supports_jit = count == 1  # compiled as a whole, all replicas land on one device

    def shard_batch(self, batch):
        if not self.tf.executing_eagerly():
            return batch
        with self.tf.device("/cpu:0"):
            return self.tf.nest.map_structure(
                lambda x: x if x is None else self.tf.convert_to_tensor(x), batch
            )

    def replicate(self, values):
        return values

    def different(self, variables):
        return []

    def run(self, body, values, inputs, gradient_dtypes, training, scalar):
        """Runs `body(values, rows, seed_shift)` on each device; its results, merged."""
        tf = self.tf
        differentiable = [dtype is not None for dtype in gradient_dtypes]
        values = [tf.convert_to_tensor(value) for value in values]  # read once, not per replica
        parts, trim = self._slices(inputs, training)
        results = []
        for i, (device, part) in enumerate(zip(self.names, parts, strict=True)):
            replica = functools.partial(body, seed_shift=functools.partial(self._shift, i))
            with tf.device(device), tf.name_scope(f"replica_{i}"):
                if not tf.executing_eagerly():
                    replica = self._pinned(replica, device, differentiable)
                with self.translated_errors():
                    results.append(replica(values, part))

        def merge(replicas, is_scalar=False):
            return self._mean(replicas) if is_scalar else trim(tf.concat(replicas, axis=0))

        outputs, masks, losses, updates = zip(*results, strict=True)
        with tf.device(None), tf.name_scope("merge"):
            return (
                [merge(x, s) for *x, s in zip(*outputs, scalar, strict=True)],
                {k: merge([m[k] for m in masks]) for k in masks[0]},
                [self._mean(x) for x in zip(*losses, strict=True)],
                {k: self._mean([u[k] for u in updates]) for k in updates[0]},
            )

    def _shift(self, replica, seed):
        return seed + self.tf.constant([replica * _SEED_STEP, 0], seed.dtype)

    def _mean(self, replicas):
        """The mean of one value a replica; of integers, such as counters, the first one's."""
        if not replicas[0].dtype.is_floating:
            return replicas[0]
        return self.tf.add_n(replicas) / len(replicas)

    def _slices(self, inputs, training):
        """A nest of inputs for each replica, and what to do to the rows of merged outputs.

        `training` is a bool, or a tensor where one graph serves both.
        """
        tf, count = self.tf, self.count
        tensors = [x for x in tf.nest.flatten(inputs) if x is not None]
        rows = _common_rows(tensors)
        if training is True and rows is not None:
            _check_training_rows(rows, count, equal=False)
        fits = training is True or (rows is not None and rows >= count)
        with tf.device("/cpu:0"), tf.name_scope("slice"):
            if rows is None:
                rows = tf.shape(tensors[0])[0]
            if training is not False and tf.is_tensor(rows):
                enough = (rows >= count) | ~tf.cast(training, "bool")
                enough = tf.debugging.Assert(enough, [self._TOO_FEW, rows, count])
                with tf.control_dependencies([enough]):
                    rows = tf.identity(rows)
            total = rows if fits else tf.maximum(rows, count)
            starts = [i * (total // count) for i in range(count)] + [total]

            def fill(x):  # too few rows are repeated
                repeated = tf.range(total) % rows
                return tf.cond(total > rows, lambda: tf.gather(x, repeated), lambda: x)

            def each(function, nest):
                return tf.nest.map_structure(lambda x: x if x is None else function(x), nest)

            if not fits:
                inputs = each(fill, inputs)
            parts = [
                each(operator.itemgetter(slice(start, stop)), inputs)
                for start, stop in itertools.pairwise(starts)
            ]

        def trim(x):
            if fits:
                return x
            size = tf.shape(x)[0]
            return x[: tf.where(total > rows, size // total * rows, size)]

        return parts, trim

    def _pinned(self, replica, device, differentiable):
        """`replica(values, inputs)` in a graph, with its gradient on `device` too.

        The ops of a tape's backward pass have no device of their own: left alone, TensorFlow runs
        those of all replicas on the first GPU. A custom gradient makes them under `tf.device`.
        """
        tf = self.tf

        def run(values, inputs):
            tensors = [x for x in tf.nest.flatten(inputs) if x is not None]
            has_tape = tf.compat.v1.executing_eagerly_outside_functions()  # not in a TF 1 graph
            wanted = [x.dtype.is_floating and (not has_tape or _is_on_a_tape(x)) for x in tensors]
            wanted = [*differentiable, *wanted]

            def forward(*flat):
                # XLA compiles the gradients of all arguments: without this, of frozen weights too
                flat = [x if w else tf.stop_gradient(x) for x, w in zip(flat, wanted, strict=True)]
                rest = iter(flat[len(values) :])
                part = tf.nest.map_structure(lambda x: x if x is None else next(rest), inputs)
                return replica(flat[: len(values)], part)

            if self.jit:
                forward = tf.function(forward, jit_compile=True, autograph=False)
            nest = []

            @tf.custom_gradient
            def flat_run(*flat):
                sources = [x for x, w in zip(flat, wanted, strict=True) if w]
                if has_tape:
                    with tf.GradientTape(persistent=True) as tape:
                        tape.watch(sources)
                        nest.append(forward(*flat))
                else:
                    nest.append(forward(*flat))
                gradient_of = tape.gradient if has_tape else tf.gradients
                outputs = tf.nest.flatten(nest[-1])

                def backward(*gradients, variables=()):  # variables: those that are no `values`
                    used = [
                        (output, gradient)
                        for output, gradient in zip(outputs, gradients, strict=True)
                        if output.dtype.is_floating and gradient.op.type != "ZerosLike"
                    ]
                    found = [None] * (len(sources) + len(variables))
                    if used:
                        targets, upstream = map(list, zip(*used, strict=True))
                        with tf.device(device):
                            found = gradient_of(targets, [*sources, *variables], upstream)
                    found = (x if x is None else tf.convert_to_tensor(x) for x in found)
                    to_arguments = [next(found) if w else None for w in wanted]
                    return (to_arguments, [*found]) if variables else to_arguments

                return outputs, backward

            outputs = flat_run(*values, *tensors)
            return tf.nest.pack_sequence_as(nest[-1], outputs)

        return run

    @contextlib.contextmanager
    def translated_errors(self):
        """In it, errors that come of batches being split become a ValueError which says so."""
        try:
            yield
        except (self.tf.errors.InvalidArgumentError, ValueError) as error:
            text = str(error)
            found = re.search(re.escape(self._TOO_FEW) + r"\D*(\d+)", text)
            if found:
                raise ValueError(_too_few_rows(int(found.group(1)), self.count)) from None
            found = re.search(r"(Cannot reshape|Input to reshape)[^\n]*", text)
            if self.count == 1 or found is None or self._WHOLE_BATCH in text:
                raise
            raise ValueError(
                f"{self._WHOLE_BATCH}. With gpu_count={self.count} that must not be the number of "
                "rows of a whole batch: where it says config.BATCH_SIZE, as in Matterport's "
                "DetectionLayer, write -1: tf.reshape(detections, "
                f"[-1, config.DETECTION_MAX_INSTANCES, 6]). The error was: {found.group(0)}"
            ) from error


def _is_on_a_tape(tensor):
    """Whether a gradient with respect to an input can be asked for; True where unknown."""
    try:
        from tensorflow.python.eager.record import should_record_backprop
    except ImportError:
        return True
    return should_record_backprop([tensor])


class _TensorFlowTraining:
    """What differs in Keras' training functions on TensorFlow."""

    def fit(self, *args, **kwargs):
        self._check_batches(_arguments(super().fit, args, kwargs), equal=False)
        with self._engine.translated_errors():
            return super().fit(*args, **kwargs)

    def train_on_batch(self, *args, **kwargs):
        with self._engine.translated_errors():
            return super().train_on_batch(*args, **kwargs)

    def predict(self, *args, **kwargs):
        with self._engine.translated_errors():
            return super().predict(*args, **kwargs)

    def predict_on_batch(self, *args, **kwargs):
        with self._engine.translated_errors():
            return super().predict_on_batch(*args, **kwargs)

    def predict_step(self, data):
        reshape = functools.partial(self._engine.tf.reshape, shape=(1,))
        return self._map_scalars(reshape, super().predict_step(data))


# === JAX ===


class _Jax:
    """Replicas in `jax.shard_map` over a 1-D mesh with the axis "replica"."""

    supports_jit = True

    def __init__(self, count):
        self.jax = jax = importlib.import_module("jax")
        devices = jax.devices()
        _check_devices(count, [str(device) for device in devices])
        self.count, self.names = count, [str(device) for device in devices[:count]]
        self.mesh = jax.sharding.Mesh(np.array(devices[:count]), ("replica",))
        self.whole = jax.sharding.PartitionSpec()
        self.rows = jax.sharding.PartitionSpec("replica")
        self.on_all = jax.sharding.NamedSharding(self.mesh, self.whole)
        self.by_rows = jax.sharding.NamedSharding(self.mesh, self.rows)
        self.local_count = sum(d.process_index == jax.process_index() for d in devices[:count])
        self.platform = devices[0].platform

    def shard_batch(self, batch):
        jax = self.jax

        def place(x):
            if isinstance(x, jax.Array):
                return x if x.sharding == self.by_rows else jax.device_put(x, self.by_rows)
            return jax.make_array_from_process_local_data(self.by_rows, np.asarray(x))

        shapes = [np.shape(x) for x in jax.tree.leaves(batch)]
        if self.count == 1 or any(not shape or shape[0] % self.local_count for shape in shapes):
            return batch
        return jax.tree.map(place, batch)

    def replicate(self, values):
        if self.count == 1:
            return values
        leaves, tree = self.jax.tree.flatten(values)
        strangers = {
            k: x for k, x in enumerate(leaves) if getattr(x, "sharding", None) != self.on_all
        }
        if not strangers:
            return values
        placed = self.jax.device_put(strangers, self.on_all)  # one call is faster than many
        return self.jax.tree.unflatten(tree, [placed.get(k, x) for k, x in enumerate(leaves)])

    @functools.cached_property
    def compiler_options(self):
        if self.count != 2 or self.local_count != 2 or self.platform != "gpu":
            return {}
        options = accepted_compiler_options(_SEND_EARLY)
        # Copies from GPU to GPU by the copy engines, which take no multiprocessors from the
        # backward pass; where these can't reach each other's memory, NCCL copies all the same.
        direct = accepted_compiler_options(
            {
                "xla_gpu_collective_permute_mode": "COLLECTIVES_PEER_MEMORY",
                "xla_gpu_use_memcpy_local_p2p": True,  # the name in older versions
            }
        )
        if direct and not self.swaps(direct):
            log.warning(
                "Direct copies between %s arrive damaged, so NCCL will carry the gradients. "
                "Often that is the IOMMU's doing: see NCCL on PCI Access Control Services.",
                " and ".join(self.names),
            )
            return options
        return options | direct

    def different(self, variables):
        """Positions of the variables of which the devices' copies differ."""
        sums = np.asarray(self.checksums(self.replicate([v.value for v in variables])))
        return np.flatnonzero((sums != sums[0]).any(axis=0))

    @functools.cached_property
    def checksums(self):
        """A compiled function of values, on all devices -> (count, values) uint32."""
        jax, jnp = self.jax, self.jax.numpy

        def checksum(x):
            x = x.reshape(-1).astype("uint8" if x.dtype == bool else x.dtype)
            bits = jax.lax.bitcast_convert_type(x, f"uint{8 * x.dtype.itemsize}").astype("uint32")
            return jnp.sum(bits * (2 * jnp.arange(x.size, dtype="uint32") + 1), dtype="uint32")

        def of_all(values):
            return jax.lax.all_gather(jnp.stack([checksum(x) for x in values]), "replica")

        return jax.jit(self._on_each(of_all, (self.whole,), self.whole))

    def swaps(self, options):
        """Whether two devices receive what the other sent, in a program with these options."""
        jax = self.jax
        bits = np.random.default_rng(0).integers(0, 2**32, (2, 2**20), "uint32")
        swap = self._on_each(self._of_other, (self.rows,), self.rows)
        swap = jax.jit(swap, compiler_options=options)
        sent = jax.make_array_from_callback(bits.shape, self.by_rows, lambda index: bits[index])
        received = [(x.index, np.asarray(x.data)) for x in swap(sent).addressable_shards]
        return all(np.array_equal(bits[::-1][index], rows) for index, rows in received)

    def run(self, body, values, inputs, gradient_dtypes, training, scalar):
        """Runs `body(values, rows, seed_shift)` on each device; its results, merged."""
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

        groups = self._groups(values, gradient_dtypes) if training else []

        def replica(slots, values, inputs):
            values = self._with_gradients_in_slots(values, slots, groups)
            index = jax.lax.axis_index("replica").astype("uint32")
            shift = functools.partial(jnp.add, jnp.array([_SEED_STEP, 0], "uint32") * index)
            outputs, masks, losses, updates = body(values, inputs, seed_shift=shift)
            # () becomes (1,), since a mean outside needs no collective in the backward pass
            outputs, losses = ([x if x.ndim else x[None] for x in y] for y in (outputs, losses))
            return outputs, masks, losses, {k: self._merge_update(x) for k, x in updates.items()}

        replicas = self._on_each(
            replica,
            in_specs=(self.rows, self.whole, self.rows),
            out_specs=(self.rows, self.rows, self.rows, self.whole),
        )

        def run(values, inputs):
            return replicas(self._slots(values, groups), values, inputs)

        # jit: without it, a call outside of a compiled step would run operation by operation
        outputs, masks, losses, updates = jax.jit(run)(values, inputs)

        def merge(x, is_scalar=False):
            if is_scalar:
                return x.mean().astype(x.dtype)
            return x if total == rows else x[: x.shape[0] // total * rows]

        return (
            [merge(x, is_scalar) for x, is_scalar in zip(outputs, scalar, strict=True)],
            {k: merge(x) for k, x in masks.items()},
            [merge(x, True) for x in losses],
            updates,
        )

    def _on_each(self, function, in_specs, out_specs):
        # Types of varying values (check_vma) would refuse ordinary models: a loop that starts from
        # zeros, as in recurrent layers.
        specs = {"in_specs": in_specs, "out_specs": out_specs, "check_vma": False}
        return self.jax.shard_map(function, mesh=self.mesh, **specs)

    # JAX would sum the gradient of each value by itself; Mask R-CNN has 266. XLA joins such sums,
    # but so late that it copies each gradient out of the sum before it is used. So the replicas get
    # a few more arrays, `slots`, that nothing reads: a slot's "gradient" is that of a whole group
    # of values, joined and summed in the replicas. Outside, it is cut up into the values' own.

    def _groups(self, values, gradient_dtypes):
        """[(positions, dtype)]: values whose gradients are joined, and the dtype these travel in.

        The values of a group have one dtype. Last positions first, since the backward pass makes
        the gradients of the last layers first.
        """
        groups = {}
        for k, dtype in reversed([*enumerate(gradient_dtypes)]):
            if dtype is None:
                continue
            own = values[k].dtype
            alike = groups.setdefault((own, dtype if self.count == 2 else own), [[]])
            if sum(values[i].size for i in alike[-1]) * own.itemsize >= _PIECE_BYTES:
                alike.append([])
            alike[-1].append(k)
        return [(group, dtype) for (_, dtype), alike in groups.items() for group in alike]

    def _slots(self, values, groups):
        """Zeros, (count, size) for each group, whose gradient is that of the group's values."""
        jax = self.jax

        def make(values):
            dtypes = [values[group[0]].dtype for group, _ in groups]
            sizes = [sum(values[k].size for k in group) for group, _ in groups]
            return [jax.numpy.zeros((self.count, n), x) for n, x in zip(sizes, dtypes, strict=True)]

        def backward(_, gradients):
            # each replica's own row is the sum over all of them
            sums = self._on_each(lambda rows: [x[0] for x in rows], (self.rows,), self.whole)
            found = [None] * len(values)
            for total, (group, _) in zip(sums(gradients), groups, strict=True):
                parts = jax.lax.split(total, [values[k].size for k in group])
                for k, part in zip(group, parts, strict=True):
                    found[k] = part.reshape(values[k].shape)
            return (found,)

        slots = jax.custom_vjp(make)
        slots.defvjp(lambda values: (make(values), None), backward)
        return slots(values)

    def _with_gradients_in_slots(self, values, slots, groups):
        """A replica's `values`, as they are; the groups' gradients, summed, go to `slots`."""
        jax = self.jax

        def backward(_, gradients):
            sums = []
            for group, dtype in groups:
                parts = [gradients[k].reshape(-1).astype(dtype) for k in group]
                total = self._sum(jax.lax.concatenate(parts, 0), gradients[group[0]].dtype)
                sums.append(total[None])
            return [None] * len(gradients), sums

        passed = jax.custom_vjp(lambda values, slots: values)
        passed.defvjp(lambda values, slots: (values, None), backward)
        return passed(values, slots)

    def _sum(self, piece, dtype):
        """`piece` summed over the replicas, in `dtype`."""
        if self.count == 2:
            return piece.astype(dtype) + self._of_other(piece).astype(dtype)
        return self.jax.lax.psum(piece.astype(dtype), "replica")

    def _of_other(self, x):
        """What the other one of two replicas has as `x`."""
        return self.jax.lax.ppermute(x, "replica", [(0, 1), (1, 0)])

    def _merge_update(self, value):
        """The mean over replicas; of integers, such as seeds and counters, the first one's."""
        lax = self.jax.lax
        if self.jax.numpy.issubdtype(value.dtype, self.jax.numpy.floating):
            return lax.pmean(value, "replica")
        return lax.all_gather(value, "replica")[0]


def accepted_compiler_options(options):
    """Those of `options`, a dict for `jax.jit(compiler_options=...)`, that this XLA knows.

    What XLA_FLAGS sets is the user's to choose, and left out.
    """
    import jax

    flags = os.environ.get("XLA_FLAGS", "")

    def accepted(name, value):
        try:
            jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
        except jax.errors.JaxRuntimeError as error:
            if "INVALID_ARGUMENT" not in str(error):
                raise
            return False
        return True

    options = {name: value for name, value in options.items() if name not in flags}
    return {name: value for name, value in options.items() if accepted(name, value)}


def train_function_with(model, compiler_options):
    """`model.train_function`, as Keras makes it on JAX, but compiled with options for XLA.

    It stays as it is where there are none, and where it is more than one compiled step.
    """
    import jax
    import keras

    plain = model.jit_compile and not model.run_eagerly and model.steps_per_execution == 1
    if not (compiler_options and plain and keras.distribution.distribution() is None):
        return model.train_function
    step = jax.jit(model.train_step, donate_argnums=0, compiler_options=compiler_options)
    return lambda state, iterator: step(state, next(iterator))


class _JaxTraining:
    """What differs in Keras' training functions on JAX: where data and variables are.

    Keras puts batches on the first device, and variables too when it creates, loads or resets them.
    That would cost a copy from there, and a second compilation of the step.
    """

    def fit(self, *args, **kwargs):
        call = _arguments(super().fit, args, kwargs)
        self._check_batches(call, equal=True)
        data = {name: call.pop(name, None) for name in ("x", "y", "sample_weight", "class_weight")}
        arrays = data["x"], data["y"], data["sample_weight"]
        validation = call.get("validation_data")
        if call.get("validation_split") and validation is None:
            from keras.src.trainers.data_adapters.array_slicing import train_validation_split

            split = call.pop("validation_split")
            arrays, validation = train_validation_split(arrays, validation_split=split)
            data["x"], data["y"], data["sample_weight"] = arrays
        size, steps = call.get("batch_size"), call.get("steps_per_epoch")
        shuffle = call.get("shuffle", True) and not inspect.isgenerator(data["x"])
        call["x"] = self._sharded(size, steps, shuffle=shuffle, **data)
        if validation is not None:
            from keras.utils import unpack_x_y_sample_weight

            data = dict(zip(data, unpack_x_y_sample_weight(validation), strict=False))
            size, steps = call.get("validation_batch_size") or size, call.get("validation_steps")
            call["validation_data"] = self._sharded(size, steps, **data)
        return super().fit(**call)

    def evaluate(self, *args, **kwargs):
        call = _arguments(super().evaluate, args, kwargs)
        data = {name: call.pop(name, None) for name in ("x", "y", "sample_weight")}
        x = self._sharded(call.get("batch_size"), call.get("steps"), **data)
        return super().evaluate(x, **call)

    def predict(self, *args, **kwargs):
        call = _arguments(super().predict, args, kwargs)
        x = self._sharded(call.get("batch_size"), call.get("steps"), x=call.pop("x"))
        return super().predict(x, **call)

    def _sharded(self, batch_size, steps, **data):
        """Keras' own adapter for this data, with `shard_batch` on what it yields."""
        from keras.src.trainers.data_adapters import get_data_adapter

        adapter = get_data_adapter(batch_size=batch_size, steps_per_epoch=steps, **data)
        if "get_jax_iterator" not in vars(adapter):
            batches = adapter.get_jax_iterator
            adapter.get_jax_iterator = lambda: map(self.shard_batch, batches())
        return adapter

    def make_train_function(self, force=False):
        if self.train_function is None or force:
            super().make_train_function(force)
            step = self._placed(train_function_with(self, self.compiler_options))

            def train(state, iterator):
                try:
                    return step(state, iterator)
                except ValueError:  # about rows; Keras took the values out of the variables before
                    variables = self.trainable_variables + self.non_trainable_variables
                    variables += self.optimizer.variables + self.metrics_variables
                    for variable, value in zip(variables, itertools.chain(*state), strict=True):
                        variable.assign(value)
                    raise

            self.train_function = train

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
        return self._map_scalars(lambda x: x.reshape((1,)), outputs), state
