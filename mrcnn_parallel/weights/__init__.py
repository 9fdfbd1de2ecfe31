"""Weights in and out: Matterport's h5 layout, Keras 3's `.weights.h5` and `.keras`, ImageNet's.

report.py    what a load did, and the errors
files.py     a file on disk -> the layers stored in it
matching.py  layers of the model <-> layers of the file
reader.py    load_weights: match, verify every shape, only then assign
writer.py    save_weights: atomically, in Matterport's order and naming
imagenet.py  Keras Applications' ResNets under Matterport's names
"""

from mrcnn_parallel.weights.imagenet import get_imagenet_weights
from mrcnn_parallel.weights.reader import load_weights
from mrcnn_parallel.weights.report import LoadReport, ShapeMismatch, WeightsError, WeightsFileError
from mrcnn_parallel.weights.writer import save_weights

__all__ = [
    "LoadReport",
    "ShapeMismatch",
    "WeightsError",
    "WeightsFileError",
    "get_imagenet_weights",
    "load_weights",
    "save_weights",
]
