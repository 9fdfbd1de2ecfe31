"""Train on balloons and leave only them in color: Matterport's balloon sample.

    python samples/balloon/balloon.py train --dataset=/path/to/balloon --weights=coco
    python samples/balloon/balloon.py train --dataset=/path/to/balloon --weights=last
    python samples/balloon/balloon.py splash --weights=last --image=<URL or path to file>
    python samples/balloon/balloon.py splash --weights=last --video=<URL or path to file>

The dataset folder has train/ and val/, each with its pictures and a via_region_data.json, which VGG
Image Annotator writes (versions 1, 2 and 3; any closed shape). To make this sample yours, copy it
and change NAME, the class names and, for several classes, load_mask.
"""

import argparse
import datetime
import logging
import os
import sys
from pathlib import Path

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
ROOT_DIR = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT_DIR))  # so that a checkout works without installation

# ruff: noqa: E402
from mrcnn_parallel import model as modellib
from mrcnn_parallel import options, utils
from mrcnn_parallel.config import Config
from mrcnn_parallel.data import via_format
from mrcnn_parallel.data.images import read_image

log = logging.getLogger("balloon")

COCO_WEIGHTS_PATH = str(ROOT_DIR / "mask_rcnn_coco.h5")
DEFAULT_LOGS_DIR = str(ROOT_DIR / "logs")
DEFAULT_FPS = 25.0  # of videos that don't say


class BalloonConfig(Config):
    """Settings for the balloon dataset."""

    NAME = "balloon"
    IMAGES_PER_GPU = 2  # fits a GPU with 12 GB
    NUM_CLASSES = 1 + 1  # background and balloon
    STEPS_PER_EPOCH = 100
    DETECTION_MIN_CONFIDENCE = 0.9


class BalloonDataset(utils.Dataset):
    """Pictures annotated with VGG Image Annotator."""

    def load_balloon(self, dataset_dir, subset):
        """Adds the pictures of a subset; those without a region are left out.

        Args:
            dataset_dir: folder with the subsets.
            subset: "train" or "val", a folder in it.

        Raises:
            FileNotFoundError: the folder, its annotation file or a picture is missing.
        """
        from PIL import Image

        folder = Path(dataset_dir, subset)
        path = folder / "via_region_data.json"
        if not path.is_file():
            raise FileNotFoundError(
                f"No annotations of the subset {subset!r}: looked for {path}. The dataset folder "
                "holds train/ and val/, each with its pictures and a via_region_data.json."
            )
        self.add_class("balloon", 1, "balloon")
        for name, regions in via_format.read_via(path).items():
            if not regions:
                continue  # the annotator also saves pictures that nobody has annotated
            if not (folder / name).is_file():
                raise FileNotFoundError(f"{path} names {name}, which is not in {folder}.")
            with Image.open(folder / name) as image:  # reads the header only
                width, height = image.size
            self.add_image(
                "balloon",
                image_id=name,
                path=str(folder / name),
                width=width,
                height=height,
                polygons=[region["shape"] for region in regions],
            )

    def load_mask(self, image_id):
        """Masks (H, W, N) bool and class ids (N,) int32 of the image's balloons."""
        info = self.image_info[image_id]
        if info["source"] != "balloon":
            return super().load_mask(image_id)
        masks = [
            via_format.region_mask(shape, info["height"], info["width"])
            for shape in info["polygons"]
        ]
        return np.stack(masks, axis=-1), np.ones(len(masks), np.int32)

    def image_reference(self, image_id):
        """The picture's path."""
        info = self.image_info[image_id]
        return info["path"] if info["source"] == "balloon" else super().image_reference(image_id)


def train(model, dataset_dir=ROOT_DIR / "datasets" / "balloon", epochs=30, layers="heads"):
    """Trains on the subset "train" and validates on "val".

    Args:
        model: MaskRCNN in training mode.
        dataset_dir: the folder that the top of this file describes.
        epochs: number of the last epoch. From COCO's weights, with so little data, 30 are enough
            and only the heads need training.
        layers: see MaskRCNN.train.
    """
    datasets = []
    for subset in ("train", "val"):
        dataset = BalloonDataset()
        dataset.load_balloon(dataset_dir, subset)
        dataset.prepare()
        datasets.append(dataset)
    model.train(*datasets, learning_rate=model.config.LEARNING_RATE, epochs=epochs, layers=layers)


def color_splash(image, mask):
    """Turns an image to grey outside the masks.

    Args:
        image: (H, W, 3) uint8 RGB.
        mask: (H, W, N), N may be 0.

    Returns:
        (H, W, 3) uint8.
    """
    luminance = np.array([0.2125, 0.7154, 0.0721])  # ITU-R BT.709
    grey = np.repeat((image @ luminance)[..., None], 3, axis=-1).round().astype(np.uint8)
    inside = np.asarray(mask).astype(bool).any(axis=-1, keepdims=True)
    return np.where(inside, image, grey)


def detect_and_color_splash(model, image_path=None, video_path=None):
    """Finds balloons in an image or a video and writes the color splash to the current folder.

    Args:
        model: MaskRCNN in inference mode.
        image_path, video_path: file or URL, one of them.

    Returns:
        Name of the written file, splash_<time>.png or .avi.

    Raises:
        ValueError: neither an image nor a video is given.
        OSError: the video can't be opened or written.
    """
    if not image_path and not video_path:
        raise ValueError("detect_and_color_splash needs an image_path or a video_path.")
    name = f"splash_{datetime.datetime.now():%Y%m%dT%H%M%S}"
    if image_path:
        from PIL import Image

        log.info("Running on %s", image_path)
        image = read_image(image_path)
        found = model.detect([image], verbose=1)[0]
        name += ".png"
        Image.fromarray(color_splash(image, found["masks"])).save(name)
    else:
        name += ".avi"
        count = _splash_video(model, video_path, name)
        log.info("%d frames", count)
    log.info("Saved to %s", name)
    return name


def _splash_video(model, video_path, name):
    """Reads, detects and writes frame by frame; returns how many."""
    import cv2

    capture = cv2.VideoCapture(str(video_path))
    if not capture.isOpened():
        raise OSError(f"The video {video_path} can't be opened.")
    size = tuple(
        int(capture.get(side)) for side in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
    )
    fps = capture.get(cv2.CAP_PROP_FPS) or DEFAULT_FPS
    writer = cv2.VideoWriter(name, cv2.VideoWriter_fourcc(*"MJPG"), fps, size)
    if not writer.isOpened():
        raise OSError(f"The video {name} can't be written: OpenCV has no writer for it.")
    count = 0
    try:
        while True:
            success, frame = capture.read()
            if not success:
                break
            if count % 100 == 0:
                log.info("frame %d", count)
            image = np.ascontiguousarray(frame[..., ::-1])  # OpenCV's BGR to RGB
            found = model.detect([image], verbose=0)[0]
            writer.write(np.ascontiguousarray(color_splash(image, found["masks"])[..., ::-1]))
            count += 1
    finally:
        capture.release()
        writer.release()
    if count == 0:
        raise OSError(f"The video {video_path} has no frame that can be read.")
    return count


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(description="Train Mask R-CNN to detect balloons.")
    add = parser.add_argument
    add("command", metavar="<command>", choices=["train", "splash"], help="train or splash")
    add("--dataset", metavar="/path/to/balloon/dataset/", help="folder with train/ and val/")
    add(
        "--weights",
        required=True,
        metavar="/path/to/weights.h5",
        help="weights file, or coco, imagenet, last (of the log folder), random",
    )
    add("--logs", default=DEFAULT_LOGS_DIR, metavar="/path/to/logs/", help="default: logs/")
    add("--image", metavar="path or URL to image", help="image to splash")
    add("--video", metavar="path or URL to video", help="video to splash")
    add("--epochs", type=int, default=30, metavar="<count>", help="epochs in all (30)")
    add("--layers", metavar="<layers>", help="layers to train (heads; all with random weights)")
    options.add_config_options(parser)
    args = parser.parse_args(arguments)
    if args.command == "train" and not args.dataset:
        parser.error("train needs --dataset")
    if args.command == "splash" and not (args.image or args.video):
        parser.error("splash needs --image or --video")
    options.check_config_options(parser, args, BalloonConfig)
    return args


def main(arguments=None):
    """Runs a command line; `splash` returns the name of the file it wrote."""
    args = parse_arguments(arguments)
    options.log_to_stdout("balloon")
    options.expose_devices(args.gpu_count)
    fields = options.config_fields(args)
    from_scratch = options.is_from_scratch(args.weights)
    if args.command == "splash":  # one image at a time
        fields.update(GPU_COUNT=1, IMAGES_PER_GPU=1)
    elif from_scratch:
        fields = {"TRAIN_BN": True, **fields}  # there are no statistics worth keeping
    config = BalloonConfig(**fields)
    config.display()
    mode = "training" if args.command == "train" else "inference"
    model = modellib.MaskRCNN(mode=mode, config=config, model_dir=args.logs)
    options.load_named_weights(model, args.weights, COCO_WEIGHTS_PATH)
    if args.command == "splash":
        return detect_and_color_splash(model, image_path=args.image, video_path=args.video)
    layers = args.layers or ("all" if from_scratch else "heads")
    return train(model, args.dataset, args.epochs, layers)


if __name__ == "__main__":
    main()
