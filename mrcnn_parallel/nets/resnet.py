"""ResNet backbones (He et al., 2015), with Matterport's layer names: res4b_branch2a, bn4b_branch2a.

ResNet-50 and 101 are built of bottlenecks (1x1, 3x3, 1x1), 18 and 34 of basic blocks (3x3, 3x3).
As in the original Caffe model, a stage's stride is in its first convolution.
"""

from keras import layers as KL

from mrcnn_parallel.nets.conv import MaxPool3x3, conv_bn, relu

STAGE_BLOCKS = {  # blocks of stages 2, 3, 4, 5
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
}


def identity_block(input_tensor, kernel_size, filters, stage, block, use_bias=True, train_bn=True):
    """Bottleneck whose shortcut is the identity.

    Args:
        input_tensor: (B, H, W, filters[2]).
        kernel_size: of the middle convolution, 3.
        filters: channels of the three convolutions.
        stage, block: 2 ... 5 and "a", "b", ...: they make the names.
        use_bias: whether the convolutions have a bias.
        train_bn: the batch norms' mode, see nets.conv.BatchNorm.

    Returns:
        (B, H, W, filters[2]).
    """
    name = f"{stage}{block}_branch"
    x = _bottleneck_branch(input_tensor, kernel_size, filters, name, (1, 1), use_bias, train_bn)
    x = KL.Add()([x, input_tensor])
    return KL.Activation(relu, name=f"res{stage}{block}_out")(x)


def conv_block(
    input_tensor,
    kernel_size,
    filters,
    stage,
    block,
    strides=(2, 2),
    use_bias=True,
    train_bn=True,
):
    """Bottleneck whose shortcut is a convolution: it changes the channels and, by `strides`, the
    size. Arguments as in `identity_block`."""
    name = f"{stage}{block}_branch"
    x = _bottleneck_branch(input_tensor, kernel_size, filters, name, strides, use_bias, train_bn)
    shortcut = _conv_bn(input_tensor, filters[2], (1, 1), name + "1", strides, use_bias, train_bn)
    x = KL.Add()([x, shortcut])
    return KL.Activation(relu, name=f"res{stage}{block}_out")(x)


def basic_block(input_tensor, filters, stage, block, strides=1, use_bias=True, train_bn=True):
    """Two 3x3 convolutions and a shortcut, which is a convolution where the shape changes.

    Args:
        input_tensor: (B, H, W, C).
        filters: channels of both convolutions.
        stage, block, use_bias, train_bn: as in `identity_block`.
        strides: 2 halves the size.

    Returns:
        (B, H / strides, W / strides, filters).
    """
    name = f"{stage}{block}_branch"
    x = _conv_bn(input_tensor, filters, 3, name + "2a", strides, use_bias, train_bn)
    x = KL.Activation(relu)(x)
    x = _conv_bn(x, filters, 3, name + "2b", 1, use_bias, train_bn)
    shortcut = input_tensor
    if strides != 1 or input_tensor.shape[-1] != filters:
        shortcut = _conv_bn(shortcut, filters, 1, name + "1", strides, use_bias, train_bn)
    x = KL.Add()([x, shortcut])
    return KL.Activation(relu, name=f"res{stage}{block}_out")(x)


def resnet_graph(input_image, architecture, stage5=False, train_bn=True):
    """Builds a ResNet.

    Args:
        input_image: (B, H, W, channels), H and W divisible by 64.
        architecture: a key of STAGE_BLOCKS.
        stage5: whether to build the last stage.
        train_bn: the batch norms' mode, see nets.conv.BatchNorm.

    Returns:
        [C1, C2, C3, C4, C5], at strides 4, 4, 8, 16, 32; C5 is None without stage5.

    Raises:
        ValueError: unknown architecture.
    """
    if architecture not in STAGE_BLOCKS:
        raise ValueError(
            f"unknown architecture {architecture!r}; there are {', '.join(STAGE_BLOCKS)}."
        )
    x = KL.ZeroPadding2D((3, 3))(input_image)
    names = ("conv1", "bn_conv1")
    x = conv_bn(x, 64, (7, 7), names, strides=2, train_bn=train_bn, padding="valid")
    # The pooling first: its result is the same, and a quarter of the activations to mask and keep.
    x = MaxPool3x3()(x)
    x = KL.Activation(relu)(x)
    stages = [x]  # C1
    bottleneck = architecture in ("resnet50", "resnet101")
    for stage, blocks in enumerate(STAGE_BLOCKS[architecture][: 4 if stage5 else 3], start=2):
        width = 64 * 2 ** (stage - 2)
        for index in range(blocks):
            block = chr(ord("a") + index)
            strides = 2 if index == 0 and stage > 2 else 1
            if not bottleneck:
                x = basic_block(x, width, stage, block, strides, train_bn=train_bn)
                continue
            filters = [width, width, 4 * width]
            if index == 0:
                strides = (strides, strides)
                x = conv_block(x, 3, filters, stage, block, strides=strides, train_bn=train_bn)
            else:
                x = identity_block(x, 3, filters, stage, block, train_bn=train_bn)
        stages.append(x)
    return stages if stage5 else [*stages, None]


def _bottleneck_branch(x, kernel_size, filters, name, strides, use_bias, train_bn):
    x = _conv_bn(x, filters[0], (1, 1), name + "2a", strides, use_bias, train_bn)
    x = KL.Activation(relu)(x)
    x = _conv_bn(x, filters[1], kernel_size, name + "2b", 1, use_bias, train_bn)
    x = KL.Activation(relu)(x)
    return _conv_bn(x, filters[2], (1, 1), name + "2c", 1, use_bias, train_bn)


def _conv_bn(x, filters, kernel_size, suffix, strides, use_bias=True, train_bn=True):
    names = (f"res{suffix}", f"bn{suffix}")
    return conv_bn(x, filters, kernel_size, names, strides, use_bias, train_bn)
