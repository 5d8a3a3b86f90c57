"""Starting from pretrained weights: which parts are kept, and what may be measured afterwards."""

import dataclasses
import json

import pytest
import torch
from helpers import run_recipe as run, weights_of as weights
from PIL import Image

import cnnzoo
from cnnzoo import checkpoints, data, train
from cnnzoo.datasets import FASHION_MNIST
from cnnzoo.errors import CheckpointError, CnnzooError
from cnnzoo.evaluate import class_index
from cnnzoo.holdout import has_seen_holdout
from cnnzoo.recipes import Recipe, override
from cnnzoo.train import _parts


def test_a_frozen_backbone_stays_and_its_head_learns(recipe, tmp_path, miniature):
    frozen = override(recipe, model="resnet_tiny", pretrained=True, freeze=True, ema_decay=0.0)
    run(frozen, tmp_path / "run", miniature)
    before, after = cnnzoo.create_model("resnet_tiny", pretrained=True).state_dict(), weights(tmp_path / "run")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"head.fc.weight", "head.fc.bias"}


def test_wise_ft_publishes_the_average_of_the_pretrained_and_the_trained_weights(recipe, tmp_path, miniature):
    tuned = override(recipe, model="resnet_tiny", pretrained=True)
    run(tuned, tmp_path / "plain", miniature)
    run(override(tuned, wise_ft=0.25), tmp_path / "wise", miniature)
    before = cnnzoo.create_model("resnet_tiny", pretrained=True).state_dict()
    plain, wise = weights(tmp_path / "plain"), weights(tmp_path / "wise")
    for name in (n for n in before if before[n].is_floating_point()):
        torch.testing.assert_close(wise[name], 0.25 * before[name] + 0.75 * plain[name])


def test_wise_ft_without_pretrained_weights_is_refused(recipe):
    with pytest.raises(CnnzooError, match="wise_ft=0.5 was given without pretrained"):
        override(recipe, wise_ft=0.5)


def pretrained_on(labels: tuple[str, ...], **fields) -> torch.nn.Module:
    """What training starts from, for garments that are called so."""
    split = data.Split(torch.zeros(20, 1, 28, 28, dtype=torch.uint8), torch.arange(20) % 10, info_of(labels))
    return _parts.make_model(override(Recipe(model="lenet_tiny"), pretrained=True, **fields), split)


def info_of(labels: tuple[str, ...]):
    return dataclasses.replace(FASHION_MNIST, name="folder", labels=labels)


def test_a_head_for_other_classes_starts_anew_even_if_there_are_as_many():
    known = cnnzoo.create_model("lenet_tiny", pretrained=True)
    model = pretrained_on(tuple("0123456789"), freeze=True)
    assert model.labels == () and not torch.equal(model.head.fc.weight, known.head.fc.weight)
    assert all(p.requires_grad for p in model.head.fc.parameters()) and not model.stem[0].conv.weight.requires_grad
    assert torch.equal(model.stem[0].conv.weight, known.stem[0].conv.weight)


@pytest.mark.parametrize("model", ["lenet_tiny", "nin_tiny"])
def test_a_head_for_the_same_classes_in_another_order_gives_the_same_answers_in_that_order(model):
    known = cnnzoo.create_model(model, pretrained=True).eval()
    labels = tuple(sorted(name.lower().replace(" ", "_") for name in FASHION_MNIST.labels))
    turned = pretrained_on(labels, model=model).eval()
    order = [class_index(name, FASHION_MNIST.labels) for name in labels]
    x = torch.rand(3, 1, 28, 28)
    with torch.inference_mode():
        torch.testing.assert_close(turned(x), known(x)[:, order])
    assert turned.labels == labels


def test_weights_that_know_the_holdout_are_no_start_for_a_run_that_measures_on_it(recipe, tmp_path, miniature):
    run(recipe, tmp_path / "knows", miniature)
    run(recipe, tmp_path / "does_not", miniature, holdout=True)
    start = override(recipe, pretrained=True, model=str(tmp_path / "knows"))
    with pytest.raises(CheckpointError, match="have been trained on these images.* trained with --holdout"):
        run(start, tmp_path / "run", miniature, holdout=True)
    run(override(start, model=str(tmp_path / "does_not")), tmp_path / "good", miniature, holdout=True)
    run(override(start, model="lenet_tiny"), tmp_path / "of_other_data", miniature, holdout=True)


def test_what_has_seen_a_holdout_is_known_of_names_runs_and_folders(recipe, tmp_path, miniature):
    run(recipe, tmp_path / "knows", miniature)
    run(override(recipe, pretrained=True, model=str(tmp_path / "knows")), tmp_path / "again", miniature)
    recorded = tmp_path / "again" / "recipe.json"  # as if it had been possible, which older versions allowed
    recorded.write_text(json.dumps(dict(json.loads(recorded.read_text()), holdout=True)))
    small = miniature[1]
    seen = [
        ("lenet_tiny", FASHION_MNIST, True),
        ("nin_tiny.photo_fashion_mnist", FASHION_MNIST, True),
        (str(checkpoints.folder("lenet_tiny.fashion_mnist")), FASHION_MNIST, True),
        ("no_such_model", FASHION_MNIST, True),
        ("lenet_tiny", info_of(tuple("abc")), False),
        ("lenet_tiny", small, False),
        (str(tmp_path / "knows"), small, True),
        (str(tmp_path / "again"), small, True),
        (str(tmp_path / "again"), FASHION_MNIST, False),
    ]
    for model, info, expected in seen:
        assert has_seen_holdout(model, info) == expected, (model, info.name)


@pytest.fixture
def coloured(tmp_path):
    """A run on colour pictures of 40 pixels."""
    for label, value in dict(cat=(250, 200, 150), dog=(60, 30, 0)).items():
        (tmp_path / "pets" / label).mkdir(parents=True)
        for i in range(10):
            Image.new("RGB", (50, 40), tuple(v + i // 2 for v in value)).save(tmp_path / "pets" / label / f"{i}.png")
    few = Recipe(model="nin_tiny", dataset="folder", epochs=1, batch_size=8, warmup_epochs=0, amp="no")
    train.train(override(few, in_chans=3, image_size=40), tmp_path / "run", data_dir=tmp_path / "pets", device="cpu")
    return override(few, model=str(tmp_path / "run"), pretrained=True), tmp_path


@pytest.mark.usefixtures("quick")
def test_a_run_goes_on_with_images_of_the_size_and_the_colours_that_it_knows(coloured):
    again, place = coloured
    metrics = train.train(again, place / "again", data_dir=place / "pets", device="cpu")
    assert tuple(metrics["data"]["image_size"]) == (3, 40, 40)
    metrics = train.train(override(again, image_size=32), place / "asked", data_dir=place / "pets", device="cpu")
    assert tuple(metrics["data"]["image_size"]) == (3, 32, 32)


def test_weights_for_96_pixels_are_fine_tuned_at_96_pixels():
    chosen = _parts.as_pretrained(Recipe(model="mobilenet_d2l", pretrained=True))
    assert chosen.image_size == 96
    assert _parts.as_pretrained(Recipe(model="nin_tiny", pretrained=True)) == Recipe(model="nin_tiny", pretrained=True)
    assert _parts.as_pretrained(Recipe(model="mobilenet_d2l")).image_size == 0


@pytest.mark.parametrize("parts", [("train", "test"), ("fit", "holdout")])
def test_a_picture_that_is_added_moves_no_other_to_the_images_that_are_measured_on(tmp_path, parts):
    for i in range(101):
        place = tmp_path / ("cat", "dog")[i % 2]
        place.mkdir(exist_ok=True)
        Image.new("L", (28, 28), i).save(place / f"{i}.png")
    former = [split.images.flatten(1)[:, 0].tolist() for split in data.load_splits("folder", parts, data_dir=tmp_path)]
    Image.new("L", (28, 28), 200).save(tmp_path / "cat" / "another.png")
    _, judge = data.load_splits("folder", parts, data_dir=tmp_path)
    assert not set(judge.images.flatten(1)[:, 0].tolist()) & set(former[0])
