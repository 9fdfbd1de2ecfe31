"""TrainingLoader: the batches that `MaskRCNN.train` fits on, made ahead in threads or processes.

Batches hold what the training graph takes, images as uint8 where they are (the device subtracts the
mean pixel). They are reproducible: batch i depends on the seed and on i alone, whoever makes it, so
a run can stop and go on anywhere.

Letters: B images a batch, G = MAX_GT_INSTANCES, A anchors, R = RPN_TRAIN_ANCHORS_PER_IMAGE.
"""

import contextlib
import functools
import logging
import os
import threading

import keras
import numpy as np

from mrcnn_parallel.data.augmentation import resolve_augmentation
from mrcnn_parallel.data.bad_samples import BadSamples
from mrcnn_parallel.data.prefetch import Prefetcher
from mrcnn_parallel.data.processes import (
    START_SECONDS,
    LoaderClosed,
    ProcessesUnavailable,
    TooManyLost,
    sample_processes,
)
from mrcnn_parallel.data.sample_maker import SampleMaker, sample_rng
from mrcnn_parallel.data.samples import load_sample, pad_ground_truth
from mrcnn_parallel.data.sources import check_dataset, describe_image
from mrcnn_parallel.ops.anchors import image_anchors_px

log = logging.getLogger(__name__)

_FIRST_TRIES = 10  # images looked at for one that loads, when a loader is made
_REPLACEMENTS = 20  # images tried in place of one that can't be loaded


def _draw_order(image_ids, shuffle, seed, pass_number):
    return sample_rng(seed, 1, pass_number).permutation(image_ids) if shuffle else image_ids


def loader_workers(config):
    """config.LOADER_WORKERS, where that is "auto": four a replica, but no more than processors."""
    if config.LOADER_WORKERS != "auto":
        return config.LOADER_WORKERS
    if hasattr(os, "sched_getaffinity"):
        processors = len(os.sched_getaffinity(0))
    else:
        processors = os.cpu_count() or 1
    return min(processors, 4 * config.GPU_COUNT)


class TrainingLoader(keras.utils.PyDataset):
    """What `MaskRCNN.train` fits on: batches without end, or `num_batches` of them again and again.

    Passes over the images follow each other without a gap, each in its own order, so any number of
    steps makes an epoch. Once two batches in a row have been asked for, the next ones are made
    ahead, sample by sample, by `workers` threads or processes. One that hangs or dies is replaced;
    a sample that can't be loaded is, too, as config.ON_BAD_SAMPLE says.

    Args:
        dataset: a prepared Dataset. config: a Config.
        batch_size: images a batch; None for config.BATCH_SIZE.
        shuffle: a new order for each pass; else that of the dataset.
        augmentation: see load_image_gt; functions must be safe to use from several threads.
        no_augmentation_sources: names of sources whose images are left as they are.
        seed: decides order, crops, augmentation and sampling; None draws one from NumPy's global
            state.
        workers: threads, or processes, see config.LOADER_PROCESSES; None for config.LOADER_WORKERS;
            0 loads in the thread that asks.
        start_batch: the first batch, for going on where another run stopped: after `step` steps of
            epoch `epoch` that is epoch * STEPS_PER_EPOCH + step, both counted from 0.
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
        bad_samples: BadSamples, what could not be loaded and was replaced.
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
        super().__init__(workers=1)  # Keras's own threads can't be watched
        self.dataset, self.config = dataset, config
        self.batch_size = batch_size or config.BATCH_SIZE
        self.seed = int(np.random.randint(2**31)) if seed is None else int(seed)
        self.start_batch, self._num_batches = start_batch, num_batches
        self._place = place or (lambda batch: batch)
        self.error = None
        self.bad_samples = BadSamples(config.BAD_SAMPLE_LIMIT)
        self._skips = config.ON_BAD_SAMPLE == "skip"
        self._lock = threading.Lock()
        self._attempts, self._given_up = {}, {}  # by position, for samples whose threads hang
        # Without a reference to this object, which would keep its workers alive.
        order = functools.partial(_draw_order, np.asarray(dataset.image_ids), shuffle, self.seed)
        self._order = functools.lru_cache(maxsize=4)(order)
        anchors = None
        if config.RPN_TARGETS == "input":
            anchors = image_anchors_px(config, config.IMAGE_SHAPE)
        augmentation = resolve_augmentation(augmentation)
        self._maker = SampleMaker(
            dataset,
            config,
            augmentation,
            set(no_augmentation_sources or ()),
            self.seed,
            anchors,
            np.uint8 if self._first_dtype() == np.uint8 else np.float32,
        )
        workers = loader_workers(config) if workers is None else workers
        self._prefetcher = self._processes = None
        if workers > 0:
            timeout = config.LOADER_TIMEOUT
            self._processes = sample_processes(
                self._maker, workers, config.LOADER_PROCESSES, timeout
            )
            if self._processes is not None:
                timeout = START_SECONDS + 5 * timeout  # the threads' processes are watched, first
            # Enough samples under way for all workers while one batch waits to be taken.
            ahead = 1 + -(-(workers + 1) // self.batch_size)
            self._prefetcher = Prefetcher(
                self, self.batch_size, workers, max(2, ahead), timeout, num_batches
            )

    def _first_dtype(self):
        """The type of the first image that can be loaded; all have to be of one."""
        first_error = None
        for image_id in self.dataset.image_ids[:_FIRST_TRIES]:
            try:
                return load_sample(
                    self.dataset, self.config, image_id, rng=self._rng(0, 0)
                ).image.dtype
            except Exception as error:  # counted when its turn comes; this is only a first look
                first_error = first_error or error
                if not self._skips:
                    break
        raise first_error

    @property
    def num_batches(self):
        return self._num_batches

    @property
    def uses_processes(self):
        """Whether the workers are processes."""
        return self._processes is not None

    def image_id_at(self, position):
        """The dataset's number of the image at this position, counted over all passes."""
        pass_number, place = divmod(position, len(self.dataset.image_ids))
        return int(self._order(pass_number)[place])

    def _rng(self, *numbers):
        return sample_rng(self.seed, *numbers)

    def __getitem__(self, index):
        try:
            if self._prefetcher is not None:
                return (self._prefetcher.get(index),)
            images = self.new_batch(index)
            parts = [self.make_part(index, i, images) for i in range(self.batch_size)]
            return (self.join_parts(parts, images),)
        except Exception as error:  # kept for the caller of `fit`, then raised all the same
            self.error = self.error or error
            raise

    def close(self):
        """Ends the workers and says in the log what was skipped; the loader can be used again."""
        if self._prefetcher is not None:
            self._prefetcher.close()
        if self._processes is not None:
            self._processes.close()
        if self.bad_samples.count:
            log.warning("%s", self.bad_samples.summary())

    # === What the Prefetcher calls, from its threads ===

    def new_batch(self, index):
        """Room for the images of a batch, which its parts are written to."""
        return np.empty((self.batch_size, *self._maker.image_shape), self._maker.image_dtype)

    def make_part(self, index, part, images):
        """One sample of a batch, its image written to images[part].

        Where it is bad, and ON_BAD_SAMPLE is "skip", it is another one.
        """
        position = (self.start_batch + index) * self.batch_size + part
        first_error = None
        for attempt in range(1 + _REPLACEMENTS):
            self._attempts[position] = attempt
            image_id = self._candidate(position, attempt)
            try:
                if (position, attempt) in self._given_up:
                    raise self._given_up[position, attempt]
                item = self._make(position, image_id, attempt, images[part])
            except (LoaderClosed, ProcessesUnavailable, TooManyLost):  # not this image's fault
                raise
            except Exception as error:
                if not self._skips:
                    raise
                first_error = first_error or error
                self.bad_samples.bad(image_id, describe_image(self.dataset, image_id), error)
            else:
                self.bad_samples.good()
                self._attempts.pop(position, None)
                return item
        first_error.add_note(
            f"{_REPLACEMENTS} other images in its place could not be loaded either"
        )
        raise first_error

    def join_parts(self, parts, images):
        """A batch of its samples, on the devices."""
        return self._place(self._collate(parts, images))

    def name_part(self, index, part):
        """Describes the image that a sample is made of."""
        position = (self.start_batch + index) * self.batch_size + part
        image_id = self._candidate(position, self._attempts.get(position, 0))
        return describe_image(self.dataset, image_id)

    def give_up(self, index, part, error):
        """Makes a sample that hangs a bad one."""
        if not self._skips:
            raise error
        position = (self.start_batch + index) * self.batch_size + part
        self._given_up[position, self._attempts.get(position, 0)] = error

    # === Samples ===

    def _candidate(self, position, attempt):
        """The image at a position, or the one that replaces it after `attempt` bad ones."""
        if attempt == 0:
            return self.image_id_at(position)
        return int(self._rng(3, position, attempt).choice(self.dataset.image_ids))

    def _make(self, position, image_id, attempt, out):
        """What SampleMaker.make returns, made here or in a process."""
        processes = self._processes  # which another thread may take away
        if processes is not None:
            try:
                return processes.make(
                    position,
                    image_id,
                    attempt,
                    out,
                    lambda: describe_image(self.dataset, image_id),
                )
            except ProcessesUnavailable as error:
                if self.config.LOADER_PROCESSES != "auto":
                    raise
                self._use_threads(error)
        return self._maker.make(position, image_id, attempt, out)

    def _use_threads(self, error):
        with self._lock:
            if self._processes is None:
                return  # another thread was first
            self._processes = None
        log.warning("Threads load the images: %s", error)
        self._prefetcher.timeout = self.config.LOADER_TIMEOUT

    def _collate(self, items, images):
        samples = [sample for sample, *_ in items]
        batch = [
            images,
            np.stack([sample.image_meta for sample in samples]).astype(np.float32),
        ]
        if self._maker.anchors is not None:
            batch.append(np.stack([match for _, match, *_ in items])[..., None])
            batch.append(np.stack([delta for _, _, delta, _ in items]).astype(np.float32))
        batch.extend(pad_ground_truth(samples, self.config, np.float32))
        if not self.config.USE_RPN_ROIS:
            batch.append(np.stack([rois for *_, rois in items]))
        return tuple(batch)


@contextlib.contextmanager
def original_errors(*loaders):
    """Around `fit`: raises the error that a loader met, not what the backend wrapped it in.

    TensorFlow turns an exception in a data set into one of its own, with the text inside. However
    it ends, also by Ctrl-C, the loaders are closed; each says what it skipped.
    """
    try:
        yield
    except Exception as error:
        for loader in loaders:
            if loader is not None and loader.error is not None and loader.error is not error:
                raise loader.error from error
        raise
    finally:
        for loader in loaders:
            if loader is not None:
                loader.close()
