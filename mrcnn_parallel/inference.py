"""From images of any size to what the network takes, and from its output back to the images."""

import numpy as np

from mrcnn_parallel.data.geometry import denorm_boxes
from mrcnn_parallel.data.image_meta import compose_image_meta
from mrcnn_parallel.data.images import check_image, mold_image, resize_image
from mrcnn_parallel.data.masks import unmold_mask


def mold_inputs(images, config):
    """Resizes and molds images.

    Args:
        images: list of (H, W, C) arrays, of any sizes.
        config: a Config.

    Returns:
        molded_images: (B, h, w, C) float32, or a list where the resize mode leaves sizes apart.
        image_metas: (B, META) float64.
        windows: (B, 4) int pixels, the part of each molded image that is not padding.

    Raises:
        ValueError: an image that cannot be one; names its place in the list.
    """
    molded, metas, windows = [], [], []
    for index, image in enumerate(images):
        image = check_image(np.asarray(image), config, where=f"images[{index}]")
        resized, window, scale, _, _ = resize_image(
            image,
            min_dim=config.IMAGE_MIN_DIM,
            min_scale=config.IMAGE_MIN_SCALE,
            max_dim=config.IMAGE_MAX_DIM,
            mode=config.IMAGE_RESIZE_MODE,
        )
        _check_sides(resized, config, index)
        active = np.zeros(config.NUM_CLASSES, np.int32)
        molded.append(mold_image(resized, config).astype(np.float32))
        metas.append(compose_image_meta(0, image.shape, resized.shape, window, scale, active))
        windows.append(window)
    if len({image.shape for image in molded}) == 1:
        molded = np.stack(molded)
    return molded, np.stack(metas), np.stack(windows)


def _check_sides(resized, config, index):
    step = config.BACKBONE_STRIDES[-2]  # P5's cells, which the levels above are doubled from
    height, width = resized.shape[:2]
    if height % step or width % step:
        raise ValueError(
            f"images[{index}] is {height} x {width} pixels with IMAGE_RESIZE_MODE "
            f"{config.IMAGE_RESIZE_MODE!r}, but both sides must be divisible by {step}; use "
            "'square' or 'pad64', which pad it."
        )


def unmold_detections(detections, mrcnn_mask, original_image_shape, image_shape, window):
    """Detections of one molded image, in the original image's pixels.

    Args:
        detections: (D, 6) normalised boxes, class ids, scores; zero-padded.
        mrcnn_mask: (D, h, w, C) probabilities, or (D, h, w) with each one's own class chosen.
        original_image_shape, image_shape: (H, W, C) before and after molding.
        window: (4,) pixels of the molded image that are not padding.

    Returns:
        boxes (N, 4) int32 pixels, class_ids (N,) int32, scores (N,) float32,
        masks (H, W, N) bool.
    """
    padding = np.where(detections[:, 4] == 0)[0]
    count = padding[0] if len(padding) else len(detections)
    boxes = detections[:count, :4]
    class_ids = detections[:count, 4].astype(np.int32)
    scores = detections[:count, 5]
    masks = mrcnn_mask[:count]
    if masks.ndim == 4:
        masks = masks[np.arange(count), :, :, class_ids]

    top, left, bottom, right = (
        (np.asarray(window) - [0, 0, 1, 1]) / (np.asarray(image_shape)[[0, 1, 0, 1]] - 1.0)
    ).astype(np.float32)
    shift = np.array([top, left, top, left])
    scale = np.array([bottom - top, right - left, bottom - top, right - left])
    boxes = denorm_boxes((boxes - shift) / scale, original_image_shape[:2])

    height_px, width_px = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    real = (height_px > 0) & (width_px > 0)  # clipping may leave a box empty
    boxes, class_ids, scores, masks = boxes[real], class_ids[real], scores[real], masks[real]
    full = [
        unmold_mask(mask, box, original_image_shape) for mask, box in zip(masks, boxes, strict=True)
    ]
    empty = np.empty((*original_image_shape[:2], 0), dtype=bool)
    return boxes, class_ids, scores, np.stack(full, axis=-1) if full else empty


def pad_rows(array, rows):
    """Repeats the last row until there are `rows`: batches keep one of few sizes."""
    missing = rows - len(array)
    return np.concatenate([array, np.repeat(array[-1:], missing, axis=0)]) if missing else array


def batch_rows(count, config):
    """Rows that a batch of `count` images is padded to: a power of two times the replicas, at
    most BATCH_SIZE, so that only a few programs are ever compiled."""
    rows = config.GPU_COUNT
    while rows < count:
        rows *= 2
    return min(rows, config.BATCH_SIZE)
