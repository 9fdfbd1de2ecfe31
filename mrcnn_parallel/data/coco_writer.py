"""write_coco: any Dataset as COCO instances JSON, with its images copied, linked or left alone."""

import json
import logging
import os
import shutil
from pathlib import Path

import numpy as np

from mrcnn_parallel.data import segments
from mrcnn_parallel.data.record_files import image_size

log = logging.getLogger(__name__)

IMAGE_CHOICES = ("reference", "link", "copy")
IMAGE_DIR = "images"  # beside the JSON file


def write_coco(dataset, path, images="reference"):
    """Writes a dataset's images and instances as a COCO annotation file.

    Polygons stay polygons, masks become compressed RLE. Images and annotations are numbered from 1,
    categories have the dataset's class numbers. The file appears whole or not at all.

    Args:
        dataset: a prepared Dataset of any kind.
        path: JSON file to write; its folder is made.
        images: "reference" names the image files where they are, relative to the JSON file where
            that is possible; "link" makes symbolic links in images/ beside it; "copy" copies them
            there. Images that have no file are saved there as PNG with "copy".

    Returns:
        The path.

    Raises:
        ValueError: an unknown choice, a dataset that is not prepared, an image without a file.
    """
    if images not in IMAGE_CHOICES:
        raise ValueError(f"images is {images!r}; it must be one of {', '.join(IMAGE_CHOICES)}.")
    if len(dataset.image_ids) == 0:
        raise ValueError("The dataset has no images, or its prepare() has not been called.")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    entries, annotations, taken = [], [], set()
    for number, image_id in enumerate(dataset.image_ids, 1):
        found, class_ids = _instances(dataset, image_id)
        height, width = _size(dataset, image_id, found)
        name = _place_image(dataset, image_id, path.parent, images, taken)
        entries.append({"id": number, "file_name": name, "height": height, "width": width})
        for segment, class_id in zip(found, class_ids, strict=True):
            annotation = _annotation(segment, int(class_id), height, width)
            annotations.append({"id": len(annotations) + 1, "image_id": number, **annotation})
    categories = [
        {"id": number, "name": info["name"], "supercategory": ""}
        for number, info in enumerate(dataset.class_info)
        if number
    ]
    content = {
        "info": {"description": "written by mrcnn_parallel"},
        "licenses": [],
        "images": entries,
        "categories": categories,
        "annotations": annotations,
    }
    _write_whole(path, content)
    log.info("%s: %d images, %d annotations.", path, len(entries), len(annotations))
    return path


def _instances(dataset, image_id):
    """(list of segments or masks, class ids) of an image."""
    found = dataset.load_polygons(image_id)
    if found is not None:
        return found
    masks, class_ids = dataset.load_mask(image_id)
    return [masks[:, :, number] for number in range(len(class_ids))], class_ids


def _size(dataset, image_id, found):
    """(height, width) of an image, without decoding it where that can be avoided."""
    info = dataset.image_info[image_id]
    if info.get("height") and info.get("width"):
        return int(info["height"]), int(info["width"])
    for segment in found:
        if isinstance(segment, np.ndarray):
            return segment.shape[0], segment.shape[1]
    file = dataset.image_file(image_id)
    return image_size(file) if file else dataset.load_image(image_id).shape[:2]


def _annotation(segment, class_id, height, width):
    """An annotation without its ids; negative class ids are crowds."""
    if segments.is_polygons(segment):
        segmentation = [np.asarray(part, np.float64).ravel().tolist() for part in segment]
    else:
        segment = segments.to_rle(segment, height, width)
        counts = segment["counts"]
        text = counts.decode() if isinstance(counts, bytes) else counts
        segmentation = {"size": [height, width], "counts": text}
    area, box = segments.area_and_box(segment, height, width)
    return {
        "category_id": abs(class_id),
        "segmentation": segmentation,
        "area": area,
        "bbox": box,
        "iscrowd": int(class_id < 0),
    }


def _place_image(dataset, image_id, folder, images, taken):
    """Puts an image where it is asked for; returns its file_name."""
    info = dataset.image_info[image_id]
    file = dataset.image_file(image_id)
    if file is None and images != "copy":
        raise ValueError(
            f"image {image_id} (source {info['source']!r}, id {info['id']!r}) has no file to "
            f"{images}; use images='copy', which saves it."
        )
    if images == "reference":
        file = Path(file).resolve()
        try:
            return Path(os.path.relpath(file, folder.resolve())).as_posix()
        except ValueError:  # another drive
            return file.as_posix()
    name = _free_name(Path(file).name if file else f"{info['id']}.png".replace("/", "-"), taken)
    target = folder / IMAGE_DIR / name
    target.parent.mkdir(exist_ok=True)
    source = Path(file).resolve() if file else None
    if source is None:
        from PIL import Image

        Image.fromarray(np.asarray(dataset.load_image(image_id))).save(target)
        return f"{IMAGE_DIR}/{name}"
    if target.is_symlink():
        target.unlink()  # of an earlier run; writing through it would reach the original
    if target.exists() and target.samefile(source):
        return f"{IMAGE_DIR}/{name}"
    if images == "link":
        target.unlink(missing_ok=True)
        target.symlink_to(source)
    else:
        shutil.copyfile(source, target)
    return f"{IMAGE_DIR}/{name}"


def _free_name(name, taken):
    """The name or, where another image has it, "name-2.jpg" and so on."""
    path, number = Path(name), 1
    while name.lower() in taken:
        number += 1
        name = f"{path.stem}-{number}{path.suffix}"
    taken.add(name.lower())
    return name


def _write_whole(path, content):
    """Writes JSON beside its place and moves it there."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with open(part, "w", encoding="utf-8") as file:
            json.dump(content, file, allow_nan=False)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
