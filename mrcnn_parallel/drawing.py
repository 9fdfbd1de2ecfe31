"""What `visualize` draws with: colors, pixels of arrays, and marks on matplotlib axes.

Boxes are (y1, x1, y2, x2) in pixels, the end excluded. matplotlib puts the centre of pixel (0, 0)
at (0, 0), so a box's edges lie half a pixel before its numbers.
"""

import colorsys
import random

import numpy as np

FILE_BACKENDS = {"agg", "cairo", "pdf", "pgf", "ps", "svg", "template"}  # plt.show() can't show


def random_colors(N, bright=True):
    """N colors as different from each other as can be, in random order.

    Args:
        N: how many.
        bright: full brightness or 0.7 of it.

    Returns:
        List of N (r, g, b) in 0..1.
    """
    colors = [colorsys.hsv_to_rgb(i / N, 1, 1.0 if bright else 0.7) for i in range(N)]
    random.shuffle(colors)
    return colors


def apply_mask(image, mask, color, alpha=0.5):
    """Tints the pixels of a mask. Changes `image`, and returns it.

    Args:
        image: (H, W, 3), values 0..255.
        mask: (H, W), bool or 0 and 1.
        color: (r, g, b) in 0..1; a fourth value is ignored.
        alpha: share of the color in the result.

    Raises:
        ValueError: image and mask differ in size.
    """
    if mask.shape != image.shape[:2]:
        raise ValueError(
            f"apply_mask got a mask of {mask.shape} for an image of {image.shape[:2]}; they must "
            "have the same height and width."
        )
    inside = np.asarray(mask).astype(bool)
    tint = alpha * 255 * np.asarray(color[:3], np.float64)
    image[inside] = (image[inside] * (1 - alpha) + tint).astype(image.dtype)
    return image


def draw_box(image, box, color):
    """Draws a frame two pixels wide along the edges of a box. Changes `image`, and returns it.

    Args:
        image: (H, W, 3).
        box: (y1, x1, y2, x2) pixels; parts outside the image are not drawn.
        color: three values in the image's range.
    """
    height, width = image.shape[:2]
    y1, x1, y2, x2 = (int(side) for side in box)
    rows, cols = slice(max(y1, 0), max(y2 + 2, 0)), slice(max(x1, 0), max(x2, 0))
    for y in (y1, y2):
        if -2 < y < height:
            image[max(y, 0) : y + 2, cols] = color
    for x in (x1, x2):
        if -2 < x < width:
            image[rows, max(x, 0) : x + 2] = color
    return image


def as_rgb(image):
    """A uint8 copy with three channels of a grey, RGB or RGBA image with values 0..255.

    Raises:
        ValueError: the array is no image.
    """
    image = np.asarray(image)
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[-1] not in (1, 3, 4):
        raise ValueError(
            f"An image to draw has the shape {image.shape}; it must be (H, W), (H, W, 1), "
            "(H, W, 3) or (H, W, 4)."
        )
    image = np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image[..., :3]
    return np.clip(image, 0, 255).astype(np.uint8)


def axes_for(ax, figsize):
    """The given axes, or those of a new figure; and whether they are new."""
    if ax is not None:
        return ax, False
    return pyplot().subplots(1, figsize=figsize)[1], True


def frame(ax, picture, title):
    """Puts a picture under what was drawn, with a margin of 10 pixels and a title."""
    height, width = picture.shape[:2]
    ax.imshow(picture)
    ax.set_xlim(-10, width + 10)
    ax.set_ylim(height + 10, -10)
    ax.axis("off")
    ax.set_title(title)


def add_box(ax, box, color, **style):
    """Draws the edges of a box."""
    from matplotlib import patches

    y1, x1, y2, x2 = box
    style = {"linewidth": 2, **style}
    ax.add_patch(
        patches.Rectangle(
            (x1 - 0.5, y1 - 0.5), x2 - x1, y2 - y1, edgecolor=color, facecolor="none", **style
        )
    )


def add_link(ax, box, refined_box, color):
    """Draws a line between the upper left corners of two boxes."""
    ax.plot([box[1] - 0.5, refined_box[1] - 0.5], [box[0] - 0.5, refined_box[0] - 0.5], color=color)


def add_outline(ax, mask, color):
    """Draws the outlines of a mask, also where it touches the image's border."""
    from matplotlib import patches
    from skimage import measure

    padded = np.pad(np.asarray(mask, np.float32), 1)
    for contour in measure.find_contours(padded, 0.5):
        corners = contour[:, ::-1] - 1  # (row, col) of the padded mask to (x, y)
        ax.add_patch(patches.Polygon(corners, facecolor="none", edgecolor=color))


def pyplot():
    """matplotlib.pyplot, imported when it is first needed."""
    import matplotlib.pyplot as plt

    return plt


def show():
    """Shows the figures in a window or notebook; does nothing with a backend that writes files."""
    plt = pyplot()
    if plt.get_backend().lower() not in FILE_BACKENDS:
        plt.show()
