"""Augmentation by functions, and what holds without imgaug; see test_imgaug for imgaug itself."""

import importlib.machinery
import subprocess
import sys

import numpy as np
import pytest

from mrcnn_parallel.data import augmentation

IMAGE = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
MASK = IMAGE[..., :2] % 2 == 0


def test_a_function_gets_the_generator():
    def shift(image, mask, rng):
        step = rng.integers(5)
        return np.roll(image, step, axis=1), np.roll(mask, step, axis=1)

    def apply(seed):
        return augmentation.augment(IMAGE, MASK, shift, np.random.default_rng(seed))

    step = int(np.random.default_rng(3).integers(5))
    image, mask = apply(3)
    np.testing.assert_array_equal(image, np.roll(IMAGE, step, axis=1))
    np.testing.assert_array_equal(mask, np.roll(MASK, step, axis=1))
    assert len({apply(seed)[0].tobytes() for seed in range(20)}) > 1


def test_without_a_generator_numpys_global_state_decides():
    def noise(image, mask, rng):
        return image + rng.integers(0, 5, image.shape), mask

    results = []
    for seed in (1, 1, 2):
        np.random.seed(seed)
        results.append(augmentation.augment(IMAGE, MASK, noise)[0])
    np.testing.assert_array_equal(results[0], results[1])
    assert (results[0] != results[2]).any()


def test_types_stay():
    image, mask = augmentation.augment(
        IMAGE, MASK, lambda image, mask, rng: (image * 1.0, mask.astype(np.uint8))
    )
    assert image.dtype == np.uint8
    assert mask.dtype == bool


def test_flip_left_right_flips_half_of_the_images():
    flips = 0
    for seed in range(200):
        image, mask = augmentation.augment(
            IMAGE, MASK, augmentation.flip_left_right, np.random.default_rng(seed)
        )
        flipped = (image != IMAGE).any()
        flips += flipped
        np.testing.assert_array_equal(image, IMAGE[:, ::-1] if flipped else IMAGE)
        np.testing.assert_array_equal(mask, MASK[:, ::-1] if flipped else MASK)
    assert 70 < flips < 130


def test_a_class_instead_of_its_instance_is_refused():
    with pytest.raises(ValueError, match="must be an imgaug augmenter or a function"):
        augmentation.augment(IMAGE, MASK, dict)


class Augmenter:
    """Looks like an imgaug augmenter."""

    def to_deterministic(self):
        raise AssertionError("imgaug must be imported first")

    augment_image = to_deterministic


def test_a_missing_imgaug_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "imgaug", None)
    with pytest.raises(ImportError, match=r"pip install mrcnn-parallel\[imgaug\]") as caught:
        augmentation.augment(IMAGE, MASK, Augmenter())
    assert "\n" not in str(caught.value)


# A module that needs what imgaug 0.4.0 needs, and a NumPy that lacks it.
NUMPY_WITHOUT = """
import sys
import numpy as np
for name in ("sctypes", "bool", "complex"):
    vars(np).pop(name, None)
{before}
import mrcnn_parallel.data.augmentation
assert "sctypes" not in vars(np), "NumPy must be left alone until imgaug is imported"
import imgaug
print(sorted(imgaug.found))
print(np.sctypes["float"], np.bool is bool, np.complex is complex)
"""
IMGAUG = """
import numpy as np
found = {name for name in ("sctypes", "bool", "complex") if name in vars(np)}
assert np.float32 in np.sctypes["float"] and np.uint8 in np.sctypes["uint"]
"""


@pytest.mark.parametrize("present", [False, True])
def test_numpy_gets_its_old_names_back_when_imgaug_is_imported(tmp_path, present):
    (tmp_path / "imgaug.py").write_text(IMGAUG)
    script = NUMPY_WITHOUT.format(before="np.complex = np.complex128" if present else "")
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        env={"PYTHONPATH": f"{tmp_path}:{':'.join(p for p in sys.path if p)}", "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    found, names = run.stdout.splitlines()
    assert found == "['bool', 'complex', 'sctypes']"
    assert names.endswith("True False" if present else "True True")  # what is there stays


def test_the_finder_finds_nothing_itself():
    finder = next(f for f in sys.meta_path if isinstance(f, augmentation._BeforeImgaug))
    assert finder.find_spec("imgaug.augmenters") is None
    assert importlib.machinery.PathFinder.find_spec("numpy") is not None
