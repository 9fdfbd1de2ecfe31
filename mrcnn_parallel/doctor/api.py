"""The public names of installed packages, read from their files without importing them.

TensorFlow, Keras and tf_keras list their names in generated `__init__.py` files. So the doctor
knows those of the versions that are installed, and needs no list of what which version removed.
"""

import ast
import functools
import importlib.util
from pathlib import Path

# Where the names of a prefix are, longest prefix first: for each target, (package, folder).
_FOLDERS = {
    "tensorflow.compat.v1.keras": {
        "tf_keras": ("tf_keras", "api/_v1/keras"),
        "keras3": ("keras", "_tf_keras/keras"),
    },
    "tensorflow.keras": {
        "tf_keras": ("tf_keras", "api/_v2/keras"),
        "keras3": ("keras", "_tf_keras/keras"),
    },
    "tf_keras": {"tf_keras": ("tf_keras", ""), "keras3": ("tf_keras", "")},
    "keras": {"tf_keras": ("tf_keras", "api/_v2/keras"), "keras3": ("keras", "")},
}


class PublicNames:
    """Which dotted names there are, for one target ("tf_keras" or "keras3").

    `keras.X` is looked up in the target's Keras. `missing` is `_missing`, remembering its answers.
    """

    def __init__(self, target):
        self.target = target
        self.missing = functools.cache(self._missing)

    def _missing(self, dotted):
        """Where a dotted name ends to exist.

        Returns:
            (parent, name): `parent` is there, and has no `name`. None where all of `dotted` is
            there or where its files don't tell: attributes of classes, packages that aren't
            installed or that aren't TensorFlow or Keras, private names.
        """
        prefix, folders, rest = self._start(dotted.split("."))
        if not folders:
            return None
        for position, name in enumerate(rest):
            if name.startswith("_"):
                return None
            inside = [f for folder in folders for f in (folder / name, folder / f"{name}.py")]
            inside = [f for f in inside if f.suffix == ".py" or (f / "__init__.py").is_file()]
            inside = [f for f in inside if f.exists()]
            if not inside:
                names = set().union(*map(_names_in, folders))
                if name in names or "*" in names:
                    return None
                return ".".join([*prefix, *rest[:position]]), name
            if inside[0].suffix == ".py":  # a module: its names, then nothing more is known
                names = _names_in(inside[0])
                if position + 1 == len(rest) or rest[position + 1].startswith("_"):
                    return None
                if rest[position + 1] in names or "*" in names:
                    return None
                return ".".join([*prefix, *rest[: position + 1]]), rest[position + 1]
            folders = inside
        return None

    def has(self, dotted):
        """Whether a dotted name is known to be there."""
        prefix, folders, _ = self._start(dotted.split("."))
        return bool(prefix and folders) and self.missing(dotted) is None

    def _start(self, parts):
        """(the prefix's parts, the folders that have its names, the other parts)."""
        for prefix, targets in _FOLDERS.items():
            length = prefix.count(".") + 1
            if ".".join(parts[:length]) == prefix:
                package, folder = targets[self.target]
                root = _root(package)
                return parts[:length], root and [root / folder], parts[length:]
        if parts[0] == "tensorflow" and _root("tensorflow"):
            root = _root("tensorflow")
            return parts[:1], [root / "_api" / "v2", root], parts[1:]
        return parts[:1], None, parts[1:]


@functools.cache
def _root(package):
    """The folder of an installed package; None where there is none."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


@functools.cache
def _names_in(path):
    """The names that a module or a package's `__init__.py` binds at its top level."""
    file = path / "__init__.py" if path.is_dir() else path
    if not file.is_file():
        file = path / "v2.py"  # TensorFlow's own root
    if not file.is_file():
        return frozenset()
    names = set()
    waiting = list(ast.parse(file.read_text(encoding="utf-8")).body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {alias.asname or alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)}
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            call = node.value  # setattr(_current_module, "losses", ...)
            if getattr(call.func, "id", "") == "setattr" and len(call.args) == 3:
                names.add(getattr(call.args[1], "value", None))
        elif isinstance(node, (ast.If, ast.Try, ast.With)):
            waiting += [n for n in ast.iter_child_nodes(node) if isinstance(n, ast.stmt)]
            for handler in getattr(node, "handlers", ()):
                waiting += handler.body
    return frozenset(names)
