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
from mrcnn_parallel.ops import sampling, selection

POSITIVE_IOU = 0.7
NEGATIVE_IOU = 0.3
CROWD_IOU = 0.001
OBJECTS_AT_ONCE = 10  # whose IoUs with all anchors are computed together
BEST = 1 - 1e-6  # of the best IoU is the best IoU: rounding must not decide between equals


def match_anchors(anchors, gt_class_ids, gt_boxes):
    """Positive and negative anchors before sampling.

    Args:
        anchors: (N, 4) boxes, in the gt boxes' units.
        gt_class_ids: (B, G) int, 0 is padding, negative a crowd.
        gt_boxes: (B, G, 4) float32.

    Returns:
        positive, negative: (B, N) bool.
    """
    batch, objects = ops.shape(gt_boxes)[0], gt_boxes.shape[1]
    block = min(OBJECTS_AT_ONCE, objects)
    # Most of the rows are padding. A batch of as many objects as there are rows takes all blocks.
    real = ops.where(gt_class_ids != 0, ops.arange(1, objects + 1), 0)
    blocks = (ops.cast(ops.max(real), "int32") + block - 1) // block

    def match_block(index, overlap):
        start = ops.minimum(index * block, objects - block)
        boxes = ops.slice(gt_boxes, [0, start, 0], [batch, block, 4])
        kind = ops.slice(gt_class_ids, [0, start], [batch, block])[..., None]  # (B, block, 1)
        iou = box_ops.pairwise_iou(boxes, anchors)  # (B, block, N)
        best = ops.max(iou, axis=2, keepdims=True)
        is_best = (best > 0) & (iou >= best * BEST)
        # One maximum for all rules: an object's best anchors count as IoU 1, anchors on a crowd as
        # one between the thresholds.
        of_object = ops.where(is_best, 1.0, iou)
        of_crowd = ops.where(iou < CROWD_IOU, 0.0, (NEGATIVE_IOU + POSITIVE_IOU) / 2)
        found = ops.where(kind > 0, of_object, ops.where(kind < 0, of_crowd, 0.0))
        return ops.maximum(overlap, ops.max(found, axis=1))

    overlap = ops.zeros((batch, anchors.shape[0]), dtype="float32")
    overlap = ops.fori_loop(0, blocks, match_block, overlap)  # (B, N)
    return overlap >= POSITIVE_IOU, overlap < NEGATIVE_IOU


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

        chosen, found = selection.first_true(positive, total)  # (B, S)
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


@keras.saving.register_keras_serializable("mrcnn_parallel")
class SampledAnchors(ConfiguredLayer):
    """The few anchors that have a loss.

    Args:
        config: a Config.

    Call argument: rpn_match (B, N, 1) int: 1 positive, -1 negative, 0 neutral.

    Returns:
        anchor_ids: (B, S) int32, the first S = RPN_TRAIN_ANCHORS_PER_IMAGE anchors that are not
            neutral, in order, then any.
        match: (B, S, 1) int32, their rpn_match; 0 for the fillers.
    """

    FIELDS = ("RPN_TRAIN_ANCHORS_PER_IMAGE",)

    def call(self, rpn_match):
        match = ops.cast(rpn_match[..., 0], "int32")  # (B, N)
        count = min(self.settings.RPN_TRAIN_ANCHORS_PER_IMAGE, match.shape[1])
        anchor_ids, found = selection.first_true(match != 0, count)  # (B, S)
        match = ops.where(found, ops.take_along_axis(match, anchor_ids, axis=1), 0)
        # Not all the same one, since many gradients of its cells would queue up.
        anchor_ids = ops.where(found, anchor_ids, ops.arange(count, dtype="int32")[None, :])
        return anchor_ids, match[..., None]

    def compute_output_spec(self, rpn_match):
        batch, anchors = rpn_match.shape[:2]
        count = min(self.settings.RPN_TRAIN_ANCHORS_PER_IMAGE, anchors)
        shapes = (batch, count), (batch, count, 1)
        return tuple(keras.KerasTensor(shape, "int32") for shape in shapes)
