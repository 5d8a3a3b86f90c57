"""Batches: shuffled, augmented and normalised as whole tensors, with no work per image."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ._splits import Split


def normalize(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 `(B, C, H, W)` to float32, scaled to [0, 1], then minus `mean`, divided by `std`."""
    shift = torch.tensor(mean, device=images.device).view(-1, 1, 1)
    scale = torch.tensor(std, device=images.device).view(-1, 1, 1)
    return (images.float() / 255 - shift) / scale


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Random changes of whole batches. What is drawn comes from the generator alone, so a seed fixes it.

    Attributes:
        flip: Mirror left and right, each image with probability 1/2.
        shift: Move each image by up to so many pixels along both axes; black comes in.
        cutout: Side of a square that is blanked at a random place (arXiv:1708.04552); 0 for none.
    """

    flip: bool = False
    shift: int = 0
    cutout: int = 0

    def draw(self, count: int, size: tuple[int, int], generator: torch.Generator) -> dict[str, Tensor]:
        """The random choices for `count` images of `size`, on the CPU; pass them, or a part of them, to `apply`."""
        h, w = size

        def integers(low: int, high: int) -> Tensor:
            return torch.randint(low, high, (count,), generator=generator)

        return dict(
            flip=integers(0, 2).bool(),
            dy=integers(-self.shift, self.shift + 1),
            dx=integers(-self.shift, self.shift + 1),
            top=integers(0, h) - self.cutout // 2,
            left=integers(0, w) - self.cutout // 2,
        )

    def apply(self, images: Tensor, choices: dict[str, Tensor]) -> Tensor:
        """Flips and shifts uint8 images `(B, C, H, W)`. Cutout comes after normalising: `blank`."""
        b, c, h, w = images.shape
        choices = {k: v.to(images.device) for k, v in choices.items()}
        if self.flip:
            images = torch.where(choices["flip"].view(b, 1, 1, 1), images.flip(3), images)
        if self.shift:
            s = self.shift
            padded = nn.functional.pad(images, (s, s, s, s))
            rows = torch.arange(h, device=images.device) + s + choices["dy"].view(b, 1)  # (B, H)
            cols = torch.arange(w, device=images.device) + s + choices["dx"].view(b, 1)  # (B, W)
            index = torch.arange(b, device=images.device).view(b, 1, 1)
            # (B, H, W, C) -> (B, C, H, W)
            images = padded[index, :, rows.view(b, h, 1), cols.view(b, 1, w)].permute(0, 3, 1, 2)
        return images

    def blank(self, images: Tensor, choices: dict[str, Tensor]) -> Tensor:
        """Sets a square of each normalised image `(B, C, H, W)` to 0, the mean of the data set."""
        if not self.cutout:
            return images
        b, _, h, w = images.shape
        rows = torch.arange(h, device=images.device) - choices["top"].to(images.device).view(b, 1)  # (B, H)
        cols = torch.arange(w, device=images.device) - choices["left"].to(images.device).view(b, 1)  # (B, W)
        inside_rows = (rows >= 0) & (rows < self.cutout)
        inside_cols = (cols >= 0) & (cols < self.cutout)
        inside = inside_rows.view(b, 1, h, 1) & inside_cols.view(b, 1, 1, w)
        return images.masked_fill(inside, 0.0)


def epoch_batches(
    split: Split,
    batch_size: int,
    augment: Augment,
    *,
    seed: int,
    epoch: int,
    image_size: tuple[int, int] | None = None,
    rank: int = 0,
    world: int = 1,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled, augmented, normalised batches of one epoch; a last, smaller batch is left out.

    Order and augmentation depend on `seed` and `epoch` alone. Each of `world` processes gets its part of the same global
    batches, so the number of processes changes neither.

    Args:
        split: What to train on, already on its device.
        batch_size: Of the global batch; `world` divides it.
        augment: What to draw; in pixels of the whole image.
        image_size: Height and width to scale to, last of all; the split's own if None.

    Yields:
        Float images `(batch_size // world, C, *image_size)` in channels-last memory order, and labels.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(len(split), generator=generator)
    size = (split.images.shape[2], split.images.shape[3])
    for start in range(0, len(split) - batch_size + 1, batch_size):
        choices = augment.draw(batch_size, size, generator)
        mine = {k: v[rank::world] for k, v in choices.items()}
        index = order[start : start + batch_size][rank::world].to(split.images.device)
        images = augment.apply(split.images[index], mine)
        images = augment.blank(normalize(images, split.info.mean, split.info.std), mine)
        if image_size not in (None, size):
            images = nn.functional.interpolate(images, image_size, mode="bilinear", antialias=True)
        yield images.contiguous(memory_format=torch.channels_last), split.labels[index]
