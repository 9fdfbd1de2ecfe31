"""From images of any size to what the network takes, and from its output back to the images."""

import concurrent.futures
import functools
import itertools
import os

import numpy as np

from mrcnn_parallel import backend
from mrcnn_parallel.data.geometry import denorm_boxes
from mrcnn_parallel.data.image_meta import compose_image_meta
from mrcnn_parallel.data.images import apply_plan, check_image, config_plan, mold_image
from mrcnn_parallel.data.masks import paste_mask
from mrcnn_parallel.nets import mask_rcnn


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
    planned = [plan_input(image, config, index) for index, image in enumerate(images)]
    resized, metas, windows = zip(
        *(resize_input(image, plan, config) for image, plan in planned), strict=True
    )
    molded = [mold_image(image, config).astype(np.float32) for image in resized]
    if len({image.shape for image in molded}) == 1:
        molded = np.stack(molded)
    return molded, np.stack(metas), np.stack(windows)


def plan_input(image, config, index):
    """What `resize_input` takes of images[index].

    Returns:
        The image (H, W, C), checked, and the ResizePlan that brings it to the network's size.

    Raises:
        ValueError: it cannot be an image, or no network can take its size; names images[index].
    """
    image = check_image(np.asarray(image), config, where=f"images[{index}]")
    plan = config_plan(config, image.shape[:2], rng=None)
    _check_sides(plan.shape, config, index)
    return image, plan


def resize_input(image, plan, config):
    """One image at the network's size, not molded.

    Returns:
        (h, w, C) in the image's dtype, its meta (META,), and its window (4,) in pixels.
    """
    resized = apply_plan(image, plan)
    active = np.zeros(config.NUM_CLASSES, np.int32)
    meta = compose_image_meta(0, image.shape, resized.shape, plan.window, plan.scale, active)
    return resized, meta, plan.window


def _check_sides(shape, config, index):
    step = config.BACKBONE_STRIDES[-2]  # P5's cells, which the levels above are doubled from
    height, width = shape
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
    # Instances first in memory, so that each mask is written in one piece
    full = np.zeros((len(boxes), *original_image_shape[:2]), dtype=bool)
    for plane, mask, box in zip(full, masks, boxes, strict=True):
        paste_mask(mask, box, plane)
    return boxes, class_ids, scores, np.moveaxis(full, 0, -1)


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


class Detector:
    """Runs an inference network on any number of images, in compiled programs of a few sizes.

    The devices get uint8 pixels and return boxes, classes, scores and small masks. While they work
    on one batch, threads resize the images of the next and put the masks of the last into theirs.

    Args:
        network: what nets.mask_rcnn.build_inference_model returns, or a ParallelModel of it.
        config: a Config.
        anchors_of: function of an image shape -> (N, 4) normalised anchors.
    """

    def __init__(self, network, config, anchors_of):
        self.network = network
        self.config = config
        self.anchors_of = anchors_of
        # On the devices; a few only, as images may be of many sizes
        self._anchors = functools.lru_cache(maxsize=4)(self._place_anchors)
        mean_pixel = [float(value) for value in config.MEAN_PIXEL]

        def prepare(inputs):
            images, metas, anchors = inputs
            return [mask_rcnn.mold(images, mean_pixel), metas, anchors]

        def select(outputs):
            return outputs[0], mask_rcnn.own_class_masks(outputs[0], outputs[3])

        self._forward = backend.compile_forward(select, network, prepare)

    def __call__(self, sizes, dtype, mold, unmold):
        """Detects.

        Args:
            sizes: (h, w) of each molded image.
            dtype: of all of them: uint8, to be molded on the device, or float32, molded.
            mold: function of an image's index -> (h, w, C) image; its meta; its window.
            unmold: function of the index, detections (D, 6), masks (D, h, w), the molded image's
                shape and its window -> the image's result. It and `mold` are called in threads.

        Returns:
            list of results.
        """
        by_size, results, running = {}, [None] * len(sizes), None
        by_index = [tuple(size) for size in sizes]
        for index, size in enumerate(by_index):
            by_size.setdefault(size, []).append(index)
        chunks = [
            indices[start : start + self.config.BATCH_SIZE]
            for indices in by_size.values()
            for start in range(0, len(indices), self.config.BATCH_SIZE)
        ]
        with concurrent.futures.ThreadPoolExecutor(_threads()) as pool:

            def prepare(chunk):
                """Starts molding a batch: the batch, and a future of (meta, window) an image."""
                size = by_index[chunk[0]]
                rows = batch_rows(len(chunk), self.config)
                batch = np.zeros((rows, *size, self.config.IMAGE_CHANNEL_COUNT), dtype)

                def fill(row, index):
                    batch[row], meta, window = mold(index)
                    return meta, window

                return batch, [pool.submit(fill, *pair) for pair in enumerate(chunk)]

            def finish(chunk, shape, windows, outputs):
                detections, masks = (np.asarray(x) for x in outputs)
                shapes = [shape] * len(chunk)
                found = pool.map(unmold, chunk, detections, masks, shapes, windows)
                for index, result in zip(chunk, found, strict=False):
                    results[index] = result

            waiting = prepare(chunks[0]) if chunks else None
            for chunk, following in itertools.zip_longest(chunks, chunks[1:]):
                batch, molded = waiting
                metas, windows = zip(*(future.result() for future in molded), strict=True)
                waiting = prepare(following) if following else None
                outputs = self.run(batch, np.stack(metas))
                if running:
                    finish(*running)
                running = chunk, batch.shape[1:], windows, outputs
            if running:
                finish(*running)
        return results

    def run(self, images, metas):
        """One batch through the network.

        Args:
            images: (rows, h, w, C) uint8, or molded float32.
            metas: (B, META) with B <= rows; the last one stands for the rest.

        Returns:
            detections (rows, D, 6) and masks of each one's own class (rows, D, h, w), tensors that
            the device may still be computing.
        """
        rows = len(images)
        metas = pad_rows(np.asarray(metas, np.float32), rows)
        return self._forward([images, metas, self._anchors(images.shape[1:], rows)])

    def _place_anchors(self, image_shape, rows):
        anchors = np.repeat(self.anchors_of(image_shape)[None], rows, axis=0)
        return backend.on_device(anchors, self.network)


def _threads():
    return min(8, os.cpu_count() or 1)
