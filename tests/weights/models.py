"""Small models with Matterport's layer names, and h5 files as other programs wrote them."""

import h5py
import keras
import numpy as np
from keras import layers as KL
from keras import ops


def small_model(num_classes=4, channels=3, deep=False):
    """A backbone, a pyramid, a nested RPN and heads, a few thousand weights in all.

    A Dropout is there for its seed state, which is no weight. mrcnn_mask_conv1 and
    mrcnn_mask_conv2 have equal shapes: only their names tell them apart.
    """
    image = keras.Input((8, 8, channels), name="input_image")
    x = KL.Conv2D(6, 3, padding="same", name="conv1")(image)
    x = KL.BatchNormalization(name="bn_conv1")(x)
    for block in ("a", "b", "c") if deep else ("a", "b"):
        x = KL.Conv2D(6, 1, name=f"res2{block}_branch2a")(x)
        x = KL.BatchNormalization(name=f"bn2{block}_branch2a")(x)
    x = KL.Dropout(0.5)(x)
    p2 = KL.Conv2D(5, 1, name="fpn_c2p2")(x)

    feature = keras.Input((None, None, 5))
    shared = KL.Conv2D(7, 3, padding="same", name="rpn_conv_shared")(feature)
    rpn_class = KL.Conv2D(6, 1, name="rpn_class_raw")(shared)
    rpn_bbox = KL.Conv2D(12, 1, name="rpn_bbox_pred")(shared)
    rpn = keras.Model(feature, [rpn_class, rpn_bbox], name="rpn_model")
    outputs = list(rpn(p2))

    y = KL.Flatten()(p2)
    outputs.append(KL.Dense(num_classes, name="mrcnn_class_logits")(y))
    bbox = KL.Dense(4 * num_classes, name="mrcnn_bbox_fc")(y)
    outputs.append(KL.Reshape((num_classes, 4), name="mrcnn_bbox")(bbox))
    mask = KL.Conv2D(5, 3, name="mrcnn_mask_conv1")(p2)
    mask = KL.Conv2D(5, 3, name="mrcnn_mask_conv2")(mask)
    outputs.append(KL.Conv2D(num_classes, 1, name="mrcnn_mask")(mask))
    return keras.Model(image, outputs)


def randomize(model, seed):
    """Sets every weight to normal random numbers (variances positive)."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        values = rng.normal(size=variable.shape)
        if variable.name == "moving_variance":
            values = np.abs(values) + 0.1
        variable.assign(values.astype("float32"))
    return model


def snapshot(model):
    """-> {"layer/kind": array} of every weight, nested models' too."""
    found = {}
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            found.update(snapshot(layer))
        else:
            for variable in layer.weights:
                array = np.array(ops.convert_to_numpy(variable))
                found[f"{layer.name}/{variable.path.split('/', 1)[1]}"] = array
    return found


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name], err_msg=name)


def legacy_groups(model, suffix=""):
    """-> [(layer, [(weight name, array)])] as Keras 2 listed them; suffix "_1" is what the second
    model built in a process got."""
    groups = []
    for layer in model.layers:
        inner = layer.layers if isinstance(layer, keras.Model) else [layer]
        weights = [
            (f"{leaf.name}{suffix}/{v.name}:0", ops.convert_to_numpy(v))
            for leaf in inner
            for v in leaf.weights
        ]
        groups.append((layer.name, weights))
    return groups


def write_groups(path, groups, root=None, **dataset_options):
    """Writes Keras 2's layout with h5py alone, under the group `root` if one is given."""
    with h5py.File(path, "w") as file:
        top = file.create_group(root) if root else file
        top.attrs["layer_names"] = [name.encode() for name, _ in groups]
        top.attrs["backend"] = b"tensorflow"
        top.attrs["keras_version"] = b"2.0.8"
        for name, weights in groups:
            group = top.create_group(name)
            group.attrs["weight_names"] = [weight.encode() for weight, _ in weights]
            for weight, values in weights:
                group.create_dataset(weight, data=values, **dataset_options)
    return path
