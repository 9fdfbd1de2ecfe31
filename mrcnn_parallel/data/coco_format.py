"""COCO's annotation format: the reader, what evaluation takes, segmentations and masks.

The format is described at https://cocodataset.org/#format-data, the folder in coco_folder.py.
"""

import os
from pathlib import Path

import numpy as np

from mrcnn_parallel.data import segments
from mrcnn_parallel.data.coco_folder import VAL_PARTS, download_subset, find_subset
from mrcnn_parallel.data.record_files import RECORD_ERRORS, json_keys, read_json
from mrcnn_parallel.data.records import (
    DAMAGED,
    DUPLICATE,
    MISSING_FILE,
    NO_IMAGE,
    NO_MASK,
    UNKNOWN_CLASS,
    Instance,
    RecordDataset,
)
from mrcnn_parallel.data.segments import import_coco_api

__all__ = [
    "VAL_PARTS",
    "CocoDataset",
    "download_subset",
    "find_subset",
    "import_coco_api",
    "load_coco",
    "mask_to_rle",
    "rle_to_mask",
    "segmentation_to_rle",
]


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


# === Reader ===


class CocoDataset(RecordDataset):
    """COCO instances JSON: polygons, RLE of both kinds, crowds."""

    FORMAT = "coco"
    LAYOUT = "annotations/instances_<subset>.json and <subset>/*.jpg; or a JSON file and its images"

    @classmethod
    def detects(cls, path):
        """A folder with annotations/instances_*.json, or a JSON file with COCO's keys."""
        path = Path(path)
        if path.is_dir():
            return any(path.glob("annotations/instances_*.json"))
        return {"images", "annotations"} <= json_keys(path)[0]

    def read(self, path, subset=None, source=None, image_dir=None, year=None):
        """Adds a file's images; see RecordDataset.read.

        Args:
            path: annotation file, or a folder with annotations/instances_<subset><year>.json.
            subset: "train", "train2017"...; needed where the folder has several.
            image_dir: where the images are; looked for beside the file if None.
            year: added to subset, any text.
        """
        file, folders = self._files(Path(path), subset, year, image_dir)
        content = read_json(file)
        for key in ("images", "annotations", "categories"):
            if not isinstance(content, dict) or not isinstance(content.get(key), list):
                raise ValueError(
                    f"{file} is no COCO annotation file: it has no list of {key!r}; 'images', "
                    "'annotations' and 'categories' are needed."
                )
        source = source or self.FORMAT
        names = self._read_categories(content["categories"], file, source)
        images = self._read_images(content["images"], file, folders)
        instances = self._read_annotations(content["annotations"], file, images, names)
        for image_id, (image_file, size) in images.items():
            self.add_record_image(source, image_id, image_file, size, instances[image_id], size)
        self.finish(file)

    def _files(self, path, subset, year, image_dir):
        """The annotation file, and the folders in which its images may be."""
        year = str(year or "")
        if path.is_dir():
            there = sorted(path.glob("annotations/instances_*.json"))
            if subset is None and len(there) == 1:
                file = there[0]
                subset = file.stem.removeprefix("instances_")
            elif subset is None:
                names = [file.stem.removeprefix("instances_") for file in there]
                raise ValueError(
                    f"{path} holds the subsets {', '.join(names) or 'none'} in annotations/; say "
                    "which one: subset=..."
                )
            else:
                file = path / "annotations" / f"instances_{subset}{year}.json"
                if not file.is_file():
                    find_subset(path, subset, year)  # raises what is missing
            images = "val" if subset in VAL_PARTS else subset
            folders = [path / f"{images}{year}", path / "images" / f"{images}{year}"]
            folders += [path / "images", path]
        else:
            file, name = path, path.stem.removeprefix("instances_")
            beside = [path.parent, path.parent.parent] if path.parent.name else [path.parent]
            folders = [base / sub for base in beside for sub in (name, f"images/{name}", "images")]
            folders += beside
        return file, [Path(image_dir)] if image_dir else folders

    def _read_categories(self, categories, file, source):
        names = {}
        for position, category in enumerate(categories):
            try:
                class_id, name = category["id"], category["name"]
                hash(class_id)
            except RECORD_ERRORS as error:
                self.add_record_problem(file, f"category {position}", error)
                continue
            if class_id in names:
                reason = f"its id {class_id} is {names[class_id]!r} already"
                self.add_problem(file, f"category {position}", DUPLICATE, reason)
                continue
            names[class_id] = str(name)
            self.add_record_class(source, class_id, str(name))
        return names

    def _read_images(self, images, file, folders):
        """{image id: (path, (height, width))} of the good entries."""
        found = {}
        for position, image in enumerate(images):
            record = f"image entry {position}"
            try:
                image_id, name = image["id"], image["file_name"]
                record = f"image {image_id}"
                if not isinstance(name, str) or not name or "\0" in name:
                    raise ValueError(f"its file_name is {name!r}")
                if image_id in found:
                    self.add_problem(file, record, DUPLICATE, f"{name} has the id of another image")
                    continue
                path = self._locate(name, folders)
                if path is None:
                    reason = f"there is no {name} in {folders[0]} or beside it"
                    self.add_problem(file, record, MISSING_FILE, reason)
                    continue
                if image.get("height") is None or image.get("width") is None:
                    size = self.measure(path, file, record)
                else:
                    size = segments.parse_size(image["height"], image["width"])
                if size is not None:
                    found[image_id] = (path, size)
            except RECORD_ERRORS as error:
                self.add_record_problem(file, record, error)
        return found

    def _locate(self, name, folders):
        """An image's file; the folder it was found in is tried first for the next one."""
        for number, folder in enumerate(folders):
            path = folder / name
            if path.is_file():
                folders.insert(0, folders.pop(number))
                return path
        return None

    def _read_annotations(self, annotations, file, images, names):
        """{image id: list of Instance}; annotations of images that were left out are left out."""
        instances = {image_id: [] for image_id in images}
        seen = set()
        for position, annotation in enumerate(annotations):
            record = f"annotation entry {position}"
            try:
                if "id" in annotation:
                    record = f"annotation {annotation['id']}"
                    if annotation["id"] in seen:
                        reason = "another annotation has its id; both were kept"
                        self.add_problem(file, record, DUPLICATE, reason)
                    seen.add(annotation["id"])
                image_id, class_id = annotation["image_id"], annotation["category_id"]
                record += f" of image {image_id}"
                if class_id not in names:
                    reason = f"its category_id {class_id!r} is not among the categories"
                    self.add_problem(file, record, UNKNOWN_CLASS, reason)
                elif image_id not in images:
                    reason = f"its image {image_id!r} is missing or was left out"
                    self.add_problem(file, record, NO_IMAGE, reason)
                else:
                    crowd = bool(annotation.get("iscrowd", 0))
                    segment = self._segment(annotation, images[image_id][1], crowd, file, record)
                    if segment is not None:
                        box = _box(annotation.get("bbox"))
                        instance = Instance(names[class_id], segment, record, crowd, box)
                        instances[image_id].append(instance)
            except RECORD_ERRORS as error:
                self.add_record_problem(file, record, error)
        return instances

    def _segment(self, annotation, size, crowd, file, record):
        segmentation = annotation.get("segmentation")
        if segmentation is None:
            self.add_problem(file, record, NO_MASK, "it has no segmentation, a box is not enough")
            return None
        if isinstance(segmentation, list):
            if not all(isinstance(part, list) for part in segmentation):
                raise ValueError("its segmentation is a list, but not of polygons")
            return self.polygon_parts(segmentation, size, file, record)
        try:
            return segments.parse_rle(segmentation, *size)
        except ValueError as error:
            if not crowd:
                raise
            # A crowd whose place is unknown: nothing in the image may count as background.
            reason = f"{error}; this crowd was taken to cover the whole image"
            self.add_problem(file, record, DAMAGED, reason)
            return segments.to_rle(np.ones(size, bool), *size)


def _box(values):
    """[x, y, width, height] as floats, or None where it is something else: nobody needs it."""
    try:
        x, y, width, height = (float(value) for value in values)
    except RECORD_ERRORS:
        return None
    return x, y, width, height
