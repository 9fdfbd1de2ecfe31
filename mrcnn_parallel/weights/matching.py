"""Which layer of the model takes which layer of the file.

By name, a layer takes the one of its name. By order (Keras calls it topological), layers are taken
in turn; but graphs of the same network list their heads in different orders (Matterport's training
and inference graphs do), so that rule alone would load one convolution into another of the same
shape. Hence: where both sides have the same names, names decide; where they differ only in the
numbers that Keras appends (`conv2d_3`), name and rank decide; only where no name is shared at all,
order does. A file that shares some names and not others is not this model's.
"""

import re
from collections import Counter, defaultdict
from dataclasses import dataclass

import keras

from mrcnn_parallel.weights.files import ANCHORS, StoredLayer, split_nested


@dataclass(frozen=True, eq=False)
class ModelLayer:
    """A layer with weights: `names` from the outermost model inwards, variables in Keras's order.

    `path` is its place in a Keras 3 weights file; None inside wrappers, where only Keras knows.
    """

    names: tuple
    variables: tuple
    path: str | None

    @property
    def name(self):
        return "/".join(self.names)


def model_layers(model, split_wrappers=False):
    """Lists the layers of a model that hold weights, those of nested models one by one.

    Args:
        split_wrappers: list a wrapper's inner layers too (Keras 3 files do; legacy ones don't).

    Returns:
        list of ModelLayer in the model's order.
    """
    return list(_walk(model, (), "", split_wrappers, set()))


def _walk(model, names, path, split_wrappers, seen):
    counts = Counter()
    for layer in model.layers:
        kind = _snake_case(type(layer).__name__)
        number = counts[kind]
        counts[kind] += 1
        if id(layer) in seen or not layer.weights or layer.name == ANCHORS:
            continue
        seen.add(id(layer))
        layer_path = f"{path}layers/{kind}" + (f"_{number}" if number else "")
        layer_names = (*names, layer.name)
        if is_nested_model(layer):
            yield from _walk(layer, layer_names, f"{layer_path}/", split_wrappers, seen)
        elif split_wrappers:
            yield from _wrapped_layers(layer, layer_names, layer_path)
        else:
            yield ModelLayer(layer_names, tuple(layer.weights), layer_path)


def is_nested_model(layer):
    """True for a model whose layers hold all its weights (not a subclass with some of its own)."""
    if not isinstance(layer, keras.Model):
        return False
    inside = {id(v) for inner in layer.layers for v in inner.weights}
    return inside == {id(v) for v in layer.weights}


def _wrapped_layers(layer, names, path):
    for inner in layer._flatten_layers(include_self=True, recursive=True):
        deeper = inner._flatten_layers(include_self=False, recursive=True)
        not_own = {id(v) for sub in deeper for v in sub.weights}
        own = tuple(v for v in inner.weights if id(v) not in not_own)
        if own and inner is layer:
            yield ModelLayer(names, own, path)
        elif own:
            yield ModelLayer((*names, inner.name), own, None)


def _snake_case(name):
    """Conv2DTranspose -> conv2d_transpose: how Keras 3 files call a layer without its name."""
    name = re.sub(r"\W+", "", name)
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def split_like_model(stored_layers, layers):
    """Splits the file's nested groups where the model has their layers one by one.

    A second model built in one process was saved with `rpn_conv_shared_1/kernel:0` in `rpn_model`:
    a number that the model's layers don't have is dropped.
    """
    nested = {layer.names[0] for layer in layers if len(layer.names) > 1}
    leaves = {layer.names[-1] for layer in layers}
    result = []
    for stored in stored_layers:
        if stored.name not in nested:
            result.append(stored)
            continue
        for part in split_nested(stored):
            *outer, leaf = part.names
            leaf = leaf if leaf in leaves else _unnumbered(leaf)
            result.append(StoredLayer((*outer, leaf), part.weights))
    return result


def _unnumbered(name):
    return re.sub(r"_\d+$", "", name)


@dataclass(frozen=True)
class Matching:
    """pairs: [(ModelLayer, StoredLayer)]; missing: [ModelLayer]; unused: [StoredLayer]."""

    pairs: list
    missing: list
    unused: list


def match(layers, stored_layers, by_name):
    """Pairs the model's layers with the file's: see the module's head for the rules.

    Args:
        layers: list of ModelLayer that are to be filled.
        stored_layers: list of StoredLayer on offer.
        by_name: True for names alone.

    Returns:
        Matching; complete where neither `missing` nor `unused` has anything.
    """
    named = _match_names(layers, stored_layers)
    if by_name or not (named.missing or named.unused):
        return named
    if all(stored.names for stored in stored_layers):
        numbered = _match_keys(layers, stored_layers, _ranked(layers), _ranked(stored_layers))
        if not (numbered.missing or numbered.unused):
            return numbered
    if named.pairs:
        return named
    if all(stored.path for stored in stored_layers):
        keys = [layer.path for layer in layers], [stored.path for stored in stored_layers]
    else:
        keys = range(len(layers)), range(len(stored_layers))
    in_order = _match_keys(layers, stored_layers, *keys)
    return named if in_order.missing or in_order.unused else in_order


def _match_names(layers, stored_layers):
    """Whole names first; then a layer's own where they are unique (an RPN nested on one side)."""
    whole = _match_keys(
        layers,
        stored_layers,
        [layer.names for layer in layers],
        [stored.names for stored in stored_layers],
    )
    rest = _match_keys(
        whole.missing,
        whole.unused,
        _unique([layer.names[-1] for layer in whole.missing]),
        _unique([stored.names and stored.names[-1] for stored in whole.unused]),
    )
    return Matching(whole.pairs + rest.pairs, rest.missing, rest.unused)


def _match_keys(layers, stored_layers, keys, stored_keys):
    """Pairs equal keys; None never matches."""
    offered = {k: s for k, s in zip(stored_keys, stored_layers, strict=True) if k is not None}
    pairs, missing = [], []
    for key, layer in zip(keys, layers, strict=True):
        if key is not None and key in offered:
            pairs.append((layer, offered.pop(key)))
        else:
            missing.append(layer)
    used = {id(stored) for _, stored in pairs}
    return Matching(pairs, missing, [s for s in stored_layers if id(s) not in used])


def _unique(keys):
    counts = Counter(keys)
    return [key if counts[key] == 1 else None for key in keys]


def _ranked(layers):
    """conv2d_7, conv2d_9, fc -> ((conv2d, 0), (conv2d, 1), (fc, 0)), whole names alike."""
    ranks = defaultdict(int)
    keys = []
    for layer in layers:
        base = tuple(_unnumbered(name) for name in layer.names)
        keys.append((base, ranks[base]))
        ranks[base] += 1
    return keys
