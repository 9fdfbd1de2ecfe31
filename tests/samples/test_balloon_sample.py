"""samples/balloon: datasets in every version of the annotator's format, color splash, commands."""

import json
import types

import numpy as np
import pytest
from PIL import Image
from skimage import data, draw

from tests.data.test_via_format import VERSIONS
from tests.samples.loading import load_sample

balloon = load_sample("balloon/balloon.py")


def _photo():
    return data.astronaut()[:96, 128:256]  # real texture, 96 x 128


@pytest.fixture(params=VERSIONS, ids=lambda version: version.__name__)
def folder(request, tmp_path):
    """A balloon dataset: colored disks and a polygon painted on a photo, and a picture without."""
    for subset in ("train", "val"):
        (tmp_path / subset).mkdir()
        image = _photo().copy()
        disk = draw.disk((30, 40), 20)
        image[disk] = (220, 30, 30)
        triangle = draw.polygon([60, 90, 90], [100, 80, 120])
        image[triangle] = (30, 60, 220)
        Image.fromarray(image).save(tmp_path / subset / "one.png")
        Image.fromarray(_photo()).save(tmp_path / subset / "none.png")
        shapes = [
            {"name": "circle", "cx": 40, "cy": 30, "r": 20},
            {"name": "polygon", "all_points_x": [100, 80, 120], "all_points_y": [60, 90, 90]},
        ]
        content = request.param({"one.png": shapes, "none.png": []})
        (tmp_path / subset / "via_region_data.json").write_text(json.dumps(content))
    return tmp_path


def test_dataset(folder):
    dataset = balloon.BalloonDataset()
    dataset.load_balloon(folder, "train")
    dataset.prepare()
    assert dataset.class_names == ["BG", "balloon"]
    assert dataset.num_images == 1, "pictures without regions are left out"
    masks, class_ids = dataset.load_mask(0)
    image = dataset.load_image(0)
    assert masks.shape == (96, 128, 2) and masks.dtype == bool
    assert class_ids.tolist() == [1, 1] and class_ids.dtype == np.int32
    assert (image[masks[..., 0]] == (220, 30, 30)).all()
    assert (image[masks[..., 1]] == (30, 60, 220)).all()
    assert masks[..., 0].sum() == len(draw.disk((30, 40), 20)[0])
    assert dataset.image_reference(0).endswith("one.png")


def test_missing_files_are_named(folder):
    dataset = balloon.BalloonDataset()
    with pytest.raises(FileNotFoundError, match=r"subset 'test'.*via_region_data\.json"):
        dataset.load_balloon(folder, "test")
    (folder / "train" / "one.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"names one\.png"):
        dataset.load_balloon(folder, "train")


# === Color splash ===


def test_color_splash_keeps_color_in_the_masks_only():
    image = _photo()
    masks = np.zeros((96, 128, 2), bool)
    masks[10:40, 20:50, 0] = masks[30:60, 40:90, 1] = True
    splash = balloon.color_splash(image, masks)
    inside = masks.any(-1)
    assert splash.dtype == np.uint8 and splash.shape == image.shape
    np.testing.assert_array_equal(splash[inside], image[inside])
    outside = splash[~inside].astype(int)
    assert (np.ptp(outside, axis=-1) == 0).all(), "grey"
    assert abs(outside.mean() - image[~inside].mean()) < 30
    assert np.ptp(outside) > 100, "the picture is still there"


def test_color_splash_weights_and_no_masks():
    colors = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]], np.uint8)
    splash = balloon.color_splash(colors, np.zeros((1, 4, 0), bool))
    assert splash[0, :, 0].tolist() == [54, 182, 18, 255]


class SplitModel:
    """Finds one object, the left half of each image; remembers the images."""

    def __init__(self):
        self.images = []

    def detect(self, images, verbose=0):
        self.images += images
        found = []
        for image in images:
            masks = np.zeros((*image.shape[:2], 1), bool)
            masks[:, : image.shape[1] // 2] = True
            found.append({"masks": masks})
        return found


def test_splash_of_an_image(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(_photo()).save("photo.png")
    name = balloon.detect_and_color_splash(SplitModel(), image_path="photo.png")
    assert name.startswith("splash_") and name.endswith(".png")
    splash = np.asarray(Image.open(name)).astype(int)
    np.testing.assert_array_equal(splash[:, :64], _photo()[:, :64])
    assert (np.ptp(splash[:, 64:], axis=-1) == 0).all()


def test_splash_of_a_video(tmp_path, monkeypatch):
    import cv2

    monkeypatch.chdir(tmp_path)
    writer = cv2.VideoWriter("in.avi", cv2.VideoWriter_fourcc(*"MJPG"), 12.0, (128, 96))
    frames = [np.roll(_photo(), 8 * i, axis=1) for i in range(5)]
    for frame in frames:
        writer.write(np.ascontiguousarray(frame[..., ::-1]))
    writer.release()
    model = SplitModel()
    name = balloon.detect_and_color_splash(model, video_path="in.avi")
    assert len(model.images) == 5
    # the model sees RGB, up to JPEG's loss
    difference = model.images[2].astype(int) - frames[2]
    assert np.abs(difference).mean() < 12
    assert np.abs(model.images[2].astype(int) - frames[2][..., ::-1]).mean() > 15

    capture = cv2.VideoCapture(name)
    assert capture.get(cv2.CAP_PROP_FPS) == 12
    written = []
    while (read := capture.read())[0]:
        written.append(read[1][..., ::-1].astype(int))
    assert len(written) == 5 and written[0].shape == (96, 128, 3)
    for frame, splash in zip(frames, written, strict=True):
        assert np.abs(splash[:, :56] - frame[:, :56]).mean() < 15
        assert np.ptp(splash[:, 72:], axis=-1).mean() < 4, "grey, up to JPEG's loss"


def test_splash_needs_something_that_can_be_read(tmp_path):
    with pytest.raises(ValueError, match="image_path or a video_path"):
        balloon.detect_and_color_splash(SplitModel())
    (tmp_path / "x.avi").write_text("no video")
    with pytest.raises(OSError, match=r"x\.avi can't be opened"):
        balloon.detect_and_color_splash(SplitModel(), video_path=str(tmp_path / "x.avi"))


# === Command line ===


class FakeMaskRCNN(SplitModel):
    def __init__(self, mode, config, model_dir):
        super().__init__()
        FakeMaskRCNN.last = self
        self.mode, self.config, self.model_dir = mode, config, model_dir
        self.calls = []

    def load_weights(self, path, **how):
        self.weights = path

    def train(self, train, val, learning_rate, epochs, layers):
        self.calls.append((train.num_images, val.num_images, learning_rate, epochs, layers))


@pytest.fixture
def fake_model(monkeypatch):
    monkeypatch.setattr(balloon, "modellib", types.SimpleNamespace(MaskRCNN=FakeMaskRCNN))
    return FakeMaskRCNN


def test_train_command(folder, fake_model):
    balloon.main(["train", f"--dataset={folder}", "--weights=w.h5", "--logs=here"])
    model = fake_model.last
    assert (model.mode, model.weights, model.model_dir) == ("training", "w.h5", "here")
    assert model.calls == [(1, 1, 0.001, 30, "heads")]
    assert model.config.DETECTION_MIN_CONFIDENCE == 0.9 and model.config.STEPS_PER_EPOCH == 100
    arguments = ["--weights=random", "--epochs=2", "--gpu-count=1", "--config=LEARNING_RATE=0.1"]
    balloon.main(["train", f"--dataset={folder}", *arguments])
    assert fake_model.last.calls == [(1, 1, 0.1, 2, "all")]
    assert fake_model.last.config.TRAIN_BN is True


def test_splash_command(tmp_path, fake_model, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(_photo()).save("photo.png")
    name = balloon.main(["splash", "--weights=w.h5", "--image=photo.png"])
    assert (tmp_path / name).is_file()
    model = fake_model.last
    assert model.mode == "inference" and model.config.BATCH_SIZE == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--weights=coco"], "needs --dataset"),
        (["splash", "--weights=coco"], "needs --image or --video"),
        (["dance", "--weights=coco"], "dance"),
        (["train", "--dataset=x"], "--weights"),
        (["train", "--dataset=x", "--weights=coco", "--config=NAMES=3"], "no field 'NAMES'"),
    ],
)
def test_usage_errors(arguments, message, capsys):
    with pytest.raises(SystemExit):
        balloon.main(arguments)
    assert message in capsys.readouterr().err
