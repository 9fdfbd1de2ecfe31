"""ParallelModel on JAX: how replicas stay equal, and with which options XLA compiles."""

import logging

import keras
import numpy as np
import pytest

from mrcnn_parallel import parallel_model
from mrcnn_parallel.parallel_model import ParallelModel, accepted_compiler_options
from mrcnn_parallel.training.callbacks import CheckpointWriter, ReplicaCheck
from tests.parallel_models import (
    ON_JAX,
    TrainOnOutput,
    alone,
    assert_same_training,
    compiled,
    data,
    loss_model,
    regression_model,
)

pytestmark = pytest.mark.skipif(not ON_JAX, reason="of the JAX engine")
PEER = "xla_gpu_collective_permute_mode"


@pytest.fixture
def gpus(monkeypatch):
    """A function of a number -> an engine that believes its devices, that many, to be GPUs."""

    def engine(count):
        engine = ParallelModel(regression_model(), count)._engine
        monkeypatch.setattr(engine, "platform", "gpu")
        return engine

    return engine


# === Swapped gradients ===


def test_two_replicas_add_in_full_precision_what_they_swap():
    import jax

    engine = ParallelModel(regression_model(), 2)._engine
    pieces = np.array([[1.0, 3.0], [2.0**-8, 5.0]], "bfloat16")  # 1 + 2**-8 is 1 in bfloat16
    total = engine._on_each(lambda x: engine._sum(x, "float32"), (engine.rows,), engine.rows)
    expected = [[1 + 2.0**-8, 8.0]] * 2
    np.testing.assert_array_equal(jax.jit(total)(pieces), expected)


@pytest.mark.parametrize("count", [2, 3])
def test_mixed_bfloat16_trains_as_one_device_and_replicas_stay_equal_to_the_bit(count):
    keras.config.set_dtype_policy("mixed_bfloat16")
    parallel, single = compiled(TrainOnOutput(loss_model(), count)), compiled(alone(loss_model()))
    batches = [([x, y], None) for x, y in (data(12, seed=k) for k in range(5))]
    assert_same_training(parallel, single, batches, 2e-2)
    parallel.check_replicas()
    for variable in parallel.trainable_variables + parallel.optimizer.variables:
        first, *others = (np.asarray(x.data) for x in variable.value.addressable_shards)
        assert len(others) == count - 1
        for other in others:
            np.testing.assert_array_equal(first, other)


def damage(parallel, replica, change):
    """Changes one replica's copy of the first kernel."""
    import jax

    kernel = parallel.trainable_variables[0]
    value = parallel.replicate(kernel.value)
    copies = [shard.data for shard in value.addressable_shards]
    copies[replica] = change(copies[replica])
    arrays = jax.make_array_from_single_device_arrays(value.shape, value.sharding, copies)
    kernel._value = arrays


@pytest.mark.parametrize(
    "change",
    [lambda x: x.at[2, 1].add(1e-7), lambda x: x[:, ::-1], lambda x: x.at[0, 0].set(float("nan"))],
    ids=["a bit", "places", "nan"],
)
@pytest.mark.parametrize("replica", [0, 2])
def test_replicas_that_come_apart_are_noticed(replica, change):
    parallel = ParallelModel(regression_model(), 3)
    parallel.check_replicas()
    damage(parallel, replica, change)
    with pytest.raises(RuntimeError, match="come apart: hidden/kernel differ") as caught:
        parallel.check_replicas()
    assert ", ".join(parallel.devices) in str(caught.value)


@pytest.mark.parametrize("method", ["fit", "train_on_batch"])
def test_gradients_that_arrive_damaged_are_noticed_after_a_step(method, monkeypatch):
    arrived = parallel_model._Jax._of_other

    def damaged(engine, x):  # on one replica, a part in a thousand
        import jax

        return arrived(engine, x) * (1 + 1e-3 * jax.lax.axis_index("replica"))

    monkeypatch.setattr(parallel_model._Jax, "_of_other", damaged)
    parallel = compiled(ParallelModel(regression_model(), 2), loss="mse")
    parallel.check_replicas()
    getattr(parallel, method)(*data(8))
    with pytest.raises(RuntimeError, match=r"come apart: .* and 3 more"):
        parallel.check_replicas()


def test_nothing_is_saved_of_replicas_that_came_apart():
    class Damage(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                damage(self.model, 1, lambda x: x + 1)

    parallel, saved = ParallelModel(regression_model(), 2), []
    callbacks = [
        Damage(),
        ReplicaCheck(parallel),
        CheckpointWriter(saved.append, lambda epoch: f"epoch {epoch}"),
    ]
    x, y = data(8)
    parallel.compile(loss="mse", optimizer=keras.optimizers.SGD(0.1))
    with pytest.raises(RuntimeError, match="come apart"):
        parallel.fit(x, y, batch_size=4, epochs=3, verbose=0, callbacks=callbacks)
    assert saved == ["epoch 1"]


# === Options for XLA ===


def test_only_options_that_xla_knows_are_accepted():
    known = {"xla_gpu_enable_triton_gemm": True}
    unknown = {"xla_gpu_no_such_option": True, PEER: "NO_SUCH_VALUE"}
    assert accepted_compiler_options({**known, **unknown}) == known


def test_options_that_the_user_sets_are_left_to_them(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_enable_triton_gemm=false")
    assert accepted_compiler_options({"xla_gpu_enable_triton_gemm": True}) == {}


def test_cpus_need_no_options():
    assert ParallelModel(regression_model(), 2).compiler_options == {}


def test_two_gpus_copy_directly(gpus):
    assert gpus(2).compiler_options[PEER] == "COLLECTIVES_PEER_MEMORY"


def test_three_gpus_do_not(gpus):
    assert gpus(3).compiler_options == {}


def test_two_gpus_send_while_the_backward_pass_runs(gpus):
    known = accepted_compiler_options(parallel_model._SEND_EARLY)
    assert known and known.items() <= gpus(2).compiler_options.items()


@pytest.mark.parametrize("flaw", ["lost", "a bit"])
def test_direct_copies_that_arrive_damaged_are_not_used(flaw, gpus, monkeypatch, caplog):
    arrived = parallel_model._Jax._of_other

    def damaged(engine, x):
        if flaw == "lost":
            return x  # a replica's own stays in place
        return arrived(engine, x).at[0, 12345].set(0)

    engine = gpus(2)
    assert engine.swaps({})
    monkeypatch.setattr(parallel_model._Jax, "_of_other", damaged)
    with caplog.at_level(logging.WARNING, parallel_model.__name__):
        assert PEER not in engine.compiler_options
    assert "arrive damaged" in caplog.text
    assert all(name in caplog.text for name in engine.names)


def fit(model, **settings):
    x, y = data(8)
    model.compile(loss="mse", optimizer=keras.optimizers.SGD(0.1), **settings)
    return model.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0).history["loss"]


def test_fit_compiles_with_the_options():
    import jax

    plain, with_options = (ParallelModel(regression_model(), 2) for _ in range(2))
    with_options._engine.compiler_options = {"xla_cpu_enable_fast_math": False}
    np.testing.assert_array_equal(fit(with_options), fit(plain))
    with_options = ParallelModel(regression_model(), 2)
    with_options._engine.compiler_options = {"xla_gpu_no_such_option": True}
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_gpu_no_such_option"):
        fit(with_options)


@pytest.mark.parametrize("settings", [{"steps_per_execution": 2}, {"run_eagerly": True}])
def test_what_keras_does_its_own_way_is_left_to_it(settings):
    model = ParallelModel(regression_model(), 2)
    model._engine.compiler_options = {"xla_gpu_no_such_option": True}
    assert np.isfinite(fit(model, **settings)).all()
