"""Makes the pictures of docs/visualize.md from a model that samples/shapes/shapes.py trained.

python samples/shapes/shapes.py --logs logs
python docs/make_pictures.py logs/shapes20260131T1200/mask_rcnn_shapes_0005.h5
"""

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "Agg")
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "samples" / "shapes")]


def save(name, width=480):
    """The current figure as a small PNG of few colours, so that the repository stays light."""
    import matplotlib.pyplot as plt
    from PIL import Image

    path = Path(__file__).parent / "images" / f"{name}.png"
    path.parent.mkdir(exist_ok=True)
    plt.gcf().savefig(path, dpi=80, bbox_inches="tight")
    plt.close("all")
    image = Image.open(path).convert("RGB")
    if image.width > width:
        image = image.resize((width, round(image.height * width / image.width)), Image.LANCZOS)
    image.quantize(128).save(path, optimize=True)


def main():
    import numpy as np
    import shapes

    from mrcnn_parallel import utils, visualize
    from mrcnn_parallel.model import MaskRCNN

    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("checkpoint", help="of the shapes sample with its small backbone")
    arguments = parser.parse_args()
    config = shapes.SmallConfig(GPU_COUNT=1)
    data = shapes.dataset(12, config, seed=7)
    model = MaskRCNN("inference", config, "logs")
    model.load_weights(arguments.checkpoint, by_name=True)
    images = [data.load_image(i) for i in data.image_ids]
    truth = [data.load_mask(i) for i in data.image_ids]
    found = model.detect(images)
    names = data.class_names
    best = max(range(len(images)), key=lambda i: len(truth[i][1]))
    image, (masks, class_ids), result = images[best], truth[best], found[best]
    boxes = utils.extract_bboxes(masks)
    predicted = [result[key] for key in ("rois", "class_ids", "scores", "masks")]

    visualize.display_images(images[:4], titles=[f"image {i}" for i in range(4)])
    save("display_images")
    visualize.display_instances(
        image, result["rois"], result["masks"], result["class_ids"], names, result["scores"]
    )
    save("display_instances", 320)
    visualize.display_differences(image, boxes, class_ids, masks, *predicted, names)
    save("display_differences", 320)
    visualize.display_top_masks(image, masks, class_ids, names)
    save("display_top_masks")

    rois = model.run_graph([image], [("rois", "ROI")])["rois"][0]
    rois_px = utils.denorm_boxes(rois, config.IMAGE_SHAPE[:2])
    nearest = utils.compute_overlaps(rois_px, result["rois"]).argmax(axis=0)
    visualize.draw_boxes(
        image,
        boxes=rois_px[nearest],
        refined_boxes=result["rois"],
        captions=[names[i] for i in result["class_ids"]],
        title="proposals and what became of them",
    )
    save("draw_boxes", 320)
    ap, precisions, recalls, overlaps = utils.compute_ap(
        boxes, class_ids, masks, *predicted, iou_threshold=0.5
    )
    visualize.plot_precision_recall(ap, precisions, recalls)
    save("plot_precision_recall", 320)
    visualize.plot_overlaps(
        class_ids, result["class_ids"], result["scores"], overlaps, names, threshold=0.5
    )
    save("plot_overlaps", 320)
    counts = [len(ids) for _, ids in truth]
    print(f"12 images with {sum(counts)} objects, {sum(len(r['rois']) for r in found)} found")
    print(f"shown: image {best} with {np.max(counts)} objects, AP@0.5 {ap:.2f}")


if __name__ == "__main__":
    main()
