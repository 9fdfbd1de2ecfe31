"""The commands about datasets: `inspect` and `convert`; cli.py lists them."""

import argparse
import contextlib
import logging
import sys
from pathlib import Path

INSPECT = """\
Reads a dataset, decodes every image, looks at every instance, and reports what is wrong: images
that are unreadable, truncated, turned by EXIF or of another size than their annotations say; boxes
and polygons outside, empty or crossing themselves; instances without a pixel; duplicated ids;
classes without a name; damaged records. The report is printed and written to the output folder, as
report.txt and report.json, with classes.png, sizes.png and a sheet of annotated samples,
samples.png.
"""
INSPECT_EXAMPLES = """\
examples:
  python -m mrcnn_parallel inspect balloon/ --subset train
  python -m mrcnn_parallel inspect coco/ --subset val2017 --output val_report
  python -m mrcnn_parallel inspect instances.json --option image_dir=/data/jpg
  python -m mrcnn_parallel inspect labels/ --format labelme --ignore "self-crossing polygon"

exit status: 0 no problems, 1 problems found, 2 the dataset can't be read or the call is wrong
"""
CONVERT = """\
Writes a dataset in any format as COCO instances JSON. Polygons stay polygons, masks become
compressed RLE; what is damaged is left out and named.
"""
CONVERT_EXAMPLES = """\
examples:
  python -m mrcnn_parallel convert via balloon/ train.json --subset train
  python -m mrcnn_parallel convert auto VOC2012/ out/voc.json --images copy
  python -m mrcnn_parallel convert yolo data.yaml car.json --include car --rename truck=car
  python -m mrcnn_parallel convert labelme a/ train.json --split train:0.8
  python -m mrcnn_parallel convert labelme a/ val.json   --split val:0.2
"""


class _UsageError(Exception):
    """A wrong argument that argparse can't see."""


def add_inspect(commands):
    """`inspect`: what is wrong with a dataset."""
    parser = _parser(commands, "inspect", "find what is wrong with a dataset", INSPECT)
    parser.epilog = INSPECT_EXAMPLES
    add = parser.add_argument
    add("dataset", metavar="DATASET", help="file or folder")
    add("--format", default="auto", help="its format, see `convert --help`; default: found out")
    _add_source_options(parser)
    add("--output", metavar="DIR", help="folder for the report (inspect_<name of the dataset>)")
    add("--samples", type=int, default=16, metavar="COUNT", help="images on the sheet (16)")
    add("--shown", type=int, default=5, metavar="COUNT", help="problems printed of a kind (5)")
    add("--threads", type=int, metavar="COUNT", help="default: one per core, 16 at most")
    add("--ignore", action="append", default=[], metavar="KIND", help="problems not to report")
    parser.set_defaults(run=_guarded("inspect", _inspect))


def add_convert(commands):
    """`convert`: any format to COCO JSON."""
    from mrcnn_parallel.data.formats import FORMATS

    parser = _parser(commands, "convert", "write a dataset as COCO JSON", CONVERT)
    layouts = "\n".join(f"  {name:<11}{reader.LAYOUT}" for name, reader in FORMATS.items())
    parser.epilog = f"formats:\n{layouts}\n\n{CONVERT_EXAMPLES}"
    add = parser.add_argument
    add("format", metavar="FORMAT", help=f"{', '.join(FORMATS)}, or auto")
    add("path", metavar="PATH", help="file or folder")
    add("output", metavar="OUT.json")
    add(
        "--images",
        default="reference",
        choices=["copy", "link", "reference"],
        help="copy or link the images to images/ beside OUT.json, or name them where they are "
        "(the default)",
    )
    _add_source_options(parser)
    parser.set_defaults(run=_guarded("convert", _convert))


def _parser(commands, name, summary, description):
    return commands.add_parser(
        name,
        help=summary,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _add_source_options(parser):
    add = parser.add_argument
    add("--subset", help="part of the dataset, e.g. train")
    add("--include", nargs="+", metavar="CLASS", help="classes to keep, after --rename")
    add("--exclude", nargs="+", metavar="CLASS", help="classes to leave out, after --rename")
    add("--classes", nargs="+", metavar="CLASS", help="all classes, in the order of their numbers")
    add("--rename", nargs="+", default=[], metavar="OLD=NEW", help="classes to rename or merge")
    add("--split", metavar="PART:SHARE", help="a share of the images: train:0.8 or val:0.2")
    add("--seed", type=int, default=0, help="of the split (0)")
    add(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="for the format's reader, e.g. class_attribute=kind, class_name=cell, image_dir=jpg",
    )


def _guarded(name, command):
    """Runs a command with progress in the log, and turns the errors of bad input into status 2."""

    def run(options):
        try:
            with _log_to_stderr():
                return command(options)
        except (_UsageError, OSError, ValueError, ImportError) as error:
            print(f"mrcnn_parallel {name}: {error}", file=sys.stderr)
            return 2

    return run


@contextlib.contextmanager
def _log_to_stderr():
    """Shows this package's messages while a command runs."""
    logger, handler = logging.getLogger("mrcnn_parallel"), logging.StreamHandler()
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


def _load(format_name, path, options):
    from mrcnn_parallel.data.formats import AUTO, FORMATS, load_dataset

    if format_name not in FORMATS and format_name != AUTO:
        raise _UsageError(f"the format {format_name!r} is unknown; use {', '.join(FORMATS)}, auto")
    split = None
    if options.split:
        part, _, share = options.split.partition(":")
        try:
            split = (part, float(share))
        except ValueError:
            raise _UsageError(f"--split {options.split} is not PART:SHARE") from None
    return load_dataset(
        format_name,
        path,
        subset=options.subset,
        class_map=_pairs("--rename", options.rename),
        include=options.include,
        exclude=options.exclude,
        classes=options.classes,
        split=split,
        seed=options.seed,
        **_pairs("--option", options.option),
    )


def _pairs(name, texts):
    pairs = dict(text.partition("=")[::2] for text in texts)
    if not all(pairs.values()):
        raise _UsageError(f"{name} needs NAME=VALUE, got {' '.join(texts)}")
    return pairs


def _convert(options):
    from mrcnn_parallel.data.coco_writer import write_coco

    dataset = _load(options.format, options.path, options)
    write_coco(dataset, options.output, options.images)
    return 0


def _inspect(options):
    from mrcnn_parallel.data.checks import figures, report

    if options.threads is not None and options.threads < 1:
        raise _UsageError("--threads must be at least 1")
    with _quiet_reader():  # the report names everything
        dataset = _load(options.format, options.dataset, options)
    found = report.inspect_dataset(dataset, options.threads, True, options.ignore)
    text = report.to_text(found, f"{options.dataset}", options.shown)
    folder = Path(options.output or f"inspect_{Path(options.dataset).resolve().stem}")
    folder.mkdir(parents=True, exist_ok=True)
    report.write_report(found, folder, text)
    figures.plot_classes(found, folder / "classes.png")
    figures.plot_sizes(found, folder / "sizes.png")
    figures.draw_samples(dataset, folder / "samples.png", options.samples, options.seed)
    print(text)
    print(f"\nWritten to {folder}")
    return 1 if found.problems else 0


@contextlib.contextmanager
def _quiet_reader():
    reader = logging.getLogger("mrcnn_parallel.data.records")
    level = reader.level
    reader.setLevel(logging.ERROR)
    try:
        yield
    finally:
        reader.setLevel(level)
