# ruff: noqa: E402, I001
"""A look at the data, at what the generator makes of it, and into the model, cell by cell."""

import os
import sys

import numpy as np

ROOT_DIR = os.path.abspath("../../")
sys.path.append(ROOT_DIR)
from mrcnn import utils
from mrcnn import visualize
from mrcnn.visualize import display_images
import mrcnn.model as modellib
from mrcnn.model import log
from tiny import TinyConfig


class CellConfig(TinyConfig):
    NAME = "cells"
    NUM_CLASSES = 1 + 1
    POST_NMS_ROIS_INFERENCE = 40
    DETECTION_MIN_CONFIDENCE = 0.0


class CellDataset(utils.Dataset):
    """Bright ellipses on noise."""

    def load_cells(self, count):
        self.add_class("cells", 1, "cell")
        for i in range(count):
            self.add_image("cells", image_id=i, path=None)

    def cells(self, image_id):
        rs = np.random.RandomState(image_id)
        return [(*rs.randint(15, 75, 2), *rs.randint(8, 16, 2)) for _ in range(1 + image_id % 3)]

    def load_image(self, image_id):
        rs = np.random.RandomState(100 + image_id)
        image = rs.randint(0, 100, (90, 90, 3))
        mask, _ = self.load_mask(image_id)
        image[mask.any(axis=-1)] += 120
        return image.astype(np.uint8)

    def load_mask(self, image_id):
        y, x = np.mgrid[:90, :90]
        masks = [
            ((y - cy) / h) ** 2 + ((x - cx) / w) ** 2 <= 1 for cy, cx, h, w in self.cells(image_id)
        ]
        return np.stack(masks, axis=-1), np.ones([len(masks)], dtype=np.int32)


config = CellConfig()
dataset = CellDataset()
dataset.load_cells(6)
dataset.prepare()
print("Image Count:", len(dataset.image_ids))
print("Class Count:", dataset.num_classes)
for i, info in enumerate(dataset.class_info):
    print("{:3}. {:50}".format(i, info["name"]))

# === Bounding boxes ===

image_id = dataset.image_ids[2]
image = dataset.load_image(image_id)
mask, class_ids = dataset.load_mask(image_id)
bbox = utils.extract_bboxes(mask)
print("image_id ", image_id, dataset.image_reference(image_id))
log("image", image)
log("mask", mask)
log("class_ids", class_ids)
log("bbox", bbox)
visualize.display_top_masks(image, mask, class_ids, dataset.class_names)
visualize.display_instances(image, bbox, mask, class_ids, dataset.class_names)

# === Resizing ===

original_shape = image.shape
image, window, scale, padding, _ = utils.resize_image(
    image, min_dim=config.IMAGE_MIN_DIM, max_dim=config.IMAGE_MAX_DIM, mode=config.IMAGE_RESIZE_MODE
)
mask = utils.resize_mask(mask, scale, padding)
bbox = utils.extract_bboxes(mask)
print("Original shape: ", original_shape, " resized: ", image.shape)
assert mask.shape[:2] == image.shape[:2] == (64, 64)

# === Mini masks ===

image, image_meta, class_ids, bbox, mask = modellib.load_image_gt(
    dataset, config, image_id, use_mini_mask=False
)
mini = utils.minimize_mask(bbox, mask, config.MINI_MASK_SHAPE)
again = utils.expand_mask(bbox, mini, image.shape)
assert mini.shape == (28, 28, len(class_ids)) and again.shape == mask.shape
assert (again == mask).mean() > 0.98
display_images([image] + [mini[:, :, i] for i in range(mini.shape[-1])])
image, image_meta, class_ids, bbox, mask = modellib.load_image_gt(
    dataset, config, image_id, augment=True, use_mini_mask=True
)
log("mini mask", mask)

# === Anchors ===

backbone_shapes = modellib.compute_backbone_shapes(config, config.IMAGE_SHAPE)
anchors = utils.generate_pyramid_anchors(
    config.RPN_ANCHOR_SCALES,
    config.RPN_ANCHOR_RATIOS,
    backbone_shapes,
    config.BACKBONE_STRIDES,
    config.RPN_ANCHOR_STRIDE,
)
anchors_per_cell = len(config.RPN_ANCHOR_RATIOS)
assert len(anchors) == sum(h * w for h, w in backbone_shapes) * anchors_per_cell
visualize.draw_boxes(image, boxes=anchors[:10])

# === Data generator ===

random_rois = 400
g = modellib.data_generator(
    dataset, config, shuffle=True, random_rois=random_rois, batch_size=4, detection_targets=True
)
(
    [
        normalized_images,
        image_meta,
        rpn_match,
        rpn_bbox,
        gt_class_ids,
        gt_boxes,
        gt_masks,
        rpn_rois,
        rois,
    ],
    [mrcnn_class_ids, mrcnn_bbox, mrcnn_mask],
) = next(g)
log("rois", rois)
log("mrcnn_class_ids", mrcnn_class_ids)
log("mrcnn_bbox", mrcnn_bbox)
log("mrcnn_mask", mrcnn_mask)
log("rpn_match", rpn_match)
b = 0
sample_image = modellib.unmold_image(normalized_images[b], config)
image_id = modellib.parse_image_meta(image_meta)["image_id"][b]
assert 0 <= image_id < 6
indices = np.where(rpn_match[b] == 1)[0]
refined_anchors = utils.apply_box_deltas(
    anchors[indices], rpn_bbox[b, : len(indices)] * config.RPN_BBOX_STD_DEV
)
log("refined_anchors", refined_anchors)
# The refined anchors of the positives are the boxes of the objects.
best = utils.compute_overlaps(refined_anchors, gt_boxes[b].astype(np.float64)).max(axis=1)
assert best.min() > 0.95, best
visualize.draw_boxes(sample_image, boxes=anchors[indices], refined_boxes=refined_anchors)
bbox_specific = mrcnn_bbox[b, np.arange(mrcnn_bbox.shape[1]), mrcnn_class_ids[b, :, 0], :]
refined_rois = utils.apply_box_deltas(
    rois[b].astype(np.float32), bbox_specific[:, :4] * config.BBOX_STD_DEV
)
roi_mask = mrcnn_mask[b, np.arange(mrcnn_mask.shape[1]), :, :, mrcnn_class_ids[b, :, 0]]
visualize.draw_rois(
    sample_image, rois[b], refined_rois, roi_mask, mrcnn_class_ids[b, :, 0], dataset.class_names
)
positive_rois = [np.sum(ids > 0) for ids in mrcnn_class_ids]
print("Positive ROIs: ", np.sum(positive_rois))
assert np.sum(positive_rois) > 0

# === Model ===

model = modellib.MaskRCNN(mode="inference", model_dir=os.path.join(ROOT_DIR, "logs"), config=config)
visualize.display_weight_stats(model)
image, image_meta, gt_class_id, gt_bbox, gt_mask = modellib.load_image_gt(
    dataset, config, dataset.image_ids[1], use_mini_mask=False
)
r = model.detect([image, image], verbose=1)[0]
target_rpn_match, target_rpn_bbox = modellib.build_rpn_targets(
    image.shape, model.anchors, gt_class_id, gt_bbox, model.config
)
log("target_rpn_match", target_rpn_match)
assert (target_rpn_match == 1).sum() > 0 and np.allclose(model.anchors, anchors)
results = model.run_graph(
    [image, image],
    [
        ("rpn_class", model.keras_model.get_layer("rpn_class").output),
        ("proposals", model.keras_model.get_layer("ROI").output),
        ("probs", model.keras_model.get_layer("mrcnn_class").output),
        ("deltas", model.keras_model.get_layer("mrcnn_bbox").output),
        ("masks", model.keras_model.get_layer("mrcnn_mask").output),
        ("detections", model.keras_model.get_layer("mrcnn_detection").output),
        ("C4", model.ancestor(model.keras_model.get_layer("ROI").output, "res4a_out")),
    ],
)
h, w = config.IMAGE_SHAPE[:2]
proposals = np.around(results["proposals"][0] * np.array([h, w, h, w])).astype(np.int32)
visualize.draw_boxes(image, refined_boxes=proposals[:20])
assert results["proposals"].shape == (2, 40, 4) and results["C4"].shape == (2, 4, 4, 32)
visualize.display_differences(
    image,
    gt_bbox,
    gt_class_id,
    gt_mask,
    r["rois"],
    r["class_ids"],
    r["scores"],
    r["masks"],
    dataset.class_names,
)
AP, precisions, recalls, overlaps = utils.compute_ap(
    gt_bbox, gt_class_id, gt_mask, r["rois"], r["class_ids"], r["scores"], r["masks"]
)
visualize.plot_precision_recall(AP, precisions, recalls)
visualize.plot_overlaps(gt_class_id, r["class_ids"], r["scores"], overlaps, dataset.class_names)
print("Inspected")
