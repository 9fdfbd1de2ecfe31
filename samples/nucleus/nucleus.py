"""Find nuclei in microscopy images: Matterport's sample for the 2018 Data Science Bowl.

    D=/path/to/dataset
    python samples/nucleus/nucleus.py train --dataset=$D --subset=train --weights=imagenet
    python samples/nucleus/nucleus.py train --dataset=$D --subset=train --weights=last
    python samples/nucleus/nucleus.py detect --dataset=$D --subset=stage1_test --weights=last

The data is at https://www.kaggle.com/c/data-science-bowl-2018/. The dataset folder holds
stage1_train/<id>/images/<id>.png with a mask file for every nucleus in stage1_train/<id>/masks/,
and stage1_test/ likewise without masks. `detect` writes the submission file and a picture of each
image's detections to results/nucleus/.
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
from mrcnn_parallel import options, utils, visualize
from mrcnn_parallel.config import Config

log = logging.getLogger("nucleus")

COCO_WEIGHTS_PATH = str(ROOT_DIR / "mask_rcnn_coco.h5")
DEFAULT_LOGS_DIR = str(ROOT_DIR / "logs")
RESULTS_DIR = str(ROOT_DIR / "results" / "nucleus")

# The competition has no validation set; these images of stage1_train are the ones that results with
# Matterport's package are reported on.
VAL_IMAGE_IDS = [
    "0c2550a23b8a0f29a7575de8c61690d3c31bc897dd5ba66caec201d201a278c2",
    "0ea221716cf13710214dcd331a61cea48308c3940df1d28cfc7fd817c83714e1",
    "1b44d22643830cd4f23c9deadb0bd499fb392fb2cd9526d81547d93077d983df",
    "1e488c42eb1a54a3e8412b1f12cde530f950f238d71078f2ede6a85a02168e1f",
    "3ab9cab6212fabd723a2c5a1949c2ded19980398b56e6080978e796f45cbbc90",
    "4193474b2f1c72f735b13633b219d9cabdd43c21d9c2bb4dfc4809f104ba4c06",
    "60cb718759bff13f81c4055a7679e81326f78b6a193a2d856546097c949b20ff",
    "8e507d58f4c27cd2a82bee79fe27b069befd62a46fdaed20970a95a2ba819c7b",
    "8ecdb93582b2d5270457b36651b62776256ade3aaa2d7432ae65c14f07432d49",
    "92f31f591929a30e4309ab75185c96ff4314ce0a7ead2ed2c2171897ad1da0c7",
    "947c0d94c8213ac7aaa41c4efc95d854246550298259cf1bb489654d0e969050",
    "97126a9791f0c1176e4563ad679a301dac27c59011f579e808bbd6e9f4cd1034",
    "9ebcfaf2322932d464f15b5662cae4d669b2d785b8299556d73fffcae8365d32",
    "a4c44fc5f5bf213e2be6091ccaed49d8bf039d78f6fbd9c4d7b7428cfcb2eda4",
    "bb61fc17daf8bdd4e16fdcf50137a8d7762bec486ede9249d92e511fcb693676",
    "c901794d1a421d52e5734500c0a2a8ca84651fb93b19cec2f411855e70cae339",
    "cab4875269f44a701c5e58190a1d2f6fcb577ea79d842522dcab20ccb39b7ad2",
    "cbca32daaae36a872a11da4eaff65d1068ff3f154eedc9d3fc0c214a4e5d32bd",
    "da5f98f2b8a64eee735a398de48ed42cd31bf17a6063db46a9e0783ac13cd844",
    "e1bcb583985325d0ef5f3ef52957d0371c96d4af767b13e48102bca9d5351a9b",
    "e81c758e1ca177b0942ecad62cf8d321ffc315376135bcbed3df932a6e5b40c0",
    "ebc18868864ad075548cc1784f4f9a237bb98335f9645ee727dac8332a3e3716",
    "f29fd9c52e04403cd2c7d43b6fe2479292e53b2f61969d25256d2d2aca7c6a81",
    "f4c4db3df4ff0de90f44b027fc2e28c16bf7e5c75ea75b0a9762bbb7ac86e7a3",
    "f73e37957c74f554be132986f38b6f1d75339f636dfe2b681a0cf3f88d2733af",
]
OWN_VAL_SHARE = 10  # in a folder without these images, every tenth one is for validation


class NucleusConfig(Config):
    """Settings for training."""

    NAME = "nucleus"
    IMAGES_PER_GPU = 6
    NUM_CLASSES = 1 + 1  # background and nucleus
    STEPS_PER_EPOCH = (657 - len(VAL_IMAGE_IDS)) // IMAGES_PER_GPU
    VALIDATION_STEPS = max(1, len(VAL_IMAGE_IDS) // IMAGES_PER_GPU)
    DETECTION_MIN_CONFIDENCE = 0  # with two classes the winner has at least 0.5
    BACKBONE = "resnet50"
    IMAGE_RESIZE_MODE = "crop"  # random parts of 512 x 512 pixels of the enlarged image
    IMAGE_MIN_DIM = 512
    IMAGE_MAX_DIM = 512
    IMAGE_MIN_SCALE = 2.0
    RPN_ANCHOR_SCALES = (8, 16, 32, 64, 128)
    POST_NMS_ROIS_TRAINING = 1000
    POST_NMS_ROIS_INFERENCE = 2000
    RPN_NMS_THRESHOLD = 0.9  # nuclei are many and close: keep more proposals
    RPN_TRAIN_ANCHORS_PER_IMAGE = 64
    MEAN_PIXEL = np.array([43.53, 39.56, 48.22])
    USE_MINI_MASK = True
    MINI_MASK_SHAPE = (56, 56)
    TRAIN_ROIS_PER_IMAGE = 128
    MAX_GT_INSTANCES = 200
    DETECTION_MAX_INSTANCES = 400


class NucleusInferenceConfig(NucleusConfig):
    """Settings for detection: whole images, one at a time."""

    GPU_COUNT = 1
    IMAGES_PER_GPU = 1
    IMAGE_RESIZE_MODE = "pad64"
    RPN_NMS_THRESHOLD = 0.7


class NucleusDataset(utils.Dataset):
    """A folder of the competition."""

    def load_nucleus(self, dataset_dir, subset):
        """Adds the images of a subset.

        Args:
            dataset_dir: folder with stage1_train/ and the like.
            subset: the name of such a folder; or "train" or "val", parts of stage1_train: val is
                VAL_IMAGE_IDS, or every tenth image of a folder that has none of them.

        Raises:
            FileNotFoundError: the folder or an image is missing.
            ValueError: there is no image.
        """
        folder = Path(dataset_dir, "stage1_train" if subset in ("train", "val") else subset)
        if not folder.is_dir():
            raise FileNotFoundError(f"No images of the subset {subset!r}: there is no {folder}.")
        image_ids = sorted(path.name for path in folder.iterdir() if path.is_dir())
        if subset in ("train", "val"):
            val_ids = set(image_ids) & set(VAL_IMAGE_IDS)
            if not val_ids:
                val_ids = set(image_ids[::OWN_VAL_SHARE])
                log.info("%s: validation is on %d images of its own.", folder, len(val_ids))
            image_ids = [i for i in image_ids if (i in val_ids) == (subset == "val")]
        if not image_ids:
            raise ValueError(
                f"The subset {subset!r} has no images: {folder} holds no more folders."
            )
        self.add_class("nucleus", 1, "nucleus")
        for image_id in image_ids:
            path = folder / image_id / "images" / f"{image_id}.png"
            if not path.is_file():
                raise FileNotFoundError(f"Image {image_id} should be at {path}; there is no file.")
            self.add_image("nucleus", image_id=image_id, path=str(path))

    def load_mask(self, image_id):
        """Masks (H, W, N) bool and class ids (N,) int32 of the image's nuclei."""
        from PIL import Image

        info = self.image_info[image_id]
        if info["source"] != "nucleus":
            return super().load_mask(image_id)
        files = sorted((Path(info["path"]).parents[1] / "masks").glob("*.png"))
        if not files:
            return super().load_mask(image_id)
        masks = [np.asarray(Image.open(file).convert("L")) > 0 for file in files]
        sizes = {mask.shape for mask in masks}
        if len(sizes) > 1:
            raise ValueError(f"The masks in {files[0].parent} have different sizes: {sizes}.")
        return np.stack(masks, axis=-1), np.ones(len(masks), np.int32)

    def image_reference(self, image_id):
        """The image's id in the competition."""
        info = self.image_info[image_id]
        return info["id"] if info["source"] == "nucleus" else super().image_reference(image_id)


# === Training ===


def augment(image, mask, rng):
    """An augmentation: up to two of mirroring, turning, brightness and blur.

    Args:
        image: (H, W, 3) uint8. mask: (H, W, N) bool. rng: numpy.random.Generator.
    """
    changes = [_mirror, _flip, _brighten, _blur]
    if image.shape[0] == image.shape[1]:
        changes.append(_turn)
    for index in rng.permutation(len(changes))[: rng.integers(3)]:
        image, mask = changes[index](image, mask, rng)
    return image, mask


def _mirror(image, mask, rng):
    return (image[:, ::-1], mask[:, ::-1]) if rng.integers(2) else (image, mask)


def _flip(image, mask, rng):
    return (image[::-1], mask[::-1]) if rng.integers(2) else (image, mask)


def _turn(image, mask, rng):
    quarters = int(rng.integers(1, 4))
    return np.rot90(image, quarters), np.rot90(mask, quarters)


def _brighten(image, mask, rng):
    return np.clip(image * rng.uniform(0.8, 1.5), 0, 255).astype(image.dtype), mask


def _blur(image, mask, rng):
    import cv2

    sigma = rng.uniform(0.1, 5.0)  # pixels
    return cv2.GaussianBlur(np.ascontiguousarray(image), (0, 0), sigma), mask


def train(model, dataset_dir, subset, epochs=40, layers=None):
    """Trains the heads for the first half of the epochs, then everything.

    Args:
        model: MaskRCNN in training mode.
        dataset_dir, subset: see NucleusDataset.load_nucleus; validation is on "val".
        epochs: number of the last epoch.
        layers: train only these, in one stage.
    """
    datasets = []
    for name in (subset, "val"):
        dataset = NucleusDataset()
        dataset.load_nucleus(dataset_dir, name)
        dataset.prepare()
        datasets.append(dataset)
    stages = [(layers, epochs)] if layers else [("heads", epochs // 2), ("all", epochs)]
    for stage_layers, last_epoch in stages:
        if last_epoch > model.epoch:
            log.info("Training %s up to epoch %d", stage_layers, last_epoch)
            model.train(
                *datasets,
                learning_rate=model.config.LEARNING_RATE,
                epochs=last_epoch,
                augmentation=augment,
                layers=stage_layers,
            )


# === The competition's run-length encoding ===


def rle_encode(mask):
    """Encodes a mask: "start length start length ...", pixels counted from 1 down the columns.

    Args:
        mask: (H, W) bool or 0 and 1.
    """
    if mask.ndim != 2:
        raise ValueError(f"rle_encode got an array of shape {mask.shape}; it must be (H, W).")
    flat = np.asarray(mask).astype(bool).ravel(order="F")
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flat, [False]]).astype(np.int8)))
    starts, ends = edges[0::2], edges[1::2]
    return " ".join(f"{start + 1} {end - start}" for start, end in zip(starts, ends, strict=True))


def rle_decode(rle, shape):
    """Decodes what rle_encode wrote into a mask of shape (H, W), bool.

    Raises:
        ValueError: a run is not inside the mask.
    """
    numbers = np.array(rle.split(), np.int64)
    mask = np.zeros(shape[0] * shape[1], bool)
    for start, length in zip(numbers[0::2] - 1, numbers[1::2], strict=True):
        if start < 0 or length < 1 or start + length > mask.size:
            raise ValueError(
                f"The run {start + 1} {length} is not inside a mask of {shape[0]} x {shape[1]}."
            )
        mask[start : start + length] = True
    return mask.reshape(shape, order="F")


def mask_to_rle(image_id, mask, scores):
    """Lines of the submission file for an image, the best detection first.

    Masks may not overlap in a submission: a shared pixel goes to the detection of higher score.

    Args:
        image_id: the competition's id.
        mask: (H, W, N).
        scores: (N,) float.

    Returns:
        N lines "id, runs" or fewer, since what is wholly covered is left out; "id," if N is 0.
    """
    if mask.ndim != 3:
        raise ValueError(f"mask_to_rle got an array of shape {mask.shape}; it must be (H, W, N).")
    free = np.ones(mask.shape[:2], bool)
    lines = []
    for index in np.argsort(-np.asarray(scores), kind="stable"):
        own = mask[:, :, index].astype(bool) & free
        if own.any():
            lines.append(f"{image_id}, {rle_encode(own)}")
            free &= ~own
    return "\n".join(lines) if lines else f"{image_id},"


# === Detection ===


def detect(model, dataset_dir, subset):
    """Finds the nuclei of a subset; writes submit.csv and a picture of each image.

    Args:
        model: MaskRCNN in inference mode.
        dataset_dir, subset: see NucleusDataset.load_nucleus.

    Returns:
        The new folder in RESULTS_DIR.
    """
    import matplotlib.pyplot as plt

    dataset = NucleusDataset()
    dataset.load_nucleus(dataset_dir, subset)
    dataset.prepare()
    folder = Path(RESULTS_DIR, f"submit_{datetime.datetime.now():%Y%m%dT%H%M%S}")
    folder.mkdir(parents=True)
    log.info("Running on %d images of %s", dataset.num_images, dataset_dir)
    submission = ["ImageId,EncodedPixels"]
    for image_id in dataset.image_ids:
        image = dataset.load_image(image_id)
        found = model.detect([image], verbose=0)[0]
        source_id = dataset.image_info[image_id]["id"]
        submission.append(mask_to_rle(source_id, found["masks"], found["scores"]))
        _, ax = plt.subplots(1, figsize=(16, 16))
        visualize.display_instances(
            image,
            found["rois"],
            found["masks"],
            found["class_ids"],
            dataset.class_names,
            found["scores"],
            show_bbox=False,
            title="Predictions",
            ax=ax,
        )
        ax.figure.savefig(folder / f"{source_id}.png", dpi=50)
        plt.close(ax.figure)
    (folder / "submit.csv").write_text("\n".join(submission))
    log.info("Saved to %s", folder)
    return folder


# === Command line ===


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(description="Mask R-CNN for counting and segmenting nuclei.")
    add = parser.add_argument
    add("command", metavar="<command>", choices=["train", "detect"], help="train or detect")
    add("--dataset", metavar="/path/to/dataset/", help="folder with stage1_train/ and the like")
    add(
        "--weights",
        required=True,
        metavar="/path/to/weights.h5",
        help="weights file, or coco, imagenet, last (of the log folder), random",
    )
    add("--logs", default=DEFAULT_LOGS_DIR, metavar="/path/to/logs/", help="default: logs/")
    add("--subset", metavar="Dataset sub-directory", help="train, stage1_train, stage1_test, ...")
    add("--epochs", type=int, default=40, metavar="<count>", help="epochs in all (40)")
    add("--layers", metavar="<layers>", help="train only these: heads, 3+, 4+, 5+, all or a regex")
    options.add_config_options(parser)
    args = parser.parse_args(arguments)
    if not args.dataset:
        parser.error(f"{args.command} needs --dataset")
    if not args.subset:
        parser.error(f"{args.command} needs --subset")
    options.check_config_options(parser, args, NucleusConfig)
    return args


def main(arguments=None):
    """Runs a command line; `detect` returns the folder of its results."""
    args = parse_arguments(arguments)
    options.log_to_stdout("nucleus")
    options.expose_devices(args.gpu_count)
    fields = options.config_fields(args)
    if args.command == "train":
        if options.is_from_scratch(args.weights):
            fields = {"TRAIN_BN": True, **fields}  # there are no statistics worth keeping
            args.layers = args.layers or "all"
        config, mode = NucleusConfig(**fields), "training"
    else:
        config, mode = NucleusInferenceConfig(**fields), "inference"
    config.display()
    model = modellib.MaskRCNN(mode=mode, config=config, model_dir=args.logs)
    options.load_named_weights(model, args.weights, COCO_WEIGHTS_PATH)
    if args.command == "train":
        return train(model, args.dataset, args.subset, args.epochs, args.layers)
    return detect(model, args.dataset, args.subset)


if __name__ == "__main__":
    main()
