"""Feature pyramid (Lin et al., 2017): the backbone's stages -> P2 ... P6 of equal channels."""

from keras import layers as KL

from mrcnn_parallel.nets.conv import Conv2D


def fpn_graph(stages, channels):
    """Builds the top-down pathway.

    Args:
        stages: [C2, C3, C4, C5], at strides 4, 8, 16, 32.
        channels: of every level.

    Returns:
        [P2, P3, P4, P5, P6] at strides 4 ... 64, each (B, H_l, W_l, channels).
    """
    c2, c3, c4, c5 = stages
    level = Conv2D(channels, (1, 1), name="fpn_c5p5")(c5)
    merged = {5: level}
    for index, stage in ((4, c4), (3, c3), (2, c2)):
        upsampled = KL.UpSampling2D(size=(2, 2), name=f"fpn_p{index + 1}upsampled")(level)
        lateral = Conv2D(channels, (1, 1), name=f"fpn_c{index}p{index}")(stage)
        level = KL.Add(name=f"fpn_p{index}add")([upsampled, lateral])
        merged[index] = level
    # A 3x3 convolution on each level removes what upsampling leaves of the grid.
    pyramid = [
        KL.Conv2D(channels, (3, 3), padding="same", name=f"fpn_p{index}")(merged[index])
        for index in (2, 3, 4, 5)
    ]
    p6 = KL.MaxPooling2D(pool_size=(1, 1), strides=2, name="fpn_p6")(pyramid[-1])
    return [*pyramid, p6]
