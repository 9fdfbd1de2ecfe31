"""Cityscapes' instance pictures: classes, groups, layouts, what is left out."""

import numpy as np
import pytest
from PIL import Image

from mrcnn_parallel.data.formats import load_dataset
from tests.data import annotated


def save(path, numbers):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(numbers, np.uint16)).save(path)


def test_groups_are_crowds_and_stuff_is_nothing(tmp_path):
    folder = annotated.write_scene("cityscapes", tmp_path)
    numbers = np.full((32, 32), 7)  # road
    numbers[:4] = 26  # a row of cars that nobody separated
    numbers[10:20, 10:20] = 26003
    numbers[25:30] = 5  # dynamic
    save(folder / "gtFine" / "train" / "ulm" / "c_gtFine_instanceIds.png", numbers)
    dataset = load_dataset("cityscapes", folder, subset="train")
    masks, class_ids = dataset.load_mask(2)
    car = dataset.class_names.index("car")
    assert class_ids.tolist() == [-car, car]
    assert masks[:4, :, 0].all() and masks.sum(axis=(0, 1)).tolist() == [4 * 32, 100]
    assert dataset.problems == []
    assert dataset.image_info[2]["id"] == "ulm/c_gtFine"


def test_a_simple_folder_and_own_classes(tmp_path):
    annotated.write_image(tmp_path / "c.jpg", "c")
    numbers = np.zeros((32, 32))
    numbers[:5], numbers[5:9], numbers[9:12] = 1001, 1002, 4000
    save(tmp_path / "c_instanceIds.png", numbers)
    dataset = load_dataset(tmp_path, class_names={1: "cell", 2: "dust"})
    assert dataset.class_names == ["BG", "cell", "dust"]
    assert dataset.load_mask(0)[0].sum(axis=(0, 1)).tolist() == [5 * 32, 4 * 32]
    (problem,) = dataset.problems
    assert problem.kind == "unknown class" and problem.record == "instance 4000"
    assert problem.reason == "its class 4 is not among [1, 2]"


def test_what_is_missing_or_does_not_fit_is_named(tmp_path):
    folder = annotated.write_scene("cityscapes", tmp_path)
    (folder / "leftImg8bit" / "train" / "ulm" / "a_leftImg8bit.png").unlink()
    pictures = folder / "gtFine" / "train" / "ulm"
    save(pictures / "b_gtFine_instanceIds.png", np.zeros((5, 5)))
    dataset = load_dataset("cityscapes", folder)
    assert dataset.num_images == 1
    kinds = {problem.file.rpartition("/")[2][0]: problem for problem in dataset.problems}
    assert kinds["a"].kind == "missing file" and "a_leftImg8bit" in kinds["a"].reason
    assert "its shape is (5, 5), the image b_leftImg8bit.png is 30 x 50" in kinds["b"].reason
    with pytest.raises(FileNotFoundError, match=r"no folder .*test"):
        load_dataset("cityscapes", folder, subset="test")
    with pytest.raises(FileNotFoundError, match=r"no \*_instanceIds.png"):
        load_dataset("cityscapes", folder / "leftImg8bit")
