"""From lines that somebody drew to a picture that the steps for photos can take."""

from typing import Any

import numpy as np
from PIL import Image

from ..errors import InputError
from ._images import open_image, to_mode

_CLOTH = 110  # of 255: what the inside of an outline becomes; cloth is darker than the paper, and lighter than the lines
_INK = 200  # of 255: darker than this is drawn


def on_paper(sketch: Any) -> Image.Image:
    """A sketch on white paper, mode `"L"`: what is transparent in it is paper.

    Raises:
        InputError: It is no image (see `open_image`), or nothing is drawn on it.
    """
    rgba = to_mode(open_image(sketch), "RGBA")
    paper = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("L")
    if not (np.asarray(paper) < _INK).any():
        raise InputError("The sketch is empty. Draw one garment, dark on the white paper.")
    return paper


def filled(sketch: Image.Image) -> Image.Image:
    """The same sketch, mode `"L"`, dark on white, with the inside of each closed outline made gray.

    Models know garments as areas; of an outline alone they see two thin lines, and call most garments sandals or bags.
    """
    from scipy import ndimage

    pixels = np.asarray(sketch)
    drawn = pixels < _INK
    inside = ndimage.binary_fill_holes(drawn) & ~drawn
    return Image.fromarray(np.where(inside, _CLOTH, pixels).astype(np.uint8))
