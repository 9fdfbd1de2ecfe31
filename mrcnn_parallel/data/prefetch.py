"""Prefetcher: makes batches ahead of their use in threads, in order, and watches the threads.

A batch is made of parts (samples), each by whichever thread is free; the thread that makes the last
part joins them, which includes sending the batch to the devices. Decoding, resizing and copying let
other threads run, which is enough for two of them; where there are more, each has a process make
its parts, see processes.py.

Python can't end a thread. One that takes longer than the timeout is left alone and its result will
be ignored; another takes its place. No more than `ahead` batches exist at a time.
"""

import collections
import logging
import threading
import time
import weakref

log = logging.getLogger(__name__)

TRIES = 2  # a part whose thread hangs or dies is tried once more, then given up
_JOIN_SECONDS = 2.0  # that `close` waits for threads in the middle of something
_WHOLE = -1  # instead of a part's number: joining the parts


def describe_loss(worker, what, timeout, name):
    """A sentence without its end: "a loading thread hangs after 3 s (...) while loading image 7".

    Args:
        worker: "thread" or "process". what: "hangs" or "died".
        timeout: seconds. name: of the image.
    """
    seconds = f" after {timeout:g} s (Config.LOADER_TIMEOUT)" if what == "hangs" else ""
    return f"a loading {worker} {what}{seconds} while loading {name}"


def warn_of_loss(message):
    """Logs what describe_loss returned, for a part that is made again."""
    log.warning("%s%s; another takes its place.", message[0].upper(), message[1:])


def loss_error(what, message):
    """The error for a part that was lost as often as it may be."""
    return (TimeoutError if what == "hangs" else RuntimeError)(f"{message}, twice.")


def most_losses(workers):
    """How many of so many workers may be replaced."""
    return 8 + 4 * workers


class _Batch:
    def __init__(self, index, parts):
        self.index = index
        self.tries = [0] * parts
        self.round = 0
        self.error = self.result = None
        self.done = False
        self.waiting = 0  # threads that have asked for it

    def begin(self, room):
        """Starts it, or starts it again; what is still made of an earlier round is ignored."""
        self.parts, self.left = [None] * len(self.tries), len(self.tries)
        self.room = room
        self.round += 1


class _Worker:
    def __init__(self):
        self.thread = self.task = None  # task: (_Batch, its round, part)
        self.started = 0.0
        self.stopped = False


class Prefetcher:
    """Gives batches by number; once two in a row have been asked for, it works ahead.

    Args:
        owner: object with the methods below; only weakly held, the threads end with it.
            new_batch(index): room for a batch that its parts may be written to, of any kind.
            make_part(index, part, room): makes one part of a batch; may raise.
            join_parts(parts, room): a batch of its parts.
            give_up(index, part, error): called when a part's thread hung or died twice; raises, or
                returns and lets make_part have another try.
            name_part(index, part): names it in messages.
        parts: of a batch.
        workers: number of threads, at least 1.
        ahead: batches in the making or waiting, at least 1.
        timeout: seconds for one part.
        count: number of batches, or None for no end.
    """

    def __init__(self, owner, parts, workers, ahead, timeout, count=None):
        self._owner = weakref.ref(owner)
        self._parts, self._wanted, self._ahead = parts, workers, ahead
        self.timeout, self._count = timeout, count
        self._condition = threading.Condition()
        self._batches, self._tasks = {}, collections.deque()
        self._workers, self._last, self._replaced = [], None, 0
        weakref.finalize(owner, self.close)

    def get(self, index):
        """Batch number `index`; raises what making it raised."""
        try:
            with self._condition:
                batch = self._request(index)
                batch.waiting += 1
                while not batch.done:
                    self._check_workers()
                    if not batch.done:
                        self._condition.wait(min(1.0, self.timeout / 4))
                if self._batches.get(index) is batch:
                    del self._batches[index]
        except BaseException:  # Ctrl-C, or a loader that is stuck for good
            self.close()
            raise
        if batch.error is not None:
            raise batch.error
        return batch.result

    def close(self):
        """Ends the threads; the next `get` starts new ones."""
        with self._condition:
            workers, self._workers = self._workers, []
            for worker in workers:
                worker.stopped = True
            for batch in self._batches.values():
                if batch.waiting and not batch.done:
                    batch.error, batch.done = RuntimeError("the loader was closed."), True
            self._forget()
            self._condition.notify_all()
        deadline = time.monotonic() + _JOIN_SECONDS
        for worker in workers:
            if worker.thread is not threading.current_thread():
                worker.thread.join(max(0.0, deadline - time.monotonic()))

    # === With the lock held ===

    def _request(self, index):
        follows = self._last is not None and index == self._last + 1
        if index not in self._batches:
            self._forget()
        self._last = index
        end = index + self._ahead if follows else index + 1
        if self._count is not None:
            end = max(index + 1, min(end, self._count))
        for number in range(index, end):
            if number not in self._batches:
                self._add(number)
        while len(self._workers) < self._wanted:
            self._start()
        self._condition.notify_all()
        return self._batches[index]

    def _add(self, index):
        self._begin(_Batch(index, self._parts))

    def _begin(self, batch):
        self._batches[batch.index] = batch
        batch.begin(self._owner().new_batch(batch.index))
        self._tasks.extend((batch, batch.round, part) for part in range(self._parts))

    def _forget(self):
        """Drops what nobody waits for."""
        self._batches = {i: b for i, b in self._batches.items() if b.waiting and not b.done}
        self._tasks = collections.deque(t for t in self._tasks if t[0].index in self._batches)
        self._last = None

    def _start(self):
        worker = _Worker()
        worker.thread = threading.Thread(
            target=self._work, args=(worker,), name="mrcnn-loader", daemon=True
        )
        self._workers.append(worker)
        worker.thread.start()

    def _check_workers(self):
        """Replaces threads that are dead or late, and has their parts made again."""
        now = time.monotonic()
        for worker in list(self._workers):
            alive = worker.thread.is_alive()
            late = worker.task is not None and now - worker.started > self.timeout
            if alive and not late:
                continue
            self._workers.remove(worker)
            worker.stopped = True
            self._start()
            if worker.task is not None:
                self._lost(*worker.task, "hangs" if alive else "died")

    def _lost(self, batch, number, part, what):
        owner = self._owner()
        self._replaced += 1
        if batch.done or batch.round != number:
            return
        if part == _WHOLE:
            batch.error = RuntimeError(
                f"the loading thread that sends batch {batch.index} to the devices {what}."
            )
            batch.done = True
            return
        name = owner.name_part(batch.index, part)
        message = describe_loss("thread", what, self.timeout, name)
        if self._replaced > most_losses(self._wanted):
            raise RuntimeError(
                f"{self._replaced} loading threads hung or died; the last: {message}."
            )
        warn_of_loss(message)
        batch.tries[part] += 1
        if batch.tries[part] >= TRIES:
            batch.tries[part] = 0
            try:
                owner.give_up(batch.index, part, loss_error(what, message))
            except Exception as error:
                batch.error, batch.done = error, True
                return
        # All of the batch, in new room: the late thread may write to the old one at any time.
        self._tasks = collections.deque(t for t in self._tasks if t[0] is not batch)
        waiting, self._tasks = self._tasks, collections.deque()
        self._begin(batch)
        self._tasks.extend(waiting)
        self._condition.notify_all()

    # === In the threads ===

    def _work(self, worker):
        while True:
            with self._condition:
                while not (self._tasks or worker.stopped):
                    self._condition.wait()
                if worker.stopped:
                    return
                task = worker.task = self._tasks.popleft()
                worker.started = time.monotonic()
                parts, room = task[0].parts, task[0].room
            if self._finish(worker, task, self._try(task, parts, room)):
                task = (*task[:2], _WHOLE)
                self._finish(worker, task, self._try(task, parts, room))
            task = parts = room = None  # a waiting thread must keep nothing alive

    def _try(self, task, parts, room):
        """(result, error); an exit or interrupt ends the thread and is seen by its absence."""
        owner, (batch, _, part) = self._owner(), task
        if owner is None:
            return None, None
        try:
            if part == _WHOLE:
                return owner.join_parts(parts, room), None
            return owner.make_part(batch.index, part, room), None
        except Exception as error:  # raised again by `get`
            return None, error

    def _finish(self, worker, task, outcome):
        """Stores an outcome; True where this thread is to join the batch's parts now."""
        (batch, number, part), (result, error) = task, outcome
        with self._condition:
            worker.task = None
            if worker.stopped or batch.done or batch.round != number:
                return False  # it was late: another thread does this, or has done it
            if error is not None:
                batch.error, batch.done = error, True
            elif part == _WHOLE:
                batch.result, batch.done, batch.parts, batch.room = result, True, None, None
            else:
                batch.parts[part] = result
                batch.left -= 1
                if batch.left == 0:
                    worker.task = (batch, number, _WHOLE)
                    worker.started = time.monotonic()
                    return True
            if batch.done:
                self._tasks = collections.deque(t for t in self._tasks if t[0] is not batch)
                self._condition.notify_all()
        return False
