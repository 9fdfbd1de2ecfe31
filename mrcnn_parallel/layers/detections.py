"""DetectionLayer: class probabilities and box deltas of the ROIs -> final detections.

Letters: B images, R ROIs, C classes, D detections.
"""

import keras
from keras import ops

from mrcnn_parallel.layers.base import ConfiguredLayer
from mrcnn_parallel.ops import boxes as box_ops
from mrcnn_parallel.ops import nms


def refine_detections(rois, probs, deltas, windows, config):
    """Takes each ROI's best class, refines its box, filters by score and per-class NMS.

    Args:
        rois: (B, R, 4) normalised boxes.
        probs: (B, R, C) class probabilities, 0 is the background.
        deltas: (B, R, C, 4) in units of BBOX_STD_DEV.
        windows: (B, 4) normalised: the part of the image that is not padding.
        config: a Config, or an object with the layer's FIELDS.

    Returns:
        (B, D, 6) float32: (y1, x1, y2, x2, class_id, score), best first, zero-padded.
    """
    class_ids = ops.cast(ops.argmax(probs, axis=2), "int32")  # (B, R)
    scores = ops.max(probs, axis=2)
    # One class's deltas of C, by a sum with one term: faster than a gather on accelerators.
    own = ops.one_hot(class_ids, probs.shape[2], dtype="float32")  # (B, R, C)
    deltas = ops.sum(deltas * own[..., None], axis=2)  # (B, R, 4)
    deltas = deltas * ops.convert_to_tensor(config.BBOX_STD_DEV, dtype="float32")
    boxes = box_ops.clip(box_ops.apply_deltas(rois, deltas), windows[:, None, :])
    valid = class_ids > 0
    if config.DETECTION_MIN_CONFIDENCE:
        valid = valid & (scores >= config.DETECTION_MIN_CONFIDENCE)

    order = ops.argsort(ops.where(valid, -scores, 1.0), axis=1)  # stable: ties by index
    boxes = ops.take_along_axis(boxes, order[..., None], axis=1)
    class_ids, scores, valid = (
        ops.take_along_axis(x, order, axis=1) for x in (class_ids, scores, valid)
    )
    kept, found = nms.non_max_suppression(
        boxes,
        config.DETECTION_NMS_THRESHOLD,
        config.DETECTION_MAX_INSTANCES,
        valid=valid,
        class_ids=class_ids,
    )
    rows = ops.concatenate(
        [boxes, ops.cast(class_ids, "float32")[..., None], scores[..., None]], axis=2
    )
    rows = ops.take_along_axis(rows, kept[..., None], axis=1)  # (B, D, 6)
    return ops.where(found[..., None], rows, 0.0)


@keras.saving.register_keras_serializable("mrcnn_parallel")
class DetectionLayer(ConfiguredLayer):
    """`refine_detections` as a layer; see there.

    Args:
        config: a Config.

    Call arguments, one list: rois, mrcnn_class, mrcnn_bbox, image_meta (B, META).
    """

    FIELDS = (
        "BBOX_STD_DEV",
        "DETECTION_MIN_CONFIDENCE",
        "DETECTION_NMS_THRESHOLD",
        "DETECTION_MAX_INSTANCES",
    )

    def __init__(self, config=None, **kwargs):
        super().__init__(config, **kwargs)

    def call(self, inputs):
        rois, probs, deltas, image_meta = (ops.cast(x, "float32") for x in inputs)
        shape = (image_meta[:, 4], image_meta[:, 5])  # of the padded image
        windows = box_ops.normalize(image_meta[:, 7:11], shape)
        return refine_detections(rois, probs, deltas, windows, self.settings)

    def compute_output_shape(self, input_shape):
        return (input_shape[0][0], self.settings.DETECTION_MAX_INSTANCES, 6)
