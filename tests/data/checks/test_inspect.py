"""The inspection: each kind of problem provoked, found and named; nothing where all is well."""

import json
import random

import numpy as np
import pytest
from PIL import Image

from mrcnn_parallel.data.checks import figures, report
from mrcnn_parallel.data.dataset import Dataset
from mrcnn_parallel.data.formats import FORMATS, load_dataset
from tests.data import annotated
from tests.data.synthetic import SyntheticDataset


@pytest.fixture
def folder(tmp_path):
    return annotated.write_scene("coco", tmp_path)


def inspect(folder, change=None, **options):
    """The report of the scene in COCO's format after change(content)."""
    path = folder / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    if change:
        change(content)
    path.write_text(json.dumps(content))
    return report.inspect_dataset(load_dataset("coco", folder), threads=2, **options)


def the_problem(found):
    (problem,) = found.problems
    return problem


@pytest.mark.parametrize("name", FORMATS)
def test_nothing_is_found_where_all_is_well(name, tmp_path):
    dataset = load_dataset(name, annotated.write_scene(name, tmp_path))
    found = report.inspect_dataset(dataset)
    assert found.problems == []
    assert (found.num_images, sum(found.instances.values())) == (3, annotated.INSTANCES)
    assert (found.instances["person"], found.images_with["person"]) == (2, 1)
    assert (found.instances["car"], found.images_with["car"]) == (2, 2)
    assert sorted(found.per_image) == [0, 1, 3] and found.crowds == 0
    assert sorted(found.sizes) == sorted(annotated.SIZES.values())
    assert "No problems." in report.to_text(found, "scene")


# === Images ===


@pytest.mark.parametrize("kind", ["jpg", "png"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "missing"])
def test_unreadable_images(kind, damage, folder):
    name = f"b.{kind}"
    file = folder / "train" / name
    annotated.write_image(file, "b")

    def change(content):
        content["images"][1]["file_name"] = name

    load_dataset("coco", folder)
    whole = file.read_bytes()
    cut = {"truncated": whole[: len(whole) * 3 // 4], "empty": b"", "text": b"a" * 100}
    if damage == "missing":
        file.unlink()
        found = inspect(folder, change)
        kinds = {problem.kind for problem in found.problems}
        assert kinds == {"missing file", "annotation without image"}
        assert name in found.problems[0].reason
        return
    file.write_bytes(cut[damage])
    problem = the_problem(inspect(folder, change))
    assert problem.kind == "unreadable image" and problem.file == str(file)


def test_exif_rotation(folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    file = folder / "train" / "a.jpg"
    Image.open(file).save(file, exif=exif)
    problem = the_problem(inspect(folder))
    assert problem.kind == "EXIF rotation" and problem.file == str(file)
    assert "orientation is 6" in problem.reason
    exif[0x0112] = 1
    Image.open(file).save(file, exif=exif)
    assert inspect(folder).problems == []


def test_sizes_that_differ(folder, tmp_path):
    def change(content):
        content["images"][2].update(width=40, height=30)

    problem = the_problem(inspect(folder, change))
    assert problem.kind == "size differs" and problem.file.endswith("c.jpg")
    assert "say 40 x 30 (width x height), the file is 32 x 32" in problem.reason


def test_sizes_that_differ_in_formats_that_measure_the_file(tmp_path):
    folder = annotated.write_scene("labelme", tmp_path)
    content = {**annotated.labelme_content("a"), "imageHeight": 41}
    annotated.write_json(folder / "a.json", content)
    problem = the_problem(report.inspect_dataset(load_dataset("labelme", folder)))
    assert problem.kind == "size differs" and "say 60 x 41" in problem.reason


# === Instances ===


def annotation(**fields):
    """A change of the first annotation."""
    return lambda content: content["annotations"][0].update(fields)


@pytest.mark.parametrize(
    ("change", "kind", "reason"),
    [
        (annotation(bbox=[50, 4, 20, 8]), "box outside", "[50, 4, 20, 8] lies 10.0 pixels outside"),
        (
            annotation(segmentation=[[-5, 4, 25, 4, 25, 12]]),
            "polygon outside",
            "a vertex lies 5.0 pixels outside",
        ),
        (
            annotation(segmentation=[[5, 4, 25, 12, 25, 4, 5, 12]]),
            "self-crossing polygon",
            "crosses itself",
        ),
        (annotation(segmentation=[]), "empty annotation", "it has no polygon"),
        (annotation(segmentation=[[1, 2, 3, 4]]), "empty annotation", "it has 2 vertices"),
        (annotation(segmentation=[[5, 4, 5, 9, 5, 20]]), "zero area", "covers no pixel"),
        (
            annotation(segmentation={"size": [40, 60], "counts": [2400]}),
            "zero area",
            "covers no pixel",
        ),
        (annotation(id=11), "duplicated id", "another annotation has its id"),
        (annotation(category_id=1), "unknown class", "is not among the categories"),
        (annotation(segmentation=None), "no outline", "a box is not enough"),
        (annotation(segmentation=5), "damaged record", "neither polygons nor an RLE"),
    ],
)
def test_problems_of_instances(change, kind, reason, folder):
    problem = the_problem(inspect(folder, change))
    assert problem.kind == kind and reason in problem.reason
    assert problem.record.startswith("annotation 1")
    assert inspect(folder, ignore=[kind]).problems == []


def test_what_lies_outside_by_rounding_is_no_problem(folder):
    def change(content):
        content["annotations"][0].update(
            bbox=[-0.5, 0, 61, 40], segmentation=[[-0.9, 0, 60.9, 0, 60, 40.5, 0, 40]]
        )

    assert inspect(folder, change).problems == []


# === Any dataset ===


def test_datasets_without_files_or_outlines():
    found = report.inspect_dataset(SyntheticDataset(count=4, empty=(2,)))
    assert found.problems == [] and found.per_image.count(0) == 1 and len(found.sizes) == 4


class Broken(Dataset):
    """A user's dataset that fails now and then."""

    def __init__(self):
        super().__init__()
        self.add_class("mine", 1, "thing")
        for number in range(3):
            self.add_image("mine", number, None)
        self.prepare()

    def load_image(self, image_id):
        if image_id == 1:
            raise RuntimeError("the camera is off")
        return np.zeros((8, 8, 3), np.uint8)

    def load_mask(self, image_id):
        if image_id == 2:
            raise KeyError("polygon")
        return np.zeros((8, 8, 1), bool), np.array([1], np.int32)


def test_errors_of_a_dataset_are_problems():
    found = report.inspect_dataset(Broken())
    assert [(problem.file, problem.kind) for problem in found.problems] == [
        ("image 0 of source mine", "zero area"),
        ("image 1 of source mine", "unreadable image"),
        ("image 1 of source mine", "zero area"),
        ("image 2 of source mine", "damaged record"),
    ]
    assert "the camera is off" in found.problems[1].reason
    assert "KeyError: 'polygon'" in found.problems[3].reason


# === Report and pictures ===


def test_the_report_counts_names_and_shortens(folder, tmp_path):
    def change(content):
        content["annotations"][0].update(iscrowd=1)
        content["annotations"] += [
            {"id": 100 + i, "image_id": 1, "category_id": 9} for i in range(7)
        ]

    found = inspect(folder, change)
    text = report.to_text(found, "my scene", shown=2)
    assert text.startswith("my scene\n  3 images, 4 instances (1 crowds), 2 classes\n")
    assert "images 30 to 60 pixels wide, 32 to 50 high" in text
    row = next(line.split() for line in text.splitlines() if line.strip().startswith("car"))
    assert row == ["car", "2", "2", "2", "0", "0"]
    assert "unknown class: 7\n" in text and "annotation 101 of image 1: its category_id" in text
    assert "annotation 102" not in text and "... and 5 more, see report.json" in text
    report.write_report(found, tmp_path, text)
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["problem_counts"] == {"unknown class": 7} and len(content["problems"]) == 7
    assert content["problems"][0]["record"] == "annotation 100 of image 1"
    assert content["classes"][1]["name"] == "car" and content["crowds"] == 1
    assert (tmp_path / "report.txt").read_text() == text + "\n"


def test_pictures(folder, tmp_path):
    random.seed(0)
    dataset = load_dataset("coco", folder)
    found = report.inspect_dataset(dataset)
    figures.plot_classes(found, tmp_path / "classes.png")
    figures.plot_sizes(found, tmp_path / "sizes.png")
    assert figures.draw_samples(dataset, tmp_path / "samples.png", count=2) == 2
    for name in ("classes", "sizes", "samples"):
        pixels = np.asarray(Image.open(tmp_path / f"{name}.png").convert("RGB"))
        assert min(pixels.shape[:2]) > 200 and pixels.std() > 10
    (folder / "train" / "a.jpg").write_bytes(b"")
    assert figures.draw_samples(dataset, tmp_path / "samples.png") == 2  # the others
    for name in "bc":
        (folder / "train" / f"{name}.jpg").unlink()
    assert figures.draw_samples(dataset, tmp_path / "none.png") == 0
    assert not (tmp_path / "none.png").exists()


def test_pictures_of_a_dataset_without_instances(folder, tmp_path):
    found = inspect(folder, lambda content: content["annotations"].clear())
    figures.plot_classes(found, tmp_path / "classes.png")
    figures.plot_sizes(found, tmp_path / "sizes.png")
    assert figures.draw_samples(load_dataset("coco", folder), tmp_path / "samples.png") == 3
