"""Command line options that the samples share, and what they mean for a Config.

Matterport's scripts set a model's size and devices in a Config class. These options set the same
fields without editing the script: `--gpu-count 2 --backbone resnet50 --config LEARNING_RATE=0.01`.
"""

import argparse
import ast
import logging
import os
import sys

log = logging.getLogger(__name__)

# The layers whose size follows from the number of classes.
CLASS_LAYERS = ["mrcnn_class_logits", "mrcnn_bbox_fc", "mrcnn_bbox", "mrcnn_mask"]
COCO_NUM_CLASSES = 1 + 80
SMALL = {  # what --small sets: a network that one CPU core trains in minutes
    "BACKBONE": "resnet18",
    "IMAGES_PER_GPU": 4,
    "TOP_DOWN_PYRAMID_SIZE": 64,
    "FPN_CLASSIF_FC_LAYERS_SIZE": 256,
    "FPN_MASK_CONV_SIZE": 64,
    "PRE_NMS_LIMIT": 1000,
    "POST_NMS_ROIS_TRAINING": 200,
    "POST_NMS_ROIS_INFERENCE": 100,
    "TRAIN_ROIS_PER_IMAGE": 32,
    "RPN_TRAIN_ANCHORS_PER_IMAGE": 64,
    "MAX_GT_INSTANCES": 20,
    "MINI_MASK_SHAPE": (28, 28),
}
SMALL_IMAGE_PX = 128
STANDARD_ANCHORS_FROM_PX = 512  # image sides from here on keep the Config's anchor scales


def add_config_options(parser):
    """Adds the options that `config_fields` reads."""
    add = parser.add_argument
    add("--gpu-count", type=_gpu_count, metavar="<count|auto>", help="replicas")
    add("--steps", type=int, metavar="<count>", help="training steps an epoch")
    add(
        "--small",
        action="store_true",
        help="a network and images so small that a CPU will do; give it to every command alike",
    )
    add("--image-size", type=int, metavar="<pixels>", help="side of the network's input")
    add("--backbone", metavar="<name>", help="resnet18, resnet34, resnet50 or resnet101")
    add(
        "--config",
        type=_assignment,
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="any field of Config, e.g. --config LEARNING_RATE=0.01; may be repeated",
    )


def config_fields(args):
    """The Config fields that the options of a command line set, by name.

    Args:
        args: what a parser with `add_config_options` returned.

    Returns:
        dict for a Config's constructor, which refuses unknown fields.
    """
    options = {
        "GPU_COUNT": args.gpu_count,
        "STEPS_PER_EPOCH": args.steps,
        "BACKBONE": args.backbone,
    }
    fields = dict(SMALL) if args.small else {}
    fields.update({name: value for name, value in options.items() if value is not None})
    side = args.image_size or (SMALL_IMAGE_PX if args.small else None)
    if side is not None:
        fields.update(IMAGE_MIN_DIM=side, IMAGE_MAX_DIM=side)
        if side < STANDARD_ANCHORS_FROM_PX:
            # The largest anchors are as large as the image, each level's are half the next's.
            fields["RPN_ANCHOR_SCALES"] = tuple(side // 2**i for i in (4, 3, 2, 1, 0))
    return {**fields, **dict(args.config)}


def check_config_options(parser, args, config_class):
    """Ends the program with a usage message where --config names no field of the class."""
    try:
        config_class(**{name: value for name, value in args.config if name != "GPU_COUNT"})
    except AttributeError as error:
        parser.error(str(error))


def expose_devices(gpu_count):
    """Lets several replicas run on a machine without GPUs: one CPU then counts as several devices.

    Call it before anything else uses Keras.
    """
    if gpu_count in (None, "auto", 1):
        return
    from mrcnn_parallel import backend

    backend.expose_cpu_devices(gpu_count)
    if not backend.gpus():
        log.info("No GPU found: GPU_COUNT=%d runs on %d CPU devices.", gpu_count, gpu_count)


def is_from_scratch(weights):
    """Whether a --weights or --model option asks for random weights."""
    return weights.lower() in ("random", "none")


def load_named_weights(model, weights, coco_path):
    """Loads what a --weights or --model option names into a model.

    Args:
        model: a MaskRCNN.
        weights: "coco", "imagenet", "last" (the last checkpoint in the model's log folder),
            "random" or "none", or a path.
        coco_path: where Matterport's COCO weights are or will be downloaded to.
    """
    if is_from_scratch(weights):
        return
    path, exclude, strict = weights, None, True
    if weights.lower() == "coco":
        path = coco_path
        if not os.path.exists(path):
            from mrcnn_parallel import utils

            utils.download_trained_weights(path)
        if model.config.NUM_CLASSES != COCO_NUM_CLASSES:
            exclude = CLASS_LAYERS
            log.info("COCO's weights are for 80 classes: %s start anew.", ", ".join(exclude))
    elif weights.lower() == "last":
        path = model.find_last()
    elif weights.lower() == "imagenet":
        path, strict = model.get_imagenet_weights(), False  # the backbone's only
    log.info("Loading weights %s", path)
    model.load_weights(path, by_name=True, exclude=exclude, strict=strict)


def log_to_stdout(*names):
    """Shows this package's log and that of the named loggers, other libraries' warnings only."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
    for name in ("mrcnn_parallel", *names):
        logging.getLogger(name).setLevel(logging.INFO)


def true_or_false(text):
    """argparse type: `bool` would take any text, "False" too, for True."""
    values = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")
    return values[text.lower()]


def _gpu_count(text):
    if text != "auto" and not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is neither a positive number nor 'auto'")
    return text if text == "auto" else int(text)


def _assignment(text):
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form FIELD=VALUE")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value  # text without quotes
