"""Rules about names: imports that moved, functions that TensorFlow and Keras no longer have."""

import ast
import re

from mrcnn_parallel.doctor.changes import CHANGES, LOAD_WEIGHTS, OTHERS
from mrcnn_parallel.doctor.source import canonical

_ROOTS = ("tensorflow", "keras", "tf_keras")
# Imported name -> the distribution that has it
_DISTRIBUTIONS = {
    "numpy": "numpy",
    "skimage": "scikit-image",
    "scipy": "scipy",
    "h5py": "h5py",
    "imgaug": "imgaug",
}


def moved_imports(module, package, machine):
    """Imports of what is not there, or is another Keras than the model's."""
    for one in module.imports:
        root = one.dotted.split(".")[0]
        if module.is_guarded(one.node):
            continue
        if root in _ROOTS:
            finding = (
                _hidden_keras(module, one, package)
                or _missing(module, one.node, one.dotted, machine, "import")
                or _other_keras(module, one, machine)
            )
            if finding:
                yield finding
        elif _DISTRIBUTIONS.get(root, "python") not in machine.versions:
            distribution = _DISTRIBUTIONS[root]
            yield module.finding(
                one.node,
                "stops",
                "not-installed",
                f"{distribution} is not installed",
                f"python -m pip install {distribution}",
            )


def missing_names(module, package, machine):
    """Names such as `tf.log` and `K.get_session`, where they are used."""
    broken = {
        one.name
        for one in module.imports
        if one.dotted.split(".")[0] in _ROOTS and machine.names.missing(one.dotted)
    }
    for node, dotted in _names_used(module):
        if dotted.split(".")[0] in _ROOTS and _first(node) not in broken:
            finding = _missing(module, node, dotted, machine, "name")
            if finding and not module.is_guarded(node):
                yield finding


def other_libraries(module, package, machine):
    """Names that SciPy, scikit-image and Python's own library had."""
    used = [(one.node, one.dotted) for one in module.imports]
    for node, dotted in [*used, *_names_used(module)]:
        for name, (distribution, without, instead) in OTHERS.items():
            if not (dotted == name or dotted.startswith(name + ".")):
                continue
            if machine.has(distribution, *without) and not module.is_guarded(node):
                version = f"{distribution} {machine.versions[distribution]}"
                what = f"{dotted} is gone, in {version}"
                yield module.finding(node, "stops", "name", what, f"use {instead}")


RULES = (moved_imports, missing_names, other_libraries)


def _names_used(module):
    """(node, dotted name) of every whole chain of attributes that begins with an import."""
    for node in module.nodes(ast.Attribute):
        if not isinstance(module.parents.get(node), ast.Attribute):
            dotted = module.dotted(node)
            if dotted:
                yield node, dotted


def _first(node):
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id


def _missing(module, node, dotted, machine, rule):
    found = machine.names.missing(dotted)
    if found is None:
        return None
    parent, name = found
    keras = canonical(parent).startswith("keras")
    where = machine.keras if keras else f"TensorFlow {machine.versions.get('tensorflow', '')}"
    what = f"{where} has no {'.'.join(found)}"
    if keras and machine.target == "tf_keras" and parent.split(".")[0] == "keras":
        what += ", and `keras` is Keras 3"
    return module.finding(node, "stops", rule, what, _change(dotted, parent, name, machine))


def _change(dotted, parent, name, machine):
    """What to write instead of `dotted`, where `parent` has no `name`."""
    full, least = canonical(dotted), canonical(f"{parent}.{name}").count(".") + 1
    parts = full.split(".")
    if full in CHANGES:
        return _for_target(CHANGES[full], machine)
    for length in range(least - 1, 0, -1):  # a name that moved up: keras.layers.core.Dense
        moved = ".".join([*parts[:length], parts[-1]])
        if length < len(parts) - 1 and machine.names.has(moved):
            return _for_target(moved, machine)
    for length in range(len(parts) - 1, least - 1, -1):
        change = CHANGES.get(".".join(parts[:length]))
        if change:
            return _for_target(change, machine)
    if parts[0] == "tensorflow":
        if machine.names.has("tensorflow.compat.v1." + ".".join(parts[1:])):
            return "tf.compat.v1." + ".".join(parts[1:])
        return f"TensorFlow 2 has nothing of this name: drop it, or look {name} up in its docs"
    if machine.target == "keras3" and machine.names.has(f"keras.ops.{parts[-1]}"):
        return f"keras.ops.{parts[-1]}"
    return f"drop it, or look {name} up in Keras' docs"


def _for_target(text, machine):
    """With tf_keras, `keras.X` is written `tensorflow.keras.X`."""
    if machine.target != "tf_keras":
        return text
    return re.sub(r"(?<![\w.])keras\.(?=\w)", "tensorflow.keras.", text)


def _hidden_keras(module, one, package):
    """tensorflow.python.keras: a Keras of its own, with sessions and layers of its own."""
    if not one.dotted.startswith("tensorflow.python.keras"):
        return None
    if "hdf5_format" in one.dotted or "load_weights_from_hdf5" in one.dotted:
        if package.graph_mode is None:
            what = "loads weights with another copy of Keras, inside TensorFlow"
            return module.finding(one.node, "deprecated", "load-weights", what, LOAD_WEIGHTS)
        what = (
            "load_weights loads nothing, without an error: this copy of Keras, inside TensorFlow, "
            "puts the values into a session of its own"
        )
        return module.finding(one.node, "wrong result", "load-weights", what, LOAD_WEIGHTS)
    return module.finding(
        one.node,
        "wrong result",
        "second-keras",
        f"{one.dotted} is of another copy of Keras, inside TensorFlow, whose layers, models and "
        "sessions are not those of tensorflow.keras",
        "import it from tensorflow.keras",
    )


def _other_keras(module, one, machine):
    root, _, rest = one.dotted.partition(".")
    if root == "keras" and machine.target == "tf_keras":
        return module.finding(
            one.node,
            "stops",
            "keras-3",
            "`keras` is Keras 3, also with TF_USE_LEGACY_KERAS=1, and its layers don't mix with "
            "tf_keras'",
            "`from tensorflow import keras`"
            if not rest
            else f"import it from tensorflow.keras: tensorflow.{one.dotted}",
        )
    if root == "tf_keras" and machine.target == "keras3":
        return module.finding(
            one.node,
            "stops",
            "keras-3",
            "tf_keras' layers and models don't mix with Keras 3's",
            f"import {one.dotted.replace('tf_keras', 'keras', 1)}",
        )
    return None
