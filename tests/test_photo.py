"""Photos: every step to the data set's format, and that garments are named whatever the background."""

import functools
import json

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import example, given, reject, strategies as st
from PIL import Image, ImageDraw, ImageOps

import cnnzoo
from cnnzoo import data, registry
from cnnzoo.cli import main
from cnnzoo.data import in_format, photo_steps
from cnnzoo.data._makers import makers_steps
from cnnzoo.drawings import garments
from cnnzoo.errors import InputError, UnknownNameError
from cnnzoo.photos import evaluate_photos


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
    steps = makers_steps(as_photo(garments()["Trouser"], light=True))
    assert list(steps) == ["colour", "trim", "resize", "sharpen", "centre", "invert", "8-bit"]
    assert steps["trim"].size < steps["colour"].size
    assert max(steps["resize"].size) == 28 > min(steps["resize"].size)
    assert steps["centre"].size == steps["8-bit"].size == (28, 28)
    assert steps["8-bit"].mode == "L"


@pytest.mark.parametrize("light", [True, False], ids=["light", "dark"])
def test_the_result_is_light_on_black_centred_and_fills_the_frame(light):
    pixels = np.asarray(makers_steps(as_photo(garments()["Trouser"], light=light))["8-bit"])
    assert pixels[[0, 0, -1, -1], [0, -1, 0, -1]].max() < 20
    assert pixels.max() > 100
    rows, columns = (pixels > 40).any(1).nonzero()[0], (pixels > 40).any(0).nonzero()[0]
    assert (rows[0], rows[-1]) == (0, 27)
    assert abs(columns[0] - (27 - columns[-1])) <= 2


def test_a_light_and_a_dark_background_give_the_same_but_for_rounding():
    light, dark = (
        np.asarray(makers_steps(as_photo(garments()["Bag"], light=light, tint=(1, 1, 1)))["8-bit"], dtype=int)
        for light in (True, False)
    )
    assert np.abs(light - dark).max() <= 8


def as_it_is_in_the_data_set() -> np.ndarray:
    image = np.zeros((28, 28), dtype=np.uint8)
    image[1:27, 6:22] = 180
    return image


@pytest.mark.parametrize("light", [True, False], ids=["light", "dark"])
@pytest.mark.parametrize("photo", ["auto", "makers"])
def test_photos_of_the_drawn_garments_are_named_about_as_well_as_the_drawings(light, photo):
    model = cnnzoo.create_model("resnext_small", pretrained=True)
    answers = cnnzoo.predict(model, [as_photo(g, light=light) for g in garments().values()], photo=photo)
    assert all(answer.photo for answer in answers)
    right = [best[0][0] == name for name, best in zip(garments(), answers, strict=True)]
    assert sum(right) >= 7


def test_an_uneven_background_becomes_black_and_the_garment_keeps_its_place_and_a_margin():
    photo = np.asarray(as_photo(garments()["Trouser"], light=True), dtype=float)
    shade = np.linspace(0.75, 1, photo.shape[1])[None, :, None]  # darker from right to left
    pixels = np.asarray(photo_steps(Image.fromarray((photo * shade).astype(np.uint8))).image)
    assert pixels.shape == (28, 28)
    assert not pixels[[0, -1]].any() and not pixels[:, [0, -1]].any()
    rows = pixels.any(1).nonzero()[0]
    assert (rows[0], rows[-1]) == (1, 26)


def test_an_alpha_channel_is_the_outline_whatever_the_colours_beneath():
    photo = as_photo(garments()["Bag"], light=False)
    alpha = Image.fromarray((np.asarray(photo.convert("L")) > 20).astype(np.uint8) * 255)
    noise = Image.effect_noise(photo.size, 90).convert("RGB")
    found = []
    for beneath in (noise, Image.new("RGB", photo.size, "white")):
        image = Image.composite(photo, beneath, alpha)
        image.putalpha(alpha)
        found.append(np.asarray(photo_steps(image).image))
    assert np.array_equal(*found)


@pytest.mark.parametrize("side", [28, 280])
def test_a_black_garment_on_nothing_is_seen_by_its_outline(side):
    right = 0
    for label, drawing in garments().items():
        alpha = (np.asarray(drawing.resize((side, side))) > 20).astype(np.uint8) * 255
        black = Image.fromarray(np.stack([alpha * 0] * 3 + [alpha], 2))
        right += cnnzoo.predict("resnext_small", black)[0][0] == label
    assert right >= 8
    assert np.asarray(data.to_mode(black, "L")).std() > 50  # as other models get it


def test_an_image_in_format_goes_in_bit_for_bit(monkeypatch):
    image = Image.fromarray(as_it_is_in_the_data_set())
    assert in_format(image)
    model = cnnzoo.create_model("resnext_small", pretrained=True)
    assert cnnzoo.predict(model, image, topk=10) == cnnzoo.predict(model, image, topk=10, photo="never")
    assert not cnnzoo.predict(model, image).photo
    assert not in_format(ImageOps.invert(image)) and not in_format(image.resize((56, 56)))


@pytest.mark.data
def test_all_of_the_data_sets_own_images_are_in_format(fashion_mnist_dir):
    images = cnnzoo.load_split("fashion_mnist", "test", data_dir=fashion_mnist_dir).images
    assert all(in_format(Image.fromarray(image[0])) for image in images.numpy())


def test_models_of_other_classes_get_pictures_as_they_are():
    model = cnnzoo.create_model("lenet_tiny", num_classes=3)
    photo = as_photo(garments()["Bag"], light=True)
    assert cnnzoo.predict(model, photo, topk=3) == cnnzoo.predict(model, photo, topk=3, photo="never")
    assert not cnnzoo.predict(model, photo).photo


def test_another_word_for_photo_is_refused():
    model = cnnzoo.create_model("lenet_tiny")
    with pytest.raises(UnknownNameError, match="auto.*makers.*never"):
        cnnzoo.predict(model, as_it_is_in_the_data_set(), photo=True)


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
    try:
        ours = photo_steps(image).image
    except InputError as e:
        assert mode == "1" and "No garment can be told" in str(e)  # black and white noise may have no middle
        reject()
    for result in (ours, makers_steps(image)["8-bit"]):
        assert (result.mode, result.size) == ("L", (28, 28))


@pytest.mark.parametrize("how", [photo_steps, makers_steps])
def test_nothing_but_background_is_refused(how):
    with pytest.raises(InputError, match="shows only background"):
        how(Image.new("RGB", (50, 50), (240, 240, 238)))


def chequered(height: int, width: int, side: int) -> Image.Image:
    return Image.fromarray((np.indices((height, width)) // side).sum(0).astype(np.uint8) % 2 * 255)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 6), st.integers(0, 99))
@example(64, 64, 8, 0)  # every pixel is as far from the background as any other
@example(3, 9, 1, 0)
@example(27, 3, 1, 0)
def test_any_small_picture_gets_an_answer_or_is_refused_in_words(height, width, side, seed):
    random = np.random.default_rng(seed).choice(np.array([0, 128, 255], dtype=np.uint8), (height, width))
    image = chequered(height, width, side) if side else Image.fromarray(random)
    try:
        assert len(cnnzoo.predict(_lenet(), image)) == 1
    except InputError as e:
        assert "transparent" not in str(e)  # these pictures are opaque


@functools.cache
def _lenet():
    return cnnzoo.create_model("lenet_tiny", pretrained=True)


def test_a_picture_without_a_garment_says_whether_it_is_chequered_or_transparent():
    with pytest.raises(InputError, match="No garment can be told from the background"):
        photo_steps(chequered(64, 64, 8))
    with pytest.raises(InputError, match="completely transparent"):
        photo_steps(Image.new("RGBA", (50, 50), (255, 0, 0, 0)))


def test_the_command_names_photos_says_so_and_draws_the_steps(tmp_path):
    photo, out = tmp_path / "photo.png", tmp_path / "steps.png"
    as_photo(garments()["Trouser"], light=True).save(photo)
    result = CliRunner().invoke(main, ["predict", str(photo), "--show", str(out)])
    assert result.exit_code == 0, result.exception
    assert "Trouser" in result.output and "1 of 1 treated as a photo" in result.output
    with Image.open(out) as picture:
        assert picture.width == 800
    result = CliRunner().invoke(main, ["predict", str(photo), "--photo", "never", "--json"])
    (answer,) = json.loads(result.stdout)
    assert answer["photo"] is False and answer["warnings"] == []


def test_eval_measures_a_folder_of_photos_as_predict_sees_them(tmp_path):
    for name in ("Trouser", "Bag", "Ankle boot"):
        folder = tmp_path / name.lower().replace(" ", "_")
        folder.mkdir()
        as_photo(garments()[name], light=True).save(folder / "photo.png")
    as_photo(garments()["Bag"], light=True).save(tmp_path / "trouser" / "really_a_bag.png")
    command = ["eval", "resnext_small", "--dataset", "folder", "--data-dir", str(tmp_path), "--photo", "auto", "--json"]
    found = json.loads(CliRunner().invoke(main, command).stdout)
    photos = sorted(tmp_path.rglob("*.png"))
    named = cnnzoo.predict(cnnzoo.create_model("resnext_small", pretrained=True), photos)
    wrong = sum(best[0][0].lower().replace(" ", "_") != p.parent.name for p, best in zip(photos, named, strict=True))
    assert found["count"] == 4 and found["top1"] == 100 * (4 - wrong) / 4 < 100
    (tmp_path / "bag").rename(tmp_path / "cat")
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 1 and "does not know: cat" in result.output
    (tmp_path / "cat").rename(tmp_path / "TROUSER")
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 1 and "TROUSER, trouser, and all of them mean Trouser" in result.output


def test_eval_without_the_steps_for_photos_says_that_there_are_such(tmp_path):
    def said() -> str:
        command = ["eval", "lenet_tiny", "--dataset", "folder", "--data-dir", str(tmp_path)]
        return CliRunner().invoke(main, command).stderr

    for label in ("Bag", "Shirt"):
        (tmp_path / label).mkdir()
        for i in range(5):
            garments()[label].save(tmp_path / label / f"{i}.png")
    assert "photo" not in said()
    Image.new("L", (40, 40), 255).save(tmp_path / "Bag" / "0.png")  # a photo of nothing
    assert "photo" not in said()
    garments()["Bag"].resize((90, 90)).save(tmp_path / "Bag" / "5.png")
    assert "--photo auto" in said()


def test_eval_measures_photos_with_the_weights_that_predict_uses_for_them(tmp_path):
    for name in ("Bag", "Shirt"):
        (tmp_path / "test" / name).mkdir(parents=True)  # test/ alone will do, since nothing is trained on
        as_photo(garments()[name], light=True).save(tmp_path / "test" / name / "photo.png")
    place = ["--dataset", "folder", "--data-dir", str(tmp_path), "--photo", "auto"]
    found = json.loads(CliRunner().invoke(main, ["eval", "nin_tiny", *place, "--json"]).stdout)
    special = registry.photo_weights("nin_tiny")
    usual, other = (cnnzoo.create_model(name, pretrained=True) for name in ("nin_tiny", special))
    losses = [evaluate_photos(usual, tmp_path, photo_model=m).metrics.loss for m in (other, None)]
    assert found["loss"] == losses[0] != losses[1] and found["photo_weights"] == special
    assert f"with {special}" in CliRunner().invoke(main, ["eval", "nin_tiny", *place]).output
    plain = json.loads(CliRunner().invoke(main, ["eval", "nin_tiny.fashion_mnist", *place, "--json"]).stdout)
    assert plain["loss"] == losses[1] and plain["photo_weights"] is None
    with pytest.raises(InputError, match="different classes"):
        evaluate_photos(usual, tmp_path, photo_model=cnnzoo.create_model("lenet_tiny", num_classes=3))


@pytest.mark.parametrize("more", [["--tta"], ["--split", "train"]])
def test_eval_of_photos_refuses_what_it_would_not_heed(more, tmp_path):
    command = ["eval", "lenet_tiny", "--dataset", "folder", "--data-dir", str(tmp_path), "--photo", "auto", *more]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 2 and "leave out --tta and --split" in result.output


@pytest.mark.parametrize("skin", [(241, 194, 167), (198, 134, 98), (92, 58, 42)], ids=["light", "medium", "dark"])
def test_a_person_is_told_from_the_garment_by_the_head_and_left_out(skin):
    photo = Image.new("RGB", (160, 240), (236, 236, 236))
    draw = ImageDraw.Draw(photo)
    draw.ellipse((65, 10, 95, 50), fill=skin)
    draw.rectangle((40, 56, 120, 220), fill=(40, 60, 120))
    draw.rectangle((70, 44, 90, 60), fill=skin)  # the neck
    made = photo_steps(photo)
    assert any("person" in w for w in made.warnings)
    found = np.asarray(made.steps["garment"]) > 0
    rows = found.any(1).nonzero()[0]
    assert 50 <= rows[0] <= 66 and rows[-1] >= 210


def test_a_garment_of_skins_colour_is_no_person():
    photo = Image.new("RGB", (160, 240), (236, 236, 236))
    ImageDraw.Draw(photo).rectangle((40, 40, 120, 220), fill=(198, 134, 98))
    made = photo_steps(photo)
    assert not any("A person" in w for w in made.warnings)
    assert (np.asarray(made.steps["garment"]) > 0)[45:215, 45:115].all()


def stacked(upper: int, lower: int, one: tuple[int, ...], other: tuple[int, ...]) -> Image.Image:
    """Two plain rectangles, one above the other, of these heights and colours."""
    photo = Image.new("RGB", (120, upper + lower + 40), (236, 236, 236))
    draw = ImageDraw.Draw(photo)
    draw.rectangle((30, 20, 89, 19 + upper), fill=one)
    draw.rectangle((30, 20 + upper, 89, 19 + upper + lower), fill=other)
    return photo


@given(st.integers(60, 140), st.integers(60, 140))
def test_of_two_garments_one_above_the_other_the_larger_is_taken(upper, lower):
    made = photo_steps(stacked(upper, lower, (170, 60, 50), (30, 40, 60)))
    rows = (np.asarray(made.steps["garment"]) > 0).any(1).nonzero()[0]
    assert len(rows) == max(upper, lower) and rows[0] == (20 if upper >= lower else 20 + upper)
    assert any("Two garments" in warning for warning in made.warnings)


@given(st.integers(60, 140), st.integers(0, 2**31))
def test_a_tall_garment_of_one_colour_or_pattern_stays_whole(height, seed):
    photo = stacked(height, 120, (90, 40, 60), (90, 40, 60))
    pixels = np.asarray(photo).copy()
    dots = np.random.default_rng(seed).random((height + 120, 60, 1)) < 0.3
    pixels[20 : 140 + height, 30:90] = np.where(dots, 20, pixels[20 : 140 + height, 30:90])
    for picture in (photo, Image.fromarray(pixels)):
        made = photo_steps(picture)
        rows = (np.asarray(made.steps["garment"]) > 0).any(1).nonzero()[0]
        assert len(rows) >= height + 116 and not any("Two garments" in warning for warning in made.warnings)


def photo_of(kind: str) -> Image.Image:
    pixels = np.full((120, 100, 3), 240, dtype=np.uint8)
    if kind == "runs over the edge":
        pixels[20:, 20:80] = 60
    elif kind == "several things":
        pixels[20:100, 20:40] = pixels[20:100, 60:80] = 60
    elif kind == "hardly stands out":
        pixels[20:100, 30:70] = 225
    elif kind == "not plain":
        pixels = np.random.default_rng(0).integers(120, 250, (120, 100, 3), dtype=np.uint8)
        pixels[20:100, 30:70] = 0
    elif kind == "is small":
        pixels[50:60, 45:55] = 60
    else:
        pixels[20:100, 30:70] = 60
    return Image.fromarray(pixels)


@pytest.mark.parametrize("kind", ["runs over the edge", "several things", "hardly stands out", "not plain", "is small", ""])
def test_a_photo_that_is_often_named_wrongly_says_why(kind):
    warnings = photo_steps(photo_of(kind)).warnings
    if not kind:
        assert not warnings
        return
    assert any(kind in warning for warning in warnings)
    assert cnnzoo.predict(cnnzoo.create_model("resnext_small", pretrained=True), photo_of(kind)).warnings == warnings


def test_the_makers_steps_refuse_what_is_too_elongated_for_them():
    line = np.full((300, 300, 3), 255, np.uint8)
    line[150:152, 10:290] = 0
    with pytest.raises(InputError, match="no pixel left"):
        makers_steps(line)
