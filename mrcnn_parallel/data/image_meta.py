"""Image metas: one row of numbers per image, so that its history can travel through the graph.

A row is image_id (1), original shape (3), shape after resizing (3), window y1 x1 y2 x2 in pixels
(4), scale (1), active_class_ids (NUM_CLASSES): 12 + NUM_CLASSES numbers.
"""

import numpy as np


def compose_image_meta(
    image_id, original_image_shape, image_shape, window, scale, active_class_ids
):
    """Builds one row.

    Args:
        image_id: int. original_image_shape, image_shape: (height, width, channels).
        window: (y1, x1, y2, x2) pixels, where the picture lies inside the padding.
        scale: float, resized pixels per original pixel.
        active_class_ids: (NUM_CLASSES,) 1 for classes that the image's dataset annotates, else 0.

    Returns:
        (12 + NUM_CLASSES,) float64.
    """
    parts = [[image_id], original_image_shape, image_shape, window, [scale], active_class_ids]
    return np.concatenate([np.asarray(part, np.float64) for part in parts])


def parse_image_meta(meta):
    """Splits rows into named arrays: (B, 12 + NUM_CLASSES) -> dict of (B,) and (B, n) arrays."""
    return {
        "image_id": meta[:, 0].astype(np.int32),
        "original_image_shape": meta[:, 1:4].astype(np.int32),
        "image_shape": meta[:, 4:7].astype(np.int32),
        "window": meta[:, 7:11].astype(np.int32),
        "scale": meta[:, 11].astype(np.float32),
        "active_class_ids": meta[:, 12:].astype(np.int32),
    }
