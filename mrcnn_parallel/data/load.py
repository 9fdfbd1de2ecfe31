"""One image of a Dataset with its ground truth, checked, resized and augmented."""

import warnings

import numpy as np

from mrcnn_parallel.data.augmentation import augment as apply_augmentation
from mrcnn_parallel.data.augmentation import flip_left_right
from mrcnn_parallel.data.geometry import extract_bboxes
from mrcnn_parallel.data.image_meta import compose_image_meta
from mrcnn_parallel.data.images import check_image, resize_image
from mrcnn_parallel.data.masks import (
    minimize_mask,
    minimize_resized_mask,
    nearest_indices,
    resize_mask,
)


def load_image_gt(
    dataset,
    config,
    image_id,
    augmentation=None,
    use_mini_mask=None,
    augment=None,
    rng=None,
):
    """Loads an image and its ground truth as the network takes them, but for the mean pixel.

    Args:
        dataset: a prepared Dataset. config: a Config. image_id: number in the dataset.
        augmentation: None, an imgaug augmenter, or a function (image, mask, rng) -> (image, mask).
        use_mini_mask: return masks inside their boxes, MINI_MASK_SHAPE large; None asks
            config.USE_MINI_MASK.
        augment: deprecated; True mirrors every second image by chance.
        rng: numpy.random.Generator for crops and augmentation; None uses global random states.

    Returns:
        image: (H, W, C) in the dataset's type. image_meta: (12 + num_classes,) float64.
        class_ids: (N,) int32. bbox: (N, 4) int32 pixels. mask: (H, W, N) or mini masks, bool.
        Instances of which resizing, cropping or augmentation left nothing are dropped; N may be 0.

    Raises:
        ValueError: the image, a mask or a class id cannot be right; names source, id and path.
    """
    if isinstance(augmentation, bool):  # `augment` was the fourth argument once
        augment, augmentation = augmentation, None
    mini = config.USE_MINI_MASK if use_mini_mask is None else use_mini_mask
    where = describe_image(dataset, image_id)
    image, mask, class_ids = _load_checked(dataset, config, image_id, where)
    original_shape, original_mask = image.shape, mask
    image, window, scale, padding, crop = resize_image(
        image,
        min_dim=config.IMAGE_MIN_DIM,
        min_scale=config.IMAGE_MIN_SCALE,
        max_dim=config.IMAGE_MAX_DIM,
        mode=config.IMAGE_RESIZE_MODE,
        rng=rng,
    )
    if augment:
        warnings.warn(
            "`augment` is deprecated; pass `augmentation` instead.",
            DeprecationWarning,
            stacklevel=2,
        )
    if mini and scale >= 1 and not (augment or augmentation):
        bbox, mask, kept = _mini_masks_directly(original_mask, scale, padding, crop, config)
        class_ids = class_ids[kept]
    else:
        mask = resize_mask(original_mask, scale, padding, crop)
        if augment:
            image, mask = apply_augmentation(image, mask, flip_left_right, rng, where)
        if augmentation:
            image, mask = apply_augmentation(image, mask, augmentation, rng, where)
        bbox = extract_bboxes(mask)
        kept = (bbox[:, 2] > bbox[:, 0]) & (bbox[:, 3] > bbox[:, 1])
        if not kept.all():
            mask, class_ids, bbox = mask[:, :, kept], class_ids[kept], bbox[kept]
        if mini:
            mask = minimize_mask(bbox, mask, config.MINI_MASK_SHAPE)

    active_class_ids = np.zeros(dataset.num_classes, np.int32)
    source = dataset.image_info[image_id]["source"]
    active_class_ids[dataset.source_class_ids[source]] = 1
    image_meta = compose_image_meta(
        image_id, original_shape, image.shape, window, scale, active_class_ids
    )
    return image, image_meta, class_ids, bbox, mask


def _mini_masks_directly(mask, scale, padding, crop, config):
    """Boxes and mini masks after enlarging, without building masks of the network's image size.

    Equal to resize_mask, extract_bboxes, minimize_mask, at a tenth of the time.

    Returns:
        bbox: (n, 4) int32 pixels of the resized image. mini: (h, w, n) bool.
        kept: (N,) bool, the instances that are still there.
    """
    rows, cols = nearest_indices(mask.shape[0], scale), nearest_indices(mask.shape[1], scale)
    if crop is not None:
        y, x, height, width = crop
        rows, cols = rows[y : y + height], cols[x : x + width]
    (top, _), (left, _), _ = padding
    # Enlarging repeats pixels and skips none, so a source box says where the resized box is.
    part = mask[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
    boxes = extract_bboxes(part)
    kept = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    y1, x1, y2, x2 = boxes[kept].T
    rows, cols = rows - rows[0], cols - cols[0]
    box = np.stack(
        [
            np.searchsorted(rows, y1, "left"),
            np.searchsorted(cols, x1, "left"),
            np.searchsorted(rows, y2 - 1, "right"),
            np.searchsorted(cols, x2 - 1, "right"),
        ],
        axis=1,
    ).astype(np.int32)
    mini = minimize_resized_mask(box, part[:, :, kept], rows, cols, config.MINI_MASK_SHAPE)
    return box + np.array([top, left, top, left], np.int32), mini, kept


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


def _load_checked(dataset, config, image_id, where):
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
    _check_class_ids(class_ids, dataset, where)
    if mask.dtype.kind == "f" and not np.isfinite(mask).all():
        raise ValueError(f"{where}: a mask holds NaN or infinite values.")
    return image, mask.astype(bool, copy=False), class_ids.astype(np.int32)


def _check_class_ids(class_ids, dataset, where):
    """Class ids are 1 to num_classes - 1; negative ones mark crowds."""
    numeric = class_ids.dtype.kind in "iuf"
    good = (
        (class_ids == np.round(class_ids))
        & (class_ids != 0)
        & (np.abs(class_ids) < dataset.num_classes)
        if numeric
        else np.zeros(class_ids.shape, bool)
    )
    if not good.all():
        bad = class_ids[np.argmin(good)]
        raise ValueError(
            f"{where}: class id {bad} is out of range; ids of instances are 1 to "
            f"{dataset.num_classes - 1} (0 is the background), negative for crowds."
        )
