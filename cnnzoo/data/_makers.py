"""From a product photo to Fashion-MNIST's own format, by the steps that its makers publish (arXiv:1708.07747, section 2).

They started from pictures of 51x73 pixels on a plain background.
"""

from typing import Any

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from ..errors import InputError
from ._images import check_shape, open_image, to_mode

_SIDE = 28
_SOURCE = (51, 73)  # pixels of the pictures that the data set was made of
_CLOSE = 0.05 * 255  # how far from the background's colour an edge may be and still is background


def makers_steps(photo: Any) -> dict[str, Image.Image]:
    """Turns a photo of one garment on a plain background into what the data set would have made of it.

    Args:
        photo: See `open_image`; any size and mode, a light or a dark background. What is transparent is black.

    Returns:
        What came out of each step, by its name, in order; the last, `"8-bit"`, is 28x28, light on black, mode `"L"`.

    Raises:
        InputError: It is no image, or shows nothing but background.
    """
    steps = dict(colour=to_mode(open_image(photo), "RGB"))
    background = _background(steps["colour"])
    steps["trim"] = _trim(steps["colour"], background)
    steps["resize"] = _resize(steps["trim"])
    steps["sharpen"] = steps["resize"].filter(ImageFilter.UnsharpMask(radius=1, percent=100, threshold=0))
    steps["centre"] = ImageOps.pad(
        steps["sharpen"], (_SIDE, _SIDE), color=tuple(background), method=Image.Resampling.NEAREST
    )
    light = np.mean(background) > 127
    steps["invert"] = ImageOps.invert(steps["centre"]) if light else steps["centre"]
    steps["8-bit"] = steps["invert"].convert("L")
    return steps


def _background(image: Image.Image) -> list[int]:
    """The colour of the corners: per channel the median of the four, so that one of them may show the garment."""
    pixels = np.asarray(image)
    corners = pixels[[0, 0, -1, -1], [0, -1, 0, -1]]  # (4, 3)
    return [int(v) for v in np.median(corners, axis=0)]


def _trim(image: Image.Image, background: list[int]) -> Image.Image:
    far = np.abs(np.asarray(image, dtype=np.int16) - np.array(background)).max(2) > _CLOSE  # (H, W)
    rows, columns = far.any(1).nonzero()[0], far.any(0).nonzero()[0]
    if not len(rows):
        raise InputError("The photo shows only background. Use a photo in which the garment differs from the background.")
    return image.crop((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))


def _resize(image: Image.Image) -> Image.Image:
    """To a longest edge of 28 by leaving out rows and columns, from no more of them than the data set's makers had."""
    check_shape(image, _SIDE, _SIDE)
    if image.width > _SOURCE[0] or image.height > _SOURCE[1]:
        image = ImageOps.contain(image, _SOURCE, method=Image.Resampling.BOX)
    scale = _SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.NEAREST)
