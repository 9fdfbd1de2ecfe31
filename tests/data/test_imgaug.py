"""imgaug's own augmenters, on current NumPy and OpenCV. Skipped where imgaug is not installed."""

import numpy as np
import pytest

from mrcnn_parallel.data import augmentation
from mrcnn_parallel.data.load import load_image_gt
from mrcnn_parallel.data.loader import TrainingLoader
from tests.data.synthetic import SyntheticConfig, SyntheticDataset

pytest.importorskip("imgaug", reason="the extra [imgaug] is not installed")
iaa = pytest.importorskip("imgaug.augmenters")

# imgaug's own code warns about NumPy and Python as they are now.
pytestmark = pytest.mark.filterwarnings("ignore")

MOVING = {
    "Fliplr": lambda: iaa.Fliplr(1.0),
    "Flipud": lambda: iaa.Flipud(1.0),
    "Affine": lambda: iaa.Affine(rotate=(20, 40), scale=(0.8, 1.2)),
    "CropAndPad": lambda: iaa.CropAndPad(percent=(0.1, 0.2)),
    "PiecewiseAffine": lambda: iaa.PiecewiseAffine(scale=(0.03, 0.05)),
    "Sequential": lambda: iaa.Sequential([iaa.Fliplr(1.0), iaa.GaussianBlur(2.0)]),
    "SomeOf": lambda: iaa.SomeOf((1, 2), [iaa.Flipud(1.0), iaa.Fliplr(1.0)]),
    "OneOf": lambda: iaa.OneOf([iaa.Affine(rotate=90), iaa.Affine(rotate=180)]),
    "Sometimes": lambda: iaa.Sometimes(1.0, iaa.Fliplr(1.0)),
}
COLOUR = {
    "GaussianBlur": lambda: iaa.GaussianBlur(2.0),
    "Multiply": lambda: iaa.Multiply((0.5, 0.7)),
    "AdditiveGaussianNoise": lambda: iaa.AdditiveGaussianNoise(scale=20),
    "LinearContrast": lambda: iaa.LinearContrast((1.4, 1.5)),
    "CoarseDropout": lambda: iaa.CoarseDropout(0.2, size_percent=0.1),
    "Grayscale": lambda: iaa.Grayscale(1.0),
    "JpegCompression": lambda: iaa.JpegCompression((80, 90)),
    "Fog": lambda: iaa.Fog(),  # needs np.complex
    "PerspectiveTransform": lambda: iaa.PerspectiveTransform((0.1, 0.15)),  # not on the list
}


@pytest.fixture
def sample():
    dataset = SyntheticDataset(1, size=(64, 64), most=3)
    return dataset.load_image(0), dataset.load_mask(0)[0]


@pytest.mark.parametrize("name", MOVING)
def test_what_moves_pixels_moves_the_masks_along(sample, name):
    image, mask = sample
    # Put the masks into the image: what happens to one must then happen to the other.
    image[..., :] = mask.any(axis=2)[..., None] * 200
    new_image, new_mask = augmentation.augment(
        image, mask, MOVING[name](), np.random.default_rng(1)
    )
    assert new_mask.dtype == bool
    assert (new_image != image).any()
    agree = (new_image[..., 0] > 100) == new_mask.any(axis=2)
    assert agree.mean() > 0.97


@pytest.mark.parametrize("name", COLOUR)
def test_everything_else_leaves_the_masks_alone(sample, name):
    image, mask = sample
    new_image, new_mask = augmentation.augment(
        image, mask, COLOUR[name](), np.random.default_rng(1)
    )
    assert (new_image != image).any()
    np.testing.assert_array_equal(new_mask, mask)


def pipeline():
    return iaa.Sequential(
        [
            iaa.Fliplr(0.5),
            iaa.SomeOf((0, 2), [iaa.Affine(rotate=(-30, 30)), iaa.Multiply((0.5, 1.5))]),
        ]
    )


def test_the_generator_decides_everything(sample):
    augmenter = pipeline()
    results = [
        augmentation.augment(*sample, augmenter, np.random.default_rng(seed))
        for seed in (1, 2, 3, 4, 1)
    ]
    np.testing.assert_array_equal(results[0][0], results[4][0])
    np.testing.assert_array_equal(results[0][1], results[4][1])
    assert len({image.tobytes() for image, _ in results}) >= 3  # some seeds change nothing


def test_without_a_generator_each_call_differs(sample):
    augmenter = pipeline()
    images = {augmentation.augment(*sample, augmenter)[0].tobytes() for _ in range(12)}
    assert len(images) > 4


@pytest.mark.parametrize("count", [0, 1, 64, 65, 300])
def test_any_number_of_masks(sample, count):
    image, mask = sample
    masks = np.repeat(mask[..., :1], count, axis=2)
    augmenter = iaa.Sequential([iaa.Fliplr(0.5), iaa.Affine(rotate=(-30, 30))])
    _, new_masks = augmentation.augment(image, masks, augmenter, np.random.default_rng(2))
    assert new_masks.shape == masks.shape
    if count:
        assert (new_masks == new_masks[..., :1]).all()  # all of them by the same amount
        assert (new_masks != masks).any()


def test_load_image_gt_takes_augmenters():
    dataset = SyntheticDataset(1)
    config = SyntheticConfig()
    plain = load_image_gt(dataset, config, 0, use_mini_mask=False)
    flipped = load_image_gt(dataset, config, 0, iaa.Fliplr(1.0), use_mini_mask=False)
    np.testing.assert_array_equal(flipped[0], plain[0][:, ::-1])
    np.testing.assert_array_equal(flipped[4], plain[4][:, ::-1])
    with pytest.raises(ValueError, match="must not change sizes"):
        load_image_gt(dataset, config, 0, iaa.Resize(0.5))


def test_batches_are_reproducible():
    dataset = SyntheticDataset(5)
    first, second = (
        TrainingLoader(dataset, SyntheticConfig(), augmentation=pipeline(), seed=3)
        for _ in range(2)
    )
    batches = [first[i][0] for i in range(4)]
    for i in (3, 1, 0, 2):
        for a, b in zip(batches[i], second[i][0], strict=True):
            np.testing.assert_array_equal(a, b)
