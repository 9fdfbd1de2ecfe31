"""write_coco: what is written, where the images go, and that a file appears whole or not at all."""

import json
from pathlib import Path

import numpy as np
import pytest

from mrcnn_parallel.data import coco_writer, segments
from mrcnn_parallel.data.coco_format import load_coco
from mrcnn_parallel.data.coco_writer import write_coco
from mrcnn_parallel.data.formats import load_dataset
from tests.data import annotated
from tests.data.synthetic import SyntheticDataset


@pytest.fixture
def dataset(tmp_path):
    return load_dataset("coco", annotated.write_scene("coco", tmp_path / "scene"))


def test_polygons_stay_polygons(dataset, tmp_path):
    content = json.loads(write_coco(dataset, tmp_path / "out.json").read_text())
    before = annotated.coco_content()["annotations"]
    assert [a["segmentation"] for a in content["annotations"]] == [
        a["segmentation"] for a in before
    ]
    assert [category["name"] for category in content["categories"]] == ["person", "car"]
    first = content["annotations"][0]
    assert (first["area"], first["bbox"], first["iscrowd"]) == (20 * 8, [5, 4, 20, 8], 0)
    assert [image["id"] for image in content["images"]] == [1, 2, 3]
    assert [annotation["id"] for annotation in content["annotations"]] == [1, 2, 3, 4]


def test_evaluation_takes_the_file(dataset, tmp_path):
    coco = load_coco(write_coco(dataset, tmp_path / "out.json"))
    assert len(coco.getAnnIds()) == annotated.INSTANCES


@pytest.mark.parametrize("images", coco_writer.IMAGE_CHOICES)
def test_images_are_where_they_were_asked_for(images, dataset, tmp_path):
    path = write_coco(dataset, tmp_path / "deep" / "out.json", images)
    names = [image["file_name"] for image in json.loads(path.read_text())["images"]]
    folder = tmp_path / "deep" / "images"
    if images == "reference":
        assert names == [f"../scene/train/{name}.jpg" for name in annotated.SCENE]
        assert not folder.exists()
    else:
        assert names == [f"images/{name}.jpg" for name in annotated.SCENE]
        assert all(p.is_symlink() == (images == "link") for p in folder.iterdir())
    again = load_dataset("coco", path)
    for image_id in again.image_ids:
        np.testing.assert_array_equal(again.load_image(image_id), dataset.load_image(image_id))
    write_coco(dataset, path, images)  # a second time changes nothing
    assert annotated.found(load_dataset("coco", path)) == annotated.expected()


def test_copying_after_linking_leaves_the_originals_alone(dataset, tmp_path):
    files = [Path(info["path"]) for info in dataset.image_info]
    originals = [file.read_bytes() for file in files]
    path = write_coco(dataset, tmp_path / "out.json", "link")
    write_coco(dataset, path, "copy")
    assert not any(p.is_symlink() for p in (tmp_path / "images").iterdir())
    again = load_dataset("coco", path)
    write_coco(again, path, "copy")  # onto itself
    write_coco(again, path, "link")
    assert annotated.found(load_dataset("coco", path)) == annotated.expected()
    assert [file.read_bytes() for file in files] == originals


def test_images_of_one_name_do_not_overwrite_each_other(dataset, tmp_path):
    other = annotated.write_scene("coco", tmp_path / "other")
    annotated.write_image(other / "train" / "a.jpg", "a", seed=1)
    both = load_dataset([tmp_path / "scene", other])
    again = load_dataset("coco", write_coco(both, tmp_path / "out" / "o.json", "copy"))
    names = sorted(path.name for path in (tmp_path / "out" / "images").iterdir())
    assert names == ["a-2.jpg", "a.jpg", "b-2.jpg", "b.jpg", "c-2.jpg", "c.jpg"]
    for image_id in again.image_ids:
        np.testing.assert_array_equal(again.load_image(image_id), both.load_image(image_id))


def test_any_dataset_can_be_written(tmp_path):
    """Also one whose images are no files and that only has masks."""
    dataset = SyntheticDataset(count=3, size=(40, 50), empty=(1,))
    with pytest.raises(ValueError, match=r"has no file to link; use images='copy'"):
        write_coco(dataset, tmp_path / "out.json", "link")
    again = load_dataset("coco", write_coco(dataset, tmp_path / "out.json", "copy"))
    assert again.class_names == dataset.class_names
    for image_id in dataset.image_ids:
        np.testing.assert_array_equal(again.load_image(image_id), dataset.load_image(image_id))
        masks, class_ids = dataset.load_mask(image_id)
        found, found_ids = again.load_mask(image_id)
        np.testing.assert_array_equal(found_ids, class_ids)
        np.testing.assert_array_equal(found, masks.reshape(found.shape))


def test_crowds_stay_crowds(tmp_path):
    content = annotated.coco_content()
    mask = np.eye(40, 60) > 0
    rle = segments.to_rle(mask, 40, 60)
    rle = {"size": [40, 60], "counts": rle["counts"].decode()}
    content["annotations"][0].update(segmentation=rle, iscrowd=1)
    content["annotations"][1].update(iscrowd=1)  # as polygons, which COCO itself does not do
    annotated.write_json(tmp_path / "in.json", content)
    for name in annotated.SCENE:
        annotated.write_image(tmp_path / f"{name}.jpg", name)
    dataset = load_dataset("coco", tmp_path / "in.json")
    again = load_dataset("coco", write_coco(dataset, tmp_path / "out.json"))
    assert again.load_mask(0)[1].tolist() == [-1, -2, 1]
    np.testing.assert_array_equal(again.load_mask(0)[0], dataset.load_mask(0)[0])


def test_a_failure_leaves_the_old_file(dataset, tmp_path, monkeypatch):
    path = tmp_path / "out.json"
    path.write_text("old")

    def full(*arguments, **options):
        raise OSError("no space left")

    monkeypatch.setattr(coco_writer.json, "dump", full)
    with pytest.raises(OSError, match="no space left"):
        write_coco(dataset, path)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["out.json"]


def test_wrong_calls_are_refused(dataset, tmp_path):
    with pytest.raises(ValueError, match="one of reference, link, copy"):
        write_coco(dataset, tmp_path / "out.json", "move")
    with pytest.raises(ValueError, match=r"prepare\(\) has not been called"):
        write_coco(type(dataset)(), tmp_path / "out.json")
