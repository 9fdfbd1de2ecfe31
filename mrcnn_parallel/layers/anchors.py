"""Layers around the network's coordinates: constant anchors, and boxes to normalised ones."""

import keras
from keras import ops

from mrcnn_parallel.layers.base import ConfiguredLayer
from mrcnn_parallel.ops import anchors as anchor_ops
from mrcnn_parallel.ops import boxes as box_ops


@keras.saving.register_keras_serializable("mrcnn_parallel")
class AnchorLayer(ConfiguredLayer):
    """The anchors of one image size, as constants.

    Args:
        config: a Config.
        feature_shapes: (L, 2) sizes of P2 ... P6 for that image.
        image_shape: (height, width) in pixels.

    Call argument: any tensor; Keras needs one to build a graph on.

    Returns:
        anchors_norm, anchors_px: (N, 4) float32.
    """

    FIELDS = ("RPN_ANCHOR_SCALES", "RPN_ANCHOR_RATIOS", "BACKBONE_STRIDES", "RPN_ANCHOR_STRIDE")

    def __init__(self, config, feature_shapes, image_shape, **kwargs):
        super().__init__(config, **kwargs)
        self.feature_shapes = [[int(side) for side in shape] for shape in feature_shapes]
        self.image_shape = [int(side) for side in image_shape[:2]]
        self._anchors_px = anchor_ops.generate_pyramid_anchors(
            self.settings.RPN_ANCHOR_SCALES,
            self.settings.RPN_ANCHOR_RATIOS,
            self.feature_shapes,
            self.settings.BACKBONE_STRIDES,
            self.settings.RPN_ANCHOR_STRIDE,
        )

    def call(self, inputs):
        anchors_norm = anchor_ops.normalize_px(self._anchors_px, self.image_shape)
        return (
            ops.convert_to_tensor(anchors_norm, dtype="float32"),
            ops.convert_to_tensor(self._anchors_px, dtype="float32"),
        )

    def compute_output_spec(self, inputs):
        shape = self._anchors_px.shape
        return keras.KerasTensor(shape, "float32"), keras.KerasTensor(shape, "float32")

    def get_config(self):
        return {
            **super().get_config(),
            "feature_shapes": self.feature_shapes,
            "image_shape": self.image_shape,
        }


@keras.saving.register_keras_serializable("mrcnn_parallel")
class NormalizeBoxes(ConfiguredLayer):
    """(B, K, 4) boxes in pixels of an image of `image_shape` (height, width) to normalised ones."""

    def __init__(self, image_shape, config=None, **kwargs):
        super().__init__(config or {}, **kwargs)
        self.image_shape = [int(side) for side in image_shape[:2]]

    def call(self, inputs):
        return box_ops.normalize(inputs, self.image_shape)

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(inputs.shape, "float32")

    def get_config(self):
        return {**super().get_config(), "image_shape": self.image_shape}
