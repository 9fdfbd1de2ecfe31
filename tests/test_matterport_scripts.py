"""Programs in Matterport's idiom, unmodified, through `python -m mrcnn_parallel run`.

Each of matterport_scripts/ runs in a process of its own, in `samples/own` of a folder that also
holds a package called mrcnn, as a Matterport checkout does, with GPU_COUNT = 2 and no GPU.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

TESTS = Path(__file__).parent
ROOT = TESTS.parent


@pytest.fixture(scope="module")
def compiled_programs(tmp_path_factory):
    """Where JAX keeps what it compiled, for all scripts here."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture
def run(tmp_path, compiled_programs):
    """Function (script, arguments...) -> what the script printed; it must end well."""
    (tmp_path / "mrcnn").mkdir()
    for name in ("__init__", "config", "model", "utils", "visualize"):
        (tmp_path / "mrcnn" / f"{name}.py").write_text("raise RuntimeError('the checkout is used')")
    folder = tmp_path / "samples" / "own"
    folder.mkdir(parents=True)
    for script in (TESTS / "matterport_scripts").glob("*.py"):
        shutil.copy(script, folder)
    shutil.copy(TESTS / "goldens" / "golden_configs.py", folder)
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": "",
        "MPLBACKEND": "Agg",
        "JAX_COMPILATION_CACHE_DIR": str(compiled_programs),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }

    def run(script, *arguments):
        command = ["-m", "mrcnn_parallel", "run", "--cpu-devices", "2", script, *arguments]
        result = subprocess.run(
            [sys.executable, *command],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=500,
        )
        assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
        return result.stdout

    return run


def checkpoints(tmp_path):
    return sorted(path.name for path in (tmp_path / "logs").glob("*/*.h5"))


@pytest.mark.slow
def test_train_shapes(run, tmp_path):
    printed = run("train_shapes.py")
    assert "GPU_COUNT                      2" in printed
    assert "val_mrcnn_mask_loss" in printed
    assert f"Loading weights from  {tmp_path}/logs/shapes" in printed
    assert "gt_bbox                  shape: (" in printed
    assert "Processed 1 images" in printed
    assert 0 <= float(printed.split("mAP: ")[1]) <= 1
    assert checkpoints(tmp_path) == ["mask_rcnn_shapes_0001.h5"]
    assert (tmp_path / "logs" / "mask_rcnn_shapes.h5").is_file()


def write_balloons(folder, count, size=64):
    """Images of polygons on noise, with VIA's annotations beside them."""
    folder.mkdir(parents=True)
    annotations = {}
    for number in range(count):
        rng = np.random.default_rng([count, number])
        image = rng.integers(0, 90, (size, size, 3), dtype=np.uint8)
        regions = []
        for _ in range(1 + number % 2):
            angles = np.linspace(0, 2 * np.pi, 9)[:-1]
            (y, x), radius = rng.integers(18, size - 18, 2), int(rng.integers(9, 17))
            xs = np.rint(x + radius * np.cos(angles)).astype(int)
            ys = np.rint(y + radius * np.sin(angles)).astype(int)
            colour = [int(c) for c in rng.integers(120, 255, 3)]
            cv2.fillPoly(image, [np.stack([xs, ys], axis=1).astype(np.int32)], colour)
            shape = {"name": "polygon", "all_points_x": xs.tolist(), "all_points_y": ys.tolist()}
            regions.append({"shape_attributes": shape, "region_attributes": {}})
        cv2.imwrite(str(folder / f"{number}.png"), image)
        annotations[f"{number}.png0"] = {"filename": f"{number}.png", "regions": regions}
    annotations["empty.png0"] = {"filename": "empty.png", "regions": []}
    (folder / "via_region_data.json").write_text(json.dumps(annotations))


@pytest.mark.slow
def test_balloon(run, tmp_path):
    """From a file in Matterport's layout with other classes; then the last checkpoint detects."""
    write_balloons(tmp_path / "data" / "train", 4)
    write_balloons(tmp_path / "data" / "val", 3)
    coco = tmp_path / "mask_rcnn_coco.h5"
    shutil.copy(TESTS / "goldens" / "tiny_matterport_format.h5", coco)
    printed = run("balloon.py", "train", f"--dataset={tmp_path / 'data'}", "--weights=coco")
    assert f"Loading weights  {coco}" in printed
    assert "Training network heads" in printed and "val_loss" in printed
    assert checkpoints(tmp_path) == ["mask_rcnn_balloon_0001.h5"]

    image = tmp_path / "data" / "val" / "1.png"
    printed = run("balloon.py", "splash", "--weights=last", f"--image={image}")
    assert "mask_rcnn_balloon_0001.h5" in printed and "Saved to  splash.png" in printed
    splash = cv2.imread(str(tmp_path / "samples" / "own" / "splash.png"))
    assert splash.shape == (64, 64, 3)


@pytest.mark.slow
def test_inspect_session(run):
    printed = run("inspect_session.py")
    assert "Class Count: 2" in printed and "Positive ROIs: " in printed
    assert "rpn_class " in printed and "C4 " in printed
    assert printed.rstrip().endswith("Inspected")


@pytest.mark.skipif(
    importlib.util.find_spec("imgaug") is None, reason="the extra [imgaug] is not installed"
)
def test_imgaug_before_mrcnn(run, tmp_path):
    """Scripts import imgaug first of all; on NumPy 2 that works only because `run` came before."""
    (tmp_path / "samples" / "own" / "augment.py").write_text(
        """
from imgaug import augmenters as iaa
import numpy as np
from mrcnn import utils
import mrcnn.model as modellib
from mrcnn.config import Config

class Corner(utils.Dataset):
    def load_image(self, image_id):
        return np.random.RandomState(0).randint(0, 255, (64, 64, 3)).astype(np.uint8)
    def load_mask(self, image_id):
        mask = np.zeros((64, 64, 1), bool)
        mask[:20, :10] = True
        return mask, np.array([1])

class CornerConfig(Config):
    NAME = "corner"
    NUM_CLASSES = 2
    IMAGE_MIN_DIM = IMAGE_MAX_DIM = 64

dataset = Corner()
dataset.add_class("corner", 1, "corner")
dataset.add_image("corner", 0, None)
dataset.prepare()
for augmenter in (iaa.Noop(), iaa.Fliplr(1.0), iaa.Multiply(0.5)):
    image, meta, ids, bbox, mask = modellib.load_image_gt(
        dataset, CornerConfig(), 0, augmentation=augmenter, use_mini_mask=False
    )
    print("box", *bbox[0])
"""
    )
    boxes = [line for line in run("augment.py").splitlines() if line.startswith("box")]
    assert boxes == ["box 0 0 20 10", "box 0 54 20 64", "box 0 0 20 10"]
