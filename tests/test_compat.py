"""`import mrcnn` means this package, whatever a script does to sys.path; and `run`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def checkout(tmp_path):
    """A folder with a package `mrcnn` in it, as Matterport's repository has; none may be used."""
    package = tmp_path / "Mask_RCNN" / "mrcnn"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    for name in ("config", "model", "utils", "visualize", "only_there"):
        (package / f"{name}.py").write_text("raise RuntimeError('the checkout was imported')")
    (package / "config.py").write_text("class Config: pass")
    return package.parent


def python(*arguments, folder=ROOT):
    """Runs Python from `folder`, this package importable. -> the finished process."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def run_code(code):
    result = python("-c", code)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_same_modules_and_no_checkout(checkout):
    """The imports of Matterport's scripts, after their sys.path line, give our module objects."""
    run_code(
        f"""
import mrcnn_parallel.compat
import os, sys
ROOT_DIR = os.path.abspath({str(checkout)!r})
sys.path.append(ROOT_DIR)
sys.path.insert(0, ROOT_DIR)
from mrcnn import utils, visualize
import mrcnn.model as modellib
from mrcnn.config import Config
from mrcnn.model import log, MaskRCNN
import mrcnn.parallel_model
import mrcnn
import importlib, mrcnn_parallel
assert mrcnn is mrcnn_parallel
for name in ("utils", "visualize", "model", "config", "parallel_model", "weights.report"):
    theirs = importlib.import_module("mrcnn." + name)
    ours = importlib.import_module("mrcnn_parallel." + name)
    assert theirs is ours, name
    assert ours.__name__ == ours.__spec__.name == "mrcnn_parallel." + name, ours.__spec__
assert modellib is mrcnn_parallel.model and mrcnn.utils is utils
assert Config is mrcnn_parallel.config.Config
import pickle
assert pickle.loads(pickle.dumps(Config)) is Config
"""
    )


def test_imports_nothing_before_it_is_asked():
    """A script may still choose its backend after the alias is there."""
    run_code(
        """
import sys, mrcnn_parallel.compat
assert "keras" not in sys.modules and "mrcnn_parallel.model" not in sys.modules
from mrcnn.config import Config
assert "keras" not in sys.modules
"""
    )


def test_module_that_only_the_checkout_has(checkout):
    run_code(
        f"""
import sys, mrcnn_parallel.compat
sys.path.insert(0, {str(checkout)!r})
try:
    import mrcnn.only_there
except ModuleNotFoundError as error:
    assert error.name == "mrcnn.only_there" and "no such module" in str(error), error
else:
    raise AssertionError
"""
    )


@pytest.mark.parametrize("first", ["mrcnn", "mrcnn.config"])
def test_real_package_imported_before(checkout, first):
    run_code(
        f"""
import sys
sys.path.insert(0, {str(checkout)!r})
import {first}
theirs = sys.modules["mrcnn"]
try:
    import mrcnn_parallel.compat
except ImportError as error:
    assert "another package named mrcnn" in str(error) and "Mask_RCNN" in str(error), error
else:
    raise AssertionError
assert sys.modules["mrcnn"] is theirs
assert not any("Alias" in type(finder).__name__ for finder in sys.meta_path)
"""
    )


def test_imgaug_first_finds_what_it_misses(tmp_path):
    """A script may import imgaug before mrcnn: the names that NumPy 2 lacks are back by then."""
    (tmp_path / "imgaug.py").write_text("import numpy as np\nTYPES = np.sctypes['float']")
    run_code(
        f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
import mrcnn_parallel.compat
import numpy as np
assert not hasattr(np, "sctypes"), "only when imgaug is imported"
import imgaug
assert imgaug.TYPES == [np.float16, np.float32, np.float64]
"""
    )


def test_twice_is_once():
    run_code(
        """
import sys
from mrcnn_parallel import compat
import mrcnn.config
count = len(sys.meta_path)
compat.install()
assert len(sys.meta_path) == count and mrcnn.config is sys.modules["mrcnn_parallel.config"]
"""
    )


# === run ===


@pytest.fixture
def script(checkout):
    """A script with a neighbour, in a folder of its own, that reports what it sees."""
    folder = checkout / "samples"
    folder.mkdir()
    (folder / "neighbour.py").write_text("NAME = 'neighbour'")
    path = folder / "train.py"
    path.write_text(
        f"""
import os, sys
assert "keras" not in sys.modules
sys.path.append({str(checkout)!r})
import neighbour
from mrcnn.config import Config
assert __name__ == "__main__" and os.path.samefile(__file__, {str(path)!r})
assert Config.__module__ == "mrcnn_parallel.config"
assert os.path.samefile(sys.path[0], {str(folder)!r})
print(neighbour.NAME, sys.argv[1:])
assert os.path.samefile(sys.argv[0], __file__)
if "--fail" in sys.argv:
    sys.exit(7)
"""
    )
    return path


@pytest.mark.parametrize("relative", [False, True])
def test_run(script, relative):
    name = os.path.relpath(script, script.parents[1]) if relative else str(script)
    result = python(
        *("-m", "mrcnn_parallel", "run", name, "train", "--dataset=a b", "-h", "--", "run"),
        folder=script.parents[1],
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "neighbour ['train', '--dataset=a b', '-h', '--', 'run']\n"


def test_run_passes_the_exit_status_on(script):
    assert python("-m", "mrcnn_parallel", "run", str(script), "--fail").returncode == 7
    script.write_text("raise KeyError('image 7')")
    result = python("-m", "mrcnn_parallel", "run", str(script))
    assert result.returncode == 1 and "KeyError: 'image 7'" in result.stderr


def test_run_on_several_cpu_devices(tmp_path):
    path = tmp_path / "count.py"
    path.write_text(
        "import sys\nfrom mrcnn_parallel import backend\n"
        "print(len(backend.visible_devices()), sys.argv[1:])"
    )
    result = python("-m", "mrcnn_parallel", "run", "--cpu-devices", "3", str(path), "--cpu-devices")
    assert result.returncode == 0, result.stderr
    assert result.stdout == "3 ['--cpu-devices']\n"
    result = python("-m", "mrcnn_parallel", "run", "--cpu-devices", "0", str(path))
    assert result.returncode == 2 and "at least 1" in result.stderr


def test_run_without_a_script(tmp_path):
    result = python("-m", "mrcnn_parallel", "run", str(tmp_path / "none.py"))
    assert result.returncode == 2
    assert "no script" in result.stderr and "none.py" in result.stderr
    assert "Traceback" not in result.stderr


def test_help_names_the_commands():
    result = python("-m", "mrcnn_parallel", "--help")
    assert result.returncode == 0 and "run" in result.stdout
    assert python("-m", "mrcnn_parallel").returncode == 2
    assert python("-m", "mrcnn_parallel", "fly").returncode == 2


def test_run_leaves_the_process_as_it_was(script, monkeypatch):
    """Called from Python, sys.argv and sys.path are restored, after an error too."""
    from mrcnn_parallel import cli

    script.write_text("import sys; sys.path.append('x'); sys.argv.append('y'); raise ValueError")
    path, argv = list(sys.path), list(sys.argv)
    with pytest.raises(ValueError):
        cli.main(["run", str(script)])
    assert sys.path == path and sys.argv == argv
