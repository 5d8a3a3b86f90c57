"""Photos: every step to the data set's format, and that garments are named whatever the background."""

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, strategies as st
from PIL import Image, ImageOps

import cnnzoo
from cnnzoo.cli import main
from cnnzoo.data import photo_steps
from cnnzoo.drawings import garments
from cnnzoo.errors import InputError


def as_photo(
    drawing: Image.Image, *, light: bool, size: int = 240, tint: tuple[float, ...] = (1.0, 0.9, 0.8)
) -> Image.Image:
    """A drawing as a shop would show it: large, coloured, off centre, on a white or a black background."""
    large = drawing.resize((size, size), Image.Resampling.BICUBIC)
    pixels = np.asarray(large, dtype=float)[..., None] * np.array(tint)
    photo = Image.new("RGB", (size * 2, size + 90), "black")
    photo.paste(Image.fromarray(pixels.round().astype(np.uint8)), (30, 50))
    return ImageOps.invert(photo) if light else photo


def test_the_steps_are_the_published_ones_in_their_order():
    steps = photo_steps(as_photo(garments()["Trouser"], light=True))
    assert list(steps) == ["colour", "trim", "resize", "sharpen", "centre", "invert", "8-bit"]
    assert steps["trim"].size < steps["colour"].size
    assert max(steps["resize"].size) == 28 > min(steps["resize"].size)
    assert steps["centre"].size == steps["8-bit"].size == (28, 28)
    assert steps["8-bit"].mode == "L"


@pytest.mark.parametrize("light", [True, False], ids=["light", "dark"])
def test_the_result_is_light_on_black_centred_and_fills_the_frame(light):
    pixels = np.asarray(photo_steps(as_photo(garments()["Trouser"], light=light))["8-bit"])
    assert pixels[[0, 0, -1, -1], [0, -1, 0, -1]].max() < 20
    assert pixels.max() > 100
    rows, columns = (pixels > 40).any(1).nonzero()[0], (pixels > 40).any(0).nonzero()[0]
    assert (rows[0], rows[-1]) == (0, 27)
    assert abs(columns[0] - (27 - columns[-1])) <= 2


def test_a_light_and_a_dark_background_give_the_same_but_for_rounding():
    light, dark = (
        np.asarray(photo_steps(as_photo(garments()["Bag"], light=light, tint=(1, 1, 1)))["8-bit"], dtype=int)
        for light in (True, False)
    )
    assert np.abs(light - dark).max() <= 8


@pytest.mark.parametrize("light", [True, False], ids=["light", "dark"])
def test_photos_of_the_drawn_garments_are_named_about_as_well_as_the_drawings(light):
    model = cnnzoo.create_model("resnext_small", pretrained=True)
    answers = cnnzoo.predict(model, [as_photo(g, light=light) for g in garments().values()], photo=True)
    right = [best[0][0] == name for name, best in zip(garments(), answers, strict=True)]
    assert sum(right) >= 7


@given(
    st.integers(3, 90),
    st.integers(3, 90),
    st.sampled_from(["L", "RGB", "RGBA", "P", "I;16", "1", "CMYK"]),
    st.integers(0, 99),
)
def test_any_picture_that_shows_something_becomes_28x28(width, height, mode, seed):
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width), dtype=np.uint8)
    pixels[0, 0], pixels[height // 2, width // 2] = 0, 255
    image = Image.fromarray(pixels)
    image = Image.fromarray(pixels.astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
    result = photo_steps(image)["8-bit"]
    assert (result.mode, result.size) == ("L", (28, 28))


def test_nothing_but_background_is_refused():
    with pytest.raises(InputError, match="nothing but its background"):
        photo_steps(Image.new("RGB", (50, 50), (240, 240, 238)))


def test_the_command_names_photos_and_draws_the_steps(tmp_path):
    photo, out = tmp_path / "photo.jpg", tmp_path / "steps.png"
    as_photo(garments()["Trouser"], light=True).save(photo)
    result = CliRunner().invoke(main, ["predict", str(photo), "--photo", "--show", str(out)])
    assert result.exit_code == 0, result.exception
    assert "Trouser" in result.output
    with Image.open(out) as picture:
        assert picture.width == 800
    assert CliRunner().invoke(main, ["predict", str(photo), "--show", str(out)]).exit_code == 2
