"""save_weights: Matterport's structure name for name, and a file that is whole or not there."""

import json
import os
import stat

import h5py
import keras
import numpy as np
import pytest
from keras import layers as KL

from mrcnn_parallel.nets import mask_rcnn
from mrcnn_parallel.weights import load_weights, save_weights, writer
from tests.helpers import GOLDENS, golden_module
from tests.weights.models import assert_same, randomize, small_model, snapshot


def structure(path):
    """-> {layer: [[weight name, shape], ...]} of the layers with weights, in the file's order."""
    with h5py.File(path) as file:
        found = {}
        for layer in file.attrs["layer_names"].astype(str):
            names = file[layer].attrs["weight_names"].astype(str)
            if len(names):
                found[layer] = [[name, list(file[layer][name].shape)] for name in names]
        return found


@pytest.mark.parametrize("mode", ["inference", "training"])
def test_matterports_structure(tmp_path, mode):
    """Our training graph sorts its heads in another order; the file has one order in both modes."""
    config = golden_module("golden_configs").ShapesGolden()
    model = getattr(mask_rcnn, f"build_{mode}_model")(config)
    save_weights(model, tmp_path / "mask_rcnn_shapes_0001.h5")
    written = structure(tmp_path / "mask_rcnn_shapes_0001.h5")
    golden = json.loads((GOLDENS / "h5_structure_shapes_resnet50.json").read_text())["inference"]
    assert written == golden["weights"]
    assert list(written) == list(golden["weights"])
    with h5py.File(tmp_path / "mask_rcnn_shapes_0001.h5") as file:
        assert sorted(file.attrs) == golden["root_attrs"]
        assert file.attrs["backend"].decode() == golden["backend"]
        assert sorted(file.attrs["layer_names"].astype(str)) == sorted(
            layer.name for layer in model.layers
        )


def test_matterports_files_give_the_seeded_weights():
    """The tiny golden model's file, loaded by order and by name, tensor by tensor."""
    config = golden_module("golden_configs").TinyGolden()
    model = mask_rcnn.build_inference_model(config)
    for by_name in (False, True):
        randomize(model, 1)
        report = load_weights(model, GOLDENS / "tiny_matterport_format.h5", by_name=by_name)
        loaded = snapshot(model)
        assert report.coverage == 1 and len(report.loaded) == 67 and not report.unused
        wanted = golden_module("seeded_weights").fill_model(model, "tiny")
        assert_same(loaded, wanted)


@pytest.mark.slow
def test_full_resnet50_of_seeded_weights(tmp_path):
    """Written by h5py alone in the structure of the golden JSON, loaded into both graphs."""
    seeded = golden_module("seeded_weights")
    config = golden_module("golden_configs").ShapesGolden()
    golden = json.loads((GOLDENS / "h5_structure_shapes_resnet50.json").read_text())
    path = tmp_path / "mask_rcnn_shapes.h5"
    wanted = {}
    with h5py.File(path, "w") as file:
        part = golden["training"]
        file.attrs["layer_names"] = [name.encode() for name in part["layer_names"]]
        for layer in part["layer_names"]:
            group = file.create_group(layer)
            weights = part["weights"].get(layer, [])
            group.attrs["weight_names"] = [name.encode() for name, _ in weights]
            for name, shape in weights:
                leaf, kind = name.removesuffix(":0").split("/") if "/" in name else (layer, name)
                leaf = leaf.removesuffix("_1")
                values = np.zeros(shape, "float32")
                if layer != "anchors":
                    values = seeded.weight(leaf, kind, shape)
                    wanted[f"{leaf}/{kind}"] = values
                group.create_dataset(name, data=values)
    for build in (mask_rcnn.build_training_model, mask_rcnn.build_inference_model):
        model = build(config)
        report = load_weights(model, path, by_name=True)
        assert report.coverage == 1 and not report.unused and len(report.loaded) == 133
        assert_same(snapshot(model), wanted)


def test_a_failed_save_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "weights.h5"
    save_weights(randomize(small_model(), 1), path)
    old = path.read_bytes()
    real = writer._set_attribute

    def fail(group, name, texts):
        if group.name == "/mrcnn_mask":
            raise OSError("no space left on device")
        real(group, name, texts)

    monkeypatch.setattr(writer, "_set_attribute", fail)
    with pytest.raises(OSError, match="no space left"):
        save_weights(randomize(small_model(), 2), path)
    assert path.read_bytes() == old
    assert os.listdir(tmp_path) == ["weights.h5"]


@pytest.mark.parametrize("name", ["a.h5", "a.hdf5", "v1.2.weights.h5", "a.keras"])
def test_makes_the_folder_and_leaves_one_file(tmp_path, name):
    source = randomize(small_model(), 1)
    path = tmp_path / "logs" / "run" / name
    save_weights(source, path)
    assert os.listdir(path.parent) == [name]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask
    model = randomize(small_model(), 2)
    load_weights(model, str(path))
    assert_same(snapshot(model), snapshot(source))


def test_keras_reads_its_own_formats(tmp_path):
    source = randomize(small_model(), 1)
    save_weights(source, tmp_path / "a.weights.h5")
    model = small_model()
    model.load_weights(tmp_path / "a.weights.h5")
    assert_same(snapshot(model), snapshot(source))
    save_weights(source, tmp_path / "a.keras")
    assert_same(snapshot(keras.models.load_model(tmp_path / "a.keras")), snapshot(source))


def test_gzip_on_request(tmp_path):
    source = randomize(small_model(), 1)
    save_weights(source, tmp_path / "plain.h5")
    save_weights(source, tmp_path / "small.h5", compression="gzip")
    for name, expected in (("plain.h5", None), ("small.h5", "gzip")):
        with h5py.File(tmp_path / name) as file:
            assert file["mrcnn_bbox_fc/mrcnn_bbox_fc/kernel:0"].compression == expected
    model = randomize(small_model(), 2)
    load_weights(model, tmp_path / "small.h5")
    assert_same(snapshot(model), snapshot(source))


def test_more_names_than_an_attribute_holds(tmp_path):
    """The names are stored at equal length: 76 of them, one very long, are over 64 KB."""
    x = inputs = keras.Input((2,), name="input_image")
    for i in range(75):
        x = KL.Dense(1, name=f"fc{i}")(x)
    x = KL.Dense(1, name="long_" + "x" * 900)(x)
    source = randomize(keras.Model(inputs, x), 1)
    path = tmp_path / "many.h5"
    save_weights(source, path)
    with h5py.File(path) as file:
        assert "layer_names" not in file.attrs and "layer_names1" in file.attrs
    wanted = snapshot(source)
    load_weights(randomize(source, 2), path)
    assert_same(snapshot(source), wanted)


def test_frozen_layers_are_written_alike(tmp_path):
    """A layer that doesn't train has its weights in the same order in the file."""
    model = randomize(small_model(), 1)
    save_weights(model, tmp_path / "trainable.h5")
    model.trainable = False
    save_weights(model, tmp_path / "frozen.h5")
    assert structure(tmp_path / "frozen.h5") == structure(tmp_path / "trainable.h5")


def test_other_endings_are_refused(tmp_path):
    model = small_model()
    with pytest.raises(ValueError, match="must end in"):
        save_weights(model, tmp_path / "weights.ckpt")
    with pytest.raises(ValueError, match="compression is for"):
        save_weights(model, tmp_path / "a.weights.h5", compression="gzip")
    assert os.listdir(tmp_path) == []
