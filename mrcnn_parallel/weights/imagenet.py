"""ImageNet weights for the backbone: Keras Applications' ResNet-50 and -101, Matterport's names.

Both are the same network: bias in every convolution, the stride in a block's first 1x1. Three
things differ, and the conversion makes this package's C5 equal theirs (but for the last):

- *Channel order.* Their weights are Caffe's, made for BGR. This package, like Matterport's, feeds
  RGB minus MEAN_PIXEL, so conv1's input channels are turned round. (Matterport's didn't, and lost
  a little accuracy at the start of training by it.)
- *Epsilon of the normalisation.* 1.001e-5 there, 1e-3 (Keras's default) here, for Matterport's own
  weights need that. gamma takes the ratio, so that a frozen normalisation computes the same.
- *Padding of the first pooling.* Theirs pads one row above and one below, ours, as Matterport's and
  as Caffe's, below only. That shifts the grid by one pixel of the stem; weights can't make up for
  it, and needn't: Caffe trained them with ours.
"""

import logging
import os
from pathlib import Path

import keras
import numpy as np
from keras import ops

from mrcnn_parallel.weights.files import COVERS
from mrcnn_parallel.weights.writer import atomic_path, write_legacy_file

log = logging.getLogger(__name__)

OUR_EPSILON = 1e-3  # of every BatchNorm in nets/
_BACKBONE_LAYERS = r"conv1|bn_conv1|(res|bn)\d[a-z]+_branch\w+"


def get_imagenet_weights(architecture="resnet50", cache_dir=None):
    """Downloads Keras Applications' weights (once) and converts them to Matterport's layout (once).

    Args:
        architecture: "resnet50" or "resnet101".
        cache_dir: folder for the converted file; None is Keras's own, `~/.keras/models`.

    Returns:
        path (str) of an h5 file. `load_weights` knows that it holds a backbone alone and asks for
        no more than that.

    Raises:
        ValueError: another architecture, for which there are no such weights.
    """
    builders = {"resnet50": "ResNet50", "resnet101": "ResNet101"}
    if architecture not in builders:
        raise ValueError(
            f"there are ImageNet weights for BACKBONE {' and '.join(builders)} only, not for "
            f"{architecture!r}: train from random weights or load a file of your own."
        )
    if cache_dir is None:
        home = os.environ.get("KERAS_HOME") or Path.home() / ".keras"
        cache_dir = Path(home) / "models"
    path = Path(cache_dir) / f"mrcnn_parallel_{architecture}_imagenet.h5"
    if not path.exists():
        build = getattr(keras.applications, builders[architecture])
        convert_keras_resnet(build(weights="imagenet", include_top=False), path)
        log.info("ImageNet weights of %s converted to %s", architecture, path)
    return str(path)


def convert_keras_resnet(model, path):
    """Writes a Keras Applications ResNet (v1, without its top) under Matterport's names.

    Args:
        model: `keras.applications.ResNet50(include_top=False)` or ResNet101.
        path: the h5 file to write.
    """
    groups = []
    for layer in model.layers:
        if not layer.weights:
            continue
        name = matterport_name(layer.name)
        values = [np.asarray(ops.convert_to_numpy(v), np.float32) for v in layer.weights]
        kinds = [variable.name for variable in layer.weights]
        if name == "conv1":
            values[0] = values[0][:, :, ::-1, :]  # (7, 7, BGR, 64) -> (7, 7, RGB, 64)
        if "gamma" in kinds:
            gamma, variance = kinds.index("gamma"), kinds.index("moving_variance")
            ratio = (values[variance] + OUR_EPSILON) / (values[variance] + layer.epsilon)
            values[gamma] = values[gamma] * np.sqrt(ratio)
        names = [f"{name}/{kind}:0" for kind in kinds]
        groups.append((name, list(zip(names, values, strict=True))))
    with atomic_path(path) as temporary:
        write_legacy_file(temporary, groups, root_attributes={COVERS: _BACKBONE_LAYERS})


def matterport_name(name):
    """Keras Applications' name of a layer -> Matterport's.

    conv1_conv -> conv1, conv4_block3_2_bn -> bn4c_branch2b, conv2_block1_0_conv -> res2a_branch1.

    Raises:
        ValueError: no layer of a Keras Applications ResNet v1.
    """
    if name in ("conv1_conv", "conv1_bn"):
        return {"conv1_conv": "conv1", "conv1_bn": "bn_conv1"}[name]
    try:
        stage, block, position, kind = name.split("_")
        letter = chr(ord("a") + int(block.removeprefix("block")) - 1)
        branch = {"0": "branch1", "1": "branch2a", "2": "branch2b", "3": "branch2c"}[position]
        prefix = {"conv": "res", "bn": "bn"}[kind]
        return f"{prefix}{int(stage.removeprefix('conv'))}{letter}_{branch}"
    except (ValueError, KeyError) as error:
        raise ValueError(f"{name} is not a layer of a Keras Applications ResNet v1.") from error
