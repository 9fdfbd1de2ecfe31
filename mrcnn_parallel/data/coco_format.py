"""COCO's annotation format: the folder layout, the annotation file, segmentations and masks.

The layout is annotations/instances_<subset><year>.json, with the images in <subset><year>/. The
format is described at https://cocodataset.org/#format-data. faster-coco-eval does the reading.
"""

import logging
import os
import zipfile
from pathlib import Path

import numpy as np

VAL_PARTS = {  # annotation files for halves of val2014, which Matterport's weights go by
    "minival": "https://dl.dropboxusercontent.com/s/o43o90bna78omob/instances_minival2014.json.zip",
    "valminusminival": (
        "https://dl.dropboxusercontent.com/s/s3tw5zcg7395368/instances_valminusminival2014.json.zip"
    ),
}
IMAGES_URL = "http://images.cocodataset.org/zips/{subset}{year}.zip"
ANNOTATIONS_URL = "http://images.cocodataset.org/annotations/annotations_trainval{year}.zip"

log = logging.getLogger(__name__)


def find_subset(dataset_dir, subset, year):
    """Where a subset of a COCO folder is.

    Args:
        dataset_dir: the folder.
        subset: "train", "val", ...; the images of those in VAL_PARTS are val's.
        year: what the names end in, any text.

    Returns:
        Paths of the annotation file and the image folder.

    Raises:
        FileNotFoundError: saying what was looked for, and what there is.
    """
    folder = Path(dataset_dir)
    annotation_file = folder / "annotations" / f"instances_{subset}{year}.json"
    image_dir = folder / f"{'val' if subset in VAL_PARTS else subset}{year}"
    layout = (
        "A COCO folder holds annotations/instances_<subset><year>.json and the images in "
        "<subset><year>/"
    )
    if not annotation_file.is_file():
        there = sorted(path.name for path in folder.glob("annotations/*.json"))
        raise FileNotFoundError(
            f"No COCO annotations for subset {subset!r}, year {year!r}: looked for "
            f"{annotation_file}. {layout}; here annotations/ holds {', '.join(there) or 'nothing'}."
        )
    if not image_dir.is_dir():
        there = sorted(path.name for path in folder.iterdir() if path.is_dir())
        raise FileNotFoundError(
            f"No COCO images for subset {subset!r}, year {year!r}: looked for the folder "
            f"{image_dir}. {layout}; here are {', '.join(there)}."
        )
    return annotation_file, image_dir


def download_subset(dataset_dir, subset, year):
    """Fetches COCO's images and annotations of a subset, unless they are there already.

    Args:
        dataset_dir: folder to fill.
        subset: "train", "val", "minival" or "valminusminival".
        year: 2014 or 2017.

    Raises:
        OSError: the download failed.
    """
    folder = Path(dataset_dir)
    image_subset = "val" if subset in VAL_PARTS else subset
    if not (folder / f"{image_subset}{year}").is_dir():
        _fetch_zip(IMAGES_URL.format(subset=image_subset, year=year), folder)
    if not (folder / "annotations" / f"instances_{subset}{year}.json").is_file():
        if subset in VAL_PARTS:
            _fetch_zip(VAL_PARTS[subset] + "?dl=1", folder / "annotations")
        else:
            _fetch_zip(ANNOTATIONS_URL.format(year=year), folder)


def _fetch_zip(url, folder):
    """Downloads an archive, unpacks it into a folder and removes it."""
    from mrcnn_parallel import utils

    archive = folder / Path(url).name.split("?")[0]
    utils.download(url, archive)
    log.info("Unpacking %s", archive)
    with zipfile.ZipFile(archive) as content:
        content.extractall(folder)
    archive.unlink()


def load_coco(ground_truth, image_fields=("id", "height", "width")):
    """A COCO object that can be trained on and evaluated against.

    What custom datasets leave out is filled in: `iscrowd` (0), `area` and `bbox` (from the
    segmentation). Annotations are numbered from 1: the metrics take an id of 0 for "no match".
    What was passed in is not changed.

    Args:
        ground_truth: path of an annotation file, its content as a dict, or a COCO object
            (faster-coco-eval's, or pycocotools').
        image_fields: what every entry in "images" must have.

    Returns:
        faster_coco_eval.COCO.

    Raises:
        FileNotFoundError: the path does not exist.
        ValueError: the content has no images, annotations or categories; an image lacks a field;
            an annotation has neither a segmentation nor what is derived from it, or is of an image
            or a category that isn't there.
    """
    coco_class = import_coco_api().COCO
    if isinstance(ground_truth, (str, os.PathLike)):
        if not os.path.exists(ground_truth):
            raise FileNotFoundError(f"No COCO annotation file at {os.fspath(ground_truth)}.")
        content = coco_class.load_json(ground_truth)
    else:
        content = getattr(ground_truth, "dataset", ground_truth)
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or key not in content:
            raise ValueError(
                f"The COCO ground truth has no {key!r}; it must have 'images', 'annotations' and "
                "'categories', as the annotation files of cocodataset.org do."
            )
    images = [{**image} for image in content["images"]]
    for image in images:
        missing = [name for name in image_fields if name not in image]
        if missing:
            name = image.get("id", image.get("file_name"))
            raise ValueError(f"COCO image {name} has no {', '.join(missing)}.")
    sizes = {image["id"]: (image["height"], image["width"]) for image in images}
    categories = {category["id"] for category in content["categories"]}
    annotations = [
        _completed(annotation, number, sizes, categories)
        for number, annotation in enumerate(content["annotations"], start=1)
    ]
    return coco_class({"info": {}, **content, "images": images, "annotations": annotations})


def _completed(annotation, number, sizes, categories):
    name = f"COCO annotation {annotation.get('id')} of image {annotation.get('image_id')}"
    if annotation.get("image_id") not in sizes:
        raise ValueError(f"{name}: that image is not among the file's images.")
    if annotation.get("category_id") not in categories:
        raise ValueError(
            f"{name} has category_id {annotation.get('category_id')}; the categories' ids are "
            f"{sorted(categories)}."
        )
    filled = {**annotation, "id": number}
    filled.setdefault("iscrowd", 0)
    if "area" in filled and "bbox" in filled:
        return filled
    if not annotation.get("segmentation"):
        if "bbox" not in filled:
            raise ValueError(f"{name} has neither a 'segmentation' nor a 'bbox'.")
        filled["area"] = filled["bbox"][2] * filled["bbox"][3]
        return filled
    rle = segmentation_to_rle(annotation["segmentation"], *sizes[annotation["image_id"]])
    mask_api = import_coco_api().mask
    filled.setdefault("area", float(mask_api.area(rle)))
    filled.setdefault("bbox", np.asarray(mask_api.toBbox(rle)).tolist())
    return filled


def segmentation_to_rle(segmentation, height, width):
    """A COCO segmentation (polygons, uncompressed or compressed RLE) as one compressed RLE.

    Args:
        segmentation: [[x1, y1, x2, y2, ...], ...] in pixels, or {"size", "counts"}.
        height, width: of the image, in pixels.

    Returns:
        {"size": [H, W], "counts": bytes}.
    """
    mask_api = import_coco_api().mask
    if isinstance(segmentation, list):
        return mask_api.merge(mask_api.frPyObjects(segmentation, height, width))
    if isinstance(segmentation["counts"], list):
        return mask_api.frPyObjects(segmentation, *segmentation["size"])
    return segmentation


def rle_to_mask(rle):
    """Compressed RLE as a (H, W) bool mask."""
    return import_coco_api().mask.decode(rle).astype(bool)


def mask_to_rle(mask):
    """(H, W) mask as compressed RLE, {"size": [H, W], "counts": bytes}."""
    return import_coco_api().mask.encode(np.asfortranarray(mask, dtype=np.uint8))


def import_coco_api():
    """The module faster_coco_eval; an ImportError with the line to type where it is missing."""
    try:
        import faster_coco_eval
    except ImportError as error:
        raise ImportError(
            "COCO data and metrics need faster-coco-eval: pip install faster-coco-eval"
        ) from error
    return faster_coco_eval
