"""A loader of processes that share memory, to measure the threads of the package against."""

import multiprocessing
from multiprocessing import shared_memory

import numpy as np

from mrcnn_parallel.data.loader import TrainingLoader

_SLOTS = 4  # batches in the making or waiting


class ProcessLoader:
    """Gives TrainingLoader's batches in order, each made in a process and copied out of its slot.

    Args: those of TrainingLoader.
    """

    def __init__(self, dataset, config, workers, **options):
        (first,) = TrainingLoader(dataset, config, workers=0, **options)[0]
        self.forms = [(array.shape, array.dtype.str) for array in first]
        size = sum(array.nbytes for array in first)
        self.slots = [shared_memory.SharedMemory(create=True, size=size) for _ in range(_SLOTS)]
        context = multiprocessing.get_context("forkserver")
        names = [slot.name for slot in self.slots]
        self.pool = context.Pool(workers, _start, (names, dataset, config, options))
        self.waiting = {}

    def __getitem__(self, index):
        for number in range(index, index + _SLOTS):
            if number not in self.waiting:
                self.waiting[number] = self.pool.apply_async(_make, (number, number % _SLOTS))
        self.waiting.pop(index).get()
        buffer, batch, start = self.slots[index % _SLOTS].buf, [], 0
        for shape, dtype in self.forms:
            array = np.ndarray(shape, dtype, buffer, start)
            batch.append(array.copy())  # the slot is written to again
            start += array.nbytes
        return (tuple(batch),)

    def close(self):
        self.pool.terminate()
        self.pool.join()
        for slot in self.slots:
            slot.close()
            slot.unlink()


_state = {}


def _start(names, dataset, config, options):
    import cv2

    cv2.setNumThreads(1)
    _state["loader"] = TrainingLoader(dataset, config, workers=0, **options)
    _state["slots"] = [shared_memory.SharedMemory(name) for name in names]


def _make(index, slot):
    (batch,) = _state["loader"][index]
    buffer, start = _state["slots"][slot].buf, 0
    for array in batch:
        target = np.ndarray(array.shape, array.dtype, buffer, start)
        target[...] = array
        start += array.nbytes
