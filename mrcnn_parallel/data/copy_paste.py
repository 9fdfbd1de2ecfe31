"""Copy-paste: objects of one image put on another (Ghiasi et al. 2021, arXiv:2012.07177).

What they cover is cut off the objects beneath, whose boxes shrink accordingly.
"""

import numpy as np

from mrcnn_parallel.data.placed import covered


def choose(objects, most, rng):
    """Up to `most` of an image's Placed objects, at random; crowds are not pasted."""
    single = [thing for thing in objects if thing.class_id > 0]
    if not single or most < 1:
        return []
    count = int(rng.integers(1, most + 1))
    order = rng.permutation(len(single))[:count]
    return [single[i] for i in sorted(order.tolist())]


def paste(image, objects, donor, chosen, min_visible, min_side):
    """Puts objects on an image, which is changed.

    Args:
        image, donor: (H, W, C) of the same shape and type.
        objects: Placed in the image. chosen: Placed in the donor, to be pasted where they are.
        min_visible, min_side: see placed.place, for the objects that get covered.

    Returns:
        List of Placed, the pasted ones last.
    """
    objects = list(objects)
    for thing in chosen:
        mask = np.ascontiguousarray(thing.mask())
        y1, x1, y2, x2 = thing.box
        _copy(donor[y1:y2, x1:x2], mask, image[y1:y2, x1:x2])
        objects = covered(objects, mask, thing.box, min_visible, min_side)
        objects.append(thing)
    return objects


def _copy(source, mask, target):
    """Copies (h, w, C) where a mask (h, w) bool says so; the arrays are of one type."""
    if source.dtype in (np.uint8, np.uint16, np.float32) and source.shape[2] == 3:
        import cv2

        cv2.copyTo(source, mask.view(np.uint8), target)
    else:
        np.copyto(target, source, where=mask[..., None])
