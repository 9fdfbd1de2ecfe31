"""A dataset of JPEG files with polygons, for tests of the path that makes no masks."""

import numpy as np
from PIL import Image

from mrcnn_parallel.data import segments
from mrcnn_parallel.data.dataset import Dataset

CLASSES = ("blob", "star", "sliver")


def texture(rng, height, width):
    """(height, width, 3) uint8, smooth at some scales and rough at others."""
    small = rng.integers(0, 256, (max(2, height // 8), max(2, width // 8), 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))
    return np.clip(smooth + rng.integers(-20, 21, smooth.shape), 0, 255).astype(np.uint8)


def blob(rng, height, width, vertices=24, smallest=6):
    """(n, 2) float64 (x, y): a star-shaped polygon, perhaps partly outside the image."""
    angle = np.sort(rng.random(vertices)) * 2 * np.pi
    radius = rng.uniform(smallest, max(smallest + 1, min(height, width) / 3))
    radius = radius * rng.uniform(0.6, 1.0, vertices)
    centre = rng.random(2) * (width, height)
    return centre + radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)


class OutlinedDataset(Dataset):
    """`count` JPEGs written to `folder`, each with 1 to `most` instances.

    Args:
        sizes: (height, width) of the images, in turns.
        kinds: forms of the instances, in turns: "polygon", "two polygons", "mask", "rle", "crowd".
    """

    def __init__(
        self, folder, count=3, sizes=((96, 128),), most=4, seed=0, kinds=("polygon",), quality=95
    ):
        super().__init__()
        for class_id, name in enumerate(CLASSES, 1):
            self.add_class("outlined", class_id, name)
        for number in range(count):
            rng = np.random.default_rng([seed, number])
            size = sizes[number % len(sizes)]
            path = folder / f"{number}.jpg"
            Image.fromarray(texture(rng, *size)).save(path, quality=quality)
            instances = [
                self._instance(rng, kinds[i % len(kinds)], size)
                for i in range(rng.integers(1, most + 1))
            ]
            self.add_image("outlined", number, str(path), size=size, instances=instances)
        self.prepare()

    def _instance(self, rng, kind, size):
        class_id = int(rng.integers(1, len(CLASSES) + 1))
        parts = [blob(rng, *size) for _ in range(2 if kind == "two polygons" else 1)]
        if "polygon" in kind:
            return parts, class_id
        if kind == "mask":
            return segments.to_mask(parts, *size), class_id
        return segments.to_rle(parts, *size), -class_id if kind == "crowd" else class_id

    def load_polygons(self, image_id):
        instances = self.image_info[image_id]["instances"]
        ids = np.array([class_id for _, class_id in instances], np.int32)
        return [shape for shape, _ in instances], ids

    def load_mask(self, image_id):
        info = self.image_info[image_id]
        masks = [segments.to_mask(shape, *info["size"]) for shape, _ in info["instances"]]
        return np.stack(masks, axis=-1), self.load_polygons(image_id)[1]
