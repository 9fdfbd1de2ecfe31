"""Mask R-CNN on shapes drawn on the fly: the first thing to run.

    python samples/shapes/shapes.py                   # train, evaluate, save a picture
    python samples/shapes/shapes.py --gpu-count 1     # on one device
    python samples/shapes/shapes.py --backbone resnet50 --image-size 128 --epochs 20

Squares, circles and triangles on a plain background, from random weights. On a machine without a
GPU it exposes 2 CPU devices, trains one replica on each, and makes the network small: about 13
core-minutes, and a mask mAP@0.5 of 0.8 on 50 images it never saw. Choose the backend with
KERAS_BACKEND=tensorflow or jax.
"""

import argparse
import logging
import math
import os
import random
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
ROOT_DIR = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT_DIR))

import numpy as np  # noqa: E402

from mrcnn_parallel import backend, utils  # noqa: E402
from mrcnn_parallel.config import Config  # noqa: E402

DEFAULT_LOGS_DIR = ROOT_DIR / "logs"


class ShapesConfig(Config):
    """Matterport's configuration for the toy shapes dataset."""

    NAME = "shapes"
    GPU_COUNT = 1
    IMAGES_PER_GPU = 8
    NUM_CLASSES = 1 + 3  # background + square, circle, triangle
    IMAGE_MIN_DIM = 128
    IMAGE_MAX_DIM = 128
    RPN_ANCHOR_SCALES = (8, 16, 32, 64, 128)
    TRAIN_ROIS_PER_IMAGE = 32
    STEPS_PER_EPOCH = 100
    VALIDATION_STEPS = 5


class FromScratchConfig(ShapesConfig):
    """What differs because training starts from random weights, not from COCO's."""

    BACKBONE = "resnet50"
    TRAIN_BN = True  # there are no moving statistics to rely on
    LEARNING_RATE = 0.02
    DETECTION_MIN_CONFIDENCE = 0.5
    MAX_GT_INSTANCES = 8
    MINI_MASK_SHAPE = (28, 28)
    SEED = 0


def small_backbone(input_image, stage5=True, train_bn=True):
    """A ResNet of 9 convolutions, as a function that BACKBONE may be: returns [C1 ... C5]."""
    from keras import layers

    from mrcnn_parallel.nets.conv import conv_bn, relu
    from mrcnn_parallel.nets.resnet import basic_block

    x = layers.ZeroPadding2D((3, 3))(input_image)
    names = ("conv1", "bn_conv1")
    x = conv_bn(x, 16, (7, 7), names, strides=2, train_bn=train_bn, padding="valid")
    x = layers.Activation(relu)(x)
    stages = [layers.MaxPooling2D((3, 3), strides=(2, 2), padding="same")(x)]
    for stage, filters in enumerate((32, 64, 96, 128), start=2):
        strides = 1 if stage == 2 else 2
        stages.append(basic_block(stages[-1], filters, stage, "a", strides, train_bn=train_bn))
    return stages


def small_backbone_shape(image_shape):
    """(5, 2) sizes of P2 ... P6 for `small_backbone`."""
    return np.array(
        [[math.ceil(side / stride) for side in image_shape[:2]] for stride in (4, 8, 16, 32, 64)]
    )


class SmallConfig(FromScratchConfig):
    """A network that two CPU cores train in minutes."""

    BACKBONE = staticmethod(small_backbone)
    COMPUTE_BACKBONE_SHAPE = staticmethod(small_backbone_shape)
    IMAGES_PER_GPU = 4
    TOP_DOWN_PYRAMID_SIZE = 64
    FPN_CLASSIF_FC_LAYERS_SIZE = 256
    FPN_MASK_CONV_SIZE = 64
    PRE_NMS_LIMIT = 500
    POST_NMS_ROIS_TRAINING = 150
    POST_NMS_ROIS_INFERENCE = 100
    RPN_TRAIN_ANCHORS_PER_IMAGE = 64
    VALIDATION_STEPS = 3


class ShapesDataset(utils.Dataset):
    """Images of 1 to 4 shapes, drawn when they are asked for."""

    def load_shapes(self, count, height, width, seed=None):
        """Plans `count` images of that size.

        Args:
            seed: makes the same images each time; None draws new ones.
        """
        rng = random.Random(seed)
        for class_id, name in enumerate(("square", "circle", "triangle"), start=1):
            self.add_class("shapes", class_id, name)
        for image_id in range(count):
            bg_color, shapes = self.random_image(height, width, rng)
            self.add_image(
                "shapes",
                image_id=image_id,
                path=None,
                width=width,
                height=height,
                bg_color=bg_color,
                shapes=shapes,
            )

    def load_image(self, image_id):
        """Draws the image, (H, W, 3) uint8."""
        info = self.image_info[image_id]
        color = np.array(info["bg_color"], dtype=np.uint8)
        image = np.tile(color, (info["height"], info["width"], 1))
        for shape, color, dims in info["shapes"]:
            image = self.draw_shape(image, shape, dims, color)
        return image

    def image_reference(self, image_id):
        """The shapes of the image."""
        info = self.image_info[image_id]
        if info["source"] == "shapes":
            return info["shapes"]
        return super().image_reference(image_id)

    def load_mask(self, image_id):
        """Masks (H, W, N) bool, less what later shapes hide, and class ids (N,)."""
        info = self.image_info[image_id]
        shapes = info["shapes"]
        masks = np.zeros((info["height"], info["width"], len(shapes)), dtype=np.uint8)
        hidden = np.zeros((info["height"], info["width"]), dtype=np.uint8)
        for i, (shape, _, dims) in reversed(list(enumerate(shapes))):
            drawn = self.draw_shape(np.zeros_like(hidden), shape, dims, 1)
            masks[:, :, i] = drawn & ~hidden & 1
            hidden |= drawn
        class_ids = np.array([self.class_names.index(shape) for shape, *_ in shapes])
        return masks.astype(bool), class_ids.astype(np.int32)

    def draw_shape(self, image, shape, dims, color):
        """Draws a shape with centre (x, y) and half size s, all of `dims`, into the image."""
        import cv2

        x, y, s = dims
        if not np.isscalar(color):
            color = tuple(int(c) for c in color)
        if shape == "square":
            return cv2.rectangle(image, (x - s, y - s), (x + s, y + s), color, -1)
        if shape == "circle":
            return cv2.circle(image, (x, y), s, color, -1)
        if shape == "triangle":
            half = s / math.sin(math.radians(60))
            corners = np.array([[(x, y - s), (x - half, y + s), (x + half, y + s)]])
            return cv2.fillPoly(image, corners.astype(np.int32), color)
        raise ValueError(f"unknown shape {shape!r}; draw square, circle or triangle.")

    def random_shape(self, height, width, rng=random):
        """A shape's name, colour and (x, y, s)."""
        shape = rng.choice(["square", "circle", "triangle"])
        color = tuple(rng.randint(0, 255) for _ in range(3))
        buffer = 20 * min(height, width) // 128  # keeps shapes off the border
        y = rng.randint(buffer, height - buffer - 1)
        x = rng.randint(buffer, width - buffer - 1)
        return shape, color, (x, y, rng.randint(buffer, height // 4))

    def random_image(self, height, width, rng=random):
        """A background colour and 1 to 4 shapes that do not hide each other much."""
        bg_color = np.array([rng.randint(0, 255) for _ in range(3)])
        shapes = [self.random_shape(height, width, rng) for _ in range(rng.randint(1, 4))]
        boxes = [(y - s, x - s, y + s, x + s) for _, _, (x, y, s) in shapes]
        keep = utils.non_max_suppression(np.array(boxes), np.arange(len(shapes)), 0.3)
        return bg_color, [s for i, s in enumerate(shapes) if i in keep]


def dataset(count, config, seed):
    """A prepared ShapesDataset."""
    shapes = ShapesDataset()
    shapes.load_shapes(count, *config.IMAGE_SHAPE[:2], seed=seed)
    shapes.prepare()
    return shapes


def evaluate(model, data, config):
    """Mean AP@0.5 of the masks, over the images of a dataset, and the detections."""
    average_precisions, results = [], []
    image_ids = data.image_ids
    for start in range(0, len(image_ids), config.BATCH_SIZE):
        chunk = image_ids[start : start + config.BATCH_SIZE]
        results += model.detect([data.load_image(i) for i in chunk])
    for image_id, found in zip(image_ids, results, strict=True):
        masks, class_ids = data.load_mask(image_id)
        average_precision, *_ = utils.compute_ap(
            utils.extract_bboxes(masks),
            class_ids,
            masks,
            found["rois"],
            found["class_ids"],
            found["scores"],
            found["masks"],
            iou_threshold=0.5,
        )
        average_precisions.append(average_precision)
    return float(np.mean(average_precisions)), results


def save_picture(data, results, path, count=4):
    """Ground truth (above) and detections (below) of the first images, as one PNG."""
    from matplotlib.figure import Figure

    from mrcnn_parallel import visualize

    figure = Figure(figsize=(4 * count, 8), layout="tight")
    axes = figure.subplots(2, count)
    for column, image_id in enumerate(data.image_ids[:count]):
        image, found = data.load_image(image_id), results[image_id]
        masks, class_ids = data.load_mask(image_id)
        visualize.display_instances(
            image,
            utils.extract_bboxes(masks),
            masks,
            class_ids,
            data.class_names,
            title="ground truth",
            ax=axes[0, column],
        )
        visualize.display_instances(
            image,
            found["rois"],
            found["masks"],
            found["class_ids"],
            data.class_names,
            found["scores"],
            title="detections",
            ax=axes[1, column],
        )
    figure.savefig(path, dpi=60)


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        epilog="The checkpoints, TensorBoard curves and the picture go to a folder in --logs.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("command", nargs="?", default="train", choices=["train", "evaluate"])
    parser.add_argument("--gpu-count", type=int, help="replicas; 2 on a CPU, else all GPUs")
    parser.add_argument("--images-per-gpu", type=int, help="images a replica takes in a step")
    parser.add_argument("--epochs", type=int, help="passes of --steps steps; 5 on a CPU, else 20")
    parser.add_argument("--steps", type=int, default=100, help="steps of an epoch")
    parser.add_argument("--backbone", help="resnet18, resnet34, resnet50 or resnet101")
    parser.add_argument("--image-size", type=int, default=128, help="pixels a side")
    parser.add_argument("--learning-rate", type=float, help="of SGD with momentum 0.9")
    parser.add_argument("--seed", type=int, default=0, help="of weights, data and sampling")
    parser.add_argument("--weights", help="evaluate: a checkpoint; the last one if not given")
    parser.add_argument("--logs", default=str(DEFAULT_LOGS_DIR), help="folder for the runs")
    return parser.parse_args(argv)


def choose_config(arguments):
    """Configuration class for this machine, with what the command line overrides."""
    count = arguments.gpu_count or 2
    on_cpu = backend.expose_cpu_devices_without_gpu(count)
    if on_cpu:
        logging.info(
            "No GPU found: training a small network on %d CPU device(s). --backbone, --image-size "
            "and --epochs change that.",
            count,
        )
    base = SmallConfig if on_cpu else FromScratchConfig
    overrides = {
        "GPU_COUNT": arguments.gpu_count or (2 if on_cpu else "auto"),
        "IMAGES_PER_GPU": arguments.images_per_gpu or base.IMAGES_PER_GPU,
        "STEPS_PER_EPOCH": arguments.steps,
        "BACKBONE": arguments.backbone or base.BACKBONE,
        "LEARNING_RATE": arguments.learning_rate or base.LEARNING_RATE,
        "IMAGE_MIN_DIM": arguments.image_size,
        "IMAGE_MAX_DIM": arguments.image_size,
        "SEED": arguments.seed,
    }
    arguments.epochs = arguments.epochs or (5 if on_cpu else 20)
    return base, overrides


def main(argv=None):
    arguments = parse_arguments(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    base, overrides = choose_config(arguments)

    import keras

    from mrcnn_parallel.model import MaskRCNN

    keras.utils.set_random_seed(arguments.seed)
    config = base(**overrides)
    path = arguments.weights
    if arguments.command == "train":
        started = time.perf_counter()
        model = MaskRCNN("training", config, arguments.logs)
        images = arguments.epochs * config.STEPS_PER_EPOCH * config.BATCH_SIZE
        model.train(
            dataset(min(images, 5000), config, seed=arguments.seed),
            dataset(50, config, seed=arguments.seed + 1),
            learning_rate=config.LEARNING_RATE,
            epochs=arguments.epochs,
            layers="all",
        )
        seconds = time.perf_counter() - started
        logging.info("Trained on %d images in %.0f s", images, seconds)
        path = path or model.find_last()

    held_out = dataset(50, config, seed=arguments.seed + 2)
    model = MaskRCNN("inference", config, arguments.logs)
    model.load_weights(path or model.find_last(), by_name=True)
    mean_ap, results = evaluate(model, held_out, config)
    Path(model.log_dir).mkdir(parents=True, exist_ok=True)
    picture = Path(model.log_dir) / "detections.png"
    save_picture(held_out, results, picture)
    logging.info("Saved %s", picture)
    print(f"mask mAP@0.5 = {mean_ap:.3f} on {len(held_out.image_ids)} images")


if __name__ == "__main__":
    main()
