"""The child of SampleProcesses: holds the dataset once and forks the processes that load images.

It is a process of its own, started afresh, because a program in which JAX or TensorFlow runs can't
be forked safely; and it forks, because then the dataset is unpickled and kept in memory only once.

It gets, over a socket: (how to find the main module or None, pickled SampleMaker), and a descriptor
of a memory file with a slot for each worker's image. It answers None, or what went wrong in a line.
Then, for each worker, its slot's number and the descriptor of its own socket; the answer is its
process number. When the other side closes the socket, or ends, it ends with all its workers.
"""

import gc
import mmap
import multiprocessing.spawn
import os
import pickle
import random
import signal
import sys
import traceback
import warnings
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle

import numpy as np


def main(descriptor):
    """Serves until the socket of this descriptor is closed."""
    control = Connection(int(descriptor))
    try:
        main_module, payload = control.recv()
        memory = mmap.mmap(_receive(control), 0)
        if main_module is not None:
            multiprocessing.spawn.prepare(main_module)
        maker = pickle.loads(payload)
    except BaseException as error:
        control.send(f"{type(error).__name__}: {error}")
        sys.exit(1)
    control.send(None)
    gc.collect()
    gc.freeze()  # a collection in a worker would write to all objects, and so copy them
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # leaves no zombies
    # JAX warns of forks as soon as it is imported, here by the main module; no thread of it runs.
    warnings.filterwarnings("ignore", message=".*fork", category=RuntimeWarning)
    while True:
        try:
            number = control.recv()
        except (EOFError, OSError):
            os.killpg(0, signal.SIGKILL)
        worker = _receive(control)
        _flush()  # or each worker would print it, too
        process = os.fork()
        if process == 0:
            control.close()
            try:
                _serve(Connection(worker), maker, memory, number)
            finally:
                os._exit(0)
        os.close(worker)
        control.send(process)


def _receive(control):
    descriptor = recv_handle(control)
    os.set_blocking(control.fileno(), True)  # which socket.setdefaulttimeout changes
    return descriptor


def _flush():
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()


def _serve(connection, maker, memory, number):
    """A worker: answers (position, image_id, attempt) by (what SampleMaker.make returns, error)."""
    import cv2

    cv2.setNumThreads(0)  # the workers share the processors
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    size = int(np.prod(maker.image_shape)) * maker.image_dtype.itemsize
    out = np.ndarray(maker.image_shape, maker.image_dtype, memory, number * size)
    while True:
        try:
            arguments = connection.recv()
        except EOFError:
            return
        # All workers have one state of these, copied: a dataset that uses them would repeat itself.
        position, _, attempt = arguments
        np.random.seed([maker.seed, position, attempt])
        random.seed(f"{maker.seed} {position} {attempt}")
        try:
            answer = maker.make(*arguments, out), None
        except Exception as error:
            answer = None, _portable(error)
        _flush()
        connection.send(answer)


def _portable(error):
    """The error, or one that says the same where it can't be pickled, with its traceback's text."""
    error.add_note("In a loading process:\n" + "".join(traceback.format_tb(error.__traceback__)))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever its class does in there
        copy = RuntimeError(f"{type(error).__name__}: {error}")
        for note in error.__notes__:
            copy.add_note(note)
        return copy
    return error
