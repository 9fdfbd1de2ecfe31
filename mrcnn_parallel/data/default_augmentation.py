"""The package's own augmentation, `augmentation="default"`: fast, and good for most data.

    flip, scale, crop or pad, affine   one warp of the image, one matrix for all outlines
    colour, blur                       on the picture before the warp, where it has fewer pixels
    copy-paste                         objects of another image (arXiv:2012.07177)

Everything is drawn from the Generator of the sample, so an image looks the same whichever thread
loads it. It takes polygons and masks alike.
"""

import dataclasses
import math

import numpy as np

from mrcnn_parallel.data import copy_paste, placed, warp
from mrcnn_parallel.data.fast_load import GroundTruth
from mrcnn_parallel.data.images import config_plan, config_scale
from mrcnn_parallel.data.sources import describe_image, read_source

_DONOR_ATTEMPTS = 4  # images tried for one of the same source, whose classes are the same


@dataclasses.dataclass(frozen=True)
class DefaultAugmentation:
    """How strong the augmentation is. Chances are between 0 and 1; 0 switches a part off.

    Args are the fields; `DefaultAugmentation(flip_up_down=0.5, copy_paste=0)` for aerial pictures.

    Raises:
        ValueError: a field is out of its range.
    """

    flip_left_right: float = 0.5  # chance
    flip_up_down: float = 0.0  # chance
    scale: tuple = (0.6, 1.6)  # times the size the image would have; drawn evenly in its logarithm
    affine: float = 0.2  # chance of rotation, shear and change of proportions together
    rotate: float = 8.0  # degrees at most, either way
    shear: float = 0.06  # pixels sideways per pixel of height, at most
    stretch: float = 0.1  # at most so much wider or narrower, relatively
    colour: float = 0.8  # chance of the four below together
    brightness: float = 0.2  # at most so much lighter or darker, relatively
    contrast: float = 0.2
    saturation: float = 0.3
    hue: float = 10.0  # degrees at most on the colour circle
    blur: float = 0.05  # chance
    blur_sigma: float = 1.5  # pixels of the dataset's image, at most
    copy_paste: float = 0.2  # chance of objects from another image
    paste_count: int = 3  # objects at most
    min_visible: float = 0.1  # objects of which less is left in the frame are dropped, crowds never
    min_side: float = 2.0  # so are those whose box has a shorter side, in pixels

    def __post_init__(self):
        chances = ("flip_left_right", "flip_up_down", "affine", "colour", "blur", "copy_paste")
        shares = ("brightness", "contrast", "saturation", "stretch", "min_visible")
        for name in (*chances, *shares):
            self._check(name, 0 <= getattr(self, name) <= 1, "between 0 and 1")
        for name in ("rotate", "shear", "hue", "blur_sigma", "min_side", "paste_count"):
            self._check(name, getattr(self, name) >= 0, "at least 0")
        good = len(self.scale) == 2 and 0 < self.scale[0] <= self.scale[1]
        self._check("scale", good, "two factors, the smaller one first")

    def _check(self, name, good, what):
        if not good:
            raise ValueError(
                f"DefaultAugmentation.{name} is {getattr(self, name)!r}; it must be {what}."
            )

    def draw_warp(self, rng, size, frame, scale, centres):
        """A Warp for an image.

        Args:
            size, frame: (height, width) of the image and of the result.
            scale: the factor without augmentation.
            centres: (N, 2) (x, y) of objects; the crop is drawn anew, a few times, while it shows
                none of them.
        """
        left_right, up_down = rng.random(2).tolist()
        flips = left_right < self.flip_left_right, up_down < self.flip_up_down
        low, high = self.scale
        scale = scale * math.exp(rng.uniform(math.log(low), math.log(high)))
        for position in rng.random((4, 2)).tolist():
            result = warp.straight_warp(size, frame, scale, position, flips)
            moved = centres @ result.matrix[:, :2].T + result.matrix[:, 2]
            inside = (moved >= 0).all(axis=1) & (moved < frame[::-1]).all(axis=1)
            if inside.any() or not len(centres):
                break
        draws = rng.uniform(-1, 1, 3).tolist()
        if rng.random() < self.affine:
            squeeze = math.sqrt(1 + self.stretch) ** draws[2]
            result = warp.turned(result, self.rotate * draws[0], self.shear * draws[1], squeeze)
        return result

    def change_colours(self, image, rng):
        """Colour jitter and blur of (H, W, C); returns the same type, the argument is not changed.

        Brightness, contrast, saturation and hue are one matrix on RGB. Images that don't have three
        channels only get brightness and contrast.
        """
        import cv2

        draws, chances = rng.uniform(-1, 1, 5).tolist(), rng.random(2).tolist()
        if chances[0] < self.colour:
            bright, contrast = 1 + self.brightness * draws[0], 1 + self.contrast * draws[1]
            some, channels = image[::4], image.shape[2]  # rows enough for a mean
            grey = sum(cv2.mean(some)) / channels if channels <= 4 else float(some.mean())
            if image.shape[2] == 3:
                turn = math.radians(self.hue * draws[3])
                matrix = np.empty((3, 4), np.float32)
                matrix[:, :3] = _hue_saturation(turn, 1 + self.saturation * draws[2])
                matrix[:, :3] *= contrast * bright
                matrix[:, 3] = grey * (1 - contrast) * bright
                image = cv2.transform(image, matrix)
            else:
                image = _scaled(image, bright * contrast, bright * grey * (1 - contrast))
        if chances[1] < self.blur:
            sigma = self.blur_sigma * abs(draws[4])
            if sigma > 0.2:  # less would change nothing
                image = cv2.GaussianBlur(image, (0, 0), sigma).reshape(image.shape)
        return image


def _hue_saturation(turn, saturation):
    """3 x 3: RGB turned about the grey axis by an angle, and moved away from it by a factor."""
    own = (1 + 2 * saturation * math.cos(turn)) / 3
    rest, twist = (1 - own) / 2, saturation * math.sin(turn) / math.sqrt(3)
    below, above = rest - twist, rest + twist
    return (own, below, above), (above, own, below), (below, above, own)


def _scaled(image, factor, offset):
    result = image.astype(np.float32) * np.float32(factor) + np.float32(offset)
    if image.dtype.kind in "iu":
        limits = np.iinfo(image.dtype)
        result = np.clip(np.rint(result), limits.min, limits.max)
    return result.astype(image.dtype)


def load_augmented(dataset, config, image_id, augmentation, mini, rng=None, out=None):
    """Loads an image of any dataset with a DefaultAugmentation.

    Args:
        mini: whether masks are wanted at MINI_MASK_SHAPE. rng: numpy.random.Generator; None draws a
            new one from NumPy's global state. out: see load_image_gt.

    Returns:
        fast_load.GroundTruth; the window is the whole frame.
    """
    rng = rng or np.random.default_rng(np.random.randint(2**31))
    image, objects, size, scale = _augmented(dataset, config, image_id, augmentation, rng, out=out)
    if rng.random() < augmentation.copy_paste:
        donor = _donor(dataset, image_id, rng)
        if donor is not None:
            try:
                other, pasted, *_ = _augmented(
                    dataset, config, donor, augmentation, rng, image.shape[:2]
                )
            except Exception as error:
                name = describe_image(dataset, image_id)
                error.add_note(f"while taking objects from it to paste into {name}")
                raise
            chosen = copy_paste.choose(pasted, augmentation.paste_count, rng)
            # With other channels than its own an image can't be pasted into.
            if other.shape == image.shape and other.dtype == image.dtype:
                least = augmentation.min_visible, augmentation.min_side
                objects = copy_paste.paste(image, objects, other, chosen, *least)
    class_ids, boxes, masks = placed.collect(objects, image.shape[:2], config, mini)
    window = (0, 0, *image.shape[:2])
    return GroundTruth(image, size, window, scale, class_ids, boxes, masks)


def _augmented(dataset, config, image_id, augmentation, rng, frame=None, out=None):
    """Image in the frame, its Placed objects, original shape, scale."""
    where = describe_image(dataset, image_id)

    def most_reduced(size):
        return config_scale(config, size) * augmentation.scale[1]

    source = read_source(dataset, config, image_id, where, most_reduced)
    plan = config_plan(config, source.size, rng)
    image = _workable(source.image)
    (height, width), (rows, cols) = image.shape[:2], source.size
    reduced = width / cols, height / rows  # (x, y), 1 unless decoded smaller
    chosen = augmentation.draw_warp(
        rng,
        (height, width),
        frame or plan.shape,
        plan.size[0] / height,
        placed.centres(source) * reduced,
    )
    image = chosen.image(augmentation.change_colours(image, rng), out)
    image = image.astype(source.image.dtype, copy=False)
    least = augmentation.min_visible, augmentation.min_side
    objects = placed.place(source, chosen, reduced, *least)
    return image, objects, (*source.size, image.shape[2]), plan.scale


def _workable(image):
    """An image of a type that OpenCV takes."""
    if image.dtype in (np.uint8, np.uint16, np.float32):
        return image
    return image.astype(np.float32)


def _donor(dataset, image_id, rng):
    """Another image of the same source, or None where a few draws find none."""
    info = dataset.image_info
    for other in rng.choice(dataset.image_ids, _DONOR_ATTEMPTS):
        if other != image_id and info[other]["source"] == info[image_id]["source"]:
            return int(other)
    return None
