"""YOLO's segmentation labels: a text file per image, a line per instance.

A line is "class x1 y1 x2 y2 ...", the class counted from 0, x and y as shares of the image's width
and height. The folder is described by data.yaml (path, train, val, test, names), as at
https://docs.ultralytics.com/datasets/segment/, or the names of the classes are in a text file.
"""

import os
from pathlib import Path

from mrcnn_parallel.data import segments
from mrcnn_parallel.data.record_files import RECORD_ERRORS, list_images, read_lines
from mrcnn_parallel.data.records import (
    MISSING_FILE,
    NO_MASK,
    UNKNOWN_CLASS,
    Instance,
    RecordDataset,
)

NAME_FILES = ("classes.txt", "names.txt", "obj.names")
SUBSETS = ("train", "val", "test")


class YoloDataset(RecordDataset):
    """YOLO-seg text labels."""

    FORMAT = "yolo"
    LAYOUT = (
        "data.yaml (or classes.txt), images/<subset>/*.jpg and labels/<subset>/*.txt; "
        "<subset>/images and <subset>/labels will do"
    )

    @classmethod
    def detects(cls, path):
        """A .yaml file, or a folder with one or with labels/ and images/."""
        path = Path(path)
        if path.is_dir():
            return bool(_yaml_files(path)) or bool(_names_file(path)) or _has_labels(path)
        return path.suffix.lower() in (".yaml", ".yml") and path.is_file()

    def read(self, path, subset=None, source=None, class_names=None):
        """Adds a subset's images, also those without a label file; see RecordDataset.read.

        Args:
            path: data.yaml or the folder it is in. subset: "train", "val" or "test"; None: all.
            class_names: names of the classes 0, 1, ...; None: data.yaml's or the names file's.
        """
        path, source = Path(path), source or self.FORMAT
        if not path.exists():
            raise FileNotFoundError(f"There is no {path}; needed: {self.LAYOUT}.")
        names, folders = _describe(path, subset, class_names)
        for class_id, name in names.items():
            self.add_record_class(source, class_id, name)
        root = path if path.is_dir() else path.parent
        seen = set()
        for folder in folders:
            for image in self._images(folder):
                if image in seen:
                    continue
                seen.add(image)
                file = _label_file(image)
                size = self.measure(image)
                if size is None:
                    continue
                image_id = image.relative_to(root) if image.is_relative_to(root) else image
                instances = self._instances(file, size, names) if file.is_file() else []
                self.add_record_image(source, image_id.as_posix(), image, size, instances)
        self.finish(path)

    def _images(self, folder):
        """The images of a folder, or of a text file that lists them."""
        if folder.is_dir():
            return list_images(folder) or sorted(
                image for place in folder.rglob("images") for image in list_images(place)
            )
        images = []
        for line in read_lines(folder):
            image = folder.parent / line
            if os.path.isfile(image):
                images.append(image)
            else:
                self.add_problem(folder, line, MISSING_FILE, f"there is no image {image}")
        return images

    def _instances(self, file, size, names):
        try:
            lines = read_lines(file)
        except RECORD_ERRORS as error:
            self.add_record_problem(file, "", error)
            return []
        instances = []
        for number, line in enumerate(lines, 1):
            record = f"line {number}"
            try:
                first, *values = (float(word) for word in line.split())
                if first not in names:
                    reason = f"its class {first:g} has no name"
                    self.add_problem(file, record, UNKNOWN_CLASS, reason)
                elif len(values) == 4:
                    self.add_problem(file, record, NO_MASK, "it is a box, an outline is needed")
                elif len(values) % 2:
                    raise ValueError(f"its {len(values)} numbers are not pairs of x and y")
                else:
                    x = [value * size[1] for value in values[0::2]]
                    y = [value * size[0] for value in values[1::2]]
                    polygon = segments.parse_points(x, y, *size)
                    instances.append(Instance(names[int(first)], [polygon], record))
            except RECORD_ERRORS as error:
                self.add_record_problem(file, record, error)
        return instances


def _describe(path, subset, class_names):
    """{class number: name}, and the image folders of a subset or of all."""
    root = path if path.is_dir() else path.parent
    files = [path] if path.is_file() else _yaml_files(path)
    if len(files) > 1:
        raise ValueError(
            f"{path} has several yaml files: {', '.join(file.name for file in files)}; give one."
        )
    content = _read_yaml(files[0]) if files else {}
    names = class_names if class_names is not None else content.get("names")
    if names is None:
        file = _names_file(root)
        if file is None:
            raise FileNotFoundError(
                f"{path} names no classes: give class_names, a data.yaml with `names`, or a text "
                f"file {' or '.join(NAME_FILES)}."
            )
        names = read_lines(file)
    if not isinstance(names, dict):
        if not isinstance(names, (list, tuple)):
            raise ValueError(f"{files[0] if files else path} has the `names` {names!r}, no list.")
        names = dict(enumerate(names))
    try:
        names = {int(number): str(name) for number, name in names.items()}
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} has classes whose numbers are none: {list(names)}.") from error
    return names, _folders(root, content, subset)


def _folders(root, content, subset):
    """Folders (or lists) of images."""
    base = root / str(content.get("path") or "")
    if not base.is_dir():
        base = root  # a path on the machine where data.yaml was written
    folders = []
    for name in [subset] if subset else SUBSETS:
        places = content.get(name) or []
        for place in places if isinstance(places, list) else [places]:
            place = str(place)
            tries = [base / place, root / place, root / place.removeprefix("../")]
            folders += [found for found in tries if os.path.exists(found)][:1]
    if folders:
        return folders
    names = [f"images/{subset}", f"{subset}/images"] if subset else ["images"]
    names += [] if subset else [f"{name}/images" for name in SUBSETS]
    folders = [base / name for name in names if (base / name).is_dir()]
    if subset is None and (base / "images").is_dir():
        folders += sorted(place for place in (base / "images").rglob("*") if place.is_dir())
    if not folders:
        there = sorted(str(name) for name in content if name in SUBSETS)
        raise FileNotFoundError(
            f"{root} has no images{f' of the subset {subset!r}' if subset else ''}; its data.yaml "
            f"names {', '.join(there) or 'no subset'}; needed: {YoloDataset.LAYOUT}."
        )
    return folders


def _label_file(image):
    """labels/ stands where the last images/ of the path is."""
    parts = list(image.parent.parts)
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return Path(*parts, image.stem + ".txt")


def _read_yaml(file):
    try:
        import yaml
    except ImportError as error:
        raise ImportError(f"{file} needs PyYAML to be read: pip install pyyaml") from error
    try:
        content = yaml.safe_load(file.read_text("utf-8-sig"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not a YAML file: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} is no YOLO data file; it needs `names`, and `train` or `val`.")
    return content


def _yaml_files(folder):
    usual = [folder / name for name in ("data.yaml", "data.yml") if (folder / name).is_file()]
    return usual[:1] or sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")])


def _names_file(folder):
    return next((folder / name for name in NAME_FILES if (folder / name).is_file()), None)


def _has_labels(folder):
    places = [folder, *(folder / name for name in SUBSETS)]
    return any((place / "labels").is_dir() and (place / "images").is_dir() for place in places)
