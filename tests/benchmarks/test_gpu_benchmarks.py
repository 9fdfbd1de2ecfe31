"""The benchmarks of training and detection run to their end, at a size that means nothing."""

import json

import keras
import pytest

from benchmarks import detect, train_step

SMALL = ["--image-size", "64", "--backbone", "resnet18", "--classes", "4", "--windows", "2"]


@pytest.mark.parametrize("gpus", [1, 2])
def test_train_step(gpus, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    # The CPU has its devices already, from conftest.
    monkeypatch.setattr(train_step.backend, "expose_cpu_devices_without_gpu", lambda count: True)
    cuts = {name: train_step.CUTS[name] for name in ("backbone", "+ ROIAlign and sampled anchors")}
    monkeypatch.setattr(train_step, "CUTS", cuts)
    options = ["--steps", "1", "--batch", "2", "--gpus", str(gpus), "--objects", "2"]
    breakdown = ["--breakdown"] if keras.backend.backend() == "jax" else []
    train_step.main([*SMALL, *options, *breakdown, "--json", "x.json"])
    rows = json.loads((tmp_path / "x.json").read_text())
    assert rows[0]["gpus"] == gpus and rows[0]["batch_per_gpu"] == 2
    # Two images a replica and step
    expected = 2 * gpus / rows[0]["ms"] * 1000
    assert rows[0]["images_per_second"] == pytest.approx(expected)
    assert "img/s" in capsys.readouterr().out
    if breakdown:
        parts = rows[-1]["breakdown"]
        assert set(cuts) < set(parts) and ("all-reduce alone" in parts) == (gpus > 1)
        assert all(milliseconds > 0 for milliseconds in parts.values())


def test_detect(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    detect.main([*SMALL, "--steps", "1", "--batch", "1", "2", "--json", "x.json"])
    rows = json.loads((tmp_path / "x.json").read_text())
    ours = [row for row in rows if row["name"].startswith("mrcnn_parallel")]
    assert [row["batch_per_gpu"] for row in ours] == [1, 1, 2, 2]
    assert all(row["objects_found"] > 0 and row["ms"] > 0 for row in ours)
    assert "objects found" in capsys.readouterr().out
