"""What the benchmarks share: batches that stay on the devices, memory, and parts of a step."""

import functools
import re
import statistics
import sys
import time

import keras
import numpy as np

from mrcnn_parallel import backend

LAYOUTS = ("channels_first", "channels_last")  # of torchvision's memory


class SameBatch(keras.utils.PyDataset):
    """The same batch again and again, already on the devices.

    Args:
        model: a network, or a ParallelModel, whose devices get their rows.
        batch: tuple of arrays.
    """

    def __init__(self, model, batch):
        super().__init__(workers=1)
        self.batch = backend.batch_placer(model)(batch)

    @property
    def num_batches(self):
        return None

    def __getitem__(self, index):
        return (self.batch,)


def backend_version():
    if keras.backend.backend() == "jax":
        import jax

        return f"jax {jax.__version__}"
    import tensorflow as tf

    return f"tensorflow {tf.__version__}"


def device_name():
    if keras.backend.backend() == "jax":
        import jax

        return jax.local_devices()[0].device_kind
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    return tf.config.experimental.get_device_details(gpus[0])["device_name"] if gpus else "cpu"


def peak_memory_gib():
    """Most memory ever held on the first device, or None where the backend does not say."""
    if keras.backend.backend() == "jax":
        import jax

        stats = jax.local_devices()[0].memory_stats()
        return stats["peak_bytes_in_use"] / 2**30 if stats else None
    import tensorflow as tf

    if not tf.config.list_physical_devices("GPU"):
        return None
    return tf.config.experimental.get_memory_info("GPU:0")["peak"] / 2**30


def has_torchvision():
    try:
        import torchvision  # noqa: F401
    except ImportError:
        print("torchvision is not installed: no peer in this table")
        return False
    return True


def compare(contenders, windows, steps):
    """Times contenders in turns, a window of steps each.

    Args:
        contenders: objects with `run(steps)`, which returns when all work is done; `name`,
            `version`, `gpus`, `batch` per GPU, `images` a step, `build_seconds`, `first_seconds`
            and `peak_gib()`; and `steps` in a window, if not the argument's.
        windows: rounds; the median one counts.
        steps: in a window.

    Returns:
        A list of dicts, one a contender; `ratio` is to the fastest torchvision, None without one.
    """
    seconds = [[] for _ in contenders]
    for window in range(windows):
        for contender, times in zip(contenders, seconds, strict=True):
            count = getattr(contender, "steps", steps)
            started = time.perf_counter()
            contender.run(count)
            times.append((time.perf_counter() - started) / count)
            # At once, so that a run that is cut short has said something
            what = f"{contender.name}, {contender.gpus} x {contender.batch}"
            progress = f"window {window + 1} of {windows}: {what}: {1000 * times[-1]:.1f} ms"
            print(progress, file=sys.stderr, flush=True)
    rows = []
    for contender, times in zip(contenders, seconds, strict=True):
        median = statistics.median(times)
        rows.append(
            {
                "name": contender.name,
                "version": contender.version,
                "gpus": contender.gpus,
                "batch_per_gpu": contender.batch,
                "ms": 1000 * median,
                "images_per_second": contender.images / median,
                "spread_ms": 1000 * (max(times) - min(times)),
                "peak_gib": contender.peak_gib(),
                "build_seconds": contender.build_seconds,
                "first_seconds": contender.first_seconds,
            }
        )
    peers = [r["images_per_second"] for r in rows if r["name"].startswith("torchvision")]
    for row in rows:
        row["ratio"] = row["images_per_second"] / max(peers) if peers else None
    return rows


def print_table(title, rows):
    print(f"\n{title}, {device_name()}")
    print(
        f"{'':48}{'GPUs':>5}{'batch':>6}{'ms':>9}{'+-':>7}{'img/s':>9}{'ratio':>7}"
        f"{'GiB':>7}{'build s':>9}{'first s':>9}"
    )
    for row in rows:
        print(
            f"{row['name']:48}{row['gpus']:5}{row['batch_per_gpu']:6}{row['ms']:9.1f}"
            f"{row['spread_ms'] / 2:7.1f}{row['images_per_second']:9.1f}"
            f"{_or_dash(row['ratio'], '.2f'):>7}{_or_dash(row['peak_gib'], '.1f'):>7}"
            f"{row['build_seconds']:9.1f}{row['first_seconds']:9.1f}"
        )


def _or_dash(value, form):
    return "-" if value is None else format(value, form)


def time_all_reduce(model, sums=20, repeats=5):
    """Milliseconds that one sum of all gradients over a ParallelModel's devices takes. JAX only.

    Many sums make one program, so that what the host does for each call does not count.
    """
    import jax

    engine, variables = model._engine, model.trainable_variables
    values = [variable.value for variable in variables]
    groups = engine._groups(values, model._replicate.gradient_dtypes(variables))
    slots = zip(engine._slots(values, groups), groups, strict=True)
    pieces = [slot.astype(dtype) for slot, (_, dtype) in slots]

    def summed(_, pieces):
        return [engine._sum(x, "float32").astype(x.dtype) for x in pieces]

    def summed_often(pieces):
        return jax.lax.fori_loop(0, sums, summed, pieces)

    on_each = engine._on_each(summed_often, (engine.rows,), engine.rows)
    program = jax.jit(on_each, compiler_options=model.compiler_options)
    pieces = jax.device_put(pieces, engine.by_rows)
    return _median_ms(lambda: jax.block_until_ready(program(pieces)), repeats) / sums


def _median_ms(function, repeats):
    function()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return 1000 * float(np.median(times))


def time_cuts(model, cuts, batch, replicas=1, repeats=10):
    """Times growing parts of a network, forward and backward, on one device. JAX only.

    Args:
        model: functional model.
        cuts: name -> (patterns of layers whose outputs the part ends with, patterns of more such
            layers, which no gradient comes from).
        batch: the model's inputs; images may be uint8.
        replicas: that share the batch; one's rows are taken.
        repeats: steps timed; the median counts.

    Returns:
        name -> milliseconds.
    """
    import jax
    import jax.numpy as jnp

    inputs = [jnp.asarray(np.asarray(x)[: len(x) // replicas]) for x in batch]
    options = backend.gpu_options()
    results = {}
    for name, cut in cuts.items():
        learnt, fixed_outputs = ([x for y in layers for x in _outputs(model, y)] for layers in cut)
        part = keras.Model(model.inputs, [*learnt, *fixed_outputs])
        trainable = [v.value for v in part.trainable_variables]
        fixed = [v.value for v in part.non_trainable_variables]

        def loss(trainable, fixed, inputs, part=part, learnt=learnt):
            inputs = [inputs[0].astype("float32") - 110.0, *inputs[1:]]
            outputs, _ = part.stateless_call(trainable, fixed, inputs, training=True)
            means = [x.astype("float32").mean() for x in jax.tree.leaves(outputs)]
            return sum(means[: len(learnt)]) + jax.lax.stop_gradient(sum(means[len(learnt) :]))

        step = jax.jit(jax.value_and_grad(loss), compiler_options=options)
        step = functools.partial(step, trainable, fixed, inputs)
        results[name] = _median_ms(lambda step=step: jax.block_until_ready(step()), repeats)
    return results


def _outputs(model, pattern):
    """The outputs of the last layer whose whole name matches."""
    layer = [layer for layer in model.layers if re.fullmatch(pattern, layer.name)][-1]
    output = layer.output
    return list(output) if isinstance(output, (list, tuple)) else [output]
