"""The whole network: images -> losses (training) or detections (inference), from a Config.

image -> backbone -> FPN -> RPN -> proposals -> ROIs -> class + box head, mask head
"""

import keras
from keras import layers as KL
from keras import ops

from mrcnn_parallel.config import LOSS_NAMES
from mrcnn_parallel.layers.anchors import AnchorLayer, NormalizeBoxes
from mrcnn_parallel.layers.base import ConfiguredLayer
from mrcnn_parallel.layers.detection_targets import DetectionTargetLayer
from mrcnn_parallel.layers.detections import DetectionLayer
from mrcnn_parallel.layers.losses import LossLayer
from mrcnn_parallel.layers.proposals import ProposalLayer
from mrcnn_parallel.layers.rpn_targets import RPNTargetLayer, SampledAnchors
from mrcnn_parallel.nets.fpn import fpn_graph
from mrcnn_parallel.nets.heads import (
    MaskConv2D,
    box_head,
    build_fpn_mask_graph,
    fpn_classifier_graph,
    mask_features,
)
from mrcnn_parallel.nets.network import Network
from mrcnn_parallel.nets.resnet import resnet_graph
from mrcnn_parallel.nets.rpn import SampledRPN, build_rpn_model, rpn_over_pyramid
from mrcnn_parallel.nets.sampled_features import SampledFeatures
from mrcnn_parallel.ops import anchors as anchor_ops


def build_training_model(config):
    """The training graph.

    Inputs, in this order: input_image, input_image_meta, then with RPN_TARGETS "input"
    input_rpn_match and input_rpn_bbox, then input_gt_class_ids, input_gt_boxes (pixels),
    input_gt_masks, then without USE_RPN_ROIS input_roi (pixels).

    Outputs: Matterport's, the last five being the losses, of shape (). The RPN's losses are of the
    first RPN_TRAIN_ANCHORS_PER_IMAGE anchors of an image that input_rpn_match counts, finest level
    first; Matterport's generators count no more.

    Returns:
        A functional Network named "mask_rcnn".
    """
    image_shape = tuple(int(side) for side in config.IMAGE_SHAPE)
    image = keras.Input(image_shape, name="input_image")
    meta = keras.Input((config.IMAGE_META_SIZE,), name="input_image_meta")
    instances = config.MAX_GT_INSTANCES
    gt_class_ids = keras.Input((instances,), dtype="int32", name="input_gt_class_ids")
    gt_boxes_px = keras.Input((instances, 4), name="input_gt_boxes")
    mask_size = config.MINI_MASK_SHAPE if config.USE_MINI_MASK else image_shape[:2]
    gt_masks = keras.Input((*mask_size, instances), dtype="bool", name="input_gt_masks")

    feature_shapes = anchor_ops.compute_backbone_shapes(config, image_shape)
    anchor_layer = AnchorLayer(config, feature_shapes, image_shape, name="anchors")
    anchors, anchors_px = anchor_layer(meta)
    if config.RPN_TARGETS == "device":
        rpn_inputs = []
        rpn_match, target_rpn_bbox = RPNTargetLayer(config, name="rpn_targets")(
            [anchors_px, gt_class_ids, gt_boxes_px]
        )
    else:
        count = config.RPN_TRAIN_ANCHORS_PER_IMAGE
        rpn_match = keras.Input((anchors.shape[0], 1), dtype="int32", name="input_rpn_match")
        target_rpn_bbox = keras.Input((count, 4), name="input_rpn_bbox")
        rpn_inputs = [rpn_match, target_rpn_bbox]

    pyramid = _pyramid(image, config)
    rpn_logits, rpn_probs, rpn_bbox, *rpn_weights = _rpn(pyramid, config, return_weights=True)
    if config.USE_RPN_ROIS:
        roi_inputs = []
        rpn_rois = ProposalLayer(
            config.POST_NMS_ROIS_TRAINING, config.RPN_NMS_THRESHOLD, config, name="ROI"
        )([rpn_probs, rpn_bbox, anchors])
    else:
        rois_px = keras.Input((config.POST_NMS_ROIS_TRAINING, 4), dtype="int32", name="input_roi")
        roi_inputs = [rois_px]
        rpn_rois = NormalizeBoxes(image_shape, name="ROI")(rois_px)

    gt_boxes = NormalizeBoxes(image_shape, name="gt_boxes_norm")(gt_boxes_px)
    rois, target_class_ids, target_bbox, target_mask = DetectionTargetLayer(
        config, name="proposal_targets"
    )([rpn_rois, gt_class_ids, gt_boxes, gt_masks])

    anchor_ids, sampled_match = SampledAnchors(config, name="rpn_sampled_anchors")(rpn_match)
    # Only positive ROIs have a mask loss, and they come first: the mask head sees no others.
    box_features, mask_roi_features, patches = SampledFeatures(
        config.POOL_SIZE,
        config.MASK_POOL_SIZE,
        config.ROI_ALIGN,
        len(config.RPN_ANCHOR_RATIOS),
        config.RPN_ANCHOR_STRIDE,
        name="sampled_features",
    )([rois, target_mask, meta, anchor_ids, *pyramid])
    sampled_logits, sampled_bbox = SampledRPN(name="rpn_sampled")(
        [patches, anchor_ids, *rpn_weights]
    )
    box_features = KL.Identity(name="roi_align_classifier")(box_features)
    logits, probs, bbox = box_head(
        box_features, config.NUM_CLASSES, config.TRAIN_BN, config.FPN_CLASSIF_FC_LAYERS_SIZE
    )
    mask_roi_features = KL.Identity(name="roi_align_mask")(mask_roi_features)
    features = mask_features(mask_roi_features, config.TRAIN_BN, config.FPN_MASK_CONV_SIZE)
    mask_layer = MaskConv2D(config.NUM_CLASSES, name="mrcnn_mask")
    masks = mask_layer(features)
    own_masks = mask_layer([features, target_class_ids[:, : target_mask.shape[1]]])

    losses = {
        "rpn_class_loss": [sampled_match, sampled_logits],
        "rpn_bbox_loss": [target_rpn_bbox, sampled_match, sampled_bbox],
        "mrcnn_class_loss": [target_class_ids, logits, ActiveClasses(name="active_classes")(meta)],
        "mrcnn_bbox_loss": [target_bbox, target_class_ids, bbox],
        "mrcnn_mask_loss": [target_mask, target_class_ids, own_masks],
    }
    losses = [LossLayer(name)(losses[name]) for name in LOSS_NAMES]
    output_rois = KL.Identity(dtype="float32", name="output_rois")(rois)
    inputs = [image, meta, *rpn_inputs, gt_class_ids, gt_boxes_px, gt_masks, *roi_inputs]
    outputs = [rpn_logits, rpn_probs, rpn_bbox, logits, probs, bbox, masks, rpn_rois, output_rois]
    return Network(inputs, [*outputs, *losses], name="mask_rcnn")


def build_inference_model(config):
    """The inference graph.

    Inputs: input_image (molded), input_image_meta, input_anchors (normalised).
    Outputs: detections (B, D, 6), mrcnn_class, mrcnn_bbox, mrcnn_mask (B, D, h, w, C), rpn_rois,
    rpn_class, rpn_bbox.

    Returns:
        A functional Network named "mask_rcnn". Its image size is open with the resize modes
        "pad64" and "none", where it varies.
    """
    fixed = config.IMAGE_RESIZE_MODE in ("square", "crop")
    image_shape = tuple(int(side) for side in config.IMAGE_SHAPE)
    count = len(anchor_ops.image_anchors_px(config, image_shape)) if fixed else None
    height, width = image_shape[:2] if fixed else (None, None)
    image = keras.Input((height, width, image_shape[2]), name="input_image")
    meta = keras.Input((config.IMAGE_META_SIZE,), name="input_image_meta")
    anchors = keras.Input((count, 4), name="input_anchors")

    pyramid = _pyramid(image, config)
    _, rpn_probs, rpn_bbox = _rpn(pyramid, config)
    rpn_rois = ProposalLayer(
        config.POST_NMS_ROIS_INFERENCE, config.RPN_NMS_THRESHOLD, config, name="ROI"
    )([rpn_probs, rpn_bbox, anchors])
    _, probs, bbox = fpn_classifier_graph(
        rpn_rois,
        pyramid[:4],
        meta,
        config.POOL_SIZE,
        config.NUM_CLASSES,
        train_bn=config.TRAIN_BN,
        fc_layers_size=config.FPN_CLASSIF_FC_LAYERS_SIZE,
        sampling=config.ROI_ALIGN,
    )
    detections = DetectionLayer(config, name="mrcnn_detection")([rpn_rois, probs, bbox, meta])
    masks = build_fpn_mask_graph(
        detections[..., :4],
        pyramid[:4],
        meta,
        config.MASK_POOL_SIZE,
        config.NUM_CLASSES,
        train_bn=config.TRAIN_BN,
        conv_size=config.FPN_MASK_CONV_SIZE,
        sampling=config.ROI_ALIGN,
    )
    outputs = [detections, probs, bbox, masks, rpn_rois, rpn_probs, rpn_bbox]
    return Network([image, meta, anchors], outputs, name="mask_rcnn")


@keras.saving.register_keras_serializable("mrcnn_parallel")
class ActiveClasses(ConfiguredLayer):
    """image_meta (B, META) -> its last part, active_class_ids (B, C)."""

    def __init__(self, config=None, **kwargs):
        super().__init__(config or {}, **kwargs)

    def call(self, inputs):
        return inputs[:, 12:]

    def compute_output_shape(self, input_shape):
        return (input_shape[0], input_shape[1] - 12)


def mold(images, mean_pixel):
    """Images as the network takes them: float32 minus the mean pixel; float32 ones are so already.

    Args:
        images: (B, H, W, C) uint8, another dtype, or float32.
        mean_pixel: C numbers.

    Returns:
        (B, H, W, C) float32.
    """
    if keras.backend.standardize_dtype(images.dtype) == "float32":
        return images
    return ops.cast(images, "float32") - ops.convert_to_tensor(mean_pixel, dtype="float32")


def own_class_masks(detections, masks):
    """Each detection's mask of its own class, so that the others need not leave the device.

    Args:
        detections: (B, D, 6).
        masks: (B, D, h, w, C).

    Returns:
        (B, D, h, w) float32.
    """
    class_ids = ops.cast(detections[..., 4], "int32")[..., None, None, None]
    return ops.take_along_axis(masks, class_ids, axis=4)[..., 0]


def _pyramid(image, config):
    if callable(config.BACKBONE):
        stages = config.BACKBONE(image, stage5=True, train_bn=config.TRAIN_BN)
    else:
        stages = resnet_graph(image, config.BACKBONE, stage5=True, train_bn=config.TRAIN_BN)
    return fpn_graph(stages[1:], config.TOP_DOWN_PYRAMID_SIZE)


def _rpn(pyramid, config, return_weights=False):
    ratios, depth = len(config.RPN_ANCHOR_RATIOS), config.TOP_DOWN_PYRAMID_SIZE
    rpn = build_rpn_model(config.RPN_ANCHOR_STRIDE, ratios, depth, return_weights)
    return rpn_over_pyramid(rpn, pyramid)
