"""Config: overrides, computed values, and the one sentence for each mistake."""

import numpy as np
import pytest

from mrcnn_parallel.config import Config


class Valid(Config):
    NAME = "valid"
    NUM_CLASSES = 2
    IMAGE_MIN_DIM = 128
    IMAGE_MAX_DIM = 192


def test_computed_values():
    config = Valid(GPU_COUNT=3, IMAGES_PER_GPU=2, NUM_CLASSES=5)
    assert config.BATCH_SIZE == 6
    assert tuple(config.IMAGE_SHAPE) == (192, 192, 3)
    assert config.IMAGE_META_SIZE == 12 + 5
    assert tuple(Valid(IMAGE_RESIZE_MODE="crop").IMAGE_SHAPE) == (128, 128, 3)
    assert tuple(Valid(IMAGE_CHANNEL_COUNT=1).IMAGE_SHAPE) == (192, 192, 1)


def test_gpu_count_auto_is_every_visible_device():
    config = Valid(GPU_COUNT="auto", IMAGES_PER_GPU=2)
    assert config.GPU_COUNT == 4 and config.BATCH_SIZE == 8  # the tests' four CPU devices
    config.validate()


def test_overrides_leave_the_class_alone():
    assert Valid(LEARNING_RATE=1.0).LEARNING_RATE == 1.0
    assert Valid.LEARNING_RATE == Valid().LEARNING_RATE == 0.001


@pytest.mark.parametrize("name", ["LERNING_RATE", "images_per_gpu", "display", "BATCH_SIZE"])
def test_unknown_override(name):
    with pytest.raises(AttributeError, match=rf"Valid has no field '{name}'.*LEARNING_RATE"):
        Valid(**{name: 1})


def test_to_dict_and_display(capsys):
    fields = Valid(GPU_COUNT=2).to_dict()
    assert fields["NAME"] == "valid" and fields["BATCH_SIZE"] == 4
    assert list(fields) == sorted(fields)
    assert {"MEAN_PIXEL", "IMAGE_META_SIZE", "RPN_TARGETS"} <= set(fields)
    assert all(name.isupper() for name in fields)
    Valid(GPU_COUNT=2).display()
    lines = capsys.readouterr().out.splitlines()
    assert "Configurations:" in lines
    assert ["BATCH_SIZE", "4"] in [line.split() for line in lines]
    assert len([line for line in lines if line.split()[1:]]) >= len(fields)


@pytest.mark.parametrize("mode", ["training", "inference"])
def test_valid(mode):
    Valid().validate(mode)


WRONG = {
    "no device": ({"GPU_COUNT": 0}, r"GPU_COUNT is 0; it must be an integer >= 1"),
    "half a device": ({"GPU_COUNT": 1.5}, r"GPU_COUNT is 1\.5; it must be an integer"),
    "a word": ({"GPU_COUNT": "all"}, r"GPU_COUNT is 'all'"),
    "a truth": ({"IMAGES_PER_GPU": True}, r"IMAGES_PER_GPU is True"),
    "no image": ({"IMAGES_PER_GPU": 0}, r"IMAGES_PER_GPU is 0"),
    "background alone": ({"NUM_CLASSES": 1}, r"NUM_CLASSES is 1; it must be >= 2.*background"),
    "no class": ({"NUM_CLASSES": 0}, r"NUM_CLASSES is 0"),
    "less than no thread": ({"LOADER_WORKERS": -1}, r"LOADER_WORKERS is -1; .*>= 0"),
    "bad samples": ({"ON_BAD_SAMPLE": "ignore"}, r"ON_BAD_SAMPLE is 'ignore'.*'skip', 'raise'"),
    "a share": ({"BAD_SAMPLE_LIMIT": 10}, r"BAD_SAMPLE_LIMIT is 10; it must be .* from 0 to 1"),
    "no time": ({"LOADER_TIMEOUT": 0}, r"LOADER_TIMEOUT is 0; it must be .*seconds above 0"),
    "size": ({"IMAGE_MAX_DIM": 200}, r"IMAGE_MAX_DIM is 200; it must be divisible by 64"),
    "crop size": (
        {"IMAGE_RESIZE_MODE": "crop", "IMAGE_MIN_DIM": 100},
        r"IMAGE_MIN_DIM is 100; it must be divisible by 64",
    ),
    "pad64 size": (
        {"IMAGE_RESIZE_MODE": "pad64", "IMAGE_MIN_DIM": 100},
        r"IMAGE_MIN_DIM is 100; it must be divisible by 64",
    ),
    "resize mode": ({"IMAGE_RESIZE_MODE": "fit"}, r"IMAGE_RESIZE_MODE is 'fit'.*square, pad64"),
    "mean": ({"IMAGE_CHANNEL_COUNT": 4}, r"MEAN_PIXEL has 3 values, but IMAGE_CHANNEL_COUNT is 4"),
    "scales": ({"RPN_ANCHOR_SCALES": (8, 16)}, r"RPN_ANCHOR_SCALES has 2 values for 5"),
    "mask": ({"MASK_SHAPE": (56, 56)}, r"MASK_SHAPE is \(56, 56\).*\(28, 28\)"),
    "backbone": ({"BACKBONE": "vgg"}, r"BACKBONE is 'vgg'; it must be one of resnet18"),
    "callable": ({"BACKBONE": print}, r"COMPUTE_BACKBONE_SHAPE must be one too"),
    "targets": ({"RPN_TARGETS": "host"}, r"RPN_TARGETS is 'host'.*'device', 'input'"),
    "align": ({"ROI_ALIGN": "pool"}, r"ROI_ALIGN is 'pool'"),
    "batch norm": ({"TRAIN_BN": "yes"}, r"TRAIN_BN is 'yes'"),
    "weights": ({"LOSS_WEIGHTS": {"mask_loss": 1.0}}, r"LOSS_WEIGHTS names mask_loss; the losses"),
}


@pytest.mark.parametrize("what", WRONG)
def test_mistakes(what):
    overrides, message = WRONG[what]
    with pytest.raises(ValueError, match=message):
        Valid(**overrides).validate()


def test_mode():
    with pytest.raises(ValueError, match="mode is 'predict'; it must be 'training' or 'inference'"):
        Valid().validate("predict")


def test_batch_size_is_not_set_by_hand():
    config = Valid(GPU_COUNT=2)
    config.BATCH_SIZE = 3
    with pytest.raises(ValueError, match=r"BATCH_SIZE is 3, but IMAGES_PER_GPU \(2\) x GPU_COUNT"):
        config.validate()


def test_image_shape_set_by_hand():
    config = Valid()
    config.IMAGE_SHAPE = np.array([100, 128, 3])
    with pytest.raises(ValueError, match=r"IMAGE_SHAPE is .*divisible by 64"):
        config.validate()
