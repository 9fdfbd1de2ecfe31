"""The five losses of Mask R-CNN, each a scalar in float32, each 0 where there is nothing to learn.

  rpn_class_loss    cross-entropy of object or not, over the sampled anchors
  rpn_bbox_loss     smooth L1 of the deltas, over the positive anchors
  mrcnn_class_loss  cross-entropy over the classes, over the sampled ROIs
  mrcnn_bbox_loss   smooth L1 of the true class's deltas, over the positive ROIs
  mrcnn_mask_loss   binary cross-entropy of the true class's mask, over the positive ROIs

Letters: B images, N anchors (all, or those that can have a loss), S sampled anchors, T ROIs, M ROIs
of the mask head, C classes.
"""

import keras
from keras import ops

from mrcnn_parallel.layers.base import ConfiguredLayer
from mrcnn_parallel.ops import selection

EPSILON = 1e-7  # Keras's own: probabilities are kept this far from 0 and 1


def smooth_l1_loss(y_true, y_pred):
    """Smooth L1 of each element (Fast R-CNN, equation 3)."""
    difference = ops.absolute(y_true - y_pred)
    return ops.where(difference < 1.0, 0.5 * difference**2, difference - 0.5)


def rpn_class_loss(rpn_match, rpn_class_logits):
    """RPN classification loss.

    Args:
        rpn_match: (B, N, 1) or (B, N) int: 1 positive, -1 negative, 0 neutral.
        rpn_class_logits: (B, N, 2).
    """
    if len(rpn_match.shape) == 3:
        rpn_match = ops.squeeze(rpn_match, axis=-1)
    logits = ops.cast(rpn_class_logits, "float32")
    counted = ops.cast(rpn_match != 0, "float32")
    sign = ops.where(rpn_match == 1, -1.0, 1.0)
    # Softmax cross-entropy of two classes is the softplus of the difference of their logits.
    loss = ops.softplus(sign * (logits[..., 1] - logits[..., 0]))
    return _mean_of_counted(loss, counted)


def rpn_bbox_loss(target_bbox, rpn_match, rpn_bbox):
    """RPN box loss.

    Args:
        target_bbox: (B, S, 4) deltas of the positives in anchor order, zero-padded.
        rpn_match: (B, N, 1) or (B, N) int: 1 positive, -1 negative, 0 neutral.
        rpn_bbox: (B, N, 4).
    """
    if len(rpn_match.shape) == 3:
        rpn_match = ops.squeeze(rpn_match, axis=-1)
    count = min(target_bbox.shape[1], rpn_match.shape[1])
    chosen, found = selection.first_true(rpn_match == 1, count)  # (B, count)
    predicted = ops.take_along_axis(rpn_bbox, chosen[..., None], axis=1)
    loss = smooth_l1_loss(target_bbox[:, :count], ops.cast(predicted, "float32"))
    return _mean_of_counted(ops.mean(loss, axis=-1), ops.cast(found, "float32"))


def mrcnn_class_loss(target_class_ids, pred_class_logits, active_class_ids):
    """Classification loss of the box head.

    Args:
        target_class_ids: (B, T) int, 0 for background and padding.
        pred_class_logits: (B, T, C).
        active_class_ids: (B, C), 1 for the classes of the image's dataset, else 0. As Matterport
            does, the first image's row counts for the whole batch. An ROI whose predicted class is
            not active adds nothing, since nobody labelled that class there.
    """
    logits = ops.cast(pred_class_logits, "float32")
    target = ops.one_hot(target_class_ids, logits.shape[-1], dtype="float32")
    loss = ops.logsumexp(logits, axis=-1) - ops.sum(logits * target, axis=-1)
    predicted = ops.argmax(logits, axis=2)
    active = ops.cast(ops.take(active_class_ids[0], predicted, axis=0), "float32")
    return _mean_of_counted(loss, active)


def mrcnn_bbox_loss(target_bbox, target_class_ids, pred_bbox):
    """Box loss of the box head.

    Args:
        target_bbox: (B, T, 4) deltas.
        target_class_ids: (B, T) int.
        pred_bbox: (B, T, C, 4).
    """
    own = _own_class(target_class_ids, pred_bbox.shape[2])  # (B, T, C)
    predicted = ops.sum(ops.cast(pred_bbox, "float32") * own[..., None], axis=2)
    loss = ops.mean(smooth_l1_loss(target_bbox, predicted), axis=-1)
    return _mean_of_counted(loss, ops.cast(target_class_ids > 0, "float32"))


def mrcnn_mask_loss(target_masks, target_class_ids, pred_masks):
    """Mask loss.

    Args:
        target_masks: (B, M, h, w) float, 0 or 1.
        target_class_ids: (B, T) int; the first M count, beyond them none is positive.
        pred_masks: (B, M, h, w, C) probabilities, or (B, M, h, w), those of the true classes.
    """
    class_ids = target_class_ids[:, : pred_masks.shape[1]]
    predicted = ops.cast(pred_masks, "float32")
    if len(pred_masks.shape) == 5:
        own = _own_class(class_ids, pred_masks.shape[4])[:, :, None, None, :]
        predicted = ops.sum(predicted * own, axis=4)  # (B, M, h, w)
    predicted = ops.clip(predicted, EPSILON, 1.0 - EPSILON)
    loss = -(target_masks * ops.log(predicted) + (1.0 - target_masks) * ops.log(1.0 - predicted))
    counted = ops.cast(class_ids > 0, "float32")
    return _mean_of_counted(ops.mean(loss, axis=(2, 3)), counted)


def _own_class(class_ids, num_classes):
    """One-hot classes: summing over them picks one class, and its gradient is no scatter."""
    return ops.one_hot(class_ids, num_classes, dtype="float32")


def _mean_of_counted(values, counted):
    """Mean of the values where `counted` is 1; 0 where none is."""
    total = ops.sum(counted)
    return ops.sum(values * counted) / ops.maximum(total, 1.0)


LOSSES = {
    "rpn_class_loss": rpn_class_loss,
    "rpn_bbox_loss": rpn_bbox_loss,
    "mrcnn_class_loss": mrcnn_class_loss,
    "mrcnn_bbox_loss": mrcnn_bbox_loss,
    "mrcnn_mask_loss": mrcnn_mask_loss,
}


@keras.saving.register_keras_serializable("mrcnn_parallel")
class LossLayer(ConfiguredLayer):
    """One of LOSSES as a layer whose output has shape ().

    Args:
        loss: its name, which also names the layer.

    Call arguments, one list: those of the loss function.
    """

    def __init__(self, loss, config=None, **kwargs):
        kwargs.setdefault("name", loss)
        super().__init__(config or {}, **kwargs)
        self.loss = loss

    def call(self, inputs):
        return LOSSES[self.loss](*inputs)

    def compute_output_spec(self, inputs):
        return keras.KerasTensor((), "float32")

    def get_config(self):
        return {**super().get_config(), "loss": self.loss}
