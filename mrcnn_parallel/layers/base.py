"""ConfiguredLayer: a float32 layer set up by a few fields of a Config."""

from types import SimpleNamespace

import keras
import numpy as np


class ConfiguredLayer(keras.layers.Layer):
    """Base of the layers without weights.

    They compute in float32 and leave their inputs' dtypes alone under any dtype policy: bfloat16
    would move a box by up to 4 pixels in 1024. They keep only the Config fields they name, as plain
    values, so that a model that holds them can be saved and loaded.

    Args:
        config: a Config, or a dict with (at least) the layer's FIELDS.
        **kwargs: Keras's `name` and so on.
    """

    FIELDS = ()  # names of the Config fields that the layer reads

    def __init__(self, config, **kwargs):
        kwargs.pop("dtype", None)
        kwargs.pop("autocast", None)
        super().__init__(dtype="float32", autocast=False, **kwargs)
        read = config.__getitem__ if isinstance(config, dict) else lambda k: getattr(config, k)
        self.settings = SimpleNamespace(**{field: _plain(read(field)) for field in self.FIELDS})

    def get_config(self):
        """Keras's serialisation: the layer's fields under "config"."""
        return {**super().get_config(), "config": dict(vars(self.settings))}


def _plain(value):
    """NumPy values as plain Python ones, tuples as lists: what JSON can hold."""
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    return list(value) if isinstance(value, tuple) else value
