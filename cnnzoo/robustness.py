"""Accuracy on images that are a little off: moved, noisy, blurred, or of low contrast.

The corruptions are made here, from a seed, and are milder than ImageNet-C's (arXiv:1903.12261), which were drawn up for
large photographs: 28x28 pixels hold less.
"""

import math
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from . import evaluate
from .data import Augment, Split
from .errors import InputError, unknown

# Kind of corruption -> its amounts, from mild to strong.
CORRUPTIONS: dict[str, tuple[float, ...]] = dict(
    shift=(1, 2, 4),  # pixels, along one axis or both
    noise=(0.05, 0.1, 0.2),  # standard deviation, where 1 is from black to white
    blur=(0.5, 1.0, 1.5),  # standard deviation of a Gaussian kernel, in pixels
    contrast=(0.75, 0.5, 0.25),  # factor on each pixel's distance from the image's mean
)
_UNITS = dict(shift="pixels", noise="of black to white", blur="pixels", contrast="of what it was")
_CHUNK = 1000  # images in memory as float32 at a time


def names() -> tuple[str, ...]:
    """Every corruption, as `"kind amount"`: `"shift 1"`, `"noise 0.05"`, ..."""
    return tuple(f"{kind} {amount:g}" for kind, amounts in CORRUPTIONS.items() for amount in amounts)


def corrupt(images: Tensor, corruption: str, seed: int = 0) -> Tensor:
    """Spoils images; the same seed spoils them the same way, on any device.

    Args:
        images: `(B, C, H, W)`, uint8 or float in [0, 1].
        corruption: One of `names()`.
        seed: Of directions and noise.

    Returns:
        Images of the same shape, type and range.

    Raises:
        InputError: The images are not such a batch.
        UnknownNameError: There is no such corruption.
    """
    if corruption not in names():
        raise unknown("corruption", str(corruption), names())
    if not isinstance(images, Tensor):
        raise InputError(f"A {type(images).__name__} was given as images. Pass a tensor (B, C, H, W), such as split.images.")
    if images.dim() != 4 or not (images.dtype == torch.uint8 or images.is_floating_point()):
        raise InputError(
            f"Images of shape {tuple(images.shape)} and type {images.dtype} were given; allowed is (B, C, H, W) in uint8, "
            "or float from 0 to 1. Pass split.images, for example."
        )
    if images.is_floating_point() and not ((images >= 0) & (images <= 1)).all():  # which NaN is not either
        low, high = images.min().item(), images.max().item()
        raise InputError(
            f"Float images from {low:g} to {high:g} were given; allowed is 0 to 1, and no NaN. Scale them, or pass uint8."
        )
    kind, amount = corruption.split()
    if kind == "blur" and min(images.shape[2:]) <= _reach(float(amount)):  # it mirrors the image at its edges
        raise InputError(
            f"Images of {images.shape[2]}x{images.shape[3]} pixels were given; {corruption} needs more than "
            f"{_reach(float(amount))} a side. Leave it out, or scale them up."
        )
    generator = torch.Generator().manual_seed(seed)
    parts = [_apply(part, kind, float(amount), generator) for part in images.split(_CHUNK)]
    return torch.cat(parts) if parts else images.clone()


def _reach(sigma: float) -> int:
    """Pixels that a blur looks at to each side."""
    return math.ceil(3 * sigma)


def _apply(images: Tensor, kind: str, amount: float, generator: torch.Generator) -> Tensor:
    whole = images.dtype == torch.uint8
    x = images.float() / 255 if whole else images
    if kind == "shift":
        x = _shift(x, round(amount), generator)
    elif kind == "noise":
        x = x + amount * torch.randn(x.shape, generator=generator).to(x)
    elif kind == "blur":
        from torchvision.transforms.functional import gaussian_blur

        x = gaussian_blur(x, 2 * _reach(amount) + 1, amount)
    else:
        mean = x.mean((1, 2, 3), keepdim=True)
        x = mean + amount * (x - mean)
    x = x.clamp(0, 1)
    return (255 * x).round().to(torch.uint8) if whole else x


def _shift(x: Tensor, pixels: int, generator: torch.Generator) -> Tensor:
    """Moves each image so many pixels in one of the eight directions; black comes in."""
    cell = torch.randint(8, (len(x),), generator=generator)
    cell = cell + (cell >= 4)  # of the nine cells around and under an image, all but the middle one
    return Augment(shift=pixels).apply(x, dict(dy=(cell // 3 - 1) * pixels, dx=(cell % 3 - 1) * pixels))


def accuracies(
    model: nn.Module, split: Split, *, corruptions: Iterable[str] | None = None, seed: int = 0
) -> dict[str, float]:
    """Top-1 in percent on a split spoiled in each way.

    Args:
        model: A classifier; see `evaluate.evaluate`.
        split: The images, clean.
        corruptions: Some of `names()`; all of them if None.
        seed: See `corrupt`.

    Returns:
        `{corruption: top-1}`, in the order of `corruptions`.

    Raises:
        UnknownNameError: There is no such corruption.
        InputError: The split is empty.
    """
    chosen = names() if corruptions is None else tuple(corruptions)
    return {name: evaluate.evaluate(model, replace(split, images=corrupt(split.images, name, seed))).top1 for name in chosen}


def as_markdown(found: dict[str, float]) -> str:
    """A table of what `accuracies` returned: a row for each kind of corruption, its amounts side by side."""
    rows: dict[str, list[tuple[str, float]]] = {}
    for name, top1 in found.items():
        kind, _, amount = name.partition(" ")
        rows.setdefault(kind, []).append((amount, top1))
    lines = ["| corruption | amounts | top-1, % |", "|---|---|---|"]
    for kind, cells in rows.items():
        amounts, tops = ", ".join(a for a, _ in cells), ", ".join(f"{t:.1f}" for _, t in cells)
        lines.append(f"| {kind} | {amounts} {_UNITS.get(kind, '')} | {tops} |")
    return "\n".join(lines)
