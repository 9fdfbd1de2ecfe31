"""run_graph, ancestor, log: on the goldens' network, as two replicas and as one."""

import keras
import numpy as np
import pytest

from mrcnn_parallel import inspection
from mrcnn_parallel.model import MaskRCNN, log
from tests.helpers import golden, golden_module

DATA = golden("model_tiny")
IMAGES = [DATA["inf_image0"], DATA["inf_image1"]]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    config = golden_module("golden_configs").TinyGolden(GPU_COUNT=2, IMAGES_PER_GPU=1)
    model = MaskRCNN("inference", config, tmp_path_factory.mktemp("logs"))
    golden_module("seeded_weights").fill_model(model.keras_model.inner_model, "tiny")
    return model


def test_run_graph(model, capsys):
    """Matterport's notebook idiom: outputs of the model and of layers inside, as NumPy."""
    layer = model.keras_model.get_layer
    results = model.run_graph(
        IMAGES,
        [
            ("proposals", layer("ROI").output),
            ("detections", layer("mrcnn_detection").output),
            ("P3", layer("fpn_p3").output),
            ("scores", "rpn_class"),
            ("image", layer("input_image").output),
        ],
    )
    assert list(results) == ["proposals", "detections", "P3", "scores", "image"]
    expected = {
        "proposals": "inf_rpn_rois",
        "detections": "inf_detections",
        "P3": "inf_fpn_p3",
        "scores": "inf_rpn_class",
        "image": "inf_molded",
    }
    for name, key in expected.items():
        assert isinstance(results[name], np.ndarray)
        np.testing.assert_allclose(results[name], DATA[key], atol=1e-4, err_msg=name)
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed] == list(results)


def test_run_graph_on_molded_images(model):
    molded, metas, _ = model.mold_inputs(IMAGES[:1])
    results = model.run_graph(molded, [("P2", "fpn_p2")], image_metas=metas)
    np.testing.assert_allclose(results["P2"], DATA["inf_fpn_p2"][:1], atol=1e-4)


def test_run_graph_reads_the_weights_of_now(model):
    kernel = model.keras_model.get_layer("fpn_p5").kernel
    before = np.array(np.asarray(kernel.value))
    kernel.assign(np.zeros_like(before))
    try:
        results = model.run_graph(IMAGES[:1], [("P5", "fpn_p5")])
    finally:
        kernel.assign(before)
    bias = np.array(np.asarray(model.keras_model.get_layer("fpn_p5").bias.value))
    np.testing.assert_allclose(results["P5"], np.broadcast_to(bias, results["P5"].shape))


def test_run_graph_says_what_is_wrong(model):
    with pytest.raises(ValueError, match="'x' is NoneType; give a layer's output"):
        model.run_graph(IMAGES, [("x", None)])
    with pytest.raises(ValueError, match=r"'x' is a list.*batch norm's output"):
        model.run_graph(IMAGES, [("x", model.keras_model.get_layer("mrcnn_mask_conv1").output)])
    rpn = model.keras_model.get_layer("rpn_model")
    with pytest.raises(ValueError, match=r"'raw' is a list.*'rpn_class'"):
        model.run_graph(IMAGES, [("raw", rpn.get_layer("rpn_conv_shared").output)])
    with pytest.raises(ValueError, match="'rpn_features', is not computed from this model"):
        model.run_graph(IMAGES, [("features", rpn.get_layer("rpn_features").output)])
    other = keras.Input((4,))
    with pytest.raises(ValueError, match="not computed from this model"):
        model.run_graph(IMAGES, [("other", keras.layers.Dense(1)(other))])
    images = [np.zeros((64, 64, 3), np.float32), np.zeros((64, 128, 3), np.float32)]
    with pytest.raises(ValueError, match="images of one shape"):
        model.run_graph(images, [("P2", "fpn_p2")], image_metas=np.zeros((2, 16)))


def test_ancestor(model):
    layer = model.keras_model.inner_model.get_layer
    roi = model.keras_model.get_layer("ROI").output  # the wrapper's; the search is in the network
    assert roi is not layer("ROI").output
    assert model.ancestor(roi, "rpn_class") is layer("rpn_class").output
    assert model.ancestor(roi, "res4a_out") is layer("res4a_out").output
    nearest = model.ancestor(roi, "res.*_out")
    assert nearest is layer("res5a_out").output
    assert model.ancestor(roi, "mrcnn_class") is None  # that is downstream
    assert model.ancestor(roi, "ROI") is None  # not its own ancestor
    assert model.ancestor(roi, "res4a") is None  # whole names
    looked_at = []
    model.ancestor(roi, "input_image", looked_at)
    assert any(tensor is layer("fpn_p2").output for tensor in looked_at)
    assert model.ancestor(roi, "fpn_p2", looked_at) is None


@pytest.mark.parametrize("name", ["ROI/refined_anchors:0", "ROI/rpn_non_max_suppression", "ROI:0"])
def test_ancestor_of_tensorflow_1(model, name):
    with pytest.raises(ValueError, match=r"TensorFlow 1 graph.*get_layer.*rpn_bbox"):
        model.ancestor(model.keras_model.get_layer("ROI").output, name)


def test_layers_with_weights(model):
    names = [layer.name for layer in model.get_trainable_layers()]
    assert {"conv1", "bn_conv1", "rpn_conv_shared", "mrcnn_mask"} <= set(names)
    assert "ROI" not in names and len(names) == len(set(names))
    wrapper = keras.layers.TimeDistributed(keras.layers.Dense(2, name="inside"))
    assert model.find_trainable_layer(wrapper).name == "inside"
    plain = model.keras_model.get_layer("conv1")
    assert model.find_trainable_layer(plain) is plain


def test_get_anchors_keeps_pixels(model):
    norm = model.get_anchors((128, 128, 3))
    assert norm.shape == model.anchors.shape
    scale = np.array([127.0] * 4)
    np.testing.assert_allclose(norm * scale + [0, 0, 1, 1], model.anchors, atol=1e-4)
    larger = model.get_anchors((128, 192, 3))
    assert model.anchors.shape == larger.shape != norm.shape
    model.get_anchors((128, 128, 3))
    assert model.anchors.shape == norm.shape


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([[1, 5]], np.int32), ["shape:", "(1, 2)", "1.00000", "5.00000", "int32"]),
        (np.array([True, False]), ["(2,)", "0.00000", "1.00000", "bool"]),
        (np.zeros((0, 4), np.float32), ["(0, 4)", "float32"]),
        ([0.25, 0.5], ["0.25000", "0.50000", "float64"]),
    ],
)
def test_log(capsys, array, expected):
    log("what", array)
    line = capsys.readouterr().out
    assert line.startswith("what ") and line.count("\n") == 1
    for part in expected:
        assert part in line
    assert inspection.log is log


def test_log_text_alone(capsys):
    log("just a text")
    assert capsys.readouterr().out == "just a text\n"
