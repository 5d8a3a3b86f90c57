"""`cnnzoo reproduce`: a recipe trained anew gives its card's number, and a card with another number is found out."""

import json
import math
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from helpers import run_recipe

from cnnzoo import checkpoints, hub, reproduce, train
from cnnzoo.cli import main
from cnnzoo.errors import CheckpointError, UnknownNameError
from cnnzoo.recipes import override

NAME = "lenet_tiny.miniature"


@pytest.fixture
def zoo(recipe, tmp_path, miniature, monkeypatch):
    """A zoo whose one checkpoint is of the miniature data set; gives the data directory."""
    run_recipe(recipe, tmp_path / "run", miniature)
    run_recipe(recipe, tmp_path / "holdout", miniature, holdout=True)
    hub.build(tmp_path / "run", tmp_path / "zoo", holdout_run=tmp_path / "holdout")
    monkeypatch.setattr(checkpoints, "root", lambda: tmp_path / "zoo")
    monkeypatch.setattr(checkpoints, "names", lambda: (NAME,))
    monkeypatch.chdir(tmp_path)
    return miniature[0]


def say_on_the_card(top1):
    path = checkpoints.folder(NAME) / "metrics.json"
    path.write_text(json.dumps(dict(checkpoints.read_json(path), top1=top1)))


def run(*args):
    result = CliRunner().invoke(main, ["reproduce", *(str(a) for a in args), "--device", "cpu"])
    return result.exit_code, result.stdout


def test_the_recipe_of_a_checkpoint_gives_its_number_again(zoo):
    card = checkpoints.metrics(NAME)
    code, text = run("lenet_tiny", "--data-dir", zoo, "--out", "again")
    assert code == 0
    assert f"{NAME}: {card['top1']:.2f} % on its card, {card['top1']:.2f} % in this run (seed 0" in text
    assert "Reproduced: they differ by 0.00 points" in text and reproduce.FORMULA in text
    assert checkpoints.read_json(Path("again/metrics.json"))["sha256"] == card["sha256"]  # on one machine the very weights


def test_a_number_that_the_recipe_does_not_give_is_exit_code_one(zoo):
    say_on_the_card(100.0)
    code, text = run(NAME, "--data-dir", zoo, "--out", "again")
    assert code == 1
    assert "100.00 % on its card" in text and "NOT reproduced" in text


def test_json_has_both_numbers_and_another_seed_is_another_run(zoo):
    code, text = run(NAME, "--data-dir", zoo, "--seed", 3, "--json")
    found = json.loads(text)
    assert found["good"] is (code == 0)
    assert found["seed"] == 3 and found["count"] == 12
    assert found["card"] == checkpoints.metrics(NAME)["top1"]
    assert found["top1"] == checkpoints.read_json(Path(f"runs/reproduce-{NAME}-3/metrics.json"))["top1"]
    assert checkpoints.read_json(Path(found["run"]) / "recipe.json")["seed"] == 3


def test_a_run_that_is_there_is_not_overwritten(zoo):
    shutil.copytree("run", "again")
    with pytest.raises(CheckpointError, match="--resume"):
        reproduce.reproduce(NAME, "again", data_dir=zoo, device="cpu")


@pytest.mark.parametrize("name", ["lenet_tiny.fashion", "resnext_small"])
def test_what_is_no_checkpoint_is_refused_before_anything_is_trained(zoo, tmp_path, name):
    with pytest.raises(UnknownNameError, match="list_?.*pretrained"):
        reproduce.reproduce(name, tmp_path / "again", data_dir=zoo)
    assert not (tmp_path / "again").exists()


def test_a_model_that_learned_from_stored_answers_is_taught_again_by_its_teacher(recipe, zoo, miniature, monkeypatch):
    train.ask(override(recipe, teacher="run"), "answers", epochs=recipe.epochs, data_dir=zoo)
    metrics = run_recipe(override(recipe, answers="answers"), "taught", miniature)
    hub.build("taught", "zoo")
    recipes = []
    monkeypatch.setattr(train, "train", lambda recipe, *_, **__: recipes.append(recipe) or metrics)
    reproduce.reproduce(NAME, "again", data_dir=zoo)
    assert recipes == [override(recipe, teacher="lenet_tiny")]  # the answers are not published
    text = CliRunner().invoke(main, ["reproduce", NAME, "--out", "third", "--data-dir", str(zoo)]).output
    assert "It learned from the published weights of lenet_tiny, not from the runs" in text
    assert "its own weights are among them" in text


@pytest.mark.parametrize(("top1", "good"), [(94.10, True), (95.85, True), (94.00, False), (95.94, False)])
def test_the_tolerance_is_three_standard_errors_of_the_difference(monkeypatch, top1, good):
    """At 95 % of 10,000 images one number has a standard error of 0.22 points, and the difference of two 0.31."""
    monkeypatch.setattr(checkpoints, "metrics", lambda name: dict(top1=95.0))
    found = reproduce.compare("any", dict(dataset="fashion_mnist", seed=1, top1=top1))
    p, q = 0.95, top1 / 100
    assert found.tolerance == pytest.approx(300 * math.sqrt(p * (1 - p) / 10_000 + q * (1 - q) / 10_000), abs=1e-3)
    assert found.good is good
