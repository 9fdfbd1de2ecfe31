"""COCO's box and mask metrics of detections, through faster-coco-eval.

The twelve numbers are those of https://cocodataset.org/#detection-eval: average precision (AP)
over IoU thresholds 0.50:0.05:0.95, at 0.50 and at 0.75, for small (area < 32² pixels), medium and
large (> 96²) objects; average recall (AR) with 1, 10 and 100 detections an image, and for the three
sizes. A number is -1 where the ground truth has no object it could be computed from.
"""

import logging

import numpy as np

from mrcnn_parallel.data.coco_format import import_coco_api, load_coco, mask_to_rle

log = logging.getLogger(__name__)

_TABLE = {  # name: (title, IoU, area, detections an image)
    "AP": ("Average Precision  (AP)", "0.50:0.95", "all", 100),
    "AP50": ("Average Precision  (AP)", "0.50", "all", 100),
    "AP75": ("Average Precision  (AP)", "0.75", "all", 100),
    "APs": ("Average Precision  (AP)", "0.50:0.95", "small", 100),
    "APm": ("Average Precision  (AP)", "0.50:0.95", "medium", 100),
    "APl": ("Average Precision  (AP)", "0.50:0.95", "large", 100),
    "AR1": ("Average Recall     (AR)", "0.50:0.95", "all", 1),
    "AR10": ("Average Recall     (AR)", "0.50:0.95", "all", 10),
    "AR100": ("Average Recall     (AR)", "0.50:0.95", "all", 100),
    "ARs": ("Average Recall     (AR)", "0.50:0.95", "small", 100),
    "ARm": ("Average Recall     (AR)", "0.50:0.95", "medium", 100),
    "ARl": ("Average Recall     (AR)", "0.50:0.95", "large", 100),
}
METRICS = tuple(_TABLE)
IOU_TYPES = ("bbox", "segm")


def to_coco_results(image_id, detection, category_ids):
    """The detections of one image in COCO's result format.

    Args:
        image_id: the image's id in the COCO dataset.
        detection: what `MaskRCNN.detect` returns for an image: a dict with `rois` (N, 4) pixels,
            `class_ids` (N,), `scores` (N,) and, unless only boxes matter, `masks` (H, W, N).
        category_ids: COCO category of each class id: a dict, or a sequence whose entry 0 is the
            background's and not used.

    Returns:
        List of N dicts with image_id, category_id, bbox [x, y, width, height], score and, where
        there are masks, segmentation (compressed RLE).

    Raises:
        ValueError: a class id without a category, or arrays that disagree about N.
    """
    rois, class_ids, scores = (
        np.asarray(detection[key]) for key in ("rois", "class_ids", "scores")
    )
    masks = detection.get("masks")
    counts = [len(rois), len(class_ids), len(scores)]
    if masks is not None:
        counts.append(masks.shape[-1])
    if len(set(counts)) > 1:
        raise ValueError(
            f"Image {image_id}: rois, class_ids, scores and masks hold {counts} detections; they "
            "must hold the same number."
        )
    if not isinstance(category_ids, dict):
        category_ids = dict(enumerate(category_ids))
    results = []
    for index, (roi, class_id, score) in enumerate(zip(rois, class_ids, scores, strict=True)):
        if class_id < 1 or int(class_id) not in category_ids:
            raise ValueError(
                f"Image {image_id}: a detection has class id {class_id}, which is no category of "
                f"the COCO dataset (known class ids: {sorted(set(category_ids) - {0})})."
            )
        y1, x1, y2, x2 = (float(side) for side in roi)
        result = {
            "image_id": image_id,
            "category_id": category_ids[int(class_id)],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": float(score),
        }
        if masks is not None:
            result["segmentation"] = mask_to_rle(masks[:, :, index])
        results.append(result)
    return results


def evaluate_results(ground_truth, results, iou_type="bbox", image_ids=None):
    """The twelve COCO numbers of detections in COCO's result format. Logs the usual table.

    Args:
        ground_truth: anything `load_coco` takes, or what it returned.
        results: list of dicts as `to_coco_results` makes them; it may be empty.
        iou_type: "bbox" or "segm".
        image_ids: COCO ids of the images that were looked at, whether or not anything was found
            in them. None: all of the ground truth's.

    Returns:
        {name: float} with the names of METRICS, in that order.

    Raises:
        ValueError: an unknown iou_type, a result of an image that is not in the ground truth or of
            another size, or a result without a segmentation for "segm".
    """
    if iou_type not in IOU_TYPES:
        raise ValueError(f"iou_type is {iou_type!r}; it must be one of {', '.join(IOU_TYPES)}.")
    coco = load_coco(ground_truth)
    known = set(coco.imgs)
    image_ids = sorted(known if image_ids is None else {int(image_id) for image_id in image_ids})
    strangers = sorted(({*image_ids} | {result["image_id"] for result in results}) - known)
    if strangers:
        raise ValueError(
            f"Images {strangers[:5]} were evaluated but are not in the COCO ground truth; pass the "
            "ids of the COCO dataset, not the positions in the Dataset."
        )
    if iou_type == "segm":
        results = [_mask_result(result, coco.imgs[result["image_id"]]) for result in results]
    else:
        results = [{**result} for result in results]
    evaluator = import_coco_api().COCOeval_faster(
        coco, coco.loadRes(results), iou_type, print_function=log.debug
    )
    evaluator.params.imgIds = image_ids
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    metrics = dict(zip(METRICS, (float(value) for value in evaluator.stats[:12]), strict=True))
    log.info("COCO %s metrics on %d images:", iou_type, len(image_ids))
    for name, value in metrics.items():
        title, iou, area, limit = _TABLE[name]
        log.info(
            " %s @[ IoU=%-9s | area=%6s | maxDets=%3d ] = %.3f", title, iou, area, limit, value
        )
    return metrics


def _mask_result(result, image):
    if "segmentation" not in result:
        raise ValueError(
            f"Image {result['image_id']}: a result has no segmentation, so mask metrics can't be "
            "computed; keep `masks` in the detections or evaluate 'bbox' only."
        )
    size = list(result["segmentation"]["size"])
    if size != [image["height"], image["width"]]:
        raise ValueError(
            f"Image {result['image_id']}: a detected mask is {size[0]} x {size[1]} pixels, but the "
            f"image is {image['height']} x {image['width']}."
        )
    # Without its box the result's area is the mask's, which says if the object is small or large.
    return {key: value for key, value in result.items() if key != "bbox"}


def evaluate_detections(ground_truth, detections, category_ids=None, iou_types=IOU_TYPES):
    """COCO's box and mask metrics of what `MaskRCNN.detect` returned.

    Args:
        ground_truth: path of an annotation file, its content as a dict, or a COCO object.
        detections: {COCO image id: the dict that `detect` returned for it}. Exactly these images
            are evaluated.
        category_ids: see `to_coco_results`. None: class ids 1, 2, ... are the ground truth's
            categories by rising id, as the COCO sample numbers them.
        iou_types: which of "bbox" and "segm".

    Returns:
        {iou_type: {name: float}}, e.g. `metrics["segm"]["AP50"]`.

    Raises:
        ValueError: see `to_coco_results` and `evaluate_results`.
    """
    coco = load_coco(ground_truth)
    if category_ids is None:
        category_ids = [0, *sorted(coco.getCatIds())]
    results = []
    for image_id, detection in detections.items():
        results.extend(to_coco_results(image_id, detection, category_ids))
    return {
        iou_type: evaluate_results(coco, results, iou_type, list(detections))
        for iou_type in iou_types
    }
