"""`timm:NAME` trains any model of timm's own as one of the zoo, and its run folder is a model for every command."""

import json

import pytest
import timm
import torch
from click.testing import CliRunner
from helpers import TINY, run_recipe as run

import cnnzoo
from cnnzoo import data, evaluate, hub
from cnnzoo.cli import main
from cnnzoo.drawings import garments
from cnnzoo.errors import CheckpointError, CnnzooError, UnknownNameError
from cnnzoo.recipes import Recipe, get_recipe, override

NAME = "timm:test_resnet"
RECIPE = Recipe(model=NAME, **TINY)


def test_a_run_of_timms_model_leaves_what_a_run_of_ours_does_and_is_a_model(tmp_path, miniature):
    out = tmp_path / "run"
    metrics = run(RECIPE, out, miniature)
    assert metrics["model"] == NAME and json.loads((out / "recipe.json").read_text())["model"] == NAME
    assert metrics["params"] == sum(
        p.numel() for p in timm.create_model("test_resnet", in_chans=1, num_classes=10).parameters()
    )
    model = cnnzoo.create_model(out, pretrained=True)
    assert type(model) is type(timm.create_model("test_resnet")) and model.pretrained_cfg["input_size"] == (1, 28, 28)
    found = evaluate.evaluate(model, data.load_split("miniature", "test", data_dir=miniature[0]))
    assert (found.top1, found.loss) == (metrics["top1"], pytest.approx(metrics["loss"], abs=1e-4))
    answer = cnnzoo.predict(out, garments()["Bag"])
    assert answer[0][0] in miniature[1].labels
    assert cnnzoo.info(out)["name"] == NAME


def test_the_commands_take_the_name_to_train_and_the_folder_to_use(tmp_path, miniature):
    def cnnzoo_(*words: str) -> str:
        result = CliRunner().invoke(main, [str(word) for word in words])
        assert result.exit_code == 0, result.output
        return result.output

    out = tmp_path / "run"
    where = ["--data-dir", miniature[0]]
    fields = ["--dataset", "miniature", "--epochs", 1, "--batch-size", 8, "--warmup-epochs", 0, "--device", "cpu"]
    said = cnnzoo_("train", NAME, *fields, "--out", out, *where)
    assert f"{NAME}: " in said
    top1 = json.loads((out / "metrics.json").read_text())["top1"]
    assert f"{out}: {top1:.2f} % top-1 on 12 test images" in cnnzoo_("eval", out, *where)
    assert "not tried" in cnnzoo_("info", out) and "BasicBlock" in cnnzoo_("summary", out)
    cnnzoo_("export", out, tmp_path / "model.pt2")
    picture = tmp_path / "bag.png"
    garments()["Bag"].save(picture)
    exported = cnnzoo.load_exported(tmp_path / "model.pt2").predict(str(picture))
    assert exported[0][0] == cnnzoo.predict(out, str(picture))[0][0]


def test_a_run_of_timms_model_resumes(tmp_path, miniature):
    run(RECIPE, tmp_path / "run", miniature)
    before = (tmp_path / "run" / "model.safetensors").read_bytes()
    run(RECIPE, tmp_path / "run", miniature, resume=True)
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == before


def test_a_run_of_timms_model_is_fine_tuned_and_teaches(tmp_path, miniature):
    run(override(RECIPE, epochs=1, warmup_epochs=0.0), tmp_path / "first", miniature)
    first = str(tmp_path / "first")
    again = override(RECIPE, model=first, epochs=1, warmup_epochs=0.0, pretrained=True, freeze=True)
    run(again, tmp_path / "again", miniature)
    old, new = (cnnzoo.create_model(tmp_path / name, pretrained=True) for name in ("first", "again"))
    assert torch.equal(old.conv1[0].weight, new.conv1[0].weight) and not torch.equal(old.fc.weight, new.fc.weight)
    student = Recipe(model="lenet_tiny", **dict(TINY, epochs=1, warmup_epochs=0.0), teacher=first)
    assert run(student, tmp_path / "student", miniature)["teachers"] == [NAME]


def test_freezing_keeps_the_batch_norms_that_a_model_has_in_its_head_before_the_classifier(tmp_path, miniature):
    recipe = override(RECIPE, model="timm:efficientvit_b0", epochs=1, warmup_epochs=0.0, ema_decay=0.0)
    run(recipe, tmp_path / "first", miniature)
    run(override(recipe, model=str(tmp_path / "first"), pretrained=True, freeze=True), tmp_path / "again", miniature)
    old, new = (cnnzoo.create_model(tmp_path / name, pretrained=True).state_dict() for name in ("first", "again"))
    assert "head.in_conv.norm.running_mean" in old
    assert {name for name in old if not torch.equal(old[name], new[name])} == {
        "head.classifier.4.weight",
        "head.classifier.4.bias",
    }


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("timm:test_resnt", "Unknown model of timm 'test_resnt'. Did you mean test_resnet"),
        ("timm:", "Unknown model of timm ''"),
        ("timm:resnet18.a1_in1k", "a1_in1k names weights.*Write timm:resnet18"),
        ("timm:lenet_tiny", "is a model of the zoo, not timm's own. Write lenet_tiny"),
    ],
)
def test_a_name_that_timm_does_not_have_says_what_to_type(typed, said):
    with pytest.raises(UnknownNameError, match=said):
        cnnzoo.create_model(typed)


def test_timms_weights_are_not_fetched(no_network):
    with pytest.raises(CheckpointError, match="starts from random weights here.*cnnzoo train timm:test_resnet"):
        cnnzoo.create_model(NAME, pretrained=True)


@pytest.mark.parametrize(
    ("name", "fields", "said"),
    [
        ("timm:test_vit", {}, "test_vit cannot be trained on 28x28 pixels.*Use image_size=160"),
        ("timm:test_resnet", dict(batch_size=1), "1 image at a time.*Use image_size=160, or a larger batch_size"),
        ("timm:vgg11", dict(drop_path_rate=0.1), "vgg11 cannot be built with .*drop_path_rate=0.1"),
    ],
)
def test_what_a_model_of_timm_cannot_take_is_said_before_training(name, fields, said, tmp_path, miniature):
    with pytest.raises(CnnzooError, match=said) as caught:
        run(override(RECIPE, model=name, **fields), tmp_path / "run", miniature)
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_a_run_of_timms_model_is_no_checkpoint_folder(tmp_path, miniature):
    run(RECIPE, tmp_path / "run", miniature)
    with pytest.raises(CheckpointError, match="is a run of timm:test_resnet; checkpoint folders are of models of the zoo"):
        hub.build(tmp_path / "run", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_recipes_know_timms_model_by_both_names():
    assert get_recipe("textbook", NAME).image_size == get_recipe("textbook", "test_resnet").image_size == 160
    assert get_recipe("standard", "timm:test_vit").start_size == 0  # it is built for one size
