"""The network and Config of the scripts here: Matterport's, as small as it gets.

The goldens' backbone is a function in the form that Matterport's Config.BACKBONE takes.
"""

from golden_configs import tiny_backbone, tiny_backbone_shape
from mrcnn.config import Config


class TinyConfig(Config):
    GPU_COUNT = 2
    IMAGES_PER_GPU = 1
    BACKBONE = staticmethod(tiny_backbone)
    COMPUTE_BACKBONE_SHAPE = staticmethod(tiny_backbone_shape)
    TOP_DOWN_PYRAMID_SIZE = 16
    FPN_CLASSIF_FC_LAYERS_SIZE = 32
    IMAGE_MIN_DIM = 64
    IMAGE_MAX_DIM = 64
    RPN_ANCHOR_SCALES = (8, 16, 32, 48, 64)
    RPN_TRAIN_ANCHORS_PER_IMAGE = 64
    TRAIN_ROIS_PER_IMAGE = 16
    POST_NMS_ROIS_TRAINING = 100
    POST_NMS_ROIS_INFERENCE = 50
    MAX_GT_INSTANCES = 8
    MINI_MASK_SHAPE = (28, 28)
    STEPS_PER_EPOCH = 2
    VALIDATION_STEPS = 1
