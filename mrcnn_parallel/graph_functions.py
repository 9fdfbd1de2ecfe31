"""Matterport's functions on tensors, under their old names; thin over ops/ and layers/.

The layers inside the package are batched; these take what Matterport's took, often one image.
"""

import numpy as np
from keras import ops

from mrcnn_parallel.layers import detection_targets as _detection_targets
from mrcnn_parallel.layers import detections as _detections
from mrcnn_parallel.layers import losses as _losses
from mrcnn_parallel.layers.losses import smooth_l1_loss
from mrcnn_parallel.ops import boxes as _boxes

__all__ = [
    "apply_box_deltas_graph",
    "batch_pack_graph",
    "clip_boxes_graph",
    "denorm_boxes_graph",
    "detection_targets_graph",
    "log2_graph",
    "mrcnn_bbox_loss_graph",
    "mrcnn_class_loss_graph",
    "mrcnn_mask_loss_graph",
    "norm_boxes_graph",
    "overlaps_graph",
    "parse_image_meta_graph",
    "refine_detections_graph",
    "rpn_bbox_loss_graph",
    "rpn_class_loss_graph",
    "smooth_l1_loss",
    "trim_zeros_graph",
]


def apply_box_deltas_graph(boxes, deltas):
    """Moves and scales boxes (N, 4) by deltas (N, 4)."""
    return _boxes.apply_deltas(boxes, deltas)


def clip_boxes_graph(boxes, window):
    """Clips boxes (N, 4) to the window (4,)."""
    return _boxes.clip(boxes, window)


def overlaps_graph(boxes1, boxes2):
    """IoU of all pairs, (N, 4) and (M, 4) -> (N, M)."""
    return _boxes.pairwise_iou(boxes1, boxes2)


def norm_boxes_graph(boxes, shape):
    """Boxes in pixels to normalised ones; shape (height, width)."""
    return _boxes.normalize(boxes, shape)


def denorm_boxes_graph(boxes, shape):
    """Normalised boxes to int32 pixels; shape (height, width)."""
    return _boxes.denormalize(boxes, shape)


def log2_graph(x):
    """Logarithm to the base 2."""
    return ops.log(x) / np.log(2.0).astype("float32")


def detection_targets_graph(proposals, gt_class_ids, gt_boxes, gt_masks, config):
    """Samples one image's ROIs and their targets; see layers.detection_targets.

    Args:
        proposals: (P, 4) normalised. gt_class_ids: (G,) int. gt_boxes: (G, 4) normalised.
        gt_masks: (h, w, G). config: a Config.

    Returns:
        rois (T, 4), class_ids (T,), deltas (T, 4), masks (T, mask height, mask width).
    """
    seed = None
    if config.RANDOM_SAMPLING:
        import keras

        seed = keras.random.SeedGenerator(config.SEED)
    batched = [
        ops.convert_to_tensor(x)[None] for x in (proposals, gt_class_ids, gt_boxes, gt_masks)
    ]
    rois, class_ids, deltas, masks = _detection_targets.detection_targets(*batched, config, seed)
    missing = rois.shape[1] - masks.shape[1]
    masks = ops.pad(masks, [[0, 0], [0, missing], [0, 0], [0, 0]])
    return rois[0], class_ids[0], deltas[0], masks[0]


def refine_detections_graph(rois, probs, deltas, window, config):
    """One image's final detections; see layers.detections.

    Args:
        rois: (R, 4) normalised. probs: (R, C). deltas: (R, C, 4). window: (4,) normalised.

    Returns:
        (DETECTION_MAX_INSTANCES, 6), zero-padded.
    """
    batched = [ops.convert_to_tensor(x)[None] for x in (rois, probs, deltas, window)]
    return _detections.refine_detections(*batched, config)[0]


def rpn_class_loss_graph(rpn_match, rpn_class_logits):
    """RPN classification loss; see layers.losses.rpn_class_loss."""
    return _losses.rpn_class_loss(rpn_match, rpn_class_logits)


def rpn_bbox_loss_graph(config, target_bbox, rpn_match, rpn_bbox):
    """RPN box loss; see layers.losses.rpn_bbox_loss. `config` is not needed any more."""
    return _losses.rpn_bbox_loss(target_bbox, rpn_match, rpn_bbox)


def mrcnn_class_loss_graph(target_class_ids, pred_class_logits, active_class_ids):
    """Class loss of the box head; see layers.losses.mrcnn_class_loss."""
    return _losses.mrcnn_class_loss(target_class_ids, pred_class_logits, active_class_ids)


def mrcnn_bbox_loss_graph(target_bbox, target_class_ids, pred_bbox):
    """Box loss of the box head; see layers.losses.mrcnn_bbox_loss."""
    return _losses.mrcnn_bbox_loss(target_bbox, target_class_ids, pred_bbox)


def mrcnn_mask_loss_graph(target_masks, target_class_ids, pred_masks):
    """Mask loss; see layers.losses.mrcnn_mask_loss."""
    return _losses.mrcnn_mask_loss(target_masks, target_class_ids, pred_masks)


def parse_image_meta_graph(meta):
    """Splits image_meta (B, META) into its parts, a dict of tensors."""
    return {
        "image_id": meta[:, 0],
        "original_image_shape": meta[:, 1:4],
        "image_shape": meta[:, 4:7],
        "window": meta[:, 7:11],
        "scale": meta[:, 11],
        "active_class_ids": meta[:, 12:],
    }


def trim_zeros_graph(boxes, name="trim_zeros"):
    """Rows that are not all zeros. Its result's shape depends on the data, so it works eagerly and
    not inside a compiled function; the package itself keeps the zeros and masks them.

    Returns:
        boxes (M, 4), and the (N,) bool mask of the rows kept.
    """
    keep = ops.any(ops.convert_to_tensor(boxes) != 0, axis=1)
    return ops.take(boxes, ops.where(keep)[0], axis=0), keep


def batch_pack_graph(x, counts, num_rows):
    """The first counts[i] rows of each x[i], (B, N, ...), joined. `counts` must be known numbers
    (eager tensors or integers), since the result's shape follows from them."""
    return ops.concatenate([x[i, : int(counts[i])] for i in range(num_rows)], axis=0)
