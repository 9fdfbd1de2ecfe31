"""labelme's folders: a JSON file per image, with its shapes.

Format: https://github.com/wkentaro/labelme. Shapes of one label and one group_id are one instance.
"""

import base64
import io
from pathlib import Path

import numpy as np

from mrcnn_parallel.data import segments
from mrcnn_parallel.data.record_files import RECORD_ERRORS, image_beside, json_keys, read_json
from mrcnn_parallel.data.records import (
    MISSING_FILE,
    NO_MASK,
    UNKNOWN_CLASS,
    Instance,
    RecordDataset,
)

_NO_AREA = {"point", "points", "line"}


class LabelmeDataset(RecordDataset):
    """A folder of labelme's JSON files."""

    FORMAT = "labelme"
    LAYOUT = (
        "*.json, one per image, beside the images (or where imagePath says); subsets in folders"
    )

    @classmethod
    def detects(cls, path):
        """A labelme JSON file, or a folder with one in it or in train/ or val/."""
        path = Path(path)
        if path.is_dir():
            folders = (path, path / "train", path / "val")
            first = next((file for sub in folders for file in sorted(sub.glob("*.json"))), path)
            return cls.detects(first) if first.is_file() else False
        return "shapes" in json_keys(path)[0]

    def read(self, path, subset=None, source=None):
        """Adds a folder's images; see RecordDataset.read.

        Args:
            path: folder with JSON files, also in folders in it; or one JSON file.
            subset: a folder in it.
        """
        path, source = Path(path), source or self.FORMAT
        folder = path / subset if subset else path
        files = [folder] if folder.is_file() else sorted(folder.rglob("*.json"))
        if not files:
            raise FileNotFoundError(f"There are no JSON files of labelme in {folder}.")
        for file in files:
            try:
                content = read_json(file)
                shapes = content["shapes"]
                if not isinstance(shapes, list):
                    raise ValueError("its 'shapes' are no list")
                image = self._image(file, content)
            except RECORD_ERRORS as error:
                self.add_record_problem(file, "", error)
                continue
            size = self.measure(image, file) if image else None
            if size is None:
                continue
            instances = self._instances(shapes, size, file)
            name = file.name if file == folder else file.relative_to(folder).as_posix()
            declared = _declared_size(content)
            self.add_record_image(source, name[: -len(".json")], image, size, instances, declared)
        self.add_found_classes(source)
        self.finish(folder)

    def _image(self, file, content):
        """The image of a JSON file, or None and a problem."""
        name = content.get("imagePath")
        if isinstance(name, str) and name and "\0" not in name:
            name = name.replace("\\", "/")  # written on Windows
            for candidate in (file.parent / name, file.parent / Path(name).name):
                if candidate.is_file():
                    return candidate
        beside = image_beside(file.parent, file.stem)
        if beside is None:
            self.add_problem(file, "", MISSING_FILE, f"there is no image {name!r}")
        return beside

    def _instances(self, shapes, size, file):
        """The instances of an image; parts of a group are joined in the group's first place."""
        groups = {}
        for number, shape in enumerate(shapes):
            record = f"shape {number}"
            try:
                label, kind = shape["label"], shape.get("shape_type") or "polygon"
                if not isinstance(label, str) or not label.strip():
                    self.add_problem(file, record, UNKNOWN_CLASS, f"its label is {label!r}")
                    continue
                if kind in _NO_AREA:
                    self.add_problem(file, record, NO_MASK, f"a {kind} has no area")
                    continue
                segment = _segment(shape, kind, size)
                group = shape.get("group_id")
                key = (label, str(group)) if group is not None else number
                groups.setdefault(key, []).append((label.strip(), segment, record))
            except RECORD_ERRORS as error:
                self.add_record_problem(file, record, error)
        return [_join(parts, size) for parts in groups.values()]


def _segment(shape, kind, size):
    """A shape as a segment; raises one of RECORD_ERRORS."""
    points = np.asarray(shape["points"], np.float64)
    if kind == "mask":
        return _mask(shape["mask"], points, size)
    points = segments.parse_points(*points.reshape(-1, 2).T, *size, least=1)
    if kind == "rectangle":
        (x1, y1), (x2, y2) = points.min(axis=0), points.max(axis=0)
        points = segments.rectangle(y1, x1, y2, x2)
    elif kind == "circle":  # the centre, and a point on the circle
        (cx, cy), edge = points[0], points[1]
        radius = np.hypot(*(edge - points[0]))
        points = segments.ellipse(cy, cx, radius, radius)
    elif kind not in ("polygon", "linestrip"):
        raise ValueError(f"its shape_type {kind!r} is unknown")
    return [segments.parse_points(*points.T, *size)]


def _mask(text, points, size):
    """A mask shape: a PNG in base64, put where the first of its two points says."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(base64.b64decode(text))) as picture:
            part = np.array(picture.convert("L")) > 0
    except Exception as error:  # Pillow's plugins raise what their parsers do on damaged files
        raise ValueError(f"its mask can't be decoded: {error}") from error
    x, y = np.floor(segments.parse_points(*points.T, *size, least=1)[0]).astype(int)
    mask = np.zeros(size, bool)
    top, left = max(y, 0), max(x, 0)
    inside = part[top - y : max(size[0] - y, 0), left - x : max(size[1] - x, 0)]
    mask[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    if not mask.any():
        raise ValueError("its mask has no pixel in the image")
    return segments.to_rle(mask, *size)


def _join(parts, size):
    """Instances of a group as one."""
    label, segment, record = parts[0]
    if len(parts) > 1:
        if all(segments.is_polygons(part[1]) for part in parts):
            segment = [polygon for part in parts for polygon in part[1]]
        else:
            masks = [segments.to_mask(part[1], *size) for part in parts]
            segment = segments.to_rle(np.any(masks, axis=0), *size)
    return Instance(label, segment, record)


def _declared_size(content):
    try:
        return segments.parse_size(content["imageHeight"], content["imageWidth"])
    except RECORD_ERRORS:
        return None
