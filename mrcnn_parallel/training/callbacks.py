"""Callbacks that `MaskRCNN.train` adds: progress, checkpoints and TensorBoard curves."""

import collections
import logging
import time

import keras

from mrcnn_parallel import backend

log = logging.getLogger(__name__)


class ProgressBar(keras.callbacks.ProgbarLogger):
    """Keras's progress bar with losses and the time left, for which the devices never wait.

    Keras's own reads the losses after each step, so that the next one is queued only when this one
    has ended. This one reads them twice a second, those of steps that have ended already.
    """

    SECONDS = 0.5  # between two looks

    def __init__(self):
        super().__init__()
        self._recent = collections.deque(maxlen=backend.STEPS_QUEUED + 1)
        self._shown = 0.0

    def set_params(self, params):
        super().set_params({**params, "verbose": 1})  # `fit` has 0, so as not to add its own

    def on_epoch_begin(self, epoch, logs=None):
        self._recent.clear()
        super().on_epoch_begin(epoch, logs)

    def on_train_batch_end(self, batch, logs=None):
        self._recent.append((batch, logs))
        now = time.monotonic()
        if len(self._recent) > backend.STEPS_QUEUED and now - self._shown >= self.SECONDS:
            self._shown = now
            batch, logs = self._recent[0]
            logs = {name: float(value) for name, value in (logs or {}).items()}
            super().on_train_batch_end(batch, logs)


class CheckpointWriter(keras.callbacks.Callback):
    """Saves the weights after each epoch.

    Args:
        save: function of a path; writes the weights there.
        path_of_epoch: function of the number of finished epochs -> path.
    """

    def __init__(self, save, path_of_epoch):
        super().__init__()
        self._save = save
        self._path_of_epoch = path_of_epoch

    def on_epoch_end(self, epoch, logs=None):
        path = self._path_of_epoch(epoch + 1)
        self._save(path)
        log.info("Saved %s", path)


class TensorBoardScalars(keras.callbacks.Callback):
    """Writes the losses of each epoch for TensorBoard: `tensorboard --logdir {folder}`.

    Keras's own callback needs TensorFlow on every backend; this one needs only `tensorboard`.

    Args:
        folder: the run's folder; curves go to its `train` and `validation`.
    """

    def __init__(self, folder):
        super().__init__()
        self._folder = str(folder)

    def on_train_begin(self, logs=None):
        from tensorboard.summary import Writer

        self._writers = {part: Writer(f"{self._folder}/{part}") for part in ("train", "validation")}

    def on_epoch_end(self, epoch, logs=None):
        for name, value in (logs or {}).items():
            part = "validation" if name.startswith("val_") else "train"
            self._writers[part].add_scalar(f"epoch_{name.removeprefix('val_')}", value, epoch)
        for writer in self._writers.values():
            writer.flush()

    def on_train_end(self, logs=None):
        for writer in self._writers.values():
            writer.close()
