"""Pictures of images, masks, boxes and model output, with Matterport's names and arguments.

Every function that draws accepts or makes matplotlib axes and returns them (or the figure, where
there are several axes). Figures made here are shown only where matplotlib's backend can show them;
with a backend that writes files, save the current figure with `plt.savefig(...)`, or the returned
one with `display_instances(...).figure.savefig(...)`, and `plt.close(...)` it.

Boxes are (y1, x1, y2, x2) in pixels, the end excluded; masks are (H, W, N); N instances.
"""

import logging

import numpy as np

from mrcnn_parallel.drawing import (
    add_box,
    add_link,
    add_outline,
    apply_mask,
    as_rgb,
    axes_for,
    draw_box,
    frame,
    pyplot,
    random_colors,
    show,
)
from mrcnn_parallel.plots import (
    display_table,
    display_weight_stats,
    plot_overlaps,
    plot_precision_recall,
)

__all__ = [
    "apply_mask",
    "display_differences",
    "display_images",
    "display_instances",
    "display_table",
    "display_top_masks",
    "display_weight_stats",
    "draw_box",
    "draw_boxes",
    "draw_rois",
    "plot_overlaps",
    "plot_precision_recall",
    "random_colors",
]

log = logging.getLogger(__name__)

LABEL_STYLE = {"color": "w", "size": 11, "backgroundcolor": "none"}
GT_COLOR = (0, 1, 0, 0.8)
PRED_COLOR = (1, 0, 0, 1)


def display_images(images, titles=None, cols=4, cmap=None, norm=None, interpolation=None):
    """Draws images in a grid.

    Args:
        images: list of (H, W, 3) uint8, or of (H, W) arrays that get a color map.
        titles: list of as many texts.
        cols: images in a row.
        cmap, norm, interpolation: for matplotlib's `imshow`.

    Returns:
        The figure.
    """
    plt = pyplot()
    titles = titles if titles is not None else [""] * len(images)
    if len(titles) != len(images):
        raise ValueError(f"display_images got {len(images)} images but {len(titles)} titles.")
    rows = max(1, -(-len(images) // cols))
    figure, axes = plt.subplots(rows, cols, figsize=(14, 14 * rows / cols), squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for ax, image, title in zip(axes.flat, images, titles, strict=False):
        image = np.asarray(image)
        if image.dtype == bool:
            image = image.astype(np.uint8)
        ax.imshow(
            as_rgb(image) if image.ndim == 3 else image,
            cmap=cmap,
            norm=norm,
            interpolation=interpolation,
        )
        ax.set_title(title, fontsize=9)
    show()
    return figure


def display_instances(
    image,
    boxes,
    masks,
    class_ids,
    class_names,
    scores=None,
    title="",
    figsize=(16, 16),
    ax=None,
    show_mask=True,
    show_bbox=True,
    colors=None,
    captions=None,
):
    """Draws instances on their image: box, tinted mask with its outline, caption.

    Args:
        image: (H, W, 3) uint8.
        boxes: (N, 4) pixels; a row of zeros is padding and not drawn.
        masks: (H, W, N); may be None with `show_mask=False`.
        class_ids: (N,) int, positions in `class_names`.
        class_names: list of texts, the background first.
        scores: (N,) floats for the captions.
        title: text above the image.
        figsize: inches, of a new figure.
        ax: axes to draw on; None makes a figure and shows it.
        show_mask, show_bbox: what to draw.
        colors: list of N RGB tuples in 0..1; None: random ones.
        captions: list of N texts in place of class name and score.

    Returns:
        The axes.

    Raises:
        ValueError: boxes, masks, class_ids, scores, colors or captions of different N.
    """
    boxes = np.asarray(boxes).reshape(-1, 4)
    count = len(boxes)
    masks = np.asarray(masks) if masks is not None and show_mask else None
    lengths = {"class_ids": class_ids, "scores": scores, "colors": colors, "captions": captions}
    lengths = {name: len(value) for name, value in lengths.items() if value is not None}
    if masks is not None:
        lengths["masks"] = masks.shape[-1]
    elif show_mask:
        raise ValueError("display_instances got no masks; pass them or set show_mask=False.")
    for name, length in lengths.items():
        if length != count:
            raise ValueError(f"display_instances got {count} boxes but {length} {name}.")
    if count == 0:
        log.info("No instances to display.")
    colors = colors if colors is not None else random_colors(count)

    picture = as_rgb(image)
    ax, is_new = axes_for(ax, figsize)
    for index in range(count):
        if not np.any(boxes[index]):
            continue
        if show_bbox:
            add_box(ax, boxes[index], colors[index], alpha=0.7, linestyle="dashed")
        if captions is not None:
            caption = captions[index]
        else:
            caption = class_names[class_ids[index]]
            caption = caption if scores is None else f"{caption} {scores[index]:.3f}"
        y1, x1 = boxes[index][:2]
        ax.text(x1, y1 + 8, caption, **LABEL_STYLE)
        if masks is not None:
            picture = apply_mask(picture, masks[:, :, index], colors[index])
            add_outline(ax, masks[:, :, index], colors[index])
    frame(ax, picture, title)
    if is_new:
        show()
    return ax


def display_differences(
    image,
    gt_box,
    gt_class_id,
    gt_mask,
    pred_box,
    pred_class_id,
    pred_score,
    pred_mask,
    class_names,
    title="",
    ax=None,
    show_mask=True,
    show_box=True,
    iou_threshold=0.5,
    score_threshold=0.5,
):
    """Draws ground truth (green) and predictions (red) on one image.

    A prediction's caption is its score / the mask IoU with the ground truth it matches or, where it
    matches none, with the best one.

    Args:
        image: (H, W, 3) uint8.
        gt_box, pred_box: (N, 4) pixels.
        gt_class_id, pred_class_id: (N,) int.
        gt_mask, pred_mask: (H, W, N).
        pred_score: (N,) float.
        class_names: list of texts.
        title, ax, show_mask, show_box: see `display_instances`.
        iou_threshold, score_threshold: when a prediction matches; see `utils.compute_matches`.

    Returns:
        The axes.
    """
    from mrcnn_parallel import utils

    # compute_matches drops zero boxes and sorts by score: do it here, so that positions agree.
    gt_real = np.any(gt_box, axis=1)
    gt_box, gt_class_id, gt_mask = gt_box[gt_real], gt_class_id[gt_real], gt_mask[..., gt_real]
    order = np.argsort(-np.asarray(pred_score), kind="stable")
    order = order[np.any(pred_box[order], axis=1)]
    pred_box, pred_class_id, pred_score, pred_mask = (
        pred_box[order],
        pred_class_id[order],
        pred_score[order],
        pred_mask[..., order],
    )
    _, pred_match, overlaps = utils.compute_matches(
        gt_box,
        gt_class_id,
        gt_mask,
        pred_box,
        pred_class_id,
        pred_score,
        pred_mask,
        iou_threshold=iou_threshold,
        score_threshold=score_threshold,
    )
    captions = [""] * len(gt_box)
    for index, score in enumerate(pred_score):
        match = int(pred_match[index])
        if len(gt_box) == 0:
            iou = 0.0
        else:
            iou = overlaps[index, match] if match > -1 else overlaps[index].max()
        captions.append(f"{score:.2f} / {iou:.2f}")
    ax, is_new = axes_for(ax, (16, 16))
    display_instances(
        image,
        np.concatenate([gt_box, pred_box]),
        np.concatenate([gt_mask, pred_mask], axis=-1),
        np.concatenate([gt_class_id, pred_class_id]),
        class_names,
        title=title or "Ground Truth (green) and Detections (red): score / IoU",
        ax=ax,
        show_mask=show_mask,
        show_bbox=show_box,
        colors=[GT_COLOR] * len(gt_box) + [PRED_COLOR] * len(pred_box),
        captions=captions,
    )
    if is_new:
        show()
    return ax


def draw_rois(image, rois, refined_rois, mask, class_ids, class_names, limit=10):
    """Draws the second stage's ROIs, dashed, and what positive ones are refined to.

    Args:
        image: (H, W, 3) uint8.
        rois, refined_rois: (N, 4) pixels.
        mask: (N, h, w) masks inside the ROIs, any size.
        class_ids: (N,) int; 0 is a negative ROI, drawn in grey.
        class_names: list of texts.
        limit: of more ROIs, this many random ones are drawn.

    Returns:
        The axes.
    """
    from mrcnn_parallel import utils

    rois, class_ids = np.asarray(rois), np.asarray(class_ids)
    shown = np.arange(len(rois))
    title = f"{len(rois)} ROIs"
    if len(rois) > limit:
        shown = np.random.choice(shown, limit, replace=False)
        title = f"{limit} random ROIs of {len(rois)}"
    picture = as_rgb(image)
    ax, _ = axes_for(None, (12, 12))
    for index, color in zip(shown, random_colors(len(shown)), strict=True):
        class_id = class_ids[index]
        add_box(ax, rois[index], color if class_id else "gray", linestyle="dashed")
        if class_id:
            add_box(ax, refined_rois[index], color)
            add_link(ax, rois[index], refined_rois[index], color)
            ry1, rx1 = refined_rois[index][:2]
            ax.text(rx1, ry1 + 8, class_names[class_id], **LABEL_STYLE)
            inside = utils.unmold_mask(
                np.asarray(mask[index], np.float32), rois[index].astype(np.int32), picture.shape
            )
            picture = apply_mask(picture, inside, color)
    frame(ax, picture, title)
    positive = int(np.sum(class_ids > 0))
    log.info(
        "Positive ROIs: %d, negative ROIs: %d, positive share: %.2f",
        positive,
        int(np.sum(class_ids == 0)),
        positive / max(1, len(class_ids)),
    )
    show()
    return ax


def display_top_masks(image, mask, class_ids, class_names, limit=4):
    """Draws an image and, beside it, the masks of the classes that cover the largest area.

    Args:
        image: (H, W, 3) uint8.
        mask: (H, W, N).
        class_ids: (N,) int.
        class_names: list of texts.
        limit: number of classes.

    Returns:
        The figure.
    """
    mask, class_ids = np.asarray(mask), np.asarray(class_ids)
    areas = {
        class_id: int(mask[:, :, class_ids == class_id].astype(bool).sum())
        for class_id in np.unique(class_ids)
    }
    top = [class_id for class_id in sorted(areas, key=areas.get, reverse=True) if areas[class_id]]
    images, titles = [image], [f"H x W = {image.shape[0]}x{image.shape[1]}"]
    for position in range(limit):
        if position < len(top):
            own = mask[:, :, class_ids == top[position]].astype(bool)
            # instance i of the class gets the value i + 1, so that they can be told apart
            images.append((own * np.arange(1, own.shape[-1] + 1)).max(axis=-1))
            titles.append(class_names[top[position]])
        else:
            images.append(np.zeros(mask.shape[:2], int))
            titles.append("-")
    return display_images(images, titles, cols=limit + 1, cmap="Blues_r")


def draw_boxes(
    image,
    boxes=None,
    refined_boxes=None,
    masks=None,
    captions=None,
    visibilities=None,
    title="",
    ax=None,
):
    """Draws boxes, what they were refined to, masks and captions.

    Args:
        image: (H, W, 3) uint8.
        boxes: (N, 4) pixels; a row of zeros is not drawn. Without them the refined ones count.
        refined_boxes: (N, 4) pixels, drawn solid and linked to `boxes` by a line.
        masks: (H, W, N).
        captions: list of N texts.
        visibilities: (N,): 0 thin and grey, 1 in color and dotted, 2 solid (the default).
        title, ax: see `display_instances`.

    Returns:
        The axes.
    """
    if boxes is None and refined_boxes is None:
        raise ValueError("draw_boxes needs boxes or refined_boxes.")
    count = len(boxes if boxes is not None else refined_boxes)
    visibilities = np.full(count, 2) if visibilities is None else np.asarray(visibilities)
    styles = {0: ("dotted", 0.5), 1: ("dotted", 1.0), 2: ("solid", 1.0)}
    picture = as_rgb(image)
    ax, is_new = axes_for(ax, (12, 12))
    for index, color in enumerate(random_colors(count)):
        linestyle, alpha = styles[int(visibilities[index])]
        color = color if visibilities[index] else (0.5, 0.5, 0.5)
        corner = None
        if boxes is not None:
            if not np.any(boxes[index]):
                continue
            add_box(ax, boxes[index], color, alpha=alpha, linestyle=linestyle)
            corner = boxes[index][:2]
        if refined_boxes is not None and visibilities[index] > 0:
            refined = np.asarray(refined_boxes[index]).astype(np.int32)
            add_box(ax, refined, color)
            if boxes is not None:
                add_link(ax, boxes[index], refined, color)
            corner = refined[:2]
        if captions is not None and corner is not None:
            ax.text(corner[1], corner[0], captions[index], **LABEL_STYLE, va="top")
        if masks is not None:
            picture = apply_mask(picture, masks[:, :, index], color)
            add_outline(ax, masks[:, :, index], color)
    frame(ax, picture, title)
    if is_new:
        show()
    return ax
