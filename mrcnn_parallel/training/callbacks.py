"""Callbacks that `MaskRCNN.train` adds: checks, checkpoints and TensorBoard curves."""

import logging

import keras

log = logging.getLogger(__name__)


class ReplicaCheck(keras.callbacks.Callback):
    """Stops training after an epoch in which a ParallelModel's replicas came apart.

    Args:
        network: the ParallelModel. Raises what its `check_replicas` does.
    """

    def __init__(self, network):
        super().__init__()
        self._network = network

    def on_epoch_end(self, epoch, logs=None):
        self._network.check_replicas()


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
