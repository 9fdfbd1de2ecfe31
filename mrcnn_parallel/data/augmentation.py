"""Augmentation of an image and its masks alike: which kinds there are, and how each is applied.

    "default", DefaultAugmentation(...)   the package's own, see default_augmentation.py
    albumentations pipelines              see albumentations_adapter.py
    imgaug augmenters, any function       here; they see image and masks as the network gets them

imgaug 0.4.0 is unmaintained: it reads `np.sctypes`, `np.bool` and `np.complex`, of which all NumPys
since 1.24 lacks some. Once this module is loaded, what is missing, and only that, is put back the
moment anybody imports imgaug. With OpenCV 5 and current Pillow its ElasticTransformation and
pillike.Autocontrast do not work.
"""

import importlib.abc
import inspect
import sys

import numpy as np

from mrcnn_parallel.data.albumentations_adapter import augment_albumentations, is_albumentations
from mrcnn_parallel.data.default_augmentation import DefaultAugmentation

# Augmenters that move pixels, and so must move masks. All others see the image alone. Affine and
# its kin interpolate and fill as they are told: look at augmented masks before a long training.
MASK_AUGMENTERS = frozenset(
    (
        "Sequential",
        "SomeOf",
        "OneOf",
        "Sometimes",
        "Fliplr",
        "Flipud",
        "CropAndPad",
        "Affine",
        "PiecewiseAffine",
    )
)
_MOST_CHANNELS = 64  # masks given to imgaug at once: OpenCV 5 stops at 128 channels


class _BeforeImgaug(importlib.abc.MetaPathFinder):
    """Finds nothing; runs first when imgaug is imported."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname == "imgaug":
            _restore_numpy_names()
        return None


def import_imgaug():
    """imgaug, which works on NumPy 2 thanks to the names put back.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import imgaug
    except ModuleNotFoundError as error:
        if error.name != "imgaug":
            raise
        raise ImportError(
            "this augmentation needs imgaug; install it with `pip install mrcnn-parallel[imgaug]`, "
            "or on a machine without libGL `pip install --no-deps imgaug==0.4.0`."
        ) from error
    return imgaug


def _restore_numpy_names():
    if not hasattr(np, "sctypes"):
        np.sctypes = {
            "int": [np.int8, np.int16, np.int32, np.int64],
            "uint": [np.uint8, np.uint16, np.uint32, np.uint64],
            "float": [np.float16, np.float32, np.float64],
            "complex": [np.complex64, np.complex128],
            "others": [bool, object, bytes, str, np.void],
        }
    for name, kind in {"bool": bool, "complex": complex}.items():
        if name not in vars(np):
            setattr(np, name, kind)


if not any(type(finder).__name__ == _BeforeImgaug.__name__ for finder in sys.meta_path):
    sys.meta_path.insert(0, _BeforeImgaug())


def resolve_augmentation(augmentation):
    """An `augmentation` argument as load_image_gt works with it.

    Args:
        augmentation: None, "default", a DefaultAugmentation, an albumentations pipeline, an imgaug
            augmenter, or a function (image, mask, rng) -> (image, mask).

    Raises:
        ValueError: it is none of them.
    """
    if isinstance(augmentation, str) and augmentation == "default":
        return DefaultAugmentation()
    known = (
        augmentation is None
        or isinstance(augmentation, DefaultAugmentation)
        or is_imgaug(augmentation)
        or is_albumentations(augmentation)
        or (callable(augmentation) and not inspect.isclass(augmentation))
    )
    if not known:
        raise _unknown(augmentation)
    return augmentation


def _unknown(augmentation):
    return ValueError(
        f"augmentation is {augmentation!r}; it must be an imgaug augmenter or a function "
        '(image, mask, rng) -> (image, mask), an albumentations pipeline, "default", or a '
        "DefaultAugmentation."
    )


def augment_before_resizing(image, mask, class_ids, augmentation, rng, where):
    """Applies an augmentation that may change sizes, if it is one: an albumentations pipeline.

    Args:
        image: (H, W, C). mask: (H, W, N) bool. class_ids: (N,).

    Returns:
        image, mask, class_ids, and the augmentation that is still to be applied, or None.
    """
    if not is_albumentations(augmentation):
        return image, mask, class_ids, augmentation
    image, mask, kept = augment_albumentations(image, mask, augmentation, rng, where)
    return image, mask, class_ids[kept], None


def is_imgaug(augmentation):
    """True for an imgaug augmenter, whether or not imgaug can be imported."""
    return hasattr(augmentation, "to_deterministic") and hasattr(augmentation, "augment_image")


def augment(image, mask, augmentation, rng=None, where="image"):
    """Applies an augmentation to an image and its masks.

    Args:
        image: (H, W, C). mask: (H, W, N) bool.
        augmentation: an imgaug augmenter, of whose parts only MASK_AUGMENTERS touch the masks, or a
            function `(image, mask, rng) -> (image, mask)`.
        rng: numpy.random.Generator that decides everything; None draws a new one from NumPy's
            global state, or lets imgaug use its own.
        where: names the image in messages.

    Returns:
        image, mask of the same shapes and types, writable.

    Raises:
        ValueError: the augmentation changed a shape, or is of neither kind.
    """
    if is_imgaug(augmentation):
        new_image, new_mask = _augment_imgaug(image, mask, augmentation, rng)
    elif callable(augmentation) and not inspect.isclass(augmentation):
        rng = rng or np.random.default_rng(np.random.randint(2**31))
        new_image, new_mask = augmentation(image, mask, rng)
    else:
        raise _unknown(augmentation)
    if new_image.shape != image.shape or new_mask.shape != mask.shape:
        raise ValueError(
            f"{where}: augmentation must not change sizes, but the image went from {image.shape} "
            f"to {new_image.shape} and the masks from {mask.shape} to {new_mask.shape}."
        )
    return new_image.astype(image.dtype, copy=False), new_mask.astype(bool, copy=False)


def _augment_imgaug(image, mask, augmentation, rng):
    imgaug = import_imgaug()
    # Deterministic: the same draws for the image and for its masks.
    deterministic = augmentation.to_deterministic()
    if rng is not None:
        deterministic.seed_(int(rng.integers(2**31)), deterministic_too=True)
    hooks = imgaug.HooksImages(activator=_touches_masks)
    new_image = deterministic.augment_image(np.ascontiguousarray(image))
    if mask.shape[2] == 0:
        return new_image, mask
    new_masks = []
    for start in range(0, mask.shape[2], _MOST_CHANNELS):
        planes = np.ascontiguousarray(mask[:, :, start : start + _MOST_CHANNELS], np.uint8)
        new_masks.append(deterministic.augment_image(planes, hooks=hooks))  # imgaug takes no bools
    return new_image, np.concatenate(new_masks, axis=2)


def _touches_masks(images, augmenter, parents, default):
    return type(augmenter).__name__ in MASK_AUGMENTERS


def flip_left_right(image, mask, rng):
    """An augmentation: mirrors every second image, by chance."""
    if rng.integers(2):
        return image[:, ::-1], mask[:, ::-1]
    return image, mask
