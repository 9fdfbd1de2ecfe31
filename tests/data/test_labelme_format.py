"""labelme's folders: every shape, groups, where the image is, what is left out."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from mrcnn_parallel.data.formats import load_dataset
from tests.data import annotated


def read(tmp_path, shapes, image="a", **fields):
    """A dataset of one image with these shapes."""
    annotated.write_image(tmp_path / "a.jpg", image)
    content = {**annotated.labelme_content("a"), "shapes": shapes, **fields}
    annotated.write_json(tmp_path / "a.json", content)
    return load_dataset("labelme", tmp_path)


def shape(kind, points, label="x", **fields):
    return {"label": label, "points": points, "shape_type": kind, **fields}


def encoded(mask):
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def test_every_shape_with_an_area(tmp_path):
    part = np.zeros((6, 8), bool)
    part[1:5, 2:] = True
    dataset = read(
        tmp_path,
        [
            shape("rectangle", [[20, 12], [5, 4]]),  # drawn from the lower right
            shape("circle", [[30, 20], [36, 28]]),  # a radius of 10
            shape("mask", [[50, 30], [58, 36]], mask=encoded(part)),
            shape(None, [[0, 0], [4, 0], [4, 4]]),
            shape("linestrip", [[0, 20], [4, 20], [4, 24]]),
        ],
    )
    masks, class_ids = dataset.load_mask(0)
    assert class_ids.tolist() == [1] * 5 and dataset.problems == []
    assert masks[4:12, 5:20, 0].all() and masks[:, :, 0].sum() == 8 * 15
    y, x = np.mgrid[:40, :60] + 0.5
    inside = (y - 20) ** 2 + (x - 30) ** 2 < 100
    assert (masks[:, :, 1] ^ inside).sum() < 0.05 * inside.sum()
    expected = np.zeros((40, 60), bool)
    expected[30:36, 50:58] = part
    np.testing.assert_array_equal(masks[:, :, 2], expected)
    assert 0 < masks[:, :, 3].sum() <= 10 and 0 < masks[:, :, 4].sum() <= 10


def test_masks_are_cut_off_at_the_border(tmp_path):
    whole = encoded(np.ones((20, 20), bool))
    dataset = read(
        tmp_path,
        [
            shape("mask", [[-5, -8], [15, 12]], mask=whole),
            shape("mask", [[55, 35], [75, 55]], mask=whole),
            shape("mask", [[70, 50], [90, 70]], mask=whole),
        ],
    )
    masks, _ = dataset.load_mask(0)
    assert masks[:12, :15, 0].all() and masks[:, :, 0].sum() == 12 * 15
    assert masks[35:, 55:, 1].all() and masks[:, :, 1].sum() == 5 * 5
    (problem,) = dataset.problems
    assert problem.record == "shape 2" and "no pixel in the image" in problem.reason


def test_shapes_of_a_group_are_one_instance(tmp_path):
    first, second = [[0, 0], [9, 0], [9, 9], [0, 9]], [[20, 0], [29, 0], [29, 9], [20, 9]]
    mask = encoded(np.ones((4, 4), bool))
    dataset = read(
        tmp_path,
        [
            shape("polygon", first, group_id=1),
            shape("polygon", first, group_id=2),
            shape("polygon", second, group_id=1),
            shape("polygon", second, label="y", group_id=1),
            shape("mask", [[40, 20], [44, 24]], mask=mask, group_id=2),
        ],
    )
    masks, class_ids = dataset.load_mask(0)
    assert dataset.class_names == ["BG", "x", "y"] and class_ids.tolist() == [1, 1, 2]
    assert masks.sum(axis=(0, 1)).tolist() == [2 * 81, 81 + 16, 81]
    segments, _ = dataset.load_polygons(0)
    assert len(segments[0]) == 2 and isinstance(segments[1], dict)


@pytest.mark.parametrize(
    ("bad", "kind", "reason"),
    [
        (shape("point", [[1, 1]]), "no outline", "a point has no area"),
        (shape("line", [[1, 1], [2, 2]]), "no outline", "a line has no area"),
        (shape("polygon", [[1, 1], [2, 2]]), "empty annotation", "it has 2 vertices"),
        (shape("polygon", []), "empty annotation", "it has 0 vertices"),
        (shape("polygon", [[1, 1], [2, 2], [3, "a"]]), "damaged record", "can't be read|convert"),
        (shape("star", [[1, 1], [2, 2], [3, 9]]), "damaged record", "'star' is unknown"),
        (shape("circle", [[1, 1]]), "damaged record", "IndexError"),
        (shape("mask", [[1, 1], [2, 2]], mask="xx"), "damaged record", "can't be decoded"),
        (shape("polygon", [[1, 1], [9, 9], [1e9, 3]]), "damaged record", "not numbers near"),
        ({"label": "x"}, "damaged record", "it has no 'points'"),
        (shape("polygon", [[1, 1], [9, 1], [9, 9]], label=""), "unknown class", "its label is ''"),
        ("a text", "damaged record", "TypeError"),
    ],
)
def test_damaged_shapes_are_named_and_the_others_stay(tmp_path, bad, kind, reason):
    good = shape("polygon", [[0, 0], [9, 0], [9, 9]])
    dataset = read(tmp_path, [good, bad, good])
    assert dataset.load_mask(0)[0].shape == (40, 60, 2)
    (problem,) = dataset.problems
    assert problem.kind == kind and problem.record == "shape 1"
    assert problem.file == str(tmp_path / "a.json")
    assert any(text in problem.reason for text in reason.split("|"))


def test_where_the_image_is(tmp_path):
    annotated.write_image(tmp_path / "pictures" / "photo.png", "a")
    annotated.write_image(tmp_path / "labels" / "b.PNG", "b")
    for stem, image_path in (("a", "..\\pictures\\photo.png"), ("b", "gone/other.jpg"), ("c", "c")):
        content = {**annotated.labelme_content(stem), "imagePath": image_path}
        annotated.write_json(tmp_path / "labels" / f"{stem}.json", content)
    dataset = load_dataset("labelme", tmp_path / "labels")
    assert [info["id"] for info in dataset.image_info] == ["a", "b"]
    assert dataset.load_image(0).shape == (40, 60, 3)
    (problem,) = dataset.problems
    assert problem.kind == "missing file" and problem.file.endswith("c.json")


def test_declared_sizes_are_kept_and_files_of_other_tools_are_named(tmp_path):
    annotated.write_json(tmp_path / "settings.json", {"colour": "red"})
    (tmp_path / "broken.json").write_text('{"shapes": [')
    dataset = read(tmp_path, [], imageHeight=60, imageWidth=40)
    (info,) = dataset.image_info
    assert (info["height"], info["width"], info["declared_size"]) == (40, 60, (60, 40))
    assert sorted(problem.file[len(str(tmp_path)) :] for problem in dataset.problems) == [
        "/broken.json",
        "/settings.json",
    ]


def test_subsets_are_folders(tmp_path):
    annotated.write_scene("labelme", tmp_path / "train")
    annotated.write_scene("labelme", tmp_path / "val" / "deep")
    assert load_dataset(tmp_path, subset="train").image_info[0]["id"] == "a"
    assert load_dataset(tmp_path, subset="val").image_info[0]["id"] == "deep/a"
    assert load_dataset(tmp_path).num_images == 6
    with pytest.raises(FileNotFoundError, match="no JSON files of labelme"):
        load_dataset("labelme", tmp_path, subset="test")
