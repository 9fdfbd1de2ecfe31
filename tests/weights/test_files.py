"""Files that hold no weights: each kind has its own sentence, and the model stays as it was."""

import pickle
import zipfile

import h5py
import numpy as np
import pytest

from mrcnn_parallel.weights import WeightsFileError, load_weights, save_weights
from tests.weights.models import (
    assert_same,
    legacy_groups,
    randomize,
    small_model,
    snapshot,
    write_groups,
)


@pytest.fixture(scope="module")
def model():
    return randomize(small_model(), 1)


def assert_unreadable(model, path, words):
    before = snapshot(model)
    for strict in (True, False):
        with pytest.raises(WeightsFileError, match=words) as caught:
            load_weights(model, path, by_name=True, strict=strict)
        assert str(path) in str(caught.value)
        assert isinstance(caught.value, ValueError)
    assert_same(snapshot(model), before)


def test_missing(model, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"weights file .*none\.h5 does not exist"):
        load_weights(model, tmp_path / "none.h5")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "an empty file"),
        (b"epoch,loss\n1,0.5\n" * 200, "a text file"),
        ("# Gewichte für später\n".encode(), "a text file"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\n", "a Git LFS pointer"),
        (pickle.dumps({"conv1": np.zeros((3, 3))}), "a Python pickle"),
        (pickle.dumps([1, 2], protocol=2), "a Python pickle"),
        (b"\x1f\x8b\x08" + bytes(100), "compressed with gzip"),
        (b"\x89HDG" + bytes(100), "of an unknown kind"),
        (bytes(range(256)) * 8, "of an unknown kind"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_not_weights(model, tmp_path, content, words):
    path = tmp_path / "mask_rcnn_coco.h5"
    path.write_bytes(content)
    assert_unreadable(model, path, f"is {words}")


def test_folder(model, tmp_path):
    assert_unreadable(model, tmp_path, "is a folder")


def test_zip_without_weights(model, tmp_path):
    path = tmp_path / "dataset.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("image.txt", "x")
    assert_unreadable(model, path, r"a zip but not a \.keras file")
    np.savez(tmp_path / "arrays.npz", a=np.zeros(3))
    assert_unreadable(model, tmp_path / "arrays.npz", r"a zip but not a \.keras file")


@pytest.mark.parametrize("ending", [".h5", ".weights.h5", ".keras"])
@pytest.mark.parametrize("part", [0.02, 0.3, 0.9, 0.999])
def test_cut_short(model, tmp_path, ending, part):
    path = tmp_path / f"whole{ending}"
    save_weights(model, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    assert_unreadable(model, path, "damaged|cut short")


def test_values_damaged(model, tmp_path):
    """The file opens and every shape is right, but one array can't be unpacked."""
    path = write_groups(
        tmp_path / "flipped.h5", legacy_groups(model), compression="gzip", chunks=True
    )
    with h5py.File(path) as file:
        chunk = file["fpn_c2p2/fpn_c2p2/kernel:0"].id.get_chunk_info(0)
    with open(path, "r+b") as file:
        file.seek(chunk.byte_offset)
        file.write(b"\xff" * chunk.size)
    assert_unreadable(model, path, "damaged: the values of /fpn_c2p2")


def test_listed_layer_without_group(model, tmp_path):
    path = write_groups(tmp_path / "gap.h5", legacy_groups(model))
    with h5py.File(path, "a") as file:
        del file["fpn_c2p2"]
    assert_unreadable(model, path, "damaged or cut short.*fpn_c2p2")


def test_hdf5_without_layers(model, tmp_path):
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["images"] = np.zeros((2, 4, 4))
    assert_unreadable(model, tmp_path / "data.h5", "has no layers with weights")
    write_groups(tmp_path / "empty.h5", [("input_image", [])])
    assert_unreadable(model, tmp_path / "empty.h5", "has no layers with weights")
