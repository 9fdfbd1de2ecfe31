"""A package's files: syntax trees, what imported names stand for, and findings in them."""

import ast
import tokenize
import warnings
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

SEVERITIES = ("stops", "wrong result", "deprecated")
DISABLES_EAGER = (".disable_eager_execution", ".disable_v2_behavior")


@dataclass(frozen=True, order=True)
class Finding:
    """Something in a file that needs a change.

    Attributes:
        path: the file, as it was reached from the path that was given.
        line: 1-based.
        what: what is wrong there.
        severity: one of SEVERITIES. "stops": an error, when the line runs. "wrong result": no
            error, but not what the line meant. "deprecated": works, for now.
        rule: the kind of finding, a short name.
        change: what to do or write instead.
    """

    path: str
    line: int
    what: str
    severity: str = field(compare=False)
    rule: str = field(compare=False)
    change: str = field(compare=False)


@dataclass(frozen=True)
class Imported:
    """A name that an import binds, or would bind."""

    node: ast.stmt
    dotted: str  # what is imported: "keras.engine.topology"
    name: str  # the name it gets here: "saving"; "*" for all


class Module:
    """One file: `tree`, its syntax tree, `path` and `text`."""

    def __init__(self, path, text):
        self.path = str(path)
        self.text = text
        self.tree = ast.parse(text)
        self.parents = {
            child: node for node in self.nodes() for child in ast.iter_child_nodes(node)
        }

    @cached_property
    def _nodes(self):
        return list(ast.walk(self.tree))

    def nodes(self, *kinds):
        """All nodes of the tree, or those of these classes."""
        return [node for node in self._nodes if not kinds or isinstance(node, kinds)]

    def ancestors(self, node):
        """The nodes around `node`, innermost first."""
        while node in self.parents:
            node = self.parents[node]
            yield node

    def function_of(self, node):
        """The function that `node` is in; None at the top level and in a class body."""
        functions = (ast.FunctionDef, ast.AsyncFunctionDef)
        return next((node for node in self.ancestors(node) if isinstance(node, functions)), None)

    @cached_property
    def imports(self):
        """All absolute imports, wherever they are: a list of Imported."""
        found = []
        for node in self.nodes(ast.Import, ast.ImportFrom):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    found.append(Imported(node, alias.name, alias.asname or alias.name))
            elif node.level == 0:
                for alias in node.names:
                    dotted = node.module if alias.name == "*" else f"{node.module}.{alias.name}"
                    found.append(Imported(node, dotted, alias.asname or alias.name))
        return found

    @cached_property
    def aliases(self):
        """Name in this file -> dotted name that it stands for."""
        aliases = {}
        for one in self.imports:
            if "." in one.name:  # `import a.b` binds a
                aliases.setdefault(one.name.split(".")[0], one.name.split(".")[0])
            elif one.name != "*":
                aliases.setdefault(one.name, one.dotted)
        for node in self.tree.body:  # K = tf.keras.backend
            if isinstance(node, ast.Assign) and isinstance(node.value, (ast.Name, ast.Attribute)):
                dotted = _dotted(node.value, aliases)
                for target in node.targets:
                    if dotted and isinstance(target, ast.Name):
                        aliases.setdefault(target.id, dotted)
        return aliases

    def dotted(self, node):
        """What an expression such as `K.get_session` names: "keras.backend.get_session".

        None where it doesn't begin with an imported name.
        """
        return _dotted(node, self.aliases)

    def name_of(self, node):
        """As `dotted`, in one form for all Kerases: "keras.backend.get_session"; "" for None."""
        return canonical(self.dotted(node) or "")

    @cached_property
    def calls(self):
        """(call, canonical dotted name or "", last part of its name or "") of all calls."""
        return [
            (node, self.name_of(node.func), last_name(node.func)) for node in self.nodes(ast.Call)
        ]

    @cached_property
    def is_our_parallel_model(self):
        """Whether this is a copy of the parallel_model.py beside this package."""
        classes = {node.name for node in self.tree.body if isinstance(node, ast.ClassDef)}
        return {"ParallelModel", "_Keras3", "_TfKeras"} <= classes

    def is_guarded(self, node):
        """Whether the package reckons with an error at `node`, or asks for a version before."""
        for parent in self.ancestors(node):
            guarded = False
            if isinstance(parent, ast.Try) and node in parent.body:
                guarded = any(map(_expects_missing_names, parent.handlers))
            elif isinstance(parent, (ast.If, ast.IfExp)) and node is not parent.test:
                guarded = _asks_for_version(parent.test)
            if guarded:
                return True
            node = parent
        return False

    def finding(self, node, severity, rule, what, change):
        return Finding(self.path, node.lineno, what, severity, rule, change)


def _dotted(node, aliases):
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or node.id not in aliases:
        return None
    return ".".join([aliases[node.id], *reversed(parts)])


def canonical(dotted):
    """One name for what TensorFlow's Keras, tf_keras and Keras call alike: "keras.X"."""
    for prefix in ("tensorflow.compat.v1.keras", "tensorflow.keras", "tf_keras"):
        if dotted == prefix or dotted.startswith(prefix + "."):
            return "keras" + dotted[len(prefix) :]
    return dotted


def keyword(call, name):
    """The keyword argument `name` of a call, as ast.keyword; None where it isn't given."""
    return next((k for k in call.keywords if k.arg == name), None)


def last_name(node):
    """`c` of the expressions `a.b.c` and `c`; "" of others."""
    return getattr(node, "attr", getattr(node, "id", ""))


def constant(node):
    """The value of a literal; None for every other expression."""
    return node.value if isinstance(node, ast.Constant) else None


def _expects_missing_names(handler):
    if handler.type is None:
        return True
    caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    names = {getattr(node, "id", "") for node in caught}
    return bool(names & {"ImportError", "ModuleNotFoundError", "AttributeError", "Exception"})


def _asks_for_version(test):
    """Such as `LooseVersion(skimage.__version__) >= ...` or `hasattr(np, "bool")`."""
    for node in ast.walk(test):
        if getattr(node, "attr", "") in ("__version__", "version_info", "VERSION"):
            return True
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "hasattr":
            return True
    return False


@dataclass(frozen=True)
class Package:
    """The Python files at a path.

    Attributes:
        modules: those that can be parsed, a tuple of Module.
        unreadable: a Finding for each of the others.
    """

    modules: tuple
    unreadable: tuple

    @classmethod
    def read(cls, path):
        """FileNotFoundError where there is no Python file at `path`."""
        path = Path(path)
        files = [path] if path.is_file() else sorted(path.rglob("*.py"))
        files = [f for f in files if not any(p.startswith(".") for p in f.relative_to(path).parts)]
        if not files or files[0].suffix != ".py":
            there = "no Python file in" if path.is_dir() else "no Python file or folder"
            raise FileNotFoundError(f"There is {there} {path}.")
        modules, unreadable = [], []
        for file in files:
            try:
                modules.append(_parse(file))
            except (SyntaxError, ValueError, OSError) as error:
                unreadable.append(_unreadable(file, error))
        return cls(tuple(modules), tuple(unreadable))

    @property
    def files(self):
        """How many files there are."""
        return len(self.modules) + len(self.unreadable)

    @cached_property
    def assigned_attributes(self):
        """The names x of all assignments to some `a.x`, in all files."""
        nodes = (node for module in self.modules for node in module.nodes(ast.Attribute))
        return {node.attr for node in nodes if isinstance(node.ctx, ast.Store)}

    @cached_property
    def graph_mode(self):
        """(module, call) of the line that disables eager execution; None where none does."""
        for module in self.modules:
            for call, name, _ in module.calls:
                if name.endswith(DISABLES_EAGER):
                    return module, call
        return None


def _parse(file):
    with tokenize.open(file) as source:  # heeds a coding line
        text = source.read()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # "\\d" in a string is no matter here
        return Module(file, text)


def _unreadable(file, error):
    line = getattr(error, "lineno", None) or 1
    statement = (getattr(error, "text", None) or "").strip()
    what = f"Python can't read this file: {getattr(error, 'msg', None) or error}"
    if statement:
        what += f": {statement}"
    change = "correct it; nothing else in this file was looked at"
    if statement.startswith(("print ", "exec ", "raise ", "except ")):
        change = "port the file from Python 2; nothing else in it was looked at"
    return Finding(str(file), line, what, "stops", "unreadable", change)
