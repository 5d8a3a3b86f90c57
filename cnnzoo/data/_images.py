"""From an image of any kind to a model's input; the one place that looks at images one at a time."""

import os
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor, nn
from tqdm import tqdm

from ..errors import DataError, InputError

_LISTED = 10  # broken files that an error names


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
            _to_pixels((chans, height, width), config["interpolation"]),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(config["mean"], config["std"]),
        ]
    )


def _to_pixels(image_size: tuple[int, int, int], interpolation: str) -> Callable[[Image.Image], Tensor]:
    """From a PIL image of any mode and size to uint8 `(C, H, W)`."""
    from torchvision.transforms import v2

    chans, height, width = image_size
    return v2.Compose([ToMode("L" if chans == 1 else "RGB"), FitPad((height, width), interpolation), v2.PILToTensor()])


def read_images(
    sources: Iterable[Any],
    names: list[str],
    image_size: tuple[int, int, int],
    *,
    place: str,
    skip_broken: bool = False,
) -> tuple[Tensor, list[int]]:
    """Many images of any kind as one tensor, made to fit just as `create_transform` does it for the models here.

    Args:
        sources: What `open_image` takes.
        names: What messages call each of them.
        image_size: Channels (1 or 3), height and width to make of each.
        place: Where they all are, for messages.
        skip_broken: Leave out, with a warning, what cannot be read.

    Returns:
        uint8 `(N, *image_size)`, and the indices of the N images among `sources`.

    Raises:
        DataError: An image cannot be read, and `skip_broken` is false.
    """
    transform = _to_pixels(image_size, "bilinear")
    images = torch.empty((len(names), *image_size), dtype=torch.uint8)
    good: list[int] = []
    reasons: dict[str, str] = {}
    bar = tqdm(zip(names, sources, strict=True), total=len(names), desc="reading images", leave=False, disable=None)
    for i, (name, source) in enumerate(bar):
        try:
            images[len(good)] = transform(open_image(source))
            good.append(i)
        except InputError as e:
            reasons[name] = str(e)
    if reasons:
        more = f" and {len(reasons) - _LISTED} more" if len(reasons) > _LISTED else ""
        listed = ", ".join(list(reasons)[:_LISTED]) + more
        text = f"{len(reasons)} of {len(names)} images in {place} cannot be used: {listed}"
        if not skip_broken:
            raise DataError(f"{text}. {next(iter(reasons.values()))} Or leave out all that are broken: skip_broken=True.")
        warnings.warn(f"{text}; they are left out.", stacklevel=2)
    return images[: len(good)], good


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
            raise InputError("An image of mode LAB was given, which Pillow cannot convert. Make it RGB with PIL.ImageCms.")
        if image.has_transparency_data:
            rgba = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), rgba)
        return image.convert(self.mode)


def _to_8_bit(image: Image.Image) -> Image.Image:
    # Pillow clips wide modes to 255. 16-bit files open as I;16 or I; F is [0, 1] by custom, or [0, 255].
    values = np.asarray(image, dtype=np.float64)
    if not np.isfinite(values).all():
        raise InputError("The image holds NaN or infinite pixels, finite ones are needed. Clean it with numpy.nan_to_num.")
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
                f"An image of {image.width}x{image.height} pixels was given; scaled to fit {width}x{height} nothing would "
                "be left of its short side. Crop it to what it shows."
            )
        if image.size == (width, height):
            return image
        return ImageOps.pad(image, (width, height), method=self.method, color=0)


def open_image(source: Any) -> Image.Image:
    """A PIL image from a path, an open binary file, a PIL image, a NumPy array or a tensor.

    Args:
        source: Arrays and tensors are `(H, W)`, `(H, W, C)` or `(C, H, W)` with 1 or 3 channels; uint8, or float in [0, 1].

    Raises:
        InputError: It is none of these, is not readable, is empty, or holds NaN.
    """
    if isinstance(source, Image.Image):
        image = source
    elif isinstance(source, (str, os.PathLike)):
        image = _open_file(Path(source))
    elif hasattr(source, "read"):
        image = _decode(source, "The file")
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
    return _decode(path, str(path))


def _decode(file: Any, name: str) -> Image.Image:
    try:
        with Image.open(file) as image:
            image.load()
            return ImageOps.exif_transpose(image)
    except UnidentifiedImageError as e:
        raise InputError(f"{name} is not an image that Pillow can read. Convert it to PNG or JPEG.") from e
    except Image.DecompressionBombError as e:
        raise InputError(f"{name} is too large an image ({e}). Scale it down first.") from e
    except Exception as e:  # each format's reader raises kinds of its own
        raise InputError(f"{name} cannot be read as an image ({e}). Check its permissions, or export it again.") from e


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
