"""parallel_model.py alone, in a package in Matterport's idiom on tf_keras (legacy_package/).

Each mode of execution is a process of its own, and pytest there reads legacy_package/checks.py.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mrcnn_parallel import parallel_model
from tests.parallel_models import ON_JAX

TESTS = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.skipif(ON_JAX, reason="tf_keras has one backend")
@pytest.mark.parametrize("mode", ["graph", "eager"])
def test_checks_of_the_legacy_package(mode, tmp_path):
    package = tmp_path / "mrcnn"
    shutil.copytree(TESTS / "legacy_package" / "mrcnn", package)
    shutil.copy(parallel_model.__file__, package)
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")},
        "PYTHONPATH": str(tmp_path),
        "TF_USE_LEGACY_KERAS": "1",
        "LEGACY_MODE": mode,
    }
    options = ["--noconftest", "-p", "no:cacheprovider", "-q", "--tb=short", "--timeout=500"]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "tests/legacy_package/checks.py"],
        cwd=TESTS.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-8000:] + result.stderr[-2000:]
