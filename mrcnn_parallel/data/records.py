"""RecordDataset: what the readers of annotation formats have in common.

A reader turns files into images with Instances, in one form for all formats: polygons stay
polygons, pixels become RLEs. A record that is damaged is left out, logged, and kept by name in
`problems`; only a missing or unreadable top file is an error. What all formats have in common for
the user (choosing classes, splitting, joining) is done on that form, in formats.py.
"""

import logging
from typing import NamedTuple

import numpy as np

from mrcnn_parallel.data import segments
from mrcnn_parallel.data.dataset import Dataset
from mrcnn_parallel.data.record_files import RECORD_ERRORS, image_size

log = logging.getLogger(__name__)

LOGGED_PROBLEMS = 10  # of a source, one by one; the others are only counted in the log

# What can be wrong with a record; `inspect` counts by these names.
DAMAGED = "damaged record"
MISSING_FILE = "missing file"
UNREADABLE_IMAGE = "unreadable image"
EMPTY = "empty annotation"
DUPLICATE = "duplicated id"
UNKNOWN_CLASS = "unknown class"
NO_MASK = "no outline"
NO_IMAGE = "annotation without image"


class Problem(NamedTuple):
    """A record that is not right, or a part of one; what is wrong was left out unless it says so.

    file: the file it is in. record: which one in it, e.g. "annotation 17"; "" is the whole file.
    kind: one of the names above. reason: what is wrong.
    """

    file: str
    record: str
    kind: str
    reason: str

    def __str__(self):
        return f"{self.file}{', ' if self.record else ''}{self.record}: {self.reason} ({self.kind})"


class Instance:
    """An annotated object.

    segment: list of (n, 2) float64 polygons, (x, y) pixels, or a compressed RLE; see segments.py.
    class_name: as the dataset calls it. crowd: whether it is a region of many that nobody
    separated. name: of the record, for messages. box: (x, y, width, height) as the file has it, or
    None.
    """

    __slots__ = ("box", "class_name", "crowd", "name", "segment")

    def __init__(self, class_name, segment, name, crowd=False, box=None):
        self.class_name, self.segment, self.name = class_name, segment, name
        self.crowd, self.box = crowd, box


class RecordDataset(Dataset):
    """A Dataset whose images hold Instances in memory; readers are subclasses with `read`.

    Use `load_dataset` of formats.py to fill one. Classes of one name are one class, whatever source
    they come from.

    Attributes:
        problems: list of Problem, what was left out while reading.
        image_info: has also height and width in pixels, `declared_size` (what the annotations say
            about the file's (height, width), None where they don't), and `instances`.
    """

    FORMAT = ""  # the name in load_dataset
    LAYOUT = ""  # what its folder looks like, one line

    def __init__(self):
        super().__init__()
        self.problems = []
        self.source_names = {}  # source -> {its class id: class name}

    # === What a reader implements and calls ===

    @classmethod
    def detects(cls, path):
        """Whether a path looks like this format, from names and, of a JSON file, its keys."""
        raise NotImplementedError

    def read(self, path, subset=None, source=None, **options):
        """Adds the images of a file or folder.

        Args:
            path: file or folder in the format. subset: a part of it, e.g. "train".
            source: name for the data; the format's by default.

        Raises:
            FileNotFoundError: the path or what must be in it is missing.
            ValueError: the top file can't be read, or there is no image in it.
        """
        raise NotImplementedError

    def add_problem(self, file, record, kind, reason):
        """Notes a record that is left out."""
        self.problems.append(Problem(str(file), str(record), kind, str(reason)))

    def add_record_class(self, source, class_id, name):
        """Adds a class of a source: its own id, which may be any number or text, and its name."""
        self.source_names.setdefault(source, {})[class_id] = name
        self.add_class(source, class_id, name)

    def add_found_classes(self, source):
        """Adds the classes of the instances read so far, by name: files don't decide the order."""
        names = {i.class_name for info in self.image_info for i in info["instances"]}
        for class_id, name in enumerate(sorted(names), 1):
            self.add_record_class(source, class_id, name)

    def add_record_image(self, source, image_id, path, size, instances, declared_size=None):
        """Adds an image: size and declared_size are (height, width) in pixels."""
        self.source_names.setdefault(source, {})
        self.add_image(
            source,
            image_id,
            str(path),
            height=size[0],
            width=size[1],
            instances=instances,
            declared_size=declared_size,
        )

    def add_record_problem(self, file, record, error):
        """Notes a record from one of RECORD_ERRORS that reading it raised."""
        kind = EMPTY if isinstance(error, segments.EmptyPolygonError) else DAMAGED
        kind = MISSING_FILE if isinstance(error, FileNotFoundError) else kind
        if isinstance(error, KeyError):
            reason = f"it has no {error}"
        else:
            plain = isinstance(error, (ValueError, OSError))
            reason = str(error) if plain else f"it can't be read: {type(error).__name__} {error}"
        self.add_problem(file, record, kind, reason)

    def polygon_parts(self, parts, size, file, name, parse=segments.parse_polygon):
        """The good polygons among an instance's parts; the bad ones become problems.

        Args:
            parts: list of what `parse(part, height, width)` takes.

        Returns:
            List of (n, 2) arrays, or None where nothing is left.
        """
        good = []
        for number, part in enumerate(parts):
            try:
                good.append(parse(part, *size))
            except RECORD_ERRORS as error:
                record = name if len(parts) == 1 else f"{name}, polygon {number}"
                self.add_record_problem(file, record, error)
        if not parts:
            self.add_problem(file, name, EMPTY, "it has no polygon")
        return good or None

    def measure(self, path, file=None, record=""):
        """(height, width) of an image file from its header, or None and a problem.

        Args:
            file, record: what names the image, for the problem; the image itself by default.
        """
        try:
            return image_size(path)
        except FileNotFoundError as error:
            self.add_problem(file or path, record, MISSING_FILE, error)
        except ValueError as error:
            self.add_problem(file or path, record, UNREADABLE_IMAGE, error)
        return None

    def finish(self, path):
        """Called by a reader at its end: logs the problems, and refuses an empty dataset."""
        for problem in self.problems[:LOGGED_PROBLEMS]:
            log.warning("%s", problem)
        if self.problems:
            log.warning(
                "%s: %d problems%s; what is damaged was left out.",
                path,
                len(self.problems),
                f", {LOGGED_PROBLEMS} of them above" * (len(self.problems) > LOGGED_PROBLEMS),
            )
        if not self.image_info:
            first = "".join(f" The first problem: {problem}." for problem in self.problems[:1])
            raise ValueError(
                f"{path} has no image that can be used; {len(self.problems)} problems.{first}"
            )

    # === Dataset ===

    def prepare(self, class_map=None):
        """Numbers classes and images; classes of one name get one number."""
        background, *classes = self.class_info
        first = {}
        for info in classes:
            first.setdefault(info["name"], info)
        self.class_info = [background, *first.values()]
        super().prepare(class_map)
        numbers = {name: number for number, name in enumerate(first, 1)}
        self.class_numbers = numbers
        for source, names in self.source_names.items():
            self.class_from_source_map.update(
                {f"{source}.{class_id}": numbers[name] for class_id, name in names.items()}
            )
            self.source_class_ids[source] = sorted({0} | {numbers[n] for n in names.values()})
        self.sources = list(dict.fromkeys([*self.sources, *self.source_names]))

    def get_source_class_id(self, class_id, source):
        """A source's own id of our class number; the first, where several became one class."""
        name = self.class_info[class_id]["name"]
        for own_id, own_name in self.source_names.get(source, {}).items():
            if own_name == name:
                return own_id
        return super().get_source_class_id(class_id, source)

    def _class_ids(self, image_id):
        instances = self.image_info[image_id]["instances"]
        numbers = [self.class_numbers[i.class_name] * (-1 if i.crowd else 1) for i in instances]
        return np.array(numbers, np.int32)

    def load_polygons(self, image_id):
        """The image's segments and class ids, see Dataset; a list may be empty."""
        if type(self).load_mask is not RecordDataset.load_mask:
            return None  # a subclass changes masks: outlines would not agree with them
        segs = [instance.segment for instance in self.image_info[image_id]["instances"]]
        return segs, self._class_ids(image_id)

    def load_mask(self, image_id):
        """The image's instances, all of them: one without a pixel is an empty mask.

        Returns:
            masks: (H, W, N) bool. class_ids: (N,) int32; negative for crowds.
        """
        info = self.image_info[image_id]
        size = (info["height"], info["width"])
        masks = np.zeros((*size, len(info["instances"])), bool)
        for number, instance in enumerate(info["instances"]):
            masks[:, :, number] = segments.to_mask(instance.segment, *size)
        return masks, self._class_ids(image_id)

    def image_reference(self, image_id):
        """The image's file."""
        return self.image_info[image_id]["path"]
