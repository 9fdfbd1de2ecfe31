# ruff: noqa: E402, I001
"""Toy shapes: train, load the last checkpoint, detect, measure. A notebook's cells, one by one."""

import os
import sys
import random

import cv2
import numpy as np

ROOT_DIR = os.path.abspath("../../")
sys.path.append(ROOT_DIR)  # To find local version of the library
from mrcnn import utils
import mrcnn.model as modellib
from mrcnn import visualize
from mrcnn.model import log
from tiny import TinyConfig

MODEL_DIR = os.path.join(ROOT_DIR, "logs")


# === Configuration ===


class ShapesConfig(TinyConfig):
    NAME = "shapes"
    NUM_CLASSES = 1 + 2


config = ShapesConfig()
config.display()


# === Dataset ===


class ShapesDataset(utils.Dataset):
    def load_shapes(self, count, height, width):
        self.add_class("shapes", 1, "square")
        self.add_class("shapes", 2, "circle")
        for i in range(count):
            shapes = []
            for _ in range(random.randint(1, 3)):
                kind = random.choice(["square", "circle"])
                size = random.randint(6, height // 4)
                x, y = random.randint(size, width - size), random.randint(size, height - size)
                shapes.append((kind, tuple(random.randint(0, 255) for _ in range(3)), (x, y, size)))
            background = np.array([random.randint(0, 255) for _ in range(3)])
            self.add_image(
                "shapes",
                image_id=i,
                path=None,
                width=width,
                height=height,
                bg_color=background,
                shapes=shapes,
            )

    def load_image(self, image_id):
        info = self.image_info[image_id]
        background = np.array(info["bg_color"]).reshape([1, 1, 3])
        image = np.ones([info["height"], info["width"], 3], dtype=np.uint8)
        image = image * background.astype(np.uint8)
        for shape, color, dims in info["shapes"]:
            image = self.draw_shape(image, shape, dims, color)
        return image

    def image_reference(self, image_id):
        info = self.image_info[image_id]
        if info["source"] == "shapes":
            return info["shapes"]
        return super(self.__class__).image_reference(self, image_id)

    def load_mask(self, image_id):
        info = self.image_info[image_id]
        shapes = info["shapes"]
        count = len(shapes)
        mask = np.zeros([info["height"], info["width"], count], dtype=np.uint8)
        for i, (shape, _, dims) in enumerate(shapes):
            mask[:, :, i : i + 1] = self.draw_shape(mask[:, :, i : i + 1].copy(), shape, dims, 1)
        occlusion = np.logical_not(mask[:, :, -1]).astype(np.uint8)
        for i in range(count - 2, -1, -1):
            mask[:, :, i] = mask[:, :, i] * occlusion
            occlusion = np.logical_and(occlusion, np.logical_not(mask[:, :, i]))
        class_ids = np.array([self.class_names.index(s[0]) for s in shapes])
        return mask.astype(bool), class_ids.astype(np.int32)

    def draw_shape(self, image, shape, dims, color):
        x, y, s = dims
        if shape == "square":
            cv2.rectangle(image, (x - s, y - s), (x + s, y + s), color, -1)
        elif shape == "circle":
            cv2.circle(image, (x, y), s, color, -1)
        return image


random.seed(3)
dataset_train = ShapesDataset()
dataset_train.load_shapes(6, config.IMAGE_SHAPE[0], config.IMAGE_SHAPE[1])
dataset_train.prepare()
dataset_val = ShapesDataset()
dataset_val.load_shapes(4, config.IMAGE_SHAPE[0], config.IMAGE_SHAPE[1])
dataset_val.prepare()

image_ids = np.random.choice(dataset_train.image_ids, 2)
for image_id in image_ids:
    image = dataset_train.load_image(image_id)
    mask, class_ids = dataset_train.load_mask(image_id)
    visualize.display_top_masks(image, mask, class_ids, dataset_train.class_names)

# === Training ===

model = modellib.MaskRCNN(mode="training", config=config, model_dir=MODEL_DIR)
model.train(
    dataset_train, dataset_val, learning_rate=config.LEARNING_RATE, epochs=1, layers="heads"
)
model_path = os.path.join(MODEL_DIR, "mask_rcnn_shapes.h5")
model.keras_model.save_weights(model_path)

# === Detection ===


class InferenceConfig(ShapesConfig):
    GPU_COUNT = 1
    IMAGES_PER_GPU = 1
    DETECTION_MIN_CONFIDENCE = 0.0


inference_config = InferenceConfig()
model = modellib.MaskRCNN(mode="inference", config=inference_config, model_dir=MODEL_DIR)
assert model.find_last() != ""
print("Loading weights from ", model.find_last())
model.load_weights(model.find_last(), by_name=True)
model.load_weights(model_path, by_name=True)

image_id = random.choice(dataset_val.image_ids)
original_image, image_meta, gt_class_id, gt_bbox, gt_mask = modellib.load_image_gt(
    dataset_val, inference_config, image_id, use_mini_mask=False
)
log("original_image", original_image)
log("image_meta", image_meta)
log("gt_class_id", gt_class_id)
log("gt_bbox", gt_bbox)
log("gt_mask", gt_mask)
visualize.display_instances(
    original_image, gt_bbox, gt_mask, gt_class_id, dataset_train.class_names, figsize=(8, 8)
)
results = model.detect([original_image], verbose=1)
r = results[0]
visualize.display_instances(
    original_image, r["rois"], r["masks"], r["class_ids"], dataset_val.class_names, r["scores"]
)

# === Evaluation ===

APs = []
for image_id in dataset_val.image_ids[:2]:
    image, image_meta, gt_class_id, gt_bbox, gt_mask = modellib.load_image_gt(
        dataset_val, inference_config, image_id, use_mini_mask=False
    )
    molded_images = np.expand_dims(modellib.mold_image(image, inference_config), 0)
    r = model.detect([image], verbose=0)[0]
    AP, precisions, recalls, overlaps = utils.compute_ap(
        gt_bbox, gt_class_id, gt_mask, r["rois"], r["class_ids"], r["scores"], r["masks"]
    )
    APs.append(AP)
print("mAP: ", np.mean(APs))
