"""Network: the functional model that `MaskRCNN.keras_model` is, with Matterport's files."""

import keras

from mrcnn_parallel import weights


@keras.saving.register_keras_serializable("mrcnn_parallel")
class Network(keras.Model):
    """A functional keras.Model whose own `save_weights` and `load_weights` take `.h5` files, too.

    Matterport's scripts call them: `model.keras_model.save_weights("mask_rcnn_shapes.h5")`. Keras 3
    refuses that name. Its own, `.weights.h5`, works as in every Keras model.
    """

    def save_weights(self, filepath, *args, **kwargs):
        """As keras.Model.save_weights; `.h5` gets Matterport's layout, see weights.save_weights."""
        if _is_matterports(filepath):
            weights.save_weights(self, filepath)
        else:
            super().save_weights(filepath, *args, **kwargs)

    def load_weights(self, filepath, *args, **kwargs):
        """As keras.Model.load_weights; of a `.h5`, see weights.load_weights, returns the report."""
        if _is_matterports(filepath):
            return weights.load_weights(self, filepath, *args, **kwargs)
        return super().load_weights(filepath, *args, **kwargs)


def _is_matterports(filepath):
    name = str(filepath)
    return name.endswith((".h5", ".hdf5")) and not name.endswith(".weights.h5")
