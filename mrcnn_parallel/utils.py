"""Matterport's `mrcnn.utils`: its names, from where they live in this package.

New code can import from `data`, `ops` and `training.metrics` directly.
"""

import hashlib
import http.client
import logging
import os
import time
import urllib.error
import urllib.request
from pathlib import Path

from mrcnn_parallel.data.dataset import Dataset
from mrcnn_parallel.data.geometry import (
    apply_box_deltas,
    box_refinement,
    compute_iou,
    compute_overlaps,
    compute_overlaps_masks,
    denorm_boxes,
    extract_bboxes,
    non_max_suppression,
    norm_boxes,
    trim_zeros,
)
from mrcnn_parallel.data.images import resize, resize_image
from mrcnn_parallel.data.masks import (
    expand_mask,
    minimize_mask,
    mold_mask,
    resize_mask,
    unmold_mask,
)
from mrcnn_parallel.ops.anchors import generate_anchors, generate_pyramid_anchors
from mrcnn_parallel.training.metrics import (
    compute_ap,
    compute_ap_range,
    compute_matches,
    compute_recall,
)

__all__ = [
    "COCO_MODEL_URL",
    "Dataset",
    "apply_box_deltas",
    "batch_slice",
    "box_refinement",
    "box_refinement_graph",
    "compute_ap",
    "compute_ap_range",
    "compute_iou",
    "compute_matches",
    "compute_overlaps",
    "compute_overlaps_masks",
    "compute_recall",
    "denorm_boxes",
    "download_trained_weights",
    "expand_mask",
    "extract_bboxes",
    "generate_anchors",
    "generate_pyramid_anchors",
    "minimize_mask",
    "mold_mask",
    "non_max_suppression",
    "norm_boxes",
    "resize",
    "resize_image",
    "resize_mask",
    "trim_zeros",
    "unmold_mask",
]

log = logging.getLogger(__name__)

COCO_MODEL_URL = "https://github.com/matterport/Mask_RCNN/releases/download/v2.0/mask_rcnn_coco.h5"
COCO_MODEL_BYTES = 257_557_808  # of that release
COCO_MODEL_MD5 = "e98aaff6f99e307b5e2a8a3ff741a518"  # against damage in transit, not for security


def box_refinement_graph(box, gt_box):
    """box_refinement on tensors: (N, 4), (N, 4) -> (N, 4) float32; zeros where a box is empty."""
    from keras import ops

    from mrcnn_parallel.ops.boxes import deltas_between

    return deltas_between(ops.cast(box, "float32"), ops.cast(gt_box, "float32"))


def batch_slice(inputs, graph_fn, batch_size, names=None):
    """Applies a function made for one image to each image of a batch, and stacks what it returns.

    This package's own layers are batched; this is for people's layers. `keras.ops.vectorized_map`
    does the same with less graph.

    Args:
        inputs: a tensor or a list of tensors, (batch_size, ...).
        graph_fn: function of one slice of each, returning a tensor or several.
        batch_size: int.
        names: ignored; tensors have no names any more.

    Returns:
        A tensor (batch_size, ...), or a list of them if graph_fn returns several.
    """
    from keras import ops

    inputs = inputs if isinstance(inputs, (list, tuple)) else [inputs]
    results = []
    for i in range(batch_size):
        result = graph_fn(*(tensor[i] for tensor in inputs))
        results.append(result if isinstance(result, (list, tuple)) else [result])
    stacked = [ops.stack(parts, axis=0) for parts in zip(*results, strict=True)]
    return stacked[0] if len(stacked) == 1 else stacked


def download_trained_weights(coco_model_path, verbose=1):
    """Downloads Matterport's COCO weights (246 MB).

    Args:
        coco_model_path: the file to write; it appears, whole and checked, at the end.
        verbose: 0 for no progress bar.

    Raises:
        OSError: the download failed four times, or the server refused it.
    """
    log.info("downloading Matterport's COCO weights to %s", coco_model_path)
    download(COCO_MODEL_URL, coco_model_path, COCO_MODEL_BYTES, COCO_MODEL_MD5, verbose)


def download(url, path, size=None, md5=None, verbose=1, attempts=4, wait_s=2.0):
    """Downloads a file: with retries, checked, and never half there under its own name.

    Args:
        url: where from. path: where to; missing folders are made.
        size: bytes, md5: hex digest that the file must have; None if unknown.
        verbose: 0 for no progress bar.
        attempts: how often to try. wait_s: seconds before the second try, doubled for each further.

    Raises:
        OSError: saying the url, what happened last, and what to do.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        for attempt in range(1, attempts + 1):
            try:
                _download_once(url, partial, size, md5, verbose)
                os.replace(partial, path)
                return
            except (OSError, http.client.HTTPException) as error:  # HTTPError, timeouts, resets too
                refused = isinstance(error, urllib.error.HTTPError) and error.code < 500
                if attempt == attempts or refused:
                    raise OSError(
                        f"could not download {url} ({attempt} of {attempts} tries): {error}; check "
                        f"the connection, or download it by other means and save it as {path}."
                    ) from error
                log.warning("download of %s failed (%s), trying again", url, error)
                time.sleep(wait_s * 2 ** (attempt - 1))
    finally:
        partial.unlink(missing_ok=True)


def _download_once(url, partial, size, md5, verbose):
    from tqdm import tqdm

    digest, received = hashlib.md5(usedforsecurity=False), 0
    with urllib.request.urlopen(url, timeout=60) as response, open(partial, "wb") as file:
        length = int(response.headers.get("Content-Length") or 0) or size
        name = Path(url).name
        with tqdm(total=length, unit="B", unit_scale=True, desc=name, disable=not verbose) as bar:
            while chunk := response.read(1 << 20):
                file.write(chunk)
                digest.update(chunk)
                received += len(chunk)
                bar.update(len(chunk))
    expected = size or length
    if expected and received != expected:
        raise OSError(f"got {received} bytes instead of {expected}")
    if md5 and digest.hexdigest() != md5:
        raise OSError(f"the file is damaged: its MD5 is {digest.hexdigest()} instead of {md5}")
