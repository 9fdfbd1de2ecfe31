"""Reading the files of annotated datasets: JSON, text, annotation pictures, the size of images.

What can't be read raises a FileNotFoundError or a ValueError with the file's name, whatever the
libraries raise.
"""

import functools
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from mrcnn_parallel.data import segments

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")

# What looking into a damaged record raises: no such key, another type, a number out of range, a
# file name that the system refuses.
RECORD_ERRORS = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, OSError)


def image_size(path):
    """(height, width) of an image file, from its header.

    Raises:
        FileNotFoundError: there is no such file. ValueError: it is no image.
    """
    from PIL import Image

    if not os.path.isfile(path):
        raise FileNotFoundError(f"there is no image file {path}")
    try:
        with Image.open(path) as image:
            width, height = image.size
    except Exception as error:  # Pillow's plugins raise what their parsers do on damaged headers
        raise ValueError(f"image file {path} cannot be read: {error}") from error
    return segments.parse_size(height, width)


def list_images(folder, deep=False):
    """The image files in a folder, and with `deep` in the folders in it, sorted by name."""
    return sorted(
        path
        for path in (Path(folder).rglob("*") if deep else Path(folder).iterdir())
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
    )


def image_beside(folder, stem):
    """The image file of a stem in a folder, or None."""
    for suffix in IMAGE_SUFFIXES:
        for name in (stem + suffix, stem + suffix.upper()):
            if (path := Path(folder, name)).is_file():
                return path
    return None


def read_json(path, missing="there is no file {path}"):
    """The content of a JSON file.

    Raises:
        FileNotFoundError: there is none. ValueError: it can't be read as JSON.
    """
    import json

    if not os.path.isfile(path):
        raise FileNotFoundError(missing.format(path=path) + ".")
    try:
        with open(path, encoding="utf-8-sig") as file:
            return json.load(file)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a JSON file: {error}.") from error


@functools.lru_cache(maxsize=4)
def _json_keys(path, modified, size):
    content = read_json(path)
    values = content.values() if isinstance(content, dict) else ()
    first = next((value for value in values if isinstance(value, dict)), {})
    return frozenset(content) if isinstance(content, dict) else frozenset(), frozenset(first)


def json_keys(path):
    """The keys of a JSON file's dict, and those of the first dict in it; empty for other files."""
    path = Path(path)
    if path.suffix.lower() != ".json" or not path.is_file():
        return frozenset(), frozenset()
    status = path.stat()
    try:
        return _json_keys(path, status.st_mtime_ns, status.st_size)
    except ValueError:
        return frozenset(), frozenset()


def read_lines(path):
    """The lines of a text file without the space around them, empty ones left out.

    Raises:
        ValueError: it is not text.
    """
    try:
        text = Path(path).read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file: {error}.") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def read_pixels(path):
    """The stored numbers of an annotation picture: (H, W) palette indices or grey, or (H, W, 3).

    Returns:
        pixels: uint8 or larger ints. palette: (n, 3) uint8, or None.

    Raises:
        FileNotFoundError: there is no such file. ValueError: it can't be read.
    """
    from PIL import Image

    image_size(path)  # says what is wrong with a file that is none
    try:
        verify_png(path)
        with Image.open(path) as image:
            if image.mode == "P":
                palette = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
                return np.array(image), palette
            if image.mode == "1" or image.mode.startswith(("I", "L")):
                pixels = np.array(image if image.mode != "LA" else image.convert("L"))
            else:
                pixels = np.array(image.convert("RGB"))
    except Exception as error:  # see image_size
        raise ValueError(f"image file {path} cannot be read: {error}") from error
    return pixels.astype(np.uint8) if pixels.dtype == bool else pixels, None


def verify_png(path):
    """Raises an exception where a check sum of a PNG is wrong; its decoder does not look at them.

    Other files pass: their decoders notice damage, as far as the format allows.
    """
    from PIL import Image

    with Image.open(path) as image:
        if image.format == "PNG":
            image.verify()


def read_many(read, items, title):
    """(item, read(item)) in order, with a few threads; an error of a file is returned, not raised.

    Pillow decodes outside Python's lock, so threads share the work of many annotation pictures.
    In a terminal a progress bar is shown if it takes long.
    """
    from tqdm import tqdm

    def guarded(item):
        try:
            return item, read(item)
        except RECORD_ERRORS as error:
            return item, error

    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    try:
        found = pool.map(guarded, items)
        yield from tqdm(found, total=len(items), desc=f"Reading {title}", delay=2, disable=None)
    finally:  # Ctrl-C must not wait for the files that are still to come
        pool.shutdown(cancel_futures=True)
