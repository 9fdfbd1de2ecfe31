"""Names of checkpoints: where they go, what they tell, which is the last."""

import datetime

import pytest

from mrcnn_parallel.training import checkpoints

STARTED = datetime.datetime(2017, 10, 29, 23, 9)


@pytest.mark.parametrize(
    "path",
    [
        "/logs/coco20171029T2309/mask_rcnn_coco_0001.h5",
        r"\path\to\logs\coco20171029T2309\mask_rcnn_coco_0001.h5",
        "logs/my-shapes_220171029T2309/mask_rcnn_my-shapes_2_0001.h5",
    ],
)
def test_a_checkpoints_path_says_when_and_how_far(path):
    assert checkpoints.parse_checkpoint(path) == (STARTED, 1)


@pytest.mark.parametrize(
    "path",
    ["mask_rcnn_coco.h5", "logs/coco20171029T2309/best.h5", "/coco/mask_rcnn_coco_0001.h5"],
)
def test_other_paths_say_nothing(path):
    assert checkpoints.parse_checkpoint(path) is None


def test_paths_and_back():
    folder = checkpoints.run_dir("logs", "Shapes", STARTED)
    path = checkpoints.checkpoint_path(folder, "Shapes", 12)
    assert path.as_posix() == "logs/shapes20171029T2309/mask_rcnn_shapes_0012.h5"
    assert checkpoints.parse_checkpoint(path) == (STARTED, 12)


def test_find_last(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no run of 'Shapes'.*begins with 'shapes'"):
        checkpoints.find_last(tmp_path / "none", "Shapes")
    for run, epochs in (("20171029T2309", (1, 2)), ("20180101T0000", (1, 10, 9))):
        for epoch in epochs:
            path = tmp_path / f"shapes{run}" / f"mask_rcnn_shapes_{epoch:04d}.h5"
            path.parent.mkdir(exist_ok=True)
            path.touch()
    (tmp_path / "shapes20180101T0000" / "zz_notes.h5").touch()
    (tmp_path / "zebra20200101T0000").mkdir()
    (tmp_path / "shapes99990101T0000.txt").touch()
    last = checkpoints.find_last(tmp_path, "Shapes")
    assert last == str(tmp_path / "shapes20180101T0000" / "mask_rcnn_shapes_0010.h5")
    with pytest.raises(FileNotFoundError, match=r"no checkpoint .*zebra20200101T0000"):
        checkpoints.find_last(tmp_path, "zebra")
