"""Mask R-CNN for Keras 3 with Matterport's API: several GPUs, TensorFlow or JAX.

from mrcnn_parallel.config import Config
from mrcnn_parallel.model import MaskRCNN
from mrcnn_parallel.parallel_model import ParallelModel
"""

__version__ = "0.1.0"
