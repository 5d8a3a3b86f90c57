"""From an image of any kind to a model's input; the one place that looks at images one at a time."""

import os
import stat
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor, nn

from ..errors import DataError, InputError
from ..progress import progress

_UNSEEN = 16  # of 255: if nothing of an image is lighter, nobody sees anything on black
_LISTED = 10  # broken files that an error names


@dataclass(frozen=True)
class Limits:
    """What a file may be that a stranger sends.

    Attributes:
        pixels: The most it may have; they are counted before they are read.
        formats: Pillow's names of the formats it may have. Some formats run other programs to be read, or are hardly used.
    """

    pixels: int
    formats: tuple[str, ...]


def create_transform(model: nn.Module) -> Callable[[Image.Image], Tensor]:
    """What turns a PIL image of any mode and size into `model`'s input.

    Grayscale (or RGB where the model takes three channels); scaled to fit, padded with black to the model's size; to
    [0, 1]; normalised with the mean and std of the model's checkpoint. On a 28x28 grayscale image it is exactly
    `(x / 255 - mean) / std`.

    Args:
        model: Any timm model that takes 1 or 3 channels.

    Returns:
        A torchvision transform from image to float tensor `(C, H, W)`.

    Raises:
        InputError: The model does not say what images it takes, or takes another number of channels than 1 or 3; or, when
            it is called, the image is none, or is so narrow that nothing of it would be left.
    """
    from torchvision.transforms import v2

    config = images_of(model)
    chans, height, width = config["input_size"]
    if chans not in (1, 3):
        raise InputError(
            f"The model takes {chans} channels; images can be converted to 1 or 3. Build it with in_chans=1 or 3."
        )
    return v2.Compose(
        [
            to_pixels((chans, height, width), config["interpolation"]),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(config["mean"], config["std"]),
        ]
    )


def images_of(model: nn.Module) -> dict[str, Any]:
    """The images that a model of timm or of the zoo takes: `input_size`, `mean`, `std` and `interpolation`.

    Raises:
        InputError: It is another model, of which nothing says that.
    """
    from timm.data import resolve_input_data_config

    if not getattr(model, "pretrained_cfg", None):  # for which timm would take colour images of 224x224
        raise InputError(
            f"A {type(model).__name__} was given, which does not say what images it takes. Make a model with "
            "cnnzoo.create_model, or set model.pretrained_cfg = dict(input_size=(1, 28, 28), mean=(0.286,), std=(0.353,)), "
            "with the numbers that it was trained with."
        )
    found = resolve_input_data_config(model=model)
    return {name: found[name] for name in ("input_size", "mean", "std", "interpolation")}


def to_pixels(image_size: tuple[int, int, int], interpolation: str) -> Callable[[Image.Image], Tensor]:
    """What turns a PIL image of any mode and size into uint8 `image_size`, `(C, H, W)`, just as `create_transform` does."""
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
        DataError: An image cannot be read, and `skip_broken` is false, or none can.
    """
    transform = to_pixels(image_size, "bilinear")
    images = torch.empty((len(names), *image_size), dtype=torch.uint8)
    good: list[int] = []
    reasons: dict[str, str] = {}
    bar = progress(zip(names, sources, strict=True), "reading images", total=len(names))
    for i, (name, source) in enumerate(bar):
        try:
            images[len(good)] = transform(open_image(source, image_size[0]))
            good.append(i)
        except InputError as e:
            reasons[name] = str(e)
    tell_broken(reasons, len(names), place, skip_broken)
    return images[: len(good)], good


def read_one_of(sources: Sequence[Any], index: int, read: Callable[[Any], Any]) -> Any:
    """What `read` makes of one of several images; what is wrong with it says which one it is, and of a file its path.

    Raises:
        InputError: It cannot be used.
    """
    try:
        return read(sources[index])
    except InputError as e:
        if len(sources) == 1 or isinstance(sources[index], (str, os.PathLike)):  # whose path the message has already
            raise
        raise InputError(f"Image {index + 1} of {len(sources)}: {e}") from e


def tell_broken(reasons: dict[str, str], count: int, place: str, skip_broken: bool) -> None:
    """Refuses those of `count` images that cannot be used, or warns of them if they are to be left out.

    Args:
        reasons: What is wrong, by the names of the images.
        place: Where all the images are.
        skip_broken: Whether to warn. If none can be used, they are refused all the same.

    Raises:
        DataError: There are some, and `skip_broken` is false, or no other is left.
    """
    if not reasons:
        return
    more = f" and {len(reasons) - _LISTED} more" if len(reasons) > _LISTED else ""
    text = f"{len(reasons)} of {count} images in {place} cannot be used: {', '.join(list(reasons)[:_LISTED])}{more}"
    first, left = next(iter(reasons.values())), len(reasons) < count
    if not skip_broken or not left:
        more = " Or leave out all broken files: --skip-broken (in Python skip_broken=True)." if left else ""
        raise DataError(f"{text}. {first}{more}")
    warnings.warn(f"{text}; they are left out.", stacklevel=3)


class ToMode(nn.Module):
    """`to_mode` as a step of a torchvision transform."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode = mode

    def forward(self, image: Image.Image) -> Image.Image:
        if not isinstance(image, Image.Image):
            raise InputError(
                f"A {type(image).__name__} was given to a transform, which takes PIL images. Of a path, an array or a "
                "tensor x pass cnnzoo.data.open_image(x)."
            )
        return to_mode(image, self.mode)


def to_mode(image: Image.Image, mode: str) -> Image.Image:
    """Any PIL image to 8-bit grayscale (`"L"`), colour (`"RGB"`), or colour with alpha (`"RGBA"`).

    Without an alpha channel what is transparent becomes black; or white, if all the rest is black and could not be seen.
    """
    if image.mode.startswith(("I", "F")):
        image = _to_8_bit(image)
    if image.mode in ("La", "RGBa"):  # premultiplied, which Pillow converts to its own kind only
        image = image.convert(image.mode.upper())
    if image.mode == "LAB":
        raise InputError("An image of mode LAB was given, which Pillow cannot convert. Make it RGB with PIL.ImageCms.")
    if image.has_transparency_data and mode != "RGBA":
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), rgba)
        if image.convert("L").getextrema()[1] <= _UNSEEN and rgba.getchannel("A").getbbox():
            image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), rgba)
    return image.convert(mode)


def _to_8_bit(image: Image.Image) -> Image.Image:
    # Pillow clips wide modes to 255. 16-bit files open as I;16 or I; F is [0, 1], as arrays are.
    values = np.asarray(image, dtype=np.float64)
    if image.mode != "F":
        top = 65535.0 if values.max() > 255 else 255.0  # in files of 16 bits there are images of 8 bits
        if values.min() < 0 or values.max() > 65535:
            raise InputError(
                f"An image of mode {image.mode} with values from {values.min():.0f} to {values.max():.0f} was given, "
                "allowed is 0 to 255 or 0 to 65535. Scale it to that."
            )
        values = values / top
    return Image.fromarray(_to_bytes(values, "image"))


class FitPad(nn.Module):
    """Scales a PIL image to fit (height, width), keeps its proportions, and pads with black."""

    def __init__(self, size: tuple[int, int], interpolation: str) -> None:
        super().__init__()
        self.size = size
        self.method = Image.Resampling[interpolation.upper()]

    def forward(self, image: Image.Image) -> Image.Image:
        height, width = self.size
        check_shape(image, width, height)
        if image.size == (width, height):
            return image
        return ImageOps.pad(image, (width, height), method=self.method, color=0)


def check_shape(image: Image.Image, width: int, height: int) -> None:
    """Refuses an image of which nothing would be left, scaled to fit `width` and `height`.

    Raises:
        InputError: It is too elongated.
    """
    scale = min(height / image.height, width / image.width)
    if min(image.height, image.width) * scale <= 0.5 * (1 + 1e-9):  # half a pixel is rounded to none
        raise InputError(
            f"An image of {image.width}x{image.height} pixels was given; scaled to fit {width}x{height}, its short "
            "side has no pixel left. Crop the image."
        )


def open_image(source: Any, channels: int = 1, limits: Limits | None = None) -> Image.Image:
    """A PIL image, read whole and turned upright, from a path, an open binary file, a PIL image, a NumPy array or a tensor.

    Args:
        source: Arrays and tensors are `(H, W)`, `(H, W, C)` or `(C, H, W)` with 1 or 3 channels; uint8, or float in [0, 1].
        channels: What the image is for: 3, or 1. For 1 an array `(3, H, W)` is refused, since it may well be three images.
        limits: What a file may be, if it is a stranger's.

    Raises:
        InputError: It is none of these, is not readable, is empty, or holds what is no pixel, such as NaN.
    """
    if isinstance(source, Image.Image):
        image = _upright(source, "The image")
    elif isinstance(source, (str, os.PathLike)):
        image = _open_file(source, limits)
    elif hasattr(source, "read"):
        image = _decode(source, "The file", limits)
    elif isinstance(source, (np.ndarray, Tensor)):
        image = _from_array(source, channels)
    else:
        raise InputError(
            f"A {type(source).__name__} was given as an image. Pass a path, a PIL image, a NumPy array or a tensor."
        )
    if 0 in image.size:
        raise InputError(f"The image has {image.width}x{image.height} pixels; at least one is needed. Pass another image.")
    return image


def _open_file(source: str | os.PathLike, limits: Limits | None) -> Image.Image:
    try:
        path = Path(source).expanduser()
        found = path.stat()
    except FileNotFoundError:
        raise InputError(f"{source} does not exist. Check the spelling, or pass an existing image file.") from None
    except (OSError, ValueError, RuntimeError, TypeError) as e:  # a null byte, ~nosuchuser, a path in bytes
        reason = getattr(e, "strerror", None) or e
        raise InputError(f"{str(source)[:300]} cannot be opened ({reason}). Pass the path of an image file.") from e
    if stat.S_ISDIR(found.st_mode):
        raise InputError(f"{path} is a folder; an image file is needed. Pass the files in it, such as {path}/*.png.")
    if not stat.S_ISREG(found.st_mode):  # reading a pipe may never end
        raise InputError(f"{path} is a pipe or a device; an image file is needed. Write its content into a file first.")
    if found.st_size == 0:
        raise InputError(f"{path} is empty (0 bytes); an image file is needed. Copy or export it again.")
    return _decode(path, str(path), limits)


def _decode(file: Any, name: str, limits: Limits | None) -> Image.Image:
    try:
        with Image.open(file, formats=limits and limits.formats) as image:
            if limits and image.width * image.height > limits.pixels:
                size = f"{image.width}x{image.height}"
                raise InputError(f"{name} has {size} pixels; at most {limits.pixels:,} are allowed. Scale it down first.")
            return _upright(image, name)
    except InputError:
        raise
    except UnidentifiedImageError as e:
        raise InputError(f"{name} is not an image that Pillow can read. Convert it to PNG or JPEG.") from e
    except Image.DecompressionBombError as e:
        raise InputError(f"{name} is too large ({e}). Scale it down first.") from e
    except Exception as e:  # each format's reader raises kinds of its own
        reason = getattr(e, "strerror", None) or e
        raise InputError(f"{name} cannot be read as an image ({reason}). Check its permissions, or export it again.") from e


def _upright(image: Image.Image, name: str) -> Image.Image:
    """The image with all its pixels, turned as the camera says, if what it says can be read."""
    try:
        image.load()
    except Exception as e:  # cut off, closed, or whatever its format's reader raises
        raise InputError(f"{name} cannot be read as an image ({e}). Check its permissions, or export it again.") from e
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # what stands beside the pixels is damaged, and they are not
        return image.copy()


def _from_array(array: np.ndarray | Tensor, channels: int) -> Image.Image:
    array = _numbers(array) if isinstance(array, Tensor) else array
    shape = tuple(array.shape)
    if array.ndim == 3 and shape[0] == 3 and channels != 3:
        raise InputError(
            f"An array of shape {shape} was given, which can mean three images, or one image of three channels. "
            "Pass three as a list, such as list(array), and one as (H, W, C)."
        )
    if array.ndim == 3 and shape[0] in (1, 3) and shape[2] not in (1, 3):
        array = array.transpose(1, 2, 0)  # (C, H, W) -> (H, W, C)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]  # (H, W, 1) -> (H, W)
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] == 3):
        raise InputError(
            f"An array of shape {shape} was given as one image. Pass (H, W), (H, W, C) or (C, H, W) with 1 or 3 "
            "channels; several images go in a list."
        )
    if 0 in array.shape:
        raise InputError(f"An array of shape {shape} holds no pixels. Pass at least one.")
    if isinstance(array, np.ma.MaskedArray) and np.ma.is_masked(array):
        raise InputError("An array with masked pixels was given; all pixels are needed. Fill them: array.filled(0).")
    if array.dtype != np.uint8:
        if not np.issubdtype(array.dtype, np.floating):
            raise InputError(f"An array of type {array.dtype} was given. Pass uint8 (0 to 255) or float (0 to 1).")
        array = _to_bytes(array, "array")
    return Image.fromarray(np.ascontiguousarray(array))


def _numbers(tensor: Tensor) -> np.ndarray:
    if tensor.is_meta or tensor.is_quantized or tensor.layout != torch.strided:
        kind = "meta" if tensor.is_meta else "quantised" if tensor.is_quantized else "sparse"
        raise InputError(f"A {kind} tensor was given as an image; an ordinary one is needed. Pass uint8 or float pixels.")
    tensor = tensor.detach().cpu().resolve_conj().resolve_neg()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()  # NumPy has no bfloat16


def _to_bytes(values: np.ndarray, kind: str) -> np.ndarray:
    """Pixels in [0, 1] to 8 bits."""
    if not np.isfinite(values).all():
        raise InputError(
            f"The {kind} has pixels that are NaN or infinite; all must be finite. Clean it with numpy.nan_to_num."
        )
    if values.min() < 0 or values.max() > 1:
        raise InputError(
            f"A float {kind} from {values.min():g} to {values.max():g} was given; allowed is 0 to 1. Scale it; cnnzoo "
            "itself normalises it with mean and std."
        )
    return (values * 255).round().astype(np.uint8)
