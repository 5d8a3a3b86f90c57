"""Data sets as tensors, augmentation on whole batches, and images of any kind to model input.

A split is one uint8 tensor; nothing here touches images one at a time, except what opens a user's own picture.
"""

import gzip
import hashlib
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor, nn

from .datasets import DatasetInfo, get_dataset_info
from .errors import DataError, InputError, unknown

SPLITS = ("train", "fit", "holdout", "test")


# -- data sets -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Split:
    """Images and labels of one split, in memory.

    Attributes:
        images: uint8, `(N, C, H, W)`.
        labels: int64, `(N,)`.
        info: Facts about the data set.
    """

    images: Tensor
    labels: Tensor
    info: DatasetInfo

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: slice | Tensor) -> "Split":
        return replace(self, images=self.images[index], labels=self.labels[index])

    def to(self, device: torch.device | str) -> "Split":
        """The same split on another device."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))


def default_data_dir() -> Path:
    """`CNNZOO_DATA_DIR` if set, else `cnnzoo` in the user's cache folder."""
    if given := os.environ.get("CNNZOO_DATA_DIR"):
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "cnnzoo"


def load_split(
    name: str = "fashion_mnist", split: str = "test", *, data_dir: str | Path | None = None, download: bool = False
) -> Split:
    """Reads one split of a data set, every file checked against its md5.

    Args:
        name: The data set.
        split: `"train"` (all 60,000), `"test"`, or for making choices `"fit"` and `"holdout"`: the training images
            without the last 5,000, and those.
        data_dir: Folder that holds `FashionMNIST/raw`, as torchvision lays it out; `default_data_dir()` if None.
        download: Fetch what is missing.

    Raises:
        DataError: A file is missing, truncated, altered or unreadable; the message says which and where it belongs.
    """
    info = get_dataset_info(name)
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    folder = Path(data_dir or default_data_dir()).expanduser() / info.folder
    names = list(info.files)[2:] if split == "test" else list(info.files)[:2]
    if download:
        fetch(info, folder, names)
    images = _read_idx(info, folder, names[0])
    labels = _read_idx(info, folder, names[1])
    whole = Split(images.view(-1, *info.image_size), labels.long(), info)
    if split == "fit":
        return whole[: -info.holdout]
    return whole[-info.holdout :] if split == "holdout" else whole


def fetch(info: DatasetInfo, folder: Path, names: list[str]) -> None:
    """Downloads the missing ones of `names` into `folder`, trying each mirror in turn.

    Raises:
        DataError: No mirror delivered a file with the right md5, or the folder cannot be written to.
    """
    from torchvision.datasets.utils import download_url

    try:
        names = [n for n in names if not ((folder / n).is_file() or (folder / n.removesuffix(".gz")).is_file())]
        if names:
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise _no_access(folder, e) from e
    for name in names:
        failures = []
        for mirror in info.mirrors:
            try:
                # Under another name until its md5 is known to be right.
                download_url(mirror + name, str(folder), f"{name}.part", info.files[name])
                os.replace(folder / f"{name}.part", folder / name)
                break
            except PermissionError as e:
                raise _no_access(folder, e) from e
            except (OSError, RuntimeError) as e:  # URLError is an OSError, a wrong md5 a RuntimeError
                failures.append(f"{mirror}: {e}")
                (folder / f"{name}.part").unlink(missing_ok=True)
        else:
            raise DataError(
                f"{name} of {info.title} could not be downloaded ({'; '.join(failures)}). Go online and try again, or put "
                f"the file (md5 {info.files[name]}, see {info.homepage}) into {folder}."
            )


def _no_access(folder: Path, e: OSError) -> DataError:
    return DataError(
        f"{folder} cannot be used ({e.strerror}). Choose another folder with data_dir= (--data-dir, CNNZOO_DATA_DIR)."
    )


def _read_idx(info: DatasetInfo, folder: Path, name: str) -> Tensor:
    """Images `(N, H, W)` or labels `(N,)` of one idx file, as uint8."""
    packed, plain = folder / name, folder / name.removesuffix(".gz")
    path, expected = packed, info.files[name]
    try:
        if plain.exists() and not packed.exists():
            path, expected = plain, info.unpacked[plain.name]
        raw = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as e:
        raise DataError(
            f"{packed} of {info.title} is missing. Allowed is the official file, md5 {expected}. Pass the folder above "
            f"{info.folder} as data_dir= (--data-dir, CNNZOO_DATA_DIR), or let it be downloaded: download=True (--download)."
        ) from e
    except OSError as e:
        raise DataError(f"{path} cannot be read ({e.strerror}). Check its permissions or choose another data_dir.") from e
    found = hashlib.md5(raw, usedforsecurity=False).hexdigest()
    if found != expected:
        raise DataError(
            f"{path} is not the official file: its md5 is {found}, expected {expected} ({len(raw):,} bytes found). It is "
            f"truncated or altered; delete it and download it again, or put the right one into {folder}."
        )
    content = bytearray(gzip.decompress(raw) if path == packed else raw)
    dims = content[3]
    shape = struct.unpack(f">{dims}I", content[4 : 4 + 4 * dims])  # the md5 was right, so the header is too
    return torch.frombuffer(content, dtype=torch.uint8, offset=4 + 4 * dims).view(shape)


# -- batches -------------------------------------------------------------------------------------------------------------


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
    rank: int = 0,
    world: int = 1,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled, augmented, normalised batches of one epoch; a last, smaller batch is left out.

    Order and augmentation depend on `seed` and `epoch` alone. Each of `world` processes gets its part of the same global
    batches, so the number of processes changes neither.

    Args:
        split: What to train on, already on its device.
        batch_size: Of the global batch; `world` divides it.
        augment: What to draw.

    Yields:
        Float images `(batch_size // world, C, H, W)` in channels-last memory order, and labels.
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
        yield images.contiguous(memory_format=torch.channels_last), split.labels[index]


# -- images to model input -----------------------------------------------------------------------------------------------


def create_transform(model: nn.Module) -> Callable[[Image.Image], Tensor]:
    """What turns a PIL image of any mode and size into `model`'s input.

    Grayscale (or RGB where the model takes three channels); scaled to fit, padded with black to the model's size; to
    [0, 1]; normalised with the mean and std of the model's checkpoint. On a 28x28 grayscale image it is exactly
    `(x / 255 - mean) / std`.

    Args:
        model: Any timm model that takes 1 or 3 channels.

    Returns:
        A torchvision transform from image to float tensor `(C, H, W)`.
    """
    from timm.data import resolve_input_data_config
    from torchvision.transforms import v2

    config = resolve_input_data_config(model=model)
    chans, height, width = config["input_size"]
    if chans not in (1, 3):
        raise InputError(f"The model takes {chans} channels; images can be made into 1 or 3. Build it with in_chans=1 or 3.")
    return v2.Compose(
        [
            ToMode("L" if chans == 1 else "RGB"),
            FitPad((height, width), config["interpolation"]),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(config["mean"], config["std"]),
        ]
    )


class ToMode(nn.Module):
    """Any PIL image to 8-bit grayscale (`"L"`) or colour (`"RGB"`). What is transparent becomes black."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode = mode

    def forward(self, image: Image.Image) -> Image.Image:
        if image.mode.startswith(("I", "F")):
            image = _to_8_bit(image)
        if image.mode in ("La", "RGBa"):  # premultiplied, which Pillow converts to its own kind only
            image = image.convert(image.mode.upper())
        if image.mode == "LAB":
            raise InputError("An image of mode LAB was given; Pillow cannot convert it. Make it RGB with PIL.ImageCms first.")
        if image.has_transparency_data:
            rgba = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), rgba)
        return image.convert(self.mode)


def _to_8_bit(image: Image.Image) -> Image.Image:
    # Pillow clips wide modes to 255. 16-bit files open as I;16 or I; F is [0, 1] by custom, or [0, 255].
    values = np.asarray(image, dtype=np.float64)
    if not np.isfinite(values).all():
        raise InputError("The image holds NaN or infinite pixels, only finite ones can be read. Clean it with numpy.nan_to_num.")
    if image.mode == "F":
        top = 1.0 if values.max() <= 1 else 255.0
    else:
        top = 65535.0 if image.mode != "I" or values.max() > 255 else 255.0
    return Image.fromarray(((values / top).clip(0, 1) * 255).round().astype(np.uint8))


class FitPad(nn.Module):
    """Scales a PIL image to fit (height, width), keeps its proportions, and pads with black."""

    def __init__(self, size: tuple[int, int], interpolation: str) -> None:
        super().__init__()
        self.size = size
        self.method = Image.Resampling[interpolation.upper()]

    def forward(self, image: Image.Image) -> Image.Image:
        height, width = self.size
        scale = min(height / image.height, width / image.width)
        if min(image.height, image.width) * scale < 0.5:
            raise InputError(
                f"An image of {image.width}x{image.height} pixels was given; scaled to fit {width}x{height} nothing would be "
                "left of its short side. Crop it to what it shows."
            )
        if image.size == (width, height):
            return image
        return ImageOps.pad(image, (width, height), method=self.method, color=0)


def open_image(source: Any) -> Image.Image:
    """A PIL image from a path, a PIL image, a NumPy array or a tensor.

    Args:
        source: Arrays and tensors are `(H, W)`, `(H, W, C)` or `(C, H, W)` with 1 or 3 channels; uint8, or float in [0, 1].

    Raises:
        InputError: It is none of these, is not readable, is empty, or holds NaN.
    """
    if isinstance(source, Image.Image):
        image = source
    elif isinstance(source, (str, os.PathLike)):
        image = _open_file(Path(source))
    elif isinstance(source, (np.ndarray, Tensor)):
        image = _from_array(source)
    else:
        raise InputError(
            f"A {type(source).__name__} was given as an image. Pass a path, a PIL image, a NumPy array or a tensor."
        )
    if 0 in image.size:
        raise InputError(f"The image has {image.width}x{image.height} pixels, one at least is needed. Pass another image.")
    return image


def _open_file(path: Path) -> Image.Image:
    if path.is_dir():
        raise InputError(f"{path} is a folder, an image file is needed. Pass the files in it, such as {path}/*.png.")
    if not path.exists():
        raise InputError(f"{path} does not exist. Check the spelling, or pass an existing image file.")
    if path.is_file() and path.stat().st_size == 0:
        raise InputError(f"{path} is empty (0 bytes), an image file is needed. Copy or export it again.")
    try:
        with Image.open(path) as image:
            image.load()
            return ImageOps.exif_transpose(image)
    except UnidentifiedImageError as e:
        raise InputError(f"{path} is not an image that Pillow can read. Convert it to PNG or JPEG.") from e
    except Image.DecompressionBombError as e:
        raise InputError(f"{path} is too large an image ({e}). Scale it down first.") from e
    except (OSError, SyntaxError, ValueError) as e:
        raise InputError(f"{path} cannot be read as an image ({e}). Check its permissions, or export it again.") from e


def _from_array(array: np.ndarray | Tensor) -> Image.Image:
    array = array.detach().cpu().numpy() if isinstance(array, Tensor) else array
    shape = array.shape
    if array.ndim == 3 and shape[0] in (1, 3) and shape[2] not in (1, 3):
        array = array.transpose(1, 2, 0)  # (C, H, W) -> (H, W, C)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]  # (H, W, 1) -> (H, W)
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] == 3):
        raise InputError(
            f"An array of shape {tuple(shape)} was given as one image. Pass (H, W), (H, W, C) or (C, H, W) with 1 or 3 "
            "channels; several images go in a list."
        )
    if 0 in array.shape:
        raise InputError(f"An array of shape {tuple(shape)} holds no pixels. Pass at least one.")
    if array.dtype != np.uint8:
        if not np.issubdtype(array.dtype, np.floating):
            raise InputError(f"An array of type {array.dtype} was given. Pass uint8 (0 to 255) or float (0 to 1).")
        if not np.isfinite(array).all():
            raise InputError("The array holds NaN or infinite pixels. Clean it with numpy.nan_to_num.")
        if array.min() < 0 or array.max() > 1:
            raise InputError(
                f"A float array from {array.min():g} to {array.max():g} was given, allowed is 0 to 1. Scale it, and leave "
                "normalising with mean and std to cnnzoo."
            )
        array = (array * 255).round().astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(array))
