"""Rules about what the data goes through: NumPy, scikit-image, h5py, imgaug."""

import ast

from mrcnn_parallel.doctor.changes import NUMPY_2, NUMPY_ALIASES
from mrcnn_parallel.doctor.source import constant, keyword


def numpy_names(module, package, machine):
    """Aliases of Python's types, and names that NumPy 2 dropped."""
    if "numpy" not in machine.versions:
        return
    version = f"NumPy {machine.versions['numpy']}"
    used = [(node, module.dotted(node)) for node in module.nodes(ast.Attribute)]
    used += [(one.node, one.dotted) for one in module.imports]
    for node, dotted in used:
        if not (dotted or "").startswith("numpy.") or dotted.count(".") > 1:
            continue
        if isinstance(getattr(node, "ctx", None), ast.Store) or module.is_guarded(node):
            continue
        name = dotted.split(".")[1]
        what, severity = f"{version} has no np.{name}", "stops"
        if name in NUMPY_ALIASES:
            if not machine.has("numpy", 1, 24):
                what, severity = f"np.{name} is deprecated in {version}", "deprecated"
            elif name in ("bool", "long") and machine.has("numpy", 2):
                severity = "deprecated"
                what = f"np.{name} is NumPy's own type in {version}, and an error in 1.24 to 1.26"
            yield module.finding(node, severity, "numpy", what, NUMPY_ALIASES[name])
        elif name in NUMPY_2:
            if not machine.has("numpy", 2):
                what, severity = f"np.{name} is gone in NumPy 2", "deprecated"
            yield module.finding(node, severity, "numpy", what, NUMPY_2[name])


def imgaug(module, package, machine):
    """imgaug 0.4.0, its last release, on NumPy 2."""
    repaired = "sctypes" in package.assigned_attributes
    if repaired or "imgaug" not in machine.versions or not machine.has("numpy", 2):
        return
    for one in module.imports:
        if one.dotted.split(".")[0] == "imgaug" and not module.is_guarded(one.node):
            yield module.finding(
                one.node,
                "stops",
                "imgaug",
                f"imgaug {machine.versions['imgaug']} fails on NumPy "
                f"{machine.versions['numpy']}: it uses np.sctypes",
                "before the first import of imgaug: np.sctypes = {'int': [np.int8, np.int16, "
                "np.int32, np.int64], 'uint': [np.uint8, np.uint16, np.uint32, np.uint64], "
                "'float': [np.float16, np.float32, np.float64], 'complex': [np.complex64, "
                "np.complex128], 'others': [bool, object, bytes, str, np.void]}",
            )


def bool_resize(module, package, machine):
    """Masks of type bool given to skimage.transform.resize, directly or through a wrapper."""
    if not machine.has("scikit-image", 0, 19):
        return
    seen = set()
    for call, name, _ in module.calls:
        function = module.function_of(call)
        if name != "skimage.transform.resize" or not call.args or function in seen:
            continue
        if function is not None:  # Matterport's has one call for each version of scikit-image
            seen.add(function)
        image = call.args[0]
        order = keyword(call, "order")
        default = order is None and len(call.args) < 3
        if default or (order is not None and constant(order.value) == 0):
            continue  # for bool the default is 0
        if function is None:
            refused = _may_be_mask(image, module.tree)
        elif _is_argument(image, function):
            if _minds_type(image.id, function):
                continue
            refused = any(_masks_given_to(function.name, each) for each in package.modules)
        else:
            refused = _may_be_mask(image, function)
        if refused:
            text = (
                _text(image)
                if isinstance(image, (ast.Name, ast.Attribute))
                else f"({_text(image)})"
            )
            yield module.finding(
                call,
                "stops",
                "bool-resize",
                f"scikit-image {machine.versions['scikit-image']} refuses masks of type bool, "
                "unless order=0",
                f"{text}.astype(np.float32) for bool, rounded and cast back by the caller",
            )


def h5py_strings(module, package, machine):
    """`.decode()` of attributes, and `.value` of datasets."""
    if not machine.has("h5py", 3):
        return
    version = f"h5py {machine.versions['h5py']}"
    for call, _, last in module.calls:
        if last != "decode" or not isinstance(call.func, ast.Attribute):
            continue
        parents = list(module.ancestors(call))
        if any(isinstance(p, (ast.IfExp, ast.If)) and _asks_for_type(p.test) for p in parents):
            continue
        if module.is_guarded(call) or not _is_attribute_of_file(call.func.value, parents):
            continue
        what = f"{version} gives str, not bytes, for attributes that are text"
        value = _text(call.func.value)
        change = f"{value}.decode() if isinstance({value}, bytes) else {value}"
        yield module.finding(call, "stops", "h5py", what, change)
    files = _opened_files(module)
    for node in module.nodes(ast.Attribute):
        of_dataset = node.attr == "value" and isinstance(node.value, ast.Subscript)
        if of_dataset and getattr(node.value.value, "id", None) in files:
            what = f"{version}'s datasets have no value"
            yield module.finding(node, "stops", "h5py", what, f"{_text(node.value)}[()]")


RULES = (numpy_names, imgaug, bool_resize, h5py_strings)


def _text(node):
    return ast.unparse(node)


def _is_argument(node, function):
    arguments = function.args.posonlyargs + function.args.args
    return isinstance(node, ast.Name) and node.id in {a.arg for a in arguments}


def _minds_type(name, function):
    """Whether a function casts its argument `name` or asks for its dtype."""
    asked = (node for node in ast.walk(function) if isinstance(node, ast.Attribute))
    asked = (node for node in asked if node.attr in ("astype", "dtype"))
    return any(getattr(node.value, "id", None) == name for node in asked)


def _masks_given_to(name, module):
    """Whether the file calls the function `name` with what may be a mask of type bool."""
    given = (call for call, _, last in module.calls if last == name and call.args)
    return any(_may_be_mask(c.args[0], module.function_of(c) or module.tree) for c in given)


def _may_be_mask(node, scope, depth=2):
    """Whether an expression is bool, or a part of something that is named a mask."""
    for one in ast.walk(node):
        if isinstance(one, ast.Call) and getattr(one.func, "attr", "") == "astype":
            text = " ".join(map(_text, one.args))
            return "bool" in text
    if isinstance(node, ast.Compare):
        return True
    names = {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}
    if any("mask" in name.lower() for name in names):
        return True
    if depth and isinstance(node, ast.Name):
        for one in ast.walk(scope):
            if isinstance(one, ast.Assign):
                targets = {getattr(target, "id", None) for target in one.targets}
                if node.id in targets and _may_be_mask(one.value, scope, depth - 1):
                    return True
    return False


def _asks_for_type(test):
    names = {getattr(node, "id", "") for node in ast.walk(test)}
    return bool(names & {"isinstance", "hasattr", "bytes"})


def _has_attrs(node):
    return any(getattr(one, "attr", "") == "attrs" for one in ast.walk(node))


def _is_attribute_of_file(node, parents):
    """Whether `node` is `f.attrs[...]`, or runs over one in a loop or comprehension around it."""
    if _has_attrs(node):
        return True
    if not isinstance(node, ast.Name):
        return False
    for parent in parents:
        loops = getattr(parent, "generators", [parent] if isinstance(parent, ast.For) else [])
        for loop in loops:
            if getattr(loop.target, "id", None) == node.id and _has_attrs(loop.iter):
                return True
    return False


def _opened_files(module):
    """Names that are given to an h5py.File."""
    names = set()
    for node in module.nodes(ast.Assign, ast.withitem):
        opened = node.value if isinstance(node, ast.Assign) else node.context_expr
        targets = node.targets if isinstance(node, ast.Assign) else [node.optional_vars]
        if isinstance(opened, ast.Call) and module.dotted(opened.func) == "h5py.File":
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names
