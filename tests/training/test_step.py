"""The step that `fit` runs: how far steps are queued ahead of the device."""

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
