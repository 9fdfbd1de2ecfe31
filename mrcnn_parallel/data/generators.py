"""Matterport's generators of training batches, for people's own loops and for looking at data.

`MaskRCNN.train` has a loader of its own, see loader.py.

Letters: B images a batch, G = MAX_GT_INSTANCES, A anchors, R = RPN_TRAIN_ANCHORS_PER_IMAGE.
"""

import math

import keras
import numpy as np

from mrcnn_parallel.data.images import mold_image
from mrcnn_parallel.data.loader import loader_workers
from mrcnn_parallel.data.samples import limit_instances, load_sample, pad_ground_truth
from mrcnn_parallel.data.sources import check_dataset
from mrcnn_parallel.data.targets import (
    build_detection_targets,
    build_rpn_targets,
    generate_random_rois,
)
from mrcnn_parallel.ops.anchors import image_anchors_px


class _MatterportBatches:
    """Batches in the form of Matterport's data generator; random draws from global states."""

    def __init__(
        self,
        dataset,
        config,
        augment=None,
        augmentation=None,
        random_rois=0,
        detection_targets=False,
        no_augmentation_sources=None,
    ):
        check_dataset(dataset, config)
        if detection_targets and not random_rois:
            raise ValueError("detection_targets needs random_rois > 0 to make targets for.")
        self.dataset, self.config = dataset, config
        self.augment, self.augmentation = augment, augmentation
        self.random_rois, self.detection_targets = random_rois, detection_targets
        self.no_augmentation_sources = set(no_augmentation_sources or ())
        self.anchors = image_anchors_px(config, config.IMAGE_SHAPE)

    def batch(self, image_ids):
        """(inputs, outputs), two lists of arrays; see data_generator."""
        items = [self._item(image_id) for image_id in image_ids]
        samples = [limit_instances(sample, self.config) for sample, *_ in items]
        metas = np.stack([sample.image_meta for sample in samples])
        images = mold_image(np.stack([sample.image for sample in samples]), self.config)
        matches = np.stack([match for _, match, *_ in items])[..., None]
        deltas = np.stack([delta for _, _, delta, *_ in items])
        inputs = [images, metas, matches, deltas, *pad_ground_truth(samples, self.config)]
        outputs = []
        if self.random_rois:
            inputs.append(np.stack([item[3] for item in items]))
        if self.detection_targets:
            rois, class_ids, bboxes, masks = map(
                np.stack, zip(*(item[4] for item in items), strict=True)
            )
            inputs.append(rois)
            outputs = [class_ids[..., None], bboxes, masks]
        return inputs, outputs

    def _item(self, image_id):
        source = self.dataset.image_info[image_id]["source"]
        plain = source in self.no_augmentation_sources
        sample = load_sample(
            self.dataset,
            self.config,
            image_id,
            augmentation=None if plain else self.augmentation,
            augment=None if plain else self.augment,
        )
        shape, (_, _, class_ids, boxes, masks) = sample.image.shape, sample
        match, delta = build_rpn_targets(shape, self.anchors, class_ids, boxes, self.config)
        rois = targets = None
        if self.random_rois:
            rois = generate_random_rois(shape, self.random_rois, class_ids, boxes)
        if self.detection_targets:
            targets = build_detection_targets(rois, class_ids, boxes, masks, self.config)
        return sample, match, delta, rois, targets


def data_generator(
    dataset,
    config,
    shuffle=True,
    augment=False,
    augmentation=None,
    random_rois=0,
    batch_size=1,
    detection_targets=False,
    no_augmentation_sources=None,
):
    """Matterport's endless Python generator of training batches.

    Unlike Matterport's it trains on images without instances, as background, and raises the first
    error that an image causes rather than the sixth.

    Args:
        shuffle: draw a new order before each pass over the images.
        augment: deprecated; True mirrors every second image.
        augmentation: see load_image_gt.
        random_rois: number of ROIs to make up per image, for training without an RPN.
        detection_targets: also build the heads' targets for those ROIs, to look at or train from.
        no_augmentation_sources: names of sources whose images are left as they are.

    Yields:
        inputs: [images (B, H, W, C) float32 molded, image_meta (B, 12 + NUM_CLASSES),
            rpn_match (B, A, 1) int32, rpn_bbox (B, R, 4), gt_class_ids (B, G) int32,
            gt_boxes (B, G, 4) int32 pixels, gt_masks (B, h, w, G) bool], then the random ROIs
            (B, random_rois, 4), then with detection_targets those chosen from them.
        outputs: [], with detection_targets [class ids, deltas, masks] of the chosen ROIs.
    """
    batches = _MatterportBatches(
        dataset,
        config,
        augment,
        augmentation,
        random_rois,
        detection_targets,
        no_augmentation_sources,
    )
    return _endless(batches, np.copy(dataset.image_ids), batch_size, shuffle)


def _endless(batches, image_ids, batch_size, shuffle):
    waiting = []
    while True:
        if shuffle:
            np.random.shuffle(image_ids)
        for image_id in image_ids:
            waiting.append(image_id)
            if len(waiting) == batch_size:
                yield batches.batch(waiting)
                waiting = []


class DataGenerator(keras.utils.PyDataset):
    """One pass over a dataset in the form of Matterport's data generator; see data_generator.

    The last batch is filled up with images from the start of the pass. `[i]` returns
    (inputs, outputs); the order changes after each epoch if `shuffle`.

    Args:
        batch_size: images a batch; None for config.BATCH_SIZE.
        workers: threads that Keras loads with; None for config.LOADER_WORKERS.
    """

    def __init__(
        self,
        dataset,
        config,
        shuffle=True,
        augmentation=None,
        random_rois=0,
        detection_targets=False,
        batch_size=None,
        no_augmentation_sources=None,
        workers=None,
    ):
        super().__init__(workers=loader_workers(config) if workers is None else workers)
        self._batches = _MatterportBatches(
            dataset,
            config,
            None,
            augmentation,
            random_rois,
            detection_targets,
            no_augmentation_sources,
        )
        self.dataset, self.config, self.shuffle = dataset, config, shuffle
        self.anchors = self._batches.anchors
        self.batch_size = batch_size or config.BATCH_SIZE
        self.image_ids = np.copy(dataset.image_ids)
        if shuffle:
            np.random.shuffle(self.image_ids)

    def __len__(self):
        return math.ceil(len(self.image_ids) / self.batch_size)

    def __getitem__(self, idx):
        positions = np.arange(idx * self.batch_size, (idx + 1) * self.batch_size)
        return self._batches.batch(np.take(self.image_ids, positions, mode="wrap"))

    def on_epoch_end(self):
        if self.shuffle:
            np.random.shuffle(self.image_ids)
