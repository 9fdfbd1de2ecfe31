"""What the whole network does to its images."""

import numpy as np

from mrcnn_parallel.nets import mask_rcnn
from tests.helpers import compiled


def test_mold_leaves_molded_images_alone():
    pixels = np.arange(12, dtype="uint8").reshape(1, 2, 2, 3)
    molded = pixels.astype("float32") - np.float32([1, 2, 3])
    for images in (pixels, pixels.astype("int32"), molded):
        found = compiled(lambda x: mask_rcnn.mold(x, [1, 2, 3]), images)
        np.testing.assert_array_equal(found, molded)
