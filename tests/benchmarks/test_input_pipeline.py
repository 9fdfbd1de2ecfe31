"""The input pipeline's benchmark runs to its end at a size that means nothing."""

import json

import numpy as np
import pytest

from benchmarks import input_pipeline, pipeline_data
from mrcnn_parallel.data.load import load_image_gt
from mrcnn_parallel.ops.anchors import image_anchors_px

SMALL = ["--images", "3", "--image-size", "128", "--size", "96", "72", "--instances", "2"]


def test_one_core(tmp_path, capsys):
    out = tmp_path / "x.json"
    options = ["--windows", "1", "--peer-images", "1", "--json", str(out)]
    input_pipeline.main([*SMALL, *options])
    rows = json.loads(out.read_text())
    paths = ["polygons", "load_mask", "Matterport's path"]
    assert [(row["path"], row["augmented"]) for row in rows] == [
        (path, augmented) for augmented in (False, True) for path in paths
    ]
    assert all(row["ms"] >= row["best_ms"] > 0 for row in rows)
    assert rows[2]["ratio"] == rows[5]["ratio"] == 1
    assert "96 x 72 JPEGs" in capsys.readouterr().out


def test_both_paths_load_the_same(tmp_path):
    paths, _ = pipeline_data.write_pictures(tmp_path, 2, 160, 120)
    dataset = pipeline_data.Pictures(paths, 160, 120, 3)
    config = input_pipeline.make_config(input_pipeline.parse_arguments(SMALL), 1)
    anchors = image_anchors_px(config, config.IMAGE_SHAPE)
    peer = pipeline_data.MatterportPath(dataset, config, anchors)
    for image_id in (0, 1):
        image, match, deltas, class_ids, boxes, mini = peer.load(image_id, False)
        ours, _, our_ids, our_boxes, our_mini = load_image_gt(dataset, config, image_id)
        difference = image + config.MEAN_PIXEL - ours
        assert abs(difference[2:-2, 2:-2]).max() <= 1.01
        np.testing.assert_array_equal(class_ids, our_ids)
        assert abs(boxes - our_boxes).max() <= 1
        assert (mini == our_mini).mean() > 0.9
        assert (match == 1).sum() > 0 and (deltas[: (match == 1).sum()] != 0).any()


@pytest.mark.timeout(120)
def test_transports(capsys):
    options = ["--transport", "--batch", "2", "--workers", "1", "--windows", "1"]
    rows = input_pipeline.main([*SMALL, *options])
    assert [row["transport"] for row in rows] == ["threads", "processes"]
    assert all(row["images_per_second"][0] > 0 for row in rows)


@pytest.mark.slow
def test_a_fed_training_run(tmp_path, monkeypatch, capsys):
    from mrcnn_parallel import backend

    monkeypatch.chdir(tmp_path)
    # The CPU has its devices already, from conftest.
    monkeypatch.setattr(backend, "expose_cpu_devices_without_gpu", lambda count: True)
    options = ["--train", "--batch", "1", "--steps", "1", "--windows", "1", "--minutes", "0.02"]
    (row,) = input_pipeline.main([*SMALL, *options, "--backbone", "resnet18"])
    assert row["fed_images_per_second"] > 0 and row["seconds"] > 0
    own, others = row["memory_mib"][0]
    assert own > 100 and others >= 0
    assert "in memory" in capsys.readouterr().out
