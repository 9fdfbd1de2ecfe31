"""Pictures of a dataset: how many instances, of which size, and a sheet of annotated samples."""

import math
from pathlib import Path

import numpy as np

from mrcnn_parallel.data import segments
from mrcnn_parallel.data.geometry import extract_bboxes

CELL = 480  # pixels of the longer side of an image on the sheet
MOST_CLASSES = 40  # in the plot of classes, the most frequent ones
CROWD_COLOR = (0.6, 0.6, 0.6)


def _figure(*size):
    """A matplotlib figure that only ever becomes a file: no window, no global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def plot_classes(report, path):
    """Bars of the instances of each class, the most frequent first."""
    names = sorted(report.class_names, key=lambda name: -report.instances[name])
    title = f"{sum(report.instances.values())} instances in {report.num_images} images"
    if len(names) > MOST_CLASSES:
        title += f"; {MOST_CLASSES} of {len(names)} classes"
        names = names[:MOST_CLASSES]
    figure = _figure(8, max(2.5, 1 + 0.25 * len(names)))
    axes = figure.subplots()
    bars = axes.barh(names, [report.instances[name] for name in names])
    axes.bar_label(bars, padding=3)
    axes.invert_yaxis()
    axes.set_xlabel("instances")
    axes.set_title(title)
    figure.savefig(path, dpi=100)


def plot_sizes(report, path):
    """Histograms: sides of the instances (square root of the area), instances per image."""
    figure = _figure(12, 4)
    left, middle, right = figure.subplots(1, 3)
    sides = np.sqrt([area for areas in report.areas.values() for area in areas if area > 0])
    if sides.size:
        low, high = np.floor(np.log2(sides.min())), np.ceil(np.log2(sides.max() + 1))
        left.hist(sides, np.exp2(np.arange(low, high + 0.25, 0.25)))
        left.set_xscale("log", base=2)
        left.xaxis.set_major_formatter("{x:g}")
    left.set(xlabel="square root of the area [pixels]", ylabel="instances", title="Instance sizes")
    most = max(report.per_image)
    middle.hist(report.per_image, np.arange(most + 2) - 0.5 if most < 60 else 60)
    middle.set(xlabel="instances", ylabel="images", title="Instances per image")
    if report.sizes:
        heights, widths = np.array(report.sizes).T
        right.scatter(widths, heights, s=6, alpha=0.4)
    right.set(xlabel="width [pixels]", ylabel="height [pixels]", title="Image sizes")
    figure.savefig(path, dpi=100)


def draw_samples(dataset, path, count=16, seed=0):
    """A sheet of random images with their instances, drawn as `visualize.display_instances` does.

    Images that can't be read are left out; annotated ones are taken before others.

    Returns:
        How many images were drawn; without any, no file is written.
    """
    from mrcnn_parallel import visualize
    from mrcnn_parallel.drawing import frame, random_colors

    cells = []
    order = np.random.default_rng(seed).permutation(dataset.image_ids)
    for image_id in sorted(order, key=lambda number: not _is_annotated(dataset, number)):
        if len(cells) == count:
            break
        try:
            cells.append((image_id, *_thumbnail(dataset, image_id)))
        except Exception:  # the report names what can't be read; the sheet shows the others
            continue
    if not cells:
        return 0
    columns = math.ceil(math.sqrt(len(cells)))
    rows = math.ceil(len(cells) / columns)
    figure = _figure(4.5 * columns, 4.5 * rows)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes:
        ax.axis("off")
    for ax, (image_id, image, masks, class_ids) in zip(axes, cells, strict=False):
        title = Path(dataset.image_info[image_id]["path"] or f"image {image_id}").name[-40:]
        if masks.shape[2] == 0:
            frame(ax, image, title)
            continue
        visualize.display_instances(
            image,
            extract_bboxes(masks),
            masks,
            np.abs(class_ids),
            dataset.class_names,
            title=title,
            colors=[
                CROWD_COLOR if number < 0 else color
                for number, color in zip(class_ids, random_colors(len(class_ids)), strict=True)
            ],
            ax=ax,
        )
    figure.savefig(path, dpi=80)
    return len(cells)


def _is_annotated(dataset, image_id):
    """Whether an image is known to have instances; True where only loading would tell."""
    return bool(dataset.image_info[image_id].get("instances", True))


def _thumbnail(dataset, image_id):
    """A small image with its masks: (h, w, 3) uint8, (h, w, N) bool, (N,) class ids."""
    import cv2

    image = dataset.load_image(image_id)
    if image.dtype != np.uint8:
        image = (255.0 * image / max(1, image.max())).astype(np.uint8)
    found, class_ids = dataset.load_polygons(image_id) or (None, None)
    if found is None:
        masks, class_ids = dataset.load_mask(image_id)
        found = [masks[..., number] for number in range(len(class_ids))]
    size = image.shape[:2]
    scale = min(1, CELL / max(size))
    small = (max(1, round(size[1] * scale)), max(1, round(size[0] * scale)))  # (width, height)
    masks = np.zeros((small[1], small[0], len(found)), bool)
    for number, segment in enumerate(found):
        mask = segments.to_mask(segment, *size).astype(np.uint8)
        masks[:, :, number] = cv2.resize(mask, small, interpolation=cv2.INTER_NEAREST)
    return cv2.resize(image, small, interpolation=cv2.INTER_AREA), masks, class_ids
