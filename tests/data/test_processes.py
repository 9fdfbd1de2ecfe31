"""The loader's processes: the same samples as threads make, and what becomes of those that fail."""

import contextlib
import gc
import logging
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid

import numpy as np
import pytest

from mrcnn_parallel.config import Config
from mrcnn_parallel.data import processes
from mrcnn_parallel.data.loader import TrainingLoader, loader_workers, original_errors
from mrcnn_parallel.data.processes import ProcessesUnavailable, TooManyLost
from tests.data.synthetic import SyntheticConfig, SyntheticDataset
from tests.helpers import once

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="Linux only"),
    pytest.mark.timeout(120),
]


def same(first, second):
    return all(
        a.dtype == b.dtype and np.array_equal(a, b) for a, b in zip(first, second, strict=True)
    )


def ids(batch):
    return batch[1][:, 0].astype(int).tolist()


class Faulty(SyntheticDataset):
    """Does `what` before image `at` is loaded; once, if `folder` is given for a note of it."""

    def __init__(self, what, at, folder=None, count=8):
        super().__init__(count)
        self.at = [at] if isinstance(at, int) else at
        self.what, self.note = what, folder and folder / "note"

    def load_image(self, image_id):
        if image_id in self.at and self._is_due():
            self.what()
        return super().load_image(image_id)

    def _is_due(self):
        if self.note is None:
            return True
        with contextlib.suppress(FileExistsError):
            self.note.touch(exist_ok=False)
            return True
        return False


def hang():
    time.sleep(60)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def leave():
    raise SystemExit(3)


def fail():
    raise OSError("cannot read sector 5")


class Odd(Exception):
    """Can't be unpickled."""

    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


def fail_oddly():
    raise Odd("this", "that")


@contextlib.contextmanager
def loader_of(dataset, workers=2, **options):
    fields = {name: options.pop(name) for name in list(options) if name.isupper()}
    config = SyntheticConfig(**{"LOADER_PROCESSES": True, **fields})
    loader = TrainingLoader(dataset, config, seed=5, workers=workers, shuffle=False, **options)
    try:
        yield loader
    finally:
        loader.close()


MARK = "MRCNN_PARALLEL_TEST"  # environment variable by which a test's processes are known


def children():
    """Numbers of the running processes that serve samples to this test."""
    mark, found = f"{MARK}={os.environ[MARK]}".encode(), []
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            serves = b"sample_server" in (folder / "cmdline").read_bytes()
            if serves and mark in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


def wait_until_gone():
    """Fails unless soon none is left."""
    deadline = time.monotonic() + 5
    while children() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not children()


@pytest.fixture(autouse=True)
def _no_process_is_left(monkeypatch):
    monkeypatch.setenv(MARK, uuid.uuid4().hex)
    yield
    wait_until_gone()


class TestSamples:
    @pytest.mark.parametrize(
        "fields",
        [
            {},
            {"RPN_TARGETS": "input", "USE_RPN_ROIS": False},
            {"USE_MINI_MASK": False, "MAX_GT_INSTANCES": 2},
        ],
        ids=["default", "all inputs", "few instances"],
    )
    def test_they_are_the_same_as_here(self, fields):
        options = {"augmentation": "default", **fields}
        with loader_of(SyntheticDataset(7), 3, **options) as loader:
            assert loader.uses_processes
            batches = [loader[i][0] for i in range(6)]
        with loader_of(SyntheticDataset(7), 0, **options) as loader:
            assert not loader.uses_processes
            assert all(same(batch, loader[i][0]) for i, batch in enumerate(batches))

    def test_images_of_floats(self):
        dataset = SyntheticDataset(4, dtype="float32")
        with loader_of(dataset) as loader, loader_of(dataset, 0) as other:
            assert same(loader[0][0], other[0][0]) and loader[1][0][0].dtype == np.float32

    def test_it_starts_again_after_close(self):
        with loader_of(SyntheticDataset(4)) as loader:
            first = loader[0][0]
            loader.close()
            wait_until_gone()
            assert same(loader[0][0], first)

    def test_other_processes_than_this_made_them(self, tmp_path):
        with loader_of(Recording(tmp_path), 2) as loader:
            [loader[i] for i in range(4)]
        makers = {int(path.name) for path in tmp_path.iterdir()}
        assert len(makers - {os.getpid()}) == 2  # this one made the first look

    def test_numpys_global_generator_differs_from_sample_to_sample(self):
        runs = []
        for workers in (2, 3):
            with loader_of(RandomImages(8), workers) as loader:
                runs.append([int(image[0, 0, 0]) for i in range(4) for image in loader[i][0][0]])
        assert len(set(runs[0])) > 4
        assert runs[0] == runs[1]


class RandomImages(SyntheticDataset):
    """Draws from the state that all processes inherit, as Matterport's users do."""

    def load_image(self, image_id):
        return np.full((64, 64, 3), np.random.randint(1, 255), np.uint8)


class Recording(SyntheticDataset):
    """Notes the number of each process that loads an image."""

    def __init__(self, folder):
        super().__init__(8)
        self.folder = folder

    def load_image(self, image_id):
        (self.folder / str(os.getpid())).touch()
        time.sleep(0.05)  # so that one process can't do it all
        return super().load_image(image_id)


@once
class TestFaults:
    @pytest.mark.parametrize(
        "what, error",
        [(fail, "OSError: cannot read sector 5"), (fail_oddly, "RuntimeError: Odd: this and that")],
    )
    def test_a_bad_image_is_skipped_as_in_threads(self, what, error, caplog):
        with caplog.at_level(logging.WARNING):
            with loader_of(Faulty(what, 3)) as loader:
                batches = [loader[i][0] for i in range(4)]
            assert error in loader.bad_samples.summary()
        assert "Bad sample skipped: image 3 (source 'synthetic', id 'picture-3'" in caplog.text
        with loader_of(Faulty(what, 3), 0) as loader:
            assert all(same(batch, loader[i][0]) for i, batch in enumerate(batches))

    def test_raise(self):
        with (
            loader_of(Faulty(fail, 3), ON_BAD_SAMPLE="raise") as loader,
            pytest.raises(OSError, match="cannot read sector 5") as caught,
        ):
            [loader[i] for i in range(2)]
        notes = "\n".join(caught.value.__notes__)
        assert "while loading image 3 (source" in notes
        assert "In a loading process:" in notes and "in load_image" in notes

    @pytest.mark.parametrize(
        "what, says", [(hang, "hangs after 1.5 s (Config.LOADER_TIMEOUT)"), (die, "died")]
    )
    def test_a_process_that_fails_once_is_replaced(self, what, says, tmp_path, caplog):
        dataset = Faulty(what, 5, tmp_path)
        with loader_of(dataset, LOADER_TIMEOUT=1.5) as loader:
            batches = [loader[i][0] for i in range(4)]
            assert loader.bad_samples.count == 0
        with loader_of(SyntheticDataset(8), 0) as loader:
            assert all(same(batch, loader[i][0]) for i, batch in enumerate(batches))
        assert f"A loading process {says} while loading image 5 (source" in caplog.text

    @pytest.mark.parametrize(
        "what, error",
        [
            (hang, "TimeoutError: a loading process hangs"),
            (die, "RuntimeError: a loading process died"),
            (leave, "RuntimeError: a loading process died"),
        ],
    )
    def test_an_image_that_always_fails_so_is_a_bad_sample(self, what, error):
        with loader_of(Faulty(what, 5), LOADER_TIMEOUT=1.5) as loader:
            seen = [image_id for i in range(4) for image_id in ids(loader[i][0])]
            assert error in loader.bad_samples.summary()
        assert seen[:5] == [0, 1, 2, 3, 4] and seen[5] != 5 and seen[6:] == [6, 7]

    def test_when_they_die_again_and_again_it_ends_with_an_error(self):
        with (
            loader_of(Faulty(die, range(1, 8)), 1, BAD_SAMPLE_LIMIT=1) as loader,
            pytest.raises(TooManyLost, match="13 loading processes in a row hung or died; the"),
        ):
            [loader[i] for i in range(1, 3)]

    def test_one_image_does_not_end_it_however_often_it_comes(self):
        with loader_of(Faulty(die, 2), 1, BAD_SAMPLE_LIMIT=1) as loader:
            for i in range(1, 40, 4):  # image 2, which every pass of 8 has once
                loader[i]
            assert loader.bad_samples.count >= 10  # and what replaces it may be itself

    def test_the_server_dies(self, caplog):
        """Then nothing can be loaded in processes any more."""
        with loader_of(SyntheticDataset(8), LOADER_PROCESSES="auto", workers=3) as loader:
            first = loader[0][0]
            os.killpg(loader._processes._server._process.pid, signal.SIGKILL)
            batches = [loader[i][0] for i in range(1, 4)]
        with loader_of(SyntheticDataset(8), 0) as loader:
            assert same(first, loader[0][0])
            assert all(same(batch, loader[1 + i][0]) for i, batch in enumerate(batches))
        assert "Threads load the images: the loading processes don't start" in caplog.text


class TestChoice:
    def test_automatic(self):
        for workers, expected in ((0, False), (2, False), (3, True)):
            with loader_of(SyntheticDataset(2), workers, LOADER_PROCESSES="auto") as loader:
                assert loader.uses_processes == expected

    def test_workers(self, monkeypatch):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)))
        assert loader_workers(Config(GPU_COUNT=1)) == 4
        assert loader_workers(Config(GPU_COUNT=8)) == 16
        assert loader_workers(Config(LOADER_WORKERS=7)) == 7

    @pytest.mark.parametrize("fields", [{"LOADER_WORKERS": -1}, {"LOADER_PROCESSES": "yes"}])
    def test_bad_values(self, fields):
        with pytest.raises(ValueError, match=f"Config.{next(iter(fields))} is"):
            SyntheticConfig(**fields).validate()

    def test_what_cannot_be_pickled(self, caplog):
        dataset = SyntheticDataset(4)
        dataset.lock = threading.Lock()
        with pytest.raises(ProcessesUnavailable, match="can't be pickled: cannot pickle"):
            loader_of(dataset).__enter__()
        with loader_of(dataset, 3, LOADER_PROCESSES="auto") as loader:
            assert not loader.uses_processes and ids(loader[0][0]) == [0, 1]
        assert "Threads load the images, since processes can't: the dataset, config" in caplog.text

    def test_elsewhere_than_on_linux(self, monkeypatch, caplog):
        monkeypatch.setattr(sys, "platform", "darwin")
        with pytest.raises(ProcessesUnavailable, match="Linux only"):
            loader_of(SyntheticDataset(4)).__enter__()
        with loader_of(SyntheticDataset(4), 3, LOADER_PROCESSES="auto") as loader:
            assert not loader.uses_processes
        assert not caplog.text


class TestSurroundings:
    """What other code of a program may have changed."""

    def check(self):
        with loader_of(SyntheticDataset(4)) as loader, loader_of(SyntheticDataset(4), 0) as other:
            assert same(loader[0][0], other[0][0]) and same(loader[1][0], other[1][0])

    def test_without_memory_files(self, monkeypatch):
        monkeypatch.delattr(os, "memfd_create")
        self.check()

    def test_paths_that_are_no_strings(self, monkeypatch):
        monkeypatch.setattr(sys, "path", [*sys.path, pathlib.Path("elsewhere")])
        self.check()

    def test_files_named_like_modules(self, tmp_path, monkeypatch):
        (tmp_path / "random.py").write_text("raise ImportError('the wrong one')")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
        self.check()

    def test_sockets_with_a_timeout(self):
        before = socket.getdefaulttimeout()
        socket.setdefaulttimeout(20)
        try:
            self.check()
        finally:
            socket.setdefaulttimeout(before)

    @pytest.mark.filterwarnings("ignore:.*fork:RuntimeWarning")  # JAX's; the child ends at once
    def test_a_fork_of_the_program_ends_nothing(self):
        with loader_of(SyntheticDataset(8)) as loader:
            first = loader[0][0]
            child = os.fork()
            if child == 0:
                loader._processes._server.end()  # as its exit would
                os._exit(0)
            os.waitpid(child, 0)
            assert same(loader[0][0], first)


class Slow(SyntheticDataset):
    """Takes four seconds, in processes."""

    def __init__(self):
        super().__init__(8)
        self.program = os.getpid()

    def load_image(self, image_id):
        if os.getpid() != self.program:
            time.sleep(4)
        return super().load_image(image_id)


def test_closing_in_the_middle_of_samples(caplog):
    with loader_of(Slow()) as loader:
        errors = []

        def ask():
            try:
                loader[0]
            except RuntimeError as error:
                errors.append(str(error))

        asking = threading.Thread(target=ask)
        asking.start()
        time.sleep(1)
        loader.close()
        asking.join(20)
        assert errors == ["the loader was closed."]
        wait_until_gone()
        time.sleep(0.5)
        assert not children()
        assert loader.bad_samples.count == 0 and loader.uses_processes
    assert not caplog.text


def test_it_ends_with_the_loader():
    config = SyntheticConfig(LOADER_PROCESSES=True)
    loader = TrainingLoader(SyntheticDataset(4), config, seed=5, workers=2)
    loader[0]
    gc.disable()  # no cycle holds it
    try:
        del loader
        wait_until_gone()
    finally:
        gc.enable()


SCRIPT = """
import os
import sys

os.environ["KERAS_BACKEND"] = "jax"
from mrcnn_parallel.data.loader import TrainingLoader
from tests.data.synthetic import SyntheticConfig, SyntheticDataset

class Own(SyntheticDataset):
    def load_image(self, image_id):
        assert os.getpid() == PARENT or os.environ["CUDA_VISIBLE_DEVICES"] == "-1"
        return super().load_image(image_id)

PARENT = os.getpid()
GUARD
    loader = TrainingLoader(Own(4), SyntheticConfig(LOADER_PROCESSES="auto"), seed=1, workers=3)
    print(loader.uses_processes, loader[0][0][0].shape, loader[1][0][0].shape)
    if "kill" in sys.argv:
        os.kill(os.getpid(), 9)
    loader.close()
"""


def script(guard):
    return SCRIPT.replace("GUARD", guard)


GUARD = 'if __name__ == "__main__":'


@once
class TestScripts:
    def run(self, tmp_path, guard, *arguments, start=("script.py",)):
        (tmp_path / "script.py").write_text(script(guard))
        root = pathlib.Path(processes.__file__).parents[2]
        environment = {**os.environ, "PYTHONPATH": str(root)}
        return subprocess.run(
            [sys.executable, *start, *arguments],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    def test_a_class_of_the_script(self, tmp_path):
        done = self.run(tmp_path, GUARD)
        assert done.stdout == "True (2, 64, 64, 3) (2, 64, 64, 3)\n", done.stderr

    def test_a_module_of_a_package(self, tmp_path):
        package = tmp_path / "package"
        package.mkdir()
        (package / "__init__.py").touch()
        (package / "other.py").write_text("import sys\n\nint(sys.argv[1])")
        text = "from . import other\n" + script(GUARD)
        (package / "script.py").write_text(text)
        done = self.run(tmp_path, GUARD, "7", start=("-m", "package.script"))
        assert done.stdout == "True (2, 64, 64, 3) (2, 64, 64, 3)\n", done.stderr

    def test_a_script_that_can_not_be_imported(self, tmp_path):
        done = self.run(tmp_path, "if True:")
        assert done.stdout == "False (2, 64, 64, 3) (2, 64, 64, 3)\n", done.stderr
        assert "has no `if __name__ == '__main__':`" in done.stderr

    def test_no_process_outlives_it(self, tmp_path):
        done = self.run(tmp_path, GUARD, "kill")
        assert done.returncode == -signal.SIGKILL  # the fixture looks for what is left


def test_ctrl_c_ends_them():
    with loader_of(SyntheticDataset(8)) as loader:
        with pytest.raises(KeyboardInterrupt), original_errors(loader):
            for i in range(100):
                loader[i]
                if i == 5:
                    raise KeyboardInterrupt
        wait_until_gone()
