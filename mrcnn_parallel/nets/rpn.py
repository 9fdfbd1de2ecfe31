"""Region proposal network (Faster R-CNN, section 3): one small head, shared by all levels.

Every anchor is scored, but only a few hundred an image have a loss. So training scores those once
more, each from the 3 x 3 cells around it: the gradient of that is a few small matrix products,
where the gradient of the maps is two convolutions of numbers nearly all of which are zero.

Letters: B images, (H_l, W_l) cells of level l, A anchors a cell, N anchors of all levels, S sampled
anchors an image, C channels.
"""

import keras
import numpy as np
from keras import layers as KL
from keras import ops

from mrcnn_parallel.nets.conv import Conv2D, JoinedConv2D, convolve, relu
from mrcnn_parallel.ops import pyramid

KERNEL = 3  # side of the shared convolution


def rpn_graph(feature_map, anchors_per_location, anchor_stride):
    """Scores and refines the anchors of one level.

    Args:
        feature_map: (B, H_l, W_l, C).
        anchors_per_location: A.
        anchor_stride: 1: anchors at every cell, 2: at every other.

    Returns:
        [logits (B, H_l * W_l * A, 2), probabilities (same), deltas (B, H_l * W_l * A, 4)], float32.
    """
    return _outputs_and_weights(feature_map, anchors_per_location, anchor_stride)[0]


def _outputs_and_weights(feature_map, anchors_per_location, anchor_stride):
    """What `rpn_graph` returns, and the [kernel, bias, ...] of its three convolutions."""
    options = {"strides": (anchor_stride, anchor_stride), "padding": "same"}
    shared = Conv2D(512, (KERNEL, KERNEL), deferred=True, name="rpn_conv_shared", **options)
    shared = shared(feature_map)
    features = JoinedConv2D(name="rpn_features_raw", **options)(shared)[0]
    features = KL.Activation(relu, name="rpn_features")(features)
    scores = Conv2D(2 * anchors_per_location, (1, 1), deferred=True, name="rpn_class_raw")(features)
    deltas = Conv2D(4 * anchors_per_location, (1, 1), deferred=True, name="rpn_bbox_pred")(features)
    weights = [*shared[1:], *scores[1:], *deltas[1:]]
    scores, deltas = JoinedConv2D(name="rpn_class_and_bbox")([*scores, *deltas])
    logits = KL.Reshape((-1, 2), dtype="float32", name="rpn_class_logits_rows")(scores)
    probs = KL.Activation("softmax", dtype="float32", name="rpn_class_xxx")(logits)
    deltas = KL.Reshape((-1, 4), dtype="float32", name="rpn_bbox_rows")(deltas)
    return [logits, probs, deltas], weights


def build_rpn_model(anchor_stride, anchors_per_location, depth, return_weights=False):
    """The RPN as a model of its own, "rpn_model", so that the levels share its weights.

    Args:
        anchor_stride, anchors_per_location: as in `rpn_graph`.
        depth: channels of the feature maps.
        return_weights: whether its outputs are followed by its kernels and biases, for
            `SampledRPN`.
    """
    feature_map = keras.Input((None, None, depth), name="input_rpn_feature_map")
    outputs, weights = _outputs_and_weights(feature_map, anchors_per_location, anchor_stride)
    outputs += weights if return_weights else []
    return keras.Model([feature_map], outputs, name="rpn_model")


def rpn_over_pyramid(rpn, feature_maps):
    """Runs the RPN on every level and joins the results, finest level first.

    Args:
        rpn: what `build_rpn_model` returns.
        feature_maps: [P2 ... P6].

    Returns:
        rpn_class_logits (B, N, 2), rpn_class (B, N, 2), rpn_bbox (B, N, 4), float32; and the RPN's
        kernels and biases, if it returns them.
    """
    per_level = [list(rpn([feature_map])) for feature_map in feature_maps]
    names = ("rpn_class_logits", "rpn_class", "rpn_bbox")
    joined = [
        KL.Concatenate(axis=1, dtype="float32", name=name)([outputs[i] for outputs in per_level])
        for i, name in enumerate(names)
    ]
    return [*joined, *per_level[0][len(names) :]]


def anchor_reading(feature_maps, anchor_ids, anchors_per_location, anchor_stride):
    """The cells that the RPN scores anchors from, as a pyramid.Reading.

    Args:
        feature_maps: [P2 ... P6], (B, H_l, W_l, C).
        anchor_ids: (B, S) int32 in [0, N).
        anchors_per_location, anchor_stride: as in `rpn_graph`.

    Returns:
        A Reading whose result is (B, S, 3, 3, C), zeros beyond a map's edge.
    """
    sizes = pyramid.level_sizes(feature_maps)
    starts, cells = pyramid.level_starts(sizes)
    stride = anchor_stride
    counts = [-(-height // stride) * -(-width // stride) for height, width in sizes]
    ends = anchors_per_location * np.cumsum(counts)
    levels = sum(ops.cast(anchor_ids >= int(end), "int32") for end in ends[:-1])  # (B, S)

    def of_level(values):
        return ops.take(ops.convert_to_tensor([int(x) for x in values], dtype="int32"), levels)

    height, width = (of_level(sides) for sides in zip(*sizes, strict=True))  # (B, S)
    # As in a convolution with padding "same": half of what is missing comes before
    tops, lefts = (
        [max((-(-side // stride) - 1) * stride + KERNEL - side, 0) // 2 for side in sides]
        for sides in zip(*sizes, strict=True)
    )
    location = (anchor_ids - of_level([0, *ends[:-1]])) // anchors_per_location
    columns_a_row = of_level([-(-width // stride) for _, width in sizes])
    steps = ops.arange(KERNEL, dtype="int32")
    row = (location // columns_a_row * stride - of_level(tops))[..., None] + steps  # (B, S, 3)
    column = (location % columns_a_row * stride - of_level(lefts))[..., None] + steps
    row_inside = (row >= 0) & (row < height[..., None])
    column_inside = (column >= 0) & (column < width[..., None])
    inside = row_inside[..., :, None] & column_inside[..., None, :]  # (B, S, 3, 3)
    row = ops.clip(row, 0, height[..., None] - 1)
    column = ops.clip(column, 0, width[..., None] - 1)

    start = of_level(starts) + pyramid.image_starts(feature_maps, cells)[:, None]  # (B, S)
    index = row[..., :, None] * width[..., None, None] + column[..., None, :]
    index = start[..., None, None] + index  # (B, S, 3, 3)
    return pyramid.Reading(
        index, lambda values: ops.where(inside[..., None], values, ops.zeros_like(values))
    )


@keras.saving.register_keras_serializable("mrcnn_parallel")
class SampledRPN(KL.Layer):
    """What the RPN makes of some anchors, from the cells around them.

    Call arguments, one list:
        patches: (B, S, 3, 3, C), see `anchor_reading`.
        anchor_ids: (B, S) int32.
        kernels and biases: the six that `rpn_over_pyramid` returns.

    Returns:
        logits (B, S, 2) and deltas (B, S, 4), float32: the rows `anchor_ids` of rpn_class_logits
        and rpn_bbox.
    """

    def __init__(self, **kwargs):
        kwargs["autocast"] = False
        super().__init__(**kwargs)

    def call(self, inputs):
        patches, anchor_ids, kernel, bias, *heads = inputs
        shape = (-1, patches.shape[1], 1, 1, int(np.prod(patches.shape[2:])))
        patches = ops.cast(ops.reshape(patches, shape), self.compute_dtype)  # (B, S, 1, 1, 9 C)
        kernel = ops.reshape(kernel, (1, 1, -1, kernel.shape[-1]))
        features = relu(convolve(patches, kernel, bias, (1, 1), "valid"))
        kernel, bias = ops.concatenate(heads[0::2], axis=-1), ops.concatenate(heads[1::2], axis=0)
        outputs = convolve(features, kernel, bias, (1, 1), "valid")[:, :, 0, 0]  # (B, S, 6 A)
        # All A anchors of the cell; each takes its own
        count = heads[1].shape[0] // 2  # A
        own = ops.one_hot(anchor_ids % count, count, dtype="float32")[..., None]  # (B, S, A, 1)
        logits, deltas = ops.split(ops.cast(outputs, "float32"), [2 * count], axis=-1)
        return [
            ops.sum(ops.reshape(x, (-1, x.shape[1], count, x.shape[2] // count)) * own, axis=2)
            for x in (logits, deltas)
        ]

    def compute_output_spec(self, inputs):
        lead = inputs[1].shape
        return [keras.KerasTensor((*lead, size), "float32") for size in (2, 4)]
