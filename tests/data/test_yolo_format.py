"""YOLO's labels: where data.yaml sends the reader, class names, what is left out."""

import pytest

from mrcnn_parallel.data.formats import detect_format, load_dataset
from tests.data import annotated


@pytest.fixture
def folder(tmp_path):
    return annotated.write_scene("yolo", tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "path: .\ntrain: images/train\nnames: [person, car]\n",
        "train: ['images/train']\nval: images/none\nnames: {0: person, 1: car}\nnc: 2\n",
        "path: /no/such/place\ntrain: ../images/train\nnames: ['person', \"car\"]  # two\n",
        "names:\n- person\n- car\n",
        "train: list.txt\nnames: [person, car]\n",
    ],
)
def test_data_yaml_in_many_forms(folder, text):
    (folder / "list.txt").write_text("./images/train/a.jpg\nimages/train/b.jpg\nimages/train/c.jpg")
    (folder / "data.yaml").write_text(text)
    for path in (folder, folder / "data.yaml"):
        dataset = load_dataset("yolo", path)
        assert annotated.found(dataset) == annotated.expected()
        assert dataset.problems == []


def test_names_without_yaml(folder):
    (folder / "data.yaml").unlink()
    assert detect_format(folder) == "yolo"
    with pytest.raises(FileNotFoundError, match=r"names no classes: give class_names, a data.yaml"):
        load_dataset("yolo", folder)
    assert load_dataset("yolo", folder, class_names=["x", "y"]).class_names == ["BG", "x", "y"]
    (folder / "classes.txt").write_text("person\ncar\n")
    assert annotated.found(load_dataset(folder)) == annotated.expected()


def test_subsets(folder):
    (folder / "valid" / "images").mkdir(parents=True)
    (folder / "valid" / "labels").mkdir()
    annotated.write_image(folder / "valid" / "images" / "a.jpg", "a")
    (folder / "valid" / "labels" / "a.txt").write_text("1 0.1 0.1 0.5 0.1 0.5 0.5\n")
    (folder / "data.yaml").write_text(
        "train: images/train\nval: valid/images\nnames: [person, car]\n"
    )
    assert load_dataset("yolo", folder, subset="train").num_images == 3
    val = load_dataset("yolo", folder, subset="val")
    assert val.num_images == 1 and val.load_mask(0)[1].tolist() == [2]
    assert load_dataset("yolo", folder).num_images == 4
    with pytest.raises(FileNotFoundError, match=r"no images of the subset 'test'; .*train, val"):
        load_dataset("yolo", folder, subset="test")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: [a, b", "is not a YAML file"),
        ("just text", "is no YOLO data file"),
        ("names: 5\ntrain: images/train", "`names` 5, no list"),
        ("names: {a: b}\ntrain: images/train", "numbers are none"),
    ],
)
def test_a_damaged_data_yaml_is_an_error(folder, text, message):
    (folder / "data.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_dataset("yolo", folder)


@pytest.mark.parametrize(
    ("line", "kind", "reason"),
    [
        ("0 0.5 0.5 0.2 0.2", "no outline", "it is a box"),
        ("0", "empty annotation", "it has 0 vertices"),
        ("0 0.1 0.2 0.3 0.4 0.5", "damaged record", "5 numbers are not pairs"),
        ("0 0.1 0.2 0.3 x 0.5 0.1", "damaged record", "could not convert"),
        ("0 0.1 0.2 0.3 nan 0.5 0.1", "damaged record", "not numbers near"),
        ("0 10 20 30 40 50 60", "damaged record", "not numbers near the image of 60 x 40"),
        ("2 0.1 0.2 0.3 0.1 0.5 0.1", "unknown class", "its class 2 has no name"),
        ("0.5 0.1 0.2 0.3 0.1 0.5 0.1", "unknown class", "its class 0.5 has no name"),
    ],
)
def test_damaged_lines_are_named_and_the_others_stay(folder, line, kind, reason):
    file = folder / "labels" / "train" / "a.txt"
    good = file.read_text().splitlines()
    file.write_text("\n".join([good[0], line, *good[1:]]))
    dataset = load_dataset("yolo", folder)
    assert annotated.found(dataset) == annotated.expected()
    (problem,) = dataset.problems
    assert (problem.file, problem.record, problem.kind) == (str(file), "line 2", kind)
    assert reason in problem.reason


def test_missing_images_of_a_list_are_named(folder):
    (folder / "list.txt").write_text("images/train/a.jpg\nimages/train/z.jpg\n")
    (folder / "data.yaml").write_text("train: list.txt\nnames: [person, car]\n")
    dataset = load_dataset("yolo", folder)
    (problem,) = dataset.problems
    assert dataset.num_images == 1
    assert (problem.kind, problem.record) == ("missing file", "images/train/z.jpg")
