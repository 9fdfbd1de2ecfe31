"""load_weights: what is matched with what, what is refused, and that a refusal changes nothing."""

import logging
from types import SimpleNamespace

import h5py
import keras
import numpy as np
import pytest
from keras import layers as KL

from mrcnn_parallel.weights import WeightsError, load_weights, save_weights
from tests.weights.models import (
    assert_same,
    legacy_groups,
    randomize,
    small_model,
    snapshot,
    write_groups,
)

ENDINGS = (".h5", ".weights.h5", ".keras")
CLASS_LAYERS = ["mrcnn_class_logits", "mrcnn_bbox_fc", "mrcnn_mask"]


def saved(tmp_path, model, ending=".h5"):
    """-> (path of the model's weights, their values)."""
    path = tmp_path / f"weights{ending}"
    save_weights(model, path)
    return path, snapshot(model)


def assert_refused(model, path, *words, **options):
    """The load raises, the message holds the words, no weight changed. -> the report."""
    before = snapshot(model)
    with pytest.raises(WeightsError) as caught:
        load_weights(model, path, **options)
    for word in words:
        assert word in str(caught.value)
    assert_same(snapshot(model), before)
    return caught.value.report


# === What loads ===


@pytest.mark.parametrize("by_name", [False, True])
@pytest.mark.parametrize("ending", ENDINGS)
def test_round_trip(tmp_path, ending, by_name):
    path, wanted = saved(tmp_path, randomize(small_model(), 1), ending)
    model = randomize(small_model(), 2)
    report = load_weights(model, path, by_name=by_name)
    assert_same(snapshot(model), wanted)
    assert report.coverage == 1 and report.complete
    assert len(report.loaded) == report.num_asked == 15
    assert "rpn_model/rpn_class_raw" in report.loaded
    assert not (report.missing or report.unused or report.mismatched or report.not_asked)


@pytest.mark.parametrize("by_name", [False, True])
@pytest.mark.parametrize(
    "quirks",
    [
        {},
        {"suffix": "_1"},
        {"root": "model_weights"},
        {"anchors": True},
        {"compression": "gzip"},
        {"suffix": "_3", "root": "model_weights", "anchors": True, "compression": "gzip"},
    ],
    ids=str,
)
def test_files_of_keras_2(tmp_path, quirks, by_name):
    source = randomize(small_model(), 1)
    groups = legacy_groups(source, quirks.get("suffix", ""))
    if quirks.get("anchors"):
        groups.insert(9, ("anchors", [("Variable:0", np.ones((1, 99, 4), "float32"))]))
    options = {k: v for k, v in quirks.items() if k in ("root", "compression")}
    if "compression" in options:
        options["chunks"] = True
    path = write_groups(tmp_path / "old.h5", groups, **options)
    model = randomize(small_model(), 2)
    report = load_weights(model, path, by_name=by_name)
    assert_same(snapshot(model), snapshot(source))
    assert report.complete and not report.unused and not report.renamed


def test_layer_names_in_chunks(tmp_path):
    """HDF5 allows 64 KB an attribute; Keras splits longer lists into layer_names0, 1, ..."""
    source = randomize(small_model(), 1)
    path = write_groups(tmp_path / "chunks.h5", legacy_groups(source))
    with h5py.File(path, "a") as file:
        names = list(file.attrs["layer_names"])
        del file.attrs["layer_names"]
        file.attrs["layer_names0"] = names[:6]
        file.attrs["layer_names1"] = names[6:]
    model = randomize(small_model(), 2)
    load_weights(model, path)
    assert_same(snapshot(model), snapshot(source))


def test_heads_in_another_order(tmp_path):
    """Matterport's training and inference graphs list the heads in different orders; two layers of
    one shape must not be swapped."""
    source = randomize(small_model(), 1)
    groups = legacy_groups(source)
    path = write_groups(tmp_path / "reversed.h5", groups[::-1])
    model = randomize(small_model(), 2)
    load_weights(model, path, by_name=False)
    assert_same(snapshot(model), snapshot(source))


def test_nested_batch_norm(tmp_path):
    """A nested model's group has all trainable weights first: a layer's weights lie apart."""

    def build():
        x = keras.Input((4,))
        y = KL.BatchNormalization(name="bn_a")(KL.Dense(4, name="fc_a")(x))
        y = KL.BatchNormalization(name="bn_b")(KL.Dense(4, name="fc_b")(y))
        outer = keras.Input((4,), name="input_image")
        return keras.Model(outer, keras.Model(x, y, name="body")(outer))

    source = randomize(build(), 1)
    groups = legacy_groups(source)
    body = dict(groups)["body"]
    body.sort(key=lambda entry: "moving" in entry[0])
    path = write_groups(tmp_path / "nested.h5", [("input_image", []), ("body", body)])
    model = randomize(build(), 2)
    load_weights(model, path)
    assert_same(snapshot(model), snapshot(source))
    own, _ = saved(tmp_path, source)
    with h5py.File(own) as file:
        assert [n.decode() for n in file["body"].attrs["weight_names"]] == [n for n, _ in body]


def test_rpn_layers_side_by_side(tmp_path):
    """A fork that doesn't nest its RPN."""
    source = randomize(small_model(), 1)
    groups = []
    for name, weights in legacy_groups(source):
        if name == "rpn_model":
            groups += [(weights[i][0].split("/")[0], weights[i : i + 2]) for i in (0, 2, 4)]
        else:
            groups.append((name, weights))
    path = write_groups(tmp_path / "flat.h5", groups)
    model = randomize(small_model(), 2)
    load_weights(model, path, by_name=True)
    assert_same(snapshot(model), snapshot(source))


@pytest.mark.parametrize("ending", ENDINGS)
def test_wrapped_layers(tmp_path, ending):
    def build():
        x = keras.Input((3, 4, 4, 2), name="input_image")
        y = KL.TimeDistributed(KL.Conv2D(3, 1), name="mrcnn_mask_conv1")(x)
        return keras.Model(x, KL.TimeDistributed(KL.BatchNormalization(), name="bn")(y))

    source = randomize(build(), 1)
    path, _ = saved(tmp_path, source, ending)
    model = randomize(build(), 2)
    assert load_weights(model, path).complete
    for ours, theirs in zip(model.weights, source.weights, strict=True):
        np.testing.assert_array_equal(
            keras.ops.convert_to_numpy(ours), keras.ops.convert_to_numpy(theirs)
        )


@pytest.mark.parametrize("ending", ENDINGS)
def test_names_that_keras_numbers(tmp_path, ending):
    """Layers without names of their own are conv2d_3 in one run and conv2d_8 in another."""

    def build():
        x = keras.Input((4, 4, 2))
        return keras.Model(x, KL.Conv2D(2, 1)(KL.Conv2D(2, 1)(x)))

    source, model = randomize(build(), 1), randomize(build(), 2)
    path, values = saved(tmp_path, source, ending)
    report = load_weights(model, path)
    for ours, theirs in zip(snapshot(model).values(), values.values(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert list(report.renamed.values()) == [layer.name for layer in source.layers[1:]]
    assert_refused(model, path, "another model's", by_name=True)


def test_order_decides_where_no_name_is_shared(tmp_path):
    source = randomize(small_model(), 1)
    groups = [(f"their_{name}", weights) for name, weights in legacy_groups(source)]
    groups = [(n, w) for n, w in groups if n != "their_rpn_model"]
    kept = keras.Model(source.input, source.output[2:])
    path = write_groups(tmp_path / "other_names.h5", groups)
    wanted = snapshot(kept)
    report = load_weights(randomize(kept, 2), path)
    assert_same(snapshot(kept), wanted)
    assert report.renamed["conv1"] == "their_conv1"


def test_keras_file_without_names(tmp_path):
    """Keras 3 didn't always store the layers' names: then the place in the file decides."""
    path, wanted = saved(tmp_path, randomize(small_model(), 1), ".weights.h5")
    with h5py.File(path, "a") as file:

        def forget(_, item):
            if "name" in item.attrs:
                del item.attrs["name"]

        file.visititems(forget)
    model = randomize(small_model(), 2)
    assert_refused(model, path, "no layer names", by_name=True)
    load_weights(model, path)
    assert_same(snapshot(model), wanted)


@pytest.mark.parametrize("ending", ENDINGS)
def test_bfloat16_model(tmp_path, ending):
    keras.config.set_dtype_policy("bfloat16")
    source = randomize(small_model(), 1)
    path, _ = saved(tmp_path, source, ending)
    wanted = {n: np.asarray(v, "float32") for n, v in snapshot(source).items()}
    keras.config.set_dtype_policy("float32")
    model = randomize(small_model(), 2)
    load_weights(model, path)
    assert_same(snapshot(model), wanted)


def test_wrapper_with_inner_model(tmp_path):
    path = tmp_path / "weights.h5"
    source, model = randomize(small_model(), 1), randomize(small_model(), 2)
    save_weights(SimpleNamespace(inner_model=source), path)
    load_weights(SimpleNamespace(inner_model=model), path)
    assert_same(snapshot(model), snapshot(source))


def test_whole_model_of_keras_3(tmp_path):
    """Its file holds the optimizer's state and the dropout's seed too: no weights of a layer."""
    source = randomize(small_model(), 1)
    source.compile("sgd", ["mse"] * 5)
    path = tmp_path / "whole.keras"
    source.save(path)
    model = randomize(small_model(), 2)
    assert not load_weights(model, path).unused
    assert_same(snapshot(model), snapshot(source))


# === What is refused ===


@pytest.mark.parametrize("by_name", [False, True])
@pytest.mark.parametrize("ending", ENDINGS)
def test_other_number_of_classes(tmp_path, ending, by_name):
    path, theirs = saved(tmp_path, randomize(small_model(num_classes=81), 1), ending)
    model = randomize(small_model(), 2)
    report = assert_refused(
        model,
        path,
        "NUM_CLASSES = 81, this model 4",
        'exclude=["mrcnn_class_logits", "mrcnn_bbox_fc", "mrcnn_bbox", "mrcnn_mask"]',
        "(320, 81)",
        "12 of the 15 layers",
        by_name=by_name,
    )
    assert sorted(report.mismatched_layers) == sorted(CLASS_LAYERS)
    assert report.mismatched[0].file_shape[-1] in (81, 324)
    assert report.coverage == 12 / 15

    before = snapshot(model)
    names = ["mrcnn_class_logits", "mrcnn_bbox_fc", "mrcnn_bbox", "mrcnn_mask"]
    report = load_weights(model, path, by_name=by_name, exclude=names)
    assert report.complete and sorted(report.not_asked) == sorted(CLASS_LAYERS)
    for name, values in snapshot(model).items():
        kept = name.split("/")[0] in CLASS_LAYERS
        np.testing.assert_array_equal(values, (before if kept else theirs)[name], err_msg=name)


@pytest.mark.parametrize("by_name", [False, True])
@pytest.mark.parametrize("renamed", ["conv1", "mrcnn_mask", "rpn_model"])
def test_renamed_layer(tmp_path, renamed, by_name):
    groups = legacy_groups(randomize(small_model(), 1))
    groups = [(f"{n}_new" if n == renamed else n, weights) for n, weights in groups]
    path = write_groups(tmp_path / "renamed.h5", groups)
    report = assert_refused(
        randomize(small_model(), 2), path, renamed, f"{renamed}_new", by_name=by_name
    )
    assert {name.split("/")[0] for name in report.missing} == {renamed}
    assert [name.split("/")[0] for name in report.unused] == [f"{renamed}_new"]


def test_strict_false_loads_what_fits(tmp_path, caplog):
    path, theirs = saved(tmp_path, randomize(small_model(num_classes=81), 1))
    with h5py.File(path, "a") as file:
        names = [name for name in file.attrs["layer_names"] if name != b"conv1"]
        file.attrs["layer_names"] = names
    model = randomize(small_model(), 2)
    before = snapshot(model)
    with caplog.at_level(logging.INFO, "mrcnn_parallel"):
        report = load_weights(model, path, by_name=True, strict=False)
    assert report.missing == ["conv1"] and len(report.loaded) == 11
    for name, values in snapshot(model).items():
        kept = name.split("/")[0] in [*CLASS_LAYERS, "conv1"]
        np.testing.assert_array_equal(values, (before if kept else theirs)[name], err_msg=name)
    record = caplog.records[-1]
    assert record.levelname == "WARNING"
    assert "11 of 15 layers loaded (73.3 %)" in record.getMessage()
    assert "missing in the file (1): conv1" in record.getMessage()


def test_nothing_fits(tmp_path):
    x = keras.Input((3,))
    path, _ = saved(tmp_path, keras.Model(x, KL.Dense(2, name="other")(x)))
    assert_refused(small_model(), path, "another model's", strict=False)
    assert_refused(small_model(), path, "another model's", by_name=True, strict=False)


def test_layers_that_only_the_file_has(tmp_path, caplog):
    """By name that is no shortcoming, but it is said; by order the file is of another model."""
    path, theirs = saved(tmp_path, randomize(small_model(deep=True), 1))
    model = randomize(small_model(), 2)
    assert_refused(model, path, "res2c_branch2a", by_name=False)
    report = load_weights(model, path, by_name=True)
    assert report.unused == ["res2c_branch2a", "bn2c_branch2a"] and report.complete
    assert "unused in the file (2): res2c_branch2a" in caplog.text
    np.testing.assert_array_equal(snapshot(model)["conv1/kernel"], theirs["conv1/kernel"])


def test_shallower_backbone_is_named(tmp_path):
    path, _ = saved(tmp_path, randomize(small_model(), 1))
    words = ("loaded: res2c_branch2a and bn2c_branch2a are not in the file", "another BACKBONE")
    assert_refused(small_model(deep=True), path, *words, by_name=True)


def test_other_number_of_channels_is_named(tmp_path):
    path, _ = saved(tmp_path, randomize(small_model(channels=4), 1))
    model = randomize(small_model(), 2)
    assert_refused(model, path, "IMAGE_CHANNEL_COUNT = 4, this model 3", '["conv1"]')
    assert load_weights(model, path, exclude="conv1").complete


def test_layer_with_fewer_weights(tmp_path):
    groups = legacy_groups(randomize(small_model(), 1))
    groups = [(n, w[:1] if n == "fpn_c2p2" else w) for n, w in groups]
    path = write_groups(tmp_path / "no_bias.h5", groups)
    report = assert_refused(small_model(), path, "fpn_c2p2", "bias")
    (mismatch,) = report.mismatched
    assert (mismatch.weight, mismatch.file_shape, mismatch.model_shape) == ("bias", None, (5,))


# === exclude ===


def test_exclude_by_nested_names(tmp_path):
    path, _ = saved(tmp_path, randomize(small_model(), 1))
    model = randomize(small_model(), 2)
    before = snapshot(model)
    report = load_weights(model, path, exclude=["rpn_class_raw"])
    assert report.not_asked == ["rpn_model/rpn_class_raw"]
    np.testing.assert_array_equal(
        snapshot(model)["rpn_class_raw/kernel"], before["rpn_class_raw/kernel"]
    )
    report = load_weights(model, path, exclude=["rpn_model"])
    assert len(report.not_asked) == 3 and report.complete


def test_exclude_of_an_unknown_layer_is_said(tmp_path, caplog):
    path, _ = saved(tmp_path, randomize(small_model(), 1))
    load_weights(small_model(), path, exclude=["mrcnn_bbox", "mrcnn_maks"])
    assert "mrcnn_maks: no such layer" in caplog.text
    assert "mrcnn_bbox" not in caplog.text
