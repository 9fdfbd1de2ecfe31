"""samples/nucleus: the competition's folders, its run-length encoding, submission, commands."""

import types

import numpy as np
import pytest
from PIL import Image
from skimage import data

from tests.samples.loading import load_sample

nucleus = load_sample("nucleus/nucleus.py")


def _write_image(folder, image_id, seed, with_masks=True):
    """Bright disks on microscope texture (scikit-image's `cell`); returns their masks."""
    rng = np.random.default_rng(seed)
    y1, x1 = rng.integers(0, 300, 2)
    image = np.repeat(data.cell()[y1 : y1 + 64, x1 : x1 + 80, None] // 2, 3, axis=-1)
    y, x = np.mgrid[:64, :80]
    masks = [(y - cy) ** 2 + (x - cx) ** 2 < 64 for cy, cx in ((12, 15), (40, 60), (50, 20))]
    for mask in masks:
        image[mask] += 90
    rgba = np.concatenate([image, np.full((64, 80, 1), 255, np.uint8)], axis=-1)  # as Kaggle's
    (folder / image_id / "images").mkdir(parents=True)
    Image.fromarray(rgba).save(folder / image_id / "images" / f"{image_id}.png")
    if with_masks:
        (folder / image_id / "masks").mkdir()
        for number, mask in enumerate(masks):
            path = folder / image_id / "masks" / f"{number}.png"
            Image.fromarray(mask.astype(np.uint8) * 255).save(path)
    return np.stack(masks, axis=-1)


@pytest.fixture
def folder(tmp_path):
    """12 training images, two of which are among Matterport's validation images; one test image."""
    ids = [f"{number:02d}abc" for number in range(10)] + nucleus.VAL_IMAGE_IDS[:2]
    for seed, image_id in enumerate(ids):
        _write_image(tmp_path / "stage1_train", image_id, seed)
    _write_image(tmp_path / "stage1_test", "test0", 99, with_masks=False)
    return tmp_path


def _load(folder, subset):
    dataset = nucleus.NucleusDataset()
    dataset.load_nucleus(folder, subset)
    dataset.prepare()
    return dataset


# === Dataset ===


def test_subsets(folder):
    ids = {
        name: {info["id"] for info in _load(folder, name).image_info}
        for name in ("train", "val", "stage1_train", "stage1_test")
    }
    assert ids["val"] == set(nucleus.VAL_IMAGE_IDS[:2])
    assert ids["train"] | ids["val"] == ids["stage1_train"] and len(ids["train"]) == 10
    assert ids["stage1_test"] == {"test0"}
    assert len(set(nucleus.VAL_IMAGE_IDS)) == 25


def test_a_folder_without_the_known_validation_images_gets_its_own(tmp_path):
    for number in range(12):
        _write_image(tmp_path / "stage1_train", f"{number:02d}", number)
    val = {info["id"] for info in _load(tmp_path, "val").image_info}
    train = {info["id"] for info in _load(tmp_path, "train").image_info}
    assert val == {"00", "10"} and len(train) == 10 and not val & train


def test_masks(folder):
    expected = _write_image(folder / "stage1_extra", "x", 5)
    dataset = _load(folder, "stage1_extra")
    masks, class_ids = dataset.load_mask(0)
    np.testing.assert_array_equal(masks, expected)
    assert class_ids.tolist() == [1, 1, 1] and dataset.class_names == ["BG", "nucleus"]
    image = dataset.load_image(0)
    assert image.shape == (64, 80, 3), "alpha is dropped"
    assert image[masks.any(-1)].mean() > image[~masks.any(-1)].mean() + 50
    assert dataset.image_reference(0) == "x"
    assert _load(folder, "stage1_test").load_mask(0)[0].shape[-1] == 0
    Image.fromarray(np.zeros((10, 10), np.uint8)).save(
        folder / "stage1_extra" / "x" / "masks" / "9.png"
    )
    with pytest.raises(ValueError, match="different sizes"):
        dataset.load_mask(0)


def test_missing_data_is_named(folder):
    with pytest.raises(FileNotFoundError, match="subset 'stage2_test'"):
        _load(folder, "stage2_test")
    (folder / "stage1_empty").mkdir()
    with pytest.raises(ValueError, match="'stage1_empty' has no images"):
        _load(folder, "stage1_empty")
    (folder / "stage1_test" / "broken").mkdir()
    with pytest.raises(FileNotFoundError, match="Image broken should be at"):
        _load(folder, "stage1_test")


# === Run-length encoding ===


def test_rle_runs_down_the_columns_from_one():
    mask = np.zeros((4, 3), bool)
    mask[1:3, 0] = mask[3, 1] = mask[0, 2] = True
    assert nucleus.rle_encode(mask) == "2 2 8 2"  # the last two touch: end of a column, next one
    assert nucleus.rle_encode(np.zeros((4, 3), bool)) == ""
    assert nucleus.rle_encode(np.ones((4, 3), np.uint8)) == "1 12"


def test_rle_round_trip():
    rng = np.random.default_rng(3)
    for density in (0, 0.1, 0.5, 0.9, 1):
        mask = rng.random((17, 23)) < density
        np.testing.assert_array_equal(
            nucleus.rle_decode(nucleus.rle_encode(mask), mask.shape), mask
        )


def test_rle_refuses_what_cannot_be():
    with pytest.raises(ValueError, match="run 10 5 is not inside a mask of 4 x 3"):
        nucleus.rle_decode("1 2 10 5", (4, 3))
    with pytest.raises(ValueError, match="run 0 2"):
        nucleus.rle_decode("0 2", (4, 3))
    with pytest.raises(ValueError, match=r"shape \(4, 3, 1\)"):
        nucleus.rle_encode(np.zeros((4, 3, 1)))
    with pytest.raises(ValueError, match=r"shape \(4, 3\)"):
        nucleus.mask_to_rle("a", np.zeros((4, 3)), [])


def test_submission_lines_do_not_overlap_and_higher_scores_win():
    masks = np.zeros((10, 10, 4), bool)
    masks[0:6, 0:6, 0] = True
    masks[4:9, 4:9, 1] = True
    masks[7:8, 7:8, 2] = True  # inside the second, of lower score: nothing is left
    masks[9, 0, 3] = True
    text = nucleus.mask_to_rle("id", masks, np.array([0.6, 0.9, 0.5, 0.95]))
    lines = text.split("\n")
    assert [line.split(", ")[0] for line in lines] == ["id"] * 3
    decoded = [nucleus.rle_decode(line.split(", ")[1], (10, 10)) for line in lines]
    np.testing.assert_array_equal(decoded[0], masks[..., 3])
    np.testing.assert_array_equal(decoded[1], masks[..., 1])
    np.testing.assert_array_equal(decoded[2], masks[..., 0] & ~masks[..., 1])
    assert nucleus.mask_to_rle("id", np.zeros((10, 10, 0)), []) == "id,"


# === Augmentation ===


def test_augmentation_moves_masks_with_the_image():
    y, x = np.mgrid[:48, :48]
    mask = ((y - 15) ** 2 + (x - 30) ** 2 < 80)[..., None]
    image = np.full((48, 48, 3), 40, np.uint8)
    image[mask[..., 0]] = 160
    moved, seen = 0, set()
    for seed in range(40):
        rng = np.random.default_rng(seed)
        new_image, new_mask = nucleus.augment(image, mask, rng)
        assert new_image.shape == image.shape and new_mask.shape == mask.shape
        inside = new_image[new_mask[..., 0]].mean()
        assert inside > new_image[~new_mask[..., 0]].mean() * 2
        moved += not np.array_equal(new_mask, mask)
        seen.add(new_image.tobytes())
    assert moved > 8 and len(seen) > 10
    oblong = nucleus.augment(image[:32], mask[:32], np.random.default_rng(1))
    assert oblong[0].shape == (32, 48, 3)


# === Commands ===


class FakeMaskRCNN:
    """Finds the two brightest halves of an image; remembers trainings."""

    def __init__(self, mode, config, model_dir):
        FakeMaskRCNN.last = self
        self.mode, self.config = mode, config
        self.epoch, self.calls = 0, []

    def load_weights(self, path, **how):
        self.weights = path

    def train(self, train, val, learning_rate, epochs, augmentation, layers):
        self.calls.append((train.num_images, val.num_images, learning_rate, epochs, layers))
        assert augmentation is nucleus.augment

    def detect(self, images, verbose=0):
        (image,) = images
        masks = np.zeros((*image.shape[:2], 2), bool)
        masks[:20, :, 0] = masks[30:50, :, 1] = True
        boxes = np.array([[0, 0, 20, 80], [30, 0, 50, 80]])
        scores = np.array([0.7, 0.8])
        return [{"rois": boxes, "class_ids": np.array([1, 1]), "scores": scores, "masks": masks}]


@pytest.fixture
def fake_model(monkeypatch, tmp_path):
    monkeypatch.setattr(nucleus, "modellib", types.SimpleNamespace(MaskRCNN=FakeMaskRCNN))
    monkeypatch.setattr(nucleus, "RESULTS_DIR", str(tmp_path / "results"))
    return FakeMaskRCNN


def test_train_command(folder, fake_model):
    nucleus.main(["train", f"--dataset={folder}", "--subset=train", "--weights=w.h5"])
    model = fake_model.last
    assert model.mode == "training" and model.weights == "w.h5"
    assert model.calls == [(10, 2, 0.001, 20, "heads"), (10, 2, 0.001, 40, "all")]
    assert model.config.STEPS_PER_EPOCH == 105 and model.config.VALIDATION_STEPS == 4
    arguments = ["--subset=stage1_train", "--weights=random", "--epochs=4", "--steps=2"]
    nucleus.main(["train", f"--dataset={folder}", *arguments])
    assert fake_model.last.calls == [(12, 2, 0.001, 4, "all")]
    assert fake_model.last.config.TRAIN_BN is True and fake_model.last.config.STEPS_PER_EPOCH == 2


def test_detect_command_writes_submission_and_pictures(folder, fake_model):
    results = nucleus.main(
        ["detect", f"--dataset={folder}", "--subset=stage1_test", "--weights=w.h5"]
    )
    model = fake_model.last
    assert model.mode == "inference" and model.config.IMAGE_RESIZE_MODE == "pad64"
    assert model.config.BATCH_SIZE == 1 and model.config.RPN_NMS_THRESHOLD == 0.7
    header, first, second = (results / "submit.csv").read_text().split("\n")
    assert header == "ImageId,EncodedPixels"
    mask = nucleus.rle_decode(first.split(", ")[1], (64, 80))
    assert mask[30:50].all() and mask.sum() == 1600  # the higher score first
    assert second.startswith("test0, 1 20 65 20")
    picture = np.asarray(Image.open(results / "test0.png").convert("RGB")).astype(int)
    assert (np.ptp(picture, axis=-1) > 40).mean() > 0.1, "tinted masks are drawn"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--weights=coco", "--subset=train"], "needs --dataset"),
        (["detect", "--weights=coco", "--dataset=x"], "needs --subset"),
        (["count", "--weights=coco"], "count"),
        (["train", "--dataset=x", "--subset=train"], "--weights"),
    ],
)
def test_usage_errors(arguments, message, capsys):
    with pytest.raises(SystemExit):
        nucleus.main(arguments)
    assert message in capsys.readouterr().err
