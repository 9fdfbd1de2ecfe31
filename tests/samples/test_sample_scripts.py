"""The samples as programs: from another folder, with the real model, two replicas, no GPU."""

import os
import subprocess
import sys

import pytest

from tests.samples.loading import SAMPLES, load_sample


def _run(script, *arguments, cwd):
    environment = {**os.environ, "XLA_FLAGS": "", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, str(SAMPLES / script), *map(str, arguments)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )


@pytest.mark.parametrize("name", ["coco", "balloon", "nucleus"])
def test_scripts_find_the_package_of_their_checkout(name):
    module = load_sample(f"{name}/{name}.py")
    assert str(module.ROOT_DIR) == str(SAMPLES.parent)
    assert str(module.ROOT_DIR) in sys.path


@pytest.mark.slow
def test_coco_trains_and_evaluates_coins_on_two_replicas(tmp_path):
    coins = load_sample("coco/coins.py")
    coins.build_dataset(tmp_path / "coins", train_images=6, val_images=3)
    common = ["--dataset=coins", "--logs=logs", "--small", "--image-size=64", "--gpu-count=2"]
    common.append("--config=IMAGES_PER_GPU=1")
    trained = _run(
        "coco/coco.py",
        *("train", "--model=random", "--layers=all", "--epochs=1", "--steps=2"),
        *common,
        cwd=tmp_path,
    )
    assert trained.returncode == 0, trained.stderr[-3000:]
    assert "No GPU found: GPU_COUNT=2 runs on 2 CPU devices." in trained.stdout
    assert "val_mrcnn_mask_loss" in trained.stdout
    (checkpoint,) = (tmp_path / "logs").glob("coco*/mask_rcnn_coco_0001.h5")

    evaluated = _run("coco/coco.py", "evaluate", "--model=last", *common, cwd=tmp_path)
    assert evaluated.returncode == 0, evaluated.stderr[-3000:]
    assert f"Loading weights logs/{checkpoint.parent.name}/{checkpoint.name}" in evaluated.stdout
    for iou_type in ("bbox", "segm"):
        assert f"COCO {iou_type} metrics on 3 images" in evaluated.stdout
    assert evaluated.stdout.count("Average Recall     (AR) @[ IoU=0.50:0.95 | area=   all") == 6
