"""Batches: shuffled, augmented and normalised as whole tensors, with no work per image."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ._distort import draw_photo, draw_randaugment, photo, randaugment
from ._splits import Split


def normalize(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 `(B, C, H, W)` to float32, scaled to [0, 1], then minus `mean`, divided by `std`."""
    shift = torch.tensor(mean, device=images.device).view(-1, 1, 1)
    scale = torch.tensor(std, device=images.device).view(-1, 1, 1)
    return images.to(torch.float32, copy=True).div_(255).sub_(shift).div_(scale)


def resize(images: Tensor, size: tuple[int, int] | None) -> Tensor:
    """Float images `(B, C, H, W)` to `(B, C, *size)`, left as they are if that is None, in channels-last memory order."""
    if size is not None and tuple(images.shape[2:]) != tuple(size):
        images = nn.functional.interpolate(images, size, mode="bilinear", antialias=True)
    return images.contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Random changes of whole batches. What is drawn comes from the generator alone, so a seed fixes it.

    Attributes:
        flip: Mirror left and right, each image with probability 1/2.
        shift: Move each image by up to so many pixels along both axes; black comes in.
        cutout: Side of a square that is blanked at a random place (arXiv:1708.04552); 0 for none.
        erase: Probability that a random rectangle, 2 to 33 % of the image, is blanked (arXiv:1708.04896).
        mixup, cutmix: Parameter of torchvision's MixUp and CutMix, which `mix` applies; 0 for none.
        mix_prob: Probability that a batch is mixed at all, by those.
        views: 2 for each image twice, one after the other, alike up to where they are blanked (dual cutout).
        randaugment, magnitude: Operations per image, and their share of the largest amount, see `_distort.randaugment`.
        photo: Strength of what photos do to pictures, 0 to 1, see `_distort.photo`.
    """

    flip: bool = False
    shift: int = 0
    cutout: int = 0
    erase: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    mix_prob: float = 1.0
    views: int = 1
    randaugment: int = 0
    magnitude: float = 0.3
    photo: float = 0.0

    def draw(self, count: int, size: tuple[int, int], generator: torch.Generator) -> dict[str, Tensor]:
        """The random choices for `count` images of `size`, on the CPU; pass them, or a part of them, to `apply`."""

        def integers(low: int, high: int) -> Tensor:
            return torch.randint(low, high, (count,), generator=generator)

        choices = dict(
            flip=integers(0, 2).bool(),
            dy=integers(-self.shift, self.shift + 1),
            dx=integers(-self.shift, self.shift + 1),
            **self._draw_blanks(count, size, generator),
        )
        for view in range(1, self.views):
            blanks = self._draw_blanks(count, size, generator)
            choices.update({f"{name}{view}": values for name, values in blanks.items()})
        if self.randaugment:
            choices.update(draw_randaugment(count, self.randaugment, generator))
        if self.photo:
            choices.update(draw_photo(count, size, generator))
        return choices

    def _draw_blanks(self, count: int, size: tuple[int, int], generator: torch.Generator) -> dict[str, Tensor]:
        """Where images are blanked, for `blank`."""
        h, w = size
        places = [torch.randint(0, side, (count,), generator=generator) - self.cutout // 2 for side in size]
        choices = dict(zip(("top", "left"), places, strict=True))
        if self.erase:
            chance, area, log_ratio, y, x = torch.rand(5, count, generator=generator)
            area, ratio = (0.02 + 0.31 * area) * h * w, torch.exp((2 * log_ratio - 1) * math.log(1 / 0.3))
            height = (area * ratio).sqrt().clamp(max=h).round() * (chance < self.erase)
            width = (area / ratio).sqrt().clamp(max=w).round()
            choices.update(height=height, width=width, y=(y * (h - height + 1)).floor(), x=(x * (w - width + 1)).floor())
        return choices

    def apply(self, images: Tensor, choices: dict[str, Tensor]) -> Tensor:
        """Flips, shifts and distorts uint8 images `(B, C, H, W)`. Cutout comes after normalising: `blank`."""
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
        if self.randaugment:
            images = randaugment(images, choices["which"], choices["sign"], self.magnitude)
        if self.photo:
            images = photo(images, choices["uniform"], choices["noise"], self.photo)
        return images

    def blank(self, images: Tensor, choices: dict[str, Tensor], view: int = 0) -> Tensor:
        """Sets squares and rectangles of normalised images `(B, C, H, W)` to 0, the mean of the data set."""
        if view:
            choices = {name.removesuffix(str(view)): v for name, v in choices.items() if name.endswith(str(view))}
        if self.cutout:
            images = _fill(images, choices["top"], choices["left"], self.cutout, self.cutout)
        if self.erase:
            images = _fill(images, choices["y"], choices["x"], choices["height"], choices["width"])
        return images

    def mix(self, images: Tensor, labels: Tensor, num_classes: int, seed: int) -> tuple[Tensor, Tensor]:
        """Mixes the images of a batch, by MixUp or CutMix: labels become probabilities `(B, num_classes)`."""
        from torchvision.transforms import v2

        kinds = [v2.MixUp(alpha=self.mixup, num_classes=num_classes)] if self.mixup else []
        kinds += [v2.CutMix(alpha=self.cutmix, num_classes=num_classes)] if self.cutmix else []
        with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator
            torch.manual_seed(seed)
            return kinds[int(torch.randint(len(kinds), ()))](images, labels)


def _fill(images: Tensor, top: Tensor, left: Tensor, height: Tensor | int, width: Tensor | int) -> Tensor:
    """Zeroes a rectangle of each image `(B, C, H, W)`; its place and size are numbers, or one per image `(B,)`."""
    b, _, h, w = images.shape

    def inside(start: Tensor, length: Tensor | int, size: int) -> Tensor:
        offset = torch.arange(size, device=images.device) - start.to(images.device).view(b, 1)  # (B, size)
        length = length.to(images.device).view(b, 1) if isinstance(length, Tensor) else length
        return (offset >= 0) & (offset < length)

    return images.masked_fill(inside(top, height, h).view(b, 1, h, 1) & inside(left, width, w).view(b, 1, 1, w), 0.0)


def epoch_batches(
    split: Split,
    batch_size: int,
    augment: Augment,
    *,
    seed: int,
    epoch: int,
    image_size: tuple[int, int] | None = None,
    start: int = 0,
    rank: int = 0,
    world: int = 1,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled, augmented, normalised batches of one epoch; a last, smaller batch is left out.

    Order and augmentation depend on `seed` and `epoch` alone. Each of `world` processes gets its part of the same global
    batches, so the number of processes changes neither.

    Args:
        split: What to train on, already on its device.
        batch_size: Of the global batch; `world` divides it. A split of fewer images gives no batch.
        augment: What to draw; in pixels of the whole image.
        image_size: Height and width to scale to, last of all; the split's own if None.
        seed, epoch: Numbers from 0, which draw the order and the augmentation.
        start: Batches to leave out at the beginning; the others stay what they are.
        rank, world: This process's number, from 0, and how many processes there are.

    Yields:
        Float images `(batch_size // world, C, *image_size)` in channels-last memory order, and labels: class indices, or
        probabilities `(batch_size // world, K)` where images are mixed. With two views of each image there are twice as
        many, the views of one image side by side.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(len(split), generator=generator)
    size = (split.images.shape[2], split.images.shape[3])
    mixes = augment.mixup > 0 or augment.cutmix > 0
    everyone = slice(None) if mixes else slice(rank, None, world)  # what is mixed has to be there whole
    for first in range(0, len(split) - batch_size + 1, batch_size):
        choices = augment.draw(batch_size, size, generator)
        mix_seed = int(torch.randint(2**62, (), generator=generator)) if mixes else 0
        mixed = mixes and (augment.mix_prob >= 1 or torch.rand((), generator=generator).item() < augment.mix_prob)
        if first < start * batch_size:
            continue
        mine = {k: v[everyone] for k, v in choices.items()}
        index = order[first : first + batch_size][everyone].to(split.images.device)
        images, labels = augment.apply(split.images[index], mine), split.labels[index]
        images = normalize(images, split.info.mean, split.info.std)
        views = [(augment.blank(images, mine, view), labels) for view in range(augment.views)]
        if mixed:  # alike in all views
            views = [augment.mix(*view, len(split.info.labels), mix_seed) for view in views]
        if mixes:
            views = [(images[rank::world], labels[rank::world]) for images, labels in views]
        # (V, B, ...) -> (B V, ...)
        images, labels = (torch.stack(parts, 1).flatten(0, 1) for parts in zip(*views, strict=True))
        yield resize(images, image_size), labels
