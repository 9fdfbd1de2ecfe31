"""parallel_model.py alone, in a package in Matterport's idiom on tf_keras (legacy_package/).

Each mode of execution is a process of its own, and pytest there reads legacy_package/checks.py.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mrcnn_parallel import parallel_model
from tests.parallel_models import ON_JAX

TESTS = Path(__file__).parent
pytestmark = pytest.mark.skipif(ON_JAX, reason="tf_keras has one backend")


def run(*arguments, folder, path, **environment):
    """The finished process of Python with tf_keras, started in `folder`."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    environment |= {"PYTHONPATH": str(path), "TF_USE_LEGACY_KERAS": "1"}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["graph", "eager"])
def test_checks_of_the_legacy_package(mode, tmp_path):
    package = tmp_path / "mrcnn"
    shutil.copytree(TESTS / "legacy_package" / "mrcnn", package)
    shutil.copy(parallel_model.__file__, package)
    options = ["--noconftest", "-p", "no:cacheprovider", "-q", "--tb=short", "--timeout=500"]
    checks = ["-m", "pytest", *options, "tests/legacy_package/checks.py"]
    result = run(*checks, folder=TESTS.parent, path=tmp_path, LEGACY_MODE=mode)
    assert result.returncode == 0, result.stdout[-8000:] + result.stderr[-2000:]


def test_the_example_of_the_documentation(tmp_path):
    page = (TESTS.parent / "docs" / "parallel_model_alone.md").read_text()
    (example,) = re.findall(r"```python\n(# try_parallel\.py.*?)```", page, flags=re.DOTALL)
    (tmp_path / "try_parallel.py").write_text(example)
    shutil.copy(parallel_model.__file__, tmp_path)
    result = run("try_parallel.py", folder=tmp_path, path=tmp_path)
    assert result.returncode == 0, result.stderr
    first, second = result.stdout.splitlines()[-2:]
    assert "CPU:0" in first and "CPU:1" in first
    losses = [float(value) for value in second.strip("[]").split(",")]
    assert len(losses) == 5 and losses[-1] < 0.1 * losses[0]
