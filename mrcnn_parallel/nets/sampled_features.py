"""SampledFeatures: all that a training step reads from the pyramid, in one gather.

Letters: B images, T ROIs of the box head, M ROIs of the mask head, S sampled anchors, F channels.
"""

import keras
from keras import layers as KL
from keras import ops

from mrcnn_parallel.nets.rpn import KERNEL, anchor_reading
from mrcnn_parallel.ops import pyramid, roi_align

ROI_LEVELS = 4  # P2 ... P5; P6 is the RPN's alone


@keras.saving.register_keras_serializable("mrcnn_parallel")
class SampledFeatures(KL.Layer):
    """The features of ROIs, as PyramidROIAlign has them, and of the anchors that have a loss.

    Args:
        pool_size, mask_pool_size: cells a side of the box head's and the mask head's ROIs.
        sampling: "crop_and_resize" or "roi_align".
        anchors_per_location, anchor_stride: of the RPN.

    Call arguments, one list:
        rois: (B, T, 4) normalised, float32 under any dtype policy; the first M are the mask head's.
        mask_targets: (B, M, ...); only its shape counts.
        image_meta: (B, META); the first image's shape counts for the batch.
        anchor_ids: (B, S) int32.
        feature_maps: P2 ... P6, (B, H_l, W_l, F).

    Returns:
        (B, T, pool_size, pool_size, F), (B, M, mask_pool_size, mask_pool_size, F) and (B, S, 3, 3,
        F) in the feature maps' dtype.
    """

    def __init__(
        self, pool_size, mask_pool_size, sampling, anchors_per_location, anchor_stride, **kwargs
    ):
        kwargs.pop("autocast", None)
        super().__init__(autocast=False, **kwargs)
        self.options = {
            "pool_size": int(pool_size),
            "mask_pool_size": int(mask_pool_size),
            "sampling": sampling,
            "anchors_per_location": int(anchors_per_location),
            "anchor_stride": int(anchor_stride),
        }

    def call(self, inputs):
        rois, mask_targets, image_meta, anchor_ids, *feature_maps = inputs
        shape = (image_meta[0, 4], image_meta[0, 5])
        rois = ops.stop_gradient(rois)

        def grid(rois, size):
            sampling = self.options["sampling"]
            return roi_align.roi_reading(
                feature_maps, rois, (size, size), shape, sampling, ROI_LEVELS
            )

        readings = [
            grid(rois, self.options["pool_size"]),
            grid(rois[:, : mask_targets.shape[1]], self.options["mask_pool_size"]),
            anchor_reading(
                feature_maps,
                anchor_ids,
                self.options["anchors_per_location"],
                self.options["anchor_stride"],
            ),
        ]
        return pyramid.read(feature_maps, readings)

    def compute_output_spec(self, inputs):
        rois, mask_targets, _, anchor_ids, *feature_maps = inputs
        counts = (rois.shape[1], mask_targets.shape[1], anchor_ids.shape[1])
        sides = (self.options["pool_size"], self.options["mask_pool_size"], KERNEL)
        channels, dtype = feature_maps[0].shape[-1], feature_maps[0].dtype
        return [
            keras.KerasTensor((rois.shape[0], count, side, side, channels), dtype)
            for count, side in zip(counts, sides, strict=True)
        ]

    def get_config(self):
        return {**super().get_config(), **self.options}
