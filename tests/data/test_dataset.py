"""The Dataset base class: numbering, sources, reading."""

import numpy as np
import pytest
from PIL import Image

from mrcnn_parallel.data.dataset import Dataset


@pytest.fixture
def dataset():
    """Two sources: cats and dogs in one, dogs under another id in the other."""
    data = Dataset()
    data.add_class("pets", 5, "cat,tomcat")
    data.add_class("pets", 9, "dog")
    data.add_class("street", "d", "dog")
    data.add_class("pets", 5, "cat again")
    data.add_image("pets", "p1", "/photos/p1.jpg", width=640, height=480)
    data.add_image("street", 17, None)
    data.prepare()
    return data


def test_numbers(dataset):
    assert dataset.num_classes == 4
    assert dataset.class_ids.tolist() == [0, 1, 2, 3]
    assert dataset.class_names == ["BG", "cat", "dog", "dog"]
    assert dataset.num_images == 2
    assert dataset.image_ids.tolist() == [0, 1]
    assert dataset.class_info[0] == {"source": "", "id": 0, "name": "BG"}
    assert dataset.image_info[0] == {
        "id": "p1",
        "source": "pets",
        "path": "/photos/p1.jpg",
        "width": 640,
        "height": 480,
    }


def test_sources(dataset):
    assert dataset.sources == ["", "pets", "street"]
    assert dataset.source_class_ids == {"": [0], "pets": [0, 1, 2], "street": [0, 3]}
    assert dataset.map_source_class_id("pets.9") == 2
    assert dataset.map_source_class_id("street.d") == 3
    assert dataset.get_source_class_id(2, "pets") == 9
    assert dataset.image_from_source_map == {"pets.p1": 0, "street.17": 1}
    assert dataset.source_image_link(0) == "/photos/p1.jpg"
    with pytest.raises(ValueError, match=r"class 2 \('dog'\) belongs to source 'pets'"):
        dataset.get_source_class_id(2, "street")


def test_a_dot_in_a_source_is_refused():
    with pytest.raises(ValueError, match=r"'my\.data' must not contain a dot"):
        Dataset().add_class("my.data", 1, "cat")


def test_class_maps_are_refused():
    with pytest.raises(ValueError, match="class_map is not supported"):
        Dataset(class_map={"a": 1})
    with pytest.raises(ValueError, match="class_map is not supported"):
        Dataset().prepare({"a": 1})


def test_it_is_empty_before_prepare_and_has_no_masks():
    data = Dataset()
    assert len(data.image_ids) == 0
    assert data.image_reference(0) == ""
    masks, class_ids = data.load_mask(0)
    assert masks.shape == (0, 0, 0)
    assert class_ids.shape == (0,)


def test_more_can_be_added_after_prepare(dataset):
    dataset.add_class("street", "c", "car")
    dataset.add_image("street", 18, None)
    dataset.prepare()
    assert dataset.num_classes == 5
    assert dataset.source_class_ids["street"] == [0, 3, 4]
    assert dataset.image_ids.tolist() == [0, 1, 2]


def test_load_image_reads_the_file(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 4)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    data = Dataset()
    data.add_image("pets", 1, str(tmp_path / "a.png"))
    data.prepare()
    np.testing.assert_array_equal(data.load_image(0), pixels[..., :3])
