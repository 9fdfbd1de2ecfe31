"""VGG Image Annotator's files: the three versions say the same, each shape becomes its mask."""

import json
import logging
import math

import numpy as np
import pytest

from mrcnn_parallel.data import via_format

POLYGON = {"name": "polygon", "all_points_x": [2, 12, 12, 2], "all_points_y": [3, 3, 9, 9]}
CIRCLE = {"name": "circle", "cx": 20, "cy": 15, "r": 6}


def version_1(images):
    """`images`: {file name: [shape]}."""
    return {
        f"{name}1234": {
            "fileref": "",
            "size": 1234,
            "filename": name,
            "base64_img_data": "",
            "file_attributes": {},
            "regions": {
                str(number): {"shape_attributes": shape, "region_attributes": {"kind": "b"}}
                for number, shape in enumerate(shapes)
            },
        }
        for name, shapes in images.items()
    }


def version_2(images):
    entries = version_1(images)
    for entry in entries.values():
        entry["regions"] = list(entry["regions"].values())
    return entries


def version_2_project(images):
    return {"_via_settings": {}, "_via_img_metadata": version_2(images), "_via_attributes": {}}


def version_3(images):
    """Knows the shapes of this file only."""
    content = {"project": {}, "config": {}, "attribute": {}, "file": {}, "view": {}, "metadata": {}}
    for number, (name, shapes) in enumerate(images.items(), start=1):
        content["file"][str(number)] = {"fid": number, "fname": name, "type": 2}
        content["view"][str(number)] = {"fid_list": [number]}
        for index, shape in enumerate(shapes):
            if shape["name"] == "polygon":
                points = zip(shape["all_points_x"], shape["all_points_y"], strict=True)
                xy = [7, *(side for point in points for side in point)]
            elif shape["name"] == "circle":
                xy = [3, shape["cx"], shape["cy"], shape["r"]]
            else:
                xy = [1, 5, 5]
            content["metadata"][f"{number}_{index}"] = {
                "vid": str(number), "flg": 0, "z": [], "xy": xy, "av": {"1": "b"}
            }  # fmt: skip
    content["metadata"]["whole"] = {"vid": "1", "flg": 0, "z": [], "xy": [], "av": {}}
    return content


VERSIONS = [version_1, version_2, version_2_project, version_3]


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.__name__)
def test_all_versions_give_the_same_regions(version, tmp_path, caplog):
    path = tmp_path / "via_region_data.json"
    point = {"name": "point", "cx": 5, "cy": 5}
    path.write_text(json.dumps(version({"a.jpg": [POLYGON, CIRCLE, point], "b.jpg": []})))
    with caplog.at_level(logging.WARNING, "mrcnn_parallel"):
        images = via_format.read_via(path)
    assert list(images) == ["a.jpg", "b.jpg"] and images["b.jpg"] == []
    assert [region["shape"] for region in images["a.jpg"]] == [POLYGON, CIRCLE]
    assert "b" in images["a.jpg"][0]["attributes"].values()
    assert "1 points or lines have no area" in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not json", "is not a JSON file"),
        ("[]", "no entries with a 'filename'"),
        ('{"images": [], "annotations": []}', "no entries with a 'filename'"),
        ('{"a": {"regions": []}}', "no entries with a 'filename'"),
    ],
)
def test_other_files_are_refused(text, message, tmp_path):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        via_format.read_via(path)
    with pytest.raises(FileNotFoundError):
        via_format.read_via(tmp_path / "y.json")


# === Masks ===


def test_polygons_cover_their_pixels_and_stop_at_the_border():
    mask = via_format.region_mask(POLYGON, 30, 40)
    expected = np.zeros((30, 40), bool)
    expected[3:10, 2:13] = True  # corners are pixels, and belong to the shape
    np.testing.assert_array_equal(mask, expected)
    outside = {"all_points_x": [-9, 50, 50, -9], "all_points_y": [20, 20, 99, 99]}  # old: no name
    mask = via_format.region_mask(outside, 30, 40)
    assert mask[20:].all() and not mask[:20].any()
    line = {**POLYGON, "name": "polyline"}
    np.testing.assert_array_equal(via_format.region_mask(line, 30, 40), expected)


def test_rectangles_and_circles():
    rect = {"name": "rect", "x": 4, "y": -3, "width": 10, "height": 8}
    mask = via_format.region_mask(rect, 30, 40)
    assert mask[:5, 4:14].all() and mask.sum() == 50
    y, x = np.mgrid[:30, :40]
    mask = via_format.region_mask(CIRCLE, 30, 40)
    np.testing.assert_array_equal(mask, (y - 15) ** 2 + (x - 20) ** 2 < 36)
    beyond = {"name": "rect", "x": -40, "y": -30, "width": 10, "height": 8}
    assert not via_format.region_mask(beyond, 30, 40).any()


@pytest.mark.parametrize("degrees", [0, 30, 90, 140, 200])
def test_ellipses_turn_clockwise_on_screen(degrees):
    theta = math.radians(degrees)
    shape = {"name": "ellipse", "cx": 50, "cy": 50, "rx": 40, "ry": 10, "theta": theta}
    mask = via_format.region_mask(shape, 101, 101)
    y, x = np.mgrid[:101, :101] - 50.0
    along = x * math.cos(theta) + y * math.sin(theta)  # y grows downwards
    across = -x * math.sin(theta) + y * math.cos(theta)
    expected = (along / 40) ** 2 + (across / 10) ** 2 < 1
    assert (mask & expected).sum() / (mask | expected).sum() > 0.97


def test_version_3_shapes():
    shapes = {
        "rect": [2, 4, 5, 10, 8],
        "ellipse": [4, 20, 15, 9, 5],
        "extreme rect": [8, 4, 9, 8, 5, 14, 6, 7, 13],  # a point on each side
        "extreme circle": [9, 26, 15, 20, 21, 14, 15],  # three points
    }
    content = version_3({"a.jpg": [POLYGON] * len(shapes)})
    entries = [entry for entry in content["metadata"].values() if entry["xy"]]
    for entry, xy in zip(entries, shapes.values(), strict=True):
        entry["xy"] = xy
    regions = via_format._version_3(content)["a.jpg"]
    masks = [via_format.region_mask(region["shape"], 30, 40) for region in regions]
    assert masks[0][5:13, 4:14].all() and masks[0].sum() == 80
    assert masks[1].sum() == pytest.approx(math.pi * 9 * 5, rel=0.05)
    np.testing.assert_array_equal(masks[2], masks[0])
    circle = via_format.region_mask(CIRCLE, 30, 40)
    assert (masks[3] ^ circle).sum() <= 4  # the very border pixels
    entries[0]["xy"] = [77, 1, 2]
    with pytest.raises(ValueError, match="shape number 77"):
        via_format._version_3(content)
    with pytest.raises(ValueError, match="'star' can't be drawn"):
        via_format.region_mask({"name": "star"}, 30, 40)
