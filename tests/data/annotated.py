"""One small annotated scene, written in every format: what the readers' tests share.

Three images; the instances are rectangles and a triangle on whole pixels that don't overlap, so
that outlines and pixels say the same.
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from mrcnn_parallel.data import segments
from mrcnn_parallel.data.voc_format import voc_colors

SIZES = {"a": (40, 60), "b": (50, 30), "c": (32, 32)}  # (height, width)
CLASSES = ("person", "car")
SCENE = {  # image -> [(class, [(x, y), ...])]
    "a": [
        ("person", [(5, 4), (25, 4), (25, 12), (5, 12)]),
        ("car", [(30, 20), (50, 20), (50, 36), (30, 36)]),
        ("person", [(2, 20), (22, 20), (2, 38)]),
    ],
    "b": [("car", [(0, 0), (30, 0), (30, 9), (0, 9)])],
    "c": [],
}
INSTANCES = sum(map(len, SCENE.values()))
FORMATS = ("coco", "via", "labelme", "voc", "cityscapes", "masks", "yolo")


def mask_of(name, points):
    """The (H, W) bool mask of a polygon in an image of the scene."""
    return segments.to_mask([np.array(points, np.float64)], *SIZES[name])


def write_image(path, name, seed=0):
    """Writes one of the scene's images; its ending decides the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, ord(name[0])])
    pixels = rng.integers(0, 256, (*SIZES[name], 3), np.uint8)
    Image.fromarray(pixels).save(path)


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def coco_content():
    """The scene as the content of a COCO file; images are <name>.jpg."""
    annotations = [
        {
            "id": 10 * number + index,
            "image_id": number,
            "category_id": 7 + CLASSES.index(label),
            "segmentation": [[float(side) for point in points for side in point]],
            "iscrowd": 0,
        }
        for number, name in enumerate(SCENE, 1)
        for index, (label, points) in enumerate(SCENE[name])
    ]
    images = [
        {
            "id": number,
            "file_name": f"{name}.jpg",
            "height": SIZES[name][0],
            "width": SIZES[name][1],
        }
        for number, name in enumerate(SCENE, 1)
    ]
    categories = [{"id": 7 + number, "name": label} for number, label in enumerate(CLASSES)]
    return {"images": images, "annotations": annotations, "categories": categories}


def write_coco_folder(root):
    write_json(root / "annotations" / "instances_train.json", coco_content())
    for name in SCENE:
        write_image(root / "train" / f"{name}.jpg", name)
    return root


def via_content():
    """The scene as VIA 2 writes it."""
    return {
        f"{name}.jpg123": {
            "filename": f"{name}.jpg",
            "size": 123,
            "file_attributes": {},
            "regions": [
                {
                    "shape_attributes": {
                        "name": "polygon",
                        "all_points_x": [x for x, _ in points],
                        "all_points_y": [y for _, y in points],
                    },
                    "region_attributes": {"class": label},
                }
                for label, points in SCENE[name]
            ],
        }
        for name in SCENE
    }


def write_via_folder(root):
    write_json(root / "train" / "via_region_data.json", via_content())
    for name in SCENE:
        write_image(root / "train" / f"{name}.jpg", name)
    return root / "train"


def labelme_content(name):
    """An image of the scene as labelme writes it."""
    return {
        "version": "5.4.1",
        "flags": {},
        "shapes": [
            {
                "label": label,
                "points": [[float(x), float(y)] for x, y in points],
                "group_id": None,
                "shape_type": "polygon",
                "flags": {},
            }
            for label, points in SCENE[name]
        ],
        "imagePath": f"{name}.jpg",
        "imageData": None,
        "imageHeight": SIZES[name][0],
        "imageWidth": SIZES[name][1],
    }


def write_labelme_folder(root):
    for name in SCENE:
        write_json(root / f"{name}.json", labelme_content(name))
        write_image(root / f"{name}.jpg", name)
    return root


def number_pictures(name, dtype=np.uint8):
    """(H, W) numbers of the instances from 1 on, and of their classes."""
    objects, classes = np.zeros(SIZES[name], dtype), np.zeros(SIZES[name], dtype)
    for number, (label, points) in enumerate(SCENE[name], 1):
        mask = mask_of(name, points)
        objects[mask], classes[mask] = number, CLASSES.index(label) + 1
    return objects, classes


def save_palette(path, numbers, colors=None):
    """Writes numbers as a picture with a palette, VOC's by default."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(numbers.astype(np.uint8)).convert("L")
    picture.putpalette((voc_colors() if colors is None else colors).ravel().tolist())
    picture.save(path)


def write_voc_folder(root):
    for name in SCENE:
        write_image(root / "JPEGImages" / f"{name}.jpg", name)
        objects, classes = number_pictures(name)
        save_palette(root / "SegmentationObject" / f"{name}.png", objects)
        save_palette(root / "SegmentationClass" / f"{name}.png", classes)
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\nb\n")
    (lists / "val.txt").write_text("c\n")
    (root / "labelmap.txt").write_text("background\n" + "\n".join(CLASSES) + "\n")
    return root


def write_cityscapes_folder(root):
    for name in SCENE:
        write_image(root / "leftImg8bit" / "train" / "ulm" / f"{name}_leftImg8bit.png", name)
        objects, classes = number_pictures(name, np.uint16)
        numbers = np.where(objects > 0, (23 + classes * 1) * 1000 + objects, 7).astype(np.uint16)
        numbers[classes == 2] += 1000  # 24 is person, 26 is car
        path = root / "gtFine" / "train" / "ulm" / f"{name}_gtFine_instanceIds.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(numbers).save(path)
    return root


def write_masks_folder(root):
    for name in SCENE:
        write_image(root / "images" / f"{name}.jpg", name)
        for number, (label, points) in enumerate(SCENE[name]):
            path = root / "masks" / name / label / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask_of(name, points).astype(np.uint8) * 255).save(path)
    return root


def write_yolo_folder(root):
    (root / "labels" / "train").mkdir(parents=True)
    for name in SCENE:
        write_image(root / "images" / "train" / f"{name}.jpg", name)
        height, width = SIZES[name]
        lines = [
            " ".join([str(CLASSES.index(label)), *(f"{x / width} {y / height}" for x, y in points)])
            for label, points in SCENE[name]
        ]
        (root / "labels" / "train" / f"{name}.txt").write_text("\n".join(lines))
    names = "".join(f"  {number}: {label}\n" for number, label in enumerate(CLASSES))
    (root / "data.yaml").write_text(f"path: .\ntrain: images/train\nnames:\n{names}")
    return root


def write_scene(name, root):
    """Writes the scene in a format; returns the path to read."""
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    return {
        "coco": write_coco_folder,
        "via": write_via_folder,
        "labelme": write_labelme_folder,
        "voc": write_voc_folder,
        "cityscapes": write_cityscapes_folder,
        "masks": write_masks_folder,
        "yolo": write_yolo_folder,
    }[name](root)


def stem_of(info):
    """Which image of the scene an image_info is."""
    return Path(info["path"]).stem.removesuffix("_leftImg8bit")


def found(dataset):
    """{image of the scene: sorted [(class name, mask as bytes)]}, for comparing datasets."""
    result = {}
    for image_id in dataset.image_ids:
        masks, class_ids = dataset.load_mask(image_id)
        result[stem_of(dataset.image_info[image_id])] = sorted(
            (dataset.class_names[abs(number)], masks[:, :, index].tobytes())
            for index, number in enumerate(class_ids)
        )
    return result


def expected():
    """What `found` gives for the scene read without loss."""
    return {
        name: sorted((label, mask_of(name, points).tobytes()) for label, points in SCENE[name])
        for name in SCENE
    }
