"""Average precision and recall of one image's detections, in NumPy, with Matterport's definitions.

VOC-style: all classes of an image together, precision made monotonic, area under every step. For
COCO's figures over a data set see `coco_eval`.
"""

import logging

import numpy as np

from mrcnn_parallel.data.geometry import compute_overlaps, compute_overlaps_masks, trim_zeros

log = logging.getLogger(__name__)


def compute_matches(
    gt_boxes,
    gt_class_ids,
    gt_masks,
    pred_boxes,
    pred_class_ids,
    pred_scores,
    pred_masks,
    iou_threshold=0.5,
    score_threshold=0.0,
):
    """Pairs predictions, best score first, with the ground truth of their class they overlap most.

    Args:
        gt_boxes: (M, 4), pred_boxes: (N, 4); zero rows at the end are padding.
        gt_class_ids: (M,), pred_class_ids: (N,) ints. pred_scores: (N,).
        gt_masks: (H, W, M), pred_masks: (H, W, N); their IoU decides.
        iou_threshold: pairs below it do not match.
        score_threshold: pairs whose IoU is below it are not looked at (what Matterport's code does
            with it, whatever its name says).

    Returns:
        gt_match: (M,) the prediction of each ground truth, or -1.
        pred_match: (N,) the ground truth of each prediction, or -1.
        overlaps: (N, M) mask IoUs. Predictions count in order of their score in all three.
    """
    gt_boxes, pred_boxes = trim_zeros(gt_boxes), trim_zeros(pred_boxes)
    gt_masks = gt_masks[..., : len(gt_boxes)]
    order = np.argsort(pred_scores[: len(pred_boxes)], kind="stable")[::-1]
    pred_class_ids = np.asarray(pred_class_ids)[order]
    overlaps = compute_overlaps_masks(pred_masks[..., order], gt_masks)

    pred_match, gt_match = np.full(len(pred_boxes), -1.0), np.full(len(gt_boxes), -1.0)
    lowest = max(iou_threshold, score_threshold)
    for i in range(len(pred_boxes)):
        for j in np.argsort(overlaps[i], kind="stable")[::-1]:
            if overlaps[i, j] < lowest:
                break
            if gt_match[j] < 0 and pred_class_ids[i] == gt_class_ids[j]:
                gt_match[j], pred_match[i] = i, j
                break
    return gt_match, pred_match, overlaps


def compute_ap(
    gt_boxes,
    gt_class_ids,
    gt_masks,
    pred_boxes,
    pred_class_ids,
    pred_scores,
    pred_masks,
    iou_threshold=0.5,
):
    """Average precision of one image at one IoU threshold; arguments as in compute_matches.

    Returns:
        mAP: float; an image without ground truth counts 1 without predictions and 0 with.
        precisions, recalls: (N + 2,), from no prediction taken to all of them.
        overlaps: (N, M) mask IoUs.
    """
    gt_match, pred_match, overlaps = compute_matches(
        gt_boxes,
        gt_class_ids,
        gt_masks,
        pred_boxes,
        pred_class_ids,
        pred_scores,
        pred_masks,
        iou_threshold,
    )
    hits = np.cumsum(pred_match > -1)
    precisions = np.concatenate([[0], hits / np.arange(1, len(hits) + 1), [0]])
    recalls = np.concatenate([[0], hits.astype(np.float32) / max(len(gt_match), 1), [1]])
    precisions = np.maximum.accumulate(precisions[::-1])[::-1]
    if len(gt_match) == 0:
        return float(len(pred_match) == 0), precisions, recalls, overlaps
    steps = np.flatnonzero(recalls[:-1] != recalls[1:]) + 1
    average = np.sum((recalls[steps] - recalls[steps - 1]) * precisions[steps])
    return average, precisions, recalls, overlaps


def compute_ap_range(
    gt_box,
    gt_class_id,
    gt_mask,
    pred_box,
    pred_class_id,
    pred_score,
    pred_mask,
    iou_thresholds=None,
    verbose=1,
):
    """Mean of compute_ap over IoU thresholds, 0.50 to 0.95 by default; `verbose` logs each."""
    thresholds = np.arange(0.5, 1.0, 0.05) if iou_thresholds is None else iou_thresholds
    precisions = []
    for threshold in thresholds:
        average, *_ = compute_ap(
            gt_box,
            gt_class_id,
            gt_mask,
            pred_box,
            pred_class_id,
            pred_score,
            pred_mask,
            iou_threshold=threshold,
        )
        precisions.append(average)
        if verbose:
            log.info("AP @%.2f: %.3f", threshold, average)
    mean = np.mean(precisions)
    if verbose:
        log.info("AP @%.2f-%.2f: %.3f", thresholds[0], thresholds[-1], mean)
    return mean


def compute_recall(pred_boxes, gt_boxes, iou):
    """Share of ground-truth boxes that some prediction's best overlap, of at least `iou`, is with.

    Args:
        pred_boxes: (N, 4), gt_boxes: (M, 4), in the same units.

    Returns:
        recall: float, 1 where there is no ground truth.
        positive_ids: indices of the predictions whose best IoU is at least `iou`.
    """
    if len(gt_boxes) == 0 or len(pred_boxes) == 0:
        return float(len(gt_boxes) == 0), np.zeros(0, np.int64)
    overlaps = compute_overlaps(pred_boxes, gt_boxes)
    best = overlaps.argmax(axis=1)
    positive_ids = np.flatnonzero(overlaps.max(axis=1) >= iou)
    return len(set(best[positive_ids].tolist())) / len(gt_boxes), positive_ids
