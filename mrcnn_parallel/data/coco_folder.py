"""The layout of a folder in COCO's format, and COCO itself fetched into one.

The layout is annotations/instances_<subset><year>.json, with the images in <subset><year>/.
"""

import logging
import zipfile
from pathlib import Path

VAL_PARTS = {  # annotation files for halves of val2014, which Matterport's weights go by
    "minival": "https://dl.dropboxusercontent.com/s/o43o90bna78omob/instances_minival2014.json.zip",
    "valminusminival": (
        "https://dl.dropboxusercontent.com/s/s3tw5zcg7395368/instances_valminusminival2014.json.zip"
    ),
}
IMAGES_URL = "http://images.cocodataset.org/zips/{subset}{year}.zip"
ANNOTATIONS_URL = "http://images.cocodataset.org/annotations/annotations_trainval{year}.zip"

log = logging.getLogger(__name__)


def find_subset(dataset_dir, subset, year):
    """Where a subset of a COCO folder is.

    Args:
        dataset_dir: the folder.
        subset: "train", "val", ...; the images of those in VAL_PARTS are val's.
        year: what the names end in, any text.

    Returns:
        Paths of the annotation file and the image folder.

    Raises:
        FileNotFoundError: saying what was looked for, and what there is.
    """
    folder = Path(dataset_dir)
    annotation_file = folder / "annotations" / f"instances_{subset}{year}.json"
    image_dir = folder / f"{'val' if subset in VAL_PARTS else subset}{year}"
    layout = (
        "A COCO folder holds annotations/instances_<subset><year>.json and the images in "
        "<subset><year>/"
    )
    if not annotation_file.is_file():
        there = sorted(path.name for path in folder.glob("annotations/*.json"))
        raise FileNotFoundError(
            f"No COCO annotations for subset {subset!r}, year {year!r}: looked for "
            f"{annotation_file}. {layout}; here annotations/ holds {', '.join(there) or 'nothing'}."
        )
    if not image_dir.is_dir():
        there = sorted(path.name for path in folder.iterdir() if path.is_dir())
        raise FileNotFoundError(
            f"No COCO images for subset {subset!r}, year {year!r}: looked for the folder "
            f"{image_dir}. {layout}; here are {', '.join(there)}."
        )
    return annotation_file, image_dir


def download_subset(dataset_dir, subset, year):
    """Fetches COCO's images and annotations of a subset, unless they are there already.

    Args:
        dataset_dir: folder to fill.
        subset: "train", "val", "minival" or "valminusminival".
        year: 2014 or 2017.

    Raises:
        OSError: the download failed.
    """
    folder = Path(dataset_dir)
    image_subset = "val" if subset in VAL_PARTS else subset
    if not (folder / f"{image_subset}{year}").is_dir():
        _fetch_zip(IMAGES_URL.format(subset=image_subset, year=year), folder)
    if not (folder / "annotations" / f"instances_{subset}{year}.json").is_file():
        if subset in VAL_PARTS:
            _fetch_zip(VAL_PARTS[subset] + "?dl=1", folder / "annotations")
        else:
            _fetch_zip(ANNOTATIONS_URL.format(year=year), folder)


def _fetch_zip(url, folder):
    """Downloads an archive, unpacks it into a folder and removes it."""
    from mrcnn_parallel import utils

    archive = folder / Path(url).name.split("?")[0]
    utils.download(url, archive)
    log.info("Unpacking %s", archive)
    with zipfile.ZipFile(archive) as content:
        content.extractall(folder)
    archive.unlink()
