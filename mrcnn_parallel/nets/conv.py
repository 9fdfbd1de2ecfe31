"""Convolutions that leave their work to the layer after them, which can then do more at once.

A network spends more time moving its features than multiplying them. A batch norm with fixed
statistics is a factor and a shift for each channel: both go into the convolution before it, and
the features need not be read and written once more (`BatchNorm`). Convolutions of the same input
are computed as one (`JoinedConv2D`). The layers, their names and weights stay what they were.
"""

import keras
from keras import layers as KL
from keras import ops

from mrcnn_parallel import backend
from mrcnn_parallel.ops import pooling


@keras.saving.register_keras_serializable("mrcnn_parallel")
class Conv2D(KL.Conv2D):
    """Keras's Conv2D which, with `deferred`, hands its input and weights on instead of convolving.

    Args:
        deferred: whether to return [inputs, kernel, bias], the weights in float32, for a BatchNorm
            or JoinedConv2D to convolve with.
        *args, **kwargs: Keras's, without groups and dilation.
    """

    def __init__(self, *args, deferred=False, **kwargs):
        if deferred:
            kwargs["autocast"] = False
        super().__init__(*args, **kwargs)
        self.deferred = deferred

    def add_weight(self, *args, **kwargs):
        if self.deferred:  # cast after the batch norm has scaled them
            kwargs["autocast"] = False
        return super().add_weight(*args, **kwargs)

    def call(self, inputs):
        bias = self.bias if self.use_bias else ops.zeros((self.filters,), self.variable_dtype)
        if self.deferred:
            inputs = ops.cast(inputs, self.compute_dtype)
            return [inputs, ops.convert_to_tensor(self.kernel), ops.convert_to_tensor(bias)]
        return self.activation(convolve(inputs, self.kernel, bias, self.strides, self.padding))

    def compute_output_spec(self, inputs):
        if not self.deferred:
            return super().compute_output_spec(inputs)
        specs = [(inputs.shape, self.compute_dtype), (self.kernel.shape, self.variable_dtype)]
        specs.append(((self.filters,), self.variable_dtype))
        return [keras.KerasTensor(shape, dtype) for shape, dtype in specs]

    def get_config(self):
        return {**super().get_config(), "deferred": self.deferred}


@keras.saving.register_keras_serializable("mrcnn_parallel")
class BatchNorm(KL.BatchNormalization):
    """Batch normalisation whose mode is fixed where the graph is built.

    First called with `training=False`, it uses its moving statistics ever after, also while the
    model trains, since batches are often too small for good ones; with `True` it uses the batch's;
    with `None` it follows the model. (Keras 3 lets `model(x, training=True)` overrule the
    `training=False` that a layer was given in the graph, so the layer keeps it itself.)

    Args:
        fixed_training: None, False or True, as above; the first call sets it.
        strides, padding: of a deferred convolution before it.
        **kwargs: Keras's.

    Call argument: (..., C) features; or, where the mode is fixed to False, what a deferred Conv2D
    returns. Then its output is that convolution, normalised.
    """

    def __init__(self, fixed_training=None, strides=(1, 1), padding="valid", **kwargs):
        kwargs["autocast"] = False
        super().__init__(**kwargs)
        self.fixed_training = fixed_training
        self.strides = tuple(strides)
        self.padding = padding

    def __call__(self, inputs, training=None, **kwargs):
        if not self.built and training is not None:
            self.fixed_training = bool(training)
        return super().__call__(inputs, training=training, **kwargs)

    def build(self, input_shape):
        if not isinstance(input_shape[0], (tuple, list)):
            return super().build(input_shape)
        super().build((None, input_shape[2][0]))  # the convolution's filters
        self.input_spec = None  # there are three inputs

    def call(self, inputs, training=None, **kwargs):
        if self.fixed_training is not None:
            training = self.fixed_training
        if not isinstance(inputs, (list, tuple)):
            return super().call(inputs, training=training, **kwargs)
        inputs, kernel, bias = inputs
        factor = self.gamma * ops.rsqrt(self.moving_variance + self.epsilon)
        shift = self.beta + (bias - self.moving_mean) * factor
        return convolve(inputs, kernel * factor, shift, self.strides, self.padding)

    def compute_output_spec(self, inputs, **kwargs):
        if not isinstance(inputs, (list, tuple)):
            return super().compute_output_spec(inputs, **kwargs)
        return _convolution_spec(*inputs[:2], self.strides, self.padding)

    def get_config(self):
        config = {"fixed_training": self.fixed_training, "padding": self.padding}
        return {**super().get_config(), **config, "strides": list(self.strides)}


@keras.saving.register_keras_serializable("mrcnn_parallel")
class JoinedConv2D(KL.Layer):
    """Deferred convolutions of the same input, kernel size, strides and padding, as one.

    Args:
        strides, padding: of the convolutions.
        **kwargs: Keras's.

    Call argument, one list: what each deferred Conv2D returns, one after the other.

    Returns:
        list of (..., H', W', filters), one a convolution.
    """

    def __init__(self, strides=(1, 1), padding="valid", **kwargs):
        kwargs["autocast"] = False
        super().__init__(**kwargs)
        self.strides = tuple(strides)
        self.padding = padding

    def call(self, inputs):
        kernels, biases = inputs[1::3], inputs[2::3]
        kernel, bias = ops.concatenate(kernels, axis=-1), ops.concatenate(biases, axis=0)
        outputs = convolve(inputs[0], kernel, bias, self.strides, self.padding)
        ends = [sum(x.shape[0] for x in biases[: i + 1]) for i in range(len(biases) - 1)]
        return ops.split(outputs, ends, axis=-1) if ends else [outputs]

    def compute_output_spec(self, inputs):
        return [
            _convolution_spec(inputs[0], kernel, self.strides, self.padding)
            for kernel in inputs[1::3]
        ]

    def get_config(self):
        return {**super().get_config(), "strides": list(self.strides), "padding": self.padding}


def convolve(inputs, kernel, bias, strides, padding):
    """Convolution in the inputs' dtype.

    Args:
        inputs: (..., H, W, C).
        kernel: (h, w, C, filters), of any float dtype.
        bias: (filters,).
        strides, padding: as in Keras.

    Returns:
        (..., H', W', filters).
    """
    lead = inputs.shape[:-3]
    kernel, bias = ops.cast(kernel, inputs.dtype), ops.cast(bias, inputs.dtype)
    if len(lead) > 1:
        inputs = ops.reshape(inputs, (-1, *inputs.shape[-3:]))
    height, width, channels, filters = kernel.shape
    if height == width == 1:  # accelerators run a matrix product faster
        inputs = inputs[:, :: strides[0], :: strides[1]]
        shape = ops.shape(inputs)
        outputs = ops.matmul(ops.reshape(inputs, (-1, channels)), kernel[0, 0])
        outputs = ops.reshape(outputs, (*shape[:-1], filters))
    else:
        static = None not in inputs.shape[1:3]
        if channels < 8 and strides == (2, 2) and padding == "valid" and static:
            inputs, kernel = _space_to_depth(inputs, kernel)
            strides = (1, 1)
        outputs = ops.conv(inputs, kernel, strides=strides, padding=padding)
    outputs = outputs + bias
    if len(lead) > 1:
        outputs = ops.reshape(outputs, (-1, *lead[1:], *outputs.shape[-3:]))
    return outputs


def _space_to_depth(inputs, kernel):
    """A convolution of stride 2 over few channels as one of stride 1 over four times as many.

    Three channels leave most of a tensor core idle. Each 2 x 2 pixels become one of 4 C channels;
    the kernel, padded to even sides, is folded alike.

    Args:
        inputs: (B, H, W, C). kernel: (h, w, C, filters).

    Returns:
        (B, H', W', D) and (h', w', D, filters), whose result is the same at strides 1. D is 4 C, or
        the next multiple of 8 in 16-bit dtypes.
    """
    channels, filters = kernel.shape[2:]
    sides = [side + side % 2 for side in kernel.shape[:2]]
    # What the last window covers, with the padded kernel
    covered = [
        (size - side) // 2 * 2 + even
        for size, side, even in zip(inputs.shape[1:3], kernel.shape[:2], sides, strict=True)
    ]
    height, width = covered
    inputs = inputs[:, :height, :width]
    missing = [end - size for end, size in zip(covered, inputs.shape[1:3], strict=True)]
    if any(missing):
        inputs = ops.pad(inputs, ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0)))
    inputs = ops.reshape(inputs, (-1, height // 2, 2, width // 2, 2, channels))
    inputs = ops.transpose(inputs, (0, 1, 3, 2, 4, 5))
    inputs = ops.reshape(inputs, (-1, height // 2, width // 2, 4 * channels))
    padding = [(0, even - side) for even, side in zip(sides, kernel.shape[:2], strict=True)]
    kernel = ops.pad(kernel, (*padding, (0, 0), (0, 0)))
    kernel = ops.reshape(kernel, (sides[0] // 2, 2, sides[1] // 2, 2, channels, filters))
    kernel = ops.transpose(kernel, (0, 2, 1, 3, 4, 5))
    kernel = ops.reshape(kernel, (sides[0] // 2, sides[1] // 2, 4 * channels, filters))
    # Tensor cores take 16-bit channels by eights; cuDNN would copy the images to fill them up.
    spare = -4 * channels % 8
    if spare and keras.backend.standardize_dtype(inputs.dtype) in ("bfloat16", "float16"):
        inputs = ops.pad(inputs, ((0, 0), (0, 0), (0, 0), (0, spare)))
        kernel = ops.pad(kernel, ((0, 0), (0, 0), (0, spare), (0, 0)))
    return inputs, kernel


def _convolution_spec(inputs, kernel, strides, padding):
    layer = KL.Conv2D(kernel.shape[-1], kernel.shape[:2], strides=strides, padding=padding)
    shape = layer.compute_output_shape((None, *inputs.shape[-3:]))
    return keras.KerasTensor((*inputs.shape[:-3], *shape[1:]), inputs.dtype)


def conv_bn(
    x, filters, kernel_size, names, strides=1, use_bias=True, train_bn=True, padding=None, conv=None
):
    """A convolution and its batch norm.

    Args:
        x: (..., H, W, C).
        filters, kernel_size, strides, use_bias: of the convolution.
        names: (of the convolution, of the batch norm).
        train_bn: the batch norm's mode, see BatchNorm.
        padding: as in Keras; None: "valid" for 1x1, otherwise "same".
        conv: class of the convolution, Conv2D.

    Returns:
        (..., H', W', filters).
    """
    if padding is None:
        padding = "valid" if kernel_size in (1, (1, 1)) else "same"
    strides = (strides, strides) if isinstance(strides, int) else tuple(strides)
    folded = train_bn is not None and not train_bn
    x = (conv or Conv2D)(
        filters,
        kernel_size,
        strides=strides,
        padding=padding,
        use_bias=use_bias,
        deferred=folded,
        name=names[0],
    )(x)
    return BatchNorm(strides=strides, padding=padding, name=names[1])(x, training=train_bn)


@keras.saving.register_keras_serializable("mrcnn_parallel")
def relu(x):
    """max(x, 0), of which training keeps the output, which the next layer keeps anyway."""
    return backend.relu(x)


@keras.saving.register_keras_serializable("mrcnn_parallel")
class MaxPool3x3(KL.MaxPooling2D):
    """Max pooling of 3 x 3 at stride 2 with padding "same"; see ops.pooling.

    Takes Keras's name and no other arguments.
    """

    def __init__(self, **kwargs):
        kwargs.update(pool_size=(3, 3), strides=(2, 2), padding="same")
        super().__init__(**kwargs)

    def call(self, inputs):
        even = all(size is not None and size % 2 == 0 for size in inputs.shape[1:3])
        if even and backend.scatters_gradient_of_max_pooling():
            return pooling.max_pool_3x3(inputs)
        return super().call(inputs)
