"""What the benchmarks share: batches that stay on the devices, memory, and parts of a step."""

import time

import keras
import numpy as np


class SameBatch(keras.utils.PyDataset):
    """The same batch again and again, already on the devices.

    Args:
        model: a network, or a ParallelModel, whose devices get their rows.
        batch: tuple of arrays.
    """

    def __init__(self, model, batch):
        super().__init__(workers=1)
        place = getattr(model, "shard_batch", None) or _to_device
        self.batch = place(batch)

    @property
    def num_batches(self):
        return None

    def __getitem__(self, index):
        return (self.batch,)


def _to_device(batch):
    if keras.backend.backend() != "jax":
        return batch
    import jax

    return jax.device_put(batch)


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


def time_cuts(model, cuts, batch, repeats=10):
    """Times growing parts of a network with their backward passes. JAX only.

    Args:
        model: functional model.
        cuts: name -> layers whose outputs the part ends with.
        batch: the model's inputs; images may be uint8.
        repeats: steps timed; the median counts.

    Returns:
        name -> milliseconds.
    """
    import jax
    import jax.numpy as jnp

    inputs = [jnp.asarray(x) for x in batch]
    results = {}
    for name, layers in cuts.items():
        outputs = [output for layer in layers for output in _outputs(model, layer)]
        part = keras.Model(model.inputs, outputs)
        trainable = [v.value for v in part.trainable_variables]
        fixed = [v.value for v in part.non_trainable_variables]

        def loss(trainable, fixed, inputs, part=part):
            inputs = [inputs[0].astype("float32") - 110.0, *inputs[1:]]
            outputs, _ = part.stateless_call(trainable, fixed, inputs, training=True)
            return sum(x.astype("float32").mean() for x in outputs)

        step = jax.jit(jax.value_and_grad(loss))
        jax.block_until_ready(step(trainable, fixed, inputs))
        times = []
        for _ in range(repeats):
            started = time.perf_counter()
            jax.block_until_ready(step(trainable, fixed, inputs))
            times.append(time.perf_counter() - started)
        results[name] = 1000 * float(np.median(times))
    return results


def _outputs(model, layer):
    output = model.get_layer(layer).output
    return list(output) if isinstance(output, (list, tuple)) else [output]
