"""MaskRCNN: what a training run writes and reports, going on with it, and Matterport's options.

All models are the goldens' tiny network, for images of 64 pixels where they train.
"""

import re
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

from mrcnn_parallel.config import LOSS_NAMES, Config
from mrcnn_parallel.model import MaskRCNN
from mrcnn_parallel.training import selection
from tests.data.synthetic import SyntheticDataset
from tests.helpers import golden, golden_module, unpack

TinyGolden = golden_module("golden_configs").TinyGolden
DATA = golden("model_tiny")
HEADS = {
    *(f"fpn_c{level}p{level}" for level in (2, 3, 4, 5)),
    *(f"fpn_p{level}" for level in (2, 3, 4, 5)),
    *("rpn_conv_shared", "rpn_class_raw", "rpn_bbox_pred"),
    *("mrcnn_class_conv1", "mrcnn_class_bn1", "mrcnn_class_conv2", "mrcnn_class_bn2"),
    *("mrcnn_class_logits", "mrcnn_bbox_fc"),
    *(f"mrcnn_mask_{kind}{index}" for kind in ("conv", "bn") for index in (1, 2, 3, 4)),
    *("mrcnn_mask_deconv", "mrcnn_mask"),
}


class TinyConfig(TinyGolden):
    """Two steps of 64 pixel images make an epoch."""

    NAME = "Tiny"
    IMAGES_PER_GPU = 1
    STEPS_PER_EPOCH = 2
    VALIDATION_STEPS = 1
    IMAGE_MIN_DIM = 64
    IMAGE_MAX_DIM = 64
    RPN_ANCHOR_SCALES = (8, 16, 32, 48, 64)
    POST_NMS_ROIS_TRAINING = 900  # enough for some to lie on an object by chance
    TRAIN_ROIS_PER_IMAGE = 16
    LOSS_WEIGHTS = dict.fromkeys(LOSS_NAMES, 1.0) | {"rpn_bbox_loss": 0.5, "mrcnn_mask_loss": 3.0}
    LEARNING_RATE = 0.01
    SEED = 5


def weights_by_layer(model):
    return {
        layer.name: [np.array(np.asarray(variable.value)) for variable in layer.weights]
        for layer in model.get_trainable_layers()
    }


def changed(before, after):
    """Names of the layers some weight of which differs."""
    return {
        name
        for name, arrays in before.items()
        if any((a != b).any() for a, b in zip(arrays, after[name], strict=True))
    }


class Epochs(keras.callbacks.Callback):
    """Which epochs began."""

    def __init__(self):
        super().__init__()
        self.numbers = []

    def on_epoch_begin(self, epoch, logs=None):
        self.numbers.append(epoch)


# === Training ===


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One epoch of the heads on one device, with mini masks: what it left behind."""
    folder = tmp_path_factory.mktemp("logs")
    keras.utils.set_random_seed(1)
    config = TinyConfig(IMAGES_PER_GPU=2)
    model = MaskRCNN("training", config, folder)
    before, callback = weights_by_layer(model), Epochs()
    history = model.train(
        SyntheticDataset(6),
        SyntheticDataset(4, seed=1),
        learning_rate=config.LEARNING_RATE,
        epochs=1,
        layers="heads",
        custom_callbacks=[callback],
    )
    after = weights_by_layer(model)
    return {
        "folder": folder,
        "config": config,
        "model": model,
        "history": history.history,
        "epochs": callback.numbers,
        "changed": changed(before, after),
        "after": after,
    }


def test_the_losses_are_reported_and_sum_up(run):
    history, config = run["history"], run["config"]
    for prefix in ("", "val_"):
        parts = {name: history[prefix + name][0] for name in LOSS_NAMES}
        assert all(np.isfinite(value) for value in parts.values())
        assert prefix or all(value > 0 for value in parts.values()), parts
        weighted = sum(config.LOSS_WEIGHTS[name] * value for name, value in parts.items())
        l2_loss = history[prefix + "l2_loss"][0]
        assert l2_loss > 0
        np.testing.assert_allclose(history[prefix + "loss"][0], weighted + l2_loss, rtol=1e-4)
    assert all(len(values) == 1 for values in history.values())
    assert run["epochs"] == [0]


def test_the_checkpoint_has_matterports_name(run):
    files = [path.relative_to(run["folder"]).as_posix() for path in run["folder"].rglob("*.h5")]
    assert len(files) == 1
    assert re.fullmatch(r"tiny\d{8}T\d{4}/mask_rcnn_tiny_0001\.h5", files[0])
    assert run["model"].find_last() == str(run["folder"] / files[0])
    assert run["model"].epoch == 1


def test_tensorboard_gets_the_curves(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for part, prefix in (("train", ""), ("validation", "val_")):
        events = EventAccumulator(str(Path(run["model"].log_dir) / part))
        events.Reload()
        for name in (*LOSS_NAMES, "loss"):
            tensor = events.Tensors(f"epoch_{name}")
            assert len(tensor) == 1
            value = tensor[0].tensor_proto.float_val[0]
            np.testing.assert_allclose(value, run["history"][prefix + name][0], rtol=1e-5)


def test_heads_freezes_what_matterport_froze(run):
    model = run["model"]
    trainable = {layer.name for layer in model.get_trainable_layers() if layer.trainable}
    assert trainable == HEADS
    assert run["changed"] == HEADS


def test_a_training_model_does_not_detect(run):
    with pytest.raises(ValueError, match="built for training; build it with mode='inference'"):
        run["model"].detect([np.zeros((64, 64, 3), np.uint8)])
    with pytest.raises(ValueError, match="mode='inference'"):
        run["model"].run_graph([np.zeros((64, 64, 3), np.uint8)], [("ROI", "ROI")])


@pytest.mark.parametrize(
    ("layers", "frozen"),
    [
        ("heads", {"conv1", "bn_conv1"} | {f"{k}{s}" for k in ("res", "bn") for s in (2, 3, 4, 5)}),
        ("5+", {"conv1", "bn_conv1"} | {f"{k}{s}" for k in ("res", "bn") for s in (2, 3, 4)}),
        ("4+", {"conv1", "bn_conv1"} | {f"{k}{s}" for k in ("res", "bn") for s in (2, 3)}),
        ("3+", {"conv1", "bn_conv1", "res2", "bn2"}),
        ("all", set()),
    ],
)
def test_stages(run, layers, frozen):
    model = run["model"]
    model.set_trainable(selection.LAYERS[layers])
    for layer in model.get_trainable_layers():
        is_frozen = layer.name.startswith(tuple(frozen)) if frozen else False
        assert layer.trainable is not is_frozen, layer.name
    assert len(model.keras_model.trainable_variables) > 0


def test_a_regex_is_of_whole_names(run):
    model = run["model"]
    model.set_trainable("mrcnn_mask|rpn_.*")
    trainable = {layer.name for layer in model.get_trainable_layers() if layer.trainable}
    assert trainable == {"mrcnn_mask", "rpn_conv_shared", "rpn_class_raw", "rpn_bbox_pred"}


@pytest.mark.parametrize("layers", ["head", "mrcnn", "7+"])
def test_layers_that_match_nothing(run, layers):
    with pytest.raises(ValueError, match=r"layers='.*' matches no layer .*heads, 3\+, 4\+, 5\+"):
        run["model"].train(SyntheticDataset(2), None, 0.01, epochs=2, layers=layers)


def test_a_dataset_of_other_classes_is_refused_before_training(run):
    other = SyntheticDataset(2)
    other.add_class("synthetic", 9, "ninth")
    other.prepare()
    with pytest.raises(ValueError, match=r"val_dataset .* has 5 classes .*NUM_CLASSES is 4"):
        run["model"].train(SyntheticDataset(2), other, 0.01, epochs=2, layers="all")


@pytest.mark.slow
def test_going_on_from_a_checkpoint_without_mini_masks(run):
    """As another process would: on two devices, whole masks, all layers, from epoch 1 to 3."""
    config = TinyConfig(USE_MINI_MASK=False, GPU_COUNT=2)
    model = MaskRCNN("training", config, run["folder"])
    assert model.epoch == 0
    assert model.keras_model.get_layer("input_gt_masks").output.shape == (None, 64, 64, 10)
    model.load_weights(model.find_last(), by_name=True)
    assert model.epoch == 1 and model.log_dir == run["model"].log_dir
    before = weights_by_layer(model)
    assert not changed(before, run["after"])
    callback = Epochs()
    history = model.train(
        SyntheticDataset(4),
        None,
        learning_rate=0.01,
        epochs=3,
        layers="all",
        custom_callbacks=[callback],
    )
    assert callback.numbers == [1, 2]
    assert set(history.history) == {*LOSS_NAMES, "l2_loss", "loss"}
    assert all(np.isfinite(values).all() for values in history.history.values())
    names = sorted(path.name for path in Path(model.log_dir).glob("*.h5"))
    assert names == [f"mask_rcnn_tiny_{epoch:04d}.h5" for epoch in (1, 2, 3)]
    assert model.find_last().endswith("mask_rcnn_tiny_0003.h5")
    assert model.epoch == 3
    assert {"conv1", "res2a_branch2a", "mrcnn_mask", "bn5a_branch2c"} <= changed(
        before, weights_by_layer(model)
    )
    model.set_log_dir()
    assert model.epoch == 0


@pytest.mark.slow
def test_random_rois_targets_from_the_host_and_one_channel(tmp_path):
    """USE_RPN_ROIS=False, RPN_TARGETS="input" and IMAGE_CHANNEL_COUNT=1, all in one step."""
    config = TinyConfig(
        USE_RPN_ROIS=False,
        RPN_TARGETS="input",
        IMAGE_CHANNEL_COUNT=1,
        MEAN_PIXEL=np.array([100.0]),
        STEPS_PER_EPOCH=1,
        IMAGES_PER_GPU=2,
    )
    model = MaskRCNN("training", config, tmp_path)
    names = [tensor.name for tensor in model.keras_model.inputs]
    assert names == [
        *("input_image", "input_image_meta", "input_rpn_match", "input_rpn_bbox"),
        *("input_gt_class_ids", "input_gt_boxes", "input_gt_masks", "input_roi"),
    ]
    assert model.keras_model.get_layer("conv1").kernel.shape == (7, 7, 1, 8)
    before = weights_by_layer(model)
    history = model.train(SyntheticDataset(2, channels=1), None, 0.01, epochs=1, layers="all")
    losses = {name: history.history[name][0] for name in LOSS_NAMES}
    assert all(np.isfinite(value) for value in losses.values())
    # Random ROIs lie around the objects, so an untrained network, too, has positive ones.
    assert all(value > 0 for value in losses.values()), losses
    assert {"conv1", "rpn_conv_shared", "mrcnn_mask", "mrcnn_bbox_fc"} <= changed(
        before, weights_by_layer(model)
    )


@pytest.mark.parametrize("name", ["by_hand.h5", "by_hand.weights.h5"])
def test_the_keras_model_saves_itself_as_scripts_do(run, name, tmp_path):
    model = run["model"].keras_model
    path = tmp_path / name
    model.save_weights(str(path))
    bias = model.get_layer("mrcnn_bbox_fc").bias
    before = np.array(np.asarray(bias.value))
    bias.assign(before + 1)
    model.load_weights(str(path))
    np.testing.assert_array_equal(np.array(np.asarray(bias.value)), before)
    with h5py.File(path) as file:
        assert ("mrcnn_bbox_fc" in file) == (name == "by_hand.h5")


# === Detection ===


def assert_golden(result, index):
    np.testing.assert_array_equal(result["rois"], DATA[f"detect{index}_rois"])
    np.testing.assert_array_equal(result["class_ids"], DATA[f"detect{index}_class_ids"])
    np.testing.assert_allclose(result["scores"], DATA[f"detect{index}_scores"], atol=1e-4)
    expected = unpack(DATA, f"detect{index}_masks", DATA[f"detect{index}_masks_shape"])
    assert (result["masks"] ^ expected).mean() < 1e-3


def seeded(config, folder):
    model = MaskRCNN("inference", config, folder)
    network = getattr(model.keras_model, "inner_model", model.keras_model)
    golden_module("seeded_weights").fill_model(network, "tiny")
    return model


@pytest.mark.parametrize(
    ("mode", "gpu_count"),
    [("square", 1), ("crop", 2), ("pad64", 1), pytest.param("none", 2, marks=pytest.mark.slow)],
)
def test_resize_modes(mode, gpu_count, tmp_path):
    """An image of 128 x 128 is what every mode makes of it, so each finds what the golden did; and
    where sizes stay apart, images of different sizes can still be given in one call."""
    config = TinyGolden(IMAGE_RESIZE_MODE=mode, GPU_COUNT=gpu_count, IMAGES_PER_GPU=2)
    model = seeded(config, tmp_path)
    square, wide = DATA["inf_image0"], np.concatenate([DATA["inf_image0"]] * 2, axis=1)
    images = [square] if mode == "crop" else [wide, square]
    results = model.detect(images)
    assert_golden(results[-1], 0)
    for image, result in zip(images, results, strict=True):
        assert result["masks"].shape == (*image.shape[:2], len(result["rois"]))
        assert len(result["rois"]) == len(result["scores"]) == len(result["class_ids"]) > 0
        inside = result["rois"] <= np.tile(image.shape[:2], 2)
        assert inside.all() and (result["rois"] >= 0).all()
    if mode in ("pad64", "none"):
        molded, _, windows = model.mold_inputs(images)
        assert [image.shape for image in molded] == [(128, 256, 3), (128, 128, 3)]
        assert windows.tolist() == [[0, 0, 128, 256], [0, 0, 128, 128]]
        assert (results[0]["rois"][:, 3] > 128).any()


def test_none_names_the_image_it_cannot_take(tmp_path):
    model = seeded(TinyGolden(IMAGE_RESIZE_MODE="none"), tmp_path)
    images = [np.zeros((128, 128, 3), np.uint8), np.zeros((100, 128, 3), np.uint8)]
    with pytest.raises(ValueError, match=r"images\[1\] is 100 x 128 .*divisible by 32.*pad64"):
        model.detect(images)


def test_four_channels(tmp_path):
    """The mean of each channel is subtracted, and conv1 has them all."""
    mean = np.array([10.0, 20.0, 30.0, 40.0])
    config = TinyConfig(IMAGE_CHANNEL_COUNT=4, MEAN_PIXEL=mean, DETECTION_MIN_CONFIDENCE=0.0)
    model = MaskRCNN("inference", config, tmp_path)
    assert model.keras_model.get_layer("conv1").kernel.shape == (7, 7, 4, 8)
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 4), dtype=np.uint8)
    molded, _, _ = model.mold_inputs([image])
    np.testing.assert_allclose(molded[0], image - mean, atol=1e-3)
    (result,) = model.detect([image])
    assert result["masks"].shape == (64, 64, len(result["rois"]))
    with pytest.raises(ValueError, match=r"images\[0\].*4"):
        model.detect([image[..., :2]])


def test_an_inference_model_does_not_train(tmp_path):
    model = MaskRCNN("inference", TinyConfig(), tmp_path)
    with pytest.raises(ValueError, match="built for inference; build it with mode='training'"):
        model.train(SyntheticDataset(2), None, 0.01, epochs=1, layers="all")
    assert model.detect([]) == []


# === Configs that cannot be built ===


def test_unknown_mode(tmp_path):
    with pytest.raises(ValueError, match="mode is 'predict'"):
        MaskRCNN("predict", TinyConfig(), tmp_path)


def test_more_replicas_than_devices(tmp_path):
    with pytest.raises(ValueError, match=r"(?s)gpu_count=8 .*Try reducing gpu_count"):
        MaskRCNN("inference", TinyConfig(GPU_COUNT=8), tmp_path)


def test_the_plain_config_is_refused(tmp_path):
    with pytest.raises(ValueError, match="NUM_CLASSES is 1"):
        MaskRCNN("training", Config(), tmp_path)
