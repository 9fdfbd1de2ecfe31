"""Unreadable files, what the doctor knows about the machine, and its command line."""

import json
import operator
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from mrcnn_parallel import cli
from mrcnn_parallel.doctor import Machine, examine
from mrcnn_parallel.doctor.api import PublicNames
from mrcnn_parallel.doctor.changes import CHANGES, NUMPY_2
from mrcnn_parallel.doctor.machine import default_target, installed_versions, release
from tests.doctor.packages import BOTH, machine

TESTS = Path(__file__).parents[1]
ON_JAX = keras.backend.backend() == "jax"


def test_files_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "old.py").write_text("import keras\n\nprint 'epoch', 1\n")
    (tmp_path / "latin.py").write_bytes(b"# one\n# two\nname = '\xe9t\xe9'\n")
    (tmp_path / "coded.py").write_bytes(b"# -*- coding: latin-1 -*-\nname = '\xe9'\nimport keras\n")
    (tmp_path / "nul.py").write_bytes(b"x = 1\n\0\n")
    (tmp_path / "good.py").write_text("import tensorflow as tf\ntf.log(1)\n")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "no.py").write_text("(")
    package, findings = examine(tmp_path, machine())
    found = {(Path(f.path).name, f.rule): f for f in findings}
    assert set(found) == {
        ("old.py", "unreadable"),
        ("latin.py", "unreadable"),
        ("nul.py", "unreadable"),
        ("coded.py", "keras-3"),
        ("good.py", "name"),
    }
    old = found["old.py", "unreadable"]
    assert old.line == 3 and "print 'epoch', 1" in old.what and "Python 2" in old.change
    assert old.severity == "stops"
    assert package.files == 5


def test_this_machine():
    versions = installed_versions()
    assert versions["keras"] == keras.__version__ and versions["numpy"] == np.__version__
    assert not list(machine().problems())
    without = Machine({"tensorflow": "2.19.1", "keras": "2.9.0"}, "tf_keras", PublicNames("keras3"))
    assert [change for _, change in without.problems()] == [
        'python -m pip install "tf_keras==2.19.*"'
    ]
    without = Machine({"keras": "2.9.0"}, "keras3", PublicNames("keras3"))
    assert len(list(without.problems())) == 2
    assert release("2.21.0rc1") == (2, 21, 0) and release("nightly") == ()


@pytest.mark.parametrize(
    ("versions", "variable", "target"),
    [
        ({"tf_keras": "2.21.0"}, None, "tf_keras"),
        ({}, None, "keras3"),
        ({}, "1", "tf_keras"),
        ({"tf_keras": "2.21.0"}, "0", "keras3"),
    ],
)
def test_default_target(versions, variable, target):
    assert default_target(versions, variable) == target


@pytest.mark.skipif(ON_JAX, reason="needs TensorFlow in the process")
def test_public_names_are_those_of_the_imported_packages():
    import tensorflow as tf
    import tf_keras

    modules = {
        "tensorflow": tf,
        "tensorflow.keras.backend": keras._tf_keras.keras.backend,
        "tensorflow.keras.layers": keras._tf_keras.keras.layers,
        "keras": keras,
    }
    for name in ("math", "image", "nn", "sets", "config", "random", "compat.v1", "io", "debugging"):
        modules[f"tensorflow.{name}"] = operator.attrgetter(name)(tf)
    for name in ("backend", "layers", "utils", "optimizers", "ops", "losses"):
        modules[f"keras.{name}"] = getattr(keras, name)
    names = PublicNames("keras3")
    seen = 0
    for path, module in modules.items():
        for name in dir(module):
            seen += 1
            assert names.missing(f"{path}.{name}") is None, (path, name)
    assert seen > 2000
    names = PublicNames("tf_keras")
    for path in ("backend", "layers", "optimizers.legacy", "utils", "callbacks"):
        for name in dir(operator.attrgetter(path)(tf_keras)):
            assert names.missing(f"tf_keras.{path}.{name}") is None, (path, name)
            if not name.startswith("_"):
                assert names.has(f"tensorflow.keras.{path}.{name}"), (path, name)
    assert names.missing("tensorflow.keras.backend.get_session") == (
        "tensorflow.keras.backend",
        "get_session",
    )
    assert names.missing("some.package.x") is None and not names.has("some.package.x")


def test_what_has_a_change_is_gone():
    names = {target: PublicNames(target) for target in BOTH}
    for dotted in CHANGES:
        assert names["keras3"].missing(dotted) or names["tf_keras"].missing(dotted), dotted
    if release(np.__version__) >= (2,):
        # This package puts `sctypes` back for imgaug, perhaps in this process.
        assert not [name for name in NUMPY_2 if name in dir(np) and name != "sctypes"]


def run(capsys, *arguments):
    status = cli.main(["doctor", *map(str, arguments)])
    return status, *capsys.readouterr()


def test_the_report(tmp_path, capsys):
    file = tmp_path / "model.py"
    file.write_text("import tensorflow as tf\nx = tf.log(tf.to_float(y))\n")
    status, out, err = run(capsys, "--keras", "keras3", tmp_path)
    assert status == 1 and not err
    lines = out.splitlines()
    assert f"{tmp_path}: 1 file, to run on Keras {keras.__version__}" in lines
    at = next(n for n, line in enumerate(lines) if line.startswith(f"{file}:2: stops: "))
    assert "tensorflow.log" in lines[at] and lines[at + 1] == "    change: tf.math.log"
    assert "stops: 2, wrong result: 0, deprecated: 0; in 1 of 1 file" in lines


def test_the_exit_status(tmp_path, capsys):
    file = tmp_path / "model.py"
    file.write_text("import tensorflow as tf\ntf.keras.optimizers.SGD(clipnorm=5)\n")
    status, out, _ = run(capsys, "--keras", "keras3", file)
    assert status == 0 and "wrong result: 1" in out
    status, out, err = run(capsys, tmp_path / "nowhere")
    assert status == 2 and not out and "nowhere" in err
    (tmp_path / "empty").mkdir()
    status, out, err = run(capsys, tmp_path / "empty")
    assert status == 2 and "no Python file in" in err
    with pytest.raises(SystemExit) as stopped:
        run(capsys, "--keras", "keras4", tmp_path)
    assert stopped.value.code == 2


def test_json(tmp_path, capsys):
    file = tmp_path / "model.py"
    file.write_text("import tensorflow as tf\nx = tf.log(y)\n")
    status, out, _ = run(capsys, "--json", "--keras", "tf_keras", file)
    report = json.loads(out)
    assert status == 1
    assert report["files"] == 1 and report["target"] == "tf_keras"
    assert report["versions"] == installed_versions()
    (finding,) = report["findings"]
    assert (finding["line"], finding["severity"], finding["rule"]) == (2, "stops", "name")
    assert finding["path"] == str(file) and finding["change"] == "tf.math.log"


def test_help_teaches(capsys):
    with pytest.raises(SystemExit):
        run(capsys, "--help")
    text = capsys.readouterr().out
    for word in ("wrong result", "TF_USE_LEGACY_KERAS=1", "Exit status", "doctor Mask_RCNN/mrcnn"):
        assert word in text


def test_nothing_is_imported_or_run(tmp_path):
    """Neither the package nor the libraries: it works where they crash."""
    (tmp_path / "mrcnn").mkdir()
    (tmp_path / "mrcnn" / "__init__.py").write_text("raise SystemExit('it was run')\n")
    code = """
import sys
from mrcnn_parallel.cli import main
assert main(["doctor", "mrcnn"]) == 0
loaded = {"tensorflow", "keras", "tf_keras", "skimage", "mrcnn"} & set(sys.modules)
assert not loaded, loaded
"""
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(TESTS.parent), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
