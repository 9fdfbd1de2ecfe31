"""load_image_gt: both mask forms, all resize modes, augmentation, and every kind of bad input."""

import re

import numpy as np
import pytest
from PIL import Image

from mrcnn_parallel.data.geometry import compute_overlaps_masks, extract_bboxes
from mrcnn_parallel.data.image_meta import parse_image_meta
from mrcnn_parallel.data.images import resize_image
from mrcnn_parallel.data.load import check_dataset, describe_image, load_image_gt
from mrcnn_parallel.data.masks import expand_mask, minimize_mask, resize_mask
from mrcnn_parallel.data.sources import check_same_classes
from tests.data.synthetic import SyntheticConfig, SyntheticDataset

MODES = {
    "square": {"IMAGE_MIN_DIM": 96, "IMAGE_MAX_DIM": 128},
    "square, shrinking": {"IMAGE_MIN_DIM": 64, "IMAGE_MAX_DIM": 64},
    "pad64": {"IMAGE_MIN_DIM": 128, "IMAGE_MAX_DIM": 128},
    "crop": {"IMAGE_MIN_DIM": 64, "IMAGE_MAX_DIM": 64, "IMAGE_MIN_SCALE": 1.5},
    "none": {"IMAGE_MAX_DIM": 128},
}


def config(mode="square", **overrides):
    name = mode.partition(",")[0]
    return SyntheticConfig(IMAGE_RESIZE_MODE=name, **{**MODES[mode], **overrides})


@pytest.fixture
def dataset():
    return SyntheticDataset(4, size=(70, 90), empty=(3,))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("image_id", [0, 1, 2, 3])
def test_it_joins_the_pieces(dataset, mode, image_id):
    chosen = config(mode)
    image, meta, class_ids, boxes, masks = load_image_gt(
        dataset, chosen, image_id, use_mini_mask=False, rng=np.random.default_rng(0)
    )
    raw, (raw_masks, raw_ids) = dataset.load_image(image_id), dataset.load_mask(image_id)
    expected, window, scale, padding, crop = resize_image(
        raw,
        chosen.IMAGE_MIN_DIM,
        chosen.IMAGE_MAX_DIM,
        chosen.IMAGE_MIN_SCALE,
        chosen.IMAGE_RESIZE_MODE,
        np.random.default_rng(0),
    )
    np.testing.assert_array_equal(image, expected)
    if image_id == 3:
        assert masks.shape == (*image.shape[:2], 0)
        assert boxes.shape == (0, 4) and class_ids.shape == (0,)
    else:
        expected = resize_mask(raw_masks, scale, padding, crop)
        kept = expected.any(axis=(0, 1))
        np.testing.assert_array_equal(masks, expected[:, :, kept])
        np.testing.assert_array_equal(class_ids, raw_ids[kept])
        np.testing.assert_array_equal(boxes, extract_bboxes(masks))
    assert (masks.dtype, boxes.dtype, class_ids.dtype) == (bool, np.int32, np.int32)
    parsed = parse_image_meta(meta[None])
    assert parsed["image_id"] == image_id
    assert parsed["original_image_shape"].tolist() == [[70, 90, 3]]
    assert parsed["image_shape"].tolist() == [list(image.shape)]
    assert parsed["window"].tolist() == [list(window)]
    assert parsed["scale"] == pytest.approx(scale)
    assert parsed["active_class_ids"].tolist() == [[1, 1, 1, 1]]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("image_id", [0, 1, 2, 3])
def test_mini_masks_are_those_of_the_full_masks(dataset, mode, image_id):
    """Also where they are made without any full mask: see _mini_masks_directly."""
    chosen = config(mode)
    full, mini, slow = (
        load_image_gt(
            dataset,
            chosen,
            image_id,
            augmentation=augmentation,
            use_mini_mask=use_mini_mask,
            rng=np.random.default_rng(5),
        )
        for use_mini_mask, augmentation in (
            (False, None),
            (None, None),
            (True, lambda image, mask, rng: (image, mask)),
        )
    )
    for part in range(4):
        np.testing.assert_array_equal(full[part], mini[part])
        np.testing.assert_array_equal(full[part], slow[part])
    expected = minimize_mask(full[3], full[4], chosen.MINI_MASK_SHAPE)
    np.testing.assert_array_equal(mini[4], expected)
    np.testing.assert_array_equal(slow[4], expected)
    if full[4].shape[2]:
        back = expand_mask(mini[3], mini[4], mini[0].shape)
        assert np.diag(compute_overlaps_masks(back, full[4])).min() > 0.85


def test_the_config_decides_about_mini_masks(dataset):
    *_, mini = load_image_gt(dataset, config(USE_MINI_MASK=True), 0)
    *_, full = load_image_gt(dataset, config(USE_MINI_MASK=False), 0)
    assert mini.shape[:2] == (28, 28)
    assert full.shape[:2] == (128, 128)


def test_instances_that_the_crop_leaves_out_are_dropped():
    data = SyntheticDataset(8, size=(100, 100), most=6)
    chosen = config("crop", IMAGE_MIN_SCALE=2)
    counts = []
    for image_id in data.image_ids:
        *_, class_ids, boxes, masks = load_image_gt(
            data, chosen, image_id, use_mini_mask=False, rng=np.random.default_rng(image_id)
        )
        assert masks.any(axis=(0, 1)).all()
        assert len(class_ids) == len(boxes) == masks.shape[2]
        counts.append(len(data.load_mask(image_id)[1]) - len(class_ids))
    assert max(counts) > 0


@pytest.mark.parametrize("channels", [0, 1, 3, 4])
def test_grey_and_rgba_become_rgb(channels):
    data = SyntheticDataset(1, channels=channels)
    image, meta, *_ = load_image_gt(data, config(), 0)
    assert image.shape == (128, 128, 3)
    assert parse_image_meta(meta[None])["original_image_shape"].tolist() == [[64, 64, 3]]


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_other_channel_counts(channels):
    data = SyntheticDataset(1, channels=channels)
    chosen = config(IMAGE_CHANNEL_COUNT=channels, MEAN_PIXEL=np.zeros(channels))
    image, *_ = load_image_gt(data, chosen, 0)
    assert image.shape == (128, 128, channels)


def test_only_the_sources_own_classes_are_active():
    data = SyntheticDataset(1)
    data.add_class("other", 1, "cube")
    data.prepare()
    _, meta, *_ = load_image_gt(data, config(), 0)
    assert parse_image_meta(meta[None])["active_class_ids"].tolist() == [[1, 1, 1, 1, 0]]


class TestAugmentation:
    def test_image_and_masks_move_together(self, dataset):
        def flip(image, mask, rng):
            return image[::-1], mask[::-1]

        image, _, class_ids, boxes, masks = load_image_gt(
            dataset, config(), 0, flip, use_mini_mask=False
        )
        plain = load_image_gt(dataset, config(), 0, use_mini_mask=False)
        np.testing.assert_array_equal(image, plain[0][::-1])
        np.testing.assert_array_equal(masks, plain[4][::-1])
        np.testing.assert_array_equal(class_ids, plain[2])
        np.testing.assert_array_equal(boxes[:, 0], 128 - plain[3][:, 2])

    def test_what_it_pushes_out_is_dropped(self, dataset):
        def away(image, mask, rng):
            return image, np.zeros_like(mask)

        _, _, class_ids, boxes, masks = load_image_gt(dataset, config(), 0, away)
        assert (len(class_ids), len(boxes), masks.shape[2]) == (0, 0, 0)

    def test_another_size_is_refused(self, dataset):
        with pytest.raises(ValueError, match=r"image 0 .*must not change sizes.*\(128, 128, 3\)"):
            load_image_gt(dataset, config(), 0, lambda image, mask, rng: (image[1:], mask[1:]))

    def test_anything_else_is_refused(self, dataset):
        with pytest.raises(
            ValueError, match="'flip'; it must be an imgaug augmenter or a function"
        ):
            load_image_gt(dataset, config(), 0, augmentation="flip")

    @pytest.mark.parametrize("by_name", [True, False])
    def test_the_old_augment_argument_still_flips(self, dataset, by_name):
        plain = load_image_gt(dataset, config(), 0, use_mini_mask=False)
        flipped = set()
        for seed in range(12):
            rng = np.random.default_rng(seed)
            with pytest.warns(DeprecationWarning, match="pass `augmentation` instead"):
                if by_name:
                    result = load_image_gt(
                        dataset, config(), 0, augment=True, use_mini_mask=False, rng=rng
                    )
                else:
                    result = load_image_gt(dataset, config(), 0, True, False, rng=rng)
            flip = (result[0] != plain[0]).any()
            flipped.add(flip)
            step = -1 if flip else 1
            np.testing.assert_array_equal(result[0], plain[0][:, ::step])
            np.testing.assert_array_equal(result[4], plain[4][:, ::step])
        assert flipped == {True, False}
        same = load_image_gt(dataset, config(), 0, augment=False, use_mini_mask=False)
        np.testing.assert_array_equal(same[0], plain[0])


class Broken(SyntheticDataset):
    """Image 1 is replaced by what the test gives."""

    image = mask = class_ids = None

    def load_image(self, image_id):
        return (
            self.image if image_id == 1 and self.image is not None else super().load_image(image_id)
        )

    def load_mask(self, image_id):
        mask, class_ids = super().load_mask(image_id)
        if image_id == 1:
            mask = mask if self.mask is None else self.mask
            class_ids = class_ids if self.class_ids is None else np.asarray(self.class_ids)
        return mask, class_ids


class TestBadInput:
    NAMED = r"^image 1 \(source 'synthetic', id 'picture-1', seed 0\): "
    MASK = np.ones((64, 64, 2), bool)

    def fails(self, message, **parts):
        data = Broken(3)
        for name, value in parts.items():
            setattr(data, name, value)
        load_image_gt(data, config(), 0)  # the others are well
        with pytest.raises(ValueError, match=self.NAMED + message):
            load_image_gt(data, config(), 1)

    def test_nan(self):
        image = np.zeros((64, 64, 3), np.float32)
        image[0, 0, 0] = np.nan
        self.fails("the image holds NaN or infinite values", image=image)

    def test_not_an_image(self):
        self.fails(r"expected a picture .* got an array of shape \(64,\)", image=np.zeros(64))
        self.fails("expected a picture .* type object", image=np.array([[None]]))
        self.fails(r"the image has shape \(64, 64, 7\)", image=np.zeros((64, 64, 7)))

    def test_mask_of_another_size(self):
        self.fails(
            r"load_mask returned masks of shape \(64, 60, 2\), but the image is 64 x 64 pixels",
            mask=np.ones((64, 60, 2)),
            class_ids=[1, 2],
        )

    def test_mask_without_instance_axis(self):
        self.fails(r"load_mask returned masks of shape \(64, 64\)", mask=np.ones((64, 64)))

    def test_more_masks_than_class_ids(self):
        self.fails(
            r"load_mask returned 2 masks and class ids of shape \(1,\)",
            mask=self.MASK,
            class_ids=[1],
        )

    @pytest.mark.parametrize("bad", [4, -4, 0, 99, 1.5, np.nan])
    def test_class_id_out_of_range(self, bad):
        self.fails(
            re.escape(f"class id {bad} is out of range; ids of instances are 1 to 3"),
            mask=self.MASK,
            class_ids=[1, bad],
        )

    def test_class_names_for_ids(self):
        self.fails("class id disc is out of range", mask=self.MASK, class_ids=["disc", "square"])

    def test_nan_in_a_mask(self):
        self.fails("a mask holds NaN", mask=np.full((64, 64, 1), np.nan, np.float32), class_ids=[1])

    def test_crowds_are_allowed(self):
        data = Broken(3)
        data.mask, data.class_ids = self.MASK, np.array([-3, 1])
        assert load_image_gt(data, config(), 1)[2].tolist() == [-3, 1]

    def test_an_unknown_image(self):
        with pytest.raises(ValueError, match="the dataset has no image 7; it has 3 images"):
            load_image_gt(Broken(3), config(), 7)

    def test_the_datasets_own_errors_are_told_where(self):
        class Burning(SyntheticDataset):
            def load_mask(self, image_id):
                raise KeyError("polygons")

        with pytest.raises(KeyError, match="polygons") as caught:
            load_image_gt(Burning(3), config(), 1)
        assert caught.value.__notes__ == [f"while loading {describe_image(Burning(3), 1)}"]

    def test_a_damaged_file(self, tmp_path):
        path = tmp_path / "a.png"
        Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(path)
        path.write_bytes(path.read_bytes()[:50])
        data = SyntheticDataset(0)
        data.add_image("synthetic", "x", str(path))
        data.prepare()
        data.load_image = super(SyntheticDataset, data).load_image
        with pytest.raises(ValueError, match=r"a\.png cannot be read") as caught:
            load_image_gt(data, config(), 0)
        assert (
            f"while loading image 0 (source 'synthetic', id 'x', {path})" in caught.value.__notes__
        )


class TestCheckDataset:
    def test_a_good_one_passes(self, dataset):
        check_dataset(dataset, config())

    def test_no_images(self):
        with pytest.raises(ValueError, match=r"val_dataset \(SyntheticDataset\) has no images"):
            check_dataset(SyntheticDataset(0), config(), "val_dataset")

    def test_not_prepared(self):
        data = SyntheticDataset(0)
        data.add_image("synthetic", 1, None)
        with pytest.raises(ValueError, match=r"is not ready; call its prepare\(\) first"):
            check_dataset(data, config())

    def test_another_number_of_classes(self, dataset):
        with pytest.raises(ValueError, match=r"has 4 classes .* config\.NUM_CLASSES is 3"):
            check_dataset(dataset, config(NUM_CLASSES=3))

    def test_a_source_without_classes(self, dataset):
        dataset.add_image("holidays", "h1", "/h1.jpg")
        dataset.prepare()
        with pytest.raises(
            ValueError, match=r"image 4 \(source 'holidays', id 'h1', /h1.jpg\).*\['synthetic'\]"
        ):
            check_dataset(dataset, config())


def test_class_numbers_must_mean_the_same():
    ours, theirs = SyntheticDataset(1), SyntheticDataset(1)
    check_same_classes(ours, theirs)
    first, second = theirs.class_names[1:3]
    theirs.class_names[1:3] = [second, first]
    expected = f"class 1 is '{first}' in train_dataset and '{second}' in val_dataset"
    with pytest.raises(ValueError, match=expected):
        check_same_classes(ours, theirs)
