"""Train and evaluate on COCO, or on any folder in COCO's format.

    python samples/coco/coco.py train --dataset=/path/to/coco/ --model=coco
    python samples/coco/coco.py train --dataset=/path/to/coco/ --model=imagenet --download=True
    python samples/coco/coco.py train --dataset=/path/to/coco/ --model=last --gpu-count=8
    python samples/coco/coco.py evaluate --dataset=/path/to/coco/ --year=2017 --model=last

The folder holds annotations/instances_<subset><year>.json and the images in <subset><year>/. The
subsets are train and val; with year 2014 also valminusminival and minival, whose images are in
val2014/. The number of classes comes from the annotations. `coins.py` beside this file makes such a
folder from a photo, for a trial that needs no download.
"""

import argparse
import logging
import os
import sys
import time
from pathlib import Path

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
ROOT_DIR = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT_DIR))  # so that a checkout works without installation

# ruff: noqa: E402
from mrcnn_parallel import model as modellib
from mrcnn_parallel import options, utils
from mrcnn_parallel.config import Config
from mrcnn_parallel.data import coco_format
from mrcnn_parallel.data.augmentation import flip_left_right
from mrcnn_parallel.training import coco_eval

log = logging.getLogger("coco")

COCO_MODEL_PATH = str(ROOT_DIR / "mask_rcnn_coco.h5")
DEFAULT_LOGS_DIR = str(ROOT_DIR / "logs")
DEFAULT_DATASET_YEAR = "2014"


class CocoConfig(Config):
    """Settings for COCO; NUM_CLASSES is set to the dataset's own number by the commands below."""

    NAME = "coco"
    IMAGES_PER_GPU = 2  # fits a GPU with 12 GB at the default image size
    NUM_CLASSES = 1 + 80  # what Matterport's weights know


class CocoDataset(utils.Dataset):
    """A subset of a folder in COCO's format."""

    def load_coco(
        self,
        dataset_dir,
        subset,
        year=DEFAULT_DATASET_YEAR,
        class_ids=None,
        class_map=None,
        return_coco=False,
        auto_download=False,
    ):
        """Adds the classes and images of a subset.

        Args:
            dataset_dir: the folder, see the top of this file.
            subset: "train", "val", "minival", "valminusminival" or another one that is there.
            year: what the names end in, "2014", "2017" or any text.
            class_ids: COCO category ids to load, with only the images that have them. None: all.
            class_map: not supported, must be None.
            return_coco: whether to return the annotations, for evaluation.
            auto_download: fetch COCO itself from its site first.

        Returns:
            The COCO object with `return_coco`, otherwise None.

        Raises:
            FileNotFoundError: saying which file or folder was looked for.
            ValueError: an annotation or image entry lacks what training needs.
        """
        if class_map is not None:
            raise ValueError("class_map is not supported; choose categories with class_ids.")
        if auto_download:
            self.auto_download(dataset_dir, subset, year)
        annotation_file, image_dir = coco_format.find_subset(dataset_dir, subset, year)
        coco = coco_format.load_coco(annotation_file, ("id", "height", "width", "file_name"))
        class_ids = sorted(coco.getCatIds() if class_ids is None else class_ids)
        unknown = sorted(set(class_ids) - set(coco.cats))
        if unknown:
            raise ValueError(f"{annotation_file} has no categories with the ids {unknown}.")
        if len(class_ids) == len(coco.cats):
            image_ids = list(coco.imgs)
        else:
            image_ids = sorted({i for class_id in class_ids for i in coco.catToImgs[class_id]})
        for class_id in class_ids:
            self.add_class("coco", class_id, coco.cats[class_id]["name"])
        for image_id in image_ids:
            image = coco.imgs[image_id]
            self.add_image(
                "coco",
                image_id=image_id,
                path=str(image_dir / image["file_name"]),
                width=image["width"],
                height=image["height"],
                annotations=coco.loadAnns(coco.getAnnIds(imgIds=[image_id], catIds=class_ids)),
            )
        return coco if return_coco else None

    def auto_download(self, dataDir, dataType, dataYear):
        """Fetches a COCO subset's images and annotations, unless they are there already.

        Args:
            dataDir: folder to fill.
            dataType: "train", "val", "minival" or "valminusminival".
            dataYear: "2014" or "2017".
        """
        coco_format.download_subset(dataDir, dataType, dataYear)

    def load_mask(self, image_id):
        """The image's instances.

        Returns:
            masks: (H, W, N) bool. class_ids: (N,) int32; negative for crowd regions.
        """
        info = self.image_info[image_id]
        if info["source"] != "coco":
            return super().load_mask(image_id)
        masks, class_ids = [], []
        for annotation in info["annotations"]:
            class_id = self.map_source_class_id(f"coco.{annotation['category_id']}")
            size = (info["height"], info["width"])
            mask = self.annToMask(annotation, *size)
            if mask.shape != size:
                if not annotation["iscrowd"]:
                    raise ValueError(
                        f"COCO image {info['id']}: the mask of annotation {annotation['id']} "
                        f"has the size {mask.shape}, the image {size}."
                    )
                # A crowd whose place is unknown: nothing in the image may count as background.
                mask = np.ones(size, bool)
            if mask.any():  # some objects are smaller than a pixel
                masks.append(mask)
                class_ids.append(-class_id if annotation["iscrowd"] else class_id)
        if not masks:
            return super().load_mask(image_id)
        return np.stack(masks, axis=2).astype(bool), np.array(class_ids, np.int32)

    def image_reference(self, image_id):
        """The image's page in COCO's explorer."""
        info = self.image_info[image_id]
        if info["source"] == "coco":
            return f"https://cocodataset.org/#explore?id={info['id']}"
        return super().image_reference(image_id)

    def annToRLE(self, ann, height, width):
        """An annotation's polygons or RLE of either kind as one compressed RLE."""
        if not ann.get("segmentation"):
            raise ValueError(
                f"COCO image {ann.get('image_id')}: annotation {ann.get('id')} has no "
                "segmentation; Mask R-CNN needs masks, boxes don't do."
            )
        return coco_format.segmentation_to_rle(ann["segmentation"], height, width)

    def annToMask(self, ann, height, width):
        """An annotation as a (height, width) bool mask."""
        return coco_format.rle_to_mask(self.annToRLE(ann, height, width))


# === Evaluation ===


def build_coco_results(dataset, image_ids, rois, class_ids, scores, masks):
    """Detections of one image in COCO's result format.

    Args:
        dataset: a prepared CocoDataset.
        image_ids: [COCO id of the image].
        rois: (N, 4) pixels; None: nothing was found.
        class_ids, scores: (N,). masks: (H, W, N).

    Returns:
        List of N dicts with image_id, category_id, bbox, score and segmentation.
    """
    if rois is None:
        return []
    category_ids = {
        class_id: dataset.get_source_class_id(class_id, "coco") for class_id in set(class_ids)
    }
    detection = {"rois": rois, "class_ids": class_ids, "scores": scores, "masks": masks}
    return [
        result
        for image_id in image_ids
        for result in coco_eval.to_coco_results(image_id, detection, category_ids)
    ]


def evaluate_coco(model, dataset, coco, eval_type="bbox", limit=0, image_ids=None):
    """Runs the detector over a dataset, logs COCO's tables and the time it took.

    Args:
        model: MaskRCNN in inference mode.
        dataset: a prepared CocoDataset.
        coco: the COCO object that its `load_coco` returned.
        eval_type: "bbox", "segm", or a tuple of both.
        limit: number of images; 0: all.
        image_ids: numbers in the dataset; None: all.

    Returns:
        {eval type: {metric: value}}, e.g. `["segm"]["AP50"]`; see coco_eval.METRICS.
    """
    image_ids = list(dataset.image_ids if image_ids is None else image_ids)
    image_ids = image_ids[:limit] if limit else image_ids
    if not image_ids:
        raise ValueError("There are no images to evaluate.")
    coco_image_ids = [dataset.image_info[image_id]["id"] for image_id in image_ids]
    results, seconds, start = [], 0.0, time.perf_counter()
    batch = model.config.BATCH_SIZE
    for first in range(0, len(image_ids), batch):
        images = [dataset.load_image(image_id) for image_id in image_ids[first : first + batch]]
        began = time.perf_counter()
        detections = model.detect(images, verbose=0)
        seconds += time.perf_counter() - began
        for coco_id, found in zip(coco_image_ids[first:], detections, strict=False):
            results += build_coco_results(
                dataset,
                [coco_id],
                found["rois"],
                found["class_ids"],
                found["scores"],
                found["masks"],
            )
    types = (eval_type,) if isinstance(eval_type, str) else eval_type
    metrics = {
        iou_type: coco_eval.evaluate_results(coco, results, iou_type, coco_image_ids)
        for iou_type in types
    }
    average = seconds / len(image_ids)
    log.info("Prediction time: %.1f s, average %.3f s/image", seconds, average)
    log.info("Total time: %.1f s", time.perf_counter() - start)
    return metrics


# === Command line ===


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(
        description="Train or evaluate Mask R-CNN on COCO or a folder in its format."
    )
    add = parser.add_argument
    add("command", metavar="<command>", choices=["train", "evaluate"], help="train or evaluate")
    add("--dataset", required=True, metavar="/path/to/coco/", help="folder in COCO's format")
    add("--year", default=DEFAULT_DATASET_YEAR, metavar="<year>", help="default: %(default)s")
    add(
        "--model",
        required=True,
        metavar="/path/to/weights.h5",
        help="weights file, or coco, imagenet, last (of the log folder), random",
    )
    add("--logs", default=DEFAULT_LOGS_DIR, metavar="/path/to/logs/", help="default: logs/")
    add("--limit", type=int, default=500, metavar="<image count>", help="images to evaluate (500)")
    add("--download", type=options.true_or_false, default=False, metavar="<True|False>")
    add("--epochs", type=int, default=160, metavar="<count>", help="epochs in all (160)")
    add("--layers", metavar="<layers>", help="train only these: heads, 3+, 4+, 5+, all or a regex")
    options.add_config_options(parser)
    args = parser.parse_args(arguments)
    args.from_scratch = options.is_from_scratch(args.model)
    if args.command == "evaluate" and (args.from_scratch or args.model.lower() == "imagenet"):
        parser.error(f"--model={args.model}: there is nothing to evaluate without trained weights")
    options.check_config_options(parser, args, CocoConfig)
    return args


def make_config(args, num_classes):
    """The CocoConfig of a command line, for a dataset with that many classes."""
    fields = {"NUM_CLASSES": num_classes}
    if args.command == "evaluate":
        fields.update(IMAGES_PER_GPU=1, DETECTION_MIN_CONFIDENCE=0)
    elif args.from_scratch:
        fields["TRAIN_BN"] = True  # there are no statistics worth keeping
    config = CocoConfig(**{**fields, **options.config_fields(args)})
    config.display()
    return config


def training_stages(args, config):
    """(layers, last epoch, learning rate) of each stage: Matterport's 40, 120 and 160 scaled."""
    rate, epochs = config.LEARNING_RATE, args.epochs
    if args.layers:
        return [(args.layers, epochs, rate)]
    if args.from_scratch:
        return [("all", epochs * 3 // 4, rate), ("all", epochs, rate / 10)]
    return [("heads", epochs // 4, rate), ("4+", epochs * 3 // 4, rate), ("all", epochs, rate / 10)]


def has_subset(args, subset):
    """Whether a subset is there or will be downloaded."""
    path = Path(args.dataset, "annotations", f"instances_{subset}{args.year}.json")
    return args.download or path.is_file()


def load_subsets(args, *subsets):
    """A prepared CocoDataset, and the COCO object of its last subset."""
    dataset = CocoDataset()
    for subset in subsets:
        coco = dataset.load_coco(
            args.dataset, subset, args.year, return_coco=True, auto_download=args.download
        )
    dataset.prepare()
    return dataset, coco


def load_validation(args):
    """minival is a part of 2014's val; folders that people make have val."""
    is_minival = args.year == "2014" and has_subset(args, "minival")
    return load_subsets(args, "minival" if is_minival else "val")


def train(args):
    """The train command."""
    subsets = ["train"]
    if args.year == "2014" and has_subset(args, "valminusminival"):
        subsets.append("valminusminival")
    dataset_train, _ = load_subsets(args, *subsets)
    dataset_val, _ = load_validation(args)
    config = make_config(args, dataset_train.num_classes)
    # Looking at the images of a small dataset several times adds nothing.
    batches = -(-dataset_val.num_images // config.BATCH_SIZE)
    config.VALIDATION_STEPS = min(config.VALIDATION_STEPS, batches)
    model = modellib.MaskRCNN(mode="training", config=config, model_dir=args.logs)
    options.load_named_weights(model, args.model, COCO_MODEL_PATH)
    for layers, epochs, learning_rate in training_stages(args, config):
        if epochs > model.epoch:  # a resumed training skips what it has done
            log.info("Training %s up to epoch %d", layers, epochs)
            model.train(
                dataset_train,
                dataset_val,
                learning_rate=learning_rate,
                epochs=epochs,
                layers=layers,
                augmentation=flip_left_right,
            )


def evaluate(args):
    """The evaluate command; returns COCO's metrics, see evaluate_coco."""
    dataset, coco = load_validation(args)
    config = make_config(args, dataset.num_classes)
    model = modellib.MaskRCNN(mode="inference", config=config, model_dir=args.logs)
    options.load_named_weights(model, args.model, COCO_MODEL_PATH)
    log.info("Evaluating on %d images.", min(args.limit or dataset.num_images, dataset.num_images))
    return evaluate_coco(model, dataset, coco, ("bbox", "segm"), limit=args.limit)


def main(arguments=None):
    """Runs a command line; returns what `evaluate` does."""
    args = parse_arguments(arguments)
    options.log_to_stdout("coco")
    options.expose_devices(args.gpu_count)
    return train(args) if args.command == "train" else evaluate(args)


if __name__ == "__main__":
    main()
