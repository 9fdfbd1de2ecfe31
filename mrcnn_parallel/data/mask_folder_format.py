"""A folder of masks, one picture per instance: the layout of the Data Science Bowl, or simpler.

    <id>/images/<id>.png  with  <id>/masks/*.png               the Bowl's (2018, nuclei)
    images/NAME.jpg       with  masks/NAME/*.png               images and masks apart
    images/NAME.jpg       with  masks/NAME/<class>/*.png       the same, with classes

Every pixel but 0 of a mask belongs to its instance.
"""

from pathlib import Path

import numpy as np

from mrcnn_parallel.data import segments
from mrcnn_parallel.data.record_files import list_images, read_many, read_pixels
from mrcnn_parallel.data.records import EMPTY, MISSING_FILE, Instance, RecordDataset

OBJECT = "object"  # the class where no folder says another


class MaskFolderDataset(RecordDataset):
    """One picture per instance."""

    FORMAT = "masks"
    LAYOUT = (
        "<id>/images/<id>.png with <id>/masks/*.png; or images/NAME.jpg with masks/NAME/*.png or "
        "masks/NAME/<class>/*.png; subsets are folders around it"
    )

    @classmethod
    def detects(cls, path):
        """A folder in one of the two layouts, or with subsets that are."""
        path = Path(path)
        if not path.is_dir():
            return False
        return _has_masks(path) or any(map(_has_masks, filter(Path.is_dir, path.iterdir())))

    def read(self, path, subset=None, source=None, class_name=OBJECT):
        """Adds a folder's images; see RecordDataset.read.

        Args:
            path: folder. subset: a folder in it, e.g. "stage1_train".
            class_name: of masks that are in no class's folder.
        """
        folder, source = Path(path, subset or ""), source or self.FORMAT
        if not folder.is_dir():
            raise FileNotFoundError(f"There is no folder {folder} with images and masks.")
        images = dict(self._images(folder))  # path -> folder of its masks
        if not images and not self.problems:
            subsets = [place.name for place in sorted(folder.iterdir()) if _has_masks(place)]
            hint = f"; it has the subsets {', '.join(subsets)}: subset=..." if subsets else ""
            raise FileNotFoundError(
                f"{folder} is in no layout of masks{hint}; needed: {self.LAYOUT}."
            )
        masks = {image: list_images(place, deep=True) for image, place in images.items()}
        jobs = [(image, file) for image, files in masks.items() for file in files]
        found = {}
        for (image, file), mask in read_many(lambda job: _read_mask(job[1]), jobs, folder):
            found.setdefault(image, []).append((file, mask))
        for image, place in images.items():
            size = self.measure(image)
            if size is None:
                continue
            instances = []
            for file, mask in found.get(image, ()):
                if isinstance(mask, Exception):
                    self.add_record_problem(file, "", mask)
                    continue
                (height, width), rle = mask
                if (height, width) != size:
                    reason = f"it is {width} x {height} pixels, its image {size[1]} x {size[0]}"
                    self.add_record_problem(file, "", ValueError(reason))
                    continue
                if rle is None:
                    self.add_problem(file, "", EMPTY, "it has no pixel but 0")
                    continue
                parts = file.relative_to(place).parts
                name = parts[0] if len(parts) > 1 else class_name
                instances.append(Instance(name, rle, file.name))
            if place.name == "masks":
                image_id = place.parent.name
            else:
                image_id = image.relative_to(folder / "images").as_posix()
            self.add_record_image(source, image_id, image, size, instances)
        self.add_found_classes(source)
        if not self.source_names.get(source):  # images without masks: the class is known
            self.add_record_class(source, 1, class_name)
        self.finish(folder)

    def _images(self, folder):
        """(image, folder of its masks) of all images, sorted."""
        for place in _image_folders(folder):
            files = list_images(place / "images") if (place / "images").is_dir() else []
            if files:
                yield files[0], place / "masks"
            else:
                self.add_problem(place, "", MISSING_FILE, "there is no image in images/")
        if _is_apart(folder):
            for image in list_images(folder / "images", deep=True):
                stem = image.relative_to(folder / "images").with_suffix("")
                yield image, folder / "masks" / stem


def _image_folders(folder):
    """Folders of the layout with a folder per image; an image without masks/ has no instance."""
    return sorted(
        place
        for place in folder.iterdir()
        if (place / "masks").is_dir()
        or ((place / "images").is_dir() and len(list_images(place / "images")) == 1)
    )


def _has_masks(folder):
    """Whether a path is a folder in one of the layouts, with masks."""
    if not folder.is_dir():
        return False
    apart = _is_apart(folder)
    return apart or any((place / "masks").is_dir() for place in _image_folders(folder))


def _is_apart(folder):
    masks = folder / "masks"
    if not (folder / "images").is_dir() or not masks.is_dir():
        return False
    return any(place.is_dir() for place in masks.iterdir())


def _read_mask(file):
    """((height, width), compressed RLE or None for an empty mask) of a file."""
    pixels, palette = read_pixels(file)
    if palette is not None:  # black is the background, wherever the palette has it
        pixels = palette[np.minimum(pixels, len(palette) - 1)]
    mask = pixels > 0 if pixels.ndim == 2 else (pixels > 0).any(axis=-1)
    return mask.shape, segments.to_rle(mask, *mask.shape) if mask.any() else None
