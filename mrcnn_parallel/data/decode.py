"""JPEG files straight to RGB arrays, with OpenCV, whose decoder lets other threads run.

Only well-formed JPEGs of 8 bits, grey or of three colours, are decoded here: what OpenCV makes of
them is what Pillow does. It fills what is missing of a damaged file with grey and says nothing, so
all else is left to `images.read_image`, which knows more formats and reports damage.
"""

import os

import numpy as np

_BASELINE_TO_PROGRESSIVE = (0xC0, 0xC1, 0xC2)
_NOT_FRAMES = (0xC4, 0xC8, 0xCC)  # tables, in the same range of numbers as frame headers
_REDUCTIONS = (8, 4, 2)


def read_jpeg(path, most_reduced=None):
    """Decodes a JPEG file.

    EXIF rotation is not applied, as annotation tools count in stored pixels.

    Args:
        path: the file.
        most_reduced: function of the (height, width) in the file: the image may come 2, 4 or 8
            times smaller, as long as it is no smaller than this factor of its size, which takes
            less time. None: as it is.

    Returns:
        image: (h, w, 3) uint8 RGB, and size: (height, width) in the file. None where the file is
        not such a JPEG or there is none.
    """
    path = os.fspath(path)
    if not path.lower().endswith((".jpg", ".jpeg")):
        return None
    try:
        with open(path, "rb", buffering=0) as file:
            data = file.read()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    size = jpeg_size(data)
    if size is None:
        return None
    import cv2

    least = 1.0 if most_reduced is None else most_reduced(size)
    reduction = next((n for n in _REDUCTIONS if n * least <= 1), 1)
    direct = reduction == 1 and hasattr(cv2, "IMREAD_COLOR_RGB")  # OpenCV 4.11 and later
    if reduction > 1:
        colour = getattr(cv2, f"IMREAD_REDUCED_COLOR_{reduction}")
    else:
        colour = cv2.IMREAD_COLOR_RGB if direct else cv2.IMREAD_COLOR
    data = np.frombuffer(data, np.uint8)
    image = cv2.imdecode(data, colour | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None or (reduction == 1 and image.shape[:2] != size):
        return None
    if not direct:
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)
    return image, size


def jpeg_size(data):
    """(height, width) of a whole JPEG of 8 bits and 1 or 3 components, else None.

    Args:
        data: the file's bytes.
    """
    if data[:2] != b"\xff\xd8" or not data.rstrip(b"\0").endswith(b"\xff\xd9"):
        return None  # no JPEG, or cut off: there is no end marker
    at = 2
    while at + 9 < len(data):
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in _NOT_FRAMES:
            height, width = (int.from_bytes(data[i : i + 2]) for i in (at + 5, at + 7))
            usual = marker in _BASELINE_TO_PROGRESSIVE and data[at + 4] == 8
            return (height, width) if usual and data[at + 9] in (1, 3) and height else None
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return None
