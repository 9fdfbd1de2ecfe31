"""SampleProcesses: processes that make samples, where threads would wait for Python's lock.

A part of each sample's making holds that lock, so that threads together make no more than some 285
images a second (docs/input_pipeline.md), and disturb the thread that trains. Each call of `make`
hands one sample to a process and sleeps until it is there. Images come through shared memory, which
is an anonymous file: /dev/shm is small in containers. Linux only.
"""

import ast
import contextlib
import logging
import mmap
import multiprocessing
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import weakref
from multiprocessing.reduction import send_handle

import numpy as np

from mrcnn_parallel.data.prefetch import (
    TRIES,
    describe_loss,
    loss_error,
    most_losses,
    warn_of_loss,
)

log = logging.getLogger(__name__)

FEW_WORKERS = 2  # up to so many, threads are as fast
START_SECONDS = 120.0  # for importing the user's main module and unpickling the dataset
_PROGRAM = "import sys; from mrcnn_parallel.data import sample_server as s; s.main(sys.argv[1])"


class ProcessesUnavailable(RuntimeError):
    """Samples can't be made in processes; the message says why."""


class TooManyLost(RuntimeError):
    """Processes hang or die again and again."""


class LoaderClosed(RuntimeError):
    """The processes were ended while they made a sample."""


class _Lost(Exception):
    """A worker is gone, and its sample; the argument is "hangs" or "died"."""


def sample_processes(maker, workers, wanted, timeout):
    """SampleProcesses, or None where threads are to make the samples.

    Args:
        maker: a SampleMaker. workers: how many. timeout: seconds for a sample.
        wanted: config.LOADER_PROCESSES: True, False, or "auto": where there are more than
            FEW_WORKERS and it is possible.

    Raises:
        ProcessesUnavailable: wanted is True, but it is not possible.
    """
    few = workers <= FEW_WORKERS or sys.platform != "linux"
    if not wanted or (wanted == "auto" and few):
        return None
    try:
        return SampleProcesses(maker, workers, timeout)
    except ProcessesUnavailable as error:
        if wanted != "auto":
            raise
        log.warning("Threads load the images, since processes can't: %s", error)
        return None


class SampleProcesses:
    """Makes samples in processes; safe to use from several threads.

    Args:
        maker: a SampleMaker, pickled once.
        count: number of processes.
        timeout: seconds for one sample, after which its process is ended and replaced.

    Raises:
        ProcessesUnavailable: not on Linux; or `maker` can't be pickled, or only together with a
            main module that is not safe to import.
    """

    def __init__(self, maker, count, timeout):
        if sys.platform != "linux":
            raise ProcessesUnavailable("that works on Linux only.")
        try:
            self._payload = pickle.dumps(maker)
        except Exception as error:  # whatever the dataset's classes do in there
            raise ProcessesUnavailable(
                f"the dataset, config or augmentation can't be pickled: {error}"
            ) from error
        names_main = b"__main__" in self._payload or b"__mp_main__" in self._payload
        self._main_module = _main_module() if names_main else None
        self._shape, self._dtype = maker.image_shape, maker.image_dtype
        self._count, self._timeout = count, timeout
        self._lock = threading.Lock()
        self._server = None
        self._replaced = 0
        try:
            self._launch()
        except OSError as error:  # no memory files, or no more processes allowed
            raise ProcessesUnavailable(f"the system refuses: {error}.") from error

    def make(self, position, image_id, attempt, out, name):
        """Like SampleMaker.make.

        Args:
            name: function that names the image in messages.

        Raises:
            TimeoutError: its process took too long, twice.
            RuntimeError: its process died, twice.
            ProcessesUnavailable: the processes don't start.
            TooManyLost: they hang or die again and again.
            LoaderClosed: `close` was called meanwhile.
            Exception: what making it raised.
        """
        with self._lock:
            if self._server is None:
                self._launch()
            server = self._server
        number = server.free.get()
        try:
            for tries in range(1, TRIES + 1):
                try:
                    result, error = server.ask(number, (position, image_id, attempt), self._timeout)
                except _Lost as lost:
                    self._note_lost(str(lost), name(), last=tries == TRIES)
                    continue
                self._replaced = 0
                if error is not None:
                    raise error
                out[...] = server.images[number]
                return result
        finally:
            server.free.put(number)

    def close(self):
        """Ends the processes; the next `make` starts new ones."""
        with self._lock:
            server, self._server = self._server, None
        if server is not None:
            server.end()

    def _launch(self):
        self._server = _Server(
            self._count, self._shape, self._dtype, (self._main_module, self._payload)
        )

    def _note_lost(self, what, name, last):
        message = describe_loss("process", what, self._timeout, name)
        with self._lock:
            self._replaced += 1
            too_many = self._replaced > most_losses(self._count)
        if too_many:
            raise TooManyLost(
                f"{self._replaced} loading processes in a row hung or died; the last: {message}."
            )
        if last:
            raise loss_error(what, message)
        warn_of_loss(message)


class _Server:
    """The running sample_server with its workers.

    Attributes:
        free: numbers of the workers that nobody uses.
        images: (count, H, W, C), the workers' slots.
    """

    def __init__(self, count, shape, dtype, startup):
        size = count * int(np.prod(shape)) * dtype.itemsize
        self._memory = _memory_file(size)
        self.images = np.ndarray((count, *shape), dtype, mmap.mmap(self._memory, size))
        self.free = queue.SimpleQueue()
        for number in range(count):
            self.free.put(number)
        self._workers = [None] * count  # (Connection, process number)
        self._lock = threading.Lock()
        self._startup, self._failure = startup, None

        self._control, theirs = multiprocessing.Pipe()
        folders = [path or os.getcwd() for path in sys.path if isinstance(path, str)]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(folders),
            "CUDA_VISIBLE_DEVICES": "-1",  # the main module may touch devices when imported
            "JAX_PLATFORMS": "cpu",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _PROGRAM, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=environment,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the program that trains
            )
        except OSError:
            os.close(self._memory)
            raise
        theirs.close()
        self._end = weakref.finalize(
            self, _end, os.getpid(), self._process, self._control, self._memory
        )

    def ask(self, number, arguments, timeout):
        """Has a worker make a sample.

        Returns:
            (result, error) as the worker sent it.

        Raises:
            _Lost: it hangs, or has died; it is ended.
            LoaderClosed: so is the server.
        """
        with self._lock:
            worker = self._workers[number] or self._start(number)
            self._workers[number] = worker
        connection, process = worker
        try:
            connection.send(arguments)
            if connection.poll(timeout):
                return connection.recv()
            what = "hangs"
        except (EOFError, OSError):
            what = "died"
        self._check_open()
        self._workers[number] = None
        connection.close()
        if what == "hangs":  # one that died may have given its number to another program
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        raise _Lost(what)

    def _check_open(self):
        if not self._end.alive:
            raise LoaderClosed("the loader was closed while it made a sample.")

    def end(self):
        self._end()

    def _start(self, number):
        """A new worker; the lock is held."""
        try:
            if self._startup is not None:
                self._control.send(self._startup)
                self._startup = None
                self._send_handle(self._memory)
                if not self._control.poll(START_SECONDS):
                    raise TimeoutError(f"it took more than {START_SECONDS:g} s")
                self._failure = self._control.recv()
            if self._failure is not None:
                raise ProcessesUnavailable(f"the loading processes don't start: {self._failure}.")
            ours, theirs = multiprocessing.Pipe()
            self._control.send(number)
            self._send_handle(theirs.fileno())
            theirs.close()
            return ours, self._control.recv()
        except (EOFError, OSError) as error:
            self._check_open()
            self._failure = f"{type(error).__name__}: {error}".rstrip(": .")
            raise ProcessesUnavailable(
                f"the loading processes don't start: {self._failure}."
            ) from error

    def _send_handle(self, descriptor):
        send_handle(self._control, descriptor, self._process.pid)
        os.set_blocking(self._control.fileno(), True)  # which socket.setdefaulttimeout changes


def _memory_file(size):
    """Descriptor of a file that has no name and, where the system has such, lies in memory."""
    if hasattr(os, "memfd_create"):  # not in every build of Python
        descriptor = os.memfd_create("mrcnn_samples")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor


def _end(owner, process, control, memory):
    """Ends a server and its workers, whatever they do; does nothing in a copy of its owner."""
    if os.getpid() != owner:
        return
    with contextlib.suppress(ProcessLookupError):  # where all have ended by themselves
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    control.close()
    os.close(memory)


def _main_module():
    """How multiprocessing.spawn.prepare finds the main module, whose classes a process needs.

    Raises:
        ProcessesUnavailable: there is none, or importing it would run the whole script again.
    """
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    file = getattr(main, "__file__", None) if spec is None else spec.origin
    if not file or not os.path.isfile(file):
        raise ProcessesUnavailable(
            "a class of the dataset, config or augmentation is defined interactively; put it into "
            "a file that you import."
        )
    if not _is_guarded(file):
        raise ProcessesUnavailable(
            f"{file} defines a class that they need and has no `if __name__ == '__main__':`, so "
            "that importing it would run it again; put what it does under that line."
        )
    found = {"init_main_from_path": file} if spec is None else {"init_main_from_name": spec.name}
    return {"sys_argv": sys.argv, **found}


def _is_guarded(file):
    """Whether a script has a top-level `if` that asks for `__name__`."""
    try:
        with open(file, "rb") as source:
            tree = ast.parse(source.read(), file)
    except (SyntaxError, ValueError, OSError):  # compiled, or not Python at all
        return False
    tests = [statement.test for statement in tree.body if isinstance(statement, ast.If)]
    return any(
        isinstance(node, ast.Name) and node.id == "__name__"
        for test in tests
        for node in ast.walk(test)
    )
