"""Matterport's generators: what scripts of its time took from them, number for number."""

import numpy as np
import pytest

from mrcnn_parallel.data.generators import DataGenerator, data_generator
from mrcnn_parallel.data.images import mold_image
from mrcnn_parallel.data.load import load_image_gt
from mrcnn_parallel.data.targets import build_rpn_targets
from tests.data.synthetic import SyntheticDataset
from tests.data.test_loader import ANCHORS, CONFIG, Bad, DiskOnFire, forms, image_ids_of


class TestMatterportsGenerators:
    @pytest.mark.parametrize("empty", [(), (0,)])
    def test_seven_inputs(self, empty):
        dataset = SyntheticDataset(3, empty=empty)
        np.random.seed(5)
        inputs, outputs = next(data_generator(dataset, CONFIG, shuffle=False, batch_size=2))
        assert isinstance(inputs, list) and outputs == []
        assert forms(inputs) == [
            ((2, 64, 64, 3), "float32"),
            ((2, 16), "float64"),
            ((2, len(ANCHORS), 1), "int32"),
            ((2, 32, 4), "float64"),
            ((2, 5), "int32"),
            ((2, 5, 4), "int32"),
            ((2, 28, 28, 5), "bool"),
        ]
        np.random.seed(5)
        for i in range(2):
            image, meta, class_ids, boxes, masks = load_image_gt(dataset, CONFIG, i)
            match, deltas = build_rpn_targets(image.shape, ANCHORS, class_ids, boxes, CONFIG)
            n = len(class_ids)
            np.testing.assert_array_equal(inputs[0][i], mold_image(image, CONFIG))
            np.testing.assert_array_equal(inputs[1][i], meta)
            np.testing.assert_array_equal(inputs[2][i, :, 0], match)
            np.testing.assert_array_equal(inputs[3][i], deltas)
            np.testing.assert_array_equal(inputs[4][i, :n], class_ids)
            np.testing.assert_array_equal(inputs[5][i, :n], boxes)
            np.testing.assert_array_equal(inputs[6][i, ..., :n], masks)

    def test_random_rois_and_detection_targets(self):
        generator = data_generator(
            SyntheticDataset(3), CONFIG, random_rois=40, batch_size=2, detection_targets=True
        )
        inputs, outputs = next(generator)
        assert forms(inputs[7:]) == [((2, 40, 4), "int32"), ((2, 16, 4), "int32")]
        assert forms(outputs) == [
            ((2, 16, 1), "int32"),
            ((2, 16, 4, 4), "float32"),
            ((2, 16, 28, 28, 4), "float32"),
        ]

    def test_the_generator_has_no_end_and_shuffles_each_pass(self):
        generator = data_generator(SyntheticDataset(4), CONFIG, batch_size=4)
        passes = [image_ids_of(next(generator)[0]) for _ in range(8)]
        assert all(sorted(order) == [0, 1, 2, 3] for order in passes)
        assert len({tuple(order) for order in passes}) > 1

    def test_batches_cross_passes(self):
        generator = data_generator(SyntheticDataset(3), CONFIG, shuffle=False, batch_size=2)
        assert [image_ids_of(next(generator)[0]) for _ in range(3)] == [[0, 1], [2, 0], [1, 2]]

    def test_the_old_augment_argument(self):
        generator = data_generator(SyntheticDataset(1), CONFIG, augment=True)
        with pytest.warns(DeprecationWarning, match="augment"):
            images = {next(generator)[0][0].tobytes() for _ in range(12)}
        assert len(images) == 2

    def test_sources_that_are_not_augmented(self):
        black = lambda image, mask, rng: (image * 0, mask)  # noqa: E731
        for sources, dark in ((None, True), (["synthetic"], False)):
            for batches in (
                data_generator(
                    SyntheticDataset(1), CONFIG, augmentation=black, no_augmentation_sources=sources
                ),
                iter(
                    DataGenerator(
                        SyntheticDataset(1),
                        CONFIG,
                        augmentation=black,
                        batch_size=1,
                        no_augmentation_sources=sources,
                    )
                ),
            ):
                (images, *_), _ = next(batches)
                assert (len(np.unique(images)) == 3) == dark  # black minus the mean pixel

    def test_data_generator_class(self):
        generator = DataGenerator(SyntheticDataset(5), CONFIG, shuffle=False)
        assert len(generator) == 3
        assert [image_ids_of(generator[i][0]) for i in range(3)] == [[0, 1], [2, 3], [4, 0]]
        assert generator[0][1] == []
        assert len(list(generator)) == 3
        generator.on_epoch_end()
        assert image_ids_of(generator[0][0]) == [0, 1]

    def test_data_generator_class_shuffles_after_each_epoch(self):
        generator = DataGenerator(SyntheticDataset(6), CONFIG, batch_size=6)
        orders = set()
        for _ in range(5):
            orders.add(tuple(image_ids_of(generator[0][0])))
            generator.on_epoch_end()
        assert len(orders) > 1
        assert all(sorted(order) == list(range(6)) for order in orders)

    def test_an_error_is_raised_at_once(self):
        generator = data_generator(Bad(8), CONFIG, shuffle=False, batch_size=8)
        with pytest.raises(DiskOnFire):
            next(generator)
