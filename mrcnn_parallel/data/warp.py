"""Warp: flip, scale, crop and affine of an image in one resampling, and of outlines by its matrix.

Coordinates are (x, y) pixels and count from the corner of the first pixel: pixel j covers x from j
to j + 1. OpenCV's affine functions count from pixel centres, see `_from_centres`.
"""

from typing import NamedTuple

import numpy as np

from mrcnn_parallel.data.sources import Bitmap, cut_out

_CHANNELS = 4  # OpenCV warps at most so many at once


class Warp(NamedTuple):
    """Where an image goes in a frame.

    matrix: (2, 3) float64, source (x, y) -> frame (x, y).
    frame: (height, width) of the result.
    taken, placed: (y1, x1, y2, x2) whole pixels of the source and of the frame, where the warp is
        nothing but a resize of one onto the other, perhaps flipped; else None.
    flips: (left and right, up and down), only where `taken` is given.
    """

    matrix: np.ndarray
    frame: tuple
    taken: tuple | None = None
    placed: tuple | None = None
    flips: tuple = (False, False)

    def image(self, image, out=None):
        """The warped image, (H, W, C) -> (*frame, C), zeros where there is nothing; bilinear.

        Args:
            out: an array of that shape and the image's type to write to, or None for a new one; any
                other is not used.
        """
        import cv2

        shape = (*self.frame, image.shape[2])
        if out is None or out.shape != shape or out.dtype != image.dtype:
            out = np.empty(shape, image.dtype)
        if self.taken is None:
            matrix, size = _from_centres(self.matrix), self.frame[::-1]
            if image.shape[2] == 3:  # OpenCV warps four channels in half the time, and converts
                image = cv2.cvtColor(image, cv2.COLOR_RGB2RGBA)
                warped = cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR)
                return cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB, dst=out)
            for c in range(0, image.shape[2], _CHANNELS):
                some = np.ascontiguousarray(image[..., c : c + _CHANNELS])
                warped = cv2.warpAffine(some, matrix, size, flags=cv2.INTER_LINEAR)
                out[..., c : c + _CHANNELS] = warped.reshape(*self.frame, some.shape[2])
            return out
        y1, x1, y2, x2 = self.taken
        part = image[y1:y2, x1:x2]
        if any(self.flips):
            code = {(True, False): 1, (False, True): 0, (True, True): -1}[tuple(self.flips)]
            part = cv2.flip(part, code).reshape(part.shape)
        y1, x1, y2, x2 = self.placed
        out[:y1], out[y2:], out[y1:y2, :x1], out[y1:y2, x2:] = 0, 0, 0, 0
        inside = out[y1:y2, x1:x2]
        resized = cv2.resize(part, (x2 - x1, y2 - y1), dst=inside, interpolation=cv2.INTER_LINEAR)
        if resized is not inside:
            inside[...] = resized.reshape(inside.shape)
        return out

    def bitmap(self, bitmap, scale):
        """A warped Bitmap, cut to what the frame shows; its mask has the size 0 x 0 if nothing.

        Args:
            scale: (x, y) factors from the bitmap's pixels to those that `matrix` takes.

        Returns:
            The Bitmap, and the area in pixels that it would have in an endless frame.
        """
        import cv2

        matrix = scaled(self.matrix, scale)
        height, width = bitmap.mask.shape
        full_area = float(bitmap.mask.sum()) * abs(np.linalg.det(matrix[:, :2]))
        x, y = np.array([bitmap.x, bitmap.x + width]), np.array([bitmap.y, bitmap.y + height])
        corners = matrix[:, :2] @ np.stack([x[[0, 1, 0, 1]], y[[0, 0, 1, 1]]]) + matrix[:, 2:]
        x1, y1 = np.maximum(np.floor(corners.min(axis=1)), 0).astype(int)
        x2, y2 = np.minimum(np.ceil(corners.max(axis=1)), self.frame[::-1]).astype(int)
        if x2 <= x1 or y2 <= y1 or not bitmap.mask.size:
            return Bitmap(np.zeros((0, 0), bool), 0, 0), full_area
        local = matrix.copy()
        local[:, 2] += matrix[:, :2] @ (bitmap.x, bitmap.y) - (x1, y1)
        plane = np.ascontiguousarray(bitmap.mask, np.uint8) * np.uint8(255)
        size = (int(x2 - x1), int(y2 - y1))
        warped = cv2.warpAffine(plane, _from_centres(local), size, flags=cv2.INTER_LINEAR)
        return cut_out(warped >= 128, int(y1), int(x1)), full_area


def scaled(matrix, scale):
    """The (2, 3) matrix for sources whose pixels are `scale` (x, y) of the matrix's own."""
    return matrix * np.array([*scale, 1.0])


def _from_centres(matrix):
    """A (2, 3) matrix between corners' coordinates as one between those of pixels' centres."""
    shifted = matrix.copy()
    shifted[:, 2] += matrix[:, :2] @ (0.5, 0.5) - 0.5
    return shifted


def straight_warp(size, frame, scale, position, flips):
    """A Warp that only scales, flips, and crops or pads.

    Args:
        size: (height, width) of the source. frame: (height, width) of the result.
        scale: frame pixels per source pixel, about; sides become whole pixels.
        position: (y, x) in [0, 1]: where the picture lies in the free space, or which part of it
            is taken where it is larger than the frame.
        flips: (left and right, up and down).
    """
    taken, placed = [], []
    matrix = np.zeros((2, 3))
    for axis in (0, 1):
        row = 1 - axis  # of the matrix: x is axis 1
        resized = max(1, round(size[axis] * scale))
        if resized <= frame[axis]:
            source = (0, size[axis])
            start = round(position[axis] * (frame[axis] - resized))
            target = (start, start + resized)
        else:
            length = min(max(1, round(frame[axis] / scale)), size[axis])
            start = round(position[axis] * (size[axis] - length))
            source, target = (start, start + length), (0, frame[axis])
        factor = (target[1] - target[0]) / (source[1] - source[0])
        if flips[1 - axis]:
            matrix[row, row], matrix[row, 2] = -factor, target[1] + factor * source[0]
        else:
            matrix[row, row], matrix[row, 2] = factor, target[0] - factor * source[0]
        taken.append(source)
        placed.append(target)
    corners = [tuple(span[i] for i in (0, 1) for span in spans) for spans in (taken, placed)]
    return Warp(matrix, tuple(frame), *corners, tuple(flips))


def turned(warp, degrees, shear, squeeze=1.0):
    """A Warp followed by a rotation and shear about the middle of its frame.

    Args:
        degrees: clockwise on screen. shear: x moves by so much for each y.
        squeeze: factor on x, its inverse on y.
    """
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turn = turn @ np.array([[1.0, shear], [0.0, 1.0]]) @ np.diag([squeeze, 1 / squeeze])
    middle = np.array(warp.frame[::-1]) / 2
    matrix = turn @ warp.matrix
    matrix[:, 2] += middle - turn @ middle
    return Warp(matrix, warp.frame)
