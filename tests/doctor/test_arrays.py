"""NumPy, scikit-image, h5py and imgaug; and code that is right, which is left alone."""

from pathlib import Path

import numpy as np
import pytest

from mrcnn_parallel import parallel_model
from mrcnn_parallel.doctor import examine
from mrcnn_parallel.doctor.changes import NUMPY_ALIASES
from tests.doctor.packages import BOTH, check, look, machine

TESTS = Path(__file__).parents[1]


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
