"""Checks of one image of a dataset: its file is decoded, its instances are measured."""

from typing import NamedTuple

import numpy as np

from mrcnn_parallel.data import segments
from mrcnn_parallel.data.checks.outlines import (
    TOLERANCE,
    box_outside_by,
    crosses_itself,
    outside_by,
)
from mrcnn_parallel.data.record_files import verify_png
from mrcnn_parallel.data.records import DAMAGED, UNREADABLE_IMAGE, Problem

EXIF_ROTATION = "EXIF rotation"
SIZE_DIFFERS = "size differs"
BOX_OUTSIDE = "box outside"
POLYGON_OUTSIDE = "polygon outside"
SELF_CROSSING = "self-crossing polygon"
ZERO_AREA = "zero area"

_ORIENTATION = 0x0112  # the EXIF tag; 1 is upright


class ImageChecks(NamedTuple):
    """What was found out about an image.

    problems: list of Problem. size: (height, width) of the pixels, None where they can't be read.
    class_ids: (N,) int32, negative for crowds. areas: (N,) float64 pixels.
    """

    problems: list
    size: tuple | None
    class_ids: np.ndarray
    areas: np.ndarray


def check_image(dataset, image_id):
    """Decodes an image and looks at its instances; damage never raises.

    Args:
        dataset: a prepared Dataset; of a RecordDataset more can be said.
        image_id: number in the dataset.

    Returns:
        ImageChecks.
    """
    info = dataset.image_info[image_id]
    name = info["path"] or f"image {info['id']} of source {info['source']}"
    problems = []

    def add(kind, reason, record=""):
        problems.append(Problem(str(name), record, kind, str(reason)))

    size = _decode(dataset, image_id, add)
    height, width = info.get("height"), info.get("width")
    for declared in {(height, width), info.get("declared_size") or (None, None)}:
        if size is not None and None not in declared and tuple(declared) != size:
            reason = (
                f"its annotations say {declared[1]} x {declared[0]} (width x height), the file is "
                f"{size[1]} x {size[0]}"
            )
            add(SIZE_DIFFERS, reason)
    try:
        class_ids, areas = _check_instances(dataset, image_id, size, add)
    except Exception as error:  # a dataset is people's own code
        add(DAMAGED, f"its instances can't be loaded: {type(error).__name__}: {error}")
        class_ids, areas = np.zeros(0, np.int32), np.zeros(0)
    return ImageChecks(problems, size, class_ids, areas)


def _check_instances(dataset, image_id, size, add):
    """Class ids and areas of an image's instances; what is wrong with one is added."""
    info = dataset.image_info[image_id]
    found, class_ids = dataset.load_polygons(image_id) or _masks(dataset, image_id)
    height, width = info.get("height"), info.get("width")
    extent = (height, width) if height and width else size
    instances = info.get("instances", ())
    areas = np.zeros(len(found))
    for number, segment in enumerate(found):
        instance = instances[number] if len(instances) == len(found) else None
        record = instance.name if instance else f"instance {number}"
        if isinstance(segment, np.ndarray):
            areas[number] = np.count_nonzero(segment)
        elif extent is not None:
            areas[number], _ = segments.area_and_box(segment, *extent)
        if extent is not None:
            _check_outline(segment, instance, extent, lambda *what, r=record: add(*what, r))
        if areas[number] == 0:
            add(ZERO_AREA, "it covers no pixel of the image", record)
    return np.asarray(class_ids), areas


def _masks(dataset, image_id):
    masks, class_ids = dataset.load_mask(image_id)
    return [masks[..., number] for number in range(len(class_ids))], class_ids


def _check_outline(segment, instance, extent, add):
    if instance is not None and instance.box is not None:
        by = box_outside_by(instance.box, *extent)
        if by > TOLERANCE:
            add(BOX_OUTSIDE, f"its box {_numbers(instance.box)} lies {by:.1f} pixels outside")
    if not segments.is_polygons(segment):
        return
    for polygon in segment:
        by = outside_by(polygon, *extent)
        if by > TOLERANCE:
            add(POLYGON_OUTSIDE, f"a vertex lies {by:.1f} pixels outside")
            break
    if any(map(crosses_itself, segment)):
        add(SELF_CROSSING, "its outline crosses itself")


def _numbers(box):
    return "[" + ", ".join(f"{value:g}" for value in box) + "]"


def _decode(dataset, image_id, add):
    """(height, width) of an image's pixels after decoding all of them, or None and a problem."""
    file = dataset.image_file(image_id)
    try:
        if file is None:
            return tuple(dataset.load_image(image_id).shape[:2])
        from PIL import Image

        verify_png(file)
        with Image.open(file) as image:
            width, height = image.size
            orientation = image.getexif().get(_ORIENTATION, 1)
            image.draft("RGB", (max(1, width // 8), max(1, height // 8)))  # JPEG: 3 times faster
            image.load()
    except Exception as error:  # Pillow's plugins raise what their parsers do on damaged files
        add(UNREADABLE_IMAGE, f"it can't be decoded: {error}")
        return None
    if orientation != 1:
        reason = (
            f"its EXIF orientation is {orientation}: viewers turn it, training takes the pixels as "
            "they are stored; see that the annotations fit those, or turn the file for good"
        )
        add(EXIF_ROTATION, reason)
    return height, width
