"""Training targets in NumPy: anchors and ROIs matched with the ground truth.

In training the devices do this (`layers`). These versions serve `Config.RPN_TARGETS = "input"`,
generators written for Matterport's model, and looking at what is learned from. Random draws come
from `rng`, a numpy.random.Generator, or in Matterport's order from NumPy's global state.

Shapes: A anchors, N ground-truth instances, K classes with the background, R ROIs.
"""

import numpy as np

from mrcnn_parallel.data.geometry import (
    box_areas,
    box_refinement,
    check_boxes,
    compute_iou,
    compute_overlaps,
)
from mrcnn_parallel.data.resample import resize_plane

_ATTEMPTS = 100  # draws before a region that may hold no valid box is given up


def build_rpn_targets(image_shape, anchors, gt_class_ids, gt_boxes, config, rng=None):
    """Which anchors the RPN learns from, and the deltas of the positive ones.

    An anchor is positive from IoU 0.7 on, or if no other fits some instance better, negative below
    0.3 with every instance unless it touches a crowd, else neutral. At most
    RPN_TRAIN_ANCHORS_PER_IMAGE are kept, at most half of them positive.

    Args:
        image_shape: (height, width, ...). anchors: (A, 4) pixels.
        gt_class_ids: (N,) ints, negative for COCO's crowds. N may be 0.
        gt_boxes: (N, 4) pixels, inside the image.

    Returns:
        rpn_match: (A,) int32, 1 positive, -1 negative, 0 neutral.
        rpn_bbox: (RPN_TRAIN_ANCHORS_PER_IMAGE, 4) float64, the positive anchors' (dy, dx, log dh,
            log dw) / RPN_BBOX_STD_DEV in order of the anchors, then zeros.
    """
    draw = rng or np.random
    check_boxes(gt_boxes, image_shape, "build_rpn_targets")
    rpn_match = np.zeros(len(anchors), np.int32)
    rpn_bbox = np.zeros((config.RPN_TRAIN_ANCHORS_PER_IMAGE, 4))

    crowd_boxes = gt_boxes[gt_class_ids < 0]
    if len(crowd_boxes):
        gt_boxes = gt_boxes[gt_class_ids > 0]
        free = compute_overlaps(anchors, crowd_boxes).max(axis=1) < 0.001
    else:
        free = np.ones(len(anchors), bool)

    if len(gt_boxes):
        anchor_iou, nearest_gt, best_of_gt = _match_anchors(anchors, gt_boxes)
        rpn_match[(anchor_iou < 0.3) & free] = -1
        rpn_match[best_of_gt] = 1
        rpn_match[anchor_iou >= 0.7] = 1
    else:
        rpn_match[free] = -1

    _thin_out(rpn_match, 1, config.RPN_TRAIN_ANCHORS_PER_IMAGE // 2, draw)
    room = config.RPN_TRAIN_ANCHORS_PER_IMAGE - np.sum(rpn_match == 1)
    _thin_out(rpn_match, -1, room, draw)

    positive = np.flatnonzero(rpn_match == 1)
    if positive.size:
        deltas = _refinement(anchors[positive], gt_boxes[nearest_gt[positive]])
        rpn_bbox[: len(positive)] = deltas / config.RPN_BBOX_STD_DEV
    return rpn_match, rpn_bbox


def _match_anchors(anchors, gt_boxes):
    """IoU with the nearest instance (A,), its number (A,), and the anchors that suit one best.

    One instance at a time: an (A, N) matrix would be 15 MB and far slower.
    """
    anchor_area, gt_area = box_areas(anchors), box_areas(gt_boxes)
    anchor_iou = np.full(len(anchors), -1.0)
    nearest_gt = np.zeros(len(anchors), np.int64)
    best_of_gt = []
    for j, box in enumerate(gt_boxes):
        iou = compute_iou(box, anchors, gt_area[j], anchor_area)
        nearer = iou > anchor_iou
        anchor_iou[nearer], nearest_gt[nearer] = iou[nearer], j
        # The best anchor counts even below 0.7, and all of them where several tie; an instance
        # that no anchor touches would tie with all.
        best = iou.max()
        if best > 0:
            best_of_gt.append(np.flatnonzero(iou == best))
    ids = np.concatenate(best_of_gt) if best_of_gt else np.zeros(0, np.int64)
    return anchor_iou, nearest_gt, ids


def _thin_out(match, value, limit, draw):
    """Makes random entries of one value neutral until at most `limit` are left."""
    ids = np.flatnonzero(match == value)
    if len(ids) > limit:
        match[draw.choice(ids, len(ids) - limit, replace=False)] = 0


def _refinement(boxes, gt_boxes):
    """As geometry.box_refinement, in float64."""
    size, gt_size = boxes[:, 2:] - boxes[:, :2], gt_boxes[:, 2:] - gt_boxes[:, :2]
    centre, gt_centre = boxes[:, :2] + 0.5 * size, gt_boxes[:, :2] + 0.5 * gt_size
    return np.concatenate([(gt_centre - centre) / size, np.log(gt_size / size)], axis=1)


def build_detection_targets(rpn_rois, gt_class_ids, gt_boxes, gt_masks, config, rng=None):
    """Targets of the heads for given ROIs: what the detection target layer does in training.

    Args:
        rpn_rois: (R, 4) int32 pixels.
        gt_class_ids: (N,) ints; rows that are not positive are left out.
        gt_boxes: (N, 4) int32 pixels. gt_masks: (H, W, N) bool, or mini masks if USE_MINI_MASK.

    Returns:
        rois: (TRAIN_ROIS_PER_IMAGE, 4), positive ones first.
        class_ids: (TRAIN_ROIS_PER_IMAGE,), 0 for background.
        bboxes: (TRAIN_ROIS_PER_IMAGE, K, 4) float32 deltas / BBOX_STD_DEV at the ROI's class.
        masks: (TRAIN_ROIS_PER_IMAGE, *MASK_SHAPE, K) float32 in [0, 1] at the ROI's class.

    Raises:
        ValueError: no ROIs, boxes outside the image, or ROIs that all have an IoU of exactly 0.5.
    """
    draw = rng or np.random
    if len(rpn_rois) == 0:
        raise ValueError("build_detection_targets needs at least one ROI.")
    check_boxes(gt_boxes, config.IMAGE_SHAPE, "build_detection_targets")
    instances = np.flatnonzero(gt_class_ids > 0)
    gt_class_ids, gt_boxes = gt_class_ids[instances], gt_boxes[instances]
    gt_masks = gt_masks[:, :, instances]

    keep, positive_count, nearest_gt = _sample_rois(rpn_rois, gt_boxes, config, draw)
    rois = rpn_rois[keep]
    class_ids = np.zeros(len(keep), np.int32)
    bboxes = np.zeros((len(keep), config.NUM_CLASSES, 4), np.float32)
    masks = np.zeros((len(keep), *config.MASK_SHAPE, config.NUM_CLASSES), np.float32)
    if positive_count:
        positive = np.arange(positive_count)
        gt_ids = nearest_gt[keep[:positive_count]]
        class_ids[positive] = gt_class_ids[gt_ids]
        deltas = box_refinement(rois[positive], gt_boxes[gt_ids])
        bboxes[positive, class_ids[positive]] = deltas
        bboxes /= config.BBOX_STD_DEV
        for i, gt_id in zip(positive, gt_ids, strict=True):
            mask = _instance_mask(gt_masks[:, :, gt_id], gt_boxes[gt_id], config)
            y1, x1, y2, x2 = rois[i].astype(int)
            part = resize_plane(mask[y1:y2, x1:x2], config.MASK_SHAPE)
            masks[i, :, :, class_ids[i]] = part
    return rois, class_ids, bboxes, masks


def _sample_rois(rois, gt_boxes, config, draw):
    """Indices of TRAIN_ROIS_PER_IMAGE ROIs, how many lead as positive, and each ROI's instance."""
    count = config.TRAIN_ROIS_PER_IMAGE
    if len(gt_boxes):
        overlaps = compute_overlaps(rois, gt_boxes)
        nearest_gt, iou = overlaps.argmax(axis=1), overlaps.max(axis=1)
    else:
        nearest_gt, iou = np.zeros(len(rois), np.int64), np.zeros(len(rois))
    positive, negative = np.flatnonzero(iou > 0.5), np.flatnonzero(iou < 0.5)
    most = int(count * config.ROI_POSITIVE_RATIO)
    if len(positive) > most:
        positive = draw.choice(positive, most, replace=False)
    room = count - len(positive)
    if len(negative) > room:
        negative = draw.choice(negative, room, replace=False)
    keep = np.concatenate([positive, negative])
    if len(keep) == 0:
        raise ValueError("build_detection_targets: every ROI overlaps its instance by exactly 0.5.")
    missing = count - len(keep)
    if missing and len(negative):
        keep = np.concatenate([keep, draw.choice(negative, missing, replace=True)])
    elif missing:  # only positive ROIs: repeat those
        extra = draw.choice(positive, missing, replace=True)
        return np.concatenate([keep, extra]), count, nearest_gt
    return keep, len(positive), nearest_gt


def _instance_mask(mask, box, config):
    """One instance's mask at the image's size: (H, W) bool."""
    if not config.USE_MINI_MASK:
        return mask
    y1, x1, y2, x2 = box
    full = np.zeros(tuple(config.IMAGE_SHAPE[:2]), bool)
    full[y1:y2, x1:x2] = np.round(resize_plane(mask, (y2 - y1, x2 - x1)))
    return full


def generate_random_rois(image_shape, count, gt_class_ids, gt_boxes, rng=None):
    """ROIs such as an RPN could propose: 90 % around the instances, the rest anywhere.

    Args:
        image_shape: (height, width, ...). count: number of ROIs.
        gt_class_ids: unused, as in Matterport. gt_boxes: (N, 4) pixels; N may be 0.

    Returns:
        (count, 4) int32 pixels, none empty.
    """
    check_boxes(gt_boxes, image_shape, "generate_random_rois")
    height, width = image_shape[:2]
    randint = np.random.randint if rng is None else rng.integers
    per_box = int(0.9 * count / len(gt_boxes)) if len(gt_boxes) else 0
    parts = []
    for y1, x1, y2, x2 in np.asarray(gt_boxes).tolist():
        h, w = y2 - y1, x2 - x1
        rows = (max(y1 - h, 0), min(y2 + h, height))
        cols = (max(x1 - w, 0), min(x2 + w, width))
        parts.append(_random_boxes(rows, cols, per_box, randint, (height, width)))
    rest = count - per_box * len(gt_boxes)
    parts.append(_random_boxes((0, height), (0, width), rest, randint, (height, width)))
    return np.concatenate(parts).astype(np.int32)


def _random_boxes(rows, cols, count, randint, image_size):
    """Boxes with corners inside [low, high) of `rows` and `cols`: (count, 4)."""
    for attempt in range(2 * _ATTEMPTS):
        if attempt == _ATTEMPTS or rows[1] - rows[0] < 2 or cols[1] - cols[0] < 2:
            rows, cols = (0, image_size[0]), (0, image_size[1])
        # Twice what is needed, as those without area are thrown away.
        y1y2 = randint(*rows, (2 * count, 2))
        x1x2 = randint(*cols, (2 * count, 2))
        y1y2 = np.sort(y1y2[y1y2[:, 0] != y1y2[:, 1]][:count], axis=1)
        x1x2 = np.sort(x1x2[x1x2[:, 0] != x1x2[:, 1]][:count], axis=1)
        if len(y1y2) == count and len(x1x2) == count:
            return np.stack([y1y2[:, 0], x1x2[:, 0], y1y2[:, 1], x1x2[:, 1]], axis=1)
    raise ValueError(f"no random ROI with area fits an image of {image_size[0]} x {image_size[1]}.")
