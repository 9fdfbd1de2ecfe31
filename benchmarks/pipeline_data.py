"""COCO-like pictures made on the spot, and Matterport's way of loading them, for input_pipeline.py.

The pictures are crops of scikit-image's photos with polygons of COCO's sizes on them. The path is
written from the public parts that Matterport's package is made of: scikit-image reads and resizes
the image, COCO's tools draw every instance at full size, SciPy zooms the masks, scikit-image makes
mini masks of them, and NumPy matches the anchors.
"""

from pathlib import Path

import numpy as np

from mrcnn_parallel.data import segments
from mrcnn_parallel.data.dataset import Dataset

PHOTOS = ("astronaut", "chelsea", "coffee", "rocket", "hubble_deep_field", "immunohistochemistry")
CLASSES = 80
JPEG_QUALITY = 92  # about COCO's bytes per pixel


def write_pictures(folder, count, width, height, seed=0):
    """Writes `count` JPEGs; returns their paths and mean size in bytes."""
    import skimage.data
    from PIL import Image

    rng = np.random.default_rng(seed)
    photos = [getattr(skimage.data, name)()[..., :3] for name in PHOTOS]
    paths = []
    for number in range(count):
        photo = Image.fromarray(photos[number % len(photos)])
        share = rng.uniform(0.7, 1.0)
        w, h = int(photo.width * share), int(photo.height * share)
        x, y = int(rng.integers(photo.width - w + 1)), int(rng.integers(photo.height - h + 1))
        picture = photo.resize((width, height), Image.Resampling.BICUBIC, (x, y, x + w, y + h))
        grain = rng.normal(0, 3, (height, width, 1))  # a sensor's noise, which enlarging lost
        pixels = np.clip(np.asarray(picture) + grain, 0, 255).astype(np.uint8)
        paths.append(Path(folder) / f"{number:04}.jpg")
        Image.fromarray(pixels).save(paths[-1], quality=JPEG_QUALITY)
    return paths, float(np.mean([path.stat().st_size for path in paths]))


class Pictures(Dataset):
    """The pictures, each with `instances` polygons.

    Two in five are small, two medium and one large, as in COCO, with 12 to 60 vertices.
    """

    def __init__(self, paths, width, height, instances, classes=CLASSES, seed=0):
        super().__init__()
        for class_id in range(1, classes + 1):
            self.add_class("pictures", class_id, f"class {class_id}")
        rng = np.random.default_rng(seed)
        for number, path in enumerate(paths):
            polygons = [[polygon(rng, width, height)] for _ in range(instances)]
            ids = rng.integers(1, classes + 1, instances).astype(np.int32)
            self.add_image(
                "pictures",
                number,
                str(path),
                width=width,
                height=height,
                polygons=polygons,
                class_ids=ids,
            )
        self.prepare()

    def load_polygons(self, image_id):
        info = self.image_info[image_id]
        return info["polygons"], info["class_ids"]

    def load_mask(self, image_id):
        info = self.image_info[image_id]
        size = info["height"], info["width"]
        masks = [segments.to_mask(parts, *size) for parts in info["polygons"]]
        return np.stack(masks, axis=-1), info["class_ids"]


class MaskPictures(Pictures):
    """The same as a custom dataset that only has load_mask."""

    def load_mask(self, image_id):
        return super().load_mask(image_id)


def polygon(rng, width, height):
    """(n, 2) float64 (x, y), star-shaped, inside the picture."""
    side = rng.choice(
        [rng.uniform(12, 32), rng.uniform(32, 96), rng.uniform(96, 300)], p=(2 / 5, 2 / 5, 1 / 5)
    )
    vertices = int(np.clip(side / 3, 12, 60))
    angle = np.linspace(0, 2 * np.pi, vertices, endpoint=False)
    radius = side / 2 * rng.uniform(0.7, 1.0, vertices)
    centre = rng.uniform(0.05, 0.95, 2) * (width, height)
    points = centre + radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return np.clip(points, 0, (width, height))


class MatterportPath:
    """One image after another as Matterport's generator makes them.

    Args:
        dataset: Pictures. config: for sizes and anchors. anchors: (A, 4) pixels.
    """

    def __init__(self, dataset, config, anchors, seed=0):
        self.dataset, self.config, self.anchors = dataset, config, anchors
        self.rng = np.random.default_rng(seed)

    def load(self, image_id, augment):
        """The seven inputs of one image."""
        import skimage.io
        import skimage.transform

        config, info = self.config, self.dataset.image_info[image_id]
        image = skimage.io.imread(info["path"])
        mask, class_ids = self.dataset.load_mask(image_id)
        height, width = image.shape[:2]
        side = int(config.IMAGE_MAX_DIM)
        scale = min(max(1, config.IMAGE_MIN_DIM / min(height, width)), side / max(height, width))
        image = skimage.transform.resize(
            image,
            (round(height * scale), round(width * scale)),
            order=1,
            mode="constant",
            preserve_range=True,
            anti_aliasing=False,
        ).astype(np.uint8)
        top, left = (side - image.shape[0]) // 2, (side - image.shape[1]) // 2
        padding = [
            (top, side - image.shape[0] - top),
            (left, side - image.shape[1] - left),
            (0, 0),
        ]
        image = np.pad(image, padding)
        mask = self._zoomed(mask, scale, padding)
        if augment:
            image, mask = self._augmented(image, mask)
        kept = mask.any(axis=(0, 1))
        mask, class_ids = mask[:, :, kept], class_ids[kept]
        boxes = np.array([_box(mask[:, :, i]) for i in range(mask.shape[2])]).reshape(-1, 4)
        mini = np.zeros((*config.MINI_MASK_SHAPE, mask.shape[2]), bool)
        for i, (y1, x1, y2, x2) in enumerate(boxes):
            part = mask[y1:y2, x1:x2, i].astype(float)
            small = skimage.transform.resize(
                part, config.MINI_MASK_SHAPE, order=1, mode="constant", anti_aliasing=False
            )
            mini[:, :, i] = np.around(small).astype(bool)
        match, deltas = self._rpn_targets(boxes)
        molded = image.astype(np.float32) - np.asarray(config.MEAN_PIXEL)
        return molded, match, deltas, class_ids, boxes, mini

    def _zoomed(self, mask, scale, padding):
        import scipy.ndimage

        zoomed = scipy.ndimage.zoom(mask.astype(np.uint8), (scale, scale, 1), order=0)
        return np.pad(zoomed, padding).astype(bool)

    def _augmented(self, image, mask):
        """Flip, affine, colour: what an imgaug pipeline of these three calls in OpenCV."""
        import cv2

        if self.rng.random() < 0.5:
            image, mask = image[:, ::-1], mask[:, ::-1]
        side, scale = image.shape[0], self.rng.uniform(0.6, 1.6)
        matrix = cv2.getRotationMatrix2D((side / 2, side / 2), self.rng.uniform(-8, 8), scale)
        size = (side, side)
        image = cv2.warpAffine(np.ascontiguousarray(image), matrix, size)
        planes = np.ascontiguousarray(mask, np.uint8)
        warped = [
            cv2.warpAffine(np.ascontiguousarray(planes[..., i : i + 4]), matrix, size)
            for i in range(0, planes.shape[2], 4)
        ]
        mask = np.concatenate([plane.reshape(side, side, -1) for plane in warped], axis=2) > 0
        return cv2.convertScaleAbs(image, alpha=self.rng.uniform(0.8, 1.2)), mask

    def _rpn_targets(self, boxes):
        """Anchors' matches and deltas, from the (A, N) matrix of all overlaps."""
        anchors = self.anchors
        top = np.maximum(anchors[:, None, :2], boxes[None, :, :2])
        low = np.minimum(anchors[:, None, 2:], boxes[None, :, 2:])
        common = np.prod(np.maximum(low - top, 0), axis=2)
        area = np.prod(anchors[:, 2:] - anchors[:, :2], axis=1)
        box_area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
        iou = common / (area[:, None] + box_area[None] - common)
        match = np.zeros(len(anchors), np.int32)
        deltas = np.zeros((self.config.RPN_TRAIN_ANCHORS_PER_IMAGE, 4))
        if not len(boxes):
            return match - 1, deltas
        best = iou.max(axis=1)
        match[best < 0.3] = -1
        match[np.argwhere(iou == iou.max(axis=0))[:, 0]] = 1
        match[best >= 0.7] = 1
        half = len(deltas) // 2
        for value, room in ((1, half), (-1, len(deltas) - min(half, int((match == 1).sum())))):
            found = np.flatnonzero(match == value)
            if len(found) > room:
                match[self.rng.choice(found, len(found) - room, replace=False)] = 0
        for row, i in enumerate(np.flatnonzero(match == 1)):
            box, anchor = boxes[iou[i].argmax()], anchors[i]
            size, own = box[2:] - box[:2], anchor[2:] - anchor[:2]
            shift = (box[:2] + 0.5 * size - anchor[:2] - 0.5 * own) / own
            deltas[row] = np.concatenate([shift, np.log(size / own)])
        return match, deltas / self.config.RPN_BBOX_STD_DEV


def _box(mask):
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return rows[0], cols[0], rows[-1] + 1, cols[-1] + 1
