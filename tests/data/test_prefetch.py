"""The loader's threads: those that hang or die, bad samples, Ctrl-C, memory, going on."""

import gc
import logging
import re
import signal
import threading
import time
import weakref

import numpy as np
import pytest

from mrcnn_parallel.data import bad_samples
from mrcnn_parallel.data.bad_samples import BadSamples, TooManyBadSamples
from mrcnn_parallel.data.loader import TrainingLoader, original_errors
from tests.data.synthetic import SyntheticConfig, SyntheticDataset

CONFIG = SyntheticConfig()


_earlier = set()  # threads of other tests' loaders, which a backend may keep alive


def threads():
    own = (thread for thread in threading.enumerate() if thread.name == "mrcnn-loader")
    return [thread for thread in own if thread not in _earlier]


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    _earlier.update(threads())
    yield
    gc.collect()
    deadline = time.monotonic() + 5
    while threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not threads()


def same(first, second):
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def ids(batch):
    return batch[1][:, 0].astype(int).tolist()


class Faulty(SyntheticDataset):
    """`faults`: image id -> function called before that image is loaded."""

    def __init__(self, count=8, faults=None, **options):
        super().__init__(count, **options)
        self.faults = faults or {}
        self.loads = []

    def load_image(self, image_id):
        self.loads.append(int(image_id))
        if image_id in self.faults:
            self.faults[image_id]()
        return super().load_image(image_id)


def unreadable():
    raise OSError("cannot read sector 5")


def loader_of(dataset, workers=2, **options):
    fields = {name: options.pop(name) for name in list(options) if name.isupper()}
    config = SyntheticConfig(**fields)
    return TrainingLoader(dataset, config, seed=5, workers=workers, shuffle=False, **options)


class TestBadSamples:
    @pytest.mark.parametrize("workers", [0, 1, 3])
    def test_a_bad_image_is_replaced_by_the_same_other_one_each_time(self, workers, caplog):
        runs = []
        for _ in range(2):
            loader = loader_of(Faulty(faults={3: unreadable}), workers)
            with caplog.at_level(logging.WARNING):
                runs.append([loader[i][0] for i in range(4)])
            loader.close()
        assert all(same(a, b) for a, b in zip(*runs, strict=True))
        good = [TrainingLoader(SyntheticDataset(8), CONFIG, seed=5, shuffle=False)[0][0]]
        assert same(runs[0][0], good[0])
        seen = [image_id for batch in runs[0] for image_id in ids(batch)]
        assert seen[:3] == [0, 1, 2] and seen[3] != 3 and seen[4:] == [4, 5, 6, 7]
        message = (
            "image 3 (source 'synthetic', id 'picture-3', seed 0): OSError: cannot read sector 5"
        )
        assert f"Bad sample skipped: {message}" in caplog.text
        assert re.search(r"\d of \d+ samples could not be loaded and were repl", caplog.text)
        assert loader.bad_samples.summary().endswith("cannot read sector 5.")

    def test_going_on_later_gives_the_same_replacements(self):
        options = {"faults": {2: unreadable, 5: unreadable}}
        whole = loader_of(Faulty(**options))
        batches = [whole[i][0] for i in range(6)]
        later = loader_of(Faulty(**options), start_batch=4, workers=1)
        assert same(batches[4], later[0][0]) and same(batches[5], later[1][0])
        whole.close()
        later.close()

    @pytest.mark.parametrize("workers", [0, 2])
    def test_raise(self, workers):
        loader = loader_of(Faulty(faults={3: unreadable}), workers, ON_BAD_SAMPLE="raise")
        loader[0]
        with pytest.raises(OSError, match="cannot read sector 5") as caught:
            loader[1]
        assert caught.value.__notes__[0].startswith("while loading image 3 (source")
        assert loader.error is caught.value
        loader.close()

    def test_the_first_image_may_be_bad(self):
        loader = loader_of(Faulty(faults={0: unreadable}))
        assert ids(loader[0][0])[0] != 0
        loader.close()
        with pytest.raises(OSError, match="sector 5"):
            loader_of(Faulty(faults={0: unreadable}), ON_BAD_SAMPLE="raise")
        with pytest.raises(OSError, match="sector 5"):
            loader_of(Faulty(faults=dict.fromkeys(range(8), unreadable)))

    @pytest.mark.parametrize("workers", [0, 2])
    def test_beyond_the_limit_training_stops_and_says_why(self, workers):
        faults = dict.fromkeys(range(4, 8), unreadable)
        loader = loader_of(Faulty(faults=faults), workers, BAD_SAMPLE_LIMIT=0.25)
        with pytest.raises(TooManyBadSamples) as caught, original_errors(loader):
            for i in range(1000):
                loader[i]
        message = str(caught.value)
        assert "samples could not be loaded" in message
        assert "image 4 (source" in message and "sector 5" in message
        assert "Config.BAD_SAMPLE_LIMIT = 0.25" in message
        assert isinstance(caught.value.__cause__, OSError)

    def test_limits(self):
        counted = BadSamples(0.5)
        for i in range(bad_samples.LEAST - 1):
            counted.bad(i, f"image {i}", ValueError("torn"))  # few samples: no judgement yet
        counted.good()
        for _ in range(bad_samples.LEAST):
            counted.good()
        counted.bad(0, "image 0", ValueError("torn"))
        assert counted.count == 10 and counted.seen == 21
        assert "image 0 (2 times): torn" in counted.summary()
        with pytest.raises(TooManyBadSamples, match="12 of 23"):
            for i in (1, 2):
                counted.bad(i, f"image {i}", ValueError("torn"))
        assert BadSamples(0.1).summary() == ""

    def test_the_log_names_each_image_once_and_not_without_end(self, caplog):
        counted = BadSamples(1.0)
        for i in range(300):
            counted.bad(i % 30, f"image {i % 30}", ValueError("torn"))
        lines = [r for r in caplog.records if "Bad sample skipped" in r.message]
        assert len(lines) == 20
        assert "and 20 more images" in counted.summary()


class TestHangingThreads:
    def test_a_thread_that_hangs_once_is_replaced(self, caplog):
        release, stuck = threading.Event(), []

        def hang_once():
            if not stuck:
                stuck.append(1)
                release.wait(30)

        loader = loader_of(Faulty(faults={5: hang_once}), LOADER_TIMEOUT=0.3)
        batches = [loader[i][0] for i in range(4)]
        release.set()
        expected = loader_of(SyntheticDataset(8), workers=0)
        assert all(same(batch, expected[i][0]) for i, batch in enumerate(batches))
        assert "A loading thread hangs after 0.3 s (Config.LOADER_TIMEOUT)" in caplog.text
        assert "image 5 (source 'synthetic', id 'picture-5', seed 0)" in caplog.text
        assert loader.bad_samples.count == 0
        loader.close()

    @pytest.mark.parametrize("policy", ["skip", "raise"])
    def test_an_image_that_always_hangs_is_a_bad_sample(self, policy):
        release = threading.Event()
        dataset = Faulty(faults={5: lambda: release.wait(30)})
        loader = loader_of(dataset, LOADER_TIMEOUT=0.3, ON_BAD_SAMPLE=policy)
        if policy == "raise":
            with pytest.raises(TimeoutError, match=r"hangs after 0.3 s .* image 5 .*, twice"):
                [loader[i] for i in range(4)]
        else:
            seen = [image_id for i in range(4) for image_id in ids(loader[i][0])]
            assert seen[:5] == [0, 1, 2, 3, 4] and seen[5] != 5 and seen[6:] == [6, 7]
            assert "TimeoutError: a loading thread hangs" in loader.bad_samples.summary()
        release.set()
        loader.close()

    def test_when_all_hang_it_ends_with_an_error(self):
        release = threading.Event()
        faults = dict.fromkeys(range(1, 8), lambda: release.wait(60))
        loader = loader_of(Faulty(faults=faults), 1, LOADER_TIMEOUT=0.02, BAD_SAMPLE_LIMIT=1)
        with pytest.raises(RuntimeError, match=r"13 loading threads hung or died; the last: a "):
            [loader[i] for i in range(4)]
        release.set()

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
    def test_a_thread_that_dies_is_replaced(self, caplog):
        died = []

        def exit_once():
            if not died:
                died.append(1)
                raise SystemExit  # as a library that ends the program would

        loader = loader_of(Faulty(faults={2: exit_once}))
        batches = [loader[i][0] for i in range(3)]
        assert [ids(batch) for batch in batches] == [[0, 1], [2, 3], [4, 5]]
        assert "A loading thread died while loading image 2 (source" in caplog.text
        loader.close()


class TestThreadsEnd:
    def test_with_the_loader(self):
        loader = loader_of(SyntheticDataset(8))
        [loader[i] for i in range(4)]
        assert len(threads()) == 2
        gone = weakref.ref(loader)
        del loader
        deadline = time.monotonic() + 5
        while gone() is not None and time.monotonic() < deadline:
            gc.collect()  # a thread in the middle of a sample holds it for a moment
            time.sleep(0.01)
        assert gone() is None  # the fixture waits for the threads

    def test_on_close_and_it_starts_again(self):
        loader = loader_of(SyntheticDataset(8))
        first = loader[0][0]
        loader.close()
        assert not threads()
        assert same(loader[0][0], first)
        loader.close()

    def test_ctrl_c(self):
        main = threading.main_thread()

        def interrupt():
            if threading.current_thread() is not main:
                signal.raise_signal(signal.SIGINT)  # is delivered to the main thread
                time.sleep(0.2)

        dataset = Faulty(faults={6: interrupt})
        loader = loader_of(dataset)
        started = time.monotonic()
        # A process that was started in the background ignores it.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            with pytest.raises(KeyboardInterrupt), original_errors(loader):
                for i in range(1000):
                    loader[i]
        finally:
            signal.signal(signal.SIGINT, before)
        assert time.monotonic() - started < 10
        assert not threads()


def test_memory_is_bounded():
    """Few samples are under way, however slowly batches are taken."""
    dataset = Faulty(200)
    loader = loader_of(dataset, workers=4, batch_size=2)
    loader[0], loader[1]
    time.sleep(0.3)
    ahead = len(dataset.loads) - 1 - 4  # the first look, and the two batches taken
    loader[2]
    time.sleep(0.2)
    assert ahead <= 2 * 3 and len(dataset.loads) - 1 - 6 <= 2 * 4
    loader.close()


def test_nothing_is_loaded_ahead_of_a_single_batch():
    dataset = Faulty(20)
    loader = loader_of(dataset)
    loader[4]
    time.sleep(0.1)
    assert len(dataset.loads) == 3
    loader.close()


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_going_on_anywhere_gives_the_same_batches(workers):
    def loader(start):
        return TrainingLoader(
            SyntheticDataset(7),
            CONFIG,
            seed=2,
            workers=workers,
            start_batch=start,
            augmentation="default",
        )

    whole = loader(0)
    batches = [whole[i][0] for i in range(8)]
    whole.close()
    for start in (3, 7):
        later = loader(start)
        assert all(same(later[i][0], batches[start + i]) for i in range(8 - start))
        later.close()


def test_place_is_called_in_the_threads():
    where = []

    def place(batch):
        where.append(threading.current_thread().name)
        return batch

    loader = loader_of(SyntheticDataset(4), place=place)
    [loader[i] for i in range(3)]
    loader.close()
    assert set(where) == {"mrcnn-loader"}
