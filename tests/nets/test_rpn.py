"""The RPN at sampled anchors against the RPN over whole maps."""

import keras
import numpy as np
import pytest
from keras import layers as KL

from mrcnn_parallel.config import Config
from mrcnn_parallel.layers.rpn_targets import SampledAnchors
from mrcnn_parallel.nets.rpn import SampledRPN, anchor_reading, build_rpn_model, rpn_over_pyramid
from mrcnn_parallel.ops import pyramid
from tests.helpers import compiled, gradients

SIZES = [(8, 12), (5, 7), (4, 3), (2, 1)]  # even and odd sides, and one below the kernel's
CHANNELS = 6


class Patches(KL.Layer):
    """The cells around anchors, from [anchor ids, feature maps]."""

    def __init__(self, ratios, stride):
        super().__init__(autocast=False)
        self.options = (ratios, stride)

    def call(self, inputs):
        anchor_ids, *maps = inputs
        return pyramid.read(maps, [anchor_reading(maps, anchor_ids, *self.options)])[0]

    def compute_output_shape(self, shapes):
        return (*shapes[0], 3, 3, CHANNELS)


@pytest.mark.parametrize("ratios", [3, 2])
@pytest.mark.parametrize("stride", [1, 2])
def test_sampled_anchors_have_the_maps_scores_and_deltas(ratios, stride):
    rng = np.random.default_rng(0)
    maps = [rng.normal(size=(2, *size, CHANNELS)).astype("float32") for size in SIZES]
    count = sum(-(-height // stride) * -(-width // stride) for height, width in SIZES) * ratios
    anchor_ids = np.stack([rng.permutation(count) for _ in range(2)]).astype("int32")  # all

    inputs = [keras.Input((*size, CHANNELS)) for size in SIZES]
    id_input = keras.Input((count,), dtype="int32")
    rpn = build_rpn_model(stride, ratios, CHANNELS, return_weights=True)
    logits, _, deltas, *weights = rpn_over_pyramid(rpn, inputs)
    patches = Patches(ratios, stride)([id_input, *inputs])
    sampled = SampledRPN()([patches, id_input, *weights])
    model = keras.Model([id_input, *inputs], [logits, deltas, *sampled])
    for variable in model.trainable_variables:  # biases, too
        variable.assign(0.2 * rng.normal(size=variable.shape))

    *dense, logits, deltas = compiled(lambda *x: model(list(x)), anchor_ids, *maps)
    assert dense[0].shape[1] == count
    for whole, found in zip(dense, (logits, deltas), strict=True):
        expected = np.take_along_axis(whole, anchor_ids[..., None], axis=1)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


class AddWeights(KL.Layer):
    """Adds a weight to each number, so that the gradient by the weight is that by the input."""

    def build(self, shape):
        self.added = self.add_weight(shape=(2, *shape[1:]), initializer="zeros", name="added")

    def call(self, inputs):
        return inputs + self.added


@pytest.mark.parametrize("stride", [1, 2])
def test_gradients_of_sampled_anchors_are_those_of_the_maps(stride):
    """Of the maps and of the RPN's weights, for one loss of the same anchors."""
    ratios, sampled_count = 3, 40
    rng = np.random.default_rng(1)
    maps = [rng.normal(size=(2, *size, CHANNELS)).astype("float32") for size in SIZES]
    count = sum(-(-height // stride) * -(-width // stride) for height, width in SIZES) * ratios
    anchor_ids = np.stack([rng.permutation(count)[:sampled_count] for _ in range(2)])
    anchor_ids = anchor_ids.astype("int32")
    factors = [rng.normal(size=(2, sampled_count, n)).astype("float32") for n in (2, 4)]

    inputs = [keras.Input(batch_shape=(2, *size, CHANNELS)) for size in SIZES]
    id_input = keras.Input(batch_shape=(2, sampled_count), dtype="int32")
    added = [AddWeights(name=f"map{i}")(x) for i, x in enumerate(inputs)]
    rpn = build_rpn_model(stride, ratios, CHANNELS, return_weights=True)
    logits, _, deltas, *weights = rpn_over_pyramid(rpn, added)
    patches = Patches(ratios, stride)([id_input, *added])
    sampled = SampledRPN()([patches, id_input, *weights])
    model = keras.Model([id_input, *inputs], [logits, deltas, *sampled])
    for variable in rpn.trainable_variables:
        variable.assign(0.2 * rng.normal(size=variable.shape))

    def loss(of_maps):
        def of(call):
            *dense, logits, deltas = call([anchor_ids, *maps])
            found = [logits, deltas]
            if of_maps:
                ids = anchor_ids[..., None]
                found = [keras.ops.take_along_axis(x, ids, axis=1) for x in dense]
            return sum(keras.ops.sum(x * f) for x, f in zip(found, factors, strict=True))

        return of

    expected, found = (gradients(loss(of_maps), model) for of_maps in (True, False))
    assert len(expected) == len(SIZES) + 6
    for path, gradient in expected.items():
        assert np.abs(gradient).max() > 0
        limit = 1e-5 * np.abs(gradient).max()
        np.testing.assert_allclose(found[path], gradient, rtol=1e-4, atol=limit, err_msg=path)


def test_the_model_people_build_has_three_outputs():
    assert len(build_rpn_model(1, 3, CHANNELS).outputs) == 3


def test_sampled_anchors_are_those_that_count():
    layer = SampledAnchors(Config(RPN_TRAIN_ANCHORS_PER_IMAGE=4))
    match = np.array([[0, 1, 0, 0, -1, 0, 0, 1], [0, 0, 0, 0, 0, 0, -1, 0], [1, -1] * 4])
    anchor_ids, found = compiled(layer, match[..., None].astype("int32"))
    # Where fewer count, others fill up, whose match is neutral
    np.testing.assert_array_equal(anchor_ids, [[1, 4, 7, 3], [6, 1, 2, 3], [0, 1, 2, 3]])
    np.testing.assert_array_equal(found[..., 0], [[1, -1, 1, 0], [-1, 0, 0, 0], [1, -1, 1, -1]])
