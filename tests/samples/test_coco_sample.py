"""samples/coco/coco.py: reading a COCO folder, results, the command line."""

import json
import types

import numpy as np
import pytest
from PIL import Image

from mrcnn_parallel import options
from mrcnn_parallel.data import coco_format
from tests.samples.loading import load_sample

HEIGHT, WIDTH = 40, 60


coco_sample = load_sample("coco/coco.py")
coins = load_sample("coco/coins.py")


def _rectangle(y1, x1, y2, x2):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[y1:y2, x1:x2] = True
    return mask


POLYGON, UNCOMPRESSED, COMPRESSED, CROWD = (
    _rectangle(5, 10, 15, 30),
    _rectangle(0, 0, 8, 8),
    _rectangle(20, 35, 38, 55),
    _rectangle(30, 0, 40, 20),
)


@pytest.fixture
def folder(tmp_path):
    """A COCO folder, year 2017: an image with an object of each kind of segmentation, one without
    objects, one with an object of another category. Category ids have gaps, as COCO's do."""
    compressed = coco_format.mask_to_rle(COMPRESSED)
    compressed["counts"] = compressed["counts"].decode()
    segmentations = [
        (18, 0, [[10, 5, 30, 5, 30, 15, 10, 15]]),
        (3, 0, coins.mask_to_counts(UNCOMPRESSED)),
        (18, 0, compressed),
        (3, 1, coins.mask_to_counts(CROWD)),
        (18, 0, coins.mask_to_counts(_rectangle(0, 0, 0, 0))),  # no pixel
    ]
    annotations = [
        {
            "id": number,
            "image_id": 285,
            "category_id": category,
            "iscrowd": crowd,
            "segmentation": segmentation,
            "bbox": [0, 0, 1, 1],
            "area": 1,
        }
        for number, (category, crowd, segmentation) in enumerate(segmentations, start=101)
    ]
    annotations.append({**annotations[1], "id": 200, "image_id": 9})
    content = {
        "images": [
            {"id": i, "file_name": f"{i:012d}.png", "height": HEIGHT, "width": WIDTH}
            for i in (285, 7, 9)
        ],
        "categories": [{"id": 18, "name": "dog"}, {"id": 3, "name": "car"}],
        "annotations": annotations,
    }
    (tmp_path / "annotations").mkdir()
    for subset in ("train", "val"):
        path = tmp_path / "annotations" / f"instances_{subset}2017.json"
        path.write_text(json.dumps(content))
        (tmp_path / f"{subset}2017").mkdir()
        for image in content["images"]:
            pixels = np.full((HEIGHT, WIDTH), image["id"] % 256, np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"{subset}2017" / image["file_name"])
    return tmp_path


def _load(folder, **more):
    dataset = coco_sample.CocoDataset()
    coco = dataset.load_coco(str(folder), "train", year="2017", return_coco=True, **more)
    dataset.prepare()
    return dataset, coco


# === CocoDataset ===


def test_classes_and_images(folder):
    dataset, coco = _load(folder)
    assert dataset.class_names == ["BG", "car", "dog"]  # by rising category id
    assert dataset.map_source_class_id("coco.18") == 2
    assert dataset.get_source_class_id(1, "coco") == 3
    assert [info["id"] for info in dataset.image_info] == [285, 7, 9]
    assert set(coco.cats) == {3, 18}
    assert dataset.image_reference(0).endswith("id=285")
    image = dataset.load_image(0)
    assert image.shape == (HEIGHT, WIDTH, 3) and (image == 285 % 256).all()
    assert coco_sample.CocoDataset().load_coco(str(folder), "train", 2017) is None


def test_masks_of_polygons_both_rles_and_crowds(folder):
    dataset, _ = _load(folder)
    masks, class_ids = dataset.load_mask(0)
    assert masks.dtype == bool and class_ids.dtype == np.int32
    assert class_ids.tolist() == [2, 1, 2, -1]  # the crowd is negative, the empty one gone
    for index, expected in enumerate((POLYGON, UNCOMPRESSED, COMPRESSED, CROWD)):
        np.testing.assert_array_equal(masks[..., index], expected)
    masks, class_ids = dataset.load_mask(1)
    assert masks.shape[-1] == 0 and class_ids.shape == (0,)


def test_class_ids_choose_images_and_annotations(folder):
    dataset, _ = _load(folder, class_ids=[3])
    assert dataset.class_names == ["BG", "car"]
    assert [info["id"] for info in dataset.image_info] == [9, 285]
    assert dataset.load_mask(1)[1].tolist() == [1, -1]
    with pytest.raises(ValueError, match=r"no categories with the ids \[5\]"):
        _load(folder, class_ids=[3, 5])
    with pytest.raises(ValueError, match="class_map is not supported"):
        _load(folder, class_map={})


def test_two_subsets_in_one_dataset(folder):
    dataset = coco_sample.CocoDataset()
    dataset.load_coco(folder, "train", "2017")
    dataset.load_coco(folder, "val", "2017")
    dataset.prepare()
    assert dataset.num_images == 6 and dataset.num_classes == 3
    assert "val2017" in dataset.image_info[5]["path"]


def test_masks_of_other_sizes(folder):
    dataset, _ = _load(folder)
    small = coins.mask_to_counts(np.ones((10, 10), bool))
    dataset.image_info[0]["annotations"][3]["segmentation"] = small
    masks, class_ids = dataset.load_mask(0)
    assert class_ids[3] == -1 and masks[..., 3].all()  # a crowd could be anywhere
    dataset.image_info[0]["annotations"][1]["segmentation"] = small
    with pytest.raises(ValueError, match=r"image 285: the mask of annotation 2 has the size \(10"):
        dataset.load_mask(0)
    dataset.image_info[0]["annotations"][1]["segmentation"] = []
    with pytest.raises(ValueError, match="image 285: annotation 2 has no segmentation"):
        dataset.load_mask(0)


def test_auto_download_comes_first(folder, monkeypatch):
    asked = []
    monkeypatch.setattr(coco_format, "download_subset", lambda *where: asked.append(where))
    coco_sample.CocoDataset().load_coco(folder, "val", "2017", auto_download=True)
    assert asked == [(folder, "val", "2017")]


# === Evaluation ===


class PerfectModel:
    """Detects the ground truth, but for what `spoil` does to it; counts its batches."""

    def __init__(self, dataset, spoil=lambda detection: None):
        self.config = types.SimpleNamespace(BATCH_SIZE=2)
        self.dataset, self.spoil = dataset, spoil
        self.sizes, self.next = [], 0

    def detect(self, images, verbose=0):
        self.sizes.append(len(images))
        found = []
        for _ in images:
            masks, class_ids = self.dataset.load_mask(self.next)
            self.next += 1
            real = class_ids > 0
            masks = masks[..., real] if real.any() else np.zeros((HEIGHT, WIDTH, 0), bool)
            boxes = [
                [rows.min(), cols.min(), rows.max() + 1, cols.max() + 1]
                for rows, cols in (np.nonzero(masks[..., i]) for i in range(masks.shape[-1]))
            ]
            detection = {
                "rois": np.array(boxes, np.int32).reshape(-1, 4),
                "class_ids": class_ids[real],
                "scores": np.full(real.sum(), 0.9, np.float32),
                "masks": masks,
            }
            self.spoil(detection)
            found.append(detection)
        return found


def test_evaluate_coco_of_a_perfect_and_a_wrong_model(folder):
    dataset, coco = _load(folder)
    for annotation in coco.anns.values():  # boxes that fit, for the box metric
        rle = dataset.annToRLE(annotation, HEIGHT, WIDTH)
        annotation["bbox"] = coco_format.import_coco_api().mask.toBbox(rle).tolist()
    del coco.dataset["annotations"][4]  # the object without a pixel can't be found
    model = PerfectModel(dataset)
    metrics = coco_sample.evaluate_coco(model, dataset, coco, ("bbox", "segm"))
    assert model.sizes == [2, 1]
    assert metrics["bbox"]["AP"] == pytest.approx(1) and metrics["segm"]["AP"] == pytest.approx(1)

    def swap(detection):
        detection["class_ids"] = 3 - detection["class_ids"]

    wrong = coco_sample.evaluate_coco(PerfectModel(dataset, swap), dataset, coco, "segm")
    assert list(wrong) == ["segm"] and wrong["segm"]["AP"] < 0.2


def test_evaluate_coco_limit_and_no_images(folder):
    dataset, coco = _load(folder)
    model = PerfectModel(dataset)
    coco_sample.evaluate_coco(model, dataset, coco, limit=1)
    assert model.sizes == [1]
    with pytest.raises(ValueError, match="no images"):
        coco_sample.evaluate_coco(model, dataset, coco, image_ids=[])


def test_build_coco_results_uses_the_sources_category_ids(folder):
    dataset, _ = _load(folder)
    masks = np.stack([POLYGON, CROWD], -1)
    rois = np.array([[5, 10, 15, 30], [30, 0, 40, 20]])
    results = coco_sample.build_coco_results(
        dataset, [285], rois, np.array([2, 1]), [0.9, 0.8], masks
    )
    assert [result["category_id"] for result in results] == [18, 3]
    assert results[0]["bbox"] == [10, 5, 20, 10] and results[0]["image_id"] == 285
    assert coco_sample.build_coco_results(dataset, [285], None, None, None, None) == []


# === Command line ===


class FakeMaskRCNN:
    """Stands in for the model: remembers what it was asked."""

    def __init__(self, mode, config, model_dir):
        FakeMaskRCNN.last = self
        self.mode, self.config, self.model_dir = mode, config, model_dir
        self.epoch, self.loaded, self.stages = 0, [], []

    def load_weights(self, path, by_name=False, exclude=None, strict=True):
        self.loaded.append((path, by_name, exclude))
        self.strict = strict

    def find_last(self):
        return "the last checkpoint"

    def get_imagenet_weights(self):
        return "imagenet weights"

    def train(self, dataset_train, dataset_val, learning_rate, epochs, layers, augmentation):
        self.datasets = (dataset_train, dataset_val)
        self.stages.append((layers, epochs, learning_rate))


@pytest.fixture
def fake_model(monkeypatch, tmp_path):
    monkeypatch.setattr(coco_sample.modellib, "MaskRCNN", FakeMaskRCNN)
    weights = tmp_path / "mask_rcnn_coco.h5"
    weights.touch()
    monkeypatch.setattr(coco_sample, "COCO_MODEL_PATH", str(weights))
    return FakeMaskRCNN


def test_train_from_coco_weights_in_matterports_stages(folder, fake_model):
    coco_sample.main(["train", f"--dataset={folder}", "--year=2017", "--model=coco"])
    model = fake_model.last
    assert model.mode == "training" and model.config.NUM_CLASSES == 3
    assert model.config.VALIDATION_STEPS == 2  # three images, two a batch
    # other categories than COCO's 80: what is specific to classes starts anew
    assert model.loaded == [(coco_sample.COCO_MODEL_PATH, True, options.CLASS_LAYERS)]
    assert model.stages == [("heads", 40, 0.001), ("4+", 120, 0.001), ("all", 160, 0.0001)]
    assert [dataset.num_images for dataset in model.datasets] == [3, 3]
    assert model.config.TRAIN_BN is False


def test_train_from_scratch_with_options(folder, fake_model):
    arguments = "--model=random --epochs=8 --steps=5 --backbone=resnet18 --image-size=128"
    coco_sample.main(
        ["train", f"--dataset={folder}", "--year=2017", *arguments.split(), "--config=SEED=4"]
    )
    model = fake_model.last
    assert model.loaded == [] and model.config.TRAIN_BN is True and model.config.SEED == 4
    assert model.stages == [("all", 6, 0.001), ("all", 8, 0.0001)]
    assert model.config.STEPS_PER_EPOCH == 5 and tuple(model.config.IMAGE_SHAPE) == (128, 128, 3)


@pytest.mark.parametrize(
    ("choice", "path"),
    [("last", "the last checkpoint"), ("imagenet", "imagenet weights"), ("w.h5", "w.h5")],
)
def test_where_weights_come_from(folder, fake_model, choice, path):
    extra = ["--year=2017", f"--model={choice}", "--layers=5+", "--epochs=2"]
    coco_sample.main(["train", f"--dataset={folder}", *extra])
    assert fake_model.last.loaded == [(path, True, None)]
    assert fake_model.last.stages == [("5+", 2, 0.001)]
    assert fake_model.last.strict == (choice != "imagenet")


def test_a_resumed_training_skips_finished_stages(folder, fake_model, monkeypatch):
    monkeypatch.setattr(
        fake_model, "load_weights", lambda self, *_, **__: setattr(self, "epoch", 120)
    )
    coco_sample.main(["train", f"--dataset={folder}", "--year=2017", "--model=last"])
    assert fake_model.last.stages == [("all", 160, 0.0001)]


def test_year_2014_uses_minival_where_it_is(folder, fake_model):
    for subset in ("train", "val"):
        (folder / f"{subset}2017").rename(folder / f"{subset}2014")
        path = folder / "annotations" / f"instances_{subset}2017.json"
        path.rename(folder / "annotations" / f"instances_{subset}2014.json")
    coco_sample.main(["train", f"--dataset={folder}", "--model=last"])  # 2014 is the default
    assert [dataset.num_images for dataset in fake_model.last.datasets] == [3, 3]
    whole = json.loads((folder / "annotations" / "instances_val2014.json").read_text())
    minus = {**whole, "images": whole["images"][1:], "annotations": []}
    parts = {"minival": {**whole, "images": whole["images"][:1]}, "valminusminival": minus}
    parts["minival"]["annotations"] = whole["annotations"][:5]
    for subset, content in parts.items():
        (folder / "annotations" / f"instances_{subset}2014.json").write_text(json.dumps(content))
    coco_sample.main(["train", f"--dataset={folder}", "--model=last"])
    assert [dataset.num_images for dataset in fake_model.last.datasets] == [3 + 2, 1]


def test_evaluate_command(folder, fake_model, monkeypatch):
    asked = []
    monkeypatch.setattr(
        coco_sample,
        "evaluate_coco",
        lambda model, dataset, coco, types, limit: asked.append((types, limit)) or {"bbox": {}},
    )
    extra = ["--year=2017", "--model=last", "--limit=2", "--logs=here"]
    assert coco_sample.main(["evaluate", f"--dataset={folder}", *extra]) == {"bbox": {}}
    assert asked == [(("bbox", "segm"), 2)]
    model = fake_model.last
    assert model.mode == "inference" and model.model_dir == "here"
    assert model.config.DETECTION_MIN_CONFIDENCE == 0 and model.config.BATCH_SIZE == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--dataset=x"], "--model"),
        (["fly", "--dataset=x", "--model=coco"], "fly"),
        (["evaluate", "--dataset=x", "--model=random"], "nothing to evaluate"),
        (["train", "--dataset=x", "--model=coco", "--config=STEPS=3"], "has no field 'STEPS'"),
        (["train", "--dataset=x", "--model=coco", "--download=perhaps"], "neither True nor False"),
    ],
)
def test_usage_errors(arguments, message, capsys):
    with pytest.raises(SystemExit):
        coco_sample.main(arguments)
    assert message in capsys.readouterr().err


def test_a_missing_dataset_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"instances_train2014\.json"):
        coco_sample.main(["train", f"--dataset={tmp_path}", "--model=random"])
