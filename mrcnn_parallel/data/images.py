"""Images in NumPy: reading, checking, resizing to what the network takes, and back.

Shapes: an image is (H, W, C), uint8 unless its dataset says otherwise. A window (y1, x1, y2, x2) is
the part of a padded image that holds the picture, in pixels.
"""

import functools
import random
from pathlib import Path
from typing import NamedTuple

import numpy as np


def read_image(path):
    """Reads an image file as the dataset classes need it.

    Args:
        path: a file, or a URL that scikit-image can open.

    Returns:
        (H, W, 3) uint8 RGB; grey, palette and CMYK pictures are converted, alpha is dropped.
        Pictures of more than 8 bits and TIFFs of other channel counts keep their type and channels.
        EXIF rotation is not applied, as annotation tools count in stored pixels.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not an image that can be read.
    """
    text = str(path)
    is_url = "://" in text
    if not is_url and not Path(text).is_file():
        raise FileNotFoundError(f"image file {text} does not exist.")
    try:
        if is_url or text.lower().endswith((".tif", ".tiff")):
            import skimage.io

            return with_channels(skimage.io.imread(text), 3, strict=False)
        from PIL import Image

        with Image.open(text) as file:
            if file.mode.startswith(("I", "F")):  # 16 and 32 bits: Pillow would clip them to 8
                return with_channels(np.asarray(file), 3)
            return np.array(file.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for damaged files
        raise ValueError(f"image file {text} cannot be read: {error}") from error


def with_channels(image, channel_count, strict=True):
    """Gives an image the number of channels that the network takes.

    Grey (H, W), (H, W, 1), grey with alpha (H, W, 2) and RGBA (H, W, 4) become RGB where 3 are
    asked for. For other counts only a missing axis is added: which channels to drop is the
    dataset's choice.

    Raises:
        ValueError: with `strict`, the channels cannot be had this way.
    """
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim == 3 and channel_count == 3 and image.shape[2] in (1, 2, 4):
        image = image[..., :3] if image.shape[2] == 4 else np.repeat(image[..., :1], 3, axis=2)
    if strict and (image.ndim != 3 or image.shape[2] != channel_count):
        raise ValueError(
            f"the image has shape {image.shape}, but (height, width, {channel_count}) is needed "
            "(config.IMAGE_CHANNEL_COUNT)."
        )
    return image


def check_image(image, config, where="image"):
    """Turns what a user or dataset hands over into an image the network can take, or says why not.

    Args:
        image: (H, W), or (H, W, C) of any numeric type, values 0 to 255.
        config: for IMAGE_CHANNEL_COUNT.
        where: names the image in messages.

    Returns:
        (H, W, IMAGE_CHANNEL_COUNT) of the same type; bool becomes uint8 0 and 255.

    Raises:
        ValueError: not an image, empty, of the wrong channels, or with a value that is not finite.
    """
    image = np.asarray(image)
    if image.dtype.kind not in "buif" or image.ndim not in (2, 3) or image.size == 0:
        raise ValueError(
            f"{where}: expected a picture of shape (height, width, channels), got an array of "
            f"shape {image.shape} and type {image.dtype}."
        )
    try:
        image = with_channels(image, config.IMAGE_CHANNEL_COUNT)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    if image.dtype == bool:
        image = image.astype(np.uint8) * np.uint8(255)
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        raise ValueError(f"{where}: the image holds NaN or infinite values; repair or remove it.")
    return image


def resize(
    image,
    output_shape,
    order=1,
    mode="constant",
    cval=0,
    clip=True,
    preserve_range=False,
    anti_aliasing=False,
    anti_aliasing_sigma=None,
):
    """`skimage.transform.resize` with Matterport's defaults; bool images are allowed.

    Anti-aliasing is off by default, as the weights in the wild were trained without.
    """
    import skimage.transform

    image = np.asarray(image)
    if image.dtype == bool and order > 0:  # scikit-image refuses to interpolate bools
        image = image.astype(np.float64)
    return skimage.transform.resize(
        image,
        output_shape,
        order=order,
        mode=mode,
        cval=cval,
        clip=clip,
        preserve_range=preserve_range,
        anti_aliasing=anti_aliasing,
        anti_aliasing_sigma=anti_aliasing_sigma,
    )


class ResizePlan(NamedTuple):
    """What `resize_image` does to an image of a certain size."""

    size: tuple  # (height, width) after scaling
    shape: tuple  # (height, width) of the result
    window: tuple  # (y1, x1, y2, x2) of the picture in the result
    scale: float
    padding: list  # [(top, bottom), (left, right), (0, 0)]
    crop: tuple | None  # (y, x, height, width) of the part of the scaled image, or None


def plan_resize(height, width, min_dim=None, max_dim=None, min_scale=None, mode="square", rng=None):
    """The ResizePlan of an image of this size; arguments and errors as for `resize_image`."""
    _check_mode(mode, min_dim, max_dim)
    padding, crop = [(0, 0), (0, 0), (0, 0)], None
    if mode == "none":
        return ResizePlan((height, width), (height, width), (0, 0, height, width), 1, padding, crop)
    scale = _scale(height, width, min_dim, max_dim if mode == "square" else None, min_scale)
    if scale != 1:
        height, width = round(height * scale), round(width * scale)
    if mode == "crop":
        y = _randint(height - min_dim, rng)
        x = _randint(width - min_dim, rng)
        crop, window = (y, x, min_dim, min_dim), (0, 0, min_dim, min_dim)
        return ResizePlan((height, width), (min_dim, min_dim), window, scale, padding, crop)
    if mode == "square":
        padding = [_centred(height, max_dim), _centred(width, max_dim), (0, 0)]
    elif mode == "pad64":
        padding = [_centred(side, -(-side // 64) * 64) for side in (height, width)] + [(0, 0)]
    (top, bottom), (left, right), _ = padding
    shape = (top + height + bottom, left + width + right)
    window = (top, left, height + top, width + left)
    return ResizePlan((height, width), shape, window, scale, padding, crop)


def config_plan(config, size, rng):
    """The ResizePlan that a Config asks for, for an image of (height, width)."""
    return plan_resize(
        *size,
        min_dim=config.IMAGE_MIN_DIM,
        max_dim=config.IMAGE_MAX_DIM,
        min_scale=config.IMAGE_MIN_SCALE,
        mode=config.IMAGE_RESIZE_MODE,
        rng=rng,
    )


def config_scale(config, size):
    """The scale of `config_plan`."""
    if config.IMAGE_RESIZE_MODE == "none":
        return 1
    longest = config.IMAGE_MAX_DIM if config.IMAGE_RESIZE_MODE == "square" else None
    return _scale(*size, config.IMAGE_MIN_DIM, longest, config.IMAGE_MIN_SCALE)


def resize_image(image, min_dim=None, max_dim=None, min_scale=None, mode="square", rng=None):
    """Resizes an image, keeping its proportions, in one of four ways.

    Args:
        image: (H, W, C).
        min_dim: the shorter side is enlarged to this many pixels, never shrunk.
        max_dim: `square` shrinks the longer side to this many pixels if it has more.
        min_scale: enlarge at least by this factor.
        mode: `none` returns the image as it is. `square` pads with zeros to max_dim x max_dim.
            `pad64` pads to multiples of 64, ignoring max_dim. `crop` takes a random part of
            min_dim x min_dim.
        rng: numpy.random.Generator for `crop`; None uses Python's `random`, as Matterport.

    Returns:
        image: in its own dtype; window: (y1, x1, y2, x2); scale: float;
        padding: [(top, bottom), (left, right), (0, 0)]; crop: None or (y, x, height, width).

    Raises:
        ValueError: unknown mode, or the mode's dimensions are missing or impossible.
    """
    plan = plan_resize(*image.shape[:2], min_dim, max_dim, min_scale, mode, rng)
    return apply_plan(image, plan), plan.window, plan.scale, plan.padding, plan.crop


def apply_plan(image, plan, out=None):
    """An image (H, W, C) resized, and cropped or padded with zeros, as a ResizePlan has it.

    Args:
        out: an array of the result's shape and type that may be written to and returned, or None.
    """
    same_size = plan.size == tuple(image.shape[:2])
    if plan.crop is not None:
        y, x, height, width = plan.crop
        image = image if same_size else resample(image, *plan.size)
        return image[y : y + height, x : x + width]
    if plan.shape == plan.size:
        return image if same_size else resample(image, *plan.size)
    shape = (*plan.shape, image.shape[2])
    usable = out is not None and out.shape == shape and out.dtype == image.dtype
    padded = out if usable else np.empty(shape, image.dtype)
    y1, x1, y2, x2 = plan.window
    padded[:y1], padded[y2:], padded[y1:y2, :x1], padded[y1:y2, x2:] = 0, 0, 0, 0
    inside = padded[y1:y2, x1:x2]
    if same_size:
        inside[...] = image
    else:
        resample(image, *plan.size, out=inside)
    return padded


def _check_mode(mode, min_dim, max_dim):
    if mode not in ("none", "square", "pad64", "crop"):
        raise ValueError(f"resize mode {mode!r} is unknown; use none, square, pad64 or crop.")
    if mode == "square" and not max_dim:
        raise ValueError("resize mode 'square' needs max_dim (config.IMAGE_MAX_DIM).")
    if mode == "crop" and not min_dim:
        raise ValueError("resize mode 'crop' needs min_dim (config.IMAGE_MIN_DIM).")
    if mode == "pad64" and min_dim and min_dim % 64:
        raise ValueError(
            "resize mode 'pad64' needs min_dim (config.IMAGE_MIN_DIM) divisible by 64, got "
            f"{min_dim}."
        )


def _scale(height, width, min_dim, max_dim, min_scale):
    scale = max(1, min_dim / min(height, width)) if min_dim else 1
    scale = max(scale, min_scale or 0)
    longest = max(height, width)
    if max_dim and round(longest * scale) > max_dim:
        scale = max_dim / longest
    return scale


def _centred(size, target):
    before = (target - size) // 2
    return before, target - size - before


def _randint(high, rng):
    """A whole number from 0 to `high`, both included."""
    return random.randint(0, high) if rng is None else int(rng.integers(0, high + 1))


def resample(image, height, width, out=None):
    """Bilinear, no anti-aliasing, zeros outside: skimage's numbers within one grey level.

    OpenCV repeats the edge where scikit-image blends it with zero, so the outermost rows and
    columns are weighted afterwards.

    Args:
        image: (H, W, C). out: (height, width, C) of its dtype to write to, or None for a new array.
    """
    if image.dtype not in (np.uint8, np.uint16, np.float32) or image.shape[2] > 4:
        exact = resize(image, (height, width), preserve_range=True).astype(image.dtype)
        if out is None:
            return exact
        out[...] = exact
        return out
    import cv2

    if out is None:
        out = np.empty((height, width, image.shape[2]), image.dtype)
    resized = cv2.resize(image, (width, height), dst=out, interpolation=cv2.INTER_LINEAR)
    if resized is not out:
        out[...] = resized.reshape(out.shape)
    edge_rows, row_weights, edge_cols, col_weights = _edges(image.shape[:2], (height, width))
    if len(edge_rows) or len(edge_cols):
        # skimage clips to the image's own range. Most have a 0, which some of the rows show.
        floor = max(image.min(), 0) if image[::16].min() > 0 else 0
        top, side = out[edge_rows] * row_weights, out[:, edge_cols] * col_weights
        out[edge_rows] = np.maximum(top, floor, out=top)
        out[:, edge_cols] = np.maximum(side, floor, out=side)
    return out


@functools.lru_cache(maxsize=128)
def _edges(size_in, size_out):
    """The outermost samples of a resized image, which partly come from outside it.

    Args:
        size_in, size_out: (height, width).

    Returns:
        rows (R,) and their weights (R, width, 1), columns (C,) and their weights (height, C, 1):
        how much of each sample comes from inside the image. Not to be changed.
    """
    inside = []
    for before, after in zip(size_in, size_out, strict=True):
        centre = (np.arange(after) + 0.5) * (before / after) - 0.5
        inside.append(np.clip(np.minimum(1 + centre, before - centre), 0, 1))
    edges = [np.flatnonzero(weights < 1) for weights in inside]
    rows, columns = inside[0][:, None, None], inside[1][:, None]
    return edges[0], rows[edges[0]] * columns, edges[1], rows * columns[edges[1]]


def mold_image(images, config):
    """Subtracts the mean pixel: images (..., C) -> float32 of the same shape."""
    return np.subtract(images, np.asarray(config.MEAN_PIXEL, np.float32), dtype=np.float32)


def unmold_image(normalized_images, config):
    """Adds the mean pixel back, rounds and clips: (..., C) float -> uint8 of the same shape."""
    pixels = normalized_images + np.asarray(config.MEAN_PIXEL, np.float32)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
