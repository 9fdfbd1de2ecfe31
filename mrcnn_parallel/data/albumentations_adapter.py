"""albumentations pipelines on images with masks: `train(..., augmentation=A.Compose([...]))`.

They see the image as the dataset has it, before it is resized for the network, so they may crop and
change sizes. Masks are passed always, boxes where the pipeline has `bbox_params`; an instance whose
box the pipeline drops is dropped. Boxes for training are taken from the masks that come out.
"""

import copy
import threading

import numpy as np

from mrcnn_parallel.data.geometry import extract_bboxes

_own = threading.local()  # each thread's copies of pipelines: they keep their random state inside


def is_albumentations(augmentation):
    """True for an albumentations pipeline or transform, without importing albumentations."""
    return any(
        kind.__module__.split(".")[0] == "albumentations" for kind in type(augmentation).__mro__
    )


def augment_albumentations(image, mask, pipeline, rng, where):
    """Applies a pipeline.

    Args:
        image: (H, W, C). mask: (H, W, N) bool. pipeline: of albumentations.
        rng: numpy.random.Generator that decides everything; None: the pipeline's own state.

    Returns:
        image (H', W', C) and mask (H', W', n) bool of what is left, kept: (n,) ints, the numbers of
        those instances.

    Raises:
        ValueError: the pipeline gave back something else than an image and its masks.
    """
    if rng is not None:
        pipeline = _thread_copy(pipeline)
        pipeline.set_random_seed(int(rng.integers(2**31)))
    count = mask.shape[2]
    data = {"image": np.ascontiguousarray(image)}
    if count:
        data["masks"] = [np.ascontiguousarray(mask[..., i], np.uint8) for i in range(count)]
    boxes = getattr(pipeline, "processors", {}).get("bboxes")
    solid = np.arange(count)
    if boxes is not None:
        solid = _add_boxes(data, mask, boxes.params)
    result = pipeline(**data)
    new_image, masks = result["image"], result.get("masks", [])
    kept = solid
    if boxes is not None:
        kept = np.array(_numbers(result, boxes.params), np.int64).reshape(-1)
    if len(masks) != count or any(np.shape(m) != new_image.shape[:2] for m in masks):
        raise ValueError(
            f"{where}: the albumentations pipeline turned {count} masks into {len(masks)}, or into "
            f"other sizes than the image's {new_image.shape[:2]}."
        )
    if new_image.ndim != image.ndim or new_image.shape[2] != image.shape[2]:
        raise ValueError(
            f"{where}: the albumentations pipeline turned an image of shape {image.shape} into "
            f"{new_image.shape}; leave the channels as they are (no ToTensorV2)."
        )
    left = np.zeros((*new_image.shape[:2], len(kept)), bool)
    for place, number in enumerate(kept.tolist()):
        left[..., place] = masks[number]
    return new_image.astype(image.dtype, copy=False), left, kept


def _thread_copy(pipeline):
    copies = vars(_own).setdefault("copies", {})
    if id(pipeline) not in copies:
        copies[id(pipeline)] = (pipeline, copy.deepcopy(pipeline))  # the first keeps the id taken
    return copies[id(pipeline)][1]


def _add_boxes(data, mask, params):
    """Adds the instances' boxes in the pipeline's format; returns the numbers of those with one."""
    height, width = mask.shape[:2]
    boxes = extract_bboxes(mask)
    solid = np.flatnonzero(boxes[:, 2] > boxes[:, 0])
    y1, x1, y2, x2 = boxes[solid].T.astype(float)
    if params.format == "coco":
        columns = [x1, y1, x2 - x1, y2 - y1]
    elif params.format == "pascal_voc":
        columns = [x1, y1, x2, y2]
    else:
        x1, x2, y1, y2 = x1 / width, x2 / width, y1 / height, y2 / height
        columns = [x1, y1, x2, y2]
        if params.format == "yolo":
            columns = [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]
    if not params.label_fields:
        columns.append(solid.astype(float))
    data["bboxes"] = np.stack(columns, axis=1) if len(solid) else np.zeros((0, len(columns)))
    for field in params.label_fields or ():
        data[field] = solid.tolist()
    return solid


def _numbers(result, params):
    """The numbers of the instances whose boxes came out."""
    if params.label_fields:
        return [int(number) for number in result[params.label_fields[0]]]
    return [int(box[4]) for box in result["bboxes"]]
