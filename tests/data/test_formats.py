"""load_dataset, what all formats share: round trips, detection, classes, splits, sources."""

import logging

import numpy as np
import pytest

from mrcnn_parallel.data.coco_writer import write_coco
from mrcnn_parallel.data.formats import FORMATS, detect_format, load_dataset
from mrcnn_parallel.data.load import check_dataset, load_image_gt
from tests.data import annotated
from tests.data.synthetic import SyntheticConfig


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """{format: path of the scene}; the tests only read."""
    root = tmp_path_factory.mktemp("scenes")
    return {name: annotated.write_scene(name, root / name) for name in annotated.FORMATS}


def test_the_scene_is_written_in_every_format():
    assert set(annotated.FORMATS) == set(FORMATS)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_reads_the_scene(name, scenes):
    dataset = load_dataset(name, scenes[name])
    assert annotated.found(dataset) == annotated.expected()
    assert dataset.problems == []
    for image_id in dataset.image_ids:
        info = dataset.image_info[image_id]
        image = dataset.load_image(image_id)
        assert image.shape == (info["height"], info["width"], 3)
        assert dataset.image_file(image_id) == info["path"] == dataset.image_reference(image_id)


@pytest.mark.parametrize("name", FORMATS)
def test_outlines_and_masks_agree(name, scenes):
    dataset = load_dataset(name, scenes[name])
    for image_id in dataset.image_ids:
        segments, class_ids = dataset.load_polygons(image_id)
        masks, mask_ids = dataset.load_mask(image_id)
        np.testing.assert_array_equal(class_ids, mask_ids)
        assert class_ids.dtype == np.int32 and masks.shape[2] == len(segments)
        for segment in segments:
            if name in ("voc", "cityscapes", "masks"):
                assert set(segment) == {"size", "counts"}
            else:
                assert all(p.dtype == np.float64 and p.shape[1] == 2 for p in segment)


@pytest.mark.parametrize("name", FORMATS)
def test_round_trip_through_coco_keeps_every_instance(name, scenes, tmp_path):
    dataset = load_dataset(name, scenes[name])
    again = load_dataset("coco", write_coco(dataset, tmp_path / "out.json"))
    assert annotated.found(again) == annotated.found(dataset)
    assert again.class_names == dataset.class_names and again.problems == []
    for image_id in dataset.image_ids:
        before, _ = dataset.load_polygons(image_id)
        after, _ = again.load_polygons(image_id)
        for one, other in zip(before, after, strict=True):
            np.testing.assert_equal(one, other)  # polygons to the last digit, RLEs as they are


@pytest.mark.parametrize("name", FORMATS)
def test_formats_are_found_out(name, scenes):
    path = scenes[name]
    assert detect_format(path) == name
    assert type(load_dataset(path)) is FORMATS[name]
    assert type(load_dataset("auto", str(path))) is FORMATS[name]


def test_single_files_are_found_out(scenes):
    assert detect_format(scenes["coco"] / "annotations" / "instances_train.json") == "coco"
    assert detect_format(scenes["via"] / "via_region_data.json") == "via"
    assert detect_format(scenes["labelme"] / "a.json") == "labelme"
    assert detect_format(scenes["yolo"] / "data.yaml") == "yolo"


def test_what_is_no_dataset_is_refused(tmp_path, scenes):
    with pytest.raises(ValueError, match=r"no known format(.|\n)*labelme: \*\.json"):
        load_dataset(tmp_path)
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        load_dataset("coco", tmp_path / "nothing")
    with pytest.raises(ValueError, match="format 'pascal' is unknown; there are coco, via"):
        load_dataset("pascal", tmp_path)
    with pytest.raises(ValueError, match="format 'coco' but no path"):
        load_dataset("coco")
    with pytest.raises(ValueError, match=r"has no such option: .*colour"):
        load_dataset("coco", scenes["coco"], colour=1)
    with pytest.raises(ValueError, match="empty list"):
        load_dataset([])
    with pytest.raises(ValueError, match="list alone"):
        load_dataset([("coco", scenes["coco"])], scenes["via"])
    annotated.write_scene("voc", tmp_path)
    annotated.write_scene("masks", tmp_path)
    with pytest.raises(ValueError, match="format voc or masks; say which"):
        load_dataset(tmp_path)


# === Classes ===


def counts(dataset):
    """{class name: instances}."""
    result = dict.fromkeys(dataset.class_names[1:], 0)
    for image_id in dataset.image_ids:
        for number in dataset.load_polygons(image_id)[1]:
            result[dataset.class_names[number]] += 1
    return result


def test_classes_are_renamed_merged_and_dropped(scenes):
    def load(**options):
        return load_dataset("coco", scenes["coco"], **options)

    assert counts(load()) == {"person": 2, "car": 2}
    assert counts(load(class_map={"person": "human"})) == {"human": 2, "car": 2}
    merged = load(class_map={"person": "thing", "car": "thing"})
    assert counts(merged) == {"thing": 4} and merged.num_classes == 2
    assert merged.map_source_class_id("coco.7") == merged.map_source_class_id("coco.8") == 1
    assert merged.get_source_class_id(1, "coco") == 7
    assert counts(load(class_map={"car": None})) == {"person": 2}
    assert counts(load(include=["car"])) == {"car": 2}
    assert counts(load(exclude=["car"])) == {"person": 2}
    assert counts(load(class_map={"car": "bus"}, include=["bus"])) == {"bus": 2}
    assert load(include=["car"]).class_ids.tolist() == [0, 1]


def test_images_that_lose_their_instances_are_left_out(scenes):
    def names(**options):
        dataset = load_dataset("coco", scenes["coco"], **options)
        return [annotated.stem_of(info) for info in dataset.image_info]

    assert names() == ["a", "b", "c"]
    assert names(include=["person"]) == ["a", "c"]  # b had only cars, c never had anything
    assert names(include=["person"], keep_empty=True) == ["a", "b", "c"]
    assert names(include=["person"], keep_empty=False) == ["a"]


def test_wrong_class_names_are_refused(scenes):
    for options in ({"class_map": {"dog": "cat"}}, {"include": ["dog"]}, {"exclude": ["dog"]}):
        (argument,) = options
        with pytest.raises(ValueError, match=f"{argument} names the classes dog; there are car, p"):
            load_dataset("coco", scenes["coco"], **options)
    with pytest.raises(ValueError, match="give a list"):
        load_dataset("coco", scenes["coco"], include="car")
    with pytest.raises(ValueError, match="No class is left of car, person"):
        load_dataset("coco", scenes["coco"], exclude=["car", "person"])


@pytest.mark.parametrize("name", ["via", "labelme", "masks"])
def test_classes_that_a_format_does_not_list_are_sorted(name, scenes):
    """The order of files or regions, another one in each subset, must not number the classes."""
    dataset = load_dataset(name, scenes[name])
    assert dataset.class_names == ["BG", "car", "person"]


def test_classes_can_be_listed(scenes):
    def load(*classes, **options):
        return load_dataset("labelme", scenes["labelme"], classes=classes, **options)

    dataset = load("person", "dog", "car")
    assert dataset.class_names == ["BG", "person", "dog", "car"]
    assert counts(dataset) == {"person": 2, "dog": 0, "car": 2}
    assert dataset.source_class_ids["labelme"] == [0, 1, 2, 3]
    assert dataset.map_source_class_id("labelme.dog") == 2
    one = load("person", "car", include=["car"])
    assert one.class_names == ["BG", "person", "car"] and counts(one)["car"] == 2
    for classes in (("person",), ("person", "car", "car")):
        with pytest.raises(ValueError, match=r"must name each class once: car, person\. Leave"):
            load(*classes)
    with pytest.raises(ValueError, match="classes is the text 'car'; give a list"):
        load_dataset("labelme", scenes["labelme"], classes="car")


# === Splits ===


def many_images(root, count):
    content = annotated.coco_content()
    content["images"] = [
        {"id": number, "file_name": "a.jpg", "height": 40, "width": 60} for number in range(count)
    ]
    content["annotations"] = []
    annotated.write_json(root / "many.json", content)
    annotated.write_image(root / "a.jpg", "a")
    return root / "many.json"


def test_splits_are_complements_and_repeatable(tmp_path):
    path = many_images(tmp_path, 103)

    def ids(*split, seed=0):
        dataset = load_dataset("coco", path, split=split, seed=seed)
        return [info["id"] for info in dataset.image_info]

    train, val = ids("train", 0.8), ids("val", 0.2)
    assert len(train) == 82 and sorted(train + val) == list(range(103))
    assert train == ids("train", 0.8) and train == sorted(train)
    assert train != ids("train", 0.8, seed=1)
    assert set(ids("train", 0.5)) < set(train)
    assert train[:9] == [0, 2, 3, 4, 5, 6, 7, 8, 9]  # pinned: a split outlives versions


def test_wrong_splits_are_refused(scenes):
    for split in (("train", 1.0), ("train", 0), ("all", 0.5), "train", ("train", "0.8"), 0.8):
        with pytest.raises(ValueError, match=r"it must be \(part, share\)"):
            load_dataset("coco", scenes["coco"], split=split)
    with pytest.raises(ValueError, match=r'take 80% .* \("val", 0.2\) is the rest'):
        load_dataset("coco", scenes["coco"], split=("val", 0.8))
    with pytest.raises(ValueError, match="no image is left"):
        load_dataset("coco", scenes["coco"], split=("val", 0.1))


# === Several sources ===


def test_sources_are_joined_by_class_name(scenes, tmp_path):
    other = annotated.write_scene("coco", tmp_path / "other")
    sources = [
        ("coco", scenes["coco"], {"subset": "train"}),
        ("masks", scenes["masks"]),
        other,
    ]
    dataset = load_dataset(sources)
    assert dataset.class_names == ["BG", "person", "car"]
    assert counts(dataset) == {"person": 6, "car": 6}
    assert dataset.sources == ["", "coco", "masks", "coco-2"]
    assert dataset.source_class_ids["coco-2"] == [0, 1, 2]
    assert dataset.map_source_class_id("coco-2.8") == 2 == dataset.map_source_class_id("coco.8")
    assert dataset.map_source_class_id("masks.1") == 2
    assert dataset.get_source_class_id(2, "masks") == 1
    with pytest.raises(ValueError, match="belongs to source"):
        dataset.get_source_class_id(2, "yolo")


def test_each_source_keeps_the_classes_it_annotates(scenes):
    sources = [("coco", scenes["coco"]), ("cityscapes", scenes["cityscapes"])]
    dataset = load_dataset(sources, include=["car", "bus"])
    assert dataset.class_names == ["BG", "car", "bus"]
    assert dataset.source_class_ids == {"": [0], "coco": [0, 1], "cityscapes": [0, 1, 2]}


def test_a_source_name_can_be_given_once(scenes):
    sources = [(name, scenes[name], {"source": "mine"}) for name in ("coco", "via")]
    with pytest.raises(ValueError, match="Two sources are called mine"):
        load_dataset(sources)
    assert load_dataset(sources[:1]).sources == ["", "mine"]


def test_a_class_called_like_the_background_stays_a_class(scenes):
    dataset = load_dataset("coco", scenes["coco"], class_map={"car": "BG"})
    assert dataset.class_names == ["BG", "person", "BG"]
    assert sorted(dataset.load_polygons(0)[1].tolist()) == [1, 1, 2]


def test_a_subclass_with_its_own_masks_has_no_outlines(scenes):
    class Flipped(FORMATS["coco"]):
        def load_mask(self, image_id):
            masks, class_ids = super().load_mask(image_id)
            return masks[::-1], class_ids

    dataset = Flipped()
    dataset.read(scenes["coco"])
    dataset.prepare()
    assert dataset.load_polygons(0) is None


def test_problems_are_logged_up_to_a_limit(tmp_path, caplog):
    path = many_images(tmp_path, 30)
    (tmp_path / "b.jpg").write_bytes(b"")
    content = annotated.coco_content()
    for image in content["images"][1:]:
        image["file_name"] = "missing.jpg"
    content["images"] += [{"id": number, "file_name": "gone.jpg"} for number in range(9, 25)]
    annotated.write_json(path, content)
    with caplog.at_level(logging.WARNING, "mrcnn_parallel"):
        dataset = load_dataset("coco", path)
    assert len(dataset.problems) == 2 + 16 + 1  # images, and the annotation of b
    assert len(caplog.records) == 11
    assert "there is no missing.jpg" in caplog.messages[0]
    assert "19 problems, 10 of them above" in caplog.messages[-1]


@pytest.mark.parametrize("name", FORMATS)
def test_training_takes_every_format(name, scenes):
    dataset = load_dataset(name, scenes[name])
    config = SyntheticConfig(NUM_CLASSES=dataset.num_classes, IMAGE_MAX_DIM=64)
    check_dataset(dataset, config)
    for image_id in dataset.image_ids:
        image, _, class_ids, boxes, masks = load_image_gt(dataset, config, image_id)
        assert image.shape == (64, 64, 3) and masks.shape == (28, 28, len(class_ids))
        stem = annotated.stem_of(dataset.image_info[image_id])
        assert len(boxes) == len(annotated.SCENE[stem])
