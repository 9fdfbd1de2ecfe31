"""Keras Applications' ResNets under Matterport's names compute what they computed there."""

import keras
import numpy as np
import pytest
from keras import layers as KL

from mrcnn_parallel.nets.resnet import resnet_graph
from mrcnn_parallel.weights import WeightsError, get_imagenet_weights, imagenet, load_weights
from tests.weights.models import randomize, snapshot


def random_keras_resnet(name="ResNet50"):
    """A ResNet whose activations stay near 1, with variances down to a third of our epsilon."""
    application = getattr(keras.applications, name)
    model = application(weights=None, include_top=False, input_shape=(64, 64, 3))
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, KL.BatchNormalization):
            size = layer.gamma.shape
            small = 3e-4 if layer.name == "conv2_block1_1_bn" else 0.5
            gamma = rng.uniform(0.5, 1.5, size) * (0.02 if small < 0.1 else 1)
            gamma *= 0.3 if layer.name.endswith(("0_bn", "3_bn")) else 1
            beta, mean = rng.normal(0, 0.1, (2, *size))
            layer.set_weights([gamma, beta, mean, rng.uniform(1, 3, size) * small])
    return model


def backbone(architecture="resnet50", size=64):
    image = keras.Input((size, size, 3), name="input_image")
    stages = resnet_graph(image, architecture, stage5=True, train_bn=False)
    return keras.Model(image, stages[-1])


@pytest.fixture(scope="module")
def theirs():
    return random_keras_resnet()


@pytest.fixture(scope="module")
def converted(theirs, tmp_path_factory):
    path = tmp_path_factory.mktemp("imagenet") / "resnet50.h5"
    imagenet.convert_keras_resnet(theirs, path)
    return path


@pytest.mark.slow
def test_c5_equals_keras_applications(theirs, converted):
    assert_same_c5(theirs, converted, "resnet50", 106)


@pytest.mark.slow
def test_c5_of_resnet101_equals_keras_applications(tmp_path):
    theirs = random_keras_resnet("ResNet101")
    imagenet.convert_keras_resnet(theirs, tmp_path / "resnet101.h5")
    assert_same_c5(theirs, tmp_path / "resnet101.h5", "resnet101", 208)


def assert_same_c5(theirs, converted, architecture, layers):
    """On RGB where theirs takes BGR. Their first pooling pads a row above, ours and Caffe's one
    below: that one layer is exchanged here."""

    def pad_below(layer):
        if layer.name == "pool1_pad":
            return KL.ZeroPadding2D(((0, 1), (0, 1)), name="pool1_pad")
        return layer.__class__.from_config(layer.get_config())

    reference = keras.models.clone_model(theirs, clone_function=pad_below)
    reference.set_weights(theirs.get_weights())
    model = backbone(architecture)
    report = load_weights(model, converted)
    assert report.complete and not report.unused and len(report.loaded) == layers
    image = np.random.default_rng(1).normal(0, 1, (2, 64, 64, 3)).astype("float32")
    ours = keras.ops.convert_to_numpy(model(image, training=False))
    wanted = keras.ops.convert_to_numpy(reference(image[..., ::-1], training=False))
    scale = np.abs(wanted).max()
    assert 1e-3 < scale < 1e6
    np.testing.assert_allclose(ours / scale, wanted / scale, atol=2e-5)


def test_asks_for_the_backbone_alone(converted):
    """`model.load_weights(model.get_imagenet_weights(), by_name=True)`, as scripts have it, needs
    no strict=False, and yet a layer of the backbone must not be missing."""
    inner = backbone()
    outputs = KL.Conv2D(2, 1, name="fpn_c5p5")(inner.output)
    model = randomize(keras.Model(inner.input, outputs), 1)
    before = snapshot(model)
    report = load_weights(model, converted, by_name=True)
    assert report.complete and report.not_asked == ["fpn_c5p5"]
    after = snapshot(model)
    np.testing.assert_array_equal(after["fpn_c5p5/kernel"], before["fpn_c5p5/kernel"])
    assert not np.array_equal(after["conv1/kernel"], before["conv1/kernel"])
    deeper = backbone("resnet101")
    with pytest.raises(WeightsError, match=r"another BACKBONE(.|\n)*res4g_branch2a"):
        load_weights(deeper, converted, by_name=True)


def test_every_layer_has_its_name(theirs):
    names = [imagenet.matterport_name(layer.name) for layer in theirs.layers if layer.weights]
    assert sorted(names) == sorted(layer.name for layer in backbone().layers if layer.weights)
    assert imagenet.matterport_name("conv4_block23_0_conv") == "res4w_branch1"
    with pytest.raises(ValueError, match="conv4_preact_bn"):
        imagenet.matterport_name("conv4_preact_bn")


def test_downloads_and_converts_once(theirs, tmp_path, monkeypatch):
    calls = []

    def download(weights, include_top):
        calls.append((weights, include_top))
        return theirs

    monkeypatch.setattr(keras.applications, "ResNet50", download)
    path = get_imagenet_weights("resnet50", cache_dir=tmp_path)
    assert get_imagenet_weights("resnet50", cache_dir=tmp_path) == path
    assert calls == [("imagenet", False)]
    model = randomize(backbone(), 1)
    assert load_weights(model, path, by_name=True).complete
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
    assert get_imagenet_weights("resnet50").startswith(str(tmp_path / "home" / "models"))


@pytest.mark.parametrize("architecture", ["resnet18", "vgg16", len])
def test_no_weights_for_others(architecture):
    with pytest.raises(ValueError, match="BACKBONE resnet50 and resnet101 only"):
        get_imagenet_weights(architecture)
