"""Samples: one image with its ground truth each, and how they become a batch's arrays.

Letters: B images a batch, N instances of one image, G = MAX_GT_INSTANCES.
"""

from typing import NamedTuple

import numpy as np

from mrcnn_parallel.data.load import load_image_gt
from mrcnn_parallel.data.sources import describe_image


class Sample(NamedTuple):
    """One image with its ground truth, N instances, not padded."""

    image: np.ndarray  # (H, W, C), not molded
    image_meta: np.ndarray  # (12 + NUM_CLASSES,) float64
    class_ids: np.ndarray  # (N,) int32
    boxes: np.ndarray  # (N, 4) int32 pixels
    masks: np.ndarray  # (h, w, N) bool


def load_sample(dataset, config, image_id, augmentation=None, augment=None, rng=None, out=None):
    """load_image_gt as a Sample that has the size config.IMAGE_SHAPE, or a ValueError."""
    sample = Sample(
        *load_image_gt(dataset, config, image_id, augmentation, augment=augment, rng=rng, out=out)
    )
    if sample.image.shape != tuple(config.IMAGE_SHAPE):
        raise ValueError(
            f"{describe_image(dataset, image_id)}: it is {sample.image.shape} after resizing, but "
            f"training needs config.IMAGE_SHAPE {tuple(int(n) for n in config.IMAGE_SHAPE)}; set "
            "config.IMAGE_RESIZE_MODE to 'square' or 'crop'."
        )
    return sample


def limit_instances(sample, config, rng=None):
    """At most MAX_GT_INSTANCES instances, chosen at random if there are more."""
    count, limit = len(sample.class_ids), config.MAX_GT_INSTANCES
    if count <= limit:
        return sample
    ids = (rng or np.random).choice(np.arange(count), limit, replace=False)
    return sample._replace(
        class_ids=sample.class_ids[ids], boxes=sample.boxes[ids], masks=sample.masks[:, :, ids]
    )


def pad_ground_truth(samples, config, box_dtype=np.int32):
    """Samples with at most G instances -> class ids (B, G), boxes (B, G, 4), masks (B, h, w, G)."""
    count, limit = len(samples), config.MAX_GT_INSTANCES
    class_ids = np.zeros((count, limit), np.int32)
    boxes = np.zeros((count, limit, 4), box_dtype)
    masks = np.zeros((count, *samples[0].masks.shape[:2], limit), bool)
    for i, sample in enumerate(samples):
        n = len(sample.class_ids)
        class_ids[i, :n], boxes[i, :n], masks[i, :, :, :n] = sample[2:]
    return class_ids, boxes, masks
