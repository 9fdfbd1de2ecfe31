"""samples/coco/coins.py: the masks are the coins, and the two parts share no pixel."""

import json

import numpy as np
import pytest
from PIL import Image

from mrcnn_parallel.data import coco_format
from tests.samples.loading import load_sample

coco_sample = load_sample("coco/coco.py")
coins = load_sample("coco/coins.py")


@pytest.fixture(scope="module")
def photo():
    from skimage import data

    return data.coins()


@pytest.fixture(scope="module")
def coin_labels(photo):
    return coins.segment_coins(photo)


def test_all_coins_of_the_photo_are_found(photo, coin_labels):
    assert coin_labels.max() == 24
    sizes = np.bincount(coin_labels.ravel())[1:]
    assert sizes.min() > 1000 and sizes.max() < 3500
    for label in range(1, 25):
        rows, cols = np.nonzero(coin_labels == label)
        box = (np.ptp(rows) + 1) * (np.ptp(cols) + 1)
        assert 0.72 < sizes[label - 1] / box < 0.86  # a disk fills pi / 4 of its box
    bright = photo[coin_labels > 0].mean() - photo[coin_labels == 0].mean()
    assert bright > 50
    cut = coins.split_row(coin_labels)
    assert not coin_labels[cut - 3 : cut + 3].any()
    assert (
        len(np.unique(coin_labels[:cut])) - 1 == 18 and len(np.unique(coin_labels[cut:])) - 1 == 6
    )


def test_a_photo_that_cannot_be_cut():
    with pytest.raises(ValueError, match="no band of rows"):
        coins.split_row(np.eye(5, dtype=np.int32))


def _tile_bytes(folder, subset):
    return [path.read_bytes() for path in sorted((folder / f"{subset}2014").iterdir())]


def test_no_pixel_is_in_both_parts(photo, coin_labels, tmp_path):
    built = coins.build_dataset(tmp_path / "a", 6, 4, photo=photo, labels=coin_labels)
    cut = built["split_row"]
    for subset in ("train", "val"):
        blanked = photo.copy()
        blanked[slice(0, cut) if subset == "val" else slice(cut, None)] = 0
        coins.build_dataset(tmp_path / subset, 6, 4, photo=blanked, labels=coin_labels)
        # What the other part looks like changes nothing.
        assert _tile_bytes(tmp_path / subset, subset) == _tile_bytes(tmp_path / "a", subset)
    assert _tile_bytes(tmp_path / "val", "train") != _tile_bytes(tmp_path / "a", "train")


def test_the_dataset_is_read_by_the_coco_sample(photo, coin_labels, tmp_path):
    built = coins.build_dataset(tmp_path, 8, 5, photo=photo, labels=coin_labels)
    seen = {"polygons": 0, "crowds": 0}
    for subset, count in (("train", 8), ("val", 5)):
        dataset = coco_sample.CocoDataset()
        dataset.load_coco(tmp_path, subset, "2014")
        dataset.prepare()
        assert dataset.class_names == ["BG", "coin"] and dataset.num_images == count
        for image_id, entry in enumerate(built[subset]["images"]):
            image = dataset.load_image(image_id)
            masks, class_ids = dataset.load_mask(image_id)
            assert masks.shape[:2] == image.shape[:2] == (entry["height"], entry["width"])
            assert (class_ids == 1).any() and set(class_ids.tolist()) <= {1, -1}
            inside = image[masks.any(-1)].mean()
            assert inside > image[~masks.any(-1)].mean() + 25, "masks sit on the bright coins"
            for index, annotation in enumerate(dataset.image_info[image_id]["annotations"]):
                x, y, width, height = annotation["bbox"]
                rows, cols = np.nonzero(masks[..., index])
                # a polygon may miss the box by a pixel, run lengths may not
                slack = 0 if annotation["iscrowd"] else 1
                found = [cols.min(), rows.min(), np.ptp(cols) + 1, np.ptp(rows) + 1]
                np.testing.assert_allclose(found, [x, y, width, height], atol=slack)
                assert masks[..., index].sum() == pytest.approx(annotation["area"], rel=0.02)
                seen["crowds" if annotation["iscrowd"] else "polygons"] += 1
    assert min(seen.values()) > 3


def test_polygons_and_run_lengths_are_the_mask():
    y, x = np.mgrid[:50, :70]
    disk = (y - 20) ** 2 + (x - 30) ** 2 < 18**2
    for mask in (disk, (x < 20) & (y < 40), (x >= 50) & (y >= 3) & (y < 30)):
        polygons = coins.mask_to_polygons(mask)
        rle = coco_format.segmentation_to_rle(polygons, *mask.shape)
        drawn = coco_format.rle_to_mask(rle)
        assert (drawn & mask).sum() / (drawn | mask).sum() > 0.98
        rle = coco_format.segmentation_to_rle(coins.mask_to_counts(mask), *mask.shape)
        np.testing.assert_array_equal(coco_format.rle_to_mask(rle), mask)


def test_coins_command_writes_a_picture(tmp_path):
    coins.main([f"--output={tmp_path}", "--train-images=4", "--val-images=4", "--year=x"])
    assert len(list((tmp_path / "trainx").iterdir())) == 4
    assert json.loads((tmp_path / "annotations" / "instances_valx.json").read_text())["images"]
    picture = np.asarray(Image.open(tmp_path / "ground_truth.png").convert("RGB")).astype(int)
    red = (picture[..., 0] > 200) & (picture[..., 1:] < 60).all(-1)
    assert red.sum() > 500, "outlines are drawn"
