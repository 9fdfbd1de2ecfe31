"""load_dataset: every annotation format by name, or found out; classes chosen, sources joined.

    load_dataset("coco", "coco/", subset="train2017")
    load_dataset("balloon/", subset="train", class_map={"object": "balloon"})
    load_dataset([("coco", "a.json"), ("labelme", "b/")], split=("train", 0.8), seed=0)

FORMATS is the one list of formats; a new one is a RecordDataset with `detects` and `read`, added
there.
"""

import contextlib
import gc
import hashlib
import os
from pathlib import Path

from mrcnn_parallel.data.cityscapes_format import CityscapesDataset
from mrcnn_parallel.data.coco_format import CocoDataset
from mrcnn_parallel.data.labelme_format import LabelmeDataset
from mrcnn_parallel.data.mask_folder_format import MaskFolderDataset
from mrcnn_parallel.data.records import RecordDataset
from mrcnn_parallel.data.via_format import ViaDataset
from mrcnn_parallel.data.voc_format import VocDataset
from mrcnn_parallel.data.yolo_format import YoloDataset

FORMATS = {
    reader.FORMAT: reader
    for reader in (
        CocoDataset,
        ViaDataset,
        LabelmeDataset,
        VocDataset,
        CityscapesDataset,
        MaskFolderDataset,
        YoloDataset,
    )
}
AUTO = "auto"


def load_dataset(
    format,
    path=None,
    *,
    subset=None,
    class_map=None,
    include=None,
    exclude=None,
    classes=None,
    split=None,
    seed=0,
    keep_empty=None,
    **options,
):
    """Reads one or several annotated datasets; ready for training, no `prepare` needed.

    Args:
        format: a name in FORMATS; "auto" finds it out from the files. Or the path alone, which is
            then found out. Or a list of sources to join: (format, path), (format, path, options)
            with a dict of options for `read`, or a path.
        path: file or folder, see the formats' LAYOUT and docs/data.md.
        subset: the part of it, e.g. "train"; what subsets there are depends on the format.
        class_map: {class name: new name, or None to leave its instances out}. Several may get the
            same new name.
        include: names of the classes to keep, after class_map; None: all.
        exclude: names of the classes to leave out, after class_map.
        classes: names of all classes, in the order of their numbers, e.g. `class_names[1:]` of the
            training set; None: as the files have them. A validation set needs it where its format
            has no list of classes (VIA, labelme, masks) and it may lack one.
        split: None, or (part, share) with part "train", "val" or "test" and its share of the
            images: ("train", 0.8) and ("val", 0.2) are complements.
        seed: of the split. The same images are always split alike.
        keep_empty: what becomes of images without instances. None: they stay, but those that
            class_map, include or exclude emptied are left out. True: all stay. False: none does.
        **options: for the format's `read`, e.g. image_dir or class_names; see there.

    Returns:
        A prepared RecordDataset. Its `problems` list what was left out as damaged.

    Raises:
        FileNotFoundError, ValueError: a top file is missing, unreadable or of no known format; an
            unknown format, class or option; nothing is left.
    """
    sources = _sources(format, path)
    with _no_garbage_collection():
        readers = _read(sources, subset, options)
    dataset = readers[0] if len(readers) == 1 else _joined(readers)
    _choose_classes(dataset, class_map or {}, include, exclude, keep_empty)
    if classes is not None:
        _order_classes(dataset, classes)
    if split is not None:
        _split(dataset, split, seed)
    if not dataset.image_info:
        raise ValueError(f"Of {', '.join(str(place) for _, place, _ in sources)} no image is left.")
    dataset.prepare()
    return dataset


def _read(sources, subset, options):
    """A filled reader for each source."""
    readers = []
    for name, place, own in sources:
        if not os.path.exists(place):
            raise FileNotFoundError(f"There is no file or folder {place} to read a dataset from.")
        name = detect_format(place) if name == AUTO else name
        source = _unused(name, readers)
        reader = FORMATS[name]()
        own = {"source": source, "subset": subset, **options, **own}
        try:
            reader.read(place, **own)
        except TypeError as error:
            if "unexpected keyword argument" not in str(error):
                raise
            raise ValueError(f"The format {name!r} has no such option: {error}.") from error
        readers.append(reader)
    return readers


@contextlib.contextmanager
def _no_garbage_collection():
    """Reading makes millions of objects that all stay: looking for garbage doubles the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def detect_format(path):
    """The name of the format that a file or folder is in.

    Raises:
        ValueError: none, or several.
    """
    found = [name for name, reader in FORMATS.items() if reader.detects(path)]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"{path} may be in the format {' or '.join(found)}; say which one.")
    layouts = "\n".join(f"  {name}: {reader.LAYOUT}" for name, reader in FORMATS.items())
    raise ValueError(f"{path} is in no known format. Known are:\n{layouts}")


def _sources(format, path):
    """[(format, Path, options)] of load_dataset's first two arguments."""
    if isinstance(format, list):
        if path is not None:
            raise ValueError("load_dataset got a list of sources and a path; give the list alone.")
        sources = [_source(entry) for entry in format]
    elif path is None:
        sources = [_source(format)]
    else:
        sources = [_source((format, path))]
    if not sources:
        raise ValueError("load_dataset got an empty list of sources.")
    return sources


def _source(entry):
    if isinstance(entry, (str, os.PathLike)):
        if entry in FORMATS and not os.path.exists(entry):
            raise ValueError(f"load_dataset got the format {entry!r} but no path.")
        return AUTO, Path(entry), {}
    name, path, *rest = entry
    if name not in FORMATS and name != AUTO:
        raise ValueError(f"The format {name!r} is unknown; there are {', '.join(FORMATS)}, {AUTO}.")
    return name, Path(path), dict(rest[0]) if rest else {}


def _unused(name, readers):
    """A source name that no reader has: "coco", then "coco-2"."""
    number = sum(name == reader.FORMAT for reader in readers) + 1
    return name if number == 1 else f"{name}-{number}"


def _joined(readers):
    """One dataset of several; sources have different names, classes of one name are one."""
    dataset = RecordDataset()
    for reader in readers:
        taken = set(dataset.source_names) & set(reader.source_names)
        if taken:
            raise ValueError(f"Two sources are called {', '.join(taken)}; give them other names.")
        for source, names in reader.source_names.items():
            for class_id, name in names.items():
                dataset.add_record_class(source, class_id, name)
        dataset.image_info += reader.image_info
        dataset.problems += reader.problems
    return dataset


def _choose_classes(dataset, class_map, include, exclude, keep_empty):
    """Renames, merges and drops classes and their instances."""
    there = {name for names in dataset.source_names.values() for name in names.values()}
    _check_names("class_map", class_map, there)
    mapped = {name: class_map.get(name, name) for name in there}
    for argument, names in (("include", include), ("exclude", exclude)):
        _check_names(argument, names or (), {name for name in mapped.values() if name})
    kept = {
        name: new
        for name, new in mapped.items()
        if new and (include is None or new in include) and new not in (exclude or ())
    }
    if there and not kept:
        raise ValueError(f"No class is left of {', '.join(sorted(there))}.")
    old, dataset.source_names = dataset.source_names, {}
    dataset.class_info = dataset.class_info[:1]
    for source, names in old.items():
        dataset.source_names[source] = {}
        for class_id, name in names.items():
            if name in kept:
                dataset.add_record_class(source, class_id, kept[name])
    images = []
    for info in dataset.image_info:
        before = len(info["instances"])
        info["instances"] = [i for i in info["instances"] if i.class_name in kept]
        for instance in info["instances"]:
            instance.class_name = kept[instance.class_name]
        emptied = before > 0 and not info["instances"]
        if info["instances"] or (not emptied if keep_empty is None else keep_empty):
            images.append(info)
    dataset.image_info = images


def _order_classes(dataset, classes):
    """Numbers the classes as a list of names says; those that are not there yet are added."""
    _refuse_text("classes", classes)
    classes, there = list(classes), {info["name"]: info for info in dataset.class_info[1:]}
    unlisted = sorted(set(there) - set(classes))
    if unlisted or len(set(classes)) < len(classes):
        raise ValueError(
            f"classes is {classes}; it must name each class once: {', '.join(sorted(there))}. "
            "Leave others out with exclude, or rename them with class_map."
        )
    source = next(iter(dataset.source_names))
    for name in classes:
        if name not in there:
            dataset.add_record_class(source, name, name)
    there = {info["name"]: info for info in dataset.class_info[1:]}
    dataset.class_info[1:] = [there[name] for name in classes]


def _check_names(argument, names, there):
    _refuse_text(argument, names)
    unknown = sorted(set(map(str, names)) - there)
    if unknown:
        raise ValueError(
            f"{argument} names the classes {', '.join(unknown)}; there are "
            f"{', '.join(sorted(there)) or 'none'}."
        )


def _refuse_text(argument, names):
    if isinstance(names, str):
        raise ValueError(f"{argument} is the text {names!r}; give a list of class names.")


def _split(dataset, split, seed):
    """Keeps a part of the images; which ones is decided by a hash of the seed and their ids."""
    try:
        part, share = split
        known = part in ("train", "val", "test") and 0 < share < 1
    except (TypeError, ValueError):
        known = False
    if not known:
        raise ValueError(
            f"split is {split!r}; it must be (part, share) with part train, val or test and share "
            'between 0 and 1, e.g. ("train", 0.8).'
        )
    if part != "train" and share > 0.5:
        raise ValueError(
            f"split {split!r} would take {share:.0%} of the images for {part!r}: the share is that "
            f'of the part itself; ("{part}", {round(1 - share, 9)}) is the rest of ("train", '
            f"{share})."
        )

    def rank(info):
        return hashlib.sha256(f"{seed}/{info['source']}/{info['id']}".encode()).digest()

    ranked = sorted(dataset.image_info, key=rank)
    cut = round(round(share if part == "train" else 1 - share, 9) * len(ranked))
    chosen = ranked[:cut] if part == "train" else ranked[cut:]
    chosen = {id(info) for info in chosen}
    dataset.image_info = [info for info in dataset.image_info if id(info) in chosen]
