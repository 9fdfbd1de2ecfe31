"""Config: every setting of a model and its training. Subclass it and override what differs.

The names, defaults and meanings are Matterport's; the fields under "Ours" are new. Values that
follow from others (BATCH_SIZE, IMAGE_SHAPE, IMAGE_META_SIZE) are computed when a Config is made.
"""

import logging

import numpy as np

log = logging.getLogger(__name__)

RESIZE_MODES = ("square", "pad64", "crop", "none")
BACKBONES = ("resnet18", "resnet34", "resnet50", "resnet101")
LOSS_NAMES = (
    "rpn_class_loss",
    "rpn_bbox_loss",
    "mrcnn_class_loss",
    "mrcnn_bbox_loss",
    "mrcnn_mask_loss",
)


class Config:
    """Base configuration. An unknown field given to the constructor is an error.

    Args:
        **overrides: values for any of the fields below, e.g. `ShapesConfig(GPU_COUNT=2)`.

    Raises:
        AttributeError: an override is not a field of this class.
    """

    # === Matterport's fields ===
    NAME = None  # names the log folder and the checkpoints; set it in the subclass
    GPU_COUNT = 1  # replicas, or "auto" for every visible device
    IMAGES_PER_GPU = 2  # images a replica sees in one step
    STEPS_PER_EPOCH = 1000  # training steps between two checkpoints
    VALIDATION_STEPS = 50  # validation batches after each epoch
    BACKBONE = "resnet101"  # one of BACKBONES, or a function that builds the graph
    COMPUTE_BACKBONE_SHAPE = None  # function of the image shape; needed with a callable BACKBONE
    BACKBONE_STRIDES = [4, 8, 16, 32, 64]  # pixels of the image per cell of P2..P6
    FPN_CLASSIF_FC_LAYERS_SIZE = 1024  # units of the two dense layers of the box head
    TOP_DOWN_PYRAMID_SIZE = 256  # channels of P2..P6
    NUM_CLASSES = 1  # classes including the background
    RPN_ANCHOR_SCALES = (32, 64, 128, 256, 512)  # anchor side in pixels, one a pyramid level
    RPN_ANCHOR_RATIOS = [0.5, 1, 2]  # width / height
    RPN_ANCHOR_STRIDE = 1  # 1: anchors at every cell, 2: at every other
    RPN_NMS_THRESHOLD = 0.7  # IoU above which a proposal is dropped
    RPN_TRAIN_ANCHORS_PER_IMAGE = 256  # anchors whose loss counts
    PRE_NMS_LIMIT = 6000  # proposals kept before NMS, by score
    POST_NMS_ROIS_TRAINING = 2000  # proposals kept after NMS
    POST_NMS_ROIS_INFERENCE = 1000
    USE_MINI_MASK = True  # store masks inside their boxes, MINI_MASK_SHAPE large
    MINI_MASK_SHAPE = (56, 56)  # (height, width)
    IMAGE_RESIZE_MODE = "square"  # one of RESIZE_MODES; see utils.resize_image
    IMAGE_MIN_DIM = 800  # pixels
    IMAGE_MAX_DIM = 1024  # pixels
    IMAGE_MIN_SCALE = 0  # smallest scale-up; 0: none is forced
    IMAGE_CHANNEL_COUNT = 3
    MEAN_PIXEL = np.array([123.7, 116.8, 103.9])  # subtracted from the image, per channel (RGB)
    TRAIN_ROIS_PER_IMAGE = 200  # ROIs given to the heads
    ROI_POSITIVE_RATIO = 0.33  # at most this share of them positive
    POOL_SIZE = 7  # cells a side of the box head's ROIs
    MASK_POOL_SIZE = 14  # the same for the mask head
    MASK_SHAPE = [28, 28]  # (height, width) of a predicted mask
    MAX_GT_INSTANCES = 100  # objects of one image used in training
    RPN_BBOX_STD_DEV = np.array([0.1, 0.1, 0.2, 0.2])  # scale of (dy, dx, log dh, log dw)
    BBOX_STD_DEV = np.array([0.1, 0.1, 0.2, 0.2])
    DETECTION_MAX_INSTANCES = 100
    DETECTION_MIN_CONFIDENCE = 0.7
    DETECTION_NMS_THRESHOLD = 0.3
    LEARNING_RATE = 0.001
    LEARNING_MOMENTUM = 0.9
    WEIGHT_DECAY = 0.0001  # L2, divided by the weight's size, as Matterport has it
    LOSS_WEIGHTS = dict.fromkeys(LOSS_NAMES, 1.0)
    USE_RPN_ROIS = True  # False: ROIs come from the generator (`random_rois`)
    TRAIN_BN = False  # False: BatchNorm uses its moving statistics; None or True: batch statistics
    GRADIENT_CLIP_NORM = 5.0  # limit of the norm of all gradients together

    # === Ours ===
    DTYPE_POLICY = "auto"  # Keras dtype policy; "auto": mixed_bfloat16 on GPUs that have it
    RPN_TARGETS = "device"  # "device": anchors are matched on the GPU; "input": by the generator
    ROI_ALIGN = "crop_and_resize"  # Matterport's sampling, or "roi_align" (2 samples a bin)
    RANDOM_SAMPLING = True  # False: the first ROIs and anchors are sampled, not random ones
    FPN_MASK_CONV_SIZE = 256  # channels of the mask head
    SEED = None  # fixes data order, augmentation and sampling; None: different each time
    LOADER_WORKERS = "auto"  # that load images while the devices train; 0: none; "auto": 4 a GPU
    LOADER_PROCESSES = "auto"  # workers are processes, not threads; "auto": if there are 3 or more
    LOADER_TIMEOUT = 120.0  # seconds after which loading one image counts as hung
    ON_BAD_SAMPLE = "skip"  # an image that can't be loaded: "skip" (another instead) or "raise"
    BAD_SAMPLE_LIMIT = 0.1  # share of the samples that may be skipped before training stops

    def __init__(self, **overrides):
        for name, value in overrides.items():
            if not name.isupper() or not hasattr(type(self), name):
                raise AttributeError(
                    f"{type(self).__name__} has no field {name!r}; its fields are "
                    f"{', '.join(self._fields())}."
                )
            setattr(self, name, value)
        if self.GPU_COUNT == "auto":
            from mrcnn_parallel import backend

            self.GPU_COUNT = len(backend.visible_devices())
        if isinstance(self.GPU_COUNT, int):
            self.BATCH_SIZE = self.IMAGES_PER_GPU * self.GPU_COUNT
        if self.IMAGE_RESIZE_MODE == "crop":
            sides = (self.IMAGE_MIN_DIM, self.IMAGE_MIN_DIM)
        else:
            sides = (self.IMAGE_MAX_DIM, self.IMAGE_MAX_DIM)
        self.IMAGE_SHAPE = np.array([*sides, self.IMAGE_CHANNEL_COUNT])
        # image_id (1), original shape (3), shape (3), window (4), scale (1), active_class_ids
        self.IMAGE_META_SIZE = 1 + 3 + 3 + 4 + 1 + self.NUM_CLASSES

    @classmethod
    def _fields(cls):
        return [name for name in dir(cls) if name.isupper()]

    def to_dict(self):
        """All fields, also the computed ones, by name in alphabetical order."""
        return {name: getattr(self, name) for name in sorted(dir(self)) if name.isupper()}

    def display(self):
        """Prints every field, as Matterport's scripts expect."""
        print("\nConfigurations:")
        for name, value in self.to_dict().items():
            print(f"{name:30} {value}")
        print("\n")

    def validate(self, mode="training"):
        """Checks that a model can be built from these values.

        Raises:
            ValueError: naming the field, its value and what it may be.
        """
        if mode not in ("training", "inference"):
            raise ValueError(f"mode is {mode!r}; it must be 'training' or 'inference'.")
        for name, low in _LEAST.items():
            value = getattr(self, name)
            if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < low:
                raise ValueError(f"Config.{name} is {value!r}; it must be an integer >= {low}.")
        if self.BATCH_SIZE != self.IMAGES_PER_GPU * self.GPU_COUNT:
            raise ValueError(
                f"Config.BATCH_SIZE is {self.BATCH_SIZE}, but IMAGES_PER_GPU "
                f"({self.IMAGES_PER_GPU}) x GPU_COUNT ({self.GPU_COUNT}) is "
                f"{self.IMAGES_PER_GPU * self.GPU_COUNT}; set those two in the class, or pass them "
                "to its constructor, and leave BATCH_SIZE be."
            )
        if self.NUM_CLASSES < 2:
            raise ValueError(
                f"Config.NUM_CLASSES is {self.NUM_CLASSES}; it must be >= 2, since it counts the "
                "background: for N kinds of object set it to 1 + N."
            )
        self._validate_sizes()
        self._validate_choices()

    def _validate_sizes(self):
        if self.IMAGE_RESIZE_MODE not in RESIZE_MODES:
            raise ValueError(
                f"Config.IMAGE_RESIZE_MODE is {self.IMAGE_RESIZE_MODE!r}; it must be one of "
                f"{', '.join(RESIZE_MODES)}."
            )
        fields = {"square": "IMAGE_MAX_DIM", "crop": "IMAGE_MIN_DIM", "pad64": "IMAGE_MIN_DIM"}
        field = fields.get(self.IMAGE_RESIZE_MODE, "IMAGE_MAX_DIM")
        size = getattr(self, field)
        if size % 64:
            raise ValueError(
                f"Config.{field} is {size}; it must be divisible by 64, since the image is halved "
                "6 times: try 128, 256, 512, 768, 1024 ..."
            )
        if len(self.IMAGE_SHAPE) != 3 or any(int(side) % 64 for side in self.IMAGE_SHAPE[:2]):
            raise ValueError(
                f"Config.IMAGE_SHAPE is {tuple(self.IMAGE_SHAPE)}; its height and width must be "
                "divisible by 64."
            )
        if len(np.ravel(self.MEAN_PIXEL)) != self.IMAGE_CHANNEL_COUNT:
            raise ValueError(
                f"Config.MEAN_PIXEL has {len(np.ravel(self.MEAN_PIXEL))} values, but "
                f"IMAGE_CHANNEL_COUNT is {self.IMAGE_CHANNEL_COUNT}; give one mean per channel."
            )
        levels = len(self.BACKBONE_STRIDES)
        if len(self.RPN_ANCHOR_SCALES) != levels:
            raise ValueError(
                f"Config.RPN_ANCHOR_SCALES has {len(self.RPN_ANCHOR_SCALES)} values for {levels} "
                "pyramid levels (BACKBONE_STRIDES); give one scale per level."
            )
        if tuple(self.MASK_SHAPE) != (2 * self.MASK_POOL_SIZE, 2 * self.MASK_POOL_SIZE):
            raise ValueError(
                f"Config.MASK_SHAPE is {tuple(self.MASK_SHAPE)}; the mask head doubles "
                f"MASK_POOL_SIZE ({self.MASK_POOL_SIZE}), so it must be "
                f"{(2 * self.MASK_POOL_SIZE,) * 2}."
            )

    def _validate_choices(self):
        workers = self.LOADER_WORKERS
        if workers != "auto" and (type(workers) is not int or workers < 0):
            raise ValueError(
                f"Config.LOADER_WORKERS is {workers!r}; it must be 'auto' or an integer >= 0."
            )
        if callable(self.BACKBONE):
            if not callable(self.COMPUTE_BACKBONE_SHAPE):
                raise ValueError(
                    "Config.BACKBONE is a function, so COMPUTE_BACKBONE_SHAPE must be one too: it "
                    "takes the image shape and returns the (5, 2) sizes of P2..P6."
                )
        elif self.BACKBONE not in BACKBONES:
            raise ValueError(
                f"Config.BACKBONE is {self.BACKBONE!r}; it must be one of {', '.join(BACKBONES)} "
                "or a function."
            )
        for field, choices in _CHOICES.items():
            if getattr(self, field) not in choices:
                raise ValueError(
                    f"Config.{field} is {getattr(self, field)!r}; it must be one of "
                    f"{', '.join(map(repr, choices))}."
                )
        for field, high in (("LOADER_TIMEOUT", None), ("BAD_SAMPLE_LIMIT", 1)):
            value = getattr(self, field)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not 0 <= value <= (high or float("inf")) or not (high or value):
                raise ValueError(
                    f"Config.{field} is {value!r}; it must be a number "
                    f"{'of seconds above 0' if high is None else f'from 0 to {high}'}."
                )
        unknown = set(self.LOSS_WEIGHTS) - set(LOSS_NAMES)
        if unknown:
            raise ValueError(
                f"Config.LOSS_WEIGHTS names {', '.join(sorted(unknown))}; the losses are "
                f"{', '.join(LOSS_NAMES)}."
            )


_LEAST = {  # smallest value of each integer field that a model is built from
    "GPU_COUNT": 1,
    "IMAGES_PER_GPU": 1,
    "NUM_CLASSES": 1,
    "IMAGE_CHANNEL_COUNT": 1,
    "IMAGE_MIN_DIM": 1,
    "IMAGE_MAX_DIM": 1,
    "TOP_DOWN_PYRAMID_SIZE": 1,
    "FPN_CLASSIF_FC_LAYERS_SIZE": 1,
    "FPN_MASK_CONV_SIZE": 1,
    "RPN_ANCHOR_STRIDE": 1,
    "RPN_TRAIN_ANCHORS_PER_IMAGE": 2,
    "PRE_NMS_LIMIT": 1,
    "POST_NMS_ROIS_TRAINING": 1,
    "POST_NMS_ROIS_INFERENCE": 1,
    "TRAIN_ROIS_PER_IMAGE": 1,
    "MAX_GT_INSTANCES": 1,
    "DETECTION_MAX_INSTANCES": 1,
    "POOL_SIZE": 2,
    "MASK_POOL_SIZE": 2,
}

_CHOICES = {
    "RPN_TARGETS": ("device", "input"),
    "ROI_ALIGN": ("crop_and_resize", "roi_align"),
    "RANDOM_SAMPLING": (False, True),
    "TRAIN_BN": (None, False, True),
    "ON_BAD_SAMPLE": ("skip", "raise"),
    "LOADER_PROCESSES": ("auto", False, True),
}
