"""Folders of masks: both layouts, classes from folders, what is left out."""

import numpy as np
import pytest
from PIL import Image

from mrcnn_parallel.data.formats import detect_format, load_dataset
from tests.data import annotated


def save(path, mask):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(mask)).save(path)


def write_nuclei(root):
    """The layout of the 2018 Data Science Bowl."""
    for name in annotated.SCENE:
        annotated.write_image(root / name / "images" / f"{name}.png", name)
        (root / name / "masks").mkdir()
        for number, (_, points) in enumerate(annotated.SCENE[name]):
            mask = annotated.mask_of(name, points)
            save(root / name / "masks" / f"{number}.png", mask.astype(np.uint8) * 255)
    return root


def masks_of(dataset):
    return {
        info["id"]: sorted(
            mask.tobytes() for mask in dataset.load_mask(number)[0].transpose(2, 0, 1)
        )
        for number, info in enumerate(dataset.image_info)
    }


EXPECTED = {
    name: sorted(mask for _, mask in instances) for name, instances in annotated.expected().items()
}


def test_a_folder_per_image(tmp_path):
    write_nuclei(tmp_path / "stage1_train")
    assert detect_format(tmp_path) == detect_format(tmp_path / "stage1_train") == "masks"
    dataset = load_dataset("masks", tmp_path, subset="stage1_train", class_name="nucleus")
    assert masks_of(dataset) == EXPECTED and dataset.class_names == ["BG", "nucleus"]
    with pytest.raises(FileNotFoundError, match=r"has the subsets stage1_train: subset=\.\.\."):
        load_dataset("masks", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no folder .*stage2"):
        load_dataset("masks", tmp_path, subset="stage2")


def test_images_without_masks_have_no_instances(tmp_path):
    for name in annotated.SCENE:
        annotated.write_image(tmp_path / name / "images" / f"{name}.png", name)
    dataset = load_dataset("masks", tmp_path)
    assert dataset.num_images == 3 and dataset.class_names == ["BG", "object"]
    assert all(len(dataset.load_mask(number)[1]) == 0 for number in dataset.image_ids)


def test_images_and_masks_apart(tmp_path):
    annotated.write_image(tmp_path / "images" / "deep" / "a.jpg", "a")
    save(tmp_path / "masks" / "deep" / "a" / "1.png", np.ones((40, 60), bool))
    save(tmp_path / "masks" / "deep" / "a" / "leaf" / "1.png", np.eye(40, 60) > 0)
    dataset = load_dataset("masks", tmp_path)
    masks, class_ids = dataset.load_mask(0)
    assert dataset.image_info[0]["id"] == "deep/a.jpg"
    names = [dataset.class_names[number] for number in class_ids]
    assert dict(zip(names, masks.sum(axis=(0, 1)).tolist(), strict=True)) == {
        "object": 2400,
        "leaf": 40,
    }


@pytest.mark.parametrize("form", ["grey", "palette", "colour", "alpha", "16 bits"])
def test_masks_in_every_form(form, tmp_path):
    annotated.write_image(tmp_path / "images" / "c.jpg", "c")
    mask = annotated.mask_of("c", [(3, 3), (20, 3), (20, 30), (3, 30)])
    grey = mask.astype(np.uint8)
    path = tmp_path / "masks" / "c" / "1.png"
    if form == "palette":  # index 5 is black, index 0 is not
        colors = np.full((256, 3), 200, np.uint8)
        colors[5] = 0
        annotated.save_palette(path, np.where(mask, 0, 5), colors)
    elif form == "alpha":
        save(path, np.stack([grey * 9, grey * 0, grey * 0, grey * 0 + 255], axis=-1))
    else:
        kinds = {"grey": grey, "colour": grey[..., None] * np.array([0, 1, 0], np.uint8)}
        save(path, kinds.get(form, grey.astype(np.uint16) * 256))
    dataset = load_dataset("masks", tmp_path)
    np.testing.assert_array_equal(dataset.load_mask(0)[0][..., 0], mask)


def test_what_does_not_fit_is_named(tmp_path):
    write_nuclei(tmp_path)
    save(tmp_path / "a" / "masks" / "0.png", np.ones((9, 9), bool))
    save(tmp_path / "a" / "masks" / "1.png", np.zeros((40, 60), bool))
    (tmp_path / "a" / "masks" / "notes.txt").write_text("hello")
    (tmp_path / "c" / "images" / "c.png").unlink()
    dataset = load_dataset("masks", tmp_path)
    assert [info["id"] for info in dataset.image_info] == ["a", "b"]
    assert len(dataset.load_mask(0)[1]) == 1
    reasons = {problem.file.rpartition("/")[2]: problem for problem in dataset.problems}
    assert reasons["0.png"].reason == "it is 9 x 9 pixels, its image 60 x 40"
    assert reasons["1.png"].kind == "empty annotation"
    assert "notes.txt" not in reasons  # it is no picture
    assert reasons["c"].kind == "missing file"
