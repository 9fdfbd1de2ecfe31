"""SampleMaker: makes a training sample, in any thread or process; knows no order and no batches."""

import numpy as np

from mrcnn_parallel.data.samples import limit_instances, load_sample
from mrcnn_parallel.data.sources import describe_image
from mrcnn_parallel.data.targets import build_rpn_targets, generate_random_rois


def sample_rng(seed, *numbers):
    """The random generator of a purpose and a place in a run."""
    return np.random.default_rng([seed, *numbers])


class SampleMaker:
    """Makes samples that depend on the seed and on their position in the run alone.

    Args:
        dataset: a prepared Dataset. config: a Config.
        augmentation: as resolve_augmentation returns it.
        no_augmentation_sources: set of names of sources whose images are left as they are.
        seed: int.
        anchors: (A, 4) pixels where config.RPN_TARGETS is "input", else None.
        image_dtype: of the batches' images, uint8 or float32.
    """

    def __init__(
        self, dataset, config, augmentation, no_augmentation_sources, seed, anchors, image_dtype
    ):
        self.dataset, self.config, self.augmentation = dataset, config, augmentation
        self.no_augmentation_sources, self.seed = no_augmentation_sources, seed
        self.anchors, self.image_dtype = anchors, np.dtype(image_dtype)
        self.image_shape = tuple(int(side) for side in config.IMAGE_SHAPE)

    def make(self, position, image_id, attempt, out):
        """One sample.

        Args:
            position: counted over the run. image_id: the image there.
            attempt: 0, or how many images could not be loaded at that position.
            out: (H, W, C) array that the image is written to.

        Returns:
            sample: a Sample of at most MAX_GT_INSTANCES instances, its image None.
            rpn_match (A,), rpn_bbox (R, 4), rois (N, 4), each None where training makes its own.
        """
        rng = sample_rng(self.seed, 2, position, *([attempt] if attempt else []))
        source = self.dataset.image_info[image_id]["source"]
        plain = source in self.no_augmentation_sources
        augmentation = None if plain else self.augmentation
        sample = load_sample(self.dataset, self.config, image_id, augmentation, rng=rng, out=out)
        if self.image_dtype == np.uint8 and sample.image.dtype != np.uint8:
            raise ValueError(
                f"{describe_image(self.dataset, image_id)}: it is {sample.image.dtype}, but the "
                "dataset's first image is uint8; return one type from load_image."
            )
        if sample.image is not out:
            out[...] = sample.image
        class_ids, boxes = sample.class_ids, sample.boxes
        match = delta = rois = None
        if self.anchors is not None:
            match, delta = build_rpn_targets(
                self.image_shape, self.anchors, class_ids, boxes, self.config, rng
            )
        if not self.config.USE_RPN_ROIS:
            count = self.config.POST_NMS_ROIS_TRAINING
            rois = generate_random_rois(self.image_shape, count, class_ids, boxes, rng)
        sample = limit_instances(sample._replace(image=None), self.config, rng)
        return sample, match, delta, rois
