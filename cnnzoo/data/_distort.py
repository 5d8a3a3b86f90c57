"""Stronger changes of whole batches: RandAugment for gray images, and what photos do to pictures.

Both take what they need at random as arguments, one row per image, so that they do the same on any device and for any part
of a batch.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

# RandAugment's operations that mean something in gray, with their largest amounts, which are torchvision's.
_GEOMETRY = dict(shear_x=0.3, shear_y=0.3, translate_x=0.45, translate_y=0.45, rotate=torch.pi / 6)
_TONES = dict(brightness=0.9, contrast=0.9, sharpness=0.9, autocontrast=0.0)
OPERATIONS = (*_GEOMETRY, *_TONES)

_PHOTO = 17  # uniform numbers per image that `photo` takes
_RADIUS = 4  # of the blur's kernel, in pixels: 2.7 standard deviations of the widest


def draw_randaugment(count: int, operations: int, generator: torch.Generator) -> dict[str, Tensor]:
    """What `randaugment` takes at random: which operations, and in which direction; `(count, operations)` each."""
    shape = (count, operations)
    which = torch.randint(len(OPERATIONS), shape, generator=generator)
    return dict(which=which, sign=2 * torch.randint(2, shape, generator=generator) - 1)


def randaugment(images: Tensor, which: Tensor, sign: Tensor, magnitude: float) -> Tensor:
    """RandAugment (arXiv:1909.13719) for uint8 images `(B, C, H, W)`, without the operations that need colour.

    What moves pixels is done first, for all of an image's operations at once: it is resampled once, and black comes in.

    Args:
        images: To change; they are not changed in place.
        which: Operations of each image, as indices into `OPERATIONS`, `(B, N)`.
        sign: Their directions, -1 or 1, `(B, N)`.
        magnitude: Share of the largest amount, 0 to 1.
    """
    from torchvision.transforms.v2 import functional as tones

    names = {name: i for i, name in enumerate(OPERATIONS)}
    moves = {name: sign * (which == names[name]) * (magnitude * most) for name, most in _GEOMETRY.items()}
    matrix = torch.eye(3, device=images.device).expand(len(images), 3, 3)
    for n in range(which.shape[1]):
        amount = {name: values[:, n].float() for name, values in moves.items()}
        matrix = matrix @ _matrix(
            amount["rotate"], amount["shear_x"], amount["shear_y"], 2 * amount["translate_x"], 2 * amount["translate_y"]
        )
    moved = (which < len(_GEOMETRY)).any(1).nonzero()[:, 0]
    out = images.clone()
    if len(moved):
        out[moved] = _warp(images[moved].float(), matrix[moved]).round().to(torch.uint8)
    for n in range(which.shape[1]):
        for name, most in _TONES.items():
            for direction in (-1, 1):
                index = ((which[:, n] == names[name]) & (sign[:, n] == direction)).nonzero()[:, 0]
                if not len(index):
                    continue
                if name == "autocontrast":
                    out[index] = tones.autocontrast(out[index])
                else:
                    change = getattr(tones, f"adjust_{name}")
                    out[index] = change(out[index], 1 + direction * magnitude * most)
    return out


def draw_photo(count: int, size: tuple[int, int], generator: torch.Generator) -> dict[str, Tensor]:
    """What `photo` takes at random: uniform numbers `(count, 17)`, and noise `(count, 1, *size)` of standard deviation 1."""
    uniform = torch.rand(count, _PHOTO, generator=generator)
    return dict(uniform=uniform, noise=torch.randn(count, 1, *size, generator=generator))


def photo(images: Tensor, uniform: Tensor, noise: Tensor, strength: float) -> Tensor:
    """What comes between a garment and a picture of it: small rotation, scale and shear; a gray or uneven background; blur,
    gamma, contrast, brightness and noise, each of these in half of the images. A third of the images stays as it is, so that
    what is learned of clean images is kept.

    At full strength: 10 degrees, a seventh larger or smaller, shear 0.1, a background up to half of white, blur of up to 1.5
    pixels, contrast of a quarter up to five quarters, brightness by up to 0.3, noise of up to 0.2.

    Args:
        images: uint8, `(B, C, H, W)`; they are not changed in place.
        uniform, noise: From `draw_photo`.
        strength: 0 to 1, a factor on all amounts.
    """
    b, _, h, w = images.shape
    s, both = strength, 2 * uniform - 1  # both: from -1 to 1
    column = [uniform[:, i].view(b, 1, 1, 1) for i in range(_PHOTO)]
    # Which images get what: the first six columns say.
    backed, blurred, bent, paled, lit, noisy = (u < 0.5 for u in column[:6])
    scale = torch.exp(-s * 0.14 * both[:, 7])
    zero = torch.zeros_like(scale)
    matrix = _matrix(s * 0.17 * both[:, 6], s * 0.1 * both[:, 8], zero, zero, zero)
    matrix = matrix * torch.stack([scale, scale, torch.ones_like(scale)], 1).view(b, 3, 1)
    x = _warp(images.float() / 255, matrix)
    down = torch.linspace(-0.5, 0.5, h, device=x.device).view(1, 1, h, 1)
    across = torch.linspace(-0.5, 0.5, w, device=x.device).view(1, 1, 1, w)
    slope = (2 * column[10] - 1) * down + (2 * column[11] - 1) * across
    x = torch.where(backed, x + (1 - x) * (s * 0.5 * column[9] * (1 + slope)), x)
    soft = blurred.view(b).nonzero()[:, 0]
    if len(soft):
        x[soft] = _blur(x[soft], s * 1.5 * uniform[soft, 12])
    x = torch.where(bent, x.clamp(0, 1) ** torch.exp(s * 0.8 * (2 * column[13] - 1)), x)
    mean = x.mean((1, 2, 3), keepdim=True)
    x = torch.where(paled, mean + (1 + s * (column[14] - 0.75)) * (x - mean), x)
    x = torch.where(lit, x + s * 0.3 * (2 * column[15] - 1), x)
    # How noisy: the same number that chose the image, made to go from 0 to 1.
    x = torch.where(noisy, x + s * 0.4 * column[5] * noise, x)
    return torch.where(column[16] < 1 / 3, images, (255 * x.clamp(0, 1)).round().to(torch.uint8))


def _matrix(angle: Tensor, shear_x: Tensor, shear_y: Tensor, dx: Tensor, dy: Tensor) -> Tensor:
    """Affine maps `(B, 3, 3)` in coordinates from -1 to 1: rotation by radians, then shears, then shifts; `(B,)` each."""
    one, zero = torch.ones_like(angle), torch.zeros_like(angle)
    cos, sin = angle.cos(), angle.sin()

    def rows(*values: Tensor) -> Tensor:
        return torch.stack(values, 1).view(-1, 3, 3)  # (B, 9) -> (B, 3, 3)

    turn = rows(cos, -sin, zero, sin, cos, zero, zero, zero, one)
    return turn @ rows(one, shear_x, dx, shear_y, one, dy, zero, zero, one)


def _warp(images: Tensor, matrix: Tensor) -> Tensor:
    """Float images `(B, C, H, W)` resampled where each `(B, 3, 3)` map says; black comes in."""
    height, width = images.shape[2:]
    ratio = height / width  # a turned image that is not square keeps its angles
    theta = matrix[:, :2] * torch.tensor([[1, ratio, 1], [1 / ratio, 1, 1]], device=images.device)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)  # (B, H, W, 2)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Float images `(B, C, H, W)`, each blurred by a Gaussian of its own standard deviation, `(B,)`, in pixels."""
    b, c, h, w = images.shape
    offset = torch.arange(-_RADIUS, _RADIUS + 1, device=images.device)
    kernel = torch.exp(-0.5 * (offset / sigma.clamp(min=0.05).view(b, 1)) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(c, 0)  # (B C, K)
    x = F.pad(images, [_RADIUS] * 4, mode="replicate").view(1, b * c, h + 2 * _RADIUS, w + 2 * _RADIUS)
    x = F.conv2d(x, kernel.view(b * c, 1, -1, 1), groups=b * c)
    return F.conv2d(x, kernel.view(b * c, 1, 1, -1), groups=b * c).view(b, c, h, w)
