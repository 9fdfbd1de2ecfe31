"""Which layers a training run changes, and the line in the log that says so."""

import logging
import re

import keras
import numpy as np

from mrcnn_parallel import backend

log = logging.getLogger(__name__)

LAYERS = {  # what `train(layers=...)` may name, besides a regex of layer names
    "heads": r"(mrcnn\_.*)|(rpn\_.*)|(fpn\_.*)",
    "3+": r"(res3.*)|(bn3.*)|(res4.*)|(bn4.*)|(res5.*)|(bn5.*)|(mrcnn\_.*)|(rpn\_.*)|(fpn\_.*)",
    "4+": r"(res4.*)|(bn4.*)|(res5.*)|(bn5.*)|(mrcnn\_.*)|(rpn\_.*)|(fpn\_.*)",
    "5+": r"(res5.*)|(bn5.*)|(mrcnn\_.*)|(rpn\_.*)|(fpn\_.*)",
    "all": ".*",
}


def set_trainable(model, layer_regex, indent=0, verbose=1):
    """Makes the layers of a model trainable whose whole names match the regex, and no others.

    Nested models' layers are chosen by their own names; `verbose` logs those chosen.
    """
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            set_trainable(layer, layer_regex, indent + 4, verbose)
            continue
        if not layer.weights:
            continue
        layer.trainable = bool(re.fullmatch(layer_regex, layer.name))
        if layer.trainable and verbose:
            log.debug("%s%-24s (%s)", " " * indent, layer.name, type(layer).__name__)


def check_any_trainable(model, layers):
    """ValueError where the `layers` argument of `train` left nothing to train."""
    if not model.trainable_variables:
        raise ValueError(
            f"layers={layers!r} matches no layer with weights; use one of "
            f"{', '.join(LAYERS)} or a regex of whole layer names, e.g. 'mrcnn_.*'."
        )


def describe_run(model, config, layers, epoch, learning_rate, num_anchors):
    """A training run in one line."""
    trainable = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    height, width = config.IMAGE_SHAPE[:2]
    return (
        f"Training {config.NAME!r} on {backend.describe_devices()}: {config.GPU_COUNT} "
        f"replica(s) x {config.IMAGES_PER_GPU} image(s) of {height}x{width}, "
        f"{num_anchors:,} anchors, {trainable / 1e6:.1f} of {model.count_params() / 1e6:.1f} M "
        f"parameters ({layers}), from epoch {epoch}, learning rate {learning_rate:g}"
    )
