"""A small textured dataset for tests: known shapes on noise, made from a seed, no files."""

import numpy as np

from mrcnn_parallel.config import Config
from mrcnn_parallel.data.dataset import Dataset

CLASSES = ("square", "disc", "triangle")


class SyntheticConfig(Config):
    """A Config that fits SyntheticDataset; small enough for tests."""

    NAME = "synthetic"
    BACKBONE = "resnet18"
    IMAGES_PER_GPU = 2
    NUM_CLASSES = 1 + len(CLASSES)
    IMAGE_MIN_DIM = 64
    IMAGE_MAX_DIM = 64
    RPN_ANCHOR_SCALES = (8, 16, 32, 48, 64)
    RPN_TRAIN_ANCHORS_PER_IMAGE = 32
    MAX_GT_INSTANCES = 5
    MINI_MASK_SHAPE = (28, 28)
    TRAIN_ROIS_PER_IMAGE = 16
    POST_NMS_ROIS_TRAINING = 32
    STEPS_PER_EPOCH = 3
    VALIDATION_STEPS = 2
    SEED = 7
    LOADER_PROCESSES = False  # tests/data/test_processes.py has them


class SyntheticDataset(Dataset):
    """`count` images of `size` pixels (height, width), each with 1 to `most` shapes.

    Args:
        empty: numbers of images that hold no shape.
        dtype: of the images.
        channels: of the images; 0 for grey ones of two dimensions.
    """

    def __init__(self, count=6, size=(64, 64), most=3, seed=0, empty=(), dtype="uint8", channels=3):
        super().__init__()
        self.size, self.most, self.seed, self.empty = size, most, seed, set(empty)
        self.dtype, self.channels = dtype, channels
        for class_id, name in enumerate(CLASSES, 1):
            self.add_class("synthetic", class_id, name)
        for number in range(count):
            self.add_image("synthetic", f"picture-{number}", None)
        self.prepare()

    def image_reference(self, image_id):
        return f"seed {self.seed}"

    def shapes(self, image_id):
        """[(class_id, centre_y, centre_x, radius)] of an image, those in front last."""
        rng = np.random.default_rng([self.seed, int(image_id)])
        if image_id in self.empty:
            return []
        height, width = self.size
        low = max(4, min(self.size) // 10)
        return [
            (
                int(rng.integers(1, len(CLASSES) + 1)),
                int(rng.integers(low, height - low)),
                int(rng.integers(low, width - low)),
                int(rng.integers(low, max(low + 1, min(self.size) // 4))),
            )
            for _ in range(rng.integers(1, self.most + 1))
        ]

    def load_image(self, image_id):
        rng = np.random.default_rng([self.seed, int(image_id), 1])
        shape = (*self.size, self.channels) if self.channels else self.size
        image = rng.integers(60, 120, shape)
        for shape_spec in self.shapes(image_id):
            inside = self._inside(shape_spec)
            colour = rng.integers(120, 200, self.channels or None)
            image[inside] = colour + rng.integers(-30, 31, image[inside].shape)
        return image.astype(self.dtype)

    def load_mask(self, image_id):
        masks, class_ids = [], []
        taken = np.zeros(self.size, bool)
        for shape_spec in reversed(self.shapes(image_id)):  # from front to back
            inside = self._inside(shape_spec) & ~taken
            taken |= inside
            masks.append(inside)
            class_ids.append(shape_spec[0])
        if not masks:
            return super().load_mask(image_id)
        return np.stack(masks[::-1], axis=-1), np.array(class_ids[::-1], np.int32)

    def _inside(self, shape_spec):
        class_id, y, x, radius = shape_spec
        dy, dx = np.mgrid[: self.size[0], : self.size[1]] - np.array([y, x])[:, None, None]
        if class_id == 1:
            return (abs(dy) <= radius) & (abs(dx) <= radius)
        if class_id == 2:
            return dy**2 + dx**2 <= radius**2
        return (abs(dy) <= radius) & (2 * abs(dx) <= dy + radius)
