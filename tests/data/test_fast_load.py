"""The path from JPEG bytes and polygons: what it gives beside the general path, and its choice."""

import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mrcnn_parallel.data import fast_load, segments, sources
from mrcnn_parallel.data.decode import read_jpeg
from mrcnn_parallel.data.geometry import extract_bboxes
from mrcnn_parallel.data.images import read_image
from mrcnn_parallel.data.load import load_image_gt
from mrcnn_parallel.data.masks import expand_mask, minimize_mask
from tests.data.outlined import OutlinedDataset, blob, texture
from tests.data.synthetic import SyntheticConfig, SyntheticDataset

KINDS = ("polygon", "mask", "two polygons", "rle", "crowd")
MODES = {
    "square, enlarging": {"IMAGE_MIN_DIM": 192, "IMAGE_MAX_DIM": 256},
    "square, shrinking": {"IMAGE_MIN_DIM": 64, "IMAGE_MAX_DIM": 64},
    "square, as it is": {"IMAGE_MIN_DIM": 64, "IMAGE_MAX_DIM": 128},
    "pad64": {"IMAGE_MIN_DIM": 192, "IMAGE_MAX_DIM": 256},
    "crop": {"IMAGE_MIN_DIM": 64, "IMAGE_MAX_DIM": 64, "IMAGE_MIN_SCALE": 1.7},
    "none": {"IMAGE_MAX_DIM": 128},
}


def config(mode="square, enlarging", **overrides):
    name = mode.partition(",")[0]
    fields = {"MINI_MASK_SHAPE": (56, 56), **MODES[mode], **overrides}
    return SyntheticConfig(IMAGE_RESIZE_MODE=name, **fields)


def both(dataset, chosen, image_id, **options):
    """Fast and general path on the same image: two tuples."""
    assert sources.gives_polygons(dataset)
    fast = load_image_gt(dataset, chosen, image_id, rng=np.random.default_rng(1), **options)

    class MasksOnly(type(dataset)):  # the same, but only load_mask and load_image are asked
        def load_mask(self, image_id):
            return super().load_mask(image_id)

        def load_image(self, image_id):
            return super().load_image(image_id)

    masks_only = copy.copy(dataset)
    masks_only.__class__ = MasksOnly
    assert not sources.gives_polygons(masks_only)
    general = load_image_gt(masks_only, chosen, image_id, rng=np.random.default_rng(1), **options)
    return fast, general


def iou(first, second):
    union = (first | second).sum(axis=(0, 1))
    return (first & second).sum(axis=(0, 1)) / np.maximum(union, 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("outlined")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("mini", [True, False])
def test_the_general_paths_image_boxes_and_masks(folder, mode, mini):
    dataset = OutlinedDataset(folder, 16, ((96, 128), (128, 96), (81, 115)), 6, kinds=KINDS)
    overlaps = []
    for image_id in dataset.image_ids:
        fast, general = both(dataset, config(mode), image_id, use_mini_mask=mini)
        for part in range(4):  # image, meta, class ids, boxes
            np.testing.assert_array_equal(fast[part], general[part])
            assert fast[part].dtype == general[part].dtype
        assert fast[4].dtype == bool and fast[4].shape == general[4].shape
        if not mini:
            np.testing.assert_array_equal(fast[4], general[4])
        overlaps.extend(iou(fast[4], general[4]))
    assert len(overlaps) > 10
    assert np.mean(overlaps) >= 0.93


class Drawn(SyntheticDataset):
    """One image of noise with given polygons."""

    def __init__(self, shapes, size):
        super().__init__(1, size=size)
        self.outlines = shapes

    def load_polygons(self, image_id):
        return self.outlines, np.ones(len(self.outlines), np.int32)

    def load_mask(self, image_id):
        masks = [segments.to_mask(shape, *self.size) for shape in self.outlines]
        return np.stack(masks, -1), np.ones(len(masks), np.int32)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 2**31),
    st.sampled_from([1.0, 1.6, 0.43, 3.3]),
    st.integers(1, 12),
    st.sampled_from([3, 4, 9, 40]),
    st.booleans(),
)
def test_boxes_of_any_polygons_are_those_of_their_resized_masks(
    seed, scale, count, vertices, whole
):
    rng = np.random.default_rng(seed)
    size = tuple(int(side) for side in rng.integers(30, 150, 2))
    shapes = [[blob(rng, *size, vertices, 2)] for _ in range(count)]
    if whole:  # vertices on the corners of pixels, where rounding decides
        shapes = [[np.round(part)] for (part,) in shapes]
    dataset = Drawn(shapes, size)
    side = max(64, 64 * round(max(size) * scale / 64))
    chosen = config(IMAGE_MIN_DIM=0, IMAGE_MAX_DIM=side, IMAGE_MIN_SCALE=scale)
    mini = fast_load.load_outlined(dataset, chosen, 0, True)
    full = fast_load.load_outlined(dataset, chosen, 0, False)
    _, general = both(dataset, chosen, 0)
    np.testing.assert_array_equal(mini.boxes, general[3])
    np.testing.assert_array_equal(mini.class_ids, general[2])
    np.testing.assert_array_equal(full.boxes, extract_bboxes(full.masks))


def test_mini_masks_at_coco_like_sizes(folder):
    """IoU in the image, each mini mask put back into its box, with the mask at full size."""
    dataset = OutlinedDataset(folder, 6, ((240, 320),), 8, seed=5)
    chosen = config(IMAGE_MIN_DIM=400, IMAGE_MAX_DIM=512)
    direct, resized = [], []
    for image_id in dataset.image_ids:
        *_, boxes, mini = load_image_gt(dataset, chosen, image_id)
        *_, full = load_image_gt(dataset, chosen, image_id, use_mini_mask=False)
        direct.extend(iou(expand_mask(boxes, mini, (512, 512)), full))
        by_resizing = minimize_mask(boxes, full, chosen.MINI_MASK_SHAPE)
        resized.extend(iou(mini, by_resizing))
    assert np.mean(direct) > 0.93
    assert np.mean(resized) > 0.93


class TestWhichPathIsTaken:
    def test_a_subclass_with_its_own_load_mask_is_asked_for_it(self, folder):
        class Own(OutlinedDataset):
            def load_mask(self, image_id):
                masks, class_ids = super().load_mask(image_id)
                return masks[:, :, :1], class_ids[:1]

        dataset = Own(folder, 2, most=4, seed=3)
        assert not sources.gives_polygons(dataset)
        assert all(len(load_image_gt(dataset, config(), i)[2]) == 1 for i in dataset.image_ids)

    def test_a_subclass_with_its_own_load_image_is_asked_for_it(self, folder):
        class Dark(OutlinedDataset):
            def load_image(self, image_id):
                return super().load_image(image_id) // 2

        dark = load_image_gt(Dark(folder, 1), config(), 0)[0]
        bright = load_image_gt(OutlinedDataset(folder, 1), config(), 0)[0]
        assert 0.45 < dark.mean() / bright.mean() < 0.52

    def test_a_load_mask_put_on_the_instance_counts(self, folder):
        dataset = OutlinedDataset(folder, 1)
        dataset.load_mask = lambda image_id: (np.ones((96, 128, 1), bool), np.array([2]))
        assert load_image_gt(dataset, config(), 0)[2].tolist() == [2]

    def test_a_later_load_polygons_wins_over_an_earlier_load_mask(self):
        class Outlined(SyntheticDataset):
            def load_polygons(self, image_id):
                return [[np.array([[8.0, 8], [40, 8], [40, 40]])]], np.array([3])

        assert load_image_gt(Outlined(1), config(), 0)[2].tolist() == [3]

    def test_none_means_load_mask(self):
        class Undecided(SyntheticDataset):
            def load_polygons(self, image_id):
                return None

        expected = load_image_gt(SyntheticDataset(2), config(), 1)
        for part, known in zip(load_image_gt(Undecided(2), config(), 1), expected, strict=True):
            np.testing.assert_array_equal(part, known)


class TestBadOutlines:
    def fails(self, message, shapes, ids):
        class Bad(SyntheticDataset):
            def load_polygons(self, image_id):
                return shapes, np.asarray(ids)

        with pytest.raises(ValueError, match=r"^image 1 \(source 'synthetic'.*" + message):
            load_image_gt(Bad(2), config(), 1)

    def test_not_finite(self):
        self.fails("NaN or infinite", [[np.array([[0, 0], [9, np.nan], [9, 9]])]], [1])

    def test_not_pairs(self):
        self.fails(r"shape \(6,\)", [[np.arange(6.0)]], [1])

    def test_counts_that_differ(self):
        self.fails("1 instances and class ids of shape", [[np.eye(3, 2)]], [1, 2])

    def test_class_out_of_range(self):
        self.fails("class id 9 is out of range", [[np.eye(3, 2)]], [9])

    def test_a_mask_of_another_size(self):
        self.fails(r"mask has the shape \(3, 3\)", [np.ones((3, 3), bool)], [1])

    def test_a_file_of_another_size_than_declared(self, folder):
        dataset = OutlinedDataset(folder, 2)
        dataset.image_info[1].update(height=50, width=60)
        with pytest.raises(ValueError, match=r"96 x 128 pixels, but its annotations .* 50 x 60"):
            load_image_gt(dataset, config(), 1)

    def test_a_truncated_file(self, folder, tmp_path):
        dataset = OutlinedDataset(folder, 2)
        data = (folder / "1.jpg").read_bytes()
        path = tmp_path / "cut.jpg"
        path.write_bytes(data[: len(data) // 2])
        dataset.image_info[1]["path"] = str(path)
        with pytest.raises(ValueError, match=r"cut.jpg cannot be read"):
            load_image_gt(dataset, config(), 1)

    def test_what_covers_nothing_is_dropped(self):
        class Thin(SyntheticDataset):
            def load_polygons(self, image_id):
                triangle = np.array([[8.0, 8], [40, 8], [40, 40]])
                far = triangle + 500
                return [[], [triangle[:2]], [far], [triangle]], np.array([1, 1, 2, 3])

        assert load_image_gt(Thin(1), config(), 0)[2].tolist() == [3]


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpegs_decode_to_what_the_general_path_reads(tmp_path, mode, progressive):

    picture = Image.fromarray(texture(np.random.default_rng(0), 53, 77)).convert(mode)
    path = tmp_path / "picture.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # turned
    picture.save(path, quality=88, progressive=progressive, exif=exif)
    decoded = read_jpeg(path)
    if mode == "CMYK":
        assert decoded is None  # left to Pillow
        return
    image, size = decoded
    assert size == (53, 77)
    np.testing.assert_array_equal(image, read_image(path))


def test_reduced_decoding(tmp_path):

    path = tmp_path / "large.jpg"
    Image.fromarray(texture(np.random.default_rng(0), 400, 601)).save(path)
    for least, shape in ((1.0, (400, 601)), (0.5, (200, 301)), (0.26, (200, 301)), (0.1, (50, 76))):
        image, size = read_jpeg(path, lambda size, least=least: least)
        assert image.shape[:2] == shape and size == (400, 601)


def test_other_files_are_left_to_the_general_reader(tmp_path):

    assert read_jpeg(tmp_path / "nothing.jpg") is None
    for name, data in (("text.jpg", b"no picture"), ("empty.jpg", b""), ("a.png", b"\x89PNG")):
        (tmp_path / name).write_bytes(data)
        assert read_jpeg(tmp_path / name) is None
