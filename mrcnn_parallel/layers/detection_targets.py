"""DetectionTargetLayer: samples ROIs for the heads and says what each should answer.

Positive ROIs overlap an object by IoU >= 0.5; negatives by less, and no crowd. At most
ROI_POSITIVE_RATIO of them are positive, and there are as many negatives as that ratio allows: with
no positive there is no negative (Matterport's rule).

Letters: B images, P proposals, G objects (zero-padded), T ROIs sampled, M of them positive at most.
"""

import keras
from keras import ops

from mrcnn_parallel.layers.base import ConfiguredLayer
from mrcnn_parallel.ops import boxes as box_ops
from mrcnn_parallel.ops import roi_align, sampling

POSITIVE_IOU = 0.5
CROWD_IOU = 0.001


def max_positive_rois(config):
    """M: the most positive ROIs an image can have, and so the ROIs that the mask head sees."""
    return max(1, int(config.TRAIN_ROIS_PER_IMAGE * config.ROI_POSITIVE_RATIO))


def detection_targets(proposals, gt_class_ids, gt_boxes, gt_masks, config, seed=None):
    """Samples ROIs and computes their targets.

    Args:
        proposals: (B, P, 4) normalised boxes, zero-padded.
        gt_class_ids: (B, G) int, 0 is padding, negative a crowd.
        gt_boxes: (B, G, 4) normalised.
        gt_masks: (B, h, w, G); mini masks (USE_MINI_MASK) or masks of the whole image.
        config: a Config, or an object with the layer's FIELDS.
        seed: a keras.random.SeedGenerator, or None: the first candidates are sampled.

    Returns:
        rois: (B, T, 4) normalised; positives, then negatives, then zeros.
        class_ids: (B, T) int32, 0 for negatives and padding.
        deltas: (B, T, 4) in units of BBOX_STD_DEV.
        masks: (B, M, mask height, mask width) float32, 0 or 1: those of the first M ROIs, beyond
            which none is positive.
    """
    total, most = config.TRAIN_ROIS_PER_IMAGE, max_positive_rois(config)
    real = ops.any(proposals != 0, axis=2)  # (B, P): padding is all zeros
    iou = box_ops.pairwise_iou(proposals, gt_boxes)  # (B, P, G)
    object_iou = ops.where((gt_class_ids > 0)[:, None, :], iou, 0.0)
    crowd_iou = ops.max(ops.where((gt_class_ids < 0)[:, None, :], iou, 0.0), axis=2)
    best = ops.max(object_iou, axis=2)  # (B, P)
    is_positive = real & (best >= POSITIVE_IOU)
    is_negative = real & (best < POSITIVE_IOU) & (crowd_iou < CROWD_IOU)

    priority = sampling.priorities(ops.shape(best), seed)
    positives, is_chosen = sampling.choose(is_positive, priority, most)
    positive_count = ops.sum(ops.cast(is_chosen, "int32"), axis=1)  # (B,)
    wanted = ops.cast(ops.cast(positive_count, "float32") / config.ROI_POSITIVE_RATIO, "int32")
    negatives, is_chosen = sampling.choose(is_negative, priority, total, wanted - positive_count)
    negative_count = ops.sum(ops.cast(is_chosen, "int32"), axis=1)

    indices, positive, used = _pack(positives, negatives, positive_count, negative_count, total)
    rois = ops.take_along_axis(proposals, indices[..., None], axis=1)  # (B, T, 4)
    rois = ops.where(used[..., None], rois, 0.0)
    assigned = ops.argmax(ops.take_along_axis(object_iou, indices[..., None], axis=1), axis=2)
    assigned = ops.cast(assigned, "int32")  # (B, T)
    class_ids = ops.take_along_axis(gt_class_ids, assigned, axis=1)
    class_ids = ops.where(positive, ops.cast(class_ids, "int32"), 0)
    target_boxes = ops.take_along_axis(gt_boxes, assigned[..., None], axis=1)  # (B, T, 4)
    deltas = box_ops.deltas_between(rois, target_boxes)
    deltas = deltas / ops.convert_to_tensor(config.BBOX_STD_DEV, dtype="float32")
    deltas = ops.where(positive[..., None], deltas, 0.0)

    most = min(most, total)
    masks = _mask_targets(
        rois[:, :most], target_boxes[:, :most], assigned[:, :most], gt_masks, config
    )
    return rois, class_ids, deltas, ops.where(positive[:, :most, None, None], masks, 0.0)


def _pack(positives, negatives, positive_count, negative_count, total):
    """Positives' indices, then negatives', then padding: (B, T) indices, is positive, is used."""
    slot = ops.arange(total)[None, :]  # (1, T)
    positive_count, used_count = positive_count[:, None], (positive_count + negative_count)[:, None]
    batch = ops.shape(positives)[0]
    in_positives = ops.clip(slot, 0, positives.shape[1] - 1)
    in_positives = ops.broadcast_to(in_positives, (batch, total))
    in_negatives = ops.clip(slot - positive_count, 0, negatives.shape[1] - 1)
    positive, used = slot < positive_count, slot < used_count
    indices = ops.where(
        positive,
        ops.take_along_axis(positives, in_positives, axis=1),
        ops.take_along_axis(negatives, in_negatives, axis=1),
    )
    return indices, positive, used


def _mask_targets(rois, gt_boxes, assigned, gt_masks, config):
    """The part of each ROI's object mask that the ROI sees, rounded to 0 or 1."""
    masks = ops.transpose(gt_masks, (0, 3, 1, 2))  # (B, G, h, w)
    count, (height, width) = rois.shape[1], masks.shape[2:4]
    index = ops.broadcast_to(
        assigned[..., None], (ops.shape(rois)[0], count, height * width)
    )  # (B, M, h * w)
    flat = ops.reshape(masks, (-1, masks.shape[1], height * width))
    flat = ops.cast(ops.take_along_axis(flat, index, axis=1), "float32")
    masks = ops.reshape(flat, (-1, count, height, width))
    if config.USE_MINI_MASK:  # a mini mask covers its object's box, not the image
        y1, x1, _, _ = box_ops.split(gt_boxes)
        gt_height = ops.maximum(gt_boxes[..., 2] - y1, 1e-8)
        gt_width = ops.maximum(gt_boxes[..., 3] - x1, 1e-8)
        rois = ops.stack(
            [
                (rois[..., 0] - y1) / gt_height,
                (rois[..., 1] - x1) / gt_width,
                (rois[..., 2] - y1) / gt_height,
                (rois[..., 3] - x1) / gt_width,
            ],
            axis=-1,
        )
    return ops.round(roi_align.crop_and_resize_masks(masks, rois, tuple(config.MASK_SHAPE)))


@keras.saving.register_keras_serializable("mrcnn_parallel")
class DetectionTargetLayer(ConfiguredLayer):
    """`detection_targets` as a layer; see there.

    Args:
        config: a Config.

    Call arguments, one list: proposals, gt_class_ids, gt_boxes, gt_masks.
    """

    FIELDS = (
        "TRAIN_ROIS_PER_IMAGE",
        "ROI_POSITIVE_RATIO",
        "BBOX_STD_DEV",
        "USE_MINI_MASK",
        "MASK_SHAPE",
        "RANDOM_SAMPLING",
        "SEED",
    )

    def __init__(self, config, **kwargs):
        super().__init__(config, **kwargs)
        random = self.settings.RANDOM_SAMPLING
        self.seed_generator = keras.random.SeedGenerator(self.settings.SEED) if random else None

    def call(self, inputs):
        proposals, gt_class_ids, gt_boxes, gt_masks = inputs
        proposals, gt_boxes = (
            ops.stop_gradient(ops.cast(boxes, "float32")) for boxes in (proposals, gt_boxes)
        )
        return detection_targets(
            proposals, gt_class_ids, gt_boxes, gt_masks, self.settings, self.seed_generator
        )

    def compute_mask(self, inputs, mask=None):
        return [None] * 4

    def compute_output_shape(self, input_shape):
        batch, settings = input_shape[0][0], self.settings
        total = settings.TRAIN_ROIS_PER_IMAGE
        most = min(max_positive_rois(settings), total)
        return (
            (batch, total, 4),
            (batch, total),
            (batch, total, 4),
            (batch, most, *settings.MASK_SHAPE),
        )

    def compute_output_spec(self, inputs):
        shapes = self.compute_output_shape([x.shape for x in inputs])
        dtypes = ("float32", "int32", "float32", "float32")
        return tuple(map(keras.KerasTensor, shapes, dtypes))
