"""Whether a person wears the garment in a photo, and the garment without face, hair, hands and the other clothes."""

import numpy as np

# Skin of all tones, by Chai and Ngan, "Face Segmentation Using Skin-Color Map in Videophone Applications" (1999): of YCbCr
# the two channels that say nothing of brightness.
_CB, _CR = (77, 127), (133, 173)
_TOP = 0.15  # of the height of what was found: a head begins within it
_TALL, _WIDE = 0.45, 0.55  # of that height and width: a head is no larger
_AREA = 0.004  # of the area: a head is no smaller
_NECK = 0.6  # of the greatest width: at the height of a head a person is narrower
_MIDDLE = (0.25, 0.75)  # of the width: where the middle of a head is
_SOLID = 0.7  # share of its convex outline that a head fills
_MOST = 0.5  # of the area: where more is of skin's colour, the garment is
_LEFT = 0.1  # of the area: less than that left over is no garment
_ABOVE = (0.25, 0.75)  # of the height: where one garment ends and the next begins
_APART = 0.7  # share of the variance of the rows' colours that is between two garments
_DIFFERENT = 40.0  # of 441: how far their colours are apart


def without_person(pixels: np.ndarray, mask: np.ndarray) -> np.ndarray | None:
    """What of a mask is a garment below a head, or None where no head is seen.

    A head is a part of skin's colour in the middle of the top, narrower than what is below it. What is above its lower end
    goes, and so does all skin.

    Args:
        pixels: Colours from 0 to 255, `(H, W, 3)`.
        mask: Garment and person, `(H, W)`.
    """
    from scipy import ndimage
    from skimage.color import rgb2ycbcr

    chroma = rgb2ycbcr(pixels / 255)
    cb, cr = chroma[..., 1], chroma[..., 2]
    skin = mask & (cb >= _CB[0]) & (cb <= _CB[1]) & (cr >= _CR[0]) & (cr <= _CR[1])
    skin = ndimage.binary_opening(skin)
    bottom = _lower_end(skin, mask)
    if bottom is None:
        return None
    garment = mask & ~ndimage.binary_dilation(skin)
    garment[:bottom] = False
    garment = ndimage.binary_opening(garment, iterations=2)
    return garment if garment.sum() >= _LEFT * mask.sum() else None


def larger_of_two(pixels: np.ndarray, mask: np.ndarray) -> np.ndarray | None:
    """The larger of two garments one above the other, such as a coat above trousers, or None where there is but one.

    The border between them is the row that divides the mean colours of the rows best, as Otsu's threshold divides grays.

    Args:
        pixels: Colours from 0 to 255, `(H, W, 3)`.
        mask: What was found, `(H, W)`.
    """
    rows = mask.any(1).nonzero()[0]
    first, height = rows[0], rows[-1] - rows[0] + 1
    inside = slice(first, first + height)
    area = mask[inside].sum(1)[:, None]  # (height, 1), pixels of each row
    total = (pixels * mask[..., None])[inside].sum(1)  # (height, 3), colours added up
    above, below = area.cumsum(0), area.sum() - area.cumsum(0)
    upper = total.cumsum(0) / above
    lower = (total.sum(0) - total.cumsum(0)) / np.maximum(below, 1)
    between = (above * below / area.sum() * (upper - lower) ** 2).sum(1)  # (height,)
    whole = (area * (total / np.maximum(area, 1) - total.sum(0) / area.sum()) ** 2).sum()
    low, high = (round(share * height) for share in _ABOVE)
    if high <= low:
        return None
    best = low + int(between[low:high].argmax())
    if between[best] < _APART * whole or np.linalg.norm(upper[best] - lower[best]) < _DIFFERENT:
        return None
    larger = mask.copy()
    if above[best] >= below[best]:
        larger[first + best + 1 :] = False
    else:
        larger[: first + best + 1] = False
    return larger


def _lower_end(skin: np.ndarray, mask: np.ndarray) -> int | None:
    """The row below the head, if there is one."""
    from skimage.measure import label, regionprops

    area = mask.sum()
    if skin.sum() >= _MOST * area:
        return None
    rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
    height, width = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
    widths = mask.sum(1)
    widest = np.sort(widths)[-max(1, height // 20)]  # without the few rows of an outstretched arm
    heads = []
    for part in regionprops(label(skin)):
        top, left, bottom, right = part.bbox
        middle = (part.centroid[1] - columns[0]) / width
        if (
            top - rows[0] < _TOP * height
            and bottom - top < _TALL * height
            and right - left < _WIDE * width
            and part.area > _AREA * area
            and widths[top:bottom].mean() < _NECK * widest
            and _MIDDLE[0] < middle < _MIDDLE[1]
            and part.solidity > _SOLID
        ):
            heads.append((part.area, bottom))
    return max(heads)[1] if heads else None
