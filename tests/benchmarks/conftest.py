"""The benchmarks' networks get small heads here: those of full size take minutes on a CPU."""

import pytest

from mrcnn_parallel.config import Config

SMALL_HEADS = {
    "TRAIN_ROIS_PER_IMAGE": 8,
    "POST_NMS_ROIS_TRAINING": 50,
    "POST_NMS_ROIS_INFERENCE": 50,
    "TOP_DOWN_PYRAMID_SIZE": 16,
    "FPN_CLASSIF_FC_LAYERS_SIZE": 16,
    "FPN_MASK_CONV_SIZE": 8,
    "DETECTION_MAX_INSTANCES": 20,
}


@pytest.fixture(autouse=True)
def _small_heads(monkeypatch):
    for field, value in SMALL_HEADS.items():
        monkeypatch.setattr(Config, field, value)
