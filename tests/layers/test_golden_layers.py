"""Layers and graph functions against a Matterport fork's numbers (golden_layers.npz)."""

from types import SimpleNamespace

import numpy as np
import pytest

from mrcnn_parallel import graph_functions as graph
from mrcnn_parallel.config import Config
from mrcnn_parallel.layers.detection_targets import detection_targets
from mrcnn_parallel.layers.detections import DetectionLayer
from mrcnn_parallel.layers.proposals import ProposalLayer
from mrcnn_parallel.ops.boxes import deltas_between
from mrcnn_parallel.ops.roi_align import pyramid_roi_align, roi_levels
from tests.helpers import compiled, golden, golden_module, unpack

DATA = golden("layers")
TOLERANCE = 1e-4


def close(actual, key, tolerance=TOLERANCE):
    np.testing.assert_allclose(np.asarray(actual), DATA[key], atol=tolerance, rtol=1e-5)


def test_roi_align():
    maps = [DATA[f"roialign_fm{level}"] for level in (2, 3, 4, 5)]
    shape = tuple(float(side) for side in DATA["roialign_meta"][0, 4:6])
    boxes = DATA["roialign_boxes"]
    levels = compiled(lambda b: roi_levels(b, shape), boxes)
    np.testing.assert_array_equal(levels + 2, DATA["roialign_levels_np"])
    out7 = compiled(lambda b, m: pyramid_roi_align(m, b, (7, 7), shape), boxes, maps)
    close_but_for_edges(out7, "roialign_out7")
    out14 = compiled(lambda b, m: pyramid_roi_align(m, b, (14, 14), shape), boxes[:, ::4], maps)
    close_but_for_edges(out14, "roialign_out14")


def close_but_for_edges(actual, key):
    """Where a box ends at exactly 1.0, the fork may give 0 on that edge (see EDGE_TOLERANCE)."""
    expected = DATA[key]
    boxes = DATA["roialign_boxes"][:, :: 40 // expected.shape[1]]
    lost = (expected == 0).all(axis=-1) & (actual != 0).any(axis=-1)  # (B, R, h, w)
    assert lost.mean() < 0.01
    assert not lost[:, :, :-1, :-1].any()
    assert not lost[:, :, -1, :-1][boxes[..., 2] != 1].any()
    assert not lost[:, :, :-1, -1][boxes[..., 3] != 1].any()
    np.testing.assert_allclose(actual[~lost], expected[~lost], atol=TOLERANCE, rtol=1e-5)


@pytest.mark.parametrize("case", "abc")
def test_proposals(case):
    count, limit, threshold = DATA[f"prop_args_{case}"]
    layer = ProposalLayer(int(count), float(threshold), Config(PRE_NMS_LIMIT=int(limit)))
    inputs = [DATA["prop_probs"], DATA["prop_deltas"], DATA["prop_anchors"]]
    close(compiled(lambda *x: layer(list(x)), *inputs), f"prop_out_{case}")


@pytest.mark.parametrize("case", "abcd")
def test_detections(case):
    confidence, threshold, count = DATA[f"det_args_{case}"]
    config = Config(
        DETECTION_MIN_CONFIDENCE=float(confidence),
        DETECTION_NMS_THRESHOLD=float(threshold),
        DETECTION_MAX_INSTANCES=int(count),
    )
    layer = DetectionLayer(config)
    inputs = [DATA[f"det_{name}"] for name in ("rois", "probs", "deltas", "meta")]
    close(compiled(lambda *x: layer(list(x)), *inputs), f"det_out_{case}")


def targets(mini, rois=32):
    config = SimpleNamespace(
        TRAIN_ROIS_PER_IMAGE=rois,
        ROI_POSITIVE_RATIO=0.33,
        BBOX_STD_DEV=[0.1, 0.1, 0.2, 0.2],
        USE_MINI_MASK=mini,
        MASK_SHAPE=[28, 28],
    )
    side = 28 if mini else 64
    masks = unpack(DATA, "dt_mini" if mini else "dt_full", (2, side, side, 6))
    inputs = [DATA["dt_proposals"], DATA["dt_gt_class_ids"], DATA["dt_gt_boxes"], masks]
    return inputs, config


@pytest.mark.parametrize("case", ["mini", "full", "big"])
def test_detection_targets(case):
    inputs, config = targets(case != "full", 200 if case == "big" else 32)
    rois, class_ids, deltas, masks = compiled(lambda *x: detection_targets(*x, config), *inputs)
    close(rois, f"dt_{case}_rois")
    np.testing.assert_array_equal(class_ids, DATA[f"dt_{case}_class_ids"])
    close(deltas, f"dt_{case}_deltas")
    expected = unpack(DATA, f"dt_{case}_masks", (2, rois.shape[1], 28, 28))
    assert not expected[:, masks.shape[1] :].any()
    different = masks.astype(bool) != expected[:, : masks.shape[1]]
    # Only where a sample lies on an edge of the mask to within rounding: there the fork has 0.
    assert different.sum() <= 2 * 28
    assert not different[..., 1:-1, 1:-1].any()


def test_detection_targets_without_positives():
    inputs, config = targets(mini=True)
    inputs[0] = np.tile(np.float32([[[0.9, 0.9, 0.95, 0.95]]]), (2, 60, 1))
    rois, class_ids, deltas, masks = compiled(lambda *x: detection_targets(*x, config), *inputs)
    np.testing.assert_array_equal((rois != 0).any(-1).sum(-1), DATA["dt_nopos_rois_nonzero"])
    assert not class_ids.any() and not deltas.any() and not masks.any()


def loss_inputs():
    return {name.removeprefix("loss_in_"): DATA[name] for name in DATA.files if "loss_in_" in name}


def test_rpn_losses():
    x = loss_inputs()
    match, logits = x["rpn_match"], x["rpn_logits"]
    close(graph.rpn_class_loss_graph(match, logits), "loss_rpn_class")
    close(graph.rpn_class_loss_graph(np.zeros_like(match), logits), "loss_rpn_class_allneutral")
    bbox = graph.rpn_bbox_loss_graph(None, x["target_rpn_bbox"], match, x["rpn_bbox"])
    close(bbox, "loss_rpn_bbox")
    none = np.where(match == 1, 0, match)
    bbox = graph.rpn_bbox_loss_graph(None, x["target_rpn_bbox"], none, x["rpn_bbox"])
    close(bbox, "loss_rpn_bbox_nopos")


def test_class_loss():
    x = loss_inputs()
    ids, logits = x["target_class_ids"], x["pred_class_logits"]

    def loss(active):
        return float(graph.mrcnn_class_loss_graph(ids, logits, np.float32([active, active])))

    close(loss([1, 1, 1, 1]), "loss_mrcnn_class")
    close(loss([1, 1, 0, 1]), "loss_mrcnn_class_active")
    assert np.isnan(DATA["loss_mrcnn_class_noactive"])  # the fork divides 0 by 0
    assert loss([0, 0, 0, 0]) == 0.0


def test_box_and_mask_losses():
    x = loss_inputs()
    ids, none = x["target_class_ids"], np.zeros_like(x["target_class_ids"])
    close(graph.mrcnn_bbox_loss_graph(x["target_bbox"], ids, x["pred_bbox"]), "loss_mrcnn_bbox")
    close(
        graph.mrcnn_bbox_loss_graph(x["target_bbox"], none, x["pred_bbox"]),
        "loss_mrcnn_bbox_nopos",
    )
    target = unpack(DATA, "loss_in_target_masks", (2, 30, 28, 28)).astype("float32")
    pred = golden_module("golden_inputs").q("pm", (2, 30, 28, 28, 4), 0.001, 0.999)
    close(graph.mrcnn_mask_loss_graph(target, ids, pred), "loss_mrcnn_mask")
    close(graph.mrcnn_mask_loss_graph(target, none, pred), "loss_mrcnn_mask_nopos")


def test_smooth_l1():
    y_true, y_pred = DATA["smoothl1_in"]
    close(graph.smooth_l1_loss(y_true, y_pred), "loss_smooth_l1")


def test_box_functions():
    boxes, others = DATA["gf_b1"], DATA["gf_b2"]
    close(graph.apply_box_deltas_graph(boxes, DATA["gf_deltas"]), "gf_apply_box_deltas")
    close(graph.overlaps_graph(boxes, others), "gf_overlaps")
    window = np.float32([0.1, 0.05, 0.9, 0.8])
    close(graph.clip_boxes_graph(boxes * 1.4 - 0.2, window), "gf_clip")
    close(deltas_between(boxes[:9], others), "gf_box_refinement")
    close(graph.norm_boxes_graph(boxes * 500, (640, 480)), "gf_norm")
    denormalized = graph.denorm_boxes_graph(boxes, (640, 480))
    np.testing.assert_array_equal(np.asarray(denormalized), DATA["gf_denorm"])
