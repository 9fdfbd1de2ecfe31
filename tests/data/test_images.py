"""Images: resizing against the goldens and scikit-image, reading, checking, molding."""

import json
import random

import numpy as np
import pytest
import skimage.transform
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mrcnn_parallel.config import Config
from mrcnn_parallel.data import images
from mrcnn_parallel.data.masks import resize_mask
from tests.helpers import golden, unpack

GOLDEN = golden("utils")
RESIZES = sorted(
    key.removesuffix("_meta")
    for key in GOLDEN.files
    if key.startswith("resize_") and key.endswith("_meta")
)


def test_there_are_goldens_of_every_mode():
    modes = {json.loads(str(GOLDEN[f"{name}_meta"]))["kwargs"]["mode"] for name in RESIZES}
    assert modes == {"none", "square", "pad64", "crop"}


@pytest.mark.parametrize("name", RESIZES)
def test_resize_image_and_mask_as_in_the_golden(name):
    expected = json.loads(str(GOLDEN[f"{name}_meta"]))
    random.seed(42)  # where the golden's crop comes from
    image, window, scale, padding, crop = images.resize_image(GOLDEN["img"], **expected["kwargs"])
    assert str(image.dtype) == expected["dtype"]
    assert list(window) == expected["window"]
    assert scale == expected["scale"]
    assert [list(pair) for pair in padding] == expected["padding"]
    assert (crop and list(crop)) == expected["crop"]
    assert image.shape == GOLDEN[f"{name}_img"].shape
    difference = np.abs(image.astype(int) - GOLDEN[f"{name}_img"])
    assert difference.max() <= 1
    mask = resize_mask(unpack(GOLDEN, "mask_in", GOLDEN["mask_in_shape"]), scale, padding, crop)
    assert mask.dtype == bool
    np.testing.assert_array_equal(
        mask, unpack(GOLDEN, f"{name}_mask", GOLDEN[f"{name}_mask_shape"])
    )


@settings(deadline=None, max_examples=80)
@given(
    st.integers(1, 70),
    st.integers(1, 70),
    st.integers(1, 90),
    st.integers(1, 90),
    st.sampled_from([1, 3, 4]),
    st.integers(0, 200),
    st.integers(0, 2**31),
)
def test_resampling_is_within_one_grey_level_of_scikit_image(
    h, w, height, width, channels, low, seed
):
    image = np.random.default_rng(seed).integers(low, 256, (h, w, channels)).astype(np.uint8)
    ours = images.resample(image, height, width).astype(int)
    theirs = images.resize(image, (height, width), preserve_range=True).astype(np.uint8).astype(int)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= 1


def test_the_edge_is_clipped_to_the_darkest_pixel_wherever_it_is():
    image = np.full((48, 32, 3), 200, np.uint8)
    image[5, 7] = 190  # in a row that a quick look leaves out
    ours = images.resample(image, 480, 320)
    theirs = images.resize(image, (480, 320), preserve_range=True)
    assert ours.min() == 190
    assert np.abs(ours - theirs).max() <= 1


@pytest.mark.parametrize("mode", ["none", "square", "pad64", "crop"])
@pytest.mark.parametrize("size", [(50, 70), (300, 200), (640, 640)])
def test_config_scale_is_that_of_the_plan(mode, size):
    chosen = Config(IMAGE_RESIZE_MODE=mode, IMAGE_MIN_DIM=192, IMAGE_MAX_DIM=256)
    plan = images.config_plan(chosen, size, np.random.default_rng(0))
    assert images.config_scale(chosen, size) == plan.scale


def test_float_images_are_resampled_without_rounding():
    image = np.random.default_rng(0).random((20, 30, 3)).astype(np.float32)
    ours, *_ = images.resize_image(image, min_dim=50, max_dim=100, mode="square")
    theirs = skimage.transform.resize(
        image, (50, 75), order=1, mode="constant", anti_aliasing=False
    )
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours[25:75, 12:87], theirs, atol=1e-5)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(8, 90),
    st.integers(8, 90),
    st.sampled_from(["square", "pad64", "crop", "none"]),
    st.sampled_from([None, 64]),
    st.sampled_from([None, 1.5]),
    st.integers(0, 2**31),
)
def test_the_window_holds_the_picture_and_nothing_else(h, w, mode, min_dim, min_scale, seed):
    min_dim = 64 if mode == "crop" else min_dim
    image = np.full((h, w, 3), 200, np.uint8)
    resized, window, scale, padding, crop = images.resize_image(
        image, min_dim, 128, min_scale, mode, rng=np.random.default_rng(seed)
    )
    y1, x1, y2, x2 = window
    inside = np.zeros(resized.shape[:2], bool)
    inside[y1:y2, x1:x2] = True
    np.testing.assert_array_equal((resized > 0).all(axis=2), inside)
    mask = resize_mask(np.ones((h, w, 2), bool), scale, padding, crop)
    np.testing.assert_array_equal(mask, np.repeat(inside[..., None], 2, axis=2))
    if mode == "square":
        assert resized.shape == (128, 128, 3)
    if mode == "pad64":
        assert resized.shape[0] % 64 == resized.shape[1] % 64 == 0
    if mode == "crop":
        assert resized.shape == (64, 64, 3)
        assert crop[0] + 64 <= round(h * scale) and crop[1] + 64 <= round(w * scale)


def test_crops_come_from_the_generator_that_is_given():
    image = np.arange(90 * 90 * 3).reshape(90, 90, 3).astype(np.uint8)
    crops = {
        images.resize_image(image, 64, mode="crop", rng=np.random.default_rng(seed))[4]
        for seed in (1, 1, 2, 3, 4)
    }
    assert len(crops) == 4
    first = images.resize_image(image, 64, mode="crop", rng=np.random.default_rng(1))
    y, x, height, width = first[4]
    np.testing.assert_array_equal(first[0], image[y : y + height, x : x + width])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "stretch"}, "'stretch' is unknown"),
        ({"mode": "square"}, "needs max_dim"),
        ({"mode": "crop"}, "needs min_dim"),
        ({"mode": "pad64", "min_dim": 100}, "divisible by 64, got 100"),
    ],
)
def test_impossible_resizing_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        images.resize_image(np.zeros((50, 50, 3), np.uint8), **arguments)


def test_resize_takes_bools_and_does_not_blur():
    mask = np.eye(8, dtype=bool)
    np.testing.assert_array_equal(
        images.resize(mask, (4, 4)),
        skimage.transform.resize(
            mask.astype(float), (4, 4), order=1, mode="constant", anti_aliasing=False
        ),
    )
    assert images.resize(mask, (16, 16), order=0).dtype == bool


class TestReadImage:
    RGB = np.random.default_rng(0).integers(0, 256, (12, 17, 3)).astype(np.uint8)

    def save(self, tmp_path, array, name="a.png", mode=None):
        path = tmp_path / name
        picture = Image.fromarray(array)
        (picture.convert(mode) if mode else picture).save(path)
        return path

    @pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif"])
    def test_rgb(self, tmp_path, name):
        image = images.read_image(self.save(tmp_path, self.RGB, name))
        assert image.flags.writeable
        np.testing.assert_array_equal(image, self.RGB)

    @pytest.mark.parametrize("name", ["a.png", "a.tif"])
    def test_grey_becomes_rgb(self, tmp_path, name):
        grey = self.RGB[..., 0].copy()
        image = images.read_image(self.save(tmp_path, grey, name))
        np.testing.assert_array_equal(image, np.stack([grey] * 3, axis=-1))

    def test_alpha_is_dropped(self, tmp_path):
        rgba = np.dstack([self.RGB, np.arange(12 * 17).reshape(12, 17).astype(np.uint8)])
        np.testing.assert_array_equal(images.read_image(self.save(tmp_path, rgba)), self.RGB)

    @pytest.mark.parametrize("mode", ["P", "1", "CMYK", "LA"])
    def test_other_modes_become_rgb(self, tmp_path, mode):
        path = self.save(tmp_path, self.RGB, "a.tif" if mode == "CMYK" else "a.png", mode)
        if mode == "CMYK":
            path = path.rename(tmp_path / "a.jpg")
            Image.fromarray(self.RGB).convert("CMYK").save(path)
        image = images.read_image(path)
        assert image.shape == (12, 17, 3)
        assert image.dtype == np.uint8
        with Image.open(path) as picture:
            np.testing.assert_array_equal(image, np.asarray(picture.convert("RGB")))

    def test_sixteen_bits_stay(self, tmp_path):
        deep = np.arange(12 * 17, dtype=np.uint16).reshape(12, 17) * 300
        image = images.read_image(self.save(tmp_path, deep))
        np.testing.assert_array_equal(image, np.stack([deep] * 3, axis=-1))

    def test_a_missing_file_is_named(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"nothing\.png does not exist"):
            images.read_image(tmp_path / "nothing.png")

    @pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif"])
    @pytest.mark.parametrize("keep", [0, 20, 100])
    def test_a_damaged_file_is_named(self, tmp_path, name, keep):
        path = self.save(tmp_path, np.repeat(self.RGB, 4, axis=0), name)
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(ValueError, match=rf"{name} cannot be read"):
            images.read_image(path)


class TestCheckImage:
    CONFIG = Config(NUM_CLASSES=2)

    @pytest.mark.parametrize("shape", [(5, 6), (5, 6, 1), (5, 6, 2), (5, 6, 3), (5, 6, 4)])
    def test_grey_and_alpha_become_rgb(self, shape):
        image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
        checked = images.check_image(image, self.CONFIG)
        assert checked.shape == (5, 6, 3)
        grey = len(shape) == 2 or shape[2] < 3
        first = image if len(shape) == 2 else image[..., 0]
        expected = np.stack([first] * 3, axis=-1) if grey else image[..., :3]
        np.testing.assert_array_equal(checked, expected)

    def test_one_channel_where_one_is_asked_for(self):
        config = Config(NUM_CLASSES=2, IMAGE_CHANNEL_COUNT=1, MEAN_PIXEL=np.array([100.0]))
        assert images.check_image(np.zeros((5, 6)), config).shape == (5, 6, 1)
        with pytest.raises(ValueError, match=r"the photo: .*\(5, 6, 3\).*width, 1\)"):
            images.check_image(np.zeros((5, 6, 3)), config, "the photo")

    def test_five_channels_where_five_are_asked_for(self):
        config = Config(NUM_CLASSES=2, IMAGE_CHANNEL_COUNT=5, MEAN_PIXEL=np.zeros(5))
        assert images.check_image(np.zeros((5, 6, 5)), config).shape == (5, 6, 5)
        with pytest.raises(ValueError, match=r"width, 5\)"):
            images.check_image(np.zeros((5, 6, 3)), config)

    def test_bools_become_black_and_white(self):
        checked = images.check_image(np.eye(3, dtype=bool), self.CONFIG)
        assert checked.dtype == np.uint8
        assert sorted(np.unique(checked)) == [0, 255]

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_nan_and_infinity_are_refused(self, value):
        image = np.zeros((5, 6, 3), np.float32)
        image[2, 3, 1] = value
        with pytest.raises(ValueError, match="image 4: the image holds NaN or infinite values"):
            images.check_image(image, self.CONFIG, "image 4")

    @pytest.mark.parametrize(
        "image",
        [np.zeros((0, 5, 3)), np.zeros(5), np.zeros((1, 5, 5, 3)), np.array([["a"]]), None],
    )
    def test_what_is_no_picture_is_refused(self, image):
        with pytest.raises(ValueError, match="image 4: expected a picture of shape"):
            images.check_image(image, self.CONFIG, "image 4")


def test_mold_and_unmold_as_in_the_golden():
    config = Config(NUM_CLASSES=2)
    molded = images.mold_image(GOLDEN["img"][:8, :8], config)
    assert molded.dtype == np.float32
    np.testing.assert_allclose(molded, GOLDEN["mold"], atol=1e-5)  # float32 of up to 255
    unmolded = images.unmold_image(GOLDEN["mold"], config)
    assert unmolded.dtype == np.uint8
    np.testing.assert_array_equal(unmolded, GOLDEN["unmold"])


def test_unmold_undoes_mold_for_every_grey_level():
    config = Config(NUM_CLASSES=2)
    image = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)[None]
    np.testing.assert_array_equal(
        images.unmold_image(images.mold_image(image, config), config), image
    )
    assert images.unmold_image(np.array([[[-500.0, 0, 500.0]]]), config).tolist() == [
        [[0, 117, 255]]
    ]
