"""COCO's format: every kind of segmentation, what is filled in, what is refused, the folder."""

import copy
import zipfile

import numpy as np
import pytest

from mrcnn_parallel import utils
from mrcnn_parallel.data import coco_format


@pytest.fixture
def content():
    """An annotation file's content: one 20 x 30 image with one rectangle."""
    return {
        "images": [{"id": 3, "height": 20, "width": 30}],
        "categories": [{"id": 7, "name": "thing"}],
        "annotations": [
            {
                "id": 1,
                "image_id": 3,
                "category_id": 7,
                "segmentation": [[5, 4, 25, 4, 25, 12, 5, 12]],
            }
        ],
    }


def _rectangle():
    mask = np.zeros((20, 30), bool)
    mask[4:12, 5:25] = True
    return mask


def uncompressed(mask):
    """Uncompressed RLE, counted one pixel at a time down the columns."""
    counts, value = [0], 0
    for pixel in mask.ravel(order="F").astype(int):
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return {"size": list(mask.shape), "counts": counts}


@pytest.mark.parametrize("kind", ["polygon", "uncompressed", "bytes", "text"])
def test_segmentation_to_rle_reads_every_form(kind):
    mask = _rectangle()
    compressed = coco_format.mask_to_rle(mask)
    segmentation = {
        "polygon": [[5, 4, 25, 4, 25, 12, 5, 12]],
        "uncompressed": uncompressed(mask),
        "bytes": compressed,
        "text": {**compressed, "counts": compressed["counts"].decode()},
    }[kind]
    rle = coco_format.segmentation_to_rle(segmentation, 20, 30)
    np.testing.assert_array_equal(coco_format.rle_to_mask(rle), mask)


def test_an_object_of_several_polygons_is_their_union():
    polygons = [[0, 0, 4, 0, 4, 4, 0, 4], [10, 6, 14, 6, 14, 9, 10, 9]]
    mask = coco_format.rle_to_mask(coco_format.segmentation_to_rle(polygons, 20, 30))
    expected = np.zeros((20, 30), bool)
    expected[0:4, 0:4] = expected[6:9, 10:14] = True
    np.testing.assert_array_equal(mask, expected)


def test_rle_round_trip_of_random_masks():
    rng = np.random.default_rng(0)
    for density in (0, 0.02, 0.5, 1):
        mask = rng.random((37, 23)) < density
        np.testing.assert_array_equal(coco_format.rle_to_mask(coco_format.mask_to_rle(mask)), mask)


def test_load_coco_fills_in_what_is_missing(content):
    before = copy.deepcopy(content)
    content["annotations"].append({"id": 0, "image_id": 3, "category_id": 7, "bbox": [1, 2, 3, 4]})
    coco = coco_format.load_coco(content)
    first, second = coco.loadAnns([1, 2])
    assert first["iscrowd"] == 0 and first["area"] == 160 and first["bbox"] == [5, 4, 20, 8]
    assert second["area"] == 12 and sorted(coco.anns) == [1, 2]
    assert content["annotations"][0] == before["annotations"][0], "the caller's dict stays as it is"


def test_load_coco_names_what_is_wrong(content, tmp_path):
    def broken(change):
        changed = copy.deepcopy(content)
        change(changed)
        return changed

    with pytest.raises(FileNotFoundError, match=r"nothing\.json"):
        coco_format.load_coco(tmp_path / "nothing.json")
    with pytest.raises(ValueError, match="no 'categories'"):
        coco_format.load_coco(broken(lambda c: c.pop("categories")))
    with pytest.raises(ValueError, match="COCO image 3 has no height"):
        coco_format.load_coco(broken(lambda c: c["images"][0].pop("height")))
    with pytest.raises(ValueError, match="COCO image 3 has no file_name"):
        coco_format.load_coco(content, ("id", "file_name"))
    with pytest.raises(ValueError, match="annotation 1 of image 4: that image is not"):
        coco_format.load_coco(broken(lambda c: c["annotations"][0].update(image_id=4)))
    with pytest.raises(ValueError, match=r"annotation 1 of image 3 has category_id 8; .* \[7\]"):
        coco_format.load_coco(broken(lambda c: c["annotations"][0].update(category_id=8)))
    with pytest.raises(ValueError, match="annotation 1 of image 3 has neither"):
        coco_format.load_coco(broken(lambda c: c["annotations"][0].pop("segmentation")))


def test_find_subset_says_what_it_looked_for(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"instances_train2014\.json.*holds nothing"):
        coco_format.find_subset(tmp_path, "train", "2014")
    (tmp_path / "annotations").mkdir()
    for subset in ("train", "minival"):
        (tmp_path / "annotations" / f"instances_{subset}2014.json").touch()
    with pytest.raises(
        FileNotFoundError, match=r"val2014.*holds instances_minival2014\.json, inst"
    ):
        coco_format.find_subset(tmp_path, "val", "2014")
    with pytest.raises(FileNotFoundError, match=r"folder .*train2014.*here are annotations"):
        coco_format.find_subset(tmp_path, "train", "2014")
    (tmp_path / "val2014").mkdir()
    annotation_file, image_dir = coco_format.find_subset(tmp_path, "minival", 2014)
    assert annotation_file.name == "instances_minival2014.json" and image_dir.name == "val2014"


def test_download_subset_fetches_only_what_is_missing(tmp_path, monkeypatch):
    fetched = []

    def fake_download(url, path):
        fetched.append(url)
        path.parent.mkdir(parents=True, exist_ok=True)
        name = path.name.removesuffix(".zip")
        with zipfile.ZipFile(path, "w") as archive:
            if "annotations_trainval" in name:
                archive.writestr("annotations/instances_train2017.json", "{}")
            elif name.endswith(".json"):
                archive.writestr(name, "{}")
            else:
                archive.writestr(f"{name}/1.jpg", "")

    monkeypatch.setattr(utils, "download", fake_download)
    coco_format.download_subset(tmp_path, "train", 2017)
    assert [url.rsplit("/", 1)[1] for url in fetched] == [
        "train2017.zip",
        "annotations_trainval2017.zip",
    ]
    coco_format.find_subset(tmp_path, "train", 2017)
    coco_format.download_subset(tmp_path, "train", 2017)
    assert len(fetched) == 2
    coco_format.download_subset(tmp_path, "minival", 2014)
    assert "val2014.zip" in fetched[2] and "minival" in fetched[3]
    coco_format.find_subset(tmp_path, "minival", 2014)
    assert not list(tmp_path.rglob("*.zip"))
