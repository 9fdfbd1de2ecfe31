"""augmentation="default": geometry, colours, copy-paste, what is dropped, and reproducibility."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrcnn_parallel.data import copy_paste, placed, warp
from mrcnn_parallel.data.default_augmentation import DefaultAugmentation
from mrcnn_parallel.data.geometry import extract_bboxes
from mrcnn_parallel.data.load import load_image_gt
from mrcnn_parallel.data.loader import TrainingLoader
from mrcnn_parallel.data.placed import Placed
from mrcnn_parallel.data.sources import Bitmap
from tests.data.outlined import OutlinedDataset
from tests.data.synthetic import SyntheticConfig, SyntheticDataset

STILL = DefaultAugmentation(
    flip_left_right=0, scale=(1, 1), affine=0, colour=0, blur=0, copy_paste=0, min_side=1
)
KINDS = ("polygon", "mask", "two polygons", "rle", "crowd")


def config(**overrides):
    fields = {"IMAGE_MIN_DIM": 192, "IMAGE_MAX_DIM": 256, "MAX_GT_INSTANCES": 30}
    return SyntheticConfig(**{**fields, **overrides})


def but(**fields):
    return dataclasses.replace(STILL, **fields)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("augmented")


@pytest.fixture(scope="module")
def datasets(folder):
    return {
        "outlines": OutlinedDataset(folder, 6, ((96, 128), (128, 90)), 5, seed=1, kinds=KINDS),
        "load_mask": SyntheticDataset(6, size=(70, 90)),
    }


def load(dataset, augmentation, image_id=0, seed=0, mini=True, **fields):
    return load_image_gt(
        dataset,
        config(**fields),
        image_id,
        augmentation,
        use_mini_mask=mini,
        rng=np.random.default_rng(seed),
    )


def iou(first, second):
    union = (first | second).sum(axis=(0, 1))
    return (first & second).sum(axis=(0, 1)) / np.maximum(union, 1)


@pytest.mark.parametrize("kind", ["outlines", "load_mask"])
class TestBothPaths:
    @pytest.mark.parametrize("seed", range(4))
    def test_boxes_enclose_the_masks_and_nothing_else(self, datasets, kind, seed):
        for image_id in datasets[kind].image_ids:
            found = load(datasets[kind], "default", image_id, seed, mini=False)
            image, meta, class_ids, boxes, masks = found
            assert image.shape == (256, 256, 3) and image.dtype == np.uint8
            assert masks.dtype == bool and masks.shape == (256, 256, len(class_ids))
            np.testing.assert_array_equal(boxes, extract_bboxes(masks))
            assert class_ids.dtype == np.int32 and (class_ids != 0).all()
            single = boxes[class_ids > 0]
            assert ((single[:, 2:] - single[:, :2]) >= 2).all()
            assert meta.shape == (12 + 4,)

    def test_mini_masks_are_those_of_the_full_ones(self, datasets, kind):
        from mrcnn_parallel.data.masks import minimize_mask

        overlaps = []
        for image_id in datasets[kind].image_ids:
            *_, boxes, full = load(datasets[kind], "default", image_id, 3, mini=False)
            *_, same_boxes, mini = load(datasets[kind], "default", image_id, 3)
            np.testing.assert_array_equal(boxes, same_boxes)
            overlaps.extend(iou(mini, minimize_mask(boxes, full, (28, 28))))
        assert np.mean(overlaps) > 0.93

    def test_the_generator_decides_everything(self, datasets, kind):
        strong = DefaultAugmentation(affine=0.5, blur=0.5, copy_paste=0.7)
        first, second, other = (load(datasets[kind], strong, 1, seed) for seed in (3, 3, 4))
        for a, b in zip(first, second, strict=True):
            np.testing.assert_array_equal(a, b)
        assert (first[0] != other[0]).any()

    def test_workers_and_order_do_not_matter(self, datasets, kind):
        def loader(workers):
            return TrainingLoader(
                datasets[kind], config(), seed=9, workers=workers, augmentation="default"
            )

        alone = loader(0)
        batches = {index: alone[index][0] for index in (5, 0, 3, 1, 2, 4)}
        for workers in (1, 4):
            threaded = loader(workers)
            for index in range(6):
                for a, b in zip(threaded[index][0], batches[index], strict=True):
                    np.testing.assert_array_equal(a, b)
            threaded.close()

    def test_flips_are_exact(self, datasets, kind):
        for image_id in datasets[kind].image_ids[:3]:
            plain = load(datasets[kind], STILL, image_id, mini=False)
            for fields, axis in (({"flip_left_right": 1}, 1), ({"flip_up_down": 1}, 0)):
                flipped = load(datasets[kind], but(**fields), image_id, mini=False)
                picture = np.flip(plain[4].any(axis=2), axis)
                covered = flipped[4].any(axis=2)
                # The position in the free space is drawn, not mirrored: compare what is shown.
                a, b = _shown(plain[0]), _shown(flipped[0])
                difference = abs(np.flip(plain[0][a], axis).astype(int) - flipped[0][b])
                assert difference.max() <= 1
                assert picture.sum() == pytest.approx(covered.sum(), rel=0.02)
                np.testing.assert_array_equal(plain[2], flipped[2])

    def test_when_nothing_is_drawn_it_is_the_plain_image_somewhere(self, datasets, kind):
        plain = load(datasets[kind], None, 2, mini=False)
        still = load(datasets[kind], STILL, 2, mini=False)
        a, b = _shown(plain[0]), _shown(still[0])
        inner = (slice(2, -2), slice(2, -2))  # scikit-image's edges are darker
        difference = plain[0][a][inner].astype(int) - still[0][b][inner]
        assert abs(difference).max() <= 1
        np.testing.assert_array_equal(plain[2], still[2])
        assert (iou(plain[4][a], still[4][b]) > 0.9).all()


def _shown(image):
    rows, cols = (np.flatnonzero(image.any(axis=2).any(axis=axis)) for axis in (1, 0))
    return slice(rows[0], rows[-1] + 1), slice(cols[0], cols[-1] + 1)


class TestWarp:
    @settings(deadline=None, max_examples=60)
    @given(
        st.tuples(st.integers(5, 90), st.integers(5, 90)),
        st.floats(0.3, 4),
        st.tuples(st.floats(0, 1), st.floats(0, 1)),
        st.tuples(st.booleans(), st.booleans()),
    )
    def test_the_matrix_says_where_pixels_go(self, size, scale, position, flips):
        """A smooth ramp: the value at a place tells which place of the source it was."""
        made = warp.straight_warp(size, (64, 80), scale, position, flips)
        y, x = np.mgrid[: size[0], : size[1]].astype(np.float32) + 0.5
        moved = made.image(np.stack([x, y, np.ones_like(x)], axis=-1))
        inside = moved[..., 2] > 0.99
        assert inside.any()
        rows, cols = np.nonzero(inside)
        back = np.linalg.inv(np.vstack([made.matrix, [0, 0, 1]]))
        expected = back @ np.stack([cols + 0.5, rows + 0.5, np.ones(len(rows))])
        # OpenCV repeats the outermost pixel's value, so half a pixel is cut off at the edges.
        expected[0] = np.clip(expected[0], made.taken[1] + 0.5, made.taken[3] - 0.5)
        expected[1] = np.clip(expected[1], made.taken[0] + 0.5, made.taken[2] - 0.5)
        np.testing.assert_allclose(moved[inside][:, 0], expected[0], atol=0.02)
        np.testing.assert_allclose(moved[inside][:, 1], expected[1], atol=0.02)

    @pytest.mark.parametrize("seed", range(5))
    def test_the_matrix_of_an_affine_one(self, seed):
        rng = np.random.default_rng(seed)
        made = warp.straight_warp((60, 80), (100, 100), 1.3, rng.random(2), (bool(seed % 2), False))
        made = warp.turned(made, rng.uniform(-20, 20), rng.uniform(-0.2, 0.2), 1.1)
        y, x = np.mgrid[:60, :80].astype(np.float32) + 0.5
        moved = made.image(np.stack([x, y, np.ones_like(x)], axis=-1))
        inside = moved[..., 2] > 0.999
        rows, cols = np.nonzero(inside)
        back = np.linalg.inv(np.vstack([made.matrix, [0, 0, 1]]))
        expected = back @ np.stack([cols + 0.5, rows + 0.5, np.ones(len(rows))])
        np.testing.assert_allclose(moved[inside][:, :2].T, expected[:2], atol=0.1)
        assert len(rows) > 3000

    def test_a_bitmap_and_a_polygon_of_the_same_square_stay_together(self):
        from mrcnn_parallel.data import polygons

        made = warp.turned(warp.straight_warp((60, 80), (128, 128), 2, (0.3, 0.6), (1, 0)), 12, 0.1)
        square = np.array([[20.0, 10], [50, 10], [50, 40], [20, 40]])
        bitmap, area = made.bitmap(Bitmap(np.ones((30, 30), bool), 10, 20), (1, 1))
        moved = square @ made.matrix[:, :2].T + made.matrix[:, 2]
        height, width = bitmap.mask.shape
        box = (bitmap.y, bitmap.x, bitmap.y + height, bitmap.x + width)
        drawn = polygons.box_mask([moved], box)
        assert iou(drawn[..., None], bitmap.mask[..., None])[0] > 0.97
        assert area == pytest.approx(drawn.sum(), rel=0.03)

    @pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
    def test_colours_are_turned_as_each_channel_by_itself(self, dtype):
        image = np.random.default_rng(0).integers(0, 256, (60, 80, 3)).astype(dtype)
        made = warp.turned(warp.straight_warp((60, 80), (90, 100), 1.4, (0.3, 0.6), (1, 0)), 7, 0)
        out = np.full((90, 100, 3), 5, dtype)
        assert made.image(image, out) is out
        alone = [made.image(np.ascontiguousarray(image[..., c : c + 1])) for c in range(3)]
        difference = out.astype(float) - np.concatenate(alone, axis=2)
        assert abs(difference).max() <= 1 and (out == 0).any()

    def test_any_channels_and_types(self):
        for channels, dtype in ((1, np.uint8), (5, np.float32), (2, np.uint16)):
            image = np.ones((20, 30, channels), dtype)
            made = warp.straight_warp((20, 30), (40, 40), 1.0, (0, 0), (True, False))
            for one in (made, warp.turned(made, 5, 0)):
                result = one.image(image)
                assert result.shape == (40, 40, channels) and result.dtype == dtype
                assert result[8, 15].tolist() == [1] * channels


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("dtype", ["uint8", "float64", "uint16"])
def test_any_image_type(channels, dtype):
    data = SyntheticDataset(2, channels=channels, dtype=dtype)
    chosen = {"IMAGE_CHANNEL_COUNT": channels, "MEAN_PIXEL": np.zeros(channels)}
    strong = DefaultAugmentation(affine=1, blur=1, colour=1, copy_paste=1)
    image, *_ = load(data, strong, 0, 2, **chosen)
    assert image.shape == (256, 256, channels) and image.dtype == dtype


class TestColours:
    IMAGE = np.random.default_rng(0).integers(60, 180, (20, 30, 3), dtype=np.uint8)

    def changed(self, seed=0, **fields):
        nothing = {"brightness": 0, "contrast": 0, "saturation": 0, "hue": 0}
        chosen = but(colour=1, **{**nothing, **fields})
        return chosen.change_colours(self.IMAGE, np.random.default_rng(seed)).astype(float)

    def test_nothing(self):
        assert abs(self.changed() - self.IMAGE).max() <= 1

    def test_brightness_is_a_factor(self):
        ratio = self.changed(brightness=0.2) / self.IMAGE
        assert ratio.std() < 0.01 and 0.8 <= ratio.mean() <= 1.2 and abs(ratio.mean() - 1) > 0.01

    def test_contrast_keeps_the_mean(self):
        result = self.changed(contrast=0.2)
        assert result.mean() == pytest.approx(self.IMAGE.mean(), abs=1)
        assert abs(result.std() / self.IMAGE.std() - 1) > 0.01

    def test_saturation_and_hue_keep_grey(self):
        for fields in ({"saturation": 0.3}, {"hue": 10.0}):
            result = self.changed(**fields)
            grey = self.IMAGE.mean(axis=2, dtype=float)
            np.testing.assert_allclose(result.mean(axis=2), grey, atol=1)
            assert abs(result - self.IMAGE).max() > 2

    def test_blur_smooths_and_the_argument_is_left_alone(self):
        before = self.IMAGE.copy()
        result = but(blur=1, blur_sigma=3.0).change_colours(self.IMAGE, np.random.default_rng(0))
        assert result.std() < 0.8 * self.IMAGE.std()
        np.testing.assert_array_equal(self.IMAGE, before)


class Square(SyntheticDataset):
    """One square near the left edge of each 64 x 64 image; a crowd where `crowd`."""

    crowd = False

    def load_polygons(self, image_id):
        square = np.array([[0.0, 20], [16, 20], [16, 44], [0, 44]])
        return [[square]], np.array([-1 if self.crowd else 1])


class TestDropped:
    def count(self, dataset, **fields):
        """Of 40 draws, in how many the square is there, and the smallest share of it."""
        there, areas = 0, []
        for seed in range(40):
            rng = np.random.default_rng(seed)
            made = warp.straight_warp((64, 64), (64, 64), 2.0, (0.5, rng.random()), (False, False))
            source = _source(dataset)
            objects = placed.place(source, made, (1, 1), *fields.values())
            there += len(objects)
            areas += [thing.mask().sum() / (32 * 48) for thing in objects]
        return there, min(areas)

    def test_what_is_hardly_visible(self):
        some, smallest = self.count(Square(1), min_visible=0.3, min_side=2)
        more, least = self.count(Square(1), min_visible=0.0, min_side=1)
        assert 0 < some < more < 40
        assert smallest >= 0.29 and least < 0.29

    def test_crowds_stay_while_a_pixel_shows(self):
        crowd = Square(1)
        crowd.crowd = True
        assert (
            self.count(crowd, min_visible=0.3, min_side=20)[0]
            == self.count(Square(1), min_visible=0.0, min_side=0)[0]
        )

    def test_a_crop_is_drawn_anew_while_it_shows_no_object(self):
        far = DefaultAugmentation(scale=(3, 3), affine=0)
        shown = dict.fromkeys((True, False), 0)
        for seed in range(60):
            for again in shown:
                centre = np.array([[8.0, 32]]) if again else np.zeros((0, 2))
                made = far.draw_warp(np.random.default_rng(seed), (64, 64), (64, 64), 1, centre)
                x, y = made.matrix[:, :2] @ (8.0, 32) + made.matrix[:, 2]
                shown[again] += 0 <= x < 64 and 0 <= y < 64
        assert shown[True] > 1.5 * shown[False]


def _source(dataset):
    from mrcnn_parallel.data.sources import read_source

    return read_source(dataset, config(), 0, "image 0")


class TestCopyPaste:
    @pytest.mark.parametrize("dtype", ["uint8", "float32", "int32"])
    @pytest.mark.parametrize("channels", [1, 3, 5])
    def test_only_the_masks_pixels_are_copied(self, dtype, channels):
        rng = np.random.default_rng(0)
        image, donor = (rng.integers(0, 99, (30, 40, channels)).astype(dtype) for _ in range(2))
        mask = rng.random((10, 12)) < 0.5
        expected = image.copy()
        expected[5:15, 7:19][mask] = donor[5:15, 7:19][mask]
        copy_paste.paste(image, [], donor, [Placed(1, (5, 7, 15, 19), None, mask)], 0.1, 2)
        np.testing.assert_array_equal(image, expected)

    def test_pasted_objects_cover_those_beneath(self):
        full = np.ones((10, 10), bool)
        beneath = [
            Placed(1, (0, 0, 10, 10), None, full),  # its right half is covered
            Placed(2, (2, 6, 8, 9), None, full[:6, :3]),  # wholly covered
            Placed(3, (20, 20, 30, 30), [np.array([[20.0, 20], [30, 20], [30, 30]])], None),
        ]
        pasted = Placed(3, (0, 5, 10, 15), None, full)
        image, donor = np.zeros((40, 40, 3), np.uint8), np.full((40, 40, 3), 9, np.uint8)
        objects = copy_paste.paste(image, beneath, donor, [pasted], 0.1, 2)
        assert [thing.class_id for thing in objects] == [1, 3, 3]
        assert objects[0].box == (0, 0, 10, 5) and objects[0].mask().all()
        assert objects[1] is beneath[2] and objects[2] is pasted
        assert (image[:10, 5:15] == 9).all() and image.sum() == 100 * 3 * 9

    def test_masks_do_not_overlap_pasted_ones(self, datasets):
        dataset = datasets["outlines"]
        pasting = DefaultAugmentation(copy_paste=1, affine=0)
        counts = set()
        for seed in range(6):
            *_, class_ids, boxes, masks = load(dataset, pasting, 1, seed, mini=False)
            np.testing.assert_array_equal(boxes, extract_bboxes(masks))
            without = load(dataset, but(copy_paste=0), 1, seed)
            counts.add(len(class_ids) - len(without[2]))
            assert not (masks[..., :-1] & masks[..., -1:]).any()
        assert max(counts) > 0

    def test_only_objects_of_the_same_source_are_pasted(self, folder):
        second = SyntheticDataset(1)
        second.add_class("other", 1, "cube")
        second.add_image("other", "alone", None)
        second.prepare()
        pasting = but(copy_paste=1)
        for seed in range(6):
            class_ids = load(second, pasting, 1, seed)[2]
            assert (np.abs(class_ids) <= 4).all()
            plain = load(second, STILL, 1, seed)[2]
            np.testing.assert_array_equal(class_ids, plain)  # there is no other image to take from

    def test_crowds_are_not_pasted(self):
        crowd = Placed(-1, (0, 0, 5, 5), None, np.ones((5, 5), bool))
        assert copy_paste.choose([crowd], 3, np.random.default_rng(0)) == []

    def test_a_broken_donor_names_both_images(self):
        class OneBroken(SyntheticDataset):
            def load_mask(self, image_id):
                if image_id == 1:
                    raise OSError("torn")
                return super().load_mask(image_id)

        with pytest.raises(OSError, match="torn") as caught:
            for seed in range(9):
                load(OneBroken(2), but(copy_paste=1), 0, seed)
        notes = " ".join(caught.value.__notes__)
        assert "while loading image 1" in notes and "to paste into image 0" in notes


def test_large_jpegs_are_decoded_smaller(folder, monkeypatch):
    import cv2

    dataset = OutlinedDataset(folder, 1, ((960, 1280),), 3, seed=4)
    seen = []
    decode = cv2.imdecode

    def watched(data, flags):
        seen.append(decode(data, flags))
        return seen[-1]

    monkeypatch.setattr(cv2, "imdecode", watched)
    chosen = but(scale=(1, 1), min_side=1)
    image, *_, masks = load(dataset, chosen, mini=False)  # 1280 -> 256
    assert seen[-1].shape[:2] == (240, 320)
    monkeypatch.undo()
    plain = load(dataset, None, mini=False)
    a, b = _shown(plain[0]), _shown(image)
    assert (iou(plain[4][a], masks[b]) > 0.93).all()
    difference = plain[0][a][2:-2, 2:-2].mean(axis=(0, 1)) - image[b][2:-2, 2:-2].mean(axis=(0, 1))
    assert abs(difference).max() < 3


@pytest.mark.parametrize(
    ("field", "value"),
    [("flip_left_right", 1.5), ("scale", (2, 1)), ("rotate", -1), ("min_visible", 2)],
)
def test_fields_out_of_range(field, value):
    with pytest.raises(ValueError, match=f"DefaultAugmentation.{field} is .* must be"):
        DefaultAugmentation(**{field: value})
