"""A user's own pictures: any kind of image becomes the right tensor, and what cannot is refused by name."""

import math

import numpy as np
import pytest
import timm
import torch
from hypothesis import assume, example, given, settings, strategies as st
from PIL import Image

from cnnzoo.data import create_transform, open_image
from cnnzoo.errors import InputError

MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "La", "RGBa", "I", "I;16", "F")
MEAN, STD = 0.2860, 0.3530


@pytest.fixture(scope="module")
def transform():
    return create_transform(timm.create_model("lenet_tiny", device="meta"))


@pytest.fixture(scope="module")
def rgb_transform():
    return create_transform(timm.create_model("lenet_tiny", in_chans=3, device="meta"))


def picture(mode: str, width: int, height: int, seed: int = 0) -> Image.Image:
    """Noise in any PIL mode."""
    rng = np.random.default_rng(seed)
    if mode == "F":
        return Image.fromarray(rng.random((height, width), dtype=np.float32))
    if mode == "I":
        return Image.fromarray(rng.integers(0, 65_536, (height, width), dtype=np.int32))
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 65_536, (height, width), dtype=np.uint16))
    bands = {"1": 1, "L": 1, "P": 1, "LA": 2, "La": 2, "PA": 2, "RGB": 3, "HSV": 3, "LAB": 3, "YCbCr": 3}.get(mode, 4)
    if mode == "1":
        return Image.fromarray(rng.integers(0, 256, (height, width), dtype=np.uint8)).convert("1")
    return Image.frombytes(mode, (width, height), rng.bytes(width * height * bands))


def too_elongated(width: int, height: int) -> bool:
    """Whether, scaled to fit 28x28, the short side would round to nothing."""
    return min(width, height) * 28 / max(width, height) <= 0.5


# -- the transform -------------------------------------------------------------------------------------------------------


def test_a_28x28_grayscale_image_is_only_scaled_and_normalised(transform):
    pixels = np.arange(784, dtype=np.int64).reshape(28, 28) % 256
    out = transform(Image.fromarray(pixels.astype(np.uint8)))
    assert out.dtype == torch.float32
    expected = (torch.from_numpy(pixels)[None].double() / 255 - MEAN) / STD
    torch.testing.assert_close(out.double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["lenet_tiny", "resnext_small"])
def test_it_agrees_with_timms_own_transform_where_that_is_right(name):
    model = timm.create_model(name, device="meta")
    image = picture("L", 28, 28)
    timms = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))
    torch.testing.assert_close(create_transform(model)(image), timms(image), rtol=1e-6, atol=1e-6)


@given(st.sampled_from(MODES), st.integers(1, 200), st.integers(1, 200), st.integers(0, 2**31))
@example("L", 56, 1, 0)
@example("RGB", 1, 55, 0)
@example("LA", 28, 28, 0)
@example("P", 29, 27, 0)
@settings(max_examples=150)
def test_any_mode_and_size_gives_the_right_tensor(transform, mode, width, height, seed):
    image = picture(mode, width, height, seed)
    if too_elongated(width, height):
        with pytest.raises(InputError, match=rf"{width}x{height}.*28x28.*Crop"):
            transform(image)
        return
    out = transform(image)
    assert out.shape == (1, 28, 28)
    assert out.dtype == torch.float32
    assert torch.isfinite(out).all()
    assert out.min() >= (0 - MEAN) / STD - 1e-5
    assert out.max() <= (1 - MEAN) / STD + 1e-5


@given(st.sampled_from(MODES), st.integers(1, 60), st.integers(1, 60))
def test_a_model_of_three_channels_gets_three(rgb_transform, mode, width, height):
    assume(not too_elongated(width, height))
    out = rgb_transform(picture(mode, width, height))
    assert out.shape == (3, 28, 28)
    assert torch.isfinite(out).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I", "I;16", "F"])
@pytest.mark.parametrize("level", [0.0, 1.0])
def test_black_is_black_and_white_is_white_in_every_mode(transform, mode, level):
    if mode in ("I", "I;16", "F"):
        top = 1.0 if mode == "F" else 65_535
        kind = {"I": np.int32, "I;16": np.uint16, "F": np.float32}[mode]
        image = Image.fromarray(np.full((28, 28), level * top, dtype=kind))
    else:
        image = Image.new("RGB", (28, 28), (round(level * 255),) * 3)
        image = image.convert("L").convert("LA") if mode == "LA" else image.convert(mode)
    out = transform(image)
    torch.testing.assert_close(out, torch.full_like(out, (level - MEAN) / STD), rtol=0, atol=0.02)


@pytest.mark.parametrize("kind", [np.int32, np.uint16])
def test_sixteen_bits_are_scaled_to_eight_and_not_clipped(transform, kind):
    pixels = np.arange(784).reshape(28, 28) % 256
    eight, sixteen = Image.fromarray(pixels.astype(np.uint8)), Image.fromarray((pixels * 257).astype(kind))
    assert torch.equal(transform(sixteen), transform(eight))
    assert torch.equal(transform(Image.fromarray(pixels.astype(kind))), transform(eight))  # 8 bits in a file of 16


def test_what_is_transparent_becomes_black(transform):
    clear = Image.new("RGBA", (28, 28), (255, 255, 255, 0))
    out = transform(clear)
    torch.testing.assert_close(out, torch.full_like(out, -MEAN / STD))
    palette = Image.new("P", (28, 28), 5)
    palette.putpalette([255] * 768)
    palette.info["transparency"] = 5
    out = transform(palette)
    torch.testing.assert_close(out, torch.full_like(out, -MEAN / STD))


@given(st.integers(1, 120), st.integers(1, 120))
def test_proportions_are_kept_and_the_rest_is_black(transform, width, height):
    assume(not too_elongated(width, height))
    out = transform(Image.new("L", (width, height), 255))[0]
    white = out > (0.5 - MEAN) / STD
    rows, cols = white.any(1).sum().item(), white.any(0).sum().item()
    scale = 28 / max(width, height)
    assert max(rows, cols) == 28
    assert abs(rows - height * scale) <= 1 and abs(cols - width * scale) <= 1
    assert white.sum() == rows * cols  # one rectangle
    top, left = white.any(1).nonzero()[0].item(), white.any(0).nonzero()[0].item()
    assert abs(top - (28 - rows) / 2) <= 1 and abs(left - (28 - cols) / 2) <= 1  # in the middle


def test_a_30000x2_image_is_refused(transform):
    for size in ((30_000, 2), (2, 30_000)):
        with pytest.raises(InputError, match=rf"{size[0]}x{size[1]}.*28x28.*Crop"):
            transform(Image.new("L", size))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_pixels_that_are_not_numbers_are_refused(transform, bad):
    pixels = np.zeros((28, 28), dtype=np.float32)
    pixels[3, 4] = bad
    for given_image in (lambda: transform(Image.fromarray(pixels)), lambda: open_image(pixels)):
        with pytest.raises(InputError, match="NaN or infinite.*nan_to_num"):
            given_image()


def test_an_image_in_lab_colours_is_refused_with_what_converts_it(transform):
    with pytest.raises(InputError, match="LAB.*RGB.*ImageCms"):
        transform(picture("LAB", 28, 28))


def test_a_model_of_five_channels_is_refused_with_what_to_build_instead():
    with pytest.raises(InputError, match="5 channels.*1 or 3.*in_chans=1"):
        create_transform(timm.create_model("lenet_tiny", in_chans=5, device="meta"))


# -- opening what a user has ---------------------------------------------------------------------------------------------


def test_a_photo_whose_orientation_cannot_be_read_stays_as_it_is(tmp_path):
    Image.new("RGB", (40, 20), "white").save(tmp_path / "photo.jpg", exif=b"Exif\0\0garbage-here")
    image = open_image(tmp_path / "photo.jpg")
    assert image.size == open_image(image).size == (40, 20)
    with Image.open(tmp_path / "photo.jpg") as opened:
        assert open_image(opened).size == (40, 20)


@pytest.mark.parametrize("bad", ["photo.jpg", np.zeros((28, 28), np.uint8), torch.zeros(1, 28, 28)])
def test_a_transform_given_no_image_says_what_to_pass(transform, bad):
    with pytest.raises(InputError, match=r"was given to a transform.*open_image\(x\)"):
        transform(bad)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "gif"])
def test_a_file_gives_its_pixels(tmp_path, suffix):
    image = picture("L", 20, 30)
    image.save(tmp_path / f"image.{suffix}")
    for path in (tmp_path / f"image.{suffix}", str(tmp_path / f"image.{suffix}")):
        assert np.array_equal(np.asarray(open_image(path).convert("L")), np.asarray(image))


def test_the_camera_orientation_of_a_photo_is_obeyed(tmp_path):
    image = Image.new("RGB", (40, 20))
    exif = image.getexif()
    exif[0x0112] = 6  # turned by a quarter
    image.save(tmp_path / "photo.jpg", exif=exif)
    assert open_image(tmp_path / "photo.jpg").size == (20, 40)


@pytest.mark.parametrize(
    "shape", [(9, 7), (9, 7, 1), (1, 9, 7), (9, 7, 3), (3, 9, 7)], ids=["HW", "HW1", "1HW", "HW3", "3HW"]
)
@pytest.mark.parametrize("kind", ["uint8", "float32", "tensor", "float64 tensor"])
def test_arrays_and_tensors_of_every_layout_are_taken(shape, kind):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    given_array = {
        "uint8": pixels,
        "float32": pixels.astype(np.float32) / 255,
        "tensor": torch.from_numpy(pixels.copy()),
        "float64 tensor": torch.from_numpy(pixels / 255),
    }[kind]
    image = open_image(given_array, channels=3 if shape[0] == 3 else 1)
    assert image.size == (7, 9)
    values = np.asarray(image)
    if shape[0] == 3:
        pixels = pixels.transpose(1, 2, 0)
    assert np.array_equal(values, pixels.reshape(values.shape))


def write_text(path):
    path.write_text("not an image at all\n" * 20)


def write_truncated(path):
    picture("RGB", 64, 64).save(path)
    path.write_bytes(path.read_bytes()[:2_000])


def write_broken(path):
    picture("RGB", 64, 64).save(path)
    content = bytearray(path.read_bytes())
    content[200:400] = bytes(200)
    path.write_bytes(content)


BAD_FILES = {
    "zero bytes": (lambda path: path.write_bytes(b""), "empty.*0 bytes"),
    "a text file": (write_text, "not an image"),
    "a folder": (lambda path: path.mkdir(), "is a folder"),
    "truncated": (write_truncated, "cannot be read as an image|not an image"),
    "broken inside": (write_broken, "cannot be read as an image|not an image"),
    "missing": (lambda path: None, "does not exist"),
    "a header alone": (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n"), "not an image|cannot be read"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_file_is_refused_by_its_path_with_what_to_do(tmp_path, kind):
    make, says = BAD_FILES[kind]
    path = tmp_path / "picture.png"
    make(path)
    for given_path in (path, str(path)):
        with pytest.raises(InputError, match=says) as e:
            open_image(given_path)
        assert str(path) in str(e.value)
        assert len(str(e.value).rsplit(". ", 1)) == 2  # a second sentence says what to do


def test_an_image_of_a_billion_pixels_is_refused_by_its_path(tmp_path, monkeypatch):
    path = tmp_path / "bomb.png"
    Image.new("1", (2_000, 2_000)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000)
    with pytest.raises(InputError, match=f"{path}.*too large"):
        open_image(path)


BAD_SOURCES = {
    "None": (None, "NoneType.*Pass a path"),
    "a number": (3, "int.*Pass a path"),
    "bytes": (b"abc", "bytes.*Pass a path"),
    "one dimension": (np.zeros(9, np.uint8), r"\(9,\).*\(H, W\)"),
    "a batch": (np.zeros((2, 1, 28, 28), np.uint8), r"\(2, 1, 28, 28\).*list"),
    "two channels": (np.zeros((28, 28, 2), np.uint8), r"\(28, 28, 2\).*1 or 3"),
    "no pixels": (np.zeros((0, 5), np.uint8), r"\(0, 5\)"),
    "no pixels in a tensor": (torch.zeros(1, 0, 5), r"\(1, 0, 5\)"),
    "wide integers": (np.zeros((5, 5), np.int64), "int64.*uint8.*float"),
    "booleans": (np.zeros((5, 5), bool), "bool.*uint8"),
    "0 to 255 as float": (np.full((5, 5), 200.0), "200.*0 to 1"),
    "normalised already": (torch.full((1, 5, 5), -0.8), "-0.8.*0 to 1.*normalises"),
}


@pytest.mark.parametrize("kind", BAD_SOURCES)
def test_what_is_no_image_is_refused_with_what_was_given_and_what_to_pass(kind):
    source, says = BAD_SOURCES[kind]
    with pytest.raises(InputError, match=says):
        open_image(source)


def test_an_image_without_pixels_is_refused():
    with pytest.raises(InputError, match="0x5"):
        open_image(Image.new("L", (0, 5)))
