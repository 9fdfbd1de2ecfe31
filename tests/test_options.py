"""The samples' shared command line options."""

import argparse
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from mrcnn_parallel import options, utils
from mrcnn_parallel.config import Config


def _parse(*arguments):
    parser = argparse.ArgumentParser()
    options.add_config_options(parser)
    return parser, parser.parse_args(arguments)


def test_nothing_given_changes_nothing():
    _, args = _parse()
    assert options.config_fields(args) == {}


def test_options_become_config_fields():
    _, args = _parse(
        "--gpu-count=3",
        "--steps=7",
        "--backbone=resnet18",
        "--image-size=128",
        "--config=LEARNING_RATE=0.02",
        "--config=MINI_MASK_SHAPE=(28, 28)",
        "--config=IMAGE_RESIZE_MODE=crop",
    )
    config = Config(**options.config_fields(args))
    assert (config.GPU_COUNT, config.STEPS_PER_EPOCH, config.BACKBONE) == (3, 7, "resnet18")
    assert config.IMAGE_MIN_DIM == config.IMAGE_MAX_DIM == 128
    assert config.RPN_ANCHOR_SCALES == (8, 16, 32, 64, 128)
    assert config.LEARNING_RATE == 0.02 and config.MINI_MASK_SHAPE == (28, 28)
    assert config.IMAGE_RESIZE_MODE == "crop"


def test_large_images_keep_the_standard_anchors_and_config_wins():
    _, args = _parse("--image-size=512")
    assert "RPN_ANCHOR_SCALES" not in options.config_fields(args)
    _, args = _parse("--image-size=256", "--config=RPN_ANCHOR_SCALES=(4, 8, 16, 32, 64)")
    assert options.config_fields(args)["RPN_ANCHOR_SCALES"] == (4, 8, 16, 32, 64)
    _, args = _parse("--gpu-count=auto")
    assert options.config_fields(args) == {"GPU_COUNT": "auto"}


def test_small_is_a_valid_model_and_other_options_win():
    _, args = _parse("--small")
    config = Config(**options.config_fields(args), NUM_CLASSES=2)
    config.validate("training")
    assert tuple(config.IMAGE_SHAPE) == (128, 128, 3) and config.BACKBONE == "resnet18"
    assert config.RPN_ANCHOR_SCALES == (8, 16, 32, 64, 128)
    _, args = _parse(
        "--small", "--backbone=resnet34", "--image-size=64", "--config=PRE_NMS_LIMIT=9"
    )
    config = Config(**options.config_fields(args))
    assert (config.BACKBONE, config.IMAGE_MAX_DIM, config.PRE_NMS_LIMIT) == ("resnet34", 64, 9)
    assert config.TOP_DOWN_PYRAMID_SIZE == 64


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--gpu-count=none", "'none' is neither a positive number nor 'auto'"),
        ("--gpu-count=0", "'0' is neither"),
        ("--config=LEARNING_RATE", "not of the form FIELD=VALUE"),
    ],
)
def test_bad_values_are_usage_errors(argument, message, capsys):
    with pytest.raises(SystemExit):
        _parse(argument)
    assert message in capsys.readouterr().err


def test_an_unknown_field_is_a_usage_error(capsys):
    parser, args = _parse("--config=LERNING_RATE=1")
    with pytest.raises(SystemExit):
        options.check_config_options(parser, args, Config)
    assert "has no field 'LERNING_RATE'" in capsys.readouterr().err


class _Model:
    """Remembers what it was asked to load."""

    def __init__(self, num_classes):
        self.config = Config(NUM_CLASSES=num_classes)
        self.loaded = []

    def load_weights(self, path, by_name, exclude, strict):
        self.loaded.append((path, by_name, exclude, strict))

    def find_last(self):
        return "last.h5"

    def get_imagenet_weights(self):
        return "resnet.h5"


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ("random", []),
        ("None", []),
        ("last", [("last.h5", True, None, True)]),
        ("mine.h5", [("mine.h5", True, None, True)]),
        ("imagenet", [("resnet.h5", True, None, False)]),
    ],
)
def test_named_weights(weights, expected, tmp_path):
    model = _Model(num_classes=2)
    options.load_named_weights(model, weights, str(tmp_path / "coco.h5"))
    assert model.loaded == expected


def test_coco_weights_are_fetched_once_and_class_layers_left_out(tmp_path, monkeypatch):
    path, fetched = tmp_path / "coco.h5", []

    def download(to):
        fetched.append(to)
        path.touch()

    monkeypatch.setattr(utils, "download_trained_weights", download)
    small, whole = _Model(num_classes=2), _Model(num_classes=81)
    options.load_named_weights(small, "coco", str(path))
    options.load_named_weights(whole, "COCO", str(path))
    assert fetched == [str(path)]
    assert small.loaded == [(str(path), True, options.CLASS_LAYERS, True)]
    assert whole.loaded == [(str(path), True, None, True)]


def test_true_or_false():
    assert options.true_or_false("True") is True and options.true_or_false("false") is False
    with pytest.raises(argparse.ArgumentTypeError, match="'maybe' is neither"):
        options.true_or_false("maybe")


def test_expose_devices_says_that_cpus_stand_in(caplog):
    with caplog.at_level(logging.INFO, "mrcnn_parallel"):
        options.expose_devices(1)
        options.expose_devices("auto")
    assert not caplog.text
    code = (
        "from mrcnn_parallel import backend, options\n"
        "options.log_to_stdout()\n"
        "options.expose_devices(3)\n"
        "print(len(backend.visible_devices()))\n"
    )
    root = Path(__file__).parents[1]
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    ).stdout
    assert out.splitlines() == ["No GPU found: GPU_COUNT=3 runs on 3 CPU devices.", "3"]
