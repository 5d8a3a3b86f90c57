"""Recipes: every field does what it says, every recipe trains."""

import dataclasses
import json
import re
import shlex
import statistics
from pathlib import Path

import pytest
import safetensors.torch
import torch
from click.testing import CliRunner
from helpers import run_recipe as run, weights_of as weights

import cnnzoo
from cnnzoo import data
from cnnzoo.cli import main
from cnnzoo.cli._train import train_
from cnnzoo.errors import CnnzooError, UnknownNameError
from cnnzoo.evaluate import evaluate
from cnnzoo.recipes import RECIPES, Recipe, by_the_book, get_recipe, override
from cnnzoo.train import _optimizer, _parts


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("model", ["lenet_tiny", "lenet_d2l", "resnext18_d2l"])
def test_every_recipe_trains_or_says_what_image_size_to_use(name, model, tmp_path, miniature):
    recipe = get_recipe(name, model, dataset="miniature", epochs=1, batch_size=4, warmup_epochs=0)
    recipe = override(recipe, start_size=0)
    if name != "textbook" and model == "resnext18_d2l":
        with pytest.raises(CnnzooError, match="28x28 pixels, but it takes 32x32 or more. Use image_size=32"):
            run(recipe, tmp_path / "run", miniature)
        return
    metrics = run(recipe, tmp_path / "run", miniature)
    assert metrics["macs"] == cnnzoo.info(model)["macs"]  # at the size that the model is made for


@pytest.mark.parametrize(
    ("name", "model", "fields", "is_the_books"),
    [
        ("textbook", "nin_d2l", {}, True),
        ("textbook", "nin_d2l", dict(amp="bf16", seed=3), True),
        ("textbook", "nin_d2l", dict(lr=0.1), False),
        ("textbook", "nin_small", {}, False),
        ("standard", "lenet_d2l", {}, False),
    ],
)
def test_a_recipe_is_the_books_as_long_as_nothing_in_it_was_chosen(name, model, fields, is_the_books):
    assert by_the_book(dataclasses.asdict(get_recipe(name, model, **fields))) == is_the_books


BENCH = json.loads((Path(__file__).parent / "bench_train.json").read_text())


def recipe_of(command: str) -> Recipe:
    """What `cnnzoo train ...` would do today, whichever folder it is told to use."""
    options = train_.make_context("train", [*shlex.split(command)[2:], "--out", "run"]).params
    fields = {f.name for f in dataclasses.fields(Recipe)} - {"model"}
    given = {k: v for k, v in options.items() if k in fields and v is not None}
    return get_recipe(options["recipe"], options["model"], **given)


def measured_by(command: str) -> tuple[float, float, float, str]:
    """Top-1, the same with flip TTA, minutes and hardware of a command: the kept benchmark's mean, or the published run."""
    recipe = recipe_of(command)
    for kept in BENCH["cold_starts"]:
        if Recipe(**kept["recipe"]) == recipe:
            means = [statistics.mean(kept[key]) for key in ("top1", "top1_tta", "seconds")]
            return means[0], means[1], means[2] / 60, BENCH["hardware"]
    (row,) = [r for r in cnnzoo.results() if Recipe(**r["recipe"]) == recipe]
    return row["top1"], row["top1_tta"], row["minutes"], row["hardware"]


@pytest.mark.parametrize("kept", BENCH["cold_starts"], ids=lambda kept: kept["name"])
def test_a_recipe_that_the_benchmark_timed_has_not_changed_since(kept):
    assert recipe_of(kept["command"]) == Recipe(**kept["recipe"])


@pytest.mark.parametrize("name", RECIPES)
def test_what_a_recipes_docstring_promises_was_measured_by_its_command(name):
    text = " ".join(RECIPES[name].__doc__.split())
    promise = r"Command: `(.+?)`\. Expect (.+?) % of the test images \((.+?) with flip TTA.*?\) "
    command, *told = re.search(promise + r"after (.+?) minutes on (.+? threads?)\b", text).groups()
    top1, tta, minutes, hardware = measured_by(command)
    assert told == [f"{top1:.2f}", f"{tta:.2f}", f"{minutes:.0f}", hardware]


def test_whitening_filters_answer_patches_with_unrelated_unit_variances(recipe, tiny_split):
    model = _parts.make_model(override(recipe, model="vgg_small", whiten=True), tiny_split)
    images = data.normalize(tiny_split.images, tiny_split.info.mean, tiny_split.info.std)
    answers = torch.nn.functional.conv2d(images, model.stem[0].conv.weight[:18]).transpose(0, 1).flatten(1)
    covariance = answers[:9] @ answers[:9].T / answers.shape[1]
    assert torch.allclose(covariance, torch.eye(9), atol=0.05)
    assert torch.allclose(answers[9:], -answers[:9], atol=1e-3)


def test_whitening_filters_and_their_norm_stay_as_they_are(recipe, tmp_path, miniature):
    before = run(override(recipe, model="vgg_tiny", whiten=True, epochs=1), tmp_path / "short", miniature)
    after = run(override(recipe, model="vgg_tiny", whiten=True, epochs=2), tmp_path / "long", miniature)
    assert before["sha256"] != after["sha256"]
    short, long = (weights(tmp_path / name) for name in ("short", "long"))
    same = {k for k in short if torch.equal(short[k], long[k]) and "num_batches" not in k and "running" not in k}
    assert same == {"stem.0.conv.weight", "stem.0.bn.weight", "stem.0.bn.bias"}


def test_convolutions_start_as_identities_as_far_as_their_channels_go(recipe, tiny_split):
    plain, model = (_parts.make_model(override(recipe, model="vgg_tiny", dirac=d), tiny_split) for d in (False, True))
    assert not torch.equal(plain.stages[0][0].conv.weight, model.stages[0][0].conv.weight)
    assert model.stem[0].conv.weight.std() > 0.1 and model.stem[0].conv.weight.shape[1] == 1  # the first is not
    x = torch.randn(2, 16, 9, 9)
    assert torch.equal(model.stem[1].conv(x), x)
    widened = model.stages[0][0].conv(x)  # 16 to 32 channels
    assert torch.equal(widened[:, :16], x) and widened[:, 16:].std() > 0.1


def test_identities_leave_groups_and_even_kernels_alone():
    convs = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.Conv2d(4, 4, 3, groups=2), torch.nn.Conv2d(4, 4, 2), torch.nn.Conv2d(4, 2, 1)
    )
    before = [conv.weight.clone() for conv in convs]
    _parts.identities(convs)
    assert [torch.equal(conv.weight, w) for conv, w in zip(convs, before, strict=True)] == [True, True, True, False]
    assert torch.equal(convs[3].weight[:, :, 0, 0], torch.eye(4)[:2])


@pytest.mark.parametrize("field", ["whiten", "dirac"])
def test_another_start_for_pretrained_weights_is_refused(field):
    with pytest.raises(CnnzooError, match=f"--no-{field}"):
        get_recipe("standard", "vgg_tiny", pretrained=True, **{field: True})
    with pytest.raises(CnnzooError, match="--no-"):
        get_recipe("fast", "vgg_tiny", pretrained=True)
    assert get_recipe("fast", "vgg_tiny", pretrained=True, whiten=False, dirac=False).pretrained


def test_a_narrow_first_layer_gets_the_directions_of_most_variance(tiny_split):
    conv = torch.nn.Conv2d(1, 3, 3)
    _parts.whiten(conv, tiny_split)
    patches = torch.nn.functional.unfold(
        data.normalize(tiny_split.images, tiny_split.info.mean, tiny_split.info.std), 3
    ).transpose(1, 2).flatten(0, 1)  # fmt: skip
    variances = torch.linalg.eigvalsh(patches.T @ patches / len(patches))
    assert torch.allclose(conv.weight.flatten(1).norm(dim=1) ** -2, variances[-3:], rtol=1e-3)


def test_whitening_looks_at_fewer_of_larger_images(tiny_split, monkeypatch):
    monkeypatch.setattr(_parts, "_WHITEN_PIXELS", 2 * 28 * 28)
    few, same = torch.nn.Conv2d(1, 3, 3), torch.nn.Conv2d(1, 3, 3)
    _parts.whiten(few, tiny_split)
    _parts.whiten(same, tiny_split[:2])
    assert torch.equal(few.weight, same.weight)


def test_whitening_sees_images_at_the_size_that_the_model_gets(tiny_split):
    conv = torch.nn.Conv2d(1, 9, 3, bias=False)
    _parts.whiten(conv, tiny_split, (56, 56))
    images = data.resize(data.normalize(tiny_split.images, tiny_split.info.mean, tiny_split.info.std), (56, 56))
    answers = torch.nn.functional.conv2d(images, conv.weight).pow(2).mean((0, 2, 3))
    assert answers[-5:].sub(1).abs().max() < 0.05  # those of most variance; the least are held down


def test_a_grouped_first_layer_cannot_be_whitened(tiny_split):
    with pytest.raises(CnnzooError, match="Leave it out"):
        _parts.whiten(torch.nn.Conv2d(2, 4, 3, groups=2), tiny_split)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (dict(freeze=True), "freeze=True was given without pretrained"),
        (dict(dual=0.1, cutout=0), "without cutout and erase"),
        (dict(answers="folder", teacher="nin_tiny"), "together with teacher"),
        (dict(answers="folder", dual=0.1), "together with dual"),
        (dict(in_chans=2), "Unknown value of in_chans '2'. Allowed: 0, 1, 3"),
        (dict(epochs=1.5), "a whole number is needed"),
    ],
)
def test_fields_that_do_not_go_together_or_are_no_such_value_are_refused(recipe, fields, words):
    with pytest.raises(CnnzooError, match=words):
        override(recipe, **fields)


@pytest.mark.parametrize("ema_decay", [0.0, 0.5])
def test_a_run_in_mixed_precision_is_measured_in_full_and_measuring_changes_no_statistics(
    recipe, ema_decay, tmp_path, miniature, monkeypatch
):
    monkeypatch.setattr(_parts, "fast_bf16", lambda kind: True)
    recipe = override(recipe, model="resnext_tiny", ema_decay=ema_decay, amp="bf16")
    metrics = run(recipe, tmp_path / "run", miniature)
    state = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    before = {k.removeprefix("module."): v for k, v in state["ema" if ema_decay else "model"].items()}
    after = safetensors.torch.load_file(tmp_path / "run" / "model.safetensors")
    assert all(torch.equal(before[name], tensor) for name, tensor in after.items())
    model = cnnzoo.create_model(tmp_path / "run", pretrained=True)
    again = evaluate(model, data.load_split("miniature", "test", data_dir=miniature[0]))
    assert (again.top1, again.loss) == (metrics["top1"], pytest.approx(metrics["loss"], abs=1e-5))


def test_accumulating_gives_the_gradient_of_the_whole_batch(recipe, tmp_path, miniature):
    plain = override(recipe, model="lenet_relu_d2l", batch_size=20)  # no batch norm
    run(plain, tmp_path / "whole", miniature)
    run(override(plain, accumulate=4), tmp_path / "parts", miniature)
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], rtol=0, atol=1e-5)


def test_the_last_epoch_has_the_size_that_is_measured_at_however_few_there_are():
    for name in RECIPES:
        for epochs in range(1, 13):
            recipe = get_recipe(name, "nin_tiny", epochs=epochs)
            sizes = [recipe.size_at(epoch, (28, 28)) for epoch in range(epochs)]
            assert sizes[-1] == (28, 28) and sizes == sorted(sizes)


@pytest.mark.parametrize("opt", ["sgd", "nmuon", "adamw"])
def test_a_momentum_of_one_is_refused(opt):
    with pytest.raises(CnnzooError, match="momentum below 1"):
        _optimizer.make_optimizer(Recipe(model="lenet_tiny", opt=opt, momentum=1.0), torch.nn.Linear(3, 3))


def test_a_list_of_no_teachers_is_refused(recipe):
    with pytest.raises(CnnzooError, match="teacher=' , ' was given, which names no model"):
        override(recipe, teacher=" , ")


def test_a_batch_of_one_image_that_batch_norm_cannot_take_is_refused_before_training(recipe, tmp_path, miniature):
    one = override(recipe, model="resnet18_d2l", image_size=32, batch_size=1)
    with pytest.raises(CnnzooError, match="1 image at a time .*larger batch_size"):
        run(one, tmp_path / "run", miniature)
    assert not (tmp_path / "run").exists()


def test_the_loss_of_two_views_punishes_what_their_answers_differ_by(recipe):
    logits, labels = torch.randn(6, 3), torch.tensor([0, 0, 1, 1, 2, 2])
    plain, dual = (_parts.Loss(override(recipe, dual=weight), []) for weight in (0.0, 0.1))
    expected = plain(logits, labels, logits) + 0.1 * (logits[0::2] - logits[1::2]).square().mean()
    torch.testing.assert_close(dual(logits, labels, logits), expected)


@pytest.mark.parametrize(
    "fields",
    [dict(dual=0.1, accumulate=2, cutmix=1.0, mix_prob=0.5), dict(randaugment=2), dict(photo=1.0, dual=0.1)],
    ids=lambda fields: "+".join(fields),
)
def test_a_run_with_stronger_augmentation_is_another_one_and_the_same_each_time(recipe, tmp_path, miniature, fields):
    plain, other = run(recipe, tmp_path / "plain", miniature), run(override(recipe, **fields), tmp_path / "other", miniature)
    again = run(override(recipe, **fields), tmp_path / "again", miniature)
    assert again["sha256"] == other["sha256"] != plain["sha256"]


# -- fields ---------------------------------------------------------------------------------------------------------------


def test_unknown_recipes_and_fields_are_refused_with_the_nearest():
    with pytest.raises(UnknownNameError, match="standard"):
        get_recipe("standart", "lenet_tiny")
    with pytest.raises(UnknownNameError, match="epochs"):
        override(get_recipe("fast", "lenet_tiny"), epoch=3)


@pytest.mark.parametrize(
    "fields",
    [dict(epochs="3"), dict(epochs=2.5), dict(flip=1), dict(epochs=0), dict(lr=-1.0), dict(amp="fp8"), dict(epochs=True)],
)
def test_a_field_of_the_wrong_type_or_range_is_refused_by_name(fields):
    with pytest.raises(CnnzooError, match=next(iter(fields))):
        Recipe(model="lenet_tiny", **fields)


def test_help_has_the_text_of_every_field_and_what_it_is_by_each_recipe():
    texts = Recipe.field_texts()
    assert set(texts) == {f.name for f in dataclasses.fields(Recipe)}
    assert all(text.endswith(".") and "  " not in text for text in texts.values())
    shown = " ".join(CliRunner().invoke(main, ["train", "--help"], terminal_width=200).output.split())
    for field, text in texts.items():
        assert field == "model" or text.replace("`", "") in shown, field
    assert "Peak learning rate. [default: 0.01; the section's own in textbook]" in shown
    assert "Passes over the training images. [default: 30; 60 in best; 8 in fast; the section's own in textbook]" in shown
    assert "Dropout in the head, 0 to 1. [default: 0; the section's own in textbook]" in shown
    assert "with probability 1/2. [default: yes; no in textbook]" in shown
    assert "Overrides the recipe" not in shown


def test_a_recipe_survives_json(recipe):

    assert Recipe(**json.loads(json.dumps(dataclasses.asdict(recipe)))) == recipe
