"""Pascal VOC's segmentation: a picture of instance numbers and one of class numbers per image.

In both, 0 is the background and 255 is void: pixels near borders that count as nothing. The numbers
are palette indices (VOC's own files), grey values, or VOC's colours in an RGB picture (what CVAT
exports). The format is described at http://host.robots.ox.ac.uk/pascal/VOC/voc2012/.
"""

from pathlib import Path

import numpy as np

from mrcnn_parallel.data import segments
from mrcnn_parallel.data.record_files import (
    image_beside,
    image_size,
    read_lines,
    read_many,
    read_pixels,
)
from mrcnn_parallel.data.records import EMPTY, UNKNOWN_CLASS, Instance, RecordDataset

VOC_NAMES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip
VOID = 255
NAME_FILES = ("labelmap.txt", "labels.txt", "class_names.txt")
_NO_CLASS = {"background", "_background_", "__ignore__", "bg", "void"}


class VocDataset(RecordDataset):
    """Pascal-VOC-style instance pictures."""

    FORMAT = "voc"
    LAYOUT = (
        "JPEGImages/*.jpg, SegmentationObject/*.png, SegmentationClass/*.png, and optionally "
        "ImageSets/Segmentation/<subset>.txt and labelmap.txt"
    )

    @classmethod
    def detects(cls, path):
        """A folder with SegmentationObject/ and SegmentationClass/."""
        names = ("SegmentationObject", "SegmentationClass")
        return all(Path(path, name).is_dir() for name in names)

    def read(self, path, subset=None, source=None, class_names=None):
        """Adds the images that have instance pictures; see RecordDataset.read.

        Args:
            path: folder, e.g. VOCdevkit/VOC2012.
            subset: a list in ImageSets/Segmentation, e.g. "train"; None: every picture.
            class_names: names of the classes 1, 2, ...; None: those in labelmap.txt, labels.txt or
                class_names.txt (a line each, the background first or left out), or VOC's 20.
        """
        path, source = Path(path), source or self.FORMAT
        if not self.detects(path):
            raise FileNotFoundError(
                f"{path} is no folder in Pascal VOC's layout; it needs {self.LAYOUT}."
            )
        names, colors = (list(class_names), None) if class_names else _class_names(path)
        for class_id, name in enumerate(names, 1):
            self.add_record_class(source, class_id, name)
        self._colors = _color_numbers(colors)

        def read(stem):
            return self._read(path, stem)

        for stem, found in read_many(read, self._stems(path, subset), path):
            file = path / "SegmentationObject" / f"{stem}.png"
            if isinstance(found, Exception):
                self.add_record_problem(file, "", found)
                continue
            image, size, rles, classes = found
            instances = []
            for number, rle in rles.items():
                class_id = classes[number]
                record = f"instance {number}"
                if class_id is None:
                    self.add_problem(file, record, EMPTY, "no pixel of it has a class")
                elif class_id > len(names):
                    reason = f"its class {class_id} has no name, there are {len(names)}"
                    self.add_problem(file, record, UNKNOWN_CLASS, reason)
                else:
                    instances.append(Instance(names[class_id - 1], rle, record))
            self.add_record_image(source, stem, image, size, instances)
        self.finish(path)

    def _stems(self, path, subset):
        """The names of the images, without endings."""
        lists = path / "ImageSets" / "Segmentation"
        if subset is None:
            return sorted(file.stem for file in (path / "SegmentationObject").glob("*.png"))
        if not (lists / f"{subset}.txt").is_file():
            there = sorted(file.stem for file in lists.glob("*.txt"))
            raise FileNotFoundError(
                f"There is no list {lists / subset}.txt of a subset; there are "
                f"{', '.join(there) or 'none'}."
            )
        stems = [line.split()[0] for line in read_lines(lists / f"{subset}.txt")]
        return list(dict.fromkeys(stems))

    def _read(self, path, stem):
        """(image file, size, {instance number: RLE}, {instance number: class number or None})."""
        if "\0" in stem:
            raise ValueError(f"the name {stem!r} is no file name")
        image = image_beside(path / "JPEGImages", stem)
        if image is None:
            raise FileNotFoundError(f"there is no image {stem} in {path / 'JPEGImages'}")
        size = image_size(image)
        objects = self._numbers(path / "SegmentationObject" / f"{stem}.png", own_colors=True)
        classes = self._numbers(path / "SegmentationClass" / f"{stem}.png")
        for name, picture in (("instances", objects), ("classes", classes)):
            if picture.shape != size:
                raise ValueError(
                    f"its picture of {name} is {picture.shape[1]} x {picture.shape[0]} pixels, the "
                    f"image {size[1]} x {size[0]}"
                )
        objects = np.where(objects == VOID, 0, objects)
        rles = segments.labels_to_rles(objects)
        return image, size, rles, {number: _majority(classes[objects == number]) for number in rles}

    def _numbers(self, file, own_colors=False):
        """A picture as (H, W) numbers.

        Args:
            own_colors: whether colours that VOC doesn't have are numbered from 256, as a picture of
                instances may have any; else they are an error.
        """
        pixels, palette = read_pixels(file)
        if pixels.ndim == 2:
            if palette is None:
                return pixels.astype(np.int64)
            used = np.unique(pixels)
            colors = palette[used[used < len(palette)]].tolist()
            numbers = [self._colors.get(tuple(color)) for color in colors]
            if None in numbers or len(numbers) < len(used):
                return pixels.astype(np.int64)  # some other palette: the indices are the numbers
            table = np.zeros(256, np.int64)
            table[used] = numbers
            return table[pixels]
        code = pixels.astype(np.int64) @ np.array([65536, 256, 1])
        codes, inverse = np.unique(code, return_inverse=True)
        numbers = []
        for position, value in enumerate(codes.tolist()):
            color = (value >> 16, value >> 8 & 255, value & 255)
            number = self._colors.get(color, 256 + position if own_colors else None)
            if number is None:
                raise ValueError(f"{file} has the colour {color}, which stands for no class")
            numbers.append(number)
        return np.array(numbers, np.int64)[inverse].reshape(code.shape)


def _majority(numbers):
    """The most frequent class number, background and void left out; None without one."""
    numbers = numbers[(numbers > 0) & (numbers != VOID)]
    return int(np.bincount(numbers).argmax()) if numbers.size else None


def voc_colors():
    """VOC's colours, (256, 3) uint8: bit 3k + c of a number is bit 7 - k of its channel c."""
    numbers = np.arange(256)
    colors = np.zeros((256, 3), np.uint8)
    for channel in range(3):
        for k in range(3):
            bit = numbers >> (3 * k + channel) & 1
            colors[:, channel] |= (bit << (7 - k)).astype(np.uint8)
    return colors


def _color_numbers(colors):
    """{(r, g, b): number}; colors None means VOC's own."""
    if colors is None:
        colors = dict(enumerate(voc_colors().tolist()))
    numbers = {tuple(color): number for number, color in colors.items()}
    return {**numbers, (0, 0, 0): 0, (224, 224, 192): VOID}


def _class_names(path):
    """Names of the classes from 1 on, and {class number: colour} or None for VOC's.

    A line is a name, or CVAT's "name:r,g,b:parts:actions".
    """
    file = next((path / name for name in NAME_FILES if (path / name).is_file()), None)
    if file is None:
        return list(VOC_NAMES), None
    names, colors = [], {}
    for line in read_lines(file):
        name, *rest = line.split(":")
        if line.startswith("#") or name.lower() in _NO_CLASS:
            continue
        names.append(name)
        if rest and rest[0]:
            try:
                red, green, blue = (int(value) for value in rest[0].split(","))
            except ValueError as error:
                raise ValueError(f"{file} has a line that is no name:r,g,b: {line!r}.") from error
            colors[len(names)] = (red, green, blue)
    if not names:
        raise ValueError(f"{file} names no class.")
    return names, colors if len(colors) == len(names) else None
