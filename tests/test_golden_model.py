"""The tiny network of the goldens: every number a Matterport fork computed, computed here."""

import keras
import numpy as np
import pytest

from mrcnn_parallel.config import LOSS_NAMES
from mrcnn_parallel.layers import losses
from mrcnn_parallel.model import MaskRCNN
from mrcnn_parallel.nets import mask_rcnn
from mrcnn_parallel.parallel_model import ParallelModel
from mrcnn_parallel.training.step import l2_loss
from tests.helpers import compiled, golden, golden_module, gradients, unpack

TOLERANCE = 1e-4
DATA = golden("model_tiny")


def tiny_config(**overrides):
    config = golden_module("golden_configs").TinyGolden()
    config.RANDOM_SAMPLING = False
    for name, value in overrides.items():
        setattr(config, name, value)
    return config


def fill(model):
    return golden_module("seeded_weights").fill_model(model, "tiny")


@pytest.fixture(scope="module")
def inference(tmp_path_factory):
    model = MaskRCNN("inference", tiny_config(), tmp_path_factory.mktemp("logs"))
    fill(model.keras_model)
    return model


@pytest.fixture(scope="module")
def training_model():
    model = mask_rcnn.build_training_model(tiny_config(RPN_TARGETS="input"))
    fill(model)
    return model


def training_inputs(rows=slice(None)):
    names = (
        "image",
        "image_meta",
        "rpn_match",
        "rpn_bbox",
        "gt_class_ids",
        "gt_boxes",
        "gt_masks",
    )
    return [DATA[f"train_in_{name}"][rows] for name in names]


def run_training(model, inputs):
    outputs = compiled(lambda *x: model(list(x), training=True), *inputs)
    return dict(zip(model.output_names, outputs, strict=True))


def test_inference_outputs(inference):
    count = len(DATA["anchors_norm"])
    anchors = np.broadcast_to(DATA["anchors_norm"], (2, count, 4))
    model = inference.keras_model
    outputs = compiled(
        lambda *x: model(list(x)), DATA["inf_molded"], DATA["inf_meta"].astype("float32"), anchors
    )
    names = (
        "detections",
        "mrcnn_class",
        "mrcnn_bbox",
        "mrcnn_mask",
        "rpn_rois",
        "rpn_class",
        "rpn_bbox",
    )
    for name, output in zip(names, outputs, strict=True):
        np.testing.assert_allclose(output, DATA[f"inf_{name}"], atol=TOLERANCE, err_msg=name)


def test_pyramid(inference):
    model = inference.keras_model
    levels = [f"fpn_p{i}" for i in (2, 3, 4, 5, 6)]
    probe = keras.Model(model.inputs[0], [model.get_layer(name).output for name in levels])
    for name, output in zip(levels, compiled(probe, DATA["inf_molded"]), strict=True):
        np.testing.assert_allclose(output, DATA[f"inf_{name}"], atol=TOLERANCE, err_msg=name)


def test_anchors(inference):
    np.testing.assert_array_equal(inference.get_anchors((128, 128, 3)), DATA["anchors_norm"])


def test_detect_on_images_of_two_sizes(inference):
    results = inference.detect([DATA["inf_image0"], DATA["inf_image1"]])
    for index, result in enumerate(results):
        np.testing.assert_array_equal(result["rois"], DATA[f"detect{index}_rois"])
        np.testing.assert_array_equal(result["class_ids"], DATA[f"detect{index}_class_ids"])
        np.testing.assert_allclose(result["scores"], DATA[f"detect{index}_scores"], atol=TOLERANCE)
        expected = unpack(DATA, f"detect{index}_masks", DATA[f"detect{index}_masks_shape"])
        for k in range(expected.shape[-1]):
            ours, theirs = result["masks"][..., k], expected[..., k]
            iou = (ours & theirs).sum() / max((ours | theirs).sum(), 1)
            assert iou >= 0.999, (index, k, iou)


def test_detect_molded_finds_the_same(inference):
    molded, metas, _ = inference.mold_inputs([DATA["inf_image0"], DATA["inf_image1"]])
    for index, result in enumerate(inference.detect_molded(molded, metas)):
        np.testing.assert_array_equal(result["class_ids"], DATA[f"detect{index}_class_ids"])
        np.testing.assert_allclose(result["scores"], DATA[f"detect{index}_scores"], atol=TOLERANCE)


@pytest.mark.parametrize("count", [1, 3, 5])
def test_detect_takes_any_number_of_images(inference, count):
    images = [DATA["inf_image0"], DATA["inf_image1"]] * 3
    results = inference.detect(images[:count])
    assert len(results) == count
    for index, result in enumerate(results):
        np.testing.assert_array_equal(result["rois"], DATA[f"detect{index % 2}_rois"])


def test_training_outputs_and_losses(training_model):
    outputs = run_training(training_model, training_inputs())
    for name in LOSS_NAMES:
        assert outputs[name].shape == ()
        np.testing.assert_allclose(outputs[name], DATA[f"trainsg_{name}"], atol=TOLERANCE)
    for name in ("rpn_class_logits", "rpn_class", "rpn_bbox", "mrcnn_class", "mrcnn_bbox"):
        np.testing.assert_allclose(outputs[name], DATA[f"train_{name}"], atol=TOLERANCE)
    np.testing.assert_allclose(outputs["output_rois"], DATA["train_output_rois"], atol=TOLERANCE)
    np.testing.assert_allclose(outputs["ROI"], DATA["train_rpn_rois"], atol=TOLERANCE)
    masks = outputs["mrcnn_mask"]  # of the positive third only
    np.testing.assert_allclose(masks, DATA["train_mrcnn_mask"][:, : masks.shape[1]], atol=TOLERANCE)


def test_l2_loss(training_model):
    value = l2_loss(training_model.trainable_variables, 0.0001)
    np.testing.assert_allclose(np.asarray(value), DATA["trainsg_reg_loss"], rtol=1e-4)


def test_gradients(training_model, monkeypatch):
    # The fork samples one mask's last row, at exactly the image's edge, as 0 where ours has the
    # mask's value (see EDGE_TOLERANCE): 8 pixels of the targets, up to 1 % of some gradients. So
    # that all else can be compared closely, the mask loss gets the fork's own targets here.
    shape = (*DATA["train_output_rois"].shape[:2], *tiny_config().MASK_SHAPE)
    target = unpack(DATA, "train_target_mask", shape).astype(np.float32)

    def mask_loss(_, class_ids, pred_masks):
        return losses.mrcnn_mask_loss(target[:, : pred_masks.shape[1]], class_ids, pred_masks)

    monkeypatch.setitem(losses.LOSSES, "mrcnn_mask_loss", mask_loss)
    inputs = training_inputs()

    def total(call):
        losses = call(inputs)[-5:]
        return sum(losses) + l2_loss(training_model.trainable_variables, 0.0001)

    ours = {}
    for path, value in gradients(total, training_model).items():
        ours["/".join(path.split("/")[-2:])] = value
    keys = list(DATA["trainsg_grad_keys"])
    assert set(ours) == set(keys)
    scale = DATA["trainsg_grad_norm"].max()
    for key, norm, total in zip(
        keys, DATA["trainsg_grad_norm"], DATA["trainsg_grad_sum"], strict=True
    ):
        np.testing.assert_allclose(
            np.linalg.norm(ours[key]), norm, rtol=1e-3, atol=1e-8 * scale, err_msg=key
        )
        size = np.sqrt(ours[key].size)
        np.testing.assert_allclose(
            ours[key].sum(), total, atol=1e-3 * norm * size + 1e-8 * scale, err_msg=key
        )
    for name in DATA.files:
        if name.startswith("trainsg_grad:"):
            key = name.removeprefix("trainsg_grad:")
            limit = 1e-3 * np.abs(DATA[name]).max() + 1e-6
            np.testing.assert_allclose(ours[key], DATA[name], atol=limit, err_msg=key)


def test_two_replicas_return_the_mean_of_the_towers():
    model = ParallelModel(mask_rcnn.build_training_model(tiny_config(RPN_TARGETS="input")), 2)
    fill(model)
    outputs = run_training(model, training_inputs())
    for name in LOSS_NAMES:
        mean = (DATA[f"tower0_{name}"] + DATA[f"tower1_{name}"]) / 2
        np.testing.assert_allclose(outputs[name], mean, atol=TOLERANCE, err_msg=name)


@pytest.mark.parametrize("row", [0, 1])
def test_each_tower_alone(training_model, row):
    outputs = run_training(training_model, training_inputs(slice(row, row + 1)))
    for name in LOSS_NAMES:
        np.testing.assert_allclose(outputs[name], DATA[f"tower{row}_{name}"], atol=TOLERANCE)


def test_boxes_and_losses_are_float32_under_bfloat16():
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = mask_rcnn.build_training_model(tiny_config(RPN_TARGETS="input"))
    fill(model)
    assert model.get_layer("res2a_branch2a").compute_dtype == "bfloat16"
    assert model.get_layer("fpn_p2").output.dtype == "bfloat16"
    outputs = run_training(model, training_inputs())
    for name, output in outputs.items():
        expected = "bfloat16" if name == "mrcnn_class_logits" else "float32"  # a dense layer's own
        assert output.dtype == expected, name
    rois = outputs["ROI"]  # coordinates that bfloat16, with its 8 bits, could not hold
    assert (rois.view(np.uint32) & 0xFFFF != 0).mean() > 0.5
    for name in ("rpn_class_loss", "rpn_bbox_loss"):  # of the same anchors, up to rounding
        np.testing.assert_allclose(outputs[name], DATA[f"trainsg_{name}"], rtol=0.05)
