"""Spoiled images: what each corruption does to a picture, and what accuracies and checkpoint folders make of it."""

import json
import shutil

import pytest
import torch
from click.testing import CliRunner
from helpers import run_recipe

import cnnzoo
from cnnzoo import checkpoints, data, evaluate, hub, robustness
from cnnzoo.cli import main
from cnnzoo.drawings import garments
from cnnzoo.errors import CheckpointError, InputError, UnknownNameError
from cnnzoo.photos import evaluate_photos


@pytest.fixture
def images(tiny_split):
    return tiny_split.images


@pytest.fixture
def folder(recipe, tmp_path, miniature, monkeypatch):
    """A checkpoint folder of the miniature data set, as `hub.build` leaves it."""
    monkeypatch.setattr(evaluate, "fit_temperature", lambda logits, labels: 1.75)  # a few answers may give none
    run_recipe(recipe, tmp_path / "run", miniature)
    run_recipe(recipe, tmp_path / "holdout", miniature, holdout=True)
    return hub.build(tmp_path / "run", tmp_path / "built", holdout_run=tmp_path / "holdout")


@pytest.mark.parametrize("name", robustness.names())
def test_a_corruption_keeps_shape_type_and_range_and_changes_the_images(images, name):
    for batch in (images, images.float() / 255, images.double() / 255):
        spoiled = robustness.corrupt(batch, name)
        assert spoiled.shape == batch.shape and spoiled.dtype == batch.dtype
        assert 0 <= spoiled.min() and spoiled.max() <= (255 if batch.dtype == torch.uint8 else 1)
        assert not torch.equal(spoiled, batch)


@pytest.mark.parametrize("name", robustness.names())
def test_bytes_are_spoiled_as_floats_are(images, name):
    of_floats = robustness.corrupt(images.float() / 255, name)
    assert (robustness.corrupt(images, name).float() / 255 - of_floats).abs().max() <= 0.5 / 255 + 1e-6


def test_the_seed_alone_decides_how_images_are_spoiled(images):
    for name in ("shift 2", "noise 0.1"):
        first = robustness.corrupt(images, name, seed=3)
        assert torch.equal(first, robustness.corrupt(images, name, seed=3))
        assert not torch.equal(first, robustness.corrupt(images, name, seed=4))


@pytest.mark.parametrize("pixels", robustness.CORRUPTIONS["shift"])
def test_a_shift_moves_every_image_by_so_many_pixels_in_one_of_eight_directions(pixels):
    dots = torch.zeros(200, 1, 28, 28, dtype=torch.uint8)
    dots[:, :, 14, 14] = 255
    where = robustness.corrupt(dots, f"shift {pixels}").nonzero()[:, 2:] - 14  # (200, 2)
    assert len(where) == 200
    assert {tuple(w) for w in where.tolist()} == {
        (y * pixels, x * pixels) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)
    }


def test_noise_has_the_deviation_that_its_name_says():
    gray = torch.full((50, 1, 28, 28), 0.5)
    for amount in robustness.CORRUPTIONS["noise"]:
        noise = robustness.corrupt(gray, f"noise {amount:g}") - gray
        assert noise.std().item() == pytest.approx(amount, rel=0.05)


def test_blur_keeps_the_light_and_spreads_it_as_far_as_its_name_says():
    dot = torch.zeros(1, 1, 29, 29)
    dot[..., 14, 14] = 1
    for amount in robustness.CORRUPTIONS["blur"][1:]:  # at half a pixel a kernel of pixels is no Gaussian any more
        spread = robustness.corrupt(dot, f"blur {amount:g}")[0, 0]
        assert spread.sum().item() == pytest.approx(1, abs=1e-4)
        variance = (spread.sum(0) * (torch.arange(29) - 14.0) ** 2).sum()
        assert variance.sqrt().item() == pytest.approx(amount, rel=0.05)


def test_contrast_brings_pixels_nearer_to_the_images_own_mean(images):
    clean = images.float() / 255
    for amount in robustness.CORRUPTIONS["contrast"]:
        spoiled = robustness.corrupt(clean, f"contrast {amount:g}")
        torch.testing.assert_close(spoiled.mean((1, 2, 3)), clean.mean((1, 2, 3)))
        torch.testing.assert_close(spoiled.std((1, 2, 3)), amount * clean.std((1, 2, 3)))


def test_what_is_no_corruption_or_no_batch_is_refused(images):
    with pytest.raises(UnknownNameError, match="'3'"):
        robustness.corrupt(images, 3)
    with pytest.raises(InputError, match="A list was given as images"):
        robustness.corrupt([images], "blur 1")
    with pytest.raises(InputError, match="blur 1.5 needs more than 5 a side"):
        robustness.corrupt(images[..., :5], "blur 1.5")
    assert robustness.corrupt(images[..., :6], "blur 1.5").shape == images[..., :6].shape
    with pytest.raises(UnknownNameError, match="Did you mean shift 2"):
        robustness.corrupt(images, "shif 2")
    for wrong in (images[0], images.long()):
        with pytest.raises(InputError, match=r"\(B, C, H, W\)"):
            robustness.corrupt(wrong, "shift 1")


def test_accuracies_are_those_of_the_spoiled_images(tiny_split):
    model = cnnzoo.create_model("lenet_tiny", pretrained=True)
    found = robustness.accuracies(model, tiny_split, corruptions=["shift 4", "noise 0.2"])
    for name, top1 in found.items():
        spoiled = data.Split(robustness.corrupt(tiny_split.images, name), tiny_split.labels, tiny_split.info)
        assert top1 == evaluate.evaluate(model, spoiled).top1
    assert list(found) == ["shift 4", "noise 0.2"]


def test_the_table_has_a_row_per_kind():
    table = robustness.as_markdown({"shift 1": 94.04, "shift 2": 90.0, "noise 0.05": 80.55})
    assert table.splitlines()[2:] == ["| shift | 1, 2 pixels | 94.0, 90.0 |", "| noise | 0.05 of black to white | 80.5 |"]


# -- checkpoint folders --------------------------------------------------------------------------------------------------


def test_measuring_adds_what_a_folder_lacks_and_changes_nothing_else(folder, miniature):
    before = checkpoints.read_json(folder / "metrics.json")
    kept = {n: (folder / n).read_bytes() for n in ("model.safetensors", "config.json", "recipe.json")}
    added = hub.measure(folder, data_dir=miniature[0])
    after = checkpoints.read_json(folder / "metrics.json")
    assert set(added) == {"ece_calibrated", "robustness"}
    assert after == {**before, **added}
    assert {n: (folder / n).read_bytes() for n in kept} == kept
    assert hub.measure(folder, data_dir=miniature[0]) == {}
    assert hub.verify(folder)["robustness"] == added["robustness"]  # so the card was written anew


def test_the_card_of_a_folder_with_another_name_is_still_the_checkpoints(folder, miniature, tmp_path, monkeypatch):
    mine = shutil.copytree(folder, tmp_path / "my_model")
    monkeypatch.chdir(mine)
    for place in (".", folder):
        hub.measure(place, data_dir=miniature[0])
    assert (mine / "README.md").read_text() == (folder / "README.md").read_text()


@pytest.mark.parametrize("bad", [-0.1, 1.5, 255.0, float("nan"), float("inf")])
def test_floats_that_are_no_pixels_are_refused(bad):
    images = torch.zeros(2, 1, 28, 28)
    images[1, 0, 3, 4] = bad
    with pytest.raises(InputError, match="allowed is 0 to 1"):
        robustness.corrupt(images, "shift 1")


def test_photos_are_measured_when_they_are_given_and_the_card_has_the_number(folder, miniature, tmp_path):
    labels = checkpoints.read_json(folder / "config.json")["label_names"]
    for place in (tmp_path / "photos" / labels[0], tmp_path / "photos" / labels[1]):
        place.mkdir(parents=True)
        garments()["Dress"].resize((60, 60)).save(place / "1.png")
    added = hub.measure(folder, data_dir=miniature[0], photos=tmp_path / "photos")
    model = cnnzoo.create_model(folder, pretrained=True)
    assert added["photos"] == dict(top1=evaluate_photos(model, tmp_path / "photos").metrics.top1, count=2)
    assert f"{added['photos']['top1']:.1f} % of 2" in (folder / "README.md").read_text()
    assert hub.verify(folder)["photos"] == added["photos"]


def test_the_calibrated_error_is_that_of_the_outputs_divided_by_the_temperature(folder, miniature):
    metrics = checkpoints.read_json(folder / "metrics.json")
    model = cnnzoo.create_model("lenet_tiny")
    model.load_state_dict(checkpoints.read_weights(folder / checkpoints.WEIGHTS, model))
    split = data.load_split("miniature", "test", data_dir=miniature[0])
    logits = evaluate.predict_logits(model, split)
    expected = evaluate.measure(logits / metrics["temperature"], split.labels).ece
    assert hub.measure(folder, data_dir=miniature[0])["ece_calibrated"] == pytest.approx(expected, abs=0.01)


def test_a_folder_whose_weights_do_not_give_its_number_is_left_alone(folder, miniature):
    path = folder / "metrics.json"
    metrics = checkpoints.read_json(path)
    path.write_text(json.dumps(dict(metrics, top1=metrics["top1"] + 1)))
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match="was measured"):
        hub.measure(folder, data_dir=miniature[0])
    assert path.read_bytes() == before


def test_measure_takes_names_and_folders_and_build_measures_too(tmp_path, miniature, folder):
    def run(*args):
        result = CliRunner().invoke(main, [str(a) for a in args])
        return result.exit_code, result.output

    assert run("measure", folder, "--data-dir", miniature[0]) == (0, f"{folder}: added ece_calibrated, robustness\n")
    name = "lenet_tiny.fashion_mnist"
    assert run("measure", name) == (0, f"{name}: lacks nothing\n")
    assert "Did you mean fashion_mnist?" in run("measure", "lenet_tiny.fashionmnist")[1]
    shutil.rmtree(folder)
    code, out = run(
        "build", tmp_path / "run", "--holdout", tmp_path / "holdout", "--out", tmp_path / "built", "--data-dir", miniature[0]
    )
    assert (code, out) == (0, f"{folder}\n")
    assert "robustness" in checkpoints.read_json(folder / "metrics.json")
    code, out = run("measure", folder, "--holdout", tmp_path / "holdout", "--data-dir", miniature[0])
    assert (code, out) == (0, f"{folder}: added holdout_top1, holdout_command, temperature, ece_calibrated\n")
