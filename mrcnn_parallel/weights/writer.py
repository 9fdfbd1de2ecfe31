"""save_weights: Matterport's h5 layout, or Keras 3's own, written in one atomic step.

The layout is that of Keras 2's `save_weights`: a group per layer of the model, weight-less ones
included (empty), their order in the root's `layer_names`, a nested model's weights in its one
group, each dataset called `layer/kernel:0`. The layers with weights come in the order of
Matterport's inference graph whatever order this model's graph has, so that a reader that goes by
order loads it too. Weight-less layers keep our names: nobody reads them.
"""

import contextlib
import os
import re
from pathlib import Path

import h5py
import keras
import numpy as np
from keras import ops

from mrcnn_parallel.weights.files import ANCHORS
from mrcnn_parallel.weights.matching import is_nested_model, model_layers

_MAX_ATTRIBUTE_BYTES = 64512  # HDF5 keeps attributes in an object header of 64 KB

# Layers with weights after the backbone, in the order of Matterport's inference graph.
_AFTER_BACKBONE = (
    *("fpn_c5p5", "fpn_c4p4", "fpn_c3p3", "fpn_c2p2", "fpn_p5", "fpn_p2", "fpn_p3", "fpn_p4"),
    "rpn_model",
    *("mrcnn_class_conv1", "mrcnn_class_bn1", "mrcnn_class_conv2", "mrcnn_class_bn2"),
    *("mrcnn_class_logits", "mrcnn_bbox_fc"),
    *("mrcnn_mask_conv1", "mrcnn_mask_bn1", "mrcnn_mask_conv2", "mrcnn_mask_bn2"),
    *("mrcnn_mask_conv3", "mrcnn_mask_bn3", "mrcnn_mask_conv4", "mrcnn_mask_bn4"),
    *("mrcnn_mask_deconv", "mrcnn_mask"),
)
# Within a residual block: the shortcut's convolution comes between the main branch's last and its
# normalisation, as sorting the graph by depth has it.
_IN_BLOCK = ("res2a", "bn2a", "res2b", "bn2b", "res2c", "res1", "bn2c", "bn1")


def save_weights(keras_model, filepath, compression=None):
    """Saves a model's weights; the name decides the format.

    The file appears whole or not at all: it is written beside its place and then moved there.
    Missing folders are made.

    Args:
        keras_model: a functional Keras model, or a wrapper that has it as `inner_model`.
        filepath: str or Path ending in `.weights.h5` (Keras 3's weights), `.keras` (Keras 3's
            whole model), or `.h5` / `.hdf5` (Matterport's layout).
        compression: "gzip" shrinks Matterport's layout a little at several times the time.

    Raises:
        ValueError: another ending, or compression where Keras 3 writes.
    """
    model = getattr(keras_model, "inner_model", keras_model)
    path = Path(filepath)
    if not path.name.endswith((".h5", ".hdf5", ".keras")):
        raise ValueError(f"{path} must end in .h5, .hdf5, .weights.h5 or .keras to save weights.")
    keras_format = path.name.endswith((".weights.h5", ".keras"))
    if keras_format and compression:
        raise ValueError(f"{path}: compression is for Matterport's .h5 layout alone.")
    with atomic_path(path) as temporary:
        if path.name.endswith(".weights.h5"):
            model.save_weights(temporary)
        elif keras_format:
            model.save(temporary)
        else:
            _write_legacy(model, temporary, compression)


@contextlib.contextmanager
def atomic_path(path):
    """Yields a path beside `path`; what was written there replaces `path` if the block succeeds."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    endings = "".join(path.suffixes[-2:]) if path.name.endswith(".weights.h5") else path.suffix
    temporary = path.with_name(f".{path.name}.{os.getpid()}{endings}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_legacy(model, path, compression):
    groups = [(layer.name, _named_weights(layer)) for layer in _in_matterport_order(model)]
    write_legacy_file(path, groups, compression)


def write_legacy_file(path, groups, compression=None, root_attributes=None):
    """Writes Keras 2's layout.

    Args:
        groups: list of (layer name, [(weight name, array)]) in order.
        root_attributes: dict of str of extra attributes.
    """
    with h5py.File(path, "w") as file:
        _set_attribute(file, "layer_names", [name for name, _ in groups])
        # Kernels lie as TensorFlow wants them, whichever backend runs: readers ask for that.
        file.attrs["backend"] = np.bytes_(b"tensorflow")
        file.attrs["keras_version"] = np.bytes_(keras.__version__.encode())
        for name, value in (root_attributes or {}).items():
            file.attrs[name] = np.bytes_(value.encode())
        for layer_name, weights in groups:
            group = file.create_group(layer_name)
            _set_attribute(group, "weight_names", [name for name, _ in weights])
            for name, value in weights:
                chosen = compression if value.size > 256 else None
                group.create_dataset(name, data=value, compression=chosen)


def _set_attribute(group, name, texts):
    """Stores a list of str as fixed-length bytes, which every Keras 2 can read, in chunks."""
    items = np.array([text.encode("utf-8") for text in texts], dtype="S" if texts else "S1")
    num_chunks = 1
    while any(c.nbytes > _MAX_ATTRIBUTE_BYTES for c in np.array_split(items, num_chunks)):
        num_chunks += 1
    if num_chunks == 1:
        group.attrs[name] = items
        return
    for i, chunk in enumerate(np.array_split(items, num_chunks)):
        group.attrs[f"{name}{i}"] = chunk


def _named_weights(layer):
    """-> [(name, float array)] of one group: trainable ones first, as a nested model's were."""
    if not layer.weights or layer.name == ANCHORS:
        return []
    entries = []
    for inner in model_layers(layer) if is_nested_model(layer) else [None]:
        variables = layer.weights if inner is None else inner.variables
        prefix = layer.name if inner is None else inner.name
        kinds = [variable.name for variable in variables]
        if len(set(kinds)) < len(kinds):  # a wrapper around several layers: their paths differ
            names = [f"{variable.path}:0" for variable in variables]
        else:
            names = [f"{prefix}/{kind}:0" for kind in kinds]
        entries += list(zip(names, variables, strict=True))
    # Not `variable.trainable`: a frozen layer's kernel must stay in its place.
    entries.sort(key=lambda entry: entry[1].name in ("moving_mean", "moving_variance"))
    return [(name, _to_array(variable)) for name, variable in entries]


def _to_array(variable):
    array = np.asarray(ops.convert_to_numpy(variable))
    return array if array.dtype.kind in "fiub" else array.astype(np.float32)  # bfloat16


def _in_matterport_order(model):
    """-> the model's layers; those of a Mask R-CNN's with weights sorted within their places."""
    layers = list(model.layers)
    keys = [_order_of(layer.name) if layer.weights else None for layer in layers]
    if not any(layer.name == "rpn_model" for layer in layers):
        return layers
    places = [i for i, key in enumerate(keys) if key is not None]
    for place, source in zip(places, sorted(places, key=lambda i: keys[i]), strict=True):
        layers[place] = model.layers[source]
    return layers


def _order_of(name):
    """-> a sort key for a layer name of Matterport's, None for any other."""
    if name in ("conv1", "bn_conv1"):
        return (0, name == "bn_conv1")
    block = re.fullmatch(r"(res|bn)(\d)([a-z]+)_branch(1|2[abc])", name)
    if block:
        kind, stage, letters, branch = block.groups()
        return (1, int(stage), len(letters), letters, _IN_BLOCK.index(kind + branch))
    if name in _AFTER_BACKBONE:
        return (2, _AFTER_BACKBONE.index(name))
    return None
