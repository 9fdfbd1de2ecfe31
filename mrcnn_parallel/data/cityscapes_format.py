"""Cityscapes' instance pictures: 16-bit PNGs of class * 1000 + number.

Values below 1000 are classes without instances (road, sky) or, of a class that has instances, a
group that nobody separated: a crowd. Format: https://github.com/mcordts/cityscapesScripts.
"""

from pathlib import Path

from mrcnn_parallel.data import segments
from mrcnn_parallel.data.record_files import image_beside, image_size, read_many, read_pixels
from mrcnn_parallel.data.records import UNKNOWN_CLASS, Instance, RecordDataset

CITYSCAPES_NAMES = {
    24: "person",
    25: "rider",
    26: "car",
    27: "truck",
    28: "bus",
    29: "caravan",
    30: "trailer",
    31: "train",
    32: "motorcycle",
    33: "bicycle",
}
SUFFIX = "_instanceIds.png"
_ANNOTATIONS = ("_gtFine", "_gtCoarse")


class CityscapesDataset(RecordDataset):
    """Cityscapes-style instance pictures."""

    FORMAT = "cityscapes"
    LAYOUT = (
        "leftImg8bit/<subset>/<city>/*_leftImg8bit.png and "
        "gtFine/<subset>/<city>/*_gtFine_instanceIds.png; or NAME_instanceIds.png beside NAME.png"
    )

    @classmethod
    def detects(cls, path):
        """A folder with gtFine/ or gtCoarse/, or with a *_instanceIds.png in it."""
        path = Path(path)
        if not path.is_dir():
            return False
        named = any((path / name[1:]).is_dir() for name in _ANNOTATIONS)
        return named or any(path.glob(f"*{SUFFIX}")) or any(path.glob(f"*/*{SUFFIX}"))

    def read(self, path, subset=None, source=None, class_names=None):
        """Adds the images that have instance pictures; see RecordDataset.read.

        Args:
            path: folder. subset: a folder in gtFine/ or, in the simple layout, in path.
            class_names: {class number: name}; None: Cityscapes' ten classes that have instances.
        """
        path, source = Path(path), source or self.FORMAT
        names = dict(class_names or CITYSCAPES_NAMES)
        for class_id, name in names.items():
            self.add_record_class(source, class_id, name)
        roots = [path / name[1:] for name in _ANNOTATIONS if (path / name[1:]).is_dir()]
        folder = roots[0] if roots else path
        if not (folder := folder / subset if subset else folder).is_dir():
            raise FileNotFoundError(f"There is no folder {folder} of instance pictures.")
        files = sorted(folder.rglob(f"*{SUFFIX}"))
        if not files:
            raise FileNotFoundError(f"There is no *{SUFFIX} in {folder}; needed: {self.LAYOUT}.")
        for file, found in read_many(lambda file: _read(file, names), files, path):
            if isinstance(found, Exception):
                self.add_record_problem(file, "", found)
                continue
            image, size, rles = found
            instances = []
            for value, rle in rles.items():
                class_id = value // 1000 if value >= 1000 else value
                record = f"instance {value}"
                if class_id in names:
                    instances.append(Instance(names[class_id], rle, record, crowd=value < 1000))
                elif value >= 1000:
                    reason = f"its class {class_id} is not among {sorted(names)}"
                    self.add_problem(file, record, UNKNOWN_CLASS, reason)
            name = file.relative_to(folder).as_posix()[: -len(SUFFIX)]
            self.add_record_image(source, name, image, size, instances)
        self.finish(path)


def _read(file, names):
    """(image file, size, {value: RLE}) of an instance picture."""
    image = _image_of(file)
    size = image_size(image)
    values, _ = read_pixels(file)
    if values.shape != size:
        raise ValueError(
            f"its shape is {values.shape}, the image {image.name} is {size[1]} x {size[0]}; a grey "
            "picture of the same size is needed"
        )
    if values.min() < 0:
        raise ValueError(f"it holds the value {values.min()}")

    def is_instance(value):  # of stuff like road and sky, most of the picture, there are none
        return value >= 1000 or value in names

    return image, size, segments.labels_to_rles(values, is_instance)


def _image_of(file):
    """The image of an instance picture."""
    stem = file.name[: -len(SUFFIX)]
    folder, names = file.parent, [stem]
    for ending in _ANNOTATIONS:
        if stem.endswith(ending):
            names.insert(0, stem[: -len(ending)] + "_leftImg8bit")
    folders = [folder]
    for parent in folder.parents:
        if f"_{parent.name}" in _ANNOTATIONS or f"_{folder.name}" in _ANNOTATIONS:
            base = parent if f"_{parent.name}" in _ANNOTATIONS else folder
            folders.insert(0, base.parent / "leftImg8bit" / folder.relative_to(base))
            break
    for place in folders:
        for name in names:
            if (image := image_beside(place, name)) is not None:
                return image
    raise FileNotFoundError(f"there is no image {names[0]} in {folders[0]}")
