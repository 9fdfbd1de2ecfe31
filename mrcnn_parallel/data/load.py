"""One image of a Dataset with its ground truth, checked, resized and augmented."""

import warnings

import numpy as np

from mrcnn_parallel.data.augmentation import augment as apply_augmentation
from mrcnn_parallel.data.augmentation import (
    augment_before_resizing,
    flip_left_right,
    resolve_augmentation,
)
from mrcnn_parallel.data.default_augmentation import DefaultAugmentation, load_augmented
from mrcnn_parallel.data.fast_load import GroundTruth, load_outlined, resized_bitmap
from mrcnn_parallel.data.geometry import extract_bboxes
from mrcnn_parallel.data.image_meta import compose_image_meta
from mrcnn_parallel.data.images import apply_plan, config_plan
from mrcnn_parallel.data.masks import (
    minimize_mask,
    minimize_resized_mask,
    nearest_indices,
    resize_mask,
)
from mrcnn_parallel.data.resample import resize_plane
from mrcnn_parallel.data.sources import (  # noqa: F401 - the first is imported from here
    Bitmap,
    check_dataset,
    describe_image,
    gives_polygons,
    load_checked,
)


def load_image_gt(
    dataset,
    config,
    image_id,
    augmentation=None,
    use_mini_mask=None,
    augment=None,
    rng=None,
    out=None,
):
    """Loads an image and its ground truth as the network takes them, but for the mean pixel.

    Args:
        dataset: a prepared Dataset. config: a Config. image_id: number in the dataset.
        augmentation: None, "default", a DefaultAugmentation, an albumentations pipeline, an imgaug
            augmenter, or a function (image, mask, rng) -> (image, mask).
        use_mini_mask: return masks inside their boxes, MINI_MASK_SHAPE large; None asks
            config.USE_MINI_MASK.
        augment: deprecated; True mirrors every second image by chance.
        rng: numpy.random.Generator for crops and augmentation; None uses global random states.
        out: an array for the image, or None. It is only used if it has the right shape and type and
            where that saves a copy: see whether the image returned is this array.

    Returns:
        image: (H, W, C) in the dataset's type. image_meta: (12 + num_classes,) float64.
        class_ids: (N,) int32. bbox: (N, 4) int32 pixels. mask: (H, W, N) or mini masks, bool.
        Instances of which resizing, cropping or augmentation left nothing are dropped; N may be 0.

    Polygons of datasets that have them (`Dataset.load_polygons`) are used without augmentation and
    with the default one; everything else goes through `load_mask`.

    Raises:
        ValueError: the image, a mask or a class id cannot be right; names source, id and path.
    """
    if isinstance(augmentation, bool):  # `augment` was the fourth argument once
        augment, augmentation = augmentation, None
    if augment:
        warnings.warn(
            "`augment` is deprecated; pass `augmentation` instead.",
            DeprecationWarning,
            stacklevel=2,
        )
    mini = config.USE_MINI_MASK if use_mini_mask is None else use_mini_mask
    augmentation = resolve_augmentation(augmentation)
    if isinstance(augmentation, DefaultAugmentation):  # flips by itself, `augment` or not
        found = load_augmented(dataset, config, image_id, augmentation, mini, rng, out)
    elif augment or augmentation is not None or not gives_polygons(dataset):
        found = _load_masks(dataset, config, image_id, augmentation, mini, augment, rng)
    else:
        found = load_outlined(dataset, config, image_id, mini, rng, out)
    active_class_ids = np.zeros(dataset.num_classes, np.int32)
    source = dataset.image_info[image_id]["source"]
    active_class_ids[dataset.source_class_ids[source]] = 1
    image_meta = compose_image_meta(
        image_id,
        found.original_shape,
        found.image.shape,
        found.window,
        found.scale,
        active_class_ids,
    )
    return found.image, image_meta, found.class_ids, found.boxes, found.masks


def _load_masks(dataset, config, image_id, augmentation, mini, augment, rng):
    """The general path: through load_mask, and masks of the network's image size if need be."""
    where = describe_image(dataset, image_id)
    image, mask, class_ids = load_checked(dataset, config, image_id, where)
    if augmentation is not None:
        image, mask, class_ids, augmentation = augment_before_resizing(
            image, mask, class_ids, augmentation, rng, where
        )
    original_shape, original_mask = image.shape, mask
    plan = config_plan(config, image.shape[:2], rng)
    image, window, scale, padding, crop = apply_plan(image, plan), *plan[2:]
    if mini and not (augment or augmentation):
        make = _mini_masks_directly if scale >= 1 else _mini_masks_one_by_one
        bbox, mask, kept = make(original_mask, scale, padding, crop, config)
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
    return GroundTruth(image, original_shape, window, scale, class_ids, bbox, mask)


def _mini_masks_one_by_one(mask, scale, padding, crop, config):
    """What _mini_masks_directly returns, also where resizing leaves out pixels."""
    rows, cols = nearest_indices(mask.shape[0], scale), nearest_indices(mask.shape[1], scale)
    if crop is not None:
        y, x, height, width = crop
        rows, cols = rows[y : y + height], cols[x : x + width]
    (top, _), (left, _), _ = padding
    shape = tuple(int(side) for side in config.MINI_MASK_SHAPE)
    boxes, minis, kept = [], [], np.zeros(mask.shape[2], bool)
    for i, (y1, x1, y2, x2) in enumerate(extract_bboxes(mask).tolist()):
        part, box = resized_bitmap(Bitmap(mask[y1:y2, x1:x2, i], y1, x1), rows, cols)
        if part.size:
            kept[i] = True
            boxes.append(box)
            minis.append(np.around(resize_plane(part, shape)).astype(bool))
    box = np.array(boxes, np.int32).reshape(-1, 4) + np.array([top, left, top, left], np.int32)
    return box, np.stack(minis, axis=-1) if minis else np.zeros((*shape, 0), bool), kept


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
