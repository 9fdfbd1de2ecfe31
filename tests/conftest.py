"""Runs before any test: four CPU devices on either backend, quiet logs, one seed.

The backend is chosen outside, by KERAS_BACKEND; `python -m tests` runs the suite once per backend.
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it asks PyPI for its newest version
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["JAX_PLATFORMS"] = "cpu"
# Compiled programs are shared between the test processes, and kept for the next run.
os.environ.setdefault("MRCNN_PARALLEL_CACHE", str(Path(__file__).parents[1] / ".xla_cache"))
sys.path.insert(0, str(Path(__file__).parents[1]))

from mrcnn_parallel import backend

backend.expose_cpu_devices(4)

backend.enable_compilation_cache()

import hypothesis  # noqa: E402
import keras  # noqa: E402
import pytest  # noqa: E402

# The same examples every time: what passed once must not fail another day by luck. To look for
# new ones: python -m tests --hypothesis-profile=explore
hypothesis.settings.register_profile("gate", derandomize=True)
hypothesis.settings.register_profile("explore", derandomize=False)
hypothesis.settings.load_profile("gate")


@pytest.fixture(autouse=True)
def _seeded():
    """Every test starts from the same random state and leaves the dtype policy as it was."""
    policy = keras.config.dtype_policy()
    keras.utils.set_random_seed(0)
    yield
    keras.config.set_dtype_policy(policy)
