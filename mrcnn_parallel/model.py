"""MaskRCNN: build, train and detect. Matterport's class, and the names people import with it.

    model = MaskRCNN("training", config, model_dir)
    model.load_weights("mask_rcnn_coco.h5", by_name=True, exclude=[...])
    model.train(dataset_train, dataset_val, config.LEARNING_RATE, epochs=10, layers="heads")

This file only forwards: the network is in nets/, the step in training/, the data in data/.
"""

import datetime
import logging
import sys
import time
from pathlib import Path

import keras
import numpy as np
from keras import layers as KL  # noqa: F401 - callable BACKBONEs in people's code use model.KL
from keras import models as KM  # noqa: F401

from mrcnn_parallel import (
    backend,
    graph_functions,
    inference,
    inspection,
    utils,  # noqa: F401 - modellib.utils
    weights,
)
from mrcnn_parallel.data.generators import DataGenerator, data_generator
from mrcnn_parallel.data.image_meta import compose_image_meta, parse_image_meta
from mrcnn_parallel.data.images import mold_image, unmold_image
from mrcnn_parallel.data.load import load_image_gt
from mrcnn_parallel.data.loader import TrainingLoader, original_errors
from mrcnn_parallel.data.sources import check_dataset, check_same_classes
from mrcnn_parallel.data.targets import (
    build_detection_targets,
    build_rpn_targets,
    generate_random_rois,
)
from mrcnn_parallel.graph_functions import *  # noqa: F403
from mrcnn_parallel.inspection import log
from mrcnn_parallel.layers.detection_targets import DetectionTargetLayer
from mrcnn_parallel.layers.detections import DetectionLayer
from mrcnn_parallel.layers.proposals import ProposalLayer
from mrcnn_parallel.nets import mask_rcnn
from mrcnn_parallel.nets.conv import BatchNorm
from mrcnn_parallel.nets.fpn import fpn_graph
from mrcnn_parallel.nets.heads import PyramidROIAlign, build_fpn_mask_graph, fpn_classifier_graph
from mrcnn_parallel.nets.resnet import conv_block, identity_block, resnet_graph
from mrcnn_parallel.nets.rpn import build_rpn_model, rpn_graph
from mrcnn_parallel.ops.anchors import compute_backbone_shapes, image_anchors_px, normalize_px
from mrcnn_parallel.parallel_model import ParallelModel
from mrcnn_parallel.training import callbacks as training_callbacks
from mrcnn_parallel.training import checkpoints, selection
from mrcnn_parallel.training.step import TrainingModel

__all__ = [
    "BatchNorm",
    "DataGenerator",
    "DetectionLayer",
    "DetectionTargetLayer",
    "MaskRCNN",
    "ParallelModel",
    "ProposalLayer",
    "PyramidROIAlign",
    "build_detection_targets",
    "build_fpn_mask_graph",
    "build_rpn_model",
    "build_rpn_targets",
    "compose_image_meta",
    "compute_backbone_shapes",
    "conv_block",
    "data_generator",
    "fpn_classifier_graph",
    "fpn_graph",
    "generate_random_rois",
    "identity_block",
    "load_image_gt",
    "log",
    "mold_image",
    "parse_image_meta",
    "resnet_graph",
    "rpn_graph",
    "unmold_image",
]
__all__ += graph_functions.__all__

logger = logging.getLogger("mrcnn_parallel")


class MaskRCNN:
    """Mask R-CNN (He et al., 2017) on a feature pyramid.

    Args:
        mode: "training" or "inference".
        config: a Config.
        model_dir: folder for the runs' logs and checkpoints.

    Attributes:
        keras_model: the network; a ParallelModel of it when config.GPU_COUNT > 1.
        epoch: epochs trained so far; goes on from a checkpoint's name.
        log_dir, checkpoint_path: of the current run.
        anchors: (N, 4) in pixels, those of the last `get_anchors`.

    Raises:
        ValueError: a config no model can be built from, or fewer devices than GPU_COUNT.
    """

    def __init__(self, mode, config, model_dir):
        config.validate(mode)
        self.mode = mode
        self.config = config
        self.model_dir = str(model_dir)
        self._anchors = {}
        self._detector = None
        self._training_model = None
        self.set_log_dir()
        backend.enable_compilation_cache()
        self.keras_model = self.build(mode=mode, config=config)

    def build(self, mode, config):
        """Builds the network; a ParallelModel of it when config.GPU_COUNT > 1."""
        previous = keras.config.dtype_policy()
        keras.config.set_dtype_policy(backend.dtype_policy(config.DTYPE_POLICY))
        try:
            if mode == "training":
                model = mask_rcnn.build_training_model(config)
            else:
                model = mask_rcnn.build_inference_model(config)
        finally:
            keras.config.set_dtype_policy(previous)
        return ParallelModel(model, config.GPU_COUNT) if config.GPU_COUNT > 1 else model

    # === Weights ===

    def find_last(self):
        """Path of the last checkpoint of the last run of this config's NAME.

        Raises:
            FileNotFoundError: there is none.
        """
        return checkpoints.find_last(self.model_dir, self.config.NAME)

    def load_weights(self, filepath, by_name=False, exclude=None, strict=True):
        """Loads weights; a checkpoint's name also sets the epoch to go on from.

        Args:
            filepath: Matterport h5, `.weights.h5` or `.keras`.
            by_name: match layers by name rather than by order.
            exclude: names of layers to leave alone; implies by_name.
            strict: whether a file that lacks some of the layers asked for is an error.

        Returns:
            A report of what was loaded and what was not; see weights.LoadReport.

        Raises:
            FileNotFoundError, ValueError: saying what is wrong with the file or its shapes.
        """
        report = weights.load_weights(
            self.keras_model, filepath, by_name=by_name, exclude=exclude, strict=strict
        )
        self.set_log_dir(filepath)
        return report

    def get_imagenet_weights(self):
        """Path of ImageNet weights for this backbone, to load with by_name=True."""
        return weights.get_imagenet_weights(self.config.BACKBONE)

    def set_log_dir(self, model_path=None):
        """Starts a new run's folder name, or goes on with that of a checkpoint.

        Args:
            model_path: None, or a path; its run's folder and epoch are taken if it is a checkpoint.
        """
        parsed = checkpoints.parse_checkpoint(model_path) if model_path else None
        started, self.epoch = parsed or (datetime.datetime.now(), 0)
        if parsed:
            logger.info("Going on from epoch %d of %s", self.epoch, model_path)
        name = self.config.NAME or "model"
        folder = checkpoints.run_dir(self.model_dir, name, started)
        self.log_dir = str(folder)
        pattern = checkpoints.checkpoint_path(folder, name, 0)
        self.checkpoint_path = str(pattern).replace("_0000.h5", "_{epoch:04d}.h5")

    # === Training ===

    def compile(self, learning_rate, momentum):
        """Prepares the training step: SGD with momentum and clipped gradients, the losses, L2."""
        self._training_model = TrainingModel(self.keras_model, self.config)
        optimizer = keras.optimizers.SGD(
            learning_rate=learning_rate,
            momentum=momentum,
            global_clipnorm=self.config.GRADIENT_CLIP_NORM or None,
        )
        self._training_model.compile(
            optimizer=optimizer, jit_compile=backend.jit_compile(self.config.GPU_COUNT)
        )

    def set_trainable(self, layer_regex, keras_model=None, indent=0, verbose=1):
        """Makes the layers trainable whose whole names match the regex, and no others."""
        if verbose and keras_model is None:
            logger.info("Selecting layers to train")
        model = inspection.inner_model(keras_model or self.keras_model)
        selection.set_trainable(model, layer_regex, indent, verbose)

    def train(
        self,
        train_dataset,
        val_dataset,
        learning_rate,
        epochs,
        layers,
        augmentation=None,
        custom_callbacks=None,
        no_augmentation_sources=None,
    ):
        """Trains, writing a checkpoint and TensorBoard curves after each epoch.

        Args:
            train_dataset: a prepared Dataset.
            val_dataset: the same, or None for no validation.
            learning_rate: of SGD.
            epochs: the number of the last epoch: with 10 done already, 12 trains two more.
            layers: "heads", "3+", "4+", "5+", "all", or a regex of layer names.
            augmentation: "default" or a DefaultAugmentation, an albumentations pipeline, an imgaug
                augmenter, or a function (image, mask, rng) -> (image, mask).
            custom_callbacks: Keras callbacks, called after the package's own.
            no_augmentation_sources: sources of the dataset whose images stay as they are.

        Returns:
            Keras's History: `history` has the loss, its parts and their `val_` twins by epoch.

        Raises:
            ValueError: data that cannot be right, naming the dataset, image and field.
        """
        if self.mode != "training":
            raise ValueError("this model was built for inference; build it with mode='training'.")
        for name, dataset in (("train_dataset", train_dataset), ("val_dataset", val_dataset)):
            if dataset is not None:
                check_dataset(dataset, self.config, name)
        if val_dataset is not None:
            check_same_classes(train_dataset, val_dataset)
        self.set_trainable(selection.LAYERS.get(layers, layers))
        selection.check_any_trainable(self.keras_model, layers)
        self.compile(learning_rate, self.config.LEARNING_MOMENTUM)
        loader = self._loader(
            train_dataset,
            start_batch=self.epoch * self.config.STEPS_PER_EPOCH,
            augmentation=augmentation,
            no_augmentation_sources=no_augmentation_sources,
        )
        validation = None
        if val_dataset is not None:
            validation = self._loader(val_dataset, num_batches=self.config.VALIDATION_STEPS)
        Path(self.log_dir).mkdir(parents=True, exist_ok=True)
        count = len(self.get_anchors(self.config.IMAGE_SHAPE))
        run = (self.config, layers, self.epoch, learning_rate, count)
        logger.info("%s", selection.describe_run(self.keras_model, *run))
        logger.info("Checkpoints: %s", self.checkpoint_path)
        with original_errors(loader, validation):
            history = self._training_model.fit(
                loader,
                initial_epoch=self.epoch,
                epochs=epochs,
                steps_per_epoch=self.config.STEPS_PER_EPOCH,
                validation_data=validation,
                validation_steps=self.config.VALIDATION_STEPS if validation else None,
                shuffle=False,  # the loader does
                callbacks=[
                    *self._replica_checks(),
                    training_callbacks.CheckpointWriter(
                        lambda path: weights.save_weights(self.keras_model, path),
                        lambda epoch: self.checkpoint_path.format(epoch=epoch),
                    ),
                    training_callbacks.TensorBoardScalars(self.log_dir),
                    *(custom_callbacks or []),
                ],
                verbose=1 if sys.stdout.isatty() else 2,
            )
        self.epoch = max(self.epoch, epochs)
        return history

    def _replica_checks(self):
        """What comes before a checkpoint is written."""
        parallel = isinstance(self.keras_model, ParallelModel)
        return [training_callbacks.ReplicaCheck(self.keras_model)] if parallel else []

    def _loader(self, dataset, **options):
        config = self.config
        place = backend.batch_placer(self.keras_model)
        return TrainingLoader(
            dataset, config, batch_size=config.BATCH_SIZE, seed=config.SEED, place=place, **options
        )

    # === Detection ===

    def mold_inputs(self, images):
        """Images of any size -> molded images, metas and windows; see inference.mold_inputs."""
        return inference.mold_inputs(images, self.config)

    def unmold_detections(self, detections, mrcnn_mask, original_image_shape, image_shape, window):
        """One image's detections in its own pixels; see inference.unmold_detections."""
        return inference.unmold_detections(
            detections, mrcnn_mask, original_image_shape, image_shape, window
        )

    def detect(self, images, verbose=0):
        """Finds the objects in images.

        Args:
            images: any number of (H, W, C) arrays, of any sizes.
            verbose: 1 prints shapes and times.

        Returns:
            A list with a dict for each image:
                rois: (N, 4) int32 boxes (y1, x1, y2, x2) in pixels of the image.
                class_ids: (N,) int32.
                scores: (N,) float32 probabilities.
                masks: (H, W, N) bool.

        Raises:
            ValueError: an image that cannot be one, or a model built for training.
        """
        config, shapes = self.config, [np.shape(image) for image in images]
        planned = [inference.plan_input(image, config, i) for i, image in enumerate(images)]
        on_device = all(image.dtype == np.uint8 for image, _ in planned)

        def mold(index):
            image, meta, window = inference.resize_input(*planned[index], config)
            return image if on_device else mold_image(image, config), meta, window

        sizes = [plan.shape for _, plan in planned]
        dtype = np.uint8 if on_device else np.float32
        return self._detect(sizes, dtype, shapes, mold, verbose)

    def detect_molded(self, molded_images, image_metas, verbose=0):
        """Like `detect`, for images and metas that `mold_inputs` returned; the results are in the
        molded images' pixels."""
        shapes = [np.shape(image) for image in molded_images]

        def mold(index):
            height, width = shapes[index][:2]
            return molded_images[index], image_metas[index], (0, 0, height, width)

        sizes = [shape[:2] for shape in shapes]
        return self._detect(sizes, np.float32, shapes, mold, verbose)

    def _detect(self, sizes, dtype, shapes, mold, verbose):
        if self.mode != "inference":
            raise ValueError("this model was built for training; build it with mode='inference'.")
        if self._detector is None:
            self._detector = inference.Detector(self.keras_model, self.config, self.get_anchors)

        def unmold(index, detections, masks, molded_shape, window):
            found = self.unmold_detections(detections, masks, shapes[index], molded_shape, window)
            return dict(zip(("rois", "class_ids", "scores", "masks"), found, strict=True))

        started = time.perf_counter()
        results = self._detector(sizes, dtype, mold, unmold)
        if verbose:
            seconds = time.perf_counter() - started
            log(f"Processed {len(results)} images in {seconds:.2f} s")
            for index, result in enumerate(results):
                log(f"image {index} rois", result["rois"])
        return results

    def get_anchors(self, image_shape):
        """Normalised anchors for an image of that shape, (N, 4) float32; `self.anchors` is then the
        same in pixels, (N, 4) float64."""
        key = tuple(int(side) for side in image_shape[:2])
        if key not in self._anchors:
            anchors_px = image_anchors_px(self.config, key)
            self._anchors[key] = anchors_px, normalize_px(anchors_px, key)
        self.anchors, anchors_norm = self._anchors[key]
        return anchors_norm

    # === Looking inside ===

    def run_graph(self, images, outputs, image_metas=None):
        """Chosen layers' outputs for images, as an OrderedDict; see inspection.run_graph."""
        return inspection.run_graph(self, images, outputs, image_metas)

    def ancestor(self, tensor, name, checked=None):
        """The output of the layer of that name upstream of a tensor, or None; see inspection."""
        tensor = inspection.in_network(self.keras_model, tensor)
        return inspection.ancestor(tensor, name, checked)

    def get_trainable_layers(self):
        """The layers with weights, those of nested models included."""
        return inspection.layers_with_weights(self.keras_model)

    def find_trainable_layer(self, layer):
        """The layer that holds the weights when `layer` wraps another one."""
        return self.find_trainable_layer(layer.layer) if hasattr(layer, "layer") else layer
