"""The progress bar shows what it should and does not make the devices wait."""

import time

import keras
import numpy as np
import pytest

from mrcnn_parallel import backend
from mrcnn_parallel.training import callbacks


def bar_of(steps):
    bar = callbacks.ProgressBar()
    bar.set_params({"verbose": 0, "epochs": 1, "steps": steps})
    bar.on_train_begin()
    bar.on_epoch_begin(0)
    return bar


def test_it_reads_only_steps_that_have_ended(capsys, monkeypatch):
    monkeypatch.setattr(callbacks.ProgressBar, "SECONDS", 0.0)
    bar, running = bar_of(40), []

    class Loss:
        def __init__(self, step):
            self.step = step

        def __float__(self):
            assert self.step not in running
            return float(self.step)

    for step in range(6):
        time.sleep(0.06)  # Keras's bar has an interval of its own
        running = [*running, step][-backend.STEPS_QUEUED :]
        bar.on_train_batch_end(step, {"loss": Loss(step)})
    shown = capsys.readouterr().out.replace("\x1b[1m", "")
    assert f"{6 - backend.STEPS_QUEUED}/40" in shown
    assert f"loss: {5 - backend.STEPS_QUEUED:.4f}" in shown


def test_it_does_not_look_at_every_step(monkeypatch):
    bar, looks = bar_of(1000), []
    monkeypatch.setattr(
        keras.callbacks.ProgbarLogger,
        "on_train_batch_end",
        lambda self, batch, logs: looks.append(batch),
    )
    for step in range(1000):
        bar.on_train_batch_end(step, {"loss": 0.0})
    assert 1 <= len(looks) <= 3


def test_fit_with_it(capsys):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    rng = np.random.default_rng(0)
    x, y = rng.random((64, 3), "float32"), rng.random((64, 1), "float32")
    model.fit(x, y, 8, epochs=2, verbose=0, callbacks=[callbacks.ProgressBar()])
    shown = capsys.readouterr().out
    assert "Epoch 1/2" in shown and "Epoch 2/2" in shown
    assert "8/8" in shown and "loss: " in shown and "/step" in shown


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
