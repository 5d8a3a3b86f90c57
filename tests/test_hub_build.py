"""Checkpoint folders of runs on any data, and the twins of them: whole, honest, and ready to push."""

import json
import shutil
from dataclasses import replace

import pytest
import timm
import torch
from click.testing import CliRunner
from helpers import TINY, run_recipe
from hub_helpers import MINE, logits, pull
from huggingface_hub import ModelCard
from loopback_hub import ALICE
from PIL import Image

import cnnzoo
from cnnzoo import checkpoints, evaluate, hub
from cnnzoo.cli import main
from cnnzoo.data import load_split
from cnnzoo.datasets import FASHION_MNIST
from cnnzoo.errors import CheckpointError, CnnzooError, InputError
from cnnzoo.hub._card import full_name
from cnnzoo.recipes import Recipe


@pytest.fixture
def pets(tmp_path):
    """Bright cats and dark dogs, twenty each, in colour."""
    for label, color in dict(cat=(250, 200, 150), dog=(60, 30, 0)).items():
        (tmp_path / "pets" / label).mkdir(parents=True)
        for i in range(20):
            Image.new("RGB", (30 + i, 40), tuple(v + i // 4 for v in color)).save(tmp_path / "pets" / label / f"{i:02}.png")
    return tmp_path / "pets"


def train_on(pets, out, holdout=False, **fields):
    from cnnzoo import train

    recipe = Recipe(**dict(TINY, model="lenet_tiny", dataset="folder", epochs=1, lr=0.01, warmup_epochs=0) | fields)
    train.train(recipe, out, data_dir=pets, device="cpu", holdout=holdout)
    return out


def test_a_run_that_began_from_a_checkpoint_folder_makes_a_folder_of_the_models_own_name(tmp_path, pets, quick):
    first = hub.build(train_on(pets, tmp_path / "first"), tmp_path / "began")
    again = train_on(pets, tmp_path / "again", model=f"local-dir:{first}", pretrained=True)
    folder = hub.build(again, tmp_path / "out")
    assert folder.name == "lenet_tiny.folder"
    assert hub.verify(folder)["model"] == "lenet_tiny"


@pytest.mark.usefixtures("brisk")
def test_a_run_on_ones_own_pictures_goes_to_the_hub_and_comes_back_with_its_labels(server, cache, tmp_path, pets):
    run = train_on(pets, tmp_path / "run", pretrained=True)
    folder = hub.build(run, tmp_path / "out")
    assert folder.name == "lenet_tiny.folder"
    metrics = hub.verify(folder)  # in a fresh process
    assert len(metrics["confusion"]) == 2 and (folder / "confusion.png").is_file()
    hub.push(folder, MINE, token=ALICE)
    pulled = pull(cache, token=ALICE)
    assert pulled.labels == ("cat", "dog") and pulled.model.temperature == 1
    info = load_split("folder", data_dir=pets).info
    assert (pulled.model.pretrained_cfg["mean"], pulled.model.pretrained_cfg["std"]) == (info.mean, info.std)
    here = timm.create_model(f"local-dir:{folder}", pretrained=True)
    assert torch.equal(logits(here), logits(pulled.model))
    model = cnnzoo.create_model("lenet_tiny", num_classes=2)
    model.load_state_dict(checkpoints.read_weights(run / "model.safetensors", model))
    assert torch.equal(logits(model), logits(pulled.model))
    for name in ("cat", "dog"):
        picture = Image.open(sorted((pets / name).iterdir())[0]).convert("L")
        assert cnnzoo.predict(pull(cache, token=ALICE, revision="rgb").model, picture, 2) == [
            (label, pytest.approx(p, abs=1e-4)) for label, p in cnnzoo.predict(pulled.model, picture, 2)
        ]


def test_the_card_of_ones_own_pictures_says_nothing_of_fashion(tmp_path, pets):
    folder = hub.build(train_on(pets, tmp_path / "run"), tmp_path)
    text = (folder / "README.md").read_text()
    card = ModelCard(text)
    assert "Fashion" not in text and "fashion_mnist" not in text and "garment" not in text
    assert "trained on pets" in text and '["cat", "dog"]' in text
    assert "32 training images, 8 test images" in text and "cannot say on which images choices were made" in text
    assert card.data.eval_results[0].dataset_type == "imagefolder" and card.data.datasets is None
    assert card.data.license is None
    config = json.loads((folder / "config.json").read_text())
    assert config["label_names"] == ["cat", "dog"] and "license" not in config["pretrained_cfg"]


def test_a_run_in_colour_and_in_another_size_says_so(tmp_path, pets, quick):
    run = train_on(pets, tmp_path / "run", model="resnet_tiny", in_chans=3, image_size=32)
    folder = hub.build(run, tmp_path)
    metrics = hub.verify(folder)
    loaded = cnnzoo.create_model(f"local-dir:{folder}", pretrained=True)
    assert loaded.pretrained_cfg["input_size"] == (3, 32, 32) and len(loaded.pretrained_cfg["mean"]) == 3
    split = load_split("folder", data_dir=pets, image_size=(3, 32, 32))
    assert evaluate.evaluate(loaded, split).confusion == tuple(map(tuple, metrics["confusion"]))
    assert "3x32x32" in (folder / "README.md").read_text()
    with pytest.raises(CheckpointError, match="does not have 1 channel"):
        hub.twin(folder, tmp_path / "rgb")


@pytest.fixture
def unsure(monkeypatch):
    """Runs on the holdout find a temperature, though their few answers are all right."""
    monkeypatch.setattr(evaluate, "fit_temperature", lambda logits, labels: 1.75)


def test_a_run_whose_holdout_says_nothing_of_the_temperature_has_none(tmp_path, pets, quick):
    run, chosen = train_on(pets, tmp_path / "run"), train_on(pets, tmp_path / "holdout", holdout=True)
    metrics = checkpoints.read_json(chosen / "metrics.json")
    metrics.pop("temperature", None)
    (chosen / "metrics.json").write_text(json.dumps(metrics | dict(temperature=0.0059)))  # as older versions did
    for _ in range(2):
        folder = hub.build(run, tmp_path, holdout_run=chosen)
        assert cnnzoo.create_model(f"local-dir:{folder}", pretrained=True).temperature == 1
        assert cnnzoo.create_model(chosen, pretrained=True).temperature == 1
        with pytest.raises(CheckpointError, match="has no temperature: its holdout gives none"):
            hub.measure(folder, data_dir=pets, holdout_run=chosen)
        (chosen / "metrics.json").write_text(json.dumps(metrics))


def test_a_run_on_the_holdout_gives_the_temperature(tmp_path, pets, quick, unsure):
    run, chosen = train_on(pets, tmp_path / "run"), train_on(pets, tmp_path / "holdout", holdout=True)
    folder = hub.build([run], tmp_path, holdout_run=chosen)
    hub.verify(folder)
    assert cnnzoo.create_model(f"local-dir:{folder}", pretrained=True).temperature == 1.75
    assert "by runs that did not train on them" in (folder / "README.md").read_text()
    (pets / "cat" / "00.png").unlink()
    with pytest.raises(CheckpointError, match="other data"):
        hub.build([run, train_on(pets, tmp_path / "fewer", seed=1)], tmp_path)


def test_a_folder_gets_its_temperature_later_as_if_it_had_been_built_with_it(tmp_path, pets, quick, unsure):
    run, chosen = train_on(pets, tmp_path / "run"), train_on(pets, tmp_path / "holdout", holdout=True)
    folder = hub.build(run, tmp_path / "first")
    hub.measure(folder, data_dir=pets)
    at_once = hub.build(run, tmp_path / "second", holdout_run=chosen)
    hub.measure(at_once, data_dir=pets)
    for _ in range(2):  # the second time it takes the place of the first
        added = hub.measure(folder, data_dir=pets, holdout_run=chosen)
        assert set(added) == {"holdout_top1", "holdout_command", "temperature", "ece_calibrated"}
    assert hub.verify(folder) == hub.verify(at_once)
    for name in ("config.json", "README.md", "recipe.json"):
        assert (folder / name).read_text() == (at_once / name).read_text()


def test_a_temperature_of_another_recipe_or_split_is_refused_and_nothing_changes(tmp_path, pets, quick):
    run = train_on(pets, tmp_path / "run")
    folder = hub.build(run, tmp_path)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for other, words in (
        (train_on(pets, tmp_path / "longer", holdout=True, epochs=2), "another recipe"),
        (run, "a run on holdout is needed"),
    ):
        with pytest.raises(CheckpointError, match=words):
            hub.measure(folder, data_dir=pets, holdout_run=other)
    with pytest.raises(CheckpointError, match="cnnzoo build .*run --holdout .*longer"):
        hub.measure(run, data_dir=pets, holdout_run=tmp_path / "longer")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_one_run_does_not_count_twice(tmp_path, pets):
    train_on(pets, tmp_path / "run")
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    for other in ("run", "copy"):
        with pytest.raises(CheckpointError, match="both have the seed 0, so they count as one"):
            hub.build([tmp_path / "run", tmp_path / other], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_variant_is_in_the_names_and_nowhere_else(tmp_path, pets, quick):
    run = train_on(pets, tmp_path / "run")
    plain, folder = hub.build(run, tmp_path), hub.build(run, tmp_path, variant="textbook")
    assert folder == tmp_path / "lenet_tiny.textbook_folder"
    assert hub.verify(folder) == hub.verify(plain) | dict(tag="textbook_folder")
    config = checkpoints.read_json(folder / "config.json")
    assert config["pretrained_cfg"]["tag"] == "textbook_folder"
    config["pretrained_cfg"]["tag"] = "folder"
    assert config == checkpoints.read_json(plain / "config.json")
    card, usual = (f / "README.md" for f in (folder, plain))
    assert card.read_text().replace("lenet_tiny.textbook_folder", "lenet_tiny.folder") == usual.read_text()
    assert hub.twin(folder, tmp_path / "rgb").name == folder.name


@pytest.mark.parametrize("variant", ["Text", "a b", "a_b", "../a", "ä", "a\n"])
def test_a_variant_that_is_no_name_is_refused_and_nothing_is_left(tmp_path, pets, variant):
    run = train_on(pets, tmp_path / "run")
    with pytest.raises(CheckpointError, match="variant such as textbook"):
        hub.build(run, tmp_path / "out", variant=variant)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("tag", ["fashion_mnist", "emnist_mnist", "textbook_kmnist", 3])
def test_a_variant_must_not_make_the_name_of_another_data_set(tag):
    mnist = replace(FASHION_MNIST, name="mnist")
    assert full_name(dict(model="lenet_tiny", tag="textbook_mnist"), mnist) == "lenet_tiny.textbook_mnist"
    with pytest.raises(CheckpointError, match="variant such as textbook"):
        full_name(dict(model="lenet_tiny", tag=tag), mnist)


def test_the_command_builds_from_a_run_alone(tmp_path, pets):
    run = train_on(pets, tmp_path / "run")
    result = CliRunner().invoke(main, ["build", str(run), "--out", str(tmp_path / "out")])
    assert result.exit_code == 0 and result.output == f"{tmp_path / 'out' / 'lenet_tiny.folder'}\n"


def test_the_command_names_the_folder_that_was_wanted_where_its_numbers_are_not_those_of_the_data(tmp_path, pets):
    run = train_on(pets, tmp_path / "run")
    metrics = checkpoints.read_json(run / "metrics.json")
    (run / "metrics.json").write_text(json.dumps(dict(metrics, top1=12.5 if metrics["top1"] != 12.5 else 25.0)))
    result = CliRunner().invoke(main, ["build", str(run), "--out", str(tmp_path / "out"), "--data-dir", str(pets)])
    assert result.exit_code == 1
    assert f"{tmp_path / 'out' / 'lenet_tiny.folder'} says top1" in result.output
    assert not (tmp_path / "out").exists()


def test_a_damaged_note_of_the_data_is_an_error_of_one_line(tmp_path, pets):
    run = train_on(pets, tmp_path / "run")
    metrics = checkpoints.read_json(run / "metrics.json")
    noted = metrics["data"]
    for spoiled in ({}, [1], None, noted | dict(image_size=[1]), noted | dict(labels=[1, 2]), noted | dict(mean=[0.1, 0.2])):
        (run / "metrics.json").write_text(json.dumps(dict(metrics, data=spoiled)))
        with pytest.raises(CnnzooError, match="is incomplete|known of the data") as caught:
            hub.build(run, tmp_path)
        assert "\n" not in str(caught.value)


def test_a_run_of_before_its_data_were_noted_is_refused_unless_they_are_known(tmp_path, miniature, quick):
    run = tmp_path / "run"
    run_recipe(Recipe(model="lenet_tiny", **TINY), run, miniature)
    metrics = checkpoints.read_json(run / "metrics.json")
    del metrics["data"]
    (run / "metrics.json").write_text(json.dumps(metrics))
    folder = hub.build(run, tmp_path)
    assert hub.verify(folder)["top1"] == metrics["top1"]
    assert ModelCard.load(folder / "README.md").data.license == "apache-2.0"
    recipe = dict(checkpoints.read_json(run / "recipe.json"), dataset="folder")
    (run / "recipe.json").write_text(json.dumps(recipe))
    with pytest.raises(CheckpointError, match="older version"):
        hub.build(run, tmp_path)


# -- made anew -------------------------------------------------------------------------------------------------------------


def test_a_folder_of_before_the_counts_were_noted_gets_its_picture_and_keeps_its_numbers(tmp_path, pets, quick):
    folder = hub.build(train_on(pets, tmp_path / "run"), tmp_path)
    whole = {p.name: p.read_bytes() for p in folder.iterdir()}
    metrics = checkpoints.read_json(folder / "metrics.json")
    old = {k: v for k, v in metrics.items() if k != "confusion"}
    (folder / "metrics.json").write_text(json.dumps(old))
    (folder / "confusion.png").unlink()
    result = CliRunner().invoke(main, ["measure", str(folder), "--data-dir", str(pets)])
    assert result.exit_code == 0, result.output
    hub.verify(folder)
    measured = checkpoints.read_json(folder / "metrics.json")
    assert measured == {**metrics, "robustness": measured["robustness"]}
    assert {p.name for p in folder.iterdir()} == set(whole) and (folder / "model.safetensors").read_bytes() == whole[
        "model.safetensors"
    ]
    (folder / "metrics.json").write_text(json.dumps(dict(old, top1=old["top1"] - 1)))
    with pytest.raises(CheckpointError, match="top1.*was measured"):
        hub.measure(folder, data_dir=pets)
    with pytest.raises(CheckpointError, match="no measured numbers"):
        hub.measure(hub.build(cnnzoo.create_model("lenet_tiny"), tmp_path))


# -- pedigree and twins --------------------------------------------------------------------------------------------------


def base_model(folder):
    return ModelCard((folder / "README.md").read_text()).data.base_model


def test_the_card_of_a_fine_tuned_model_names_the_checkpoint_it_began_with(tmp_path, quick):
    for options, base in [({}, None), (dict(pretrained=True), "cnnzoo/lenet_tiny.fashion_mnist")]:
        model = timm.create_model("lenet_tiny", num_classes=2, in_chans=3, **options)
        folder = hub.build(model, tmp_path, labels=["cat", "dog"])
        hub.verify(folder)
        assert base_model(folder) == base
        assert ("Training began with the weights" in (folder / "README.md").read_text()) is (base is not None)


def test_the_card_of_a_fine_tuning_run_names_the_checkpoint_it_began_with(tmp_path, pets):
    run = train_on(pets, tmp_path / "run", model="lenet_tiny", pretrained=True)
    assert base_model(hub.build(run, tmp_path)) == "cnnzoo/lenet_tiny.fashion_mnist"


def test_the_command_makes_the_twin_of_a_fine_tune_that_a_gray_model_asks_for(tmp_path, quick):
    model = timm.create_model("lenet_tiny", pretrained=True, num_classes=2).eval()
    x = torch.rand(2, 1, 28, 28)
    with pytest.raises(InputError, match="3 channels.*cnnzoo twin MODEL OUT"):
        model(x.expand(-1, 3, -1, -1))
    folder = hub.build(model, tmp_path / "gray", labels=["cat", "dog"])
    run = CliRunner().invoke(main, ["twin", str(folder), str(tmp_path / "rgb")])
    assert run.exit_code == 0, run.output
    twin = timm.create_model(f"local-dir:{run.output.strip()}", pretrained=True).eval()
    torch.testing.assert_close(twin(x.expand(-1, 3, -1, -1)), model(x), atol=1e-4, rtol=1e-4)
    assert base_model(tmp_path / "rgb" / folder.name) == base_model(folder) == "cnnzoo/lenet_tiny.fashion_mnist"
    run = CliRunner().invoke(main, ["twin", str(folder), str(folder.parent)])
    assert run.exit_code == 1 and "Name another folder" in run.output


def test_a_twin_is_made_of_a_run_and_of_a_name_too(tmp_path, pets):
    for given in (train_on(pets, tmp_path / "run"), "lenet_tiny"):
        run = CliRunner().invoke(main, ["twin", str(given), str(tmp_path / "rgb")])
        assert run.exit_code == 0, run.output
        twin = timm.create_model(f"local-dir:{run.output.strip()}", pretrained=True).eval()
        theirs = cnnzoo.create_model(given, pretrained=True).eval()
        gray = torch.rand(2, *theirs.pretrained_cfg["input_size"])
        torch.testing.assert_close(twin(gray.expand(-1, 3, -1, -1)), theirs(gray), atol=1e-4, rtol=1e-4)
    run = CliRunner().invoke(main, ["twin", "hf-hub:you/model", str(tmp_path / "rgb")])
    assert run.exit_code == 1 and "on the Hub" in run.output
