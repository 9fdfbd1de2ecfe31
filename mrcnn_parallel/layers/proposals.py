"""ProposalLayer: RPN scores and deltas -> the boxes worth a closer look (Faster R-CNN, 3.1).

Letters: B images, N anchors, P proposals before NMS, K after.
"""

import keras
from keras import ops

from mrcnn_parallel.layers.base import ConfiguredLayer
from mrcnn_parallel.ops import boxes as box_ops
from mrcnn_parallel.ops import nms, selection


@keras.saving.register_keras_serializable("mrcnn_parallel")
class ProposalLayer(ConfiguredLayer):
    """Picks the best-scoring anchors, applies the deltas, clips and removes duplicates.

    No gradient flows through the proposals: the heads learn from them as from constants
    (approximate joint training, Faster R-CNN section 3.2).

    Args:
        proposal_count: K, boxes returned for each image; zero-padded.
        nms_threshold: IoU above which the lower-scoring box is dropped.
        config: a Config (PRE_NMS_LIMIT, RPN_BBOX_STD_DEV).

    Call arguments, one list:
        rpn_probs: (B, N, 2) background and foreground probabilities.
        rpn_bbox: (B, N, 4) deltas, in units of RPN_BBOX_STD_DEV.
        anchors: (B, N, 4) or (N, 4) normalised boxes.

    Returns:
        (B, K, 4) float32 normalised boxes, best first.
    """

    FIELDS = ("PRE_NMS_LIMIT", "RPN_BBOX_STD_DEV")

    def __init__(self, proposal_count, nms_threshold, config=None, **kwargs):
        super().__init__(config, **kwargs)
        self.proposal_count = proposal_count
        self.nms_threshold = nms_threshold

    def call(self, inputs):
        scores, deltas, anchors = (ops.stop_gradient(ops.cast(x, "float32")) for x in inputs)
        scores = scores[..., 1]
        limit = min(self.settings.PRE_NMS_LIMIT, scores.shape[1])
        _, best = selection.top_k(scores, limit)  # (B, P), falling
        deltas = ops.take_along_axis(deltas, best[..., None], axis=1)  # (B, P, 4)
        deltas = deltas * ops.convert_to_tensor(self.settings.RPN_BBOX_STD_DEV, dtype="float32")
        if len(anchors.shape) == 2:
            anchors = ops.take(anchors, best, axis=0)  # (B, P, 4)
        else:
            anchors = ops.take_along_axis(anchors, best[..., None], axis=1)
        window = ops.convert_to_tensor([0.0, 0.0, 1.0, 1.0], dtype="float32")
        boxes = box_ops.clip(box_ops.apply_deltas(anchors, deltas), window)
        kept, found = nms.non_max_suppression(boxes, self.nms_threshold, self.proposal_count)
        boxes = ops.take_along_axis(boxes, kept[..., None], axis=1)  # (B, K, 4)
        return ops.where(found[..., None], boxes, 0.0)

    def compute_output_shape(self, input_shape):
        return (input_shape[0][0], self.proposal_count, 4)

    def get_config(self):
        return {
            **super().get_config(),
            "proposal_count": self.proposal_count,
            "nms_threshold": self.nms_threshold,
        }
