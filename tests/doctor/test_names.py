"""Names that moved, vanished or changed: found at their line, with the change to make."""

import pytest

from tests.doctor.packages import BOTH, GRAPH, check, look, machine

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
