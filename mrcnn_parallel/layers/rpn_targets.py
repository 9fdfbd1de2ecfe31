"""RPNTargetLayer: which anchors the RPN learns from, and what. On the device, in the graph.

The rule (Faster R-CNN, section 3.1.2, with Matterport's numbers):
  positive (1)   IoU >= 0.7 with an object, or an object's best anchors
  negative (-1)  IoU < 0.3 with all objects and not on a crowd
  neutral (0)    the rest; and all that the random choice leaves out

Letters: B images, N anchors, G objects (zero-padded), S sampled anchors.
"""

import keras
from keras import ops

from mrcnn_parallel.layers.base import ConfiguredLayer
from mrcnn_parallel.ops import boxes as box_ops
from mrcnn_parallel.ops import nms, sampling

POSITIVE_IOU = 0.7
NEGATIVE_IOU = 0.3
CROWD_IOU = 0.001
BEST = 1 - 1e-6  # of the best IoU is the best IoU: rounding must not decide between equals


def match_anchors(anchors, gt_class_ids, gt_boxes):
    """Positive and negative anchors before sampling.

    Args:
        anchors: (N, 4) boxes, in the gt boxes' units.
        gt_class_ids: (B, G) int, 0 is padding, negative a crowd.
        gt_boxes: (B, G, 4).

    Returns:
        positive, negative: (B, N) bool.
    """
    # All IoUs of a large batch are gigabytes. Each object's best is found in a table of its own,
    # anchors last, so that XLA keeps neither: it reduces both while it computes them.
    best_for_object = ops.max(box_ops.pairwise_iou(gt_boxes, anchors), axis=2)[:, None, :]
    iou = box_ops.pairwise_iou(anchors, gt_boxes)  # (B, N, G)
    objects = (gt_class_ids > 0)[:, None, :]
    best_for_anchor = ops.max(ops.where(objects, iou, 0.0), axis=2)  # (B, N)
    is_best = objects & (best_for_object > 0) & (iou >= best_for_object * BEST)
    positive = (best_for_anchor >= POSITIVE_IOU) | ops.any(is_best, axis=2)
    crowd_iou = ops.max(ops.where((gt_class_ids < 0)[:, None, :], iou, 0.0), axis=2)
    negative = (best_for_anchor < NEGATIVE_IOU) & (crowd_iou < CROWD_IOU)
    return positive, negative & ops.logical_not(positive)


@keras.saving.register_keras_serializable("mrcnn_parallel")
class RPNTargetLayer(ConfiguredLayer):
    """Matches anchors to objects and samples RPN_TRAIN_ANCHORS_PER_IMAGE of them.

    Args:
        config: a Config.

    Call arguments, one list:
        anchors_px: (N, 4) float32 pixels.
        gt_class_ids: (B, G) int, 0 is padding, negative a crowd.
        gt_boxes: (B, G, 4) pixels.

    Returns:
        rpn_match: (B, N, 1) int32: 1 positive, -1 negative, 0 neutral.
        rpn_bbox: (B, S, 4) float32 deltas of the positives in anchor order, zero-padded, in units
            of RPN_BBOX_STD_DEV.
    """

    FIELDS = ("RPN_TRAIN_ANCHORS_PER_IMAGE", "RPN_BBOX_STD_DEV", "RANDOM_SAMPLING", "SEED")

    def __init__(self, config=None, **kwargs):
        super().__init__(config, **kwargs)
        random = self.settings.RANDOM_SAMPLING
        self.seed_generator = keras.random.SeedGenerator(self.settings.SEED) if random else None

    def call(self, inputs):
        anchors, gt_class_ids, gt_boxes = inputs
        gt_boxes = ops.stop_gradient(ops.cast(gt_boxes, "float32"))
        positive, negative = match_anchors(anchors, gt_class_ids, gt_boxes)

        total = min(self.settings.RPN_TRAIN_ANCHORS_PER_IMAGE, anchors.shape[0])
        shape = (ops.shape(gt_boxes)[0], anchors.shape[0])
        priority = sampling.priorities(shape, self.seed_generator)
        positive = sampling.choose_mask(positive, priority, total // 2)
        count = ops.sum(ops.cast(positive, "int32"), axis=1)  # (B,)
        negative = sampling.choose_mask(negative, priority, total - count)
        match = ops.cast(positive, "int32") - ops.cast(negative, "int32")  # (B, N)

        chosen, found = nms.first_true(positive, total)  # (B, S)
        boxes = ops.take(anchors, chosen, axis=0)  # (B, S, 4)
        overlap = box_ops.pairwise_iou(boxes, gt_boxes)  # (B, S, G)
        overlap = ops.where((gt_class_ids > 0)[:, None, :], overlap, 0.0)
        assigned = ops.argmax(overlap, axis=2)  # (B, S)
        deltas = box_ops.deltas_between(
            boxes, ops.take_along_axis(gt_boxes, assigned[..., None], axis=1)
        ) / ops.convert_to_tensor(self.settings.RPN_BBOX_STD_DEV, dtype="float32")
        return match[..., None], ops.where(found[..., None], deltas, 0.0)

    def compute_output_spec(self, inputs):
        batch, count = inputs[1].shape[0], inputs[0].shape[0]
        total = min(self.settings.RPN_TRAIN_ANCHORS_PER_IMAGE, count)
        return (
            keras.KerasTensor((batch, count, 1), "int32"),
            keras.KerasTensor((batch, total, 4), "float32"),
        )
