"""Batches for training: Matterport's generators, and the loader that this package trains from.

All three make batches from `Sample`s. `TrainingLoader` gives what the training graph takes, images
as uint8 where they are (the device subtracts the mean pixel), and is reproducible: batch i depends
on the seed and on i alone, whichever thread makes it, so a run can stop and go on anywhere.

Letters: B images a batch, G = MAX_GT_INSTANCES, A anchors, R = RPN_TRAIN_ANCHORS_PER_IMAGE.
"""

import contextlib
import functools
import math
from typing import NamedTuple

import keras
import numpy as np

from mrcnn_parallel.data.images import mold_image
from mrcnn_parallel.data.load import check_dataset, describe_image, load_image_gt
from mrcnn_parallel.data.targets import (
    build_detection_targets,
    build_rpn_targets,
    generate_random_rois,
)
from mrcnn_parallel.ops.anchors import image_anchors_px


class Sample(NamedTuple):
    """One image with its ground truth, N instances, not padded."""

    image: np.ndarray  # (H, W, C), not molded
    image_meta: np.ndarray  # (12 + NUM_CLASSES,) float64
    class_ids: np.ndarray  # (N,) int32
    boxes: np.ndarray  # (N, 4) int32 pixels
    masks: np.ndarray  # (h, w, N) bool


def load_sample(dataset, config, image_id, augmentation=None, augment=None, rng=None):
    """load_image_gt as a Sample that has the size config.IMAGE_SHAPE, or a ValueError."""
    sample = Sample(
        *load_image_gt(dataset, config, image_id, augmentation, augment=augment, rng=rng)
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
        super().__init__(workers=config.LOADER_WORKERS if workers is None else workers)
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


class TrainingLoader(keras.utils.PyDataset):
    """What `MaskRCNN.train` fits on: batches without end, or `num_batches` of them again and again.

    Passes over the images follow each other without a gap, each in its own order, so any number of
    steps makes an epoch. Keras loads ahead in threads, in the order of the batches.

    Args:
        dataset: a prepared Dataset. config: a Config.
        batch_size: images a batch; None for config.BATCH_SIZE.
        shuffle: a new order for each pass; else that of the dataset.
        augmentation: see load_image_gt; must be safe to use from several threads.
        no_augmentation_sources: names of sources whose images are left as they are.
        seed: decides order, crops, augmentation and sampling; None draws one from NumPy's global
            state.
        workers: threads; None for config.LOADER_WORKERS; 0 and 1 load in the training thread.
        start_batch: the first batch, for going on where another run stopped.
        num_batches: None for no end; else every epoch sees the same batches (for validation).
        place: function of a batch (a tuple of arrays) that puts it on the devices, called in the
            loading thread, so that the transfer overlaps training; None leaves it to Keras.

    `[i]` returns ((image, image_meta, ...),) with:
        image (B, H, W, C): uint8 if the dataset's images are, else float32; not molded.
        image_meta (B, 12 + NUM_CLASSES) float32.
        RPN_TARGETS "input" only: rpn_match (B, A, 1) int32, rpn_bbox (B, R, 4) float32.
        gt_class_ids (B, G) int32, gt_boxes (B, G, 4) float32 pixels, gt_masks (B, h, w, G) bool.
        USE_RPN_ROIS False only: rois (B, POST_NMS_ROIS_TRAINING, 4) int32 pixels.

    Attributes:
        error: the first exception that loading raised, or None; see `original_errors`.
    """

    def __init__(
        self,
        dataset,
        config,
        batch_size=None,
        shuffle=True,
        augmentation=None,
        no_augmentation_sources=None,
        seed=None,
        workers=None,
        start_batch=0,
        num_batches=None,
        place=None,
    ):
        check_dataset(dataset, config)
        workers = config.LOADER_WORKERS if workers is None else workers
        super().__init__(workers=workers, max_queue_size=max(2, 2 * workers))
        self.dataset, self.config = dataset, config
        self.batch_size = batch_size or config.BATCH_SIZE
        self.shuffle, self.augmentation = shuffle, augmentation
        self.no_augmentation_sources = set(no_augmentation_sources or ())
        self.seed = int(np.random.randint(2**31)) if seed is None else int(seed)
        self.start_batch, self._num_batches = start_batch, num_batches
        self._place = place or (lambda batch: batch)
        self.error = None
        self._order = functools.lru_cache(maxsize=4)(self._draw_order)
        self._anchors = None
        if config.RPN_TARGETS == "input":
            self._anchors = image_anchors_px(config, config.IMAGE_SHAPE)
        first = load_sample(dataset, config, dataset.image_ids[0], rng=self._rng(0, 0))
        self.image_dtype = np.uint8 if first.image.dtype == np.uint8 else np.float32

    @property
    def num_batches(self):
        return self._num_batches

    def image_id_at(self, position):
        """The dataset's number of the image at this position, counted over all passes."""
        pass_number, place = divmod(position, len(self.dataset.image_ids))
        return int(self._order(pass_number)[place])

    def _draw_order(self, pass_number):
        image_ids = np.asarray(self.dataset.image_ids)
        return self._rng(1, pass_number).permutation(image_ids) if self.shuffle else image_ids

    def _rng(self, purpose, number):
        return np.random.default_rng([self.seed, purpose, number])

    def __getitem__(self, index):
        first = (self.start_batch + index) * self.batch_size
        try:
            batch = self._collate([self._item(first + i) for i in range(self.batch_size)])
            return (self._place(batch),)
        except Exception as error:  # kept for the caller of `fit`, then raised all the same
            self.error = self.error or error
            raise

    def _item(self, position):
        """(sample, rpn_match, rpn_bbox, rois) of one image; the last three may be None."""
        image_id, rng = self.image_id_at(position), self._rng(2, position)
        source = self.dataset.image_info[image_id]["source"]
        plain = source in self.no_augmentation_sources
        augmentation = None if plain else self.augmentation
        sample = load_sample(self.dataset, self.config, image_id, augmentation, rng=rng)
        if self.image_dtype == np.uint8 and sample.image.dtype != np.uint8:
            raise ValueError(
                f"{describe_image(self.dataset, image_id)}: it is {sample.image.dtype}, but the "
                "dataset's first image is uint8; return one type from load_image."
            )
        shape, (_, _, class_ids, boxes, _) = sample.image.shape, sample
        match = delta = rois = None
        if self._anchors is not None:
            match, delta = build_rpn_targets(
                shape, self._anchors, class_ids, boxes, self.config, rng
            )
        if not self.config.USE_RPN_ROIS:
            count = self.config.POST_NMS_ROIS_TRAINING
            rois = generate_random_rois(shape, count, class_ids, boxes, rng)
        return limit_instances(sample, self.config, rng), match, delta, rois

    def _collate(self, items):
        samples = [sample for sample, *_ in items]
        batch = [
            np.stack([sample.image for sample in samples]).astype(self.image_dtype, copy=False),
            np.stack([sample.image_meta for sample in samples]).astype(np.float32),
        ]
        if self._anchors is not None:
            batch.append(np.stack([match for _, match, *_ in items])[..., None])
            batch.append(np.stack([delta for _, _, delta, _ in items]).astype(np.float32))
        batch.extend(pad_ground_truth(samples, self.config, np.float32))
        if not self.config.USE_RPN_ROIS:
            batch.append(np.stack([rois for *_, rois in items]))
        return tuple(batch)


@contextlib.contextmanager
def original_errors(*loaders):
    """Around `fit`: raises the error that a loader met, not what the backend wrapped it in.

    TensorFlow turns an exception in a data set into one of its own, with the text inside.
    """
    try:
        yield
    except Exception as error:
        for loader in loaders:
            if loader is not None and loader.error is not None and loader.error is not error:
                raise loader.error from error
        raise
