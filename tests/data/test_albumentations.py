"""albumentations pipelines: what they get, what is dropped, sizes, and reproducibility."""

import sys
import threading

import numpy as np
import pytest

from mrcnn_parallel.data import albumentations_adapter as adapter
from mrcnn_parallel.data.geometry import extract_bboxes
from mrcnn_parallel.data.load import load_image_gt
from mrcnn_parallel.data.loader import TrainingLoader
from tests.data.synthetic import SyntheticConfig, SyntheticDataset

A = pytest.importorskip("albumentations")

CONFIG = SyntheticConfig()
FORMATS = ("pascal_voc", "coco", "yolo", "albumentations")


def load(pipeline, image_id=0, seed=0, dataset=None):
    return load_image_gt(
        dataset or SyntheticDataset(4, size=(48, 60)),
        CONFIG,
        image_id,
        pipeline,
        use_mini_mask=False,
        rng=np.random.default_rng(seed),
    )


def test_image_and_masks_move_together():
    plain, flipped = load(None), load(A.Compose([A.HorizontalFlip(p=1)]))
    window = slice(*plain[1][[7, 9]].astype(int))
    np.testing.assert_array_equal(flipped[0][window], plain[0][window][:, ::-1])
    np.testing.assert_array_equal(flipped[4].sum(axis=(0, 1)), plain[4].sum(axis=(0, 1)))
    np.testing.assert_array_equal(flipped[2], plain[2])


@pytest.mark.parametrize("labels", [None, ["class_ids"]])
@pytest.mark.parametrize("form", FORMATS)
def test_pipelines_with_boxes_may_crop_and_drop(form, labels):
    fields = {"bbox_params": A.BboxParams(form, label_fields=labels, min_visibility=0.5)}
    crop = A.Compose([A.RandomCrop(32, 32, p=1), A.HorizontalFlip()], **fields)
    counts = set()
    for seed in range(8):
        image, meta, class_ids, boxes, masks = load(crop, seed % 4, seed)
        assert image.shape == (64, 64, 3) and meta[1:4].tolist() == [32, 32, 3]
        assert masks.shape == (64, 64, len(class_ids))
        np.testing.assert_array_equal(boxes, extract_bboxes(masks))
        raw = SyntheticDataset(4, size=(48, 60)).load_mask(seed % 4)[1].tolist()
        assert all(class_ids.tolist().count(i) <= raw.count(i) for i in set(class_ids.tolist()))
        counts.add(len(raw) - len(class_ids))
    assert max(counts) > 0


def test_the_generator_decides_everything_in_any_thread():
    pipeline = A.Compose([A.RandomBrightnessContrast(p=1), A.HorizontalFlip(), A.GaussNoise(p=1)])
    dataset = SyntheticDataset(5)

    def loader(workers):
        return TrainingLoader(dataset, CONFIG, seed=1, workers=workers, augmentation=pipeline)

    alone, threaded = loader(0), loader(3)
    for index in range(4):
        for a, b in zip(alone[index][0], threaded[index][0], strict=True):
            np.testing.assert_array_equal(a, b)
    threaded.close()
    assert (load(pipeline, seed=0)[0] != load(pipeline, seed=1)[0]).any()


def test_each_thread_has_its_own_copy():
    pipeline = A.Compose([A.HorizontalFlip()])
    copies = [adapter._thread_copy(pipeline)]
    thread = threading.Thread(target=lambda: copies.append(adapter._thread_copy(pipeline)))
    thread.start()
    thread.join()
    assert copies[0] is adapter._thread_copy(pipeline)
    assert copies[0] is not copies[1] and pipeline not in copies


def test_images_without_instances():
    pipeline = A.Compose([A.HorizontalFlip(p=1)], bbox_params=A.BboxParams("coco"))
    *_, class_ids, _, masks = load(pipeline, dataset=SyntheticDataset(1, empty=(0,)))
    assert len(class_ids) == 0 and masks.shape == (64, 64, 0)


def test_without_a_generator_the_pipelines_own_state_decides():
    image, mask = np.zeros((20, 20, 3), np.uint8), np.ones((20, 20, 1), bool)
    image, mask, kept = adapter.augment_albumentations(
        image, mask, A.Compose([A.Rotate(p=1)]), None, "image 0"
    )
    assert image.shape == (20, 20, 3) and mask.shape == (20, 20, 1) and kept.tolist() == [0]


def test_other_channels_are_refused():
    with pytest.raises(ValueError, match=r"image 0 .*into \(48, 60\); leave the channels"):
        load(A.Compose([A.Lambda(image=lambda image, **_: image[:, :, 0])]))


def test_it_is_recognised_without_an_import(monkeypatch):
    pipeline = A.Compose([])
    monkeypatch.setitem(sys.modules, "albumentations", None)
    assert adapter.is_albumentations(pipeline)
    assert not adapter.is_albumentations(print) and not adapter.is_albumentations("default")
