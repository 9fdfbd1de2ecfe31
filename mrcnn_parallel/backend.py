"""The seam between the package and its two engines: devices, compilation, caches, dtypes.

Everything that must know whether Keras runs on TensorFlow or JAX is here or in `parallel_model.py`.
"""

import collections
import logging
import os

from mrcnn_parallel.parallel_model import accepted_compiler_options, train_function_with

log = logging.getLogger(__name__)


def expose_cpu_devices(count):
    """Makes the machine's CPU look like `count` devices, so that replicas can run without a GPU.

    Must be called before the backend has touched a device. Which backend: KERAS_BACKEND, or what
    `keras.json` names. JAX reads the count when it starts its CPU client, TensorFlow needs a call.

    Raises:
        RuntimeError: the backend has already initialised its devices with another count.
    """
    flag = "--xla_force_host_platform_device_count"
    flags = [f for f in os.environ.get("XLA_FLAGS", "").split() if not f.startswith(flag)]
    os.environ["XLA_FLAGS"] = " ".join([*flags, f"{flag}={count}"])
    # XLA's CPU client has one thread a core for all its devices, and a thread that waits for
    # another device's part of a sum is blocked. On few cores all may end up waiting, for ever; so
    # it gets more threads.
    os.environ.setdefault("NPROC", str(max(os.cpu_count() or 1, 16 * count)))
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        cpu = tf.config.list_physical_devices("CPU")[0]
        try:
            tf.config.set_logical_device_configuration(
                cpu, [tf.config.LogicalDeviceConfiguration() for _ in range(count)]
            )
        except (RuntimeError, ValueError) as error:
            raise RuntimeError(_TOO_LATE.format(count=count)) from error
    elif len(_devices("cpu")) != count:
        raise RuntimeError(_TOO_LATE.format(count=count))


_TOO_LATE = (
    "could not expose {count} CPU devices because the backend has already started; call "
    "expose_cpu_devices before anything else uses Keras."
)


def _devices(kind):
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return [device.name for device in tf.config.list_logical_devices(kind.upper())]
    import jax

    try:
        return [str(device) for device in jax.local_devices(backend=kind)]
    except RuntimeError:  # JAX raises where that kind of device does not exist
        return []


def expose_cpu_devices_without_gpu(count):
    """`expose_cpu_devices` on a machine without GPUs; on one with GPUs, nothing that matters.

    Returns:
        True where there is no GPU.
    """
    # Looking for GPUs starts JAX, and then it is too late to expose CPUs: so that comes first.
    expose_cpu_devices(count)
    return not gpus()


def gpus():
    """Names of the GPUs that the current Keras backend sees."""
    return _devices("gpu")


def visible_devices():
    """Names of the devices replicas may use: the GPUs or, on a machine without any, the CPUs."""
    return gpus() or _devices("cpu")


def describe_devices():
    """One phrase for the log, e.g. `jax on 2 x cuda`."""
    import keras

    kind = "GPU" if gpus() else "CPU"
    return f"{keras.backend.backend()}, {len(visible_devices())} {kind} device(s) visible"


def compile_forward(forward, model, prepare=list):
    """Compiles a forward pass: one program for each set of input shapes.

    Args:
        forward: function of the model's outputs -> tensors to return.
        model: a built keras.Model.
        prepare: function of the inputs -> the model's inputs, part of the program.

    Returns:
        Function of a list of arrays -> list of tensors, which the device may still be computing. It
        always reads the model's current weights.
    """
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        compiled = tf.function(lambda inputs: forward(model(prepare(inputs), training=False)))
        return lambda inputs: compiled([tf.convert_to_tensor(x) for x in inputs])
    import jax

    def run(trainable, non_trainable, inputs):
        inputs = prepare(inputs)
        outputs, _ = model.stateless_call(trainable, non_trainable, inputs, training=False)
        return forward(outputs)

    compiled = jax.jit(run)

    def call(inputs):
        trainable = [v.value for v in model.trainable_variables]
        non_trainable = [v.value for v in model.non_trainable_variables]
        return compiled(trainable, non_trainable, list(inputs))

    return call


def on_device(array, model):
    """A NumPy array as a tensor where `model`, or a ParallelModel's replicas, will read it."""
    import keras

    return keras.ops.convert_to_tensor(batch_placer(model)(array))


def batch_placer(model):
    """A function that puts arrays, or a tuple of them, where `model` will read them.

    To be called in a loading thread, so that the transfer overlaps training. A ParallelModel's
    replicas get their own rows each. TensorFlow without one moves batches by itself.
    """
    import keras

    shard_batch = getattr(model, "shard_batch", None)
    if shard_batch is not None:
        return shard_batch
    if keras.backend.backend() == "tensorflow":
        return lambda batch: batch
    import jax

    return jax.device_put


def dtype_policy(name):
    """The dtype policy that Config.DTYPE_POLICY names.

    "auto" is Keras's global policy or, where nobody changed that from float32, mixed_bfloat16 on
    GPUs that compute in bfloat16 (compute capability 8.0 and above).
    """
    import keras

    if name != "auto":
        return name
    policy = keras.config.dtype_policy()
    if policy.name == "float32" and _gpu_has_bfloat16():
        return "mixed_bfloat16"
    return policy


def _gpu_has_bfloat16():
    import keras

    if not gpus():
        return False
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        gpu = tf.config.list_physical_devices("GPU")[0]
        details = tf.config.experimental.get_device_details(gpu)
        return tuple(details.get("compute_capability", (0, 0))) >= (8, 0)
    import jax

    capability = getattr(jax.local_devices(backend="gpu")[0], "compute_capability", "0.0")
    return float(capability) >= 8.0


def jit_compile(gpu_count):
    """Keras's `jit_compile` for the training step.

    TensorFlow cannot compile a step that spans several devices; JAX always compiles.
    """
    import keras

    one_program = gpu_count == 1 or keras.backend.backend() == "jax"
    return "auto" if one_program else False


STEPS_QUEUED = 2  # that wait for the device or run on it
GPU_OPTIONS = {  # for XLA, where they differ from its own
    # What it puts into CUDA graphs by default, and loops (WHILE). Outside of a graph a GPU waits
    # for the host to look whether a loop goes on, and for other GPUs, whose hosts took longer.
    "xla_gpu_enable_command_buffer": (
        "FUSION,CUBLAS,CUBLASLT,CUDNN,CUSTOM_CALL,DYNAMIC_SLICE_FUSION,CONDITIONAL,WHILE"
    ),
    # It compiles other variants of kernels to see which is fastest. None was, and for kernels of
    # box arithmetic LLVM worked minutes on some of the variants.
    "xla_gpu_experimental_enable_fusion_autotuner": False,
}


def train_function(model, network):
    """A Keras train function as training runs it on JAX: see `step_function`; with XLA's options.

    Args:
        model: a keras.Model whose train_function Keras has made.
        network: the ParallelModel in it, or a model on one device.
    """
    import keras

    if keras.backend.backend() != "jax":
        return model.train_function
    options = getattr(network, "compiler_options", {}) | gpu_options()
    return step_function(train_function_with(model, options), network)


def gpu_options():
    """On JAX with a GPU: those of GPU_OPTIONS that `accepted_compiler_options` accepts."""
    return accepted_compiler_options(GPU_OPTIONS) if gpus() else {}


def step_function(function, network):
    """A Keras train or test function as training runs it on JAX.

    A ParallelModel's variables go to every device first. Keras puts them on the first one when it
    creates, loads or resets them; the step after that would copy them, and be compiled once more.

    No more than STEPS_QUEUED steps are queued on the device: enough to keep it busy, and few enough
    that a fast host neither fills its memory with batches nor runs far ahead of what it reports.

    Args:
        function: what keras.Model.make_train_function makes: (state, iterator) -> (logs, state).
        network: a ParallelModel, or a model on one device.
    """
    import keras

    if keras.backend.backend() != "jax":
        return function
    import jax

    replicate = getattr(network, "replicate", lambda state: state)
    queued = collections.deque()

    def run(state, iterator):
        if len(queued) == STEPS_QUEUED:
            jax.block_until_ready(queued.popleft())
        logs, state = function(replicate(state), iterator)
        queued.append(logs)
        return logs, state

    return run


CACHE_VARIABLE = "MRCNN_PARALLEL_CACHE"


def enable_compilation_cache():
    """Keeps XLA's compiled programs on disk (JAX), so that the next start is quick.

    They go to `mrcnn_parallel/xla` in the user's cache folder. The environment variable
    MRCNN_PARALLEL_CACHE names another folder, or is "off". A folder that the user gave to JAX
    itself (JAX_COMPILATION_CACHE_DIR) stays.

    Returns:
        The folder, or None where there is no such cache.
    """
    import keras

    choice = os.environ.get(CACHE_VARIABLE, "")
    if keras.backend.backend() != "jax" or choice.lower() == "off":
        return None
    import jax

    if jax.config.jax_compilation_cache_dir:
        return jax.config.jax_compilation_cache_dir
    root = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = choice or os.path.join(root, "mrcnn_parallel", "xla")
    jax.config.update("jax_compilation_cache_dir", folder)
    # Random initial weights are one small program a shape; together they take longest to build.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    return folder


def take_rows(table, indices):
    """table[index] for each of some indices, with one gradient, which is summed in float32.

    In bfloat16 a row that is taken many times would lose small terms; and GPUs add float32 in one
    instruction, bfloat16 in a loop. All indices add to one float32 table, since filling and reading
    a table takes longer than adding to it.

    Args:
        table: (N, C).
        indices: list of (M_i,) int32.

    Returns:
        list of (M_i, C).
    """
    import keras

    dtype = table.dtype
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        @tf.custom_gradient
        def take(table):
            def gradient(*upstream):
                upstream = tf.concat([tf.cast(x, "float32") for x in upstream], axis=0)
                rows = tf.shape(table)[0]
                total = tf.math.unsorted_segment_sum(upstream, tf.concat(indices, axis=0), rows)
                return tf.cast(total, dtype)

            return [tf.gather(table, index) for index in indices], gradient

        return take(table)
    import jax

    def gather(table, indices):
        return [table[index] for index in indices]

    def backward(indices, upstream):
        total = jax.numpy.zeros(table.shape, "float32")
        for index, values in zip(indices, upstream, strict=True):
            total = total.at[index].add(values.astype("float32"))
        return total.astype(dtype), None

    take = jax.custom_vjp(gather)
    take.defvjp(lambda table, indices: (gather(table, indices), indices), backward)
    return take(table, list(indices))


def bits_of_float32(x):
    """The bits of a float32 tensor as int32, of the same shape."""
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.bitcast(x, "int32")
    import jax

    return jax.lax.bitcast_convert_type(x, "int32")


def relu(x):
    """max(x, 0), whose gradient needs the output only; JAX would keep a mask of the input, too."""
    import keras
    from keras import ops

    if keras.backend.backend() == "tensorflow":  # does so by itself
        return ops.relu(x)

    @ops.custom_gradient
    def positive_part(x):
        output = ops.maximum(x, 0)

        def gradient(upstream):
            return ops.where(output > 0, upstream, ops.zeros_like(upstream))

        return output, gradient

    return positive_part(x)


def counts_faster_than_sorts():
    """Whether passes that compare and count, many of them, take less time than a sort."""
    import keras

    return keras.backend.backend() == "jax" and bool(gpus())


def scatters_gradient_of_max_pooling():
    """Whether the engine's own gradient of a max pooling is slow; see ops.pooling."""
    import keras

    return keras.backend.backend() == "jax"
