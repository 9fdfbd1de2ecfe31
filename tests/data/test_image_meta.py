"""Image metas: the golden row, and that parsing undoes composing."""

import numpy as np

from mrcnn_parallel.data.image_meta import compose_image_meta, parse_image_meta
from tests.helpers import golden

GOLDEN = golden("utils")


def test_compose_as_in_the_golden():
    meta = compose_image_meta(
        7, (90, 101, 3), (128, 128, 3), (3, 4, 120, 121), 1.25, np.array([1, 0, 1, 1])
    )
    assert meta.dtype == np.float64
    np.testing.assert_array_equal(meta, GOLDEN["image_meta"])


def test_parse_as_in_the_golden():
    parsed = parse_image_meta(GOLDEN["image_meta"][None])
    names = {key.removeprefix("parse_meta_") for key in GOLDEN.files if "parse_meta_" in key}
    assert set(parsed) == names
    for name in names:
        expected = GOLDEN[f"parse_meta_{name}"]
        assert parsed[name].dtype == expected.dtype
        np.testing.assert_array_equal(parsed[name], expected)
