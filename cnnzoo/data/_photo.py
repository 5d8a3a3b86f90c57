"""From a photo of a garment to Fashion-MNIST's format: find the garment, make the rest black, shrink it to 28x28."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from ..errors import InputError
from ._images import check_shape, open_image, to_mode
from ._makers import makers_steps
from ._person import larger_of_two, without_person

PHOTO = ("auto", "makers", "never")
SIDE = 28
_INNER = 26  # pixels of the longer side of the garment; one pixel of black stays on either side
_WORK = 320  # pixels of the longer side at which the garment is looked for; more only take longer
_BLACK = 32  # of 255: what counts as black at the border of an image in format
_NOTHING = 6.0  # of 441, the distance of black and white: less is noise, and no garment
_PART = 0.1  # of the area of the largest part: smaller ones are not of the garment
_DULL = 110  # of 255: a garment whose mean is darker is brightened to it
_RING = 0.02  # of the shorter side: how much of the edge tells what the background is
_UNEVEN = 24.0  # of 441: a colour this far from the plane is not the background's
_SHARE = 0.1  # of the border: more of it not plain, or of the garment, calls for a warning
_FAINT = 40.0  # of 441: a garment nearer to the background than this may be found only in parts
_SMALL = 0.02  # of the picture
_WORN = "A person wears the garment. Lay it down or hang it up, and take the photo again."
_TALL = 2.0  # times the width: what is so tall may be more than one garment
_TWO = "Two garments are in the picture, and the larger is taken. Crop it to the one that you mean."
_NONE = (
    "No garment can be told from the background. Use a photo of a garment on a plain sheet or wall of another brightness."
)
_CLEAR = 0.02  # share of transparent pixels from which on the alpha channel is the garment's outline


@dataclass(frozen=True)
class Photo:
    """What was made of a photo.

    Attributes:
        steps: What came out of each step, by its name, in order; the last is 28x28, light on black, mode `"L"`.
        warnings: What makes an answer doubtful, and what can be done about it.
    """

    steps: dict[str, Image.Image]
    warnings: tuple[str, ...]

    @property
    def image(self) -> Image.Image:
        return list(self.steps.values())[-1]


def in_format(image: Image.Image) -> bool:
    """Whether an image is as Fashion-MNIST's are: 28x28, and at least a quarter of its border black, as in all of them."""
    if image.size != (SIDE, SIDE):
        return False
    border = _border(np.asarray(to_mode(image, "L")), 1)
    return bool((border <= _BLACK).mean() >= 0.25)


def photo_steps(photo: Any, how: str = "auto") -> Photo:
    """Turns a photo of one garment into an image in Fashion-MNIST's format.

    Args:
        photo: See `open_image`; any size and mode.
        how: `"auto"`: the background is a plane fitted over the border's colours; what differs from it and is not connected
            to the edge is the garment, less the head and the skin of a person who wears it; of two garments one above the
            other the larger is taken; the rest becomes black; the garment is cropped, shrunk by averaging and brightened
            where it is dark. An alpha channel with transparent parts is the outline. `"makers"`: the steps that the makers
            of the data set publish, see `makers_steps`.

    Raises:
        InputError: It is no image, or shows nothing but background.
    """
    image = open_image(photo)
    check_shape(image, SIDE, SIDE)
    if how == "makers":
        return Photo(makers_steps(image), ())
    small = _shrunk(image)
    colour = to_mode(small, "RGB")
    mask, light, warnings = _garment(small, np.asarray(colour, dtype=np.float32))
    gray = np.asarray(colour.convert("L"), dtype=np.float32)
    gray = np.where(mask, 255 - gray if light else gray, 0)
    mean = gray[mask].mean()
    if mean < 1:  # a black garment whose outline is in the alpha channel: there are no shades to brighten
        gray = np.where(mask, _DULL, 0.0)
    elif mean < _DULL:
        gray = (gray * (_DULL / mean)).clip(0, 255)
    rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
    box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    cut = Image.fromarray(gray.round().astype(np.uint8)).crop(box)
    steps = {"photo": colour, "garment": Image.fromarray(mask.astype(np.uint8) * 255), "on black": cut}
    return Photo(steps | {"model input": _centred(cut)}, warnings)


def _garment(image: Image.Image, pixels: np.ndarray) -> tuple[np.ndarray, bool, tuple[str, ...]]:
    """Where the garment is `(H, W)`, whether the background is light, and warnings; `pixels` `(H, W, 3)` without alpha."""
    outline = _alpha(image)
    if outline is not None:
        mask, parts = _largest(outline)
        return mask, False, _warnings(mask, parts, 0.0, 255.0)
    plane = _plane(pixels)
    distance = np.sqrt(((pixels - plane) ** 2).sum(2))  # (H, W)
    mask, parts = _largest(_differs(distance))
    ring = max(1, round(_RING * min(mask.shape)))
    rough = (_border(distance, ring) > _UNEVEN).mean()
    warnings = _warnings(mask, parts, rough, distance[mask].mean())
    worn = without_person(pixels, mask)
    if worn is not None:
        mask, warnings = _largest(worn)[0], (_WORN, *warnings)
    rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
    if worn is not None or np.ptp(rows) >= _TALL * np.ptp(columns):
        larger = larger_of_two(pixels, mask)
        if larger is not None:
            mask, warnings = _largest(larger)[0], (*warnings, _TWO)
    return mask, bool(plane.mean() > 127), warnings


def _warnings(mask: np.ndarray, parts: int, rough: float, contrast: float) -> tuple[str, ...]:
    """What speaks against an answer.

    Args:
        mask: The garment, `(H, W)`.
        parts: Of how many parts it is.
        rough: The share of the border that is not of the background's colour.
        contrast: How far the garment's colour is from the background's on average, of 441.
    """
    found = {
        "The background is not plain. Put the garment on a plain sheet or wall, and take the photo again.": rough > _SHARE,
        "The garment runs over the edge of the picture, or a person or other things are in it. Take it alone and whole, "
        "with room on all sides.": _border(mask, 1).mean() > _SHARE,
        "The garment hardly stands out from the background. Choose one of another brightness.": contrast < _FAINT,
        "There are several things in the picture. Take one garment at a time, or crop it to one.": parts > 1,
        "The garment is small in the picture. Go nearer, or crop it.": mask.mean() < _SMALL,
    }
    return tuple(text for text, holds in found.items() if holds)


def _shrunk(image: Image.Image) -> Image.Image:
    longest = max(image.size)
    image = to_mode(image, "RGBA" if image.has_transparency_data else "RGB")
    if longest <= _WORK:
        return image
    scale = _WORK / longest
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.BOX)


def _alpha(image: Image.Image) -> np.ndarray | None:
    if image.mode != "RGBA":
        return None
    solid = np.asarray(image)[..., 3] >= 128
    if not solid.any():
        raise InputError("The photo is completely transparent. Use a photo that shows a garment.")
    return solid if (~solid).mean() >= _CLEAR else None


def _border(pixels: np.ndarray, width: int) -> np.ndarray:
    """The pixels within `width` of the edge of `(H, W, ...)`, `(N, ...)`."""
    inner = np.zeros(pixels.shape[:2], dtype=bool)
    inner[width:-width, width:-width] = True
    return pixels[~inner]


def _plane(pixels: np.ndarray) -> np.ndarray:
    """The background `(H, W, 3)`: per channel a plane over the border, fitted again without what is far from the first."""
    height, width = pixels.shape[:2]
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    terms = np.stack([np.ones_like(x), x, y], 2)  # (H, W, 3 terms)
    ring = max(1, round(_RING * min(height, width)))
    a, b = _border(terms, ring), _border(pixels, ring)
    keep = np.abs(b - np.median(b, 0)).max(1)
    keep = keep <= np.quantile(keep, 0.75)
    for _ in range(3):
        fit = np.linalg.lstsq(a[keep], b[keep], rcond=None)[0]
        off = np.abs(a @ fit - b).max(1)
        keep = off <= max(8.0, 2.5 * np.median(off))
    return terms @ fit


def _differs(distance: np.ndarray) -> np.ndarray:
    from scipy import ndimage
    from skimage.filters import threshold_otsu

    if distance.max() < _NOTHING:
        raise InputError("The photo shows only background. Use a photo in which the garment differs from the background.")
    if np.ptp(distance) < _NOTHING:  # of a chessboard, say, every pixel is as far from the middle of its two colours
        raise InputError(_NONE)
    root = np.sqrt(distance)  # otherwise a garment's boldest parts alone would be called different
    return ndimage.binary_fill_holes(root > threshold_otsu(root))


def _largest(found: np.ndarray) -> tuple[np.ndarray, int]:
    """The largest connected parts of a mask `(H, W)`, and how many there are."""
    from skimage.measure import label

    parts = label(found, connectivity=2)
    areas = np.bincount(parts.ravel())[1:]
    if not len(areas):
        raise InputError(_NONE)
    kept = np.flatnonzero(areas >= _PART * areas.max()) + 1
    return np.isin(parts, kept), len(kept)


def _centred(cut: Image.Image) -> Image.Image:
    scale = _INNER / max(cut.size)
    size = (max(1, round(cut.width * scale)), max(1, round(cut.height * scale)))
    small = cut.resize(size, Image.Resampling.BOX)
    out = Image.new("L", (SIDE, SIDE))
    out.paste(small, ((SIDE - size[0]) // 2, (SIDE - size[1]) // 2))
    return out
