"""The VIA reader: versions, shapes as polygons, the class attribute, what is left out."""

import json

import numpy as np
import pytest

from mrcnn_parallel.data import segments, via_format
from mrcnn_parallel.data.formats import detect_format, load_dataset
from tests.data import annotated
from tests.data.test_via_format import CIRCLE, VERSIONS


@pytest.fixture
def folder(tmp_path):
    annotated.write_scene("via", tmp_path)
    return tmp_path / "train"


def rewrite(folder, change):
    path = folder / "via_region_data.json"
    content = json.loads(path.read_text())
    change(list(content.values()))
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.__name__)
def test_all_versions_are_read(version, tmp_path):
    polygons = {
        f"{name}.jpg": [
            {
                "name": "polygon",
                "all_points_x": [x for x, _ in points],
                "all_points_y": [y for _, y in points],
            }
            for _, points in annotated.SCENE[name]
        ]
        for name in annotated.SCENE
    }
    annotated.write_json(tmp_path / "any.json", version(polygons))
    for name in annotated.SCENE:
        annotated.write_image(tmp_path / f"{name}.jpg", name)
    assert detect_format(tmp_path) == "via"
    dataset = load_dataset(tmp_path)
    assert dataset.class_names == ["BG", "b"]  # what these files' regions are
    masks = {
        name: sorted(mask for _, mask in instances)
        for name, instances in annotated.expected().items()
    }
    found = annotated.found(dataset)
    assert {name: sorted(mask for _, mask in found[name]) for name in found} == masks


def test_regions_as_polygons_have_the_area_of_their_masks():
    shapes = [
        CIRCLE,
        {"name": "ellipse", "cx": 20, "cy": 15, "rx": 12, "ry": 5, "theta": 0.6},
        {"name": "rect", "x": 3, "y": 4, "width": 10, "height": 8},
    ]
    for shape in shapes:
        polygon = via_format.region_polygon(shape, 30, 40)
        drawn = segments.to_mask([polygon], 30, 40)
        mask = via_format.region_mask(shape, 30, 40)
        # The circles of region_mask are around pixel centres, half a pixel beside.
        assert (drawn ^ mask).sum() < 0.2 * mask.sum()
        assert abs(drawn.sum() - mask.sum()) < 0.05 * mask.sum()


def test_rectangles_are_exact():
    polygon = via_format.region_polygon(
        {"name": "rect", "x": 3, "y": 4, "width": 10, "height": 8}, 30, 40
    )
    mask = segments.to_mask([polygon], 30, 40)
    assert mask[4:12, 3:13].all() and mask.sum() == 80


def test_the_class_attribute(folder):
    def attributes(values):
        def change(entries):
            for entry in entries:
                for region in entry["regions"]:
                    region["region_attributes"] = values

        rewrite(folder, change)

    attributes({})
    assert load_dataset("via", folder, class_name="balloon").class_names == ["BG", "balloon"]
    attributes({"kind": "cell", "colour": "red"})
    with pytest.raises(ValueError, match="attributes kind, colour; say which one"):
        load_dataset("via", folder)
    assert load_dataset("via", folder, class_attribute="kind").class_names == ["BG", "cell"]
    with pytest.raises(ValueError, match="no region attribute 'size'; it has kind, colour"):
        load_dataset("via", folder, class_attribute="size")
    attributes({"kind": "cell", "label": {"dog": True, "cat": False}})  # boxes to check
    assert load_dataset("via", folder).class_names == ["BG", "dog"]
    attributes({"label": {"dog": True, "cat": True}})
    dataset = load_dataset("via", folder)
    assert {problem.kind for problem in dataset.problems} == {"unknown class"}
    assert len(dataset.problems) == annotated.INSTANCES and dataset.num_images == 3


def test_options_of_version_3_are_named(tmp_path):
    content = {
        "attribute": {"1": {"aname": "class", "options": {"0": "dog", "1": "cat"}}},
        "file": {"1": {"fname": "a.jpg"}, "2": {"fname": "b.jpg"}},
        "view": {"1": {"fid_list": ["1"]}, "2": {"fid_list": ["1", "2"]}, "3": {"fid_list": []}},
        "metadata": {
            "x": {"vid": "1", "xy": [2, 4, 5, 10, 8], "av": {"1": "1"}},
            "y": {"vid": "1", "xy": [77, 4, 5], "av": {"1": "0"}},
            "z": {"vid": "9", "xy": [2, 4, 5, 10, 8], "av": {"1": "0"}},
        },
    }
    annotated.write_json(tmp_path / "project.json", content)
    annotated.write_image(tmp_path / "a.jpg", "a")
    dataset = load_dataset("via", tmp_path / "project.json")
    assert dataset.class_names == ["BG", "cat"] and dataset.load_mask(0)[0].sum() == 80
    records = [problem.record for problem in dataset.problems]
    assert records == ["view 3", "region y", "region z"]


POLYGON = {"name": "polygon", "all_points_x": [1, 9, 9], "all_points_y": [1, 1, 9]}


@pytest.mark.parametrize(
    ("region", "kind", "reason"),
    [
        ({"shape_attributes": {"name": "point", "cx": 1, "cy": 2}}, "no outline", "no area"),
        ({"shape_attributes": {"name": "star"}}, "damaged record", "'star' can't be drawn"),
        ({"shape_attributes": {**POLYGON, "all_points_x": [1, 2]}}, "damaged record", "not pairs"),
        ({"shape_attributes": {**POLYGON, "all_points_x": 5}}, "damaged record", "not pairs"),
        (
            {"shape_attributes": {"all_points_x": [1, 2], "all_points_y": [1, 2]}},
            "empty annotation",
            "it has 2 vertices",
        ),
        ({"shape_attributes": {"name": "circle", "cx": 1}}, "damaged record", "it has no 'r'"),
        ({"shape_attributes": {**CIRCLE, "r": 1e30}}, "damaged record", "not numbers near"),
        ({"shape_attributes": {**CIRCLE, "r": "nan"}}, "damaged record", "no finite numbers"),
        ({"shape_attributes": None}, "damaged record", "can't be read"),
        ({}, "damaged record", "it has no 'shape_attributes'"),
        (7, "damaged record", "can't be read"),
        ({"shape_attributes": POLYGON}, "unknown class", "attribute 'class' is None"),
    ],
)
def test_damaged_regions_are_named_and_the_others_stay(region, kind, reason, folder):
    rewrite(folder, lambda entries: entries[1]["regions"].insert(0, region))
    dataset = load_dataset("via", folder)
    assert annotated.found(dataset) == annotated.expected()
    (problem,) = dataset.problems
    assert (problem.record, problem.kind) == ("b.jpg, region 0", kind)
    assert reason in problem.reason


def test_damaged_entries_are_named(folder):
    (folder / "b.jpg").write_bytes(b"no image")

    def damage(entries):
        entries[2]["filename"] = "a.jpg"

    rewrite(folder, damage)
    path = folder / "via_region_data.json"
    content = json.loads(path.read_text())
    content.update(x={"filename": ""}, y=None, z={"filename": "d.jpg", "regions": 5})
    path.write_text(json.dumps(content))
    dataset = load_dataset("via", folder)
    assert [info["id"] for info in dataset.image_info] == ["a.jpg"]
    assert sorted((problem.record, problem.kind) for problem in dataset.problems) == [
        ("a.jpg", "duplicated id"),
        ("b.jpg", "unreadable image"),
        ("entry x", "damaged record"),
        ("entry y", "damaged record"),
        ("entry z", "damaged record"),
    ]


def test_where_the_file_is(folder, tmp_path):
    assert load_dataset("via", tmp_path, subset="train").num_images == 3
    with pytest.raises(FileNotFoundError, match=r"0 annotation files .* subsets train: subset"):
        load_dataset("via", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no file or folder .*val"):
        load_dataset("via", tmp_path, subset="val")
    for text in ("[]", "{}", '{"a": {"regions": []}}', '{"a": 5}'):
        (folder / "via_region_data.json").write_text(text)
        with pytest.raises(ValueError, match=r"no entries with|no image that can be used"):
            load_dataset("via", folder)


def test_the_balloon_dataset_reads_the_same_regions(folder):
    dataset = load_dataset("via", folder)
    regions = via_format.read_via(folder / "via_region_data.json")
    for number, info in enumerate(dataset.image_info):
        polygons, _ = dataset.load_polygons(number)
        for (polygon,), region in zip(polygons, regions[info["id"]], strict=True):
            np.testing.assert_array_equal(polygon[:, 0], region["shape"]["all_points_x"])
