"""Fuzzing: more than 1,000 damaged files and records; none crashes, each is counted and named.

In the first part a record that is known is damaged in a way that is always damage: it must be among
the problems, and nothing else may be lost. In the second part anything may happen to a file; what
is read must still be safe to use, and what is lost must be accounted for.
"""

import copy
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mrcnn_parallel.data.checks.images import check_image
from mrcnn_parallel.data.formats import load_dataset
from tests.data import annotated
from tests.helpers import once

pytestmark = once


def fuzz(examples):
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """{format: path of the scene}; a test puts back what it damages."""
    root = tmp_path_factory.mktemp("scenes")
    return {name: annotated.write_scene(name, root / name) for name in annotated.FORMATS}


class Damaged:
    """Replaces a file's bytes inside a with block."""

    def __init__(self, file, content):
        self.file = file
        self.content = content if isinstance(content, bytes) else content.encode()

    def __enter__(self):
        self.whole = self.file.read_bytes()
        self.file.write_bytes(self.content)

    def __exit__(self, *error):
        self.file.write_bytes(self.whole)


def lost(dataset):
    """[(image, class)] of the scene's instances that are not in a dataset as they were."""
    found = annotated.found(dataset)
    return [
        (name, label)
        for name, instances in annotated.expected().items()
        for label, mask in instances
        if (label, mask) not in found.get(name, ())
    ]


def is_named(dataset, file, record=""):
    """Whether a problem names the file, and the record in it."""
    return any(
        (problem.file == str(file) or str(file) in problem.reason)
        and problem.record.startswith(record)
        and problem.reason
        for problem in dataset.problems
    )


numbers = st.one_of(
    st.integers(-(10**20), -1),
    st.integers(10**3, 10**320),
    st.sampled_from([float("nan"), float("inf"), float("-inf"), 1e300, -1e300, 1e5 + 0.5]),
)
simple = st.one_of(st.none(), numbers, st.text(max_size=4))
junk = st.one_of(
    simple, st.lists(simple, max_size=2), st.dictionaries(st.text(max_size=4), simple, max_size=2)
)

# === Known records ===


@pytest.mark.parametrize("field", ["segmentation", "category_id", "image_id", None])
@fuzz(70)
@given(data=st.data())
def test_coco_annotations(data, scenes, field):
    content = annotated.coco_content()
    index = data.draw(st.integers(0, annotated.INSTANCES - 1))
    value = data.draw(junk)
    if field is None:
        content["annotations"][index] = value
    else:
        content["annotations"][index][field] = value
    file = scenes["coco"] / "annotations" / "instances_train.json"
    with Damaged(file, json.dumps(content)):
        dataset = load_dataset("coco", scenes["coco"])
        assert len(lost(dataset)) == 1
        assert len(dataset.problems) == 1 and is_named(dataset, file, "annotation")


def is_side(value):
    """Whether an image of 40 x 60 could be this wide or high if one did not look at it."""
    return type(value) is int and 0 < value * 60 < 2**30


@pytest.mark.parametrize("field", ["height", "width", "file_name", "id", None])
@fuzz(25)
@given(data=st.data())
def test_coco_images(data, scenes, field):
    content = annotated.coco_content()
    value = data.draw(junk.filter(lambda value: value is not None and not is_side(value)))
    if field is None:
        content["images"][0] = value
    else:
        content["images"][0][field] = value
    file = scenes["coco"] / "annotations" / "instances_train.json"
    with Damaged(file, json.dumps(content)):
        dataset = load_dataset("coco", scenes["coco"])
        assert [image for image, _ in lost(dataset)] == ["a"] * 3
        assert is_named(dataset, file, "annotation")
        assert field == "id" or is_named(dataset, file, "image")


@pytest.mark.parametrize("field", ["all_points_x", "name", "shape_attributes", "class", None])
@fuzz(40)
@given(data=st.data())
def test_via_regions(data, scenes, field):
    content = annotated.via_content()
    entry = content[data.draw(st.sampled_from(["a.jpg123", "b.jpg123"]))]
    index = data.draw(st.integers(0, len(entry["regions"]) - 1))
    region, value = entry["regions"][index], data.draw(junk)
    if field is None:
        entry["regions"][index] = value
    elif field == "class":
        region["region_attributes"]["class"] = data.draw(st.sampled_from([None, "", " ", [], {}]))
    elif field == "shape_attributes":
        region[field] = value
    else:
        region["shape_attributes"][field] = value
    file = scenes["via"] / "via_region_data.json"
    with Damaged(file, json.dumps(content)):
        dataset = load_dataset("via", scenes["via"])
        assert len(lost(dataset)) == 1 and len(dataset.problems) == 1
        assert is_named(dataset, file, f"{entry['filename']}, region {index}")


@pytest.mark.parametrize("field", ["points", "label", "shape_type", None])
@fuzz(40)
@given(data=st.data())
def test_labelme_shapes(data, scenes, field):
    name = data.draw(st.sampled_from(["a", "b"]))
    content = annotated.labelme_content(name)
    index = data.draw(st.integers(0, len(content["shapes"]) - 1))
    if field is None:
        content["shapes"][index] = data.draw(junk)
    else:
        damage = {
            "label": lambda value: not isinstance(value, str) or not value.strip(),
            "shape_type": lambda value: value not in (None, "", [], {}),  # these mean polygon
            "points": lambda value: True,
        }
        value = data.draw(junk.filter(damage[field]))
        content["shapes"][index][field] = value
    file = scenes["labelme"] / f"{name}.json"
    with Damaged(file, json.dumps(content)):
        dataset = load_dataset("labelme", scenes["labelme"])
        assert len(lost(dataset)) == 1 and len(dataset.problems) == 1
        assert is_named(dataset, file, f"shape {index}")


@fuzz(150)
@given(data=st.data())
def test_yolo_lines(data, scenes):
    file = scenes["yolo"] / "labels" / "train" / f"{data.draw(st.sampled_from('ab'))}.txt"
    lines = file.read_text().splitlines()
    index = data.draw(st.integers(0, len(lines) - 1))
    words = lines[index].split()
    place = data.draw(st.integers(0, len(words) - 1))
    bad = ["x", "nan", "inf", "-9", "1e99", "1,5", "\0", "9" * 400]
    words[place : place + 1] = data.draw(st.sampled_from([[word] for word in bad] + [[]]))
    lines[index] = " ".join(words)
    with Damaged(file, "\n".join(lines)):
        dataset = load_dataset("yolo", scenes["yolo"])
        assert len(lost(dataset)) == 1 and len(dataset.problems) == 1
        assert is_named(dataset, file, f"line {index + 1}")


def damaged_bytes(data, whole):
    """A file cut off, with a byte changed, or replaced."""
    kind = data.draw(st.sampled_from(["cut", "changed", "replaced"]))
    if kind == "cut":
        return whole[: data.draw(st.integers(0, len(whole) - 5))]
    if kind == "changed":
        place = data.draw(st.integers(0, len(whole) - 13))  # the end mark of a PNG says nothing
        byte = whole[place] ^ data.draw(st.integers(1, 255))
        return whole[:place] + bytes([byte]) + whole[place + 1 :]
    return data.draw(st.binary(max_size=200))


PICTURES = {
    "objects": ("voc", "SegmentationObject/{}.png"),
    "classes": ("voc", "SegmentationClass/{}.png"),
    "instances": ("cityscapes", "gtFine/train/ulm/{}_gtFine_instanceIds.png"),
}


@pytest.mark.parametrize("kind", PICTURES)
@fuzz(80)
@given(data=st.data())
def test_instance_pictures(data, scenes, kind):
    format_name, pattern = PICTURES[kind]
    name = data.draw(st.sampled_from("abc"))
    file = scenes[format_name] / pattern.format(name)
    with Damaged(file, damaged_bytes(data, file.read_bytes())):
        dataset = load_dataset(format_name, scenes[format_name])
        assert {image for image, _ in lost(dataset)} == ({name} if annotated.SCENE[name] else set())
        assert dataset.num_images == 2 and len(dataset.problems) == 1 and is_named(dataset, file)


@fuzz(120)
@given(data=st.data())
def test_masks(data, scenes):
    name = data.draw(st.sampled_from("ab"))
    files = sorted((scenes["masks"] / "masks" / name).rglob("*.png"))
    file = data.draw(st.sampled_from(files))
    with Damaged(file, damaged_bytes(data, file.read_bytes())):
        dataset = load_dataset("masks", scenes["masks"])
        assert lost(dataset) == [(name, file.parent.name)]
        assert len(dataset.problems) == 1 and is_named(dataset, file)


# === Anything ===


def places(content, path=()):
    """The path of every value in a tree of dicts and lists."""
    if path:
        yield path
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in items:
        if isinstance(value, (dict, list)):
            yield from places(value, (*path, key))
        else:
            yield (*path, key)


def use(dataset):
    """Everything that training and inspection do with a dataset."""
    for image_id in dataset.image_ids:
        masks, class_ids = dataset.load_mask(image_id)
        segments, _ = dataset.load_polygons(image_id)
        assert masks.shape[2] == len(class_ids) == len(segments)
        assert all(0 < abs(number) < dataset.num_classes for number in class_ids)
        check_image(dataset, image_id)


JSON_FILES = {
    "coco": (annotated.coco_content, "annotations/instances_train.json"),
    "via": (annotated.via_content, "via_region_data.json"),
    "labelme": (lambda: annotated.labelme_content("a"), "a.json"),
}


@pytest.mark.parametrize("name", JSON_FILES)
@fuzz(120)
@given(data=st.data())
def test_any_value_of_a_file(data, scenes, name):
    make, file = JSON_FILES[name]
    content, file = make(), scenes[name] / file
    path = data.draw(st.sampled_from(list(places(content))))
    value = data.draw(st.one_of(junk, st.just("removed"), st.booleans(), st.integers(0, 99)))
    parent = content
    for key in path[:-1]:
        parent = parent[key]
    if value == "removed":
        del parent[path[-1]]
    else:
        parent[path[-1]] = copy.deepcopy(value)
    with Damaged(file, json.dumps(content)):
        try:
            dataset = load_dataset(name, scenes[name])
        except ValueError as error:
            assert str(scenes[name]) in str(error)
            return
        use(dataset)
        found = sum(map(len, annotated.found(dataset).values()))
        removed = value == "removed" or value in ([], {}, None, "", 0, False)
        assert found == annotated.INSTANCES or dataset.problems or removed


@pytest.mark.parametrize("name", [*JSON_FILES, "yolo"])
@fuzz(50)
@given(data=st.data())
def test_any_bytes_in_a_file(data, scenes, name):
    file = scenes[name] / {**{n: f for n, (_, f) in JSON_FILES.items()}, "yolo": "data.yaml"}[name]
    whole = file.read_bytes()
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, len(whole)))
    content = whole[:start] + data.draw(st.binary(max_size=20)) + whole[end:]
    with Damaged(file, content):
        try:
            dataset = load_dataset(name, scenes[name])
        except (ValueError, FileNotFoundError) as error:
            assert str(scenes[name]) in str(error)
            return
        use(dataset)


@pytest.mark.parametrize("name", ["labelme", "masks", "yolo", "via"])
@fuzz(40)
@given(data=st.data())
def test_any_bytes_in_an_image(data, scenes, name):
    file = next(path for path in sorted(scenes[name].rglob("a.jpg")))
    with Damaged(file, damaged_bytes(data, file.read_bytes())):
        dataset = load_dataset(name, scenes[name])
        use(dataset)
        named = [problem for problem in dataset.problems if str(file) in problem.reason]
        assert len(named) == 3 - dataset.num_images


def test_cut_off_images_are_found(scenes):
    """A cut takes rows of pixels away wherever it is, so the inspection must see it."""
    file = scenes["coco"] / "train" / "a.jpg"
    dataset = load_dataset("coco", scenes["coco"])
    whole = file.read_bytes()
    for end in np.linspace(0, len(whole) * 0.9, 50).astype(int):
        with Damaged(file, whole[:end]):
            (problem,) = check_image(dataset, 0).problems
            assert problem.kind == "unreadable image" and problem.file == str(file)
    with Image.open(file) as image:  # put back
        image.load()
