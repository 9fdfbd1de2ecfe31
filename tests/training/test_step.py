"""The step that `fit` runs: how far ahead it is queued, and with which options for XLA."""

from types import SimpleNamespace

import keras
import pytest

from mrcnn_parallel import backend


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="JAX's queue")
def test_few_steps_are_queued(monkeypatch):
    import jax

    events = []
    monkeypatch.setattr(jax, "block_until_ready", lambda logs: events.append(f"wait {logs}"))

    def function(state, iterator):
        events.append(f"queue {state}")
        return state, state + 1

    run, state = backend.step_function(function, network=None), 0
    for _ in range(4):
        _, state = run(state, None)
    assert events == ["queue 0", "queue 1", "wait 0", "queue 2", "wait 1", "queue 3"]


GRAPHS = "xla_gpu_enable_command_buffer"
AUTOTUNER = "xla_gpu_experimental_enable_fusion_autotuner"


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="XLA's options on JAX")
@pytest.mark.parametrize(
    ("gpus", "count", "flags", "expected"),
    [
        (["cuda:0", "cuda:1"], 2, "", {"own", GRAPHS, AUTOTUNER}),
        (["cuda:0", "cuda:1"], 2, f"--{GRAPHS}=FUSION", {"own", AUTOTUNER}),
        (["cuda:0"], 1, "", {GRAPHS, AUTOTUNER}),
        ([], 2, "", {"own"}),
    ],
)
def test_options_of_the_step_on_gpus(gpus, count, flags, expected, monkeypatch):
    options = {"compiler_options": {"own": 1}} if count > 1 else {}
    network = SimpleNamespace(replicate=None, **options)
    given = {}
    monkeypatch.setattr(backend, "gpus", lambda: gpus)
    monkeypatch.setattr(
        backend, "train_function_with", lambda model, options: given.update(options)
    )
    monkeypatch.setenv("XLA_FLAGS", flags)
    backend.train_function(model=None, network=network)
    assert set(given) == expected
    assert "WHILE" in given.get(GRAPHS, "WHILE")
