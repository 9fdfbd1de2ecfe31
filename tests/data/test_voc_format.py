"""Pascal VOC's pictures: palettes, grey and colours, void, class names, what is left out."""

import numpy as np
import pytest
from PIL import Image

from mrcnn_parallel.data.formats import load_dataset
from mrcnn_parallel.data.voc_format import VOC_NAMES, voc_colors
from tests.data import annotated


@pytest.fixture
def folder(tmp_path):
    return annotated.write_scene("voc", tmp_path)


def rewrite(folder, change):
    """Rewrites each pair of pictures of the scene: change(path, numbers)."""
    for name in annotated.SCENE:
        objects, classes = annotated.number_pictures(name)
        change(folder / "SegmentationObject" / f"{name}.png", objects)
        change(folder / "SegmentationClass" / f"{name}.png", classes)


def test_the_colours_of_voc():
    colors = voc_colors().tolist()
    assert colors[:4] == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0]]
    assert colors[15] == [192, 128, 128] and colors[255] == [224, 224, 192]
    assert len({tuple(color) for color in colors}) == 256


def grey(path, numbers):
    Image.fromarray(numbers).save(path)


def in_colour(path, numbers):
    Image.fromarray(voc_colors()[numbers]).save(path)


def shuffled_palette(path, numbers):
    """VOC's colours at other indices, as an image editor saves them."""
    order = np.random.default_rng(0).permutation(256)
    annotated.save_palette(path, order[numbers], voc_colors()[np.argsort(order)])


def own_palette(path, numbers):
    """Colours that VOC does not have: then the indices count."""
    colors = np.random.default_rng(0).integers(1, 255, (256, 3), np.uint8) | 1
    annotated.save_palette(path, numbers, colors)


@pytest.mark.parametrize("change", [grey, in_colour, shuffled_palette, own_palette])
def test_pictures_in_other_forms_say_the_same(folder, change):
    rewrite(folder, change)
    dataset = load_dataset("voc", folder)
    assert annotated.found(dataset) == annotated.expected() and dataset.problems == []


def test_colours_of_a_labelmap(folder):
    """What CVAT exports: its own colours for classes, any colours for instances."""
    (folder / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\nperson:10,20,30::\ncar:40,50,60::\n"
    )
    table = np.array([[0, 0, 0], [10, 20, 30], [40, 50, 60], [7, 7, 7]], np.uint8)

    def change(path, numbers):
        colors = table if "Class" in str(path) else table[[0, 3, 2, 1]]
        Image.fromarray(colors[numbers]).save(path)

    rewrite(folder, change)
    dataset = load_dataset("voc", folder)
    assert annotated.found(dataset) == annotated.expected()
    change(folder / "SegmentationClass" / "b.png", np.full((50, 30), 3))
    dataset = load_dataset("voc", folder)
    (problem,) = dataset.problems
    assert "colour (7, 7, 7), which stands for no class" in problem.reason
    assert problem.file.endswith("SegmentationObject/b.png") and dataset.num_images == 2


def test_void_belongs_to_nothing(folder):
    objects, classes = annotated.number_pictures("b")
    objects[8], classes[8] = 255, 255  # the last row of its only instance
    objects[20:22], classes[20:22] = 2, 255  # an instance without a class
    annotated.save_palette(folder / "SegmentationObject" / "b.png", objects)
    annotated.save_palette(folder / "SegmentationClass" / "b.png", classes)
    dataset = load_dataset("voc", folder)
    masks, class_ids = dataset.load_mask(1)
    assert masks[:8].all() and masks.sum() == 8 * 30 and class_ids.tolist() == [2]
    (problem,) = dataset.problems
    assert problem.record == "instance 2" and "no pixel of it has a class" in problem.reason


def test_subsets_and_class_names(folder):
    assert [i["id"] for i in load_dataset(folder, subset="train").image_info] == ["a", "b"]
    with pytest.raises(FileNotFoundError, match=r"test.txt of a subset; there are train, val"):
        load_dataset(folder, subset="test")
    named = load_dataset(folder, class_names=["walker", "bus"])
    assert named.class_names == ["BG", "walker", "bus"]
    (folder / "labelmap.txt").unlink()
    assert load_dataset(folder).class_names == ["BG", *VOC_NAMES]
    few = load_dataset(folder, class_names=["walker"])
    assert {p.kind for p in few.problems} == {"unknown class"} and len(few.problems) == 2
    (folder / "labels.txt").write_text("background\n")
    with pytest.raises(ValueError, match=r"labels.txt names no class"):
        load_dataset(folder)
    (folder / "labels.txt").write_text("car:1,2\n")
    with pytest.raises(ValueError, match="no name:r,g,b: 'car:1,2'"):
        load_dataset(folder)
    with pytest.raises(FileNotFoundError, match="no folder in Pascal VOC's layout"):
        load_dataset("voc", folder / "JPEGImages")


def test_missing_and_unfitting_files_are_named(folder):
    (folder / "JPEGImages" / "c.jpg").unlink()
    (folder / "SegmentationClass" / "a.png").unlink()
    grey(folder / "SegmentationObject" / "b.png", np.zeros((9, 9), np.uint8))
    with pytest.raises(ValueError, match="no image that can be used; 3 problems"):
        load_dataset("voc", folder)
    annotated.write_image(folder / "JPEGImages" / "c.jpg", "c")
    dataset = load_dataset("voc", folder)
    assert [info["id"] for info in dataset.image_info] == ["c"]
    reasons = {problem.file[-5]: problem.reason for problem in dataset.problems}
    assert "SegmentationClass/a.png" in reasons["a"]
    assert reasons["b"] == "its picture of instances is 9 x 9 pixels, the image 30 x 50"
