"""The step that `fit` runs: how far steps are queued ahead of the device."""

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


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="XLA's options on JAX")
@pytest.mark.parametrize(
    ("gpus", "count", "flags", "expected"),
    [
        (["cuda:0", "cuda:1"], 2, "", {"own", "xla_gpu_enable_command_buffer"}),
        (["cuda:0", "cuda:1"], 2, "--xla_gpu_enable_command_buffer=FUSION", {"own"}),
        (["cuda:0", "cuda:1"], 1, "", set()),
        ([], 2, "", {"own"}),
    ],
)
def test_replicas_on_gpus_keep_loops_in_graphs(gpus, count, flags, expected, monkeypatch):
    network = SimpleNamespace(gpu_count=count, compiler_options={"own": 1}, replicate=None)
    given = {}
    monkeypatch.setattr(backend, "gpus", lambda: gpus)
    monkeypatch.setattr(
        backend, "train_function_with", lambda model, options: given.update(options)
    )
    monkeypatch.setenv("XLA_FLAGS", flags)
    backend.train_function(model=None, network=network)
    assert set(given) == expected
    assert "WHILE" in given.get("xla_gpu_enable_command_buffer", "WHILE")
