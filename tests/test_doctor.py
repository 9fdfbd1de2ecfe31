"""The doctor: every rule on a few lines of the kind it is for, and nothing where nothing is wrong.

In a snippet `#!` marks the lines that must be found, and no other line may be.
"""

import json
import operator
import subprocess
import sys
import textwrap
from pathlib import Path

import keras
import numpy as np
import pytest

from mrcnn_parallel import cli, parallel_model
from mrcnn_parallel.doctor import Machine, examine
from mrcnn_parallel.doctor.api import PublicNames
from mrcnn_parallel.doctor.changes import CHANGES, NUMPY_2, NUMPY_ALIASES
from mrcnn_parallel.doctor.machine import default_target, installed_versions, release

TESTS = Path(__file__).parent
ON_JAX = keras.backend.backend() == "jax"
VERSIONS = {
    "python": "3.11.7",
    "tensorflow": "2.21.0",
    "keras": "3.15.1",
    "tf_keras": "2.21.0",
    "numpy": "2.4.6",
    "scikit-image": "0.26.0",
    "scipy": "1.17.1",
    "h5py": "3.14.0",
    "imgaug": "0.4.0",
}
BOTH = ("tf_keras", "keras3")
GRAPH = "import tensorflow as tf\ntf.compat.v1.disable_eager_execution()\n"


def machine(target="tf_keras", **versions):
    """Underscores in names of versions stand for hyphens; None: not installed."""
    names = {name.replace("scikit_image", "scikit-image"): v for name, v in versions.items()}
    versions = {name: v for name, v in {**VERSIONS, **names}.items() if v is not None}
    return Machine(versions, target, PublicNames(target))


def look(folder, code, where, name="model.py"):
    """The findings in a file of this code."""
    file = folder / name
    file.write_text(textwrap.dedent(code))
    return examine(file, where)[1]


def check(tmp_path, code, where, rule, severity, change):
    code = textwrap.dedent(code)
    marked = [n for n, line in enumerate(code.splitlines(), start=1) if line.endswith("#!")]
    findings = look(tmp_path, code, where)
    assert sorted({f.line for f in findings}) == marked, findings
    assert marked
    for finding in findings:
        assert (finding.rule, finding.severity) == (rule, severity)
        assert finding.what
    assert any(change in finding.change for finding in findings), findings


# === Names ===

NAMES = {
    # id: (code, targets, rule, what the change says)
    "engine": ("import keras.engine.topology as saving #!", BOTH, "import", "load_weights("),
    "engine class": ("import keras.engine as KE #!\nKE.Layer", BOTH, "import", "keras.layers"),
    "saving": ("from keras.engine import saving #!", BOTH, "import", "skip_mismatch"),
    "saving of tf.keras": (
        "from tensorflow.keras.engine import saving #!",
        BOTH,
        "import",
        "load_weights(",
    ),
    "core": ("from tensorflow.keras.layers.core import Dense #!", BOTH, "import", "layers.Dense"),
    "merge": ("import keras.layers.merge #!", BOTH, "import", "Concatenate"),
    "get_file": (
        "from tensorflow.keras.utils.data_utils import get_file #!",
        BOTH,
        "import",
        "keras.utils.get_file",
    ),
    "multi gpu": (
        "from tensorflow.keras.utils import multi_gpu_model #!",
        BOTH,
        "import",
        "ParallelModel(model, gpus)",
    ),
    "contrib": ("import tensorflow.contrib.slim as slim #!", BOTH, "import", "tf.contrib is gone"),
    "contrib attribute": (
        "import tensorflow as tf\nx = tf.contrib.layers.flatten(x) #!",
        BOTH,
        "name",
        "tf.contrib is gone",
    ),
    "log": ("import tensorflow as tf\ndef f(x):\n  return tf.log(x) #!", BOTH, "name", "math.log"),
    "sets": (
        "import tensorflow as tf\nkeep = tf.sets.set_intersection(a, b) #!",
        BOTH,
        "name",
        "tf.sets.intersection",
    ),
    "to_float": ("import tensorflow as tf\ntf.to_float(x) #!", BOTH, "name", "tf.cast(x, tf.flo"),
    "dense": (
        "from tensorflow import sparse_tensor_to_dense #!",
        BOTH,
        "import",
        "tf.sparse.to_dense",
    ),
    "session": ("import tensorflow as tf\ntf.Session() #!", BOTH, "name", "tf.compat.v1.Session"),
    "in compat": (
        "import tensorflow as tf\ntf.get_variable('a') #!",
        BOTH,
        "name",
        "tf.compat.v1.get_variable",
    ),
    "nowhere": ("import tensorflow as tf\ntf.nowhere.x() #!", BOTH, "name", "drop it"),
    "K.get_session": (
        "import tensorflow.keras.backend as K\nK.get_session() #!",
        BOTH,
        "name",
        "there are no sessions",
    ),
    "K.learning_phase": (
        "from tensorflow.keras import backend as K\nK.learning_phase() #!",
        ["keras3"],
        "name",
        "training=True",
    ),
    "K of Keras 3": ("import keras.backend as K\nK.int_shape(x) #!", ["keras3"], "name", "drop it"),
    "K in ops": ("from keras import backend as K\nK.mean(x) #!", ["keras3"], "name", "ops.mean"),
    "K by assignment": (
        "import tensorflow as tf\nK = tf.keras.backend\nK.function(a, b) #!",
        ["keras3"],
        "name",
        "keras.Model(inputs, outputs)",
    ),
    "imread": ("from scipy.misc import imread #!", BOTH, "name", "imageio"),
    "imresize": ("import scipy.misc #!\nscipy.misc.imresize(a, 2) #!", BOTH, "name", "resize"),
    "circle": ("import skimage.draw\nskimage.draw.circle(1, 2, 3) #!", BOTH, "name", "disk"),
    "Keras 3": ("import keras #!", ["tf_keras"], "keras-3", "from tensorflow import keras"),
    "Keras 3's layers": (
        "import keras.layers as KL #!\nKL.Dense(2)",
        ["tf_keras"],
        "keras-3",
        "tensorflow.keras.layers",
    ),
    "tf_keras": ("from tf_keras.layers import Dense #!", ["keras3"], "keras-3", "keras.layers"),
}


@pytest.mark.parametrize(
    ("name", "target"), [(name, target) for name, case in NAMES.items() for target in case[1]]
)
def test_names(name, target, tmp_path):
    code, _, rule, change = NAMES[name]
    check(tmp_path, code, machine(target), rule, "stops", change)


def test_another_keras_in_tensorflow(tmp_path):
    """Its load_weights_from_hdf5_group assigns in a session of its own, in graph mode."""
    code = "from tensorflow.python.keras.saving import hdf5_format"
    check(
        tmp_path,
        GRAPH + code + " #!",
        machine(),
        "load-weights",
        "wrong result",
        "keras_model.load_weights(filepath",
    )
    check(tmp_path, code + " #!", machine(), "load-weights", "deprecated", "load_weights(")
    code = "from tensorflow.python.keras.engine import base_layer #!"
    check(tmp_path, code, machine(), "second-keras", "wrong result", "from tensorflow.keras")


def test_versions_decide(tmp_path):
    code = "import distutils.version\nfrom scipy.misc import imread"
    found = look(tmp_path, code, machine(python="3.12.1", scipy="1.1.0"))
    assert [(f.line, f.severity) for f in found] == [(1, "stops")]
    assert "packaging" in found[0].change
    assert not look(tmp_path, code, machine(scipy="1.1.0"))


def test_what_is_not_installed_is_named(tmp_path):
    code = "def load():\n    import imgaug #!\nimport h5py #!\nimport numpy"
    where = machine(imgaug=None, h5py=None)
    check(tmp_path, code, where, "not-installed", "stops", "pip install imgaug")


# === Calls ===


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


# === Arrays ===


@pytest.mark.parametrize("name", sorted(NUMPY_ALIASES))
def test_numpys_aliases(name, tmp_path):
    code = f"import numpy as np\nmask = mask.astype(np.{name}) #!\nx = np.float32(1)"
    severity = "deprecated" if name in ("bool", "long") else "stops"
    check(tmp_path, code, machine(), "numpy", severity, NUMPY_ALIASES[name])
    check(tmp_path, code, machine(numpy="1.26.4"), "numpy", "stops", NUMPY_ALIASES[name])
    check(tmp_path, code, machine(numpy="1.21.0"), "numpy", "deprecated", NUMPY_ALIASES[name])


def test_what_numpy_2_dropped(tmp_path):
    code = "import numpy\nfrom numpy import NaN #!\nx = numpy.float_(numpy.inf) #!"
    check(tmp_path, code, machine(), "numpy", "stops", "np.float64")
    check(tmp_path, code, machine(numpy="1.26.4"), "numpy", "deprecated", "np.float64")


def test_imgaug_on_numpy_2(tmp_path):
    code = """
    import numpy as np
    def augment(image):
        import imgaug #!
    """
    check(tmp_path, code, machine(), "imgaug", "stops", "np.sctypes = {")
    assert not look(tmp_path, code, machine(numpy="1.26.4"))
    change = look(tmp_path, code, machine())[0].change
    assert not look(tmp_path, code + change[change.index("np.sctypes") :], machine())
    numpy = type("np", (), dict(vars(np)))
    exec(change[change.index("np.sctypes") :], {"np": numpy})
    assert np.uint8 in numpy.sctypes["uint"]


WRAPPER = """
import skimage.transform

def resize(image, output_shape, order=1, preserve_range=False):
    return skimage.transform.resize(image, output_shape, order=order) #!
"""


@pytest.mark.parametrize(
    "caller",
    [
        "resize(mask[:, :, 0].astype(bool), (56, 56))",
        "utils.resize(class_mask, (56, 56))",
        "def shrink(bbox, mask):\n    m = mask[:, :, 0]\n    m = m[1:2]\n    resize(m, (56, 56))",
        "resize(x > 0.5, (2, 2))",
    ],
)
def test_masks_that_are_resized_as_bool(caller, tmp_path):
    where = machine()
    check(tmp_path, WRAPPER + caller, where, "bool-resize", "stops", "image.astype(np.float32)")
    assert not look(tmp_path, WRAPPER + caller, machine(scikit_image="0.18.0"))


@pytest.mark.parametrize(
    "code",
    [
        WRAPPER + "resize(picture, (2, 2))",
        WRAPPER + "resize(mask.astype(float), (2, 2))",
        WRAPPER.replace("order=order", "order=0") + "resize(mask, (2, 2))",
        WRAPPER.replace(", order=order", "") + "resize(mask, (2, 2))",
        WRAPPER.replace("    return", "    image = image.astype('float32')\n    return")
        + "resize(mask, (2, 2))",
    ],
)
def test_what_may_be_resized(code, tmp_path):
    assert not look(tmp_path, code, machine())


def test_a_version_of_scikit_image_does_not_help(tmp_path):
    """Matterport's resize asks for it, because of another argument."""
    code = """
    import skimage, skimage.transform
    def resize(image, shape, order=1):
        if LooseVersion(skimage.__version__) >= LooseVersion("0.14"):
            return skimage.transform.resize(image, shape, order=order, anti_aliasing=False) #!
        else:
            return skimage.transform.resize(image, shape, order=order)
    resize(mask, (2, 2))
    """
    check(tmp_path, code, machine(), "bool-resize", "stops", "image.astype(np.float32)")


def test_a_mask_that_is_resized_directly(tmp_path):
    code = """
    from skimage.transform import resize
    small = resize(mask == 1, (2, 2), order=1) #!
    large = resize(picture, (2, 2), order=1)
    """
    check(tmp_path, code, machine(), "bool-resize", "stops", "(mask == 1).astype(np.float32)")


def test_strings_in_h5_files(tmp_path):
    code = """
    import h5py
    with h5py.File(path, "r") as f:
        version = f.attrs["keras_version"].decode("utf8") #!
        names = [n.decode("utf8") for n in f.attrs["layer_names"]] #!
        good = [n.decode() if isinstance(n, bytes) else n for n in f.attrs["layer_names"]]
        text = response.read().decode("utf8")
        kernel = f["kernel"].value #!
    """
    check(tmp_path, code, machine(), "h5py", "stops", "isinstance(n, bytes) else n")
    assert not look(tmp_path, code, machine(h5py="2.10.0"))


# === What is right is left alone ===

CLEAN = """
import sys
import numpy as np
import skimage
import tensorflow as tf
from tensorflow import keras
from tensorflow.keras import backend as K
from tensorflow.keras.layers import Conv2D, Input
import tensorflow.keras.layers as KL
import tensorflow.keras.models as KM
from . import utils
from mrcnn import config

try:
    import keras.engine.topology
except ImportError:
    pass
if tf.__version__ < "2":
    log = tf.log
else:
    log = tf.math.log
int_type = np.int if hasattr(np, "int") else int
y = tf.math.log(tf.reduce_sum(K.mean(x), keepdims=True)) + np.pi + tf.newaxis.x + tf.float32.max
keras.optimizers.SGD(learning_rate=0.1, global_clipnorm=5.0)
tf.nn.top_k, tf.image.crop_and_resize, tf.config.list_physical_devices, tf.data.Dataset
K.is_keras_tensor, tf.__internal__, tf.compat.v1.placeholder, keras.__version__
class Model(KM.Model):
    def log(self):
        self.Session = tf.io.gfile.exists
"""


@pytest.mark.parametrize("target", BOTH)
def test_right_code_is_left_alone(target, tmp_path):
    assert not look(tmp_path, CLEAN, machine(target))


def test_our_own_packages_have_nothing_to_change():
    package, findings = examine(TESTS / "legacy_package" / "mrcnn", machine())
    assert not findings and package.files == 3 and package.graph_mode
    package, findings = examine(Path(parallel_model.__file__).parent, machine("keras3"))
    # our `train` takes the pairs that Matterport's generators yield
    assert not {f for f in findings if f.rule != "generator"} and package.files > 50


# === Files that can't be read ===


def test_files_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "old.py").write_text("import keras\n\nprint 'epoch', 1\n")
    (tmp_path / "latin.py").write_bytes(b"# one\n# two\nname = '\xe9t\xe9'\n")
    (tmp_path / "coded.py").write_bytes(b"# -*- coding: latin-1 -*-\nname = '\xe9'\nimport keras\n")
    (tmp_path / "nul.py").write_bytes(b"x = 1\n\0\n")
    (tmp_path / "good.py").write_text("import tensorflow as tf\ntf.log(1)\n")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "no.py").write_text("(")
    package, findings = examine(tmp_path, machine())
    found = {(Path(f.path).name, f.rule): f for f in findings}
    assert set(found) == {
        ("old.py", "unreadable"),
        ("latin.py", "unreadable"),
        ("nul.py", "unreadable"),
        ("coded.py", "keras-3"),
        ("good.py", "name"),
    }
    old = found["old.py", "unreadable"]
    assert old.line == 3 and "print 'epoch', 1" in old.what and "Python 2" in old.change
    assert old.severity == "stops"
    assert package.files == 5


# === The machine, and what the doctor knows about it ===


def test_this_machine():
    versions = installed_versions()
    assert versions["keras"] == keras.__version__ and versions["numpy"] == np.__version__
    assert not list(machine().problems())
    without = Machine({"tensorflow": "2.19.1", "keras": "2.9.0"}, "tf_keras", PublicNames("keras3"))
    assert [change for _, change in without.problems()] == [
        'python -m pip install "tf_keras==2.19.*"'
    ]
    without = Machine({"keras": "2.9.0"}, "keras3", PublicNames("keras3"))
    assert len(list(without.problems())) == 2
    assert release("2.21.0rc1") == (2, 21, 0) and release("nightly") == ()


@pytest.mark.parametrize(
    ("versions", "variable", "target"),
    [
        ({"tf_keras": "2.21.0"}, None, "tf_keras"),
        ({}, None, "keras3"),
        ({}, "1", "tf_keras"),
        ({"tf_keras": "2.21.0"}, "0", "keras3"),
    ],
)
def test_default_target(versions, variable, target):
    assert default_target(versions, variable) == target


@pytest.mark.skipif(ON_JAX, reason="needs TensorFlow in the process")
def test_public_names_are_those_of_the_imported_packages():
    import tensorflow as tf
    import tf_keras

    modules = {
        "tensorflow": tf,
        "tensorflow.keras.backend": keras._tf_keras.keras.backend,
        "tensorflow.keras.layers": keras._tf_keras.keras.layers,
        "keras": keras,
    }
    for name in ("math", "image", "nn", "sets", "config", "random", "compat.v1", "io", "debugging"):
        modules[f"tensorflow.{name}"] = operator.attrgetter(name)(tf)
    for name in ("backend", "layers", "utils", "optimizers", "ops", "losses"):
        modules[f"keras.{name}"] = getattr(keras, name)
    names = PublicNames("keras3")
    seen = 0
    for path, module in modules.items():
        for name in dir(module):
            seen += 1
            assert names.missing(f"{path}.{name}") is None, (path, name)
    assert seen > 2000
    names = PublicNames("tf_keras")
    for path in ("backend", "layers", "optimizers.legacy", "utils", "callbacks"):
        for name in dir(operator.attrgetter(path)(tf_keras)):
            assert names.missing(f"tf_keras.{path}.{name}") is None, (path, name)
            if not name.startswith("_"):
                assert names.has(f"tensorflow.keras.{path}.{name}"), (path, name)
    assert names.missing("tensorflow.keras.backend.get_session") == (
        "tensorflow.keras.backend",
        "get_session",
    )
    assert names.missing("some.package.x") is None and not names.has("some.package.x")


def test_what_has_a_change_is_gone():
    names = {target: PublicNames(target) for target in BOTH}
    for dotted in CHANGES:
        assert names["keras3"].missing(dotted) or names["tf_keras"].missing(dotted), dotted
    if release(np.__version__) >= (2,):
        # This package puts `sctypes` back for imgaug, perhaps in this process.
        assert not [name for name in NUMPY_2 if name in dir(np) and name != "sctypes"]


# === The command line ===


def run(capsys, *arguments):
    status = cli.main(["doctor", *map(str, arguments)])
    return status, *capsys.readouterr()


def test_the_report(tmp_path, capsys):
    file = tmp_path / "model.py"
    file.write_text("import tensorflow as tf\nx = tf.log(tf.to_float(y))\n")
    status, out, err = run(capsys, "--keras", "keras3", tmp_path)
    assert status == 1 and not err
    lines = out.splitlines()
    assert f"{tmp_path}: 1 file, to run on Keras {keras.__version__}" in lines
    at = next(n for n, line in enumerate(lines) if line.startswith(f"{file}:2: stops: "))
    assert "tensorflow.log" in lines[at] and lines[at + 1] == "    change: tf.math.log"
    assert "stops: 2, wrong result: 0, deprecated: 0; in 1 of 1 file" in lines


def test_the_exit_status(tmp_path, capsys):
    file = tmp_path / "model.py"
    file.write_text("import tensorflow as tf\ntf.keras.optimizers.SGD(clipnorm=5)\n")
    status, out, _ = run(capsys, "--keras", "keras3", file)
    assert status == 0 and "wrong result: 1" in out
    status, out, err = run(capsys, tmp_path / "nowhere")
    assert status == 2 and not out and "nowhere" in err
    (tmp_path / "empty").mkdir()
    status, out, err = run(capsys, tmp_path / "empty")
    assert status == 2 and "no Python file in" in err
    with pytest.raises(SystemExit) as stopped:
        run(capsys, "--keras", "keras4", tmp_path)
    assert stopped.value.code == 2


def test_json(tmp_path, capsys):
    file = tmp_path / "model.py"
    file.write_text("import tensorflow as tf\nx = tf.log(y)\n")
    status, out, _ = run(capsys, "--json", "--keras", "tf_keras", file)
    report = json.loads(out)
    assert status == 1
    assert report["files"] == 1 and report["target"] == "tf_keras"
    assert report["versions"] == installed_versions()
    (finding,) = report["findings"]
    assert (finding["line"], finding["severity"], finding["rule"]) == (2, "stops", "name")
    assert finding["path"] == str(file) and finding["change"] == "tf.math.log"


def test_help_teaches(capsys):
    with pytest.raises(SystemExit):
        run(capsys, "--help")
    text = capsys.readouterr().out
    for word in ("wrong result", "TF_USE_LEGACY_KERAS=1", "Exit status", "doctor Mask_RCNN/mrcnn"):
        assert word in text


def test_nothing_is_imported_or_run(tmp_path):
    """Neither the package nor the libraries: it works where they crash."""
    (tmp_path / "mrcnn").mkdir()
    (tmp_path / "mrcnn" / "__init__.py").write_text("raise SystemExit('it was run')\n")
    code = """
import sys
from mrcnn_parallel.cli import main
assert main(["doctor", "mrcnn"]) == 0
loaded = {"tensorflow", "keras", "tf_keras", "skimage", "mrcnn"} & set(sys.modules)
assert not loaded, loaded
"""
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(TESTS.parent), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
