"""Calls that no longer do what they did."""

import textwrap
from pathlib import Path

import pytest

from mrcnn_parallel import parallel_model
from mrcnn_parallel.doctor import examine
from tests.doctor.packages import BOTH, GRAPH, check, look, machine


@pytest.mark.parametrize("base", ["KM.Model", "Model", "tf.keras.models.Model"])
@pytest.mark.parametrize("target", BOTH)
def test_a_parallel_model_of_its_own(base, target, tmp_path):
    code = f"""
    class ParallelModel({base}): #!
        def __init__(self, keras_model, gpu_count):
            self.inner_model = keras_model
    """
    where = machine(target)
    check(tmp_path, code, where, "parallel-model", "stops", str(parallel_model.__file__))


@pytest.mark.parametrize("target", BOTH)
def test_our_parallel_model_is_right_in_any_package(target, tmp_path):
    assert not look(tmp_path, Path(parallel_model.__file__).read_text(), machine(target))


def test_of_a_parallel_model_py_no_more_is_said(tmp_path):
    code = "import keras\nclass ParallelModel(keras.models.Model):\n    pass\n"
    assert len(look(tmp_path, code, machine(), "other.py")) == 2
    (tmp_path / "other.py").unlink()
    (found,) = look(tmp_path, code, machine(), "parallel_model.py")
    assert (found.line, found.rule) == (2, "parallel-model")


def test_graph_mode(tmp_path):
    code = "import tensorflow as tf\ntf.compat.v1.disable_eager_execution() #!"
    check(tmp_path, code, machine("keras3"), "graph-mode", "stops", "drop the line")
    code = "import tensorflow.compat.v1 as tf\ntf.disable_v2_behavior() #!"
    check(tmp_path, code, machine("keras3"), "graph-mode", "stops", "drop the line")
    assert not look(tmp_path, code, machine())


OPTIMIZERS = {
    # id: (target, before, call, rule, severity, change)
    "get_updates": ("tf_keras", GRAPH, "SGD()", "get-updates", "stops", "optimizers.legacy.SGD"),
    "legacy": ("keras3", "", "legacy.Adam()", "optimizer", "stops", "keras.optimizers.Adam"),
    "lr ignored": ("tf_keras", "", "SGD(lr=1)", "optimizer", "wrong result", "learning_rate="),
    "lr gone": ("keras3", "", "SGD(lr=1)", "optimizer", "stops", "learning_rate="),
    "lr": ("tf_keras", "", "legacy.SGD(lr=1)", "optimizer", "deprecated", "learning_rate="),
    "decay": ("tf_keras", "", "SGD(decay=1)", "optimizer", "stops", "schedule"),
    "decay gone": ("keras3", "", "SGD(decay=1)", "optimizer", "stops", "schedule"),
    "clip": ("tf_keras", "", "SGD(clipnorm=5)", "clipnorm", "wrong result", "global_clipnorm="),
    "legacy clip": (
        "tf_keras",
        GRAPH,
        "legacy.SGD(clipnorm=5)",
        "clipnorm",
        "wrong result",
        "global_clipnorm=",
    ),
    "clip 3": ("keras3", "", "Adam(clipnorm=5)", "clipnorm", "wrong result", "global_clipnorm="),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers(name, tmp_path):
    target, before, call, rule, severity, change = OPTIMIZERS[name]
    code = f"{before}from tensorflow import keras\nkeras.optimizers.{call} #!"
    check(tmp_path, code, machine(target), rule, severity, change)


def test_graph_mode_is_that_of_the_whole_package(tmp_path):
    (tmp_path / "config.py").write_text(GRAPH)
    (tmp_path / "model.py").write_text("import tensorflow.keras as k\nk.optimizers.SGD()\n")
    (found,) = examine(tmp_path, machine())[1]
    assert (Path(found.path).name, found.line, found.rule) == ("model.py", 2, "get-updates")
    assert "config.py:2" in found.what


@pytest.mark.parametrize(
    ("target", "before", "change"),
    [
        ("tf_keras", GRAPH, "_resource_apply_dense"),
        ("tf_keras", "", "update_step"),
        ("keras3", "", "update_step"),
    ],
)
def test_an_optimizer_of_its_own(target, before, change, tmp_path):
    code = before + "class Accumulating(Optimizer):\n    def get_updates(self, loss, params): #!\n"
    code += "        return []\n"
    check(tmp_path, code, machine(target), "get-updates", "stops", change)


def test_metrics_tensors(tmp_path):
    code = """
    def compile(self):
        self.keras_model.metrics_tensors.append(loss) #!
    """
    where = machine()
    check(tmp_path, code, where, "metrics-tensors", "stops", "add_metric(loss, name=name")
    where = machine("keras3")
    check(tmp_path, code, where, "metrics-tensors", "stops", "keras.metrics.Mean")
    code = code.replace("#!", "")
    owned = "self.keras_model.metrics_tensors = [] #!\n" + textwrap.dedent(code)
    assert not look(tmp_path, GRAPH + owned, machine())
    check(tmp_path, owned, machine(), "losses", "stops", "drop the line")


def test_what_models_no_longer_have(tmp_path):
    code = "if model.uses_learning_phase: #!\n    pass"
    check(tmp_path, code, machine(), "learning-phase", "stops", "drop")
    code = "self.keras_model.metrics_names.append(name) #!"
    check(tmp_path, code, machine(), "metrics-names", "wrong result", "add_metric(loss")
    code += "\nself.keras_model.add_metric(loss, name=name)"
    check(tmp_path, code, machine(), "metrics-names", "deprecated", "drop the line")
    code = "print(keras_model.optimizer.lr) #!\nprint(self.lr, scheduler.lr)"
    check(tmp_path, code, machine("keras3"), "optimizer", "stops", "learning_rate")


def test_losses_that_are_tensors(tmp_path):
    code = """
    for layer in layers:
        if layer.output in self.keras_model.losses: #!
            continue
    """
    check(tmp_path, code, machine(), "losses", "stops", "drop the condition")
    assert not look(tmp_path, GRAPH + textwrap.dedent(code), machine())
    code = """
    class Layer:
        def call(self, x):
            self.add_loss(x)
            super().add_loss(x)
    self.keras_model.add_loss(loss) #!
    self.keras_model.add_metric(loss, name="a") #!
    """
    check(tmp_path, code, machine("keras3"), "losses", "stops", "override compute_loss()")
    assert not look(tmp_path, code, machine())


def test_training_loops(tmp_path):
    code = "model.fit_generator(data) #!\nmodel.fit(data)"
    check(tmp_path, code, machine(), "fit", "deprecated", "fit")
    check(tmp_path, code, machine("keras3"), "fit", "stops", "fit")
    code = "model.fit(\n    data, workers=2, use_multiprocessing=cpus > 1)"
    (found,) = look(tmp_path, code, machine())
    assert (found.line, found.severity) == (1, "deprecated")
    assert "use_multiprocessing=False" in found.change
    assert not look(tmp_path, code.replace("cpus > 1", "False"), machine())
    (found,) = look(tmp_path, code, machine("keras3"))
    assert found.line == 1 and "use_multiprocessing, workers" in found.what
    assert "PyDataset" in found.change


def test_weight_decay(tmp_path):
    code = "self.keras_model.add_loss(tf.add_n(losses)) #!"
    change = "add_loss(lambda: tf.add_n(["
    check(tmp_path, code, machine(), "weight-decay", "stops", change)
    check(tmp_path, GRAPH + code, machine(), "weight-decay", "wrong result", change)
    code = code.replace("tf.add_n", "lambda: tf.add_n")
    assert not look(tmp_path, code, machine()) and not look(tmp_path, GRAPH + code, machine())


def test_losses_of_none_without_graph_mode(tmp_path):
    code = "model.compile(\n    optimizer=optimizer,\n    loss=[None] * len(model.outputs)) #!"
    check(tmp_path, code, machine(), "losses", "stops", "drop loss=")
    assert not look(tmp_path, GRAPH + code, machine())
    assert not look(tmp_path, code.replace("None", "'mse'"), machine())


def test_generators(tmp_path):
    code = """
    from tensorflow import keras
    def data_generator(dataset):
        inputs, more = [], 1
        outputs = []
        while True:
            yield inputs, outputs #!
    class DataGenerator:
        def __getitem__(self, index):
            return [image, meta], [] #!
        def size(self):
            return self.height, self.width
    """
    for target in BOTH:
        check(tmp_path, code, machine(target), "generator", "stops", "(tuple(inputs),)")
        assert not look(tmp_path, code.replace("from tensorflow ", "# "), machine(target))
    assert not look(tmp_path, GRAPH + textwrap.dedent(code), machine())


def test_weight_files(tmp_path):
    code = """
    path = "mask_rcnn_{epoch:04d}.h5"
    ModelCheckpoint(path, save_weights_only=True) #!
    ModelCheckpoint("all.keras")
    model.save_weights("last.h5") #!
    model.save_weights("last.weights.h5")
    model.save_weights(name)
    """
    check(tmp_path, code, machine("keras3"), "weight-files", "stops", ".weights.h5")
    assert not look(tmp_path, code, machine())
    code = code.replace("04d}.h5", "04d}.weights.h5").replace('"last.h5"', "last")
    assert not look(tmp_path, code, machine("keras3"))


def test_arguments(tmp_path):
    code = """
    import tensorflow as tf
    x = tf.reduce_sum(
        x,
        keep_dims=True, #!
    )
    tf.reduce_sum(x, keepdims=True)
    tf.image.crop_and_resize(a, b, box_ind=c, crop_size=d) #!
    numpy.thing(keep_dims=True)
    tf.keras.Model(input=a, output=b) #!
    """
    check(tmp_path, code, machine(), "argument", "stops", "keepdims=")
    code = """
    self.add_weight("kernel", (2, 3)) #!
    self.add_weight(name="kernel", shape=(2, 3))
    """
    check(tmp_path, code, machine("keras3"), "argument", "stops", "name=")
    assert not look(tmp_path, code, machine())


def test_a_lambda_over_an_input(tmp_path):
    code = """
    def build():
        image = KL.Input(shape=(8, 8, 3))
        boxes = KL.Input(shape=(None, 4))
        good = KL.Lambda(lambda t: norm(t[0], shape(t[1])))([boxes, image])
        return KL.Lambda(lambda x: norm(x, shape(image)))(boxes) #!
    """
    check(tmp_path, code, machine("keras3"), "lambda", "stops", "image")
    assert not look(tmp_path, GRAPH + textwrap.dedent(code), machine())


@pytest.mark.parametrize("target", BOTH)
def test_nested_models(target, tmp_path):
    code = "if layer.__class__.__name__ == 'Model': #!\n    pass\n"
    code += "if layer.__class__.__name__ == 'TimeDistributed':\n    pass"
    change = "isinstance(layer, keras.Model)"
    check(tmp_path, code, machine(target), "nested-model", "wrong result", change)
