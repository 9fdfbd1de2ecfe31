"""What ParallelModel refuses, and how it says so."""

import keras
import numpy as np
import pytest
from keras import layers

from mrcnn_parallel.parallel_model import ParallelModel
from tests.parallel_models import ON_JAX, arrays, assert_close, data, loss_model, regression_model


def test_too_few_devices():
    with pytest.raises(ValueError) as caught:
        ParallelModel(regression_model(), 5)
    message = str(caught.value)
    assert "gpu_count=5" in message and "Try reducing gpu_count" in message
    assert "4" in message and "cpu" in message.lower()


@pytest.mark.parametrize("count", [0, -1, 1.5, "2", True])
def test_a_count_that_is_not_a_positive_whole_number(count):
    with pytest.raises(ValueError, match="gpu_count"):
        ParallelModel(regression_model(), count)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(1)

    def call(self, x):
        return self.dense(x)


@pytest.mark.parametrize(
    "make", [Subclassed, keras.Sequential, lambda: layers.Dense(1), lambda: None, object]
)
def test_models_that_cannot_be_wrapped(make):
    with pytest.raises(ValueError, match="functional"):
        ParallelModel(make(), 2)


def test_a_wrapper_is_not_wrapped_again():
    with pytest.raises(ValueError, match="inner_model"):
        ParallelModel(ParallelModel(regression_model(), 2), 2)


def test_a_training_batch_smaller_than_gpu_count():
    parallel, (x, y) = ParallelModel(regression_model(), 4), data(3)
    parallel.compile(loss="mse", optimizer="sgd")
    before = arrays(parallel)
    for train in (
        lambda: parallel.train_on_batch(x, y),
        lambda: parallel.fit(x, y, verbose=0),
        lambda: parallel.fit((b for b in [(x, y)]), steps_per_epoch=1, verbose=0),
        lambda: parallel(x, training=True),
    ):
        with pytest.raises(ValueError, match=r"3 rows is smaller than gpu_count=4"):
            train()
        assert_close(arrays(parallel), before, 0)  # the model is as it was


def test_a_last_batch_that_is_too_small_is_found_before_the_first_step():
    model, (x, y) = regression_model(), data(13)
    parallel = ParallelModel(model, 4)
    parallel.compile(loss="mse", optimizer="sgd")
    before = arrays(model)
    with pytest.raises(ValueError, match="1 rows"):
        parallel.fit(x, y, batch_size=4, verbose=0)
    assert_close(arrays(model), before, 0)


def test_a_training_batch_that_gpu_count_does_not_divide():
    model, (x, y) = regression_model(), data(7)
    parallel = ParallelModel(model, 2)
    parallel.compile(loss="mse", optimizer="sgd")
    if not ON_JAX:
        assert np.isfinite(parallel.fit(x, y, batch_size=7, verbose=0).history["loss"][0])
        return
    for train in (
        lambda: parallel.train_on_batch(x, y),
        lambda: parallel.fit(x, y, verbose=0),
        lambda: parallel.fit((b for b in [(x, y)]), steps_per_epoch=1, verbose=0),
    ):
        with pytest.raises(ValueError, match=r"gpu_count=2 does not divide .* 7 rows"):
            train()


def test_inputs_of_different_lengths():
    x, y = data(8)
    with pytest.raises(ValueError, match="rows"):
        ParallelModel(loss_model(), 2)([x, y[:6]], training=True)


@pytest.mark.skipif(ON_JAX, reason="of the TensorFlow engine")
def test_a_reshape_to_the_rows_of_a_whole_batch():
    x = keras.Input((4,))
    y = layers.Lambda(lambda t: keras.ops.reshape(t, (8, 2, 2)), name="detections")(x)
    parallel = ParallelModel(keras.Model(x, y), 2)
    rows = data(8)[0]
    for run in (parallel, parallel.predict, parallel.predict_on_batch):
        with pytest.raises(ValueError, match=r"(?s)gpu_count=2 .*write -1"):
            run(rows)
    with pytest.raises(Exception, match="Input to reshape") as caught:  # TensorFlow's own
        ParallelModel(parallel.inner_model, 1)(rows[:3])
    assert "gpu_count" not in str(caught.value)
