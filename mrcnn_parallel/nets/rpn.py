"""Region proposal network (Faster R-CNN, section 3): one small head, shared by all levels.

Letters: B images, (H_l, W_l) cells of level l, A anchors a cell, N anchors of all levels.
"""

import keras
from keras import layers as KL

from mrcnn_parallel.nets.conv import Conv2D, JoinedConv2D, relu


def rpn_graph(feature_map, anchors_per_location, anchor_stride):
    """Scores and refines the anchors of one level.

    Args:
        feature_map: (B, H_l, W_l, C).
        anchors_per_location: A.
        anchor_stride: 1: anchors at every cell, 2: at every other.

    Returns:
        [logits (B, H_l * W_l * A, 2), probabilities (same), deltas (B, H_l * W_l * A, 4)], float32.
    """
    shared = KL.Conv2D(
        512,
        (3, 3),
        padding="same",
        activation=relu,
        strides=anchor_stride,
        name="rpn_conv_shared",
    )(feature_map)
    scores = Conv2D(2 * anchors_per_location, (1, 1), deferred=True, name="rpn_class_raw")(shared)
    deltas = Conv2D(4 * anchors_per_location, (1, 1), deferred=True, name="rpn_bbox_pred")(shared)
    scores, deltas = JoinedConv2D(name="rpn_class_and_bbox")([*scores, *deltas])
    logits = KL.Reshape((-1, 2), dtype="float32", name="rpn_class_logits_rows")(scores)
    probs = KL.Activation("softmax", dtype="float32", name="rpn_class_xxx")(logits)
    deltas = KL.Reshape((-1, 4), dtype="float32", name="rpn_bbox_rows")(deltas)
    return [logits, probs, deltas]


def build_rpn_model(anchor_stride, anchors_per_location, depth):
    """The RPN as a model of its own, "rpn_model", so that the levels share its weights.

    Args:
        anchor_stride, anchors_per_location: as in `rpn_graph`.
        depth: channels of the feature maps.
    """
    feature_map = keras.Input((None, None, depth), name="input_rpn_feature_map")
    outputs = rpn_graph(feature_map, anchors_per_location, anchor_stride)
    return keras.Model([feature_map], outputs, name="rpn_model")


def rpn_over_pyramid(rpn, feature_maps):
    """Runs the RPN on every level and joins the results, finest level first.

    Args:
        rpn: what `build_rpn_model` returns.
        feature_maps: [P2 ... P6].

    Returns:
        rpn_class_logits (B, N, 2), rpn_class (B, N, 2), rpn_bbox (B, N, 4), float32.
    """
    per_level = [rpn([feature_map]) for feature_map in feature_maps]
    names = ("rpn_class_logits", "rpn_class", "rpn_bbox")
    return [
        KL.Concatenate(axis=1, dtype="float32", name=name)(list(outputs))
        for name, outputs in zip(names, zip(*per_level, strict=True), strict=True)
    ]
