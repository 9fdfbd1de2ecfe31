"""Batches: form, order, reproducibility, what Keras makes of them, and errors on their way."""

import threading
import time

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from mrcnn_parallel.data.generators import DataGenerator, data_generator
from mrcnn_parallel.data.load import load_image_gt
from mrcnn_parallel.data.loader import TrainingLoader, original_errors
from mrcnn_parallel.ops.anchors import image_anchors_px
from tests.data.synthetic import SyntheticConfig, SyntheticDataset

CONFIG = SyntheticConfig()
STRICT = SyntheticConfig(ON_BAD_SAMPLE="raise")
ANCHORS = image_anchors_px(CONFIG, CONFIG.IMAGE_SHAPE)


def same(first, second):
    return all(
        a.dtype == b.dtype and np.array_equal(a, b) for a, b in zip(first, second, strict=True)
    )


def forms(batch):
    return [(array.shape, array.dtype.name) for array in batch]


def image_ids_of(batch):
    return batch[1][:, 0].astype(int).tolist()


class TestForm:
    def test_device_targets(self):
        (batch,) = TrainingLoader(SyntheticDataset(3), CONFIG, seed=0)[0]
        assert isinstance(batch, tuple)
        assert forms(batch) == [
            ((2, 64, 64, 3), "uint8"),
            ((2, 16), "float32"),
            ((2, 5), "int32"),
            ((2, 5, 4), "float32"),
            ((2, 28, 28, 5), "bool"),
        ]

    def test_ready_made_targets_and_rois(self):
        config = SyntheticConfig(RPN_TARGETS="input", USE_RPN_ROIS=False)
        (batch,) = TrainingLoader(SyntheticDataset(3, empty=(0,)), config, seed=0)[0]
        assert forms(batch) == [
            ((2, 64, 64, 3), "uint8"),
            ((2, 16), "float32"),
            ((2, len(ANCHORS), 1), "int32"),
            ((2, 32, 4), "float32"),
            ((2, 5), "int32"),
            ((2, 5, 4), "float32"),
            ((2, 28, 28, 5), "bool"),
            ((2, 32, 4), "int32"),
        ]
        assert (batch[2] != 0).sum(axis=(1, 2)).tolist() == [32, 32]

    def test_full_masks(self):
        config = SyntheticConfig(USE_MINI_MASK=False)
        (batch,) = TrainingLoader(SyntheticDataset(3), config, seed=0)[0]
        assert forms(batch)[4] == ((2, 64, 64, 5), "bool")

    def test_the_images_ground_truth_padded_with_zeros(self):
        dataset = SyntheticDataset(3)
        (batch,) = TrainingLoader(dataset, CONFIG, batch_size=3, shuffle=False)[0]
        for i in range(3):
            image, meta, class_ids, boxes, masks = load_image_gt(dataset, CONFIG, i)
            n = len(class_ids)
            np.testing.assert_array_equal(batch[0][i], image)
            np.testing.assert_array_equal(batch[1][i], meta.astype(np.float32))
            np.testing.assert_array_equal(batch[2][i, :n], class_ids)
            np.testing.assert_array_equal(batch[3][i, :n], boxes)
            np.testing.assert_array_equal(batch[4][i, ..., :n], masks)
            assert not (
                batch[2][i, n:].any() or batch[3][i, n:].any() or batch[4][i, ..., n:].any()
            )

    @pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "uint16"])
    def test_other_images_than_bytes_come_as_floats(self, dtype):
        dataset = SyntheticDataset(3, dtype=dtype)
        (batch,) = TrainingLoader(dataset, CONFIG, seed=0)[0]
        assert batch[0].dtype == np.float32
        (as_bytes,) = TrainingLoader(SyntheticDataset(3), CONFIG, seed=0)[0]
        np.testing.assert_array_equal(batch[0], as_bytes[0])

    def test_images_without_instances_are_kept(self):
        dataset = SyntheticDataset(2, empty=(0, 1))
        (batch,) = TrainingLoader(dataset, CONFIG, seed=0)[0]
        assert batch[0].any()
        assert not batch[2].any() and not batch[3].any() and not batch[4].any()

    def test_too_many_instances_are_sampled(self):
        config = SyntheticConfig(MAX_GT_INSTANCES=2, IMAGE_MIN_DIM=256, IMAGE_MAX_DIM=256)
        dataset = SyntheticDataset(1, size=(256, 256), most=40, seed=4)
        _, _, class_ids, boxes, masks = load_image_gt(dataset, config, 0)
        assert len(class_ids) > 8
        known = {
            tuple(box): (i, masks[..., k])
            for k, (box, i) in enumerate(zip(boxes, class_ids, strict=True))
        }
        loader = TrainingLoader(dataset, config, batch_size=1, seed=0)
        chosen = set()
        for i in range(12):
            _, _, ids, kept, mini = loader[i][0]
            pair = [tuple(box.astype(int)) for box in kept[0]]
            assert len(set(pair)) == 2
            for k, box in enumerate(pair):
                assert known[box][0] == ids[0, k]
                np.testing.assert_array_equal(known[box][1], mini[0, ..., k])
            chosen.update(pair)
        assert len(chosen) > 4


class TestOrder:
    def test_each_pass_sees_each_image_once_and_batches_cross_passes(self):
        dataset = SyntheticDataset(5)
        loader = TrainingLoader(dataset, CONFIG, seed=1)
        seen = [i for b in range(10) for i in image_ids_of(loader[b][0])]
        passes = [seen[start : start + 5] for start in range(0, 20, 5)]
        assert all(sorted(order) == [0, 1, 2, 3, 4] for order in passes)
        assert len({tuple(order) for order in passes}) > 1
        assert seen == [loader.image_id_at(i) for i in range(20)]

    @settings(deadline=None, max_examples=30)
    @given(st.integers(1, 30), st.integers(0, 2**31), st.integers(0, 40))
    def test_any_pass_of_any_dataset_is_a_permutation(self, count, seed, pass_number):
        dataset = SyntheticDataset(count, size=(64, 64), most=1)
        loader = TrainingLoader(dataset, CONFIG, seed=seed)
        start = pass_number * count
        order = [loader.image_id_at(start + i) for i in range(count)]
        assert sorted(order) == list(range(count))

    def test_without_shuffle_it_is_the_datasets(self):
        loader = TrainingLoader(SyntheticDataset(3), CONFIG, shuffle=False)
        assert [image_ids_of(loader[b][0]) for b in range(3)] == [[0, 1], [2, 0], [1, 2]]

    def test_a_batch_larger_than_the_dataset(self):
        (batch,) = TrainingLoader(SyntheticDataset(2), CONFIG, batch_size=5, seed=0)[0]
        assert sorted(image_ids_of(batch)[:4]) == [0, 0, 1, 1]


def jitter(image, mask, rng):
    """An augmentation that draws."""
    return (image + rng.integers(0, 3, image.shape)).astype(image.dtype), mask


class TestReproducibility:
    CONFIG = SyntheticConfig(
        RPN_TARGETS="input",
        USE_RPN_ROIS=False,
        IMAGE_RESIZE_MODE="crop",
        IMAGE_MIN_SCALE=1.5,
        MAX_GT_INSTANCES=2,
    )

    def loader(self, seed=3, **options):
        return TrainingLoader(
            SyntheticDataset(5), self.CONFIG, seed=seed, augmentation=jitter, **options
        )

    def test_a_batch_depends_on_seed_and_number_alone(self):
        first, second = self.loader(), self.loader()
        batches = [first[i][0] for i in range(6)]
        np.random.seed(99)  # global states do not matter
        for i in (5, 2, 0, 4, 1, 3):
            assert same(batches[i], second[i][0])
        assert not same(batches[0], self.loader(seed=4)[0][0])

    def test_it_goes_on_where_it_stopped(self):
        resumed = self.loader(start_batch=4)
        for i in range(3):
            assert same(self.loader()[4 + i][0], resumed[i][0])

    def test_the_second_pass_augments_differently(self):
        loader = self.loader(batch_size=1)
        images = {}
        for i in range(10):
            (batch,) = loader[i]
            images.setdefault(image_ids_of(batch)[0], []).append(batch[0])
        assert all(not np.array_equal(*pair) for pair in images.values())

    def test_threads_change_nothing(self):
        loader = self.loader()
        expected = [loader[i][0] for i in range(8)]
        results = [None] * 8

        def load(i):
            results[i] = loader[i][0]

        threads = [threading.Thread(target=load, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(same(a, b) for a, b in zip(expected, results, strict=True))

    def test_without_a_seed_numpys_global_state_decides(self):
        seeds = []
        for state in (5, 5, 6):
            np.random.seed(state)
            seeds.append(self.loader(seed=None).seed)
        assert seeds[0] == seeds[1] != seeds[2]

    def test_sources_that_are_not_augmented(self):
        plain = TrainingLoader(SyntheticDataset(5), CONFIG, seed=3)
        spared = TrainingLoader(
            SyntheticDataset(5),
            CONFIG,
            seed=3,
            augmentation=jitter,
            no_augmentation_sources=["synthetic"],
        )
        other = TrainingLoader(
            SyntheticDataset(5), CONFIG, seed=3, augmentation=jitter, no_augmentation_sources=["x"]
        )
        assert same(plain[0][0], spared[0][0])
        assert not same(plain[0][0], other[0][0])


class Recorder(keras.callbacks.Callback):
    """Notes which images each step saw, from a layer that keeps them."""

    def __init__(self):
        super().__init__()
        self.train, self.validation = [], []

    def last(self):
        return [int(number) for number in ops.unstack(self.model.get_layer("seen").seen + 0)]

    def on_train_batch_end(self, batch, logs=None):
        self.train.append(self.last())

    def on_test_batch_end(self, batch, logs=None):
        self.validation.append(self.last())


class Seen(keras.layers.Layer):
    """Stores the image numbers of the batch in a weight."""

    def __init__(self, count, **kwargs):
        super().__init__(**kwargs)
        self.seen = self.add_weight(shape=(count,), trainable=False, initializer="zeros")
        self.scale = self.add_weight(shape=(), initializer="ones")

    def call(self, meta):
        self.seen.assign(ops.reshape(meta[:, 0], self.seen.shape))
        return meta[:, :1] * self.scale


class MeanOfOutput(keras.Model):
    """Needs no targets: its loss is the mean of its output."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return ops.mean(y_pred)


def model_for(loader):
    (batch,) = loader[0]
    inputs = [keras.Input(batch_shape=array.shape, dtype=array.dtype.name) for array in batch]
    model = MeanOfOutput(inputs, Seen(loader.batch_size, name="seen")(inputs[1]))
    model.compile(keras.optimizers.SGD(1e-3))
    return model


@pytest.mark.parametrize("workers", [0, 1, 2, 4])
def test_fit_goes_on_through_the_epochs_and_validates_on_the_same(workers):
    dataset = SyntheticDataset(5)
    loader = TrainingLoader(dataset, CONFIG, seed=3, workers=workers)
    validation = TrainingLoader(dataset, CONFIG, seed=4, workers=workers, num_batches=2)
    recorder = Recorder()
    with original_errors(loader, validation):
        model_for(loader).fit(
            loader,
            validation_data=validation,
            steps_per_epoch=4,
            epochs=3,
            shuffle=False,
            callbacks=[recorder],
            verbose=0,
        )
    expected = [[loader.image_id_at(2 * b + i) for i in range(2)] for b in range(12)]
    assert recorder.train == expected
    expected = [[validation.image_id_at(2 * b + i) for i in range(2)] for b in range(2)]
    assert recorder.validation == expected * 3


def test_loading_overlaps_and_the_queue_is_bounded():
    class Slow(SyntheticDataset):
        running = most = started = 0
        lock = threading.Lock()

        def load_image(self, image_id):
            with self.lock:
                self.running += 1
                self.started += 1
                self.most = max(self.most, self.running)
            time.sleep(0.02)
            with self.lock:
                self.running -= 1
            return super().load_image(image_id)

    dataset = Slow(50)
    loader = TrainingLoader(dataset, CONFIG, seed=0, workers=3, batch_size=1)
    before = dataset.started
    model_for(loader).fit(loader, steps_per_epoch=6, epochs=1, shuffle=False, verbose=0)
    assert dataset.most == 3
    # 6 used; 6 in the queue, 3 in work and some when it stops; TensorFlow looks at 2 + 1 first.
    assert dataset.started - before < 30


class DiskOnFire(Exception):
    """No backend has this exception."""


class Bad(SyntheticDataset):
    def load_image(self, image_id):
        if image_id == 6:
            raise DiskOnFire("cannot read sector 5")
        return super().load_image(image_id)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("in_validation", [False, True])
def test_the_users_error_comes_out_of_fit(workers, in_validation):
    good, bad = (
        TrainingLoader(kind(8), STRICT, shuffle=False, workers=workers, num_batches=batches)
        for kind, batches in ((SyntheticDataset, None), (Bad, 4 if in_validation else None))
    )
    train, validation = (good, bad) if in_validation else (bad, None)
    with (
        pytest.raises(DiskOnFire, match="cannot read sector 5") as caught,
        original_errors(train, validation),
    ):
        model_for(good).fit(
            train,
            validation_data=validation,
            steps_per_epoch=5,
            epochs=2,
            shuffle=False,
            verbose=0,
        )
    assert caught.value.__notes__ == [
        "while loading image 6 (source 'synthetic', id 'picture-6', seed 0)"
    ]


def test_other_errors_pass_original_errors_unchanged():
    loader = TrainingLoader(SyntheticDataset(2), CONFIG, seed=0)
    with pytest.raises(ZeroDivisionError), original_errors(loader, None):
        raise ZeroDivisionError


class TestRefused:
    def test_a_dataset_without_images(self):
        for make in (TrainingLoader, DataGenerator, data_generator):
            with pytest.raises(ValueError, match="has no images"):
                make(SyntheticDataset(0), CONFIG)

    def test_sizes_that_vary(self):
        config = SyntheticConfig(IMAGE_RESIZE_MODE="none")
        with pytest.raises(
            ValueError, match=r"image 0 .* it is \(32, 48, 3\) after resizing, but tr"
        ):
            TrainingLoader(SyntheticDataset(2, size=(32, 48)), config)

    def test_types_that_vary(self):
        class Mixed(SyntheticDataset):
            def load_image(self, image_id):
                return super().load_image(image_id).astype("uint8" if image_id == 0 else "float32")

        loader = TrainingLoader(Mixed(2), STRICT, shuffle=False)
        with pytest.raises(ValueError, match=r"image 1 .*it is float32, but the dataset's first"):
            loader[0]

    def test_detection_targets_without_rois(self):
        with pytest.raises(ValueError, match="detection_targets needs random_rois > 0"):
            data_generator(SyntheticDataset(2), CONFIG, detection_targets=True)
