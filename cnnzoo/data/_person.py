"""Whether a person wears the garment in a photo, and the garment without face, hair and hands."""

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
