"""Files of ParallelModel: the inner model's, with the state of the optimizer."""

import keras
import pytest

from mrcnn_parallel.parallel_model import ParallelModel
from tests.parallel_models import arrays, assert_close, compiled, data, regression_model


def test_weights_saved_on_2_replicas_load_on_1_and_on_3(tmp_path):
    two = compiled(ParallelModel(regression_model(), 2), loss="mse")
    two.fit(*data(8), verbose=0)
    two.save_weights(tmp_path / "two.weights.h5")
    one, three = regression_model(seed=1), ParallelModel(regression_model(seed=2), 3)
    one.load_weights(tmp_path / "two.weights.h5")
    three.load_weights(tmp_path / "two.weights.h5")
    assert_close(arrays(one), arrays(two), 0)
    assert_close(arrays(three), arrays(two), 0)
    one.save_weights(tmp_path / "one.weights.h5")
    two.set_weights([weight * 0 for weight in arrays(two)])
    two.load_weights(tmp_path / "one.weights.h5")
    assert_close(arrays(one), arrays(two), 0)
    assert [w.path for w in one.weights] == [w.path for w in two.weights]


@pytest.mark.parametrize("count", [1, 3])
def test_training_goes_on_with_the_optimizers_state(tmp_path, count):
    """6 steps at once equal 3 steps on 2 replicas, a file, and 3 steps on `count`."""
    steps = [data(12, seed=k) for k in range(6)]

    def train(model, steps):
        for x, y in steps:
            model.train_on_batch(x, y)

    straight = compiled(regression_model(), loss="mse", optimizer="adam")
    train(straight, steps)
    first = compiled(ParallelModel(regression_model(), 2), loss="mse", optimizer="adam")
    train(first, steps[:3])
    first.save(tmp_path / "run.keras")
    loaded = keras.models.load_model(tmp_path / "run.keras")
    assert int(loaded.optimizer.iterations) == 3
    second = ParallelModel(loaded, count)
    assert second.optimizer is loaded.optimizer
    train(second, steps[3:])
    assert int(second.optimizer.iterations) == 6
    assert_close(arrays(second), arrays(straight))
    train(loaded, steps[:1])  # the inner model alone goes on too


def test_backup_and_restore_resumes_with_the_optimizers_state(tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise InterruptedError

    def fit(*callbacks):
        model = compiled(ParallelModel(regression_model(), 2), loss="mse", optimizer="adam")
        x, y = data(8)
        callbacks = [keras.callbacks.BackupAndRestore(tmp_path / "backup"), *callbacks]
        model.fit(x, y, epochs=4, verbose=0, shuffle=False, callbacks=callbacks)
        return model

    with pytest.raises(InterruptedError):
        fit(Stop())
    resumed = fit()
    whole = compiled(regression_model(), loss="mse", optimizer="adam")
    whole.fit(*data(8), epochs=4, verbose=0, shuffle=False)
    assert int(resumed.optimizer.iterations) == 4
    assert_close(arrays(resumed), arrays(whole))


def test_json_is_the_inner_models_and_the_wrapper_has_no_config():
    parallel = ParallelModel(regression_model(), 2)
    assert keras.models.model_from_json(parallel.to_json()).output_names == ["prediction"]
    with pytest.raises(NotImplementedError, match="inner_model"):
        parallel.get_config()
