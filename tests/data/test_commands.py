"""The commands inspect and convert as a user calls them: output, files, exit status."""

import json

import pytest

from mrcnn_parallel.cli import main
from mrcnn_parallel.data.formats import FORMATS, load_dataset
from tests.data import annotated


@pytest.fixture
def folder(tmp_path):
    return annotated.write_scene("coco", tmp_path / "scene")


@pytest.mark.parametrize("name", FORMATS)
def test_convert(name, tmp_path, capsys):
    path = annotated.write_scene(name, tmp_path / "scene")
    out = tmp_path / "out" / "all.json"
    assert main(["convert", name, str(path), str(out), "--images", "copy"]) == 0
    assert "3 images, 4 annotations" in capsys.readouterr().err
    assert annotated.found(load_dataset("coco", out)) == annotated.expected()


def test_convert_with_everything(folder, tmp_path):
    out = tmp_path / "out.json"
    arguments = ["convert", "auto", str(folder), str(out), "--subset", "train", "--seed", "1"]
    arguments += ["--rename", "person=human", "car=bus", "--include", "human"]
    arguments += ["--option", f"image_dir={folder / 'train'}", "--split", "train:0.5"]
    assert main(arguments) == 0
    content = json.loads(out.read_text())
    assert [category["name"] for category in content["categories"]] == ["human"]
    assert len(content["images"]) == 1


def test_inspect_a_clean_dataset(folder, tmp_path, capsys):
    out = tmp_path / "report"
    assert main(["inspect", str(folder), "--output", str(out)]) == 0
    printed = capsys.readouterr()
    assert "No problems." in printed.out and f"Written to {out}" in printed.out
    assert sorted(path.name for path in out.iterdir()) == [
        "classes.png",
        "report.json",
        "report.txt",
        "samples.png",
        "sizes.png",
    ]


def test_inspect_a_damaged_dataset(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (folder / "train" / "b.jpg").write_bytes(b"")
    content = annotated.coco_content()
    content["annotations"][0]["category_id"] = 5
    annotated.write_json(folder / "annotations" / "instances_train.json", content)
    assert main(["inspect", str(folder), "--threads", "1", "--samples", "1"]) == 1
    printed = capsys.readouterr()
    assert "unreadable image: 1" in printed.out and "unknown class: 1" in printed.out
    assert "unknown class" not in printed.err  # once is enough
    found = json.loads((tmp_path / "inspect_scene" / "report.json").read_text())
    assert found["problem_counts"] == {"unknown class": 1, "unreadable image": 1}
    ignored = ["--ignore", "unreadable image", "--ignore", "unknown class"]
    assert main(["inspect", str(folder), *ignored]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspect", "{}/nothing"], "no file or folder"),
        (["inspect", "{}"], "is in no known format"),
        (["inspect", "{}/scene", "--format", "pascal"], "format 'pascal' is unknown"),
        (["inspect", "{}/scene", "--subset", "test"], "No COCO annotations for subset 'test'"),
        (["inspect", "{}/scene", "--threads", "0"], "--threads must be at least 1"),
        (["inspect", "{}/scene", "--option", "colour"], "--option needs NAME=VALUE"),
        (["inspect", "{}/scene", "--option", "colour=red"], "no such option"),
        (["inspect", "{}/scene", "--split", "train"], "--split train is not PART:SHARE"),
        (["inspect", "{}/scene", "--include", "dog"], "include names the classes dog"),
        (["convert", "pascal", "{}", "x.json"], "format 'pascal' is unknown"),
        (["convert", "via", "{}/scene", "x.json"], "0 annotation files of VGG"),
    ],
)
def test_wrong_calls(arguments, message, folder, tmp_path, capsys):
    assert main([argument.format(tmp_path) for argument in arguments]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"mrcnn_parallel {arguments[0]}: ") and message in printed.err
    assert printed.out == ""


@pytest.mark.parametrize("command", ["inspect", "convert"])
def test_help_teaches(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0 and f"python -m mrcnn_parallel {command} " in text
    if command == "convert":
        assert all(f"  {name} " in text for name in FORMATS)
    with pytest.raises(SystemExit) as stop:
        main([command])
    assert stop.value.code == 2
