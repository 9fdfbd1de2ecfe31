"""The COCO reader: every kind of segmentation, where files are, what is left out and named."""

import json

import numpy as np
import pytest

from mrcnn_parallel.data import segments
from mrcnn_parallel.data.formats import load_dataset
from tests.data import annotated
from tests.data.test_coco_format import uncompressed


@pytest.fixture
def folder(tmp_path):
    return annotated.write_scene("coco", tmp_path)


def rewrite(folder, change):
    """Changes the content of the annotation file in place: change(content)."""
    path = folder / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path


def read_one(folder, **annotation):
    """A dataset in which the first annotation is changed."""
    rewrite(folder, lambda content: content["annotations"][0].update(annotation))
    return load_dataset("coco", folder)


@pytest.mark.parametrize("crowd", [0, 1])
@pytest.mark.parametrize("kind", ["uncompressed", "compressed"])
def test_rle_and_crowds(kind, crowd, folder):
    mask = np.random.default_rng(0).random((40, 60)) < 0.3
    rle = segments.to_rle(mask, 40, 60)
    rle = {**rle, "counts": rle["counts"].decode()} if kind == "compressed" else uncompressed(mask)
    dataset = read_one(folder, segmentation=rle, iscrowd=crowd)
    masks, class_ids = dataset.load_mask(0)
    np.testing.assert_array_equal(masks[..., 0], mask)
    assert class_ids.tolist() == [-1 if crowd else 1, 2, 1] and dataset.problems == []
    assert isinstance(dataset.load_polygons(0)[0][0]["counts"], bytes)


def test_an_object_of_several_polygons_is_one_instance(folder):
    parts = [[0, 0, 4, 0, 4, 4, 0, 4], [10, 6, 14, 6, 14, 9, 10, 9]]
    dataset = read_one(folder, segmentation=parts)
    assert dataset.load_mask(0)[0][..., 0].sum() == 16 + 12
    assert len(dataset.load_polygons(0)[0][0]) == 2


def test_a_bad_polygon_among_good_ones_is_left_out(folder):
    good = [0, 0, 4, 0, 4, 4, 0, 4]
    dataset = read_one(folder, segmentation=[good, [1, 2], good])
    assert len(dataset.load_polygons(0)[0][0]) == 2
    (problem,) = dataset.problems
    assert problem.record == "annotation 10 of image 1, polygon 1"
    assert problem.kind == "empty annotation"


RLE = {"size": [40, 60], "counts": [2400]}


@pytest.mark.parametrize(
    ("change", "kind", "reason"),
    [
        ({"segmentation": []}, "empty annotation", "it has no polygon"),
        ({"segmentation": [[]]}, "empty annotation", "it has 0 vertices"),
        ({"segmentation": [[1, 2, 3, 4]]}, "empty annotation", "it has 2 vertices"),
        ({"segmentation": [[1, 2, 3, 4, 5]]}, "damaged record", "5 numbers are not a flat list"),
        ({"segmentation": [1, 2, 3, 4, 5, 6]}, "damaged record", "but not of polygons"),
        ({"segmentation": [[1, 2, None, 4, 5, 6]]}, "damaged record", "not numbers near"),
        ({"segmentation": [[1, 2, 3, 4, 5, float("nan")]]}, "damaged record", "not numbers near"),
        (
            {"segmentation": [[1, 2, 3, 4, 5, 10**400]]},
            "damaged record",
            "vertices are not numbers",
        ),
        ({"segmentation": [[1, 2, 3, 4, 5, 1e300]]}, "damaged record", "not numbers near"),
        ({"segmentation": "text"}, "damaged record", "neither polygons nor an RLE"),
        ({"segmentation": None}, "no outline", "a box is not enough"),
        ({"segmentation": {**RLE, "counts": [2399]}}, "damaged record", "does not add up to"),
        ({"segmentation": {**RLE, "counts": [2401, -1]}}, "damaged record", "does not add up to"),
        ({"segmentation": {**RLE, "counts": [2400.0]}}, "damaged record", "neither text nor"),
        ({"segmentation": {**RLE, "counts": "\x01\x02"}}, "damaged record", "has no meaning"),
        ({"segmentation": {**RLE, "counts": "o"}}, "damaged record", "middle of a number"),
        ({"segmentation": {**RLE, "counts": "o" * 20}}, "damaged record", "too large"),
        ({"segmentation": {**RLE, "size": [60, 40]}}, "damaged record", "has the size [60, 40]"),
        ({"segmentation": {"size": [40, 60]}}, "damaged record", "neither polygons nor an RLE"),
        ({"category_id": 99}, "unknown class", "category_id 99 is not among"),
        ({"category_id": [7]}, "damaged record", "unhashable"),
        ({"image_id": 99}, "annotation without image", "its image 99 is missing or was left out"),
    ],
)
def test_damaged_annotations_are_named_and_the_others_stay(change, kind, reason, folder):
    dataset = read_one(folder, **change)
    assert len(dataset.load_mask(0)[1]) == 2 and len(dataset.load_mask(1)[1]) == 1
    (problem,) = dataset.problems
    assert problem.kind == kind and reason in problem.reason
    assert problem.record.startswith("annotation 10") and "instances_train.json" in problem.file


def test_a_crowd_of_unknown_place_covers_the_image(folder):
    dataset = read_one(folder, segmentation={"size": [4, 4], "counts": [16]}, iscrowd=1)
    masks, class_ids = dataset.load_mask(0)
    assert masks[..., 0].all() and class_ids[0] == -1
    (problem,) = dataset.problems
    assert "taken to cover the whole image" in problem.reason


def test_damaged_images_and_their_annotations_are_named(folder):
    def damage(content):
        content["images"][0]["height"] = -1
        content["images"][1]["file_name"] = "gone.jpg"
        content["images"].append({"id": 3, "file_name": "c.jpg", "height": 32, "width": 32})
        content["images"] += [{"id": 9}, "text", {"id": 10, "file_name": "a\0.jpg"}]

    rewrite(folder, damage)
    dataset = load_dataset("coco", folder)
    assert [info["id"] for info in dataset.image_info] == [3]
    images = [problem for problem in dataset.problems if problem.record.startswith("image")]
    assert [(problem.record, problem.kind) for problem in images] == [
        ("image 1", "damaged record"),
        ("image 2", "missing file"),
        ("image 3", "duplicated id"),
        ("image entry 4", "damaged record"),
        ("image entry 5", "damaged record"),
        ("image 10", "damaged record"),
    ]
    assert len(dataset.problems) == len(images) + annotated.INSTANCES


def test_duplicated_ids(folder):
    def damage(content):
        content["annotations"][1]["id"] = 10
        content["categories"].append({"id": 7, "name": "dog"})
        content["categories"].append({"name": "cat"})

    rewrite(folder, damage)
    dataset = load_dataset("coco", folder)
    assert annotated.found(dataset) == annotated.expected()  # nothing is lost
    assert [(p.record, p.kind) for p in dataset.problems] == [
        ("category 2", "duplicated id"),
        ("category 3", "damaged record"),
        ("annotation 10", "duplicated id"),
    ]


def test_sizes_that_are_missing_come_from_the_files(folder):
    rewrite(folder, lambda content: [image.pop("height") for image in content["images"]])
    dataset = load_dataset("coco", folder)
    assert annotated.found(dataset) == annotated.expected() and dataset.problems == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not a JSON file"),
        ('{"images": [', "is not a JSON file"),
        ("[" * 100_000, "is not a JSON file"),
        ("[]", "has no list of 'images'"),
        ('{"images": [], "annotations": {}, "categories": []}', "has no list of 'annotations'"),
        ('{"images": [], "annotations": [], "categories": []}', "no image that can be used"),
    ],
)
def test_a_damaged_file_is_an_error(text, message, tmp_path):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        load_dataset("coco", path)
    assert str(path) in str(error.value)


def test_where_the_files_are(folder, tmp_path):
    path = folder / "annotations" / "instances_train.json"
    assert load_dataset(folder, subset="train").num_images == 3
    assert load_dataset(path).num_images == 3
    elsewhere = tmp_path / "elsewhere"
    (folder / "train").rename(elsewhere)
    with pytest.raises(ValueError, match=r"no a.jpg in .*train"):
        load_dataset("coco", folder)
    assert load_dataset("coco", path, image_dir=elsewhere).num_images == 3
    (folder / "annotations" / "instances_val2017.json").write_text(path.read_text())
    elsewhere.rename(folder / "val2017")
    assert load_dataset("coco", folder, subset="val", year=2017).num_images == 3
    with pytest.raises(ValueError, match="holds the subsets train, val2017 in annotations/; say"):
        load_dataset("coco", folder)
    with pytest.raises(FileNotFoundError, match="No COCO annotations for subset 'test'"):
        load_dataset("coco", folder, subset="test")


# === Run lengths ===


def test_run_lengths_are_decoded_as_the_library_does():
    rng = np.random.default_rng(0)
    for density in (0, 0.01, 0.5, 0.99, 1):
        mask = np.kron(rng.random((9, 7)) < density, np.ones((5, 30))) > 0
        rle = segments.to_rle(mask, *mask.shape)
        counts = segments.decode_counts(rle["counts"])
        assert counts == uncompressed(mask)["counts"]
        assert segments.parse_rle({**rle, "counts": counts}, *mask.shape) == rle


def test_every_number_of_a_picture_becomes_its_run_lengths():
    numbers = np.random.default_rng(0).integers(0, 4, (13, 17)).astype(np.uint16)
    rles = segments.labels_to_rles(numbers)
    assert list(rles) == [1, 2, 3]
    for number, rle in rles.items():
        np.testing.assert_array_equal(segments.to_mask(rle, 13, 17), numbers == number)
    assert segments.labels_to_rles(np.zeros((3, 4), int)) == {}
    whole = segments.labels_to_rles(np.ones((3, 4), int))
    assert segments.to_mask(whole[1], 3, 4).all()


def test_area_and_box():
    triangle = [np.array([[-10.0, 5], [20, 5], [20, 25]])]
    area, box = segments.area_and_box(triangle, 40, 60)
    assert area == segments.to_mask(triangle, 40, 60).sum() and box == [0, 5, 20, 20]
    area, box = segments.area_and_box(segments.to_rle(np.eye(5), 5, 5), 5, 5)
    assert (area, box) == (5, [0, 0, 5, 5])
