"""Matterport's public names are here, in modules of the same names, with the same parameters.

The list is matterport_api.txt. Ours may take more parameters, after theirs and with defaults.
"""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

LIST = Path(__file__).with_name("matterport_api.txt")
MODULES = ("config", "model", "utils", "visualize", "parallel_model")


def entries():
    """[(module, qualified name, the rest of the line)] of the list."""
    lines = [line for line in LIST.read_text().splitlines() if line and not line.startswith("#")]
    for line in lines:
        module, text = line.split(" ", 1)
        text = text.removeprefix("class ")
        end = min((text.index(mark) for mark in ("(", " = ") if mark in text), default=len(text))
        yield module, text[:end], text[end:]


def find(module, name):
    """The thing of that dotted name in our module."""
    thing = importlib.import_module(f"mrcnn_parallel.{module}")
    for part in name.split("."):
        assert hasattr(thing, part), f"{module}.{name} is missing"
        thing = inspect.getattr_static(thing, part) if inspect.isclass(thing) else vars(thing)[part]
    return thing


def evaluate(expression):
    return eval(ast.unparse(expression), {"np": np})


def theirs(text):
    """Signature text "(a, b=1, **kwargs)" -> [(name, has a default, default)], and has **."""
    arguments = ast.parse(f"def f{text}: pass").body[0].args
    required = len(arguments.args) - len(arguments.defaults)
    defaults = [None] * required + [evaluate(default) for default in arguments.defaults]
    names = [argument.arg for argument in arguments.args]
    return list(zip(names, [i >= required for i in range(len(names))], defaults, strict=True)), (
        arguments.kwarg is not None
    )


def test_the_list_is_whole():
    """Guards the walk below against an empty or misread list."""
    names = [(module, name) for module, name, _ in entries()]
    assert {module for module, _ in names} == set(MODULES)
    assert len(names) == len(set(names)) > 180
    assert ("utils", "Dataset.map_source_class_id") in names
    assert ("model", "MaskRCNN.run_graph") in names


@pytest.mark.parametrize(
    ("module", "name", "text"), list(entries()), ids=[f"{m}.{n}" for m, n, _ in entries()]
)
def test_name(module, name, text):
    if text.startswith(" = "):
        ours = getattr(importlib.import_module("mrcnn_parallel.config").Config, name.split(".")[1])
        expected = evaluate(ast.parse(text[3:], mode="eval").body)
        np.testing.assert_equal(ours, expected)
        assert type(ours) is type(expected)
        return
    thing = find(module, name)
    if not text:
        assert inspect.isclass(thing)
        return
    if isinstance(thing, property):
        thing = thing.fget
    expected, takes_more = theirs(text)
    ours = list(inspect.signature(thing).parameters.values())
    for position, (parameter, has_default, default) in enumerate(expected):
        assert position < len(ours), f"{name} has no parameter {parameter}"
        assert ours[position].name == parameter
        if has_default:
            assert ours[position].default == default, parameter
    for extra in ours[len(expected) :]:
        optional = extra.default is not inspect.Parameter.empty
        assert optional or extra.kind in (extra.VAR_POSITIONAL, extra.VAR_KEYWORD), extra
    if takes_more:
        assert any(parameter.kind == parameter.VAR_KEYWORD for parameter in ours)


def test_imports_that_people_write():
    """In a fresh process, through the alias."""
    code = """
import mrcnn_parallel.compat
from mrcnn import utils, visualize
import mrcnn.model as modellib
from mrcnn import model as again
from mrcnn.config import Config
from mrcnn.model import MaskRCNN, log
from mrcnn.parallel_model import ParallelModel
from mrcnn.visualize import display_images, display_instances
from mrcnn.utils import Dataset
assert again is modellib and modellib.utils is utils
for name in ("load_image_gt", "mold_image", "log", "compute_backbone_shapes", "DataGenerator",
             "data_generator", "parse_image_meta", "build_rpn_targets", "MaskRCNN", "KL", "KM"):
    assert getattr(modellib, name) is not None
namespace = {}
exec("from mrcnn.model import *", namespace)
for name in ("MaskRCNN", "load_image_gt", "norm_boxes_graph", "smooth_l1_loss", "log"):
    assert name in namespace, name
"""
    subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[1], check=True, timeout=300
    )


def test_star_import_brings_the_documented_names_only():
    from mrcnn_parallel import graph_functions, model

    assert set(graph_functions.__all__) <= set(model.__all__)
    assert all(hasattr(model, name) for name in model.__all__)
    assert not {"np", "keras", "inference", "weights"} & set(model.__all__)
