"""The two heads: class and box of each ROI, and its mask.

The layers have the names and shapes of Matterport's TimeDistributed ones, but hold their weights
themselves: all ROIs of a batch run through them as one larger batch.

Letters: B images, R ROIs an image, C classes, F channels of the pyramid.
"""

import keras
import numpy as np
from keras import layers as KL
from keras import ops

from mrcnn_parallel.nets.conv import BatchNorm, Conv2D, conv_bn, relu
from mrcnn_parallel.ops import roi_align


@keras.saving.register_keras_serializable("mrcnn_parallel")
class PyramidROIAlign(KL.Layer):
    """Samples a grid of features for each ROI; see `ops.roi_align.pyramid_roi_align`.

    Args:
        pool_shape: (h, w) cells.
        sampling: "crop_and_resize" or "roi_align".

    Call arguments, one list:
        boxes: (B, R, 4) normalised, float32 under any dtype policy.
        image_meta: (B, META); the first image's shape counts for the batch.
        feature_maps: P2 ... P5, (B, H_l, W_l, F).

    Returns:
        (B, R, h, w, F) in the feature maps' dtype.
    """

    def __init__(self, pool_shape, sampling="crop_and_resize", **kwargs):
        kwargs.pop("autocast", None)
        super().__init__(autocast=False, **kwargs)
        self.pool_shape = tuple(pool_shape)
        self.sampling = sampling

    def call(self, inputs):
        boxes, image_meta, *feature_maps = inputs
        shape = (image_meta[0, 4], image_meta[0, 5])
        boxes = ops.stop_gradient(boxes)
        return roi_align.pyramid_roi_align(
            feature_maps, boxes, self.pool_shape, shape, self.sampling
        )

    def compute_output_shape(self, input_shape):
        return (*input_shape[0][:2], *self.pool_shape, input_shape[2][-1])

    def compute_output_spec(self, inputs):
        shape = self.compute_output_shape([x.shape for x in inputs])
        return keras.KerasTensor(shape, inputs[2].dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "pool_shape": list(self.pool_shape),
            "sampling": self.sampling,
        }


class _OverROIs:
    """For layers on (B, R, ...) whose shapes are those of a batch of B * R; R is static."""

    def build(self, input_shape):
        super().build((None, *input_shape[2:]))

    def compute_output_shape(self, input_shape):
        if len(input_shape) == 4:  # asked by the convolution's own build
            return super().compute_output_shape(input_shape)
        shape = super().compute_output_shape((None, *input_shape[2:]))
        return (*input_shape[:2], *shape[1:])


@keras.saving.register_keras_serializable("mrcnn_parallel")
class ROIConv2D(_OverROIs, Conv2D):
    """Conv2D on each ROI, (B, R, h, w, C)."""


@keras.saving.register_keras_serializable("mrcnn_parallel")
class MaskConv2D(ROIConv2D):
    """The last convolution of the mask head, 1x1: a probability for each class.

    Call argument: (B, R, h, w, F) features. Or a list of these and (B, R) int class ids: then each
    ROI's mask of its own class only, (B, R, h, w), which is all that a loss needs, at a fraction of
    the time and memory.

    Returns:
        (B, R, h, w, classes) float32.
    """

    def __init__(self, filters, kernel_size=(1, 1), **kwargs):
        kwargs["activation"] = sigmoid_float32
        super().__init__(filters, kernel_size, **kwargs)

    def build(self, input_shape):
        super().build(input_shape)
        self.input_spec = None  # there may be two inputs

    def call(self, inputs):
        if not isinstance(inputs, (list, tuple)):
            return super().call(inputs)
        features, class_ids = inputs
        # A matrix product, not a gather: its gradient is summed in float32.
        own = ops.one_hot(class_ids, self.filters, dtype="float32")  # (B, R, classes)
        kernel = ops.transpose(ops.cast(self.kernel, "float32")[0, 0])  # (classes, F)
        kernel = ops.cast(ops.matmul(own, kernel), features.dtype)  # (B, R, F)
        bias = ops.matmul(own, ops.cast(self.bias, "float32")[:, None])  # (B, R, 1)
        products = features * kernel[:, :, None, None, :]
        logits = ops.sum(ops.cast(products, "float32"), axis=-1)  # (B, R, h, w)
        return self.activation(logits + bias[..., None])

    def compute_output_spec(self, inputs):
        if isinstance(inputs, (list, tuple)):
            return keras.KerasTensor(inputs[0].shape[:-1], "float32")
        return keras.KerasTensor(self.compute_output_shape(inputs.shape), "float32")


@keras.saving.register_keras_serializable("mrcnn_parallel")
class ROIConv2DTranspose(_OverROIs, KL.Conv2DTranspose):
    """Conv2DTranspose on each ROI, (B, R, h, w, C), for strides equal to the kernel size.

    Then no two outputs overlap, and it is one matrix product: 15 times faster to train on a CPU
    than XLA's transposed convolution, and what GPUs run fastest.
    """

    def call(self, inputs):
        if self.kernel_size != self.strides:
            raise ValueError(
                f"{self.name}: kernel_size {self.kernel_size} and strides {self.strides} differ; "
                "this layer is for the case where they are equal."
            )
        *lead, height, width, channels = inputs.shape[1:]
        rows, columns = self.kernel_size
        kernel = ops.transpose(self.kernel, (3, 0, 1, 2))  # (in, rows, columns, out)
        kernel = ops.cast(ops.reshape(kernel, (channels, -1)), inputs.dtype)
        outputs = ops.matmul(ops.reshape(inputs, (-1, channels)), kernel)
        outputs = ops.reshape(outputs, (-1, height, width, rows, columns, self.filters))
        outputs = ops.transpose(outputs, (0, 1, 3, 2, 4, 5))
        shape = (-1, *lead, height * rows, width * columns, self.filters)
        outputs = ops.reshape(outputs, shape)
        if self.use_bias:
            outputs = outputs + ops.cast(self.bias, outputs.dtype)
        return self.activation(outputs)


@keras.saving.register_keras_serializable("mrcnn_parallel")
class ROIFullConv2D(ROIConv2D):
    """ROIConv2D whose kernel covers all of its input, computed as one matrix product.

    Same weights and result, (B, R, 1, 1, filters), as a convolution with padding "valid"; a matrix
    product is what accelerators run fastest.
    """

    def call(self, inputs):
        rows = ops.reshape(inputs, (-1, int(np.prod(inputs.shape[2:]))))
        kernel = ops.reshape(self.kernel, (-1, self.filters))
        outputs = ops.matmul(rows, ops.cast(kernel, rows.dtype))  # (B * R, filters)
        if self.use_bias:
            outputs = outputs + ops.cast(self.bias, outputs.dtype)
        return self.activation(ops.reshape(outputs, (-1, inputs.shape[1], 1, 1, self.filters)))


@keras.saving.register_keras_serializable("mrcnn_parallel")
def sigmoid_float32(x):
    """Sigmoid computed in float32 under any dtype policy: bfloat16 cannot hold 0.999."""
    return ops.sigmoid(ops.cast(x, "float32"))


def fpn_classifier_graph(
    rois,
    feature_maps,
    image_meta,
    pool_size,
    num_classes,
    train_bn=True,
    fc_layers_size=1024,
    sampling="crop_and_resize",
):
    """Box head: two dense layers, then class logits and box deltas.

    Args:
        rois: (B, R, 4) normalised, R static.
        feature_maps: [P2, P3, P4, P5].
        image_meta: (B, META).
        pool_size: cells a side of the ROI's grid.
        num_classes: C.
        train_bn: the batch norms' mode, see nets.conv.BatchNorm.
        fc_layers_size: units of the dense layers.
        sampling: see PyramidROIAlign.

    Returns:
        mrcnn_class_logits (B, R, C), mrcnn_class (B, R, C) probabilities and mrcnn_bbox
        (B, R, C, 4) deltas, float32.
    """
    pooled = PyramidROIAlign([pool_size, pool_size], sampling, name="roi_align_classifier")(
        [rois, image_meta, *feature_maps]
    )
    return box_head(pooled, num_classes, train_bn, fc_layers_size)


def box_head(pooled, num_classes, train_bn=True, fc_layers_size=1024):
    """`fpn_classifier_graph` after ROIAlign.

    Args:
        pooled: (B, R, pool_size, pool_size, F), R static.
        num_classes, train_bn, fc_layers_size: as there.
    """
    num_rois, pool_size = pooled.shape[1:3]
    x = ROIFullConv2D(fc_layers_size, (pool_size, pool_size), name="mrcnn_class_conv1")(pooled)
    x = BatchNorm(name="mrcnn_class_bn1")(x, training=train_bn)
    x = KL.Activation(relu)(x)
    x = ROIFullConv2D(fc_layers_size, (1, 1), name="mrcnn_class_conv2")(x)
    x = BatchNorm(name="mrcnn_class_bn2")(x, training=train_bn)
    x = KL.Activation(relu)(x)
    shared = KL.Reshape((num_rois, fc_layers_size), name="pool_squeeze")(x)

    logits = KL.Dense(num_classes, name="mrcnn_class_logits")(shared)
    probs = KL.Activation("softmax", dtype="float32", name="mrcnn_class")(logits)
    x = KL.Dense(num_classes * 4, name="mrcnn_bbox_fc")(shared)
    deltas = KL.Reshape((num_rois, num_classes, 4), dtype="float32", name="mrcnn_bbox")(x)
    return logits, probs, deltas


def build_fpn_mask_graph(
    rois,
    feature_maps,
    image_meta,
    pool_size,
    num_classes,
    train_bn=True,
    conv_size=256,
    sampling="crop_and_resize",
):
    """Mask head: four convolutions, one deconvolution, a sigmoid for each class.

    Args:
        rois, feature_maps, image_meta, pool_size, num_classes, train_bn, sampling: as in
            `fpn_classifier_graph`.
        conv_size: channels of the convolutions.

    Returns:
        mrcnn_mask (B, R, 2 * pool_size, 2 * pool_size, C) float32 probabilities.
    """
    pooled = PyramidROIAlign([pool_size, pool_size], sampling, name="roi_align_mask")(
        [rois, image_meta, *feature_maps]
    )
    return MaskConv2D(num_classes, name="mrcnn_mask")(mask_features(pooled, train_bn, conv_size))


def mask_features(pooled, train_bn=True, conv_size=256):
    """The mask head between ROIAlign and its last convolution.

    Args:
        pooled: (B, R, pool_size, pool_size, F).
        train_bn, conv_size: as in `build_fpn_mask_graph`.

    Returns:
        (B, R, 2 * pool_size, 2 * pool_size, conv_size).
    """
    x = pooled
    for index in range(1, 5):
        names = (f"mrcnn_mask_conv{index}", f"mrcnn_mask_bn{index}")
        x = conv_bn(x, conv_size, (3, 3), names, train_bn=train_bn, conv=ROIConv2D)
        x = KL.Activation(relu)(x)
    return ROIConv2DTranspose(
        conv_size, (2, 2), strides=2, activation=relu, name="mrcnn_mask_deconv"
    )(x)
