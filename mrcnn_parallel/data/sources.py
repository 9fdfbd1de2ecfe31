"""What a Dataset holds of one image, checked: its pixels, and its instances in their own form.

Instances come as polygons or as bitmaps cut to their boxes, in pixels of the dataset's image. A
dataset that can give polygons (`load_polygons`) or a file to decode (`image_file`) is asked for
those; where a subclass has overridden `load_mask` or `load_image` since, its own method counts.
"""

from typing import NamedTuple

import numpy as np

from mrcnn_parallel.data import segments
from mrcnn_parallel.data.decode import read_jpeg
from mrcnn_parallel.data.geometry import extract_bboxes
from mrcnn_parallel.data.images import check_image
from mrcnn_parallel.data.polygons import Outlines, join


class Bitmap(NamedTuple):
    """A mask cut to a box: mask[0, 0] is the pixel (y, x)."""

    mask: np.ndarray  # (h, w) bool
    y: int
    x: int


class Source(NamedTuple):
    """One image as a dataset has it."""

    image: np.ndarray  # (h, w, C), checked; smaller than `size` where it was decoded reduced
    size: tuple  # (height, width) that the shapes count in
    shapes: list  # of N: a list of (n, 2) float64 (x, y) polygons, or a Bitmap
    class_ids: np.ndarray  # (N,) int32, negative for crowds
    outlines: Outlines  # all polygons together; Bitmaps are instances without any


def read_source(dataset, config, image_id, where, most_reduced=None):
    """An image and its instances.

    Args:
        where: names the image in messages. most_reduced: see decode.read_jpeg.

    Raises:
        ValueError: the image, an outline, a mask or a class id cannot be right. What the dataset's
            own methods raise is passed on, with the image named in a note.
    """
    if not gives_polygons(dataset):
        return _from_masks(dataset, config, image_id, where)
    try:
        found = dataset.load_polygons(image_id)
    except Exception as error:  # of any kind: a dataset is people's own code
        error.add_note(f"while loading {where}")
        raise
    if found is None:
        return _from_masks(dataset, config, image_id, where)
    image, size = _pixels(dataset, config, image_id, where, most_reduced)
    info = dataset.image_info[image_id]
    declared = info.get("height", size[0]), info.get("width", size[1])
    if declared != tuple(size):
        raise ValueError(
            f"{where}: its file has {size[0]} x {size[1]} pixels, but its annotations are made for "
            f"{declared[0]} x {declared[1]}."
        )
    annotations, class_ids = found
    class_ids = np.asarray(class_ids)
    if class_ids.shape != (len(annotations),):
        raise ValueError(
            f"{where}: load_polygons returned {len(annotations)} instances and class ids of shape "
            f"{class_ids.shape}; one id per instance is needed."
        )
    check_class_ids(class_ids, dataset, where)
    shapes = [_shape(annotation, size, where) for annotation in annotations]
    outlines = join([() if isinstance(shape, Bitmap) else shape for shape in shapes])
    if not np.isfinite(outlines.vertices).all():
        raise ValueError(f"{where}: a polygon holds NaN or infinite values.")
    return Source(image, size, shapes, class_ids.astype(np.int32), outlines)


def _from_masks(dataset, config, image_id, where):
    image, mask, class_ids = load_checked(dataset, config, image_id, where)
    bitmaps = _bitmaps(mask)
    return Source(image, image.shape[:2], bitmaps, class_ids, join([()] * len(bitmaps)))


def gives_polygons(dataset):
    """Whether load_polygons may stand for load_mask: no later class overrides only the latter."""
    return _stands_for(dataset, "load_polygons", "load_mask")


def _stands_for(dataset, fast, general):
    """Whether the method `fast` was defined by the same class as `general`, or a later one."""
    own = vars(dataset)
    if fast in own or general in own:
        return fast in own
    for kind in type(dataset).__mro__:
        if fast in vars(kind):
            return True
        if general in vars(kind):
            return False
    return False


def _pixels(dataset, config, image_id, where, most_reduced):
    """The checked image, perhaps reduced, and its full (height, width)."""
    try:
        if config.IMAGE_CHANNEL_COUNT == 3 and _stands_for(dataset, "image_file", "load_image"):
            path = dataset.image_file(image_id)
            decoded = read_jpeg(path, most_reduced) if path is not None else None
            if decoded is not None:
                return decoded
        image = dataset.load_image(image_id)
    except Exception as error:
        error.add_note(f"while loading {where}")
        raise
    image = check_image(image, config, where)
    return image, image.shape[:2]


def _shape(annotation, size, where):
    """One instance of load_polygons, checked."""
    if isinstance(annotation, dict):
        annotation = _decode(annotation)
    if isinstance(annotation, np.ndarray):
        if annotation.shape != tuple(size):
            raise ValueError(
                f"{where}: an instance's mask has the shape {annotation.shape}, but the image is "
                f"{size[0]} x {size[1]} pixels."
            )
        return cut_out(annotation != 0, 0, 0)
    parts = [np.asarray(part, np.float64) for part in annotation]
    for part in parts:
        if part.ndim != 2 or part.shape[1] != 2:
            raise ValueError(
                f"{where}: a polygon is not an (n, 2) array of (x, y), but has the shape "
                f"{part.shape}."
            )
    return parts


def _decode(rle):
    if isinstance(rle["counts"], list):
        rle = segments.import_coco_api().mask.frPyObjects(rle, *rle["size"])
    return segments.to_mask(rle, *rle["size"])


def cut_out(mask, y, x):
    """A mask (h, w) bool whose [0, 0] is the pixel (y, x), as a Bitmap of its smallest box."""
    y1, x1, y2, x2 = extract_bboxes(mask[:, :, None])[0].tolist()
    return Bitmap(mask[y1:y2, x1:x2], y + y1, x + x1)


def _bitmaps(mask):
    """(H, W, N) masks as Bitmaps; empty ones have the size 0 x 0."""
    return [
        Bitmap(mask[y1:y2, x1:x2, i], y1, x1)
        for i, (y1, x1, y2, x2) in enumerate(extract_bboxes(mask).tolist())
    ]


def describe_image(dataset, image_id):
    """What error messages call an image: its number, source, own id, and path or reference."""
    try:
        info = dataset.image_info[image_id]
    except IndexError:
        raise ValueError(
            f"the dataset has no image {image_id}; it has {len(dataset.image_info)} images."
        ) from None
    place = info["path"] or dataset.image_reference(image_id)
    return f"image {image_id} (source {info['source']!r}, id {info['id']!r}" + (
        f", {place})" if place else ")"
    )


def check_dataset(dataset, config, name="dataset"):
    """Raises a ValueError if the dataset cannot be trained on with this config.

    Args:
        name: what the caller calls the dataset, for the message.
    """
    what = f"{name} ({type(dataset).__name__})"
    if len(dataset.image_info) == 0:
        raise ValueError(f"{what} has no images; add some with add_image, then call prepare.")
    if len(dataset.image_ids) == 0:
        raise ValueError(f"{what} is not ready; call its prepare() first.")
    if dataset.num_classes != config.NUM_CLASSES:
        raise ValueError(
            f"{what} has {dataset.num_classes} classes with the background, but "
            f"config.NUM_CLASSES is {config.NUM_CLASSES}; make them equal."
        )
    known = set(dataset.source_class_ids)
    for image_id, info in enumerate(dataset.image_info):
        if info["source"] not in known:
            raise ValueError(
                f"{name}, {describe_image(dataset, image_id)}: its source has no classes; the "
                f"sources with classes are {sorted(known - {''})}."
            )


def check_same_classes(train_dataset, val_dataset):
    """Raises a ValueError if a class number means one thing in training, another in validation."""
    pairs = zip(train_dataset.class_names, val_dataset.class_names, strict=True)
    for number, (ours, theirs) in enumerate(pairs):
        if ours != theirs:
            raise ValueError(
                f"class {number} is {ours!r} in train_dataset and {theirs!r} in val_dataset; add "
                "the classes in the same order (load_dataset: classes=[...])."
            )


def load_checked(dataset, config, image_id, where):
    """The dataset's image, masks as (H, W, N) bool and class ids as int32, or a ValueError."""
    try:
        image = dataset.load_image(image_id)
        mask, class_ids = dataset.load_mask(image_id)
    except Exception as error:  # of any kind: a dataset is people's own code
        error.add_note(f"while loading {where}")
        raise
    image = check_image(image, config, where)
    mask, class_ids = np.asarray(mask), np.asarray(class_ids)
    if mask.size == 0 and class_ids.size == 0:
        return image, np.zeros((*image.shape[:2], 0), bool), np.zeros(0, np.int32)
    if mask.ndim != 3 or mask.shape[:2] != image.shape[:2]:
        raise ValueError(
            f"{where}: load_mask returned masks of shape {mask.shape}, but the image is "
            f"{image.shape[0]} x {image.shape[1]} pixels, so ({image.shape[0]}, {image.shape[1]}, "
            "instances) is needed."
        )
    if class_ids.shape != (mask.shape[2],):
        raise ValueError(
            f"{where}: load_mask returned {mask.shape[2]} masks and class ids of shape "
            f"{class_ids.shape}; one id per mask is needed."
        )
    check_class_ids(class_ids, dataset, where)
    if mask.dtype.kind == "f" and not np.isfinite(mask).all():
        raise ValueError(f"{where}: a mask holds NaN or infinite values.")
    return image, mask.astype(bool, copy=False), class_ids.astype(np.int32)


def check_class_ids(class_ids, dataset, where):
    """ValueError unless class ids are 1 to num_classes - 1; negative ones mark crowds."""
    is_number, limit = class_ids.dtype.kind in "iuf", dataset.num_classes
    for i, class_id in enumerate(class_ids.tolist()):  # few, so faster than in NumPy
        if not (is_number and 0 < abs(class_id) < limit and class_id == int(class_id)):
            raise ValueError(
                f"{where}: class id {class_ids[i]} is out of range; ids of instances are 1 to "
                f"{limit - 1} (0 is the background), negative for crowds."
            )
