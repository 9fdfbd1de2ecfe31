"""TrainingModel: what `fit` runs. Images in, one loss out; Keras does the rest.

uint8 images -> minus the mean pixel -> network (or ParallelModel) -> five scalar losses
loss = sum of LOSS_WEIGHTS[name] * loss + L2 of the weights
"""

import keras
from keras import ops

from mrcnn_parallel import backend
from mrcnn_parallel.config import LOSS_NAMES
from mrcnn_parallel.nets.mask_rcnn import mold


class TrainingModel(keras.Model):
    """Wraps a training network so that `fit` minimises its losses and reports each by name.

    Args:
        network: functional model whose last five outputs are the losses, in LOSS_NAMES's order, and
            whose first input is the image; or a ParallelModel of one.
        config: a Config (LOSS_WEIGHTS, WEIGHT_DECAY, MEAN_PIXEL).

    Call argument: the network's inputs, in order. Images that are not float are molded here.

    Returns:
        A dict of the five losses.
    """

    def __init__(self, network, config, **kwargs):
        super().__init__(name="training", **kwargs)
        self.network = network
        self.mean_pixel = [float(value) for value in config.MEAN_PIXEL]
        self.loss_weights = {name: float(config.LOSS_WEIGHTS.get(name, 1.0)) for name in LOSS_NAMES}
        self.weight_decay = float(config.WEIGHT_DECAY)
        self.loss_means = {name: keras.metrics.Mean(name=name) for name in (*LOSS_NAMES, "l2_loss")}
        self.built = True  # the network is

    def call(self, inputs, training=None):
        image, *rest = inputs
        outputs = self.network([mold(image, self.mean_pixel), *rest], training=training)
        return dict(zip(LOSS_NAMES, outputs[-len(LOSS_NAMES) :], strict=True))

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Total loss, shape (); also updates the mean of each part."""
        parts = dict(y_pred)
        total = sum(self.loss_weights[name] * loss for name, loss in parts.items())
        parts["l2_loss"] = l2_loss(self.network.trainable_variables, self.weight_decay)
        for name, loss in parts.items():
            self.loss_means[name].update_state(loss)
        return total + parts["l2_loss"]

    def make_train_function(self, force=False):
        if self.train_function is None or force:
            super().make_train_function(force)
            self.train_function = backend.train_function(self, self.network)

    def make_test_function(self, force=False):
        if self.test_function is None or force:
            super().make_test_function(force)
            self.test_function = backend.step_function(self.test_function, self.network)

    # The network's files are what people keep; this wrapper has nothing of its own to save.
    def save(self, *args, **kwargs):
        return self.network.save(*args, **kwargs)

    def save_weights(self, *args, **kwargs):
        return self.network.save_weights(*args, **kwargs)

    def load_weights(self, *args, **kwargs):
        return self.network.load_weights(*args, **kwargs)


def l2_loss(variables, weight_decay):
    """Matterport's L2: the mean, not the sum, of each weight's squares; none for batch norms.

    Args:
        variables: trainable keras.Variables.
        weight_decay: factor.

    Returns:
        A float32 scalar.
    """
    terms = [
        ops.mean(ops.square(ops.cast(variable, "float32")))
        for variable in variables
        if variable.name not in ("gamma", "beta")
    ]
    return weight_decay * sum(terms, start=ops.zeros((), dtype="float32"))
