"""Run by test_tf_keras.py in a process of its own: reads and writes as Matterport's forks do.

    python tf_keras_program.py FOLDER

Expects FOLDER/ours.h5 and FOLDER/values.npz (keys layer|kind), written by this package. Checks that
tf_keras reads the former, by name and by order, and writes theirs_*.h5 with the same values.
"""

import sys
from pathlib import Path

import numpy as np
import tensorflow as tf
import tf_keras
from tf_keras import backend as K
from tf_keras import layers as KL


class Anchors(KL.Layer):
    """The fork's training graph keeps its anchors in a variable of a layer called anchors."""

    def build(self, input_shape):
        self.anchors = self.add_weight("Variable", shape=(1, 9, 4), trainable=False)

    def call(self, inputs):
        return inputs


def first(tensors):
    return tensors[0]


def build(training=False):
    """tests.weights.models.small_model, with TimeDistributed heads as Matterport has them.

    Its class head hangs on the RPN and its mask head on the class head, as in the inference graph:
    that makes the order of the layers.
    """
    image = tf_keras.Input((8, 8, 3), name="input_image")
    x = KL.Conv2D(6, 3, padding="same", name="conv1")(image)
    x = KL.BatchNormalization(name="bn_conv1")(x)
    for block in ("a", "b"):
        x = KL.Conv2D(6, 1, name=f"res2{block}_branch2a")(x)
        x = KL.BatchNormalization(name=f"bn2{block}_branch2a")(x)
    p2 = KL.Conv2D(5, 1, name="fpn_c2p2")(x)
    if training:
        p2 = Anchors(name="anchors")(p2)
    feature = tf_keras.Input((None, None, 5), name="input_rpn_feature_map")
    shared = KL.Conv2D(7, 3, padding="same", name="rpn_conv_shared")(feature)
    rpn_class = KL.Conv2D(6, 1, name="rpn_class_raw")(shared)
    rpn_bbox = KL.Conv2D(12, 1, name="rpn_bbox_pred")(shared)
    rpn = tf_keras.Model(feature, [rpn_class, rpn_bbox], name="rpn_model")(p2)
    y = KL.Reshape((1, 320))(KL.Lambda(first)([p2, *rpn]))
    logits = KL.TimeDistributed(KL.Dense(4), name="mrcnn_class_logits")(y)
    bbox = KL.TimeDistributed(KL.Dense(16), name="mrcnn_bbox_fc")(y)
    rois = KL.Reshape((1, 8, 8, 5))(KL.Lambda(first)([p2, logits, bbox]))
    mask = KL.TimeDistributed(KL.Conv2D(5, 3), name="mrcnn_mask_conv1")(rois)
    mask = KL.TimeDistributed(KL.Conv2D(5, 3), name="mrcnn_mask_conv2")(mask)
    mask = KL.TimeDistributed(KL.Conv2D(4, 1), name="mrcnn_mask")(mask)
    return tf_keras.Model(image, [*rpn, logits, bbox, mask])


def entries(model):
    """-> [("layer|kind", variable)], a TimeDistributed's under its own name."""
    found = []
    for layer in model.layers:
        inner = layer.layers if isinstance(layer, tf_keras.Model) else [layer]
        for leaf in inner:
            kinds = [v.name.split("/")[-1].split(":")[0] for v in leaf.weights]
            found += [(f"{leaf.name}|{k}", v) for k, v in zip(kinds, leaf.weights, strict=True)]
    return [(key, v) for key, v in found if not key.startswith("anchors")]


def main(folder):
    values = np.load(folder / "values.npz")
    tf.compat.v1.disable_eager_execution()  # as forks run, and as Keras 2.0 was
    for by_name in (True, False):
        model = build()
        model.load_weights(folder / "ours.h5", by_name=by_name)
        for key, variable in entries(model):
            np.testing.assert_array_equal(K.get_value(variable), values[key], err_msg=key)
        assert len(entries(model)) == len(values.files)

    # In this process conv1 has been built twice by now: its kernel is called conv1_2/kernel:0.
    model = build(training=True)
    for key, variable in entries(model):
        K.set_value(variable, values[key])
    assert model.get_layer("conv1").weights[0].name != "conv1/kernel:0"
    model.save_weights(folder / "theirs_weights.h5")
    model.save(folder / "theirs_model.h5")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
