"""VGG Image Annotator's JSON files, of versions 1, 2 and 3: the reader, regions and their masks.

Formats: https://www.robots.ox.ac.uk/~vgg/software/via/. Versions 1 and 2 write one entry an image,
with `regions` as a dict (1) or a list (2), alone or inside a saved project; version 3 writes a
project of files, views and metadata.
"""

import json
import logging
from pathlib import Path

from mrcnn_parallel.data.record_files import RECORD_ERRORS, json_keys, read_json
from mrcnn_parallel.data.records import (
    DAMAGED,
    DUPLICATE,
    NO_MASK,
    UNKNOWN_CLASS,
    Instance,
    RecordDataset,
)
from mrcnn_parallel.data.via_shapes import (
    NO_AREA,
    region_mask,
    region_polygon,
    shape_name,
    version_3_shape,
)

__all__ = ["ViaDataset", "read_via", "region_mask", "region_polygon"]

log = logging.getLogger(__name__)


def read_via(path):
    """Reads an annotation file.

    Args:
        path: JSON file.

    Returns:
        {file name: list of regions}. A region is {"shape": shape_attributes of version 2, e.g.
        {"name": "polygon", "all_points_x": [...], "all_points_y": [...]}, "attributes": dict}.
        Images without regions have an empty list; points and lines, which have no area, are left
        out.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no annotation file of VGG Image Annotator.
    """
    with open(path, encoding="utf-8") as file:
        try:
            content = json.load(file)
        except ValueError as error:
            raise ValueError(f"{path} is not a JSON file: {error}.") from error
    if isinstance(content, dict) and {"file", "view", "metadata"} <= set(content):
        images = _version_3(content)
    else:
        entries = content.get("_via_img_metadata", content) if isinstance(content, dict) else None
        if not isinstance(entries, dict) or not all(
            isinstance(entry, dict) and "filename" in entry for entry in entries.values()
        ):
            raise ValueError(
                f"{path} is not an annotation file of VGG Image Annotator: it has no entries with "
                "a 'filename'."
            )
        images = {entry["filename"]: _regions(entry) for entry in entries.values()}
    dropped = 0
    for name, regions in images.items():
        images[name] = [region for region in regions if shape_name(region["shape"]) not in NO_AREA]
        dropped += len(regions) - len(images[name])
    if dropped:
        log.warning("%s: %d points or lines have no area and are left out.", path, dropped)
    return images


def _regions(entry):
    regions = entry.get("regions") or []
    if isinstance(regions, dict):
        regions = regions.values()
    return [
        {"shape": region["shape_attributes"], "attributes": region.get("region_attributes", {})}
        for region in regions
    ]


def _version_3(content):
    images = {file["fname"]: [] for file in content["file"].values()}
    names = {}  # view -> file name; a view of several files compares them and has no regions
    for view, info in content["view"].items():
        if len(info["fid_list"]) == 1:
            names[str(view)] = content["file"][str(info["fid_list"][0])]["fname"]
    for entry in content["metadata"].values():
        if entry["xy"] and str(entry["vid"]) in names:
            region = {"shape": version_3_shape(entry["xy"]), "attributes": entry.get("av", {})}
            images[names[str(entry["vid"])]].append(region)
    return images


# === Reader ===

CLASS_ATTRIBUTES = ("class", "label", "name", "category", "type", "object")  # in this order
OBJECT = "object"  # the class of regions without attributes


class ViaDataset(RecordDataset):
    """VGG Image Annotator's JSON, versions 1, 2 and 3; circles and ellipses become polygons."""

    FORMAT = "via"
    LAYOUT = "<subset>/via_region_data.json beside its images; or a JSON file beside its images"

    @classmethod
    def detects(cls, path):
        """A JSON file with VIA's keys, or a folder with such a file in it or in train/ or val/."""
        path = Path(path)
        if path.is_dir():
            return bool(_annotation_files(path) or _annotation_files(path / "train"))
        return _is_via(path)

    def read(
        self,
        path,
        subset=None,
        source=None,
        class_attribute=None,
        class_name=OBJECT,
        image_dir=None,
    ):
        """Adds a file's images, also those without regions; see RecordDataset.read.

        Args:
            path: JSON file, or a folder that holds one or has subsets that do.
            subset: a folder in it.
            class_attribute: the region attribute that holds the class; None: the only one there
                is, or the first of CLASS_ATTRIBUTES.
            class_name: of regions in files that have no attributes.
            image_dir: where the images are; beside the file if None.
        """
        file = self._file(Path(path), subset)
        content = read_json(file)
        source, folder = source or self.FORMAT, Path(image_dir or file.parent)
        entries = self._entries(content, file)
        attribute = _class_attribute(entries, class_attribute, file)
        seen = set()
        for name, regions in entries:
            if name in seen:
                self.add_problem(file, name, DUPLICATE, "the file has this image twice")
                continue
            seen.add(name)
            image_path = folder / name
            size = self.measure(image_path, file, name)
            if size is None:
                continue
            instances = []
            for number, region in enumerate(regions):
                record = f"{name}, region {number}"
                instance = self._instance(region, size, file, record, attribute, class_name)
                if instance is not None:
                    instances.append(instance)
            self.add_record_image(source, name, image_path, size, instances)
        self.add_found_classes(source)
        self.finish(file)

    def _file(self, path, subset):
        if path.is_file():
            return path
        folder = path / subset if subset else path
        if not folder.is_dir():
            raise FileNotFoundError(f"There is no file or folder {folder} with VIA annotations.")
        files = _annotation_files(folder)
        if len(files) != 1:
            subsets = sorted(sub.name for sub in folder.iterdir() if _annotation_files(sub))
            hint = f"; it has the subsets {', '.join(subsets)}: subset=..." if subsets else ""
            raise FileNotFoundError(
                f"{folder} holds {len(files)} annotation files of VGG Image Annotator, one is "
                f"needed{hint}."
            )
        return files[0]

    def _entries(self, content, file):
        """[(file name, list of raw regions)]; raises a ValueError for files of other tools."""
        try:
            if _is_version_3(content):
                return self._version_3_entries(content, file)
            entries = content.get("_via_img_metadata", content)
            if not any("filename" in entry for entry in entries.values() if entry) and entries:
                raise ValueError
        except (AttributeError, TypeError, ValueError):
            raise ValueError(
                f"{file} is not an annotation file of VGG Image Annotator: it has no entries with "
                "a 'filename'."
            ) from None
        found = []
        for key, entry in entries.items():
            name = entry.get("filename") if isinstance(entry, dict) else None
            regions = (entry.get("regions") or []) if isinstance(entry, dict) else None
            regions = list(regions.values()) if isinstance(regions, dict) else regions
            if not _is_name(name) or not isinstance(regions, list):
                self.add_problem(file, f"entry {key}", DAMAGED, "it has no filename or no regions")
                continue
            found.append((name, regions))
        return found

    def _version_3_entries(self, content, file):
        """The regions of version 3 as those of version 2, attributes by their names."""
        images, views = {}, {}
        for view, info in content["view"].items():
            try:
                names = [content["file"][str(number)]["fname"] for number in info["fid_list"]]
            except RECORD_ERRORS:
                names = []
            if len(names) == 1 and _is_name(names[0]):
                views[str(view)] = names[0]
                images.setdefault(names[0], [])
            elif len(names) < 2:  # a view of several files compares them and has no regions
                self.add_problem(file, f"view {view}", DAMAGED, "it has no file name")
        for key, entry in content["metadata"].items():
            try:
                if not entry["xy"]:
                    continue  # it describes the file
                name = views[str(entry["vid"])]
                shape = version_3_shape(entry["xy"])
                values = _version_3_attributes(entry.get("av") or {}, content.get("attribute"))
                images[name].append({"shape_attributes": shape, "region_attributes": values})
            except RECORD_ERRORS as error:
                self.add_record_problem(file, f"region {key}", error)
        return list(images.items())

    def _instance(self, region, size, file, record, attribute, class_name):
        """An Instance, or None and a problem."""
        try:
            shape, values = region["shape_attributes"], region.get("region_attributes") or {}
            if shape_name(shape) in NO_AREA:
                self.add_problem(file, record, NO_MASK, f"a {shape_name(shape)} has no area")
                return None
            polygon = region_polygon(shape, *size)
            if attribute is not None:
                class_name = _class_of(values.get(attribute))
                if class_name is None:
                    reason = f"its attribute {attribute!r} is {values.get(attribute)!r}"
                    self.add_problem(file, record, UNKNOWN_CLASS, reason)
                    return None
            return Instance(class_name, [polygon], record)
        except RECORD_ERRORS as error:
            self.add_record_problem(file, record, error)
        return None


def _annotation_files(folder):
    """The annotation file of a folder: via_region_data.json, else every JSON file of VIA."""
    if not folder.is_dir():
        return []
    usual = folder / "via_region_data.json"
    return [usual] if usual.is_file() else sorted(filter(_is_via, folder.glob("*.json")))


def _is_via(path):
    keys, first = json_keys(path)
    return (
        "_via_img_metadata" in keys or {"file", "view", "metadata"} <= keys or "filename" in first
    )


def _is_version_3(content):
    return isinstance(content, dict) and {"file", "view", "metadata"} <= set(content)


def _is_name(name):
    return isinstance(name, str) and name != "" and "\0" not in name


def _class_attribute(entries, asked, file):
    """Which region attribute holds the class: None where regions have no attributes."""
    there = {}
    for _, regions in entries:
        for region in regions:
            values = region.get("region_attributes") if isinstance(region, dict) else None
            there.update(dict.fromkeys(values if isinstance(values, dict) else ()))
    usual = [name for name in CLASS_ATTRIBUTES if name in there]
    if asked is not None and asked not in there:
        raise ValueError(
            f"{file} has no region attribute {asked!r}; it has {', '.join(there) or 'none'}."
        )
    if asked is None and len(there) > 1 and not usual:
        raise ValueError(
            f"{file} has the region attributes {', '.join(there)}; say which one is the class: "
            "class_attribute=..."
        )
    return asked or (usual or [*there, None])[0]


def _class_of(value):
    """The class in an attribute's value: text, or the one box of several that is checked."""
    if isinstance(value, dict):
        checked = [name for name, on in value.items() if on]
        value = checked[0] if len(checked) == 1 else None
    return str(value).strip() or None if isinstance(value, (str, int)) else None


def _version_3_attributes(values, attributes):
    """Attributes of version 3, numbers of attributes and of their options, by their names."""
    named = {}
    for number, value in values.items():
        info = (attributes or {}).get(str(number)) or {}
        options = info.get("options") or {}
        if isinstance(value, str) and isinstance(options, dict):
            value = options.get(value, value)
        named[info.get("aname", str(number))] = value
    return named
