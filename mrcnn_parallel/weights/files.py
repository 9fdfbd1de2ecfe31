"""A weights file -> the layers stored in it, whichever program wrote it.

Three layouts. *Legacy*: Keras 2, tf_keras, Matterport and its forks; a group per layer at the root
(or under `model_weights` where the whole model was saved), their order in the attribute
`layer_names`, each group's datasets in its attribute `weight_names`. *Keras 3 weights*:
`layers/conv2d_1/vars/0`, the layer's own name in an attribute of `vars`. *`.keras`*: a zip that
holds such a file. Shapes are known as soon as the file is open; arrays are read one by one.
"""

import contextlib
import io
import itertools
import os
import re
import zipfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import h5py
import ml_dtypes
import numpy as np

from mrcnn_parallel.weights.report import WeightsFileError

# Matterport's training graph keeps its anchors in a layer of this name: no weights of the network.
ANCHORS = "anchors"
# Root attribute of files that hold part of a model on purpose: a regular expression of the layers.
COVERS = "mrcnn_parallel_covers"

_DAMAGED = (OSError, KeyError, RuntimeError, ValueError)  # what h5py raises on a broken file


@dataclass(frozen=True, eq=False)
class StoredWeight:
    """One array of a file: `name` as stored, `shape` known, values read on demand."""

    name: str
    shape: tuple
    dataset: h5py.Dataset

    def read(self):
        """-> the values; bfloat16, which HDF5 lacks, as float32."""
        try:
            values = self.dataset[()]
        except _DAMAGED as error:
            raise WeightsFileError(
                f"weights file {self.dataset.file.filename} is damaged: the values of "
                f"{self.dataset.name} can't be read ({error})."
            ) from error
        if self.dataset.attrs.get("dtype") == "bfloat16":
            return np.asarray(values).view(ml_dtypes.bfloat16).astype(np.float32)
        return values


@dataclass(frozen=True, eq=False)
class StoredLayer:
    """One layer of a file.

    `names` from the outermost model inwards, `("rpn_model", "rpn_class_raw")`, or None where the
    file doesn't say; `path` is its place in a Keras 3 file.
    """

    names: tuple | None
    weights: tuple
    path: str | None = None

    @property
    def name(self):
        return "/".join(self.names) if self.names else self.path


@dataclass(frozen=True)
class WeightsFile:
    """An open file: its `layers` with weights, in its order; `covers` is None for a whole model."""

    layers: list
    legacy: bool
    covers: str | None = None


@contextlib.contextmanager
def open_weights(path):
    """Opens a weights file of any layout, by its content and not by its name.

    Yields:
        WeightsFile, readable until the block ends.

    Raises:
        FileNotFoundError: there is none.
        WeightsFileError: it is damaged or of another kind; the message says which.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"weights file {path} does not exist.")
    with contextlib.ExitStack() as stack:
        kind = _kind_of(path)
        if kind == "zip":
            source = io.BytesIO(_weights_in_zip(path))
        elif kind == "hdf5":
            source = path
        else:
            raise WeightsFileError(
                f"weights file {path} is {kind}, not HDF5 (.h5, .weights.h5) or .keras."
            )
        try:
            root = stack.enter_context(h5py.File(source, "r"))
            weights_file = _read_layers(root)
        except _DAMAGED as error:
            raise WeightsFileError(
                f"weights file {path} is damaged or cut short ({os.path.getsize(path)} bytes; "
                f"HDF5 says: {error}): copy or download it again."
            ) from error
        if not weights_file or not weights_file.layers:
            raise WeightsFileError(
                f"weights file {path} is HDF5 but has no layers with weights in it, neither in "
                "the layout of Keras 2 nor of Keras 3."
            )
        yield weights_file


def _kind_of(path):
    """-> "hdf5", "zip" or, for what can't hold weights, a phrase for the error."""
    if path.is_dir():
        return "a folder"
    if h5py.is_hdf5(path):
        return "hdf5"
    with open(path, "rb") as file:
        head = file.read(1024)
    if not head:
        return "an empty file"
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "zip"
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "a Python pickle (which is never opened: loading one can run any code)"
    if head.startswith(b"\x1f\x8b"):
        return "compressed with gzip"
    if head.startswith(b"\x89HDF"):
        return "a damaged HDF5 file (its first bytes are wrong)"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, whose content was never fetched (`git lfs pull`)"
    text = head.decode("utf-8", errors="ignore")
    if len(text.encode()) >= len(head) - 3 and all(c.isprintable() or c.isspace() for c in text):
        if re.match(r"\s*<(!doctype|html)", text, re.IGNORECASE):
            return "a web page (a download that failed)"
        return "a text file"
    return "of an unknown kind"


def _weights_in_zip(path):
    """-> the bytes of `model.weights.h5` in a `.keras` file."""
    try:
        with zipfile.ZipFile(path) as archive:
            if "model.weights.h5" in archive.namelist():
                return archive.read("model.weights.h5")
    except (zipfile.BadZipFile, OSError, EOFError, RuntimeError) as error:
        raise WeightsFileError(
            f"weights file {path} is a damaged zip or .keras file ({error}): copy or download it "
            "again."
        ) from error
    raise WeightsFileError(
        f"weights file {path} is a zip but not a .keras file: there is no model.weights.h5 in it."
    )


def _read_layers(root):
    if "model_weights" in root and not _has_attribute(root, "layer_names"):
        root = root["model_weights"]
    if _has_attribute(root, "layer_names"):
        covers = root.attrs.get(COVERS)
        return WeightsFile(_legacy_layers(root), legacy=True, covers=covers and _text(covers))
    # tf_keras 2.13 has its own word for `layers`.
    for top in ("layers", "_layer_checkpoint_dependencies"):
        if isinstance(root.get(top), h5py.Group):
            return WeightsFile(_keras_layers(root, top), legacy=False)
    return None


# === Legacy layout ===


def _legacy_layers(root):
    layers = []
    for layer_name in _attribute(root, "layer_names"):
        group = root[layer_name]
        weights = [
            StoredWeight(name, tuple(group[name].shape), group[name])
            for name in _attribute(group, "weight_names")
        ]
        if weights and layer_name != ANCHORS:
            layers.append(StoredLayer((layer_name,), tuple(weights)))
    return layers


def _has_attribute(group, name):
    return name in group.attrs or f"{name}0" in group.attrs


def _attribute(group, name):
    """-> a list of str. HDF5 limits an attribute to 64 KB; longer ones are name0, name1, ..."""
    if name in group.attrs:
        return [_text(item) for item in group.attrs[name]]
    items = []
    for number in itertools.count():
        if f"{name}{number}" not in group.attrs:
            return items
        items += [_text(item) for item in group.attrs[f"{name}{number}"]]


def _text(item):
    return item.decode("utf-8") if isinstance(item, bytes) else str(item)


def split_nested(layer):
    """Splits a nested model's group, `rpn_model`, into the layers that its weight names tell of.

    The group lists trainable weights before the others, so a layer's may lie apart; within a layer
    their order is the layer's own.

    Returns:
        list of StoredLayer named (group, layer), in the order in which the layers first appear.
    """
    parts = defaultdict(list)
    for weight in layer.weights:
        prefix = weight.name.rpartition("/")[0]
        parts[prefix].append(weight)
    return [
        StoredLayer((*layer.names, *prefix.split("/")), tuple(weights))
        for prefix, weights in parts.items()
    ]


# === Keras 3 layout ===


def _keras_layers(root, top):
    found = []

    def visit(path, item):
        if isinstance(item, h5py.Group) and path.endswith("/vars") and len(item):
            found.append(path.removesuffix("/vars"))

    root[top].visititems(visit)
    layers = []
    for path in found:
        if path.split("/")[-1].startswith("seed_generator"):  # a random state, not a weight
            continue
        group = root[top][path]["vars"]
        weights = [
            StoredWeight(key, tuple(group[key].shape), group[key])
            for key in sorted(group, key=lambda key: (len(key), key))  # "2" before "10"
        ]
        names = _names_along(root[top], path)
        path = "layers/" + path.replace("_layer_checkpoint_dependencies", "layers")
        layers.append(StoredLayer(names, tuple(weights), path))
    layers.sort(key=lambda layer: _natural(layer.path))
    return [layer for layer in layers if layer.names != (ANCHORS,)]


def _names_along(root, path):
    """-> names of the layer and of the models around it, or None: Keras before 3.4 kept none."""
    names = []
    steps = path.split("/")
    for end in range(1, len(steps) + 1):
        group = root["/".join(steps[:end])]
        if "vars" not in group:
            continue  # a container such as `layers`
        name = group["vars"].attrs.get("name")
        if name is None:
            return None
        names.append(_text(name))
    return tuple(names)


def _natural(path):
    """A sort key that puts conv2d_2 before conv2d_10."""
    return [(int(p), "") if p.isdigit() else (-1, p) for p in re.split(r"(\d+)", path)]
