"""Plots and tables about results and weights; users reach them as `visualize.*`."""

import html
import logging
import sys

import numpy as np

from mrcnn_parallel.drawing import pyplot, show

log = logging.getLogger(__name__)

LARGE_WEIGHT = 1000.0  # a weight beyond it has probably diverged


def plot_precision_recall(AP, precisions, recalls):
    """Plots a precision-recall curve.

    Args:
        AP: average precision at IoU 0.5, for the title.
        precisions, recalls: (K,) floats in 0..1, from `utils.compute_ap`.

    Returns:
        The axes.
    """
    _, ax = pyplot().subplots(1)
    ax.set_title(f"Precision-Recall Curve. AP@50 = {AP:.3f}")
    ax.set_xlim(0, 1.1)
    ax.set_ylim(0, 1.1)
    ax.set_xlabel("Recall")
    ax.set_ylabel("Precision")
    ax.plot(recalls, precisions)
    show()
    return ax


def plot_overlaps(gt_class_ids, pred_class_ids, pred_scores, overlaps, class_names, threshold=0.5):
    """Shows the IoU of every prediction with every ground truth object as a grid.

    Args:
        gt_class_ids: (G,) int; zeros are padding.
        pred_class_ids: (P,) int; zeros are padding.
        pred_scores: (P,) float.
        overlaps: (P, G) IoU.
        class_names: list of texts.
        threshold: IoU above which a cell says "match" or, with another class, "wrong".

    Returns:
        The axes.
    """
    gt_class_ids, pred_class_ids = np.asarray(gt_class_ids), np.asarray(pred_class_ids)
    gt_class_ids, pred_class_ids = (
        gt_class_ids[gt_class_ids != 0],
        pred_class_ids[pred_class_ids != 0],
    )
    overlaps = np.asarray(overlaps)[: len(pred_class_ids), : len(gt_class_ids)]
    _, ax = pyplot().subplots(figsize=(12, 10))
    ax.imshow(overlaps, interpolation="nearest", cmap="Blues", vmin=0, vmax=1)
    ax.set_yticks(
        np.arange(len(pred_class_ids)),
        [
            f"{class_names[class_id]} ({score:.2f})"
            for class_id, score in zip(pred_class_ids, pred_scores, strict=False)
        ],
    )
    ax.set_xticks(np.arange(len(gt_class_ids)), [class_names[i] for i in gt_class_ids], rotation=90)
    for (row, column), iou in np.ndenumerate(overlaps):
        verdict = ""
        if iou > threshold:
            same = gt_class_ids[column] == pred_class_ids[row]
            verdict = "\nmatch" if same else "\nwrong"
        color = "white" if iou > 0.5 else "black" if iou > 0 else "grey"
        ax.text(
            column, row, f"{iou:.3f}{verdict}", color=color, fontsize=9, ha="center", va="center"
        )
    ax.set_xlabel("Ground Truth")
    ax.set_ylabel("Predictions")
    ax.figure.tight_layout()
    show()
    return ax


def display_table(table):
    """Shows a table: as HTML in a notebook, elsewhere as text in the log.

    Args:
        table: list of rows, each a list of cells of any type.

    Returns:
        The table as text, columns aligned.
    """
    cells = [[str(cell) for cell in row] for row in table]
    columns = max((len(row) for row in cells), default=0)
    widths = [max(len(row[i]) for row in cells if i < len(row)) for i in range(columns)]
    text = "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip()
        for row in cells
    )
    if _in_notebook():
        from IPython.display import HTML, display

        rows = (
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
            for row in cells
        )
        display(HTML(f"<table>{''.join(rows)}</table>"))
    else:
        log.info("%s", text)
    return text


def _in_notebook():
    """True in a Jupyter kernel, where HTML can be shown; IPython in a terminal is none."""
    ipython = sys.modules.get("IPython")  # a kernel has imported it
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None


def display_weight_stats(model):
    """Shows name, shape, smallest, largest value and standard deviation of every weight.

    Weights that are all the same (biases aside) are marked as dead, values beyond 1000 as overflow,
    values that are not finite as such.

    Args:
        model: a MaskRCNN or a Keras model.

    Returns:
        The rows shown, the first being the headings.
    """
    from keras import ops

    if hasattr(model, "get_trainable_layers"):
        layers = model.get_trainable_layers()
    else:
        layers = [layer for layer in model.layers if layer.weights]
    table = [["WEIGHT NAME", "SHAPE", "MIN", "MAX", "STD"]]
    for layer in layers:
        for weight in layer.weights:
            values = ops.convert_to_numpy(ops.convert_to_tensor(weight)).astype(np.float64)
            name = weight.path[max(0, weight.path.find(layer.name)) :]  # without outer models
            low, high = values.min(), values.max()
            if low == high and weight.name not in ("bias", "beta", "moving_mean"):
                name += "  *** dead?"
            if not np.isfinite(values).all():
                name += "  *** not finite"
            elif max(abs(low), abs(high)) > LARGE_WEIGHT:
                name += "  *** overflow?"
            table.append(
                [name, str(values.shape), f"{low:+9.4f}", f"{high:+10.4f}", f"{values.std():9.4f}"]
            )
    display_table(table)
    return table
