"""A small two-stage detector in the idiom of a Matterport fork on TensorFlow 2.

Nothing here is meant to be good at detection: it has the ways of such forks in which a wrapper for
several GPUs must not get in the way.
"""

import os

import numpy as np
import tensorflow as tf
import tensorflow.keras.backend as K
import tensorflow.keras.layers as KL
import tensorflow.keras.models as KM
from tensorflow import keras

if os.environ["LEGACY_MODE"] == "graph":
    tf.compat.v1.disable_eager_execution()

LOSSES = [
    "rpn_class_loss",
    "rpn_bbox_loss",
    "mrcnn_class_loss",
    "mrcnn_bbox_loss",
    "mrcnn_mask_loss",
]


class BatchNorm(KL.BatchNormalization):
    """Frozen unless told otherwise."""

    def call(self, inputs, training=None):
        return super().call(inputs, training=training)


class ConstLayer(KL.Layer):
    """A constant, for whole batches, as a layer's output."""

    def __init__(self, value, name=None):
        super().__init__(name=name)
        self.value = tf.Variable(value)

    def call(self, inputs):
        return self.value


def batch_slice(inputs, function, batch_size):
    """`function` on one image after the other, of a batch whose size is known."""
    outputs = [function(*[x[i] for x in inputs]) for i in range(batch_size)]
    if isinstance(outputs[0], tuple):
        return [tf.stack(o, axis=0) for o in zip(*outputs, strict=True)]
    return tf.stack(outputs, axis=0)


class ProposalLayer(KL.Layer):
    """[scores (B, N, 2), deltas (B, N, 4), anchors (B, N, 4)] -> boxes (B, PROPOSALS, 4)."""

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        self.config = config

    def call(self, inputs):
        def one(scores, deltas, anchors):
            best = tf.nn.top_k(scores[:, 1], self.config.PROPOSALS).indices
            boxes = tf.gather(anchors, best) + 0.1 * tf.gather(deltas, best)
            return tf.clip_by_value(boxes, 0.0, 1.0)

        return batch_slice(inputs, one, self.config.IMAGES_PER_GPU)


class DetectionTargetLayer(KL.Layer):
    """[boxes, class ids, gt boxes, gt masks] -> [boxes, class ids, deltas, masks] to learn."""

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        self.config = config

    def call(self, inputs):
        def one(boxes, gt_class_ids, gt_boxes, gt_masks):
            # By number, where forks go by overlap: no rounding error can then change the choice.
            number = tf.range(self.config.PROPOSALS)
            match = number % tf.shape(gt_boxes)[0]
            class_ids = tf.where(number % 3 < 2, tf.gather(gt_class_ids, match), 0)
            # from here the gradient leaks into the anchors, as it does in forks
            deltas = tf.gather(gt_boxes, match) - boxes
            masks = tf.gather(tf.transpose(gt_masks, [2, 0, 1]), match)
            return boxes, class_ids, deltas, tf.cast(masks, tf.float32)

        return batch_slice(inputs, one, self.config.IMAGES_PER_GPU)


class ROIAlign(KL.Layer):
    """[boxes (B, P, 4), features (B, h, w, C)] -> (B, P, 4, 4, C)."""

    def call(self, inputs):
        boxes, features = inputs
        rows, count = tf.shape(boxes)[0], tf.shape(boxes)[1]
        index = tf.repeat(tf.range(rows), count)
        flat = tf.stop_gradient(tf.reshape(boxes, (-1, 4)))
        crops = tf.image.crop_and_resize(features, flat, index, (4, 4))
        return tf.reshape(crops, (rows, count, 4, 4, features.shape[-1]))


class DetectionLayer(KL.Layer):
    """[boxes, class probabilities, deltas] -> (BATCH_SIZE, DETECTION_MAX_INSTANCES, 6)."""

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        self.config = config

    def call(self, inputs):
        def one(boxes, probabilities, deltas):
            scores = tf.reduce_max(probabilities[:, 1:], axis=1)
            class_ids = tf.argmax(probabilities, axis=1)
            found = [boxes + deltas[:, 1], tf.cast(class_ids, tf.float32)[:, None], scores[:, None]]
            found = tf.gather(tf.concat(found, axis=1), tf.where(scores > 0.3)[:, 0])
            found = found[: self.config.DETECTION_MAX_INSTANCES]
            gap = self.config.DETECTION_MAX_INSTANCES - tf.shape(found)[0]
            return tf.pad(found, [(0, gap), (0, 0)])

        detections = batch_slice(inputs, one, self.config.IMAGES_PER_GPU)
        return tf.reshape(
            detections, [self.config.BATCH_SIZE, self.config.DETECTION_MAX_INSTANCES, 6]
        )


def build_rpn_model(depth):
    features = KL.Input((None, None, depth), name="input_rpn_feature_map")
    x = KL.Conv2D(8, 3, padding="same", activation="relu", name="rpn_conv_shared")(features)
    logits = KL.Conv2D(2, 1, name="rpn_class_raw")(x)
    logits = KL.Lambda(lambda t: tf.reshape(t, [tf.shape(t)[0], -1, 2]))(logits)
    bbox = KL.Conv2D(4, 1, name="rpn_bbox_pred")(x)
    bbox = KL.Lambda(lambda t: tf.reshape(t, [tf.shape(t)[0], -1, 4]))(bbox)
    probabilities = KL.Activation("softmax", name="rpn_class_xxx")(logits)
    return KM.Model([features], [logits, probabilities, bbox], name="rpn_model")


def rpn_class_loss_graph(match, logits):
    losses = K.sparse_categorical_crossentropy(match[..., 0], logits, from_logits=True)
    return K.mean(losses)


def rpn_bbox_loss_graph(target, match, bbox):
    """Only of positive anchors; so a whole batch's loss is not the mean of its halves'."""
    where = tf.where(K.equal(match[..., 0], 1))
    loss = tf.abs(tf.gather_nd(target, where) - tf.gather_nd(bbox, where))
    return K.switch(tf.size(loss) > 0, K.mean(loss), tf.constant(0.0))


def mrcnn_class_loss_graph(target, logits, meta):
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=target, logits=logits)
    return tf.reduce_sum(losses * meta[:, :1]) / tf.reduce_sum(tf.ones_like(losses) * meta[:, :1])


def of_positives(target_ids, target, predicted):
    """The entries of rows with a target class, and what is predicted there for that class."""
    where = tf.where(target_ids > 0)
    ids = tf.cast(tf.gather_nd(target_ids, where), tf.int64)
    return tf.gather_nd(target, where), tf.gather_nd(predicted, tf.concat([where, ids[:, None]], 1))


def mrcnn_bbox_loss_graph(target, target_ids, predicted):
    target, predicted = of_positives(target_ids, target, predicted)
    loss = K.switch(tf.size(target) > 0, tf.abs(target - predicted), tf.zeros((1, 1)))
    return K.mean(loss)


def mrcnn_mask_loss_graph(target, target_ids, predicted):
    predicted = tf.transpose(predicted, [0, 1, 4, 2, 3])
    target, predicted = of_positives(target_ids, target, predicted)
    loss = K.binary_crossentropy(target, predicted)
    return K.mean(K.switch(tf.size(target) > 0, loss, tf.zeros((1, 1, 1))))


def heads(rois, features, config):
    """(class logits, class probabilities, deltas, masks) of boxes."""
    x = ROIAlign(name="roi_align")([rois, features])
    x = KL.TimeDistributed(KL.Conv2D(8, 3, padding="same"), name="mrcnn_conv1")(x)
    x = KL.TimeDistributed(BatchNorm(), name="mrcnn_bn1")(x, training=config.TRAIN_BN)
    x = KL.Activation("relu")(x)
    flat = KL.TimeDistributed(KL.Flatten())(x)
    logits = KL.TimeDistributed(KL.Dense(config.NUM_CLASSES), name="mrcnn_class_logits")(flat)
    probabilities = KL.TimeDistributed(KL.Activation("softmax"), name="mrcnn_class")(logits)
    bbox = KL.TimeDistributed(KL.Dense(config.NUM_CLASSES * 4), name="mrcnn_bbox_fc")(flat)
    bbox = KL.Reshape((-1, config.NUM_CLASSES, 4), name="mrcnn_bbox")(bbox)
    masks = KL.TimeDistributed(
        KL.Conv2D(config.NUM_CLASSES, 1, activation="sigmoid"), name="mrcnn_mask"
    )(x)
    return logits, probabilities, bbox, masks


class MaskRCNN:
    def __init__(self, mode, config):
        self.mode = mode
        self.config = config
        self.keras_model = self.build(mode, config)

    def get_anchors(self):
        """(BATCH_SIZE, N, 4), of both levels."""
        anchors = []
        for cells in (8, 4):
            y, x = np.meshgrid(np.arange(cells), np.arange(cells), indexing="ij")
            corner = np.stack([y, x], axis=-1).reshape(-1, 2) / cells
            anchors.append(np.concatenate([corner, corner + 2 / cells], axis=1))
        anchors = np.concatenate(anchors).astype("float32")
        return np.broadcast_to(anchors, (self.config.BATCH_SIZE, *anchors.shape))

    def build(self, mode, config):
        input_image = KL.Input(config.IMAGE_SHAPE, name="input_image")
        input_image_meta = KL.Input((config.IMAGE_META_SIZE,), name="input_image_meta")
        x = KL.Conv2D(8, 3, strides=2, padding="same", name="conv1")(input_image)
        x = BatchNorm(name="bn_conv1")(x, training=config.TRAIN_BN)
        fine = KL.Activation("relu")(x)
        coarse = KL.Conv2D(8, 3, strides=2, padding="same", name="res2")(fine)
        rpn = build_rpn_model(8)
        outputs = zip(*[rpn([level]) for level in (fine, coarse)], strict=True)
        names = ["rpn_class_logits", "rpn_class", "rpn_bbox"]
        rpn_class_logits, rpn_class, rpn_bbox = [
            KL.Concatenate(axis=1, name=n)(list(o)) for o, n in zip(outputs, names, strict=True)
        ]
        if mode == "training":
            anchors = ConstLayer(self.get_anchors(), name="anchors")(input_image)
        else:
            anchors = input_anchors = KL.Input((None, 4), name="input_anchors")
        rois = ProposalLayer(config, name="ROI")([rpn_class, rpn_bbox, anchors])
        if mode == "inference":
            _, mrcnn_class, mrcnn_bbox, mrcnn_mask = heads(rois, fine, config)
            detections = DetectionLayer(config, name="mrcnn_detection")(
                [rois, mrcnn_class, mrcnn_bbox]
            )
            inputs = [input_image, input_image_meta, input_anchors]
            outputs = [detections, mrcnn_class, mrcnn_bbox, mrcnn_mask, rois, rpn_class, rpn_bbox]
        else:

            def norm_boxes(boxes):
                """In graph mode it uses a tensor from outside, as Matterport's Lambdas do."""
                return boxes / tf.cast(K.shape(input_image)[1], tf.float32)

            size = (4, 4, None)
            match = KL.Input((None, 1), name="input_rpn_match", dtype=tf.int32)
            rpn_target = KL.Input((None, 4), name="input_rpn_bbox")
            gt_class_ids = KL.Input((None,), name="input_gt_class_ids", dtype=tf.int32)
            gt_boxes = input_gt_boxes = KL.Input((None, 4), name="input_gt_boxes")
            if not tf.executing_eagerly():
                gt_boxes = KL.Lambda(norm_boxes)(gt_boxes)
            gt_masks = KL.Input(size, name="input_gt_masks", dtype=bool)
            rois, target_ids, target_bbox, target_mask = DetectionTargetLayer(
                config, name="proposal_targets"
            )([rois, gt_class_ids, gt_boxes, gt_masks])
            logits, mrcnn_class, mrcnn_bbox, mrcnn_mask = heads(rois, fine, config)
            arguments = [
                (rpn_class_loss_graph, [match, rpn_class_logits]),
                (rpn_bbox_loss_graph, [rpn_target, match, rpn_bbox]),
                (mrcnn_class_loss_graph, [target_ids, logits, input_image_meta]),
                (mrcnn_bbox_loss_graph, [target_bbox, target_ids, mrcnn_bbox]),
                (mrcnn_mask_loss_graph, [target_mask, target_ids, mrcnn_mask]),
            ]
            losses = [
                KL.Lambda(lambda x, loss=loss: loss(*x), name=name)(x)
                for name, (loss, x) in zip(LOSSES, arguments, strict=True)
            ]
            inputs = [input_image, input_image_meta, match, rpn_target]
            inputs += [gt_class_ids, input_gt_boxes, gt_masks]
            outputs = [rpn_class_logits, rpn_class, rpn_bbox, logits, mrcnn_class, mrcnn_bbox]
            outputs += [mrcnn_mask, rois, *losses]
        model = KM.Model(inputs, outputs, name="mask_rcnn")
        if config.GPU_COUNT > 1:
            from mrcnn.parallel_model import ParallelModel

            model = ParallelModel(model, config.GPU_COUNT)
        return model

    def compile(self, learning_rate, momentum):
        self.keras_model.metrics_tensors = []
        # graph mode needs `get_updates`, which only the legacy optimizers have
        optimizers = keras.optimizers if tf.executing_eagerly() else keras.optimizers.legacy
        optimizer = optimizers.SGD(
            learning_rate=learning_rate, momentum=momentum, clipnorm=self.config.GRADIENT_CLIP_NORM
        )
        self.keras_model._losses = []
        self.keras_model._per_input_losses = {}
        for name in LOSSES:
            layer = self.keras_model.get_layer(name)
            loss = tf.reduce_mean(layer.output, keepdims=True)
            self.keras_model.add_loss(loss * self.config.LOSS_WEIGHTS.get(name, 1.0))

        def regularization():
            return tf.add_n(
                [
                    keras.regularizers.l2(self.config.WEIGHT_DECAY)(w)
                    / tf.cast(tf.size(w), tf.float32)
                    for w in self.keras_model.trainable_weights
                    if "gamma" not in w.name and "beta" not in w.name
                ]
            )

        if tf.executing_eagerly():
            self.keras_model.add_loss(regularization)
            self.keras_model.compile(optimizer=optimizer)
        else:
            self.keras_model.add_loss(regularization())
            outputs = len(self.keras_model.outputs)
            self.keras_model.compile(optimizer=optimizer, loss=[None] * outputs)
        for name in LOSSES:
            if name in self.keras_model.metrics_names:
                continue
            layer = self.keras_model.get_layer(name)
            loss = tf.reduce_mean(layer.output, keepdims=True)
            loss = loss * self.config.LOSS_WEIGHTS.get(name, 1.0)
            self.keras_model.metrics_tensors.append(loss)
            self.keras_model.add_metric(loss, name=name, aggregation="mean")

    def set_trainable(self, names):
        model = getattr(self.keras_model, "inner_model", self.keras_model)
        for layer in model.layers:
            layer.trainable = layer.name.startswith(names)

    def train(self, generator, steps, epochs=1, callbacks=()):
        self.compile(self.config.LEARNING_RATE, self.config.LEARNING_MOMENTUM)
        return self.keras_model.fit(
            generator,
            steps_per_epoch=steps,
            epochs=epochs,
            callbacks=list(callbacks),
            verbose=0,
            workers=1,
        ).history

    def detect(self, images, metas):
        return self.keras_model.predict([images, metas, self.get_anchors()], verbose=0)
