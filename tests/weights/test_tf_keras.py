"""Both ways with the Keras that Matterport's forks run on: tf_keras, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from keras import ops

from mrcnn_parallel.weights import load_weights, save_weights
from mrcnn_parallel.weights.matching import model_layers
from tests.weights.models import assert_same, randomize, small_model, snapshot

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def source():
    return randomize(small_model(), 1)


@pytest.fixture(scope="module")
def folder(source, tmp_path_factory):
    """Holds what tf_keras wrote, after it read what we wrote."""
    folder = tmp_path_factory.mktemp("tf_keras")
    save_weights(source, folder / "ours.h5")
    values = {
        f"{layer.names[-1]}|{variable.name}": ops.convert_to_numpy(variable)
        for layer in model_layers(source)
        for variable in layer.variables
    }
    np.savez(folder / "values.npz", **values)
    program = Path(__file__).with_name("tf_keras_program.py")
    result = subprocess.run(
        [sys.executable, program, folder],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    return folder


@pytest.mark.parametrize("by_name", [False, True])
@pytest.mark.parametrize("name", ["theirs_weights.h5", "theirs_model.h5"])
def test_we_read_what_tf_keras_wrote(folder, source, name, by_name):
    """And, before, tf_keras read what we wrote, by name and by order."""
    model = randomize(small_model(), 2)
    report = load_weights(model, folder / name, by_name=by_name)
    assert report.complete and not report.unused
    assert_same(snapshot(model), snapshot(source))
