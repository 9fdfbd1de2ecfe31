"""Imports scripts of samples/ as modules."""

import importlib.util
import sys
from pathlib import Path

SAMPLES = Path(__file__).parents[2] / "samples"


def load_sample(path):
    """The module of samples/<path>, imported once."""
    name = "sample_" + Path(path).stem
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, SAMPLES / path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]
