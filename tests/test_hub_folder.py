"""Checkpoint folders: built whole, and nothing that disagrees with itself passes for one."""

import json
import pickle
import re
import shutil

import pytest
import timm
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load, save_file

from cnnzoo import checkpoints, hub
from cnnzoo.errors import CheckpointError, CnnzooError
from cnnzoo.hub import _verify
from cnnzoo.hub._folder import ANSWERS

NAME = "lenet_tiny.fashion_mnist"


@pytest.fixture
def folder(tmp_path):
    """A copy of a checkpoint folder that a test may damage."""
    return shutil.copytree(checkpoints.folder(NAME), tmp_path / NAME)


def change_json(path, **fields):
    path.write_text(json.dumps(dict(json.loads(path.read_text()), **fields)))


def regenerate(folder):
    """Card and sha256 that agree with the folder's weights and metrics."""
    metrics = checkpoints.read_json(folder / "metrics.json")
    metrics["sha256"] = checkpoints.sha256(folder / checkpoints.WEIGHTS)
    change_json(folder / "metrics.json", **metrics)
    (folder / "README.md").write_text(hub.card(NAME, metrics, checkpoints.read_json(folder / "recipe.json")))


def test_a_good_folder_passes_in_a_fresh_process(folder):
    assert hub.verify(folder)["top1"] == checkpoints.metrics(NAME)["top1"]


def test_a_folder_of_any_name_passes(folder, quick):
    hub.verify(folder.rename(folder.parent / "download"))


@pytest.mark.parametrize("stray", ["pytorch_model.bin", "notes.txt", "model.safetensors.bak", "curves.png", ".hidden"])
def test_a_stray_file_is_refused_by_name(folder, quick, stray):
    (folder / stray).write_bytes(pickle.dumps("anything"))
    with pytest.raises(CheckpointError, match=re.escape(stray)):
        hub.verify(folder)


def test_a_link_is_refused(folder, quick):
    (folder / "README.md").rename(folder.parent / "README.md")
    (folder / "README.md").symlink_to(folder.parent / "README.md")
    with pytest.raises(CheckpointError, match="not an ordinary file"):
        hub.verify(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "README.md", "recipe.json", "metrics.json", ANSWERS])
def test_a_missing_file_is_named(folder, quick, name):
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        hub.verify(folder)


def test_flipped_weights_are_refused(folder, quick):
    path = folder / checkpoints.WEIGHTS
    path.write_bytes(path.read_bytes()[:-1] + b"\x55")
    with pytest.raises(CheckpointError, match="sha256"):
        hub.verify(folder)


def test_a_pickle_under_the_name_of_the_weights_is_refused(folder, quick):
    torch.save(dict(weight=torch.zeros(1)), folder / checkpoints.WEIGHTS)
    regenerate(folder)
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        hub.verify(folder)


def test_weights_of_another_shape_are_refused(folder, quick):
    state = load((folder / checkpoints.WEIGHTS).read_bytes())
    state["head.fc.weight"] = state["head.fc.weight"][:5].clone()
    save_file(state, folder / checkpoints.WEIGHTS)
    regenerate(folder)
    with pytest.raises(CheckpointError, match="head.fc.weight"):
        hub.verify(folder)


def test_a_card_with_other_numbers_is_refused(folder, quick):
    card = folder / "README.md"
    top1 = checkpoints.metrics(NAME)["top1"]
    card.write_text(card.read_text().replace(f"{top1:.2f} %", "99.36 %"))
    with pytest.raises(CheckpointError, match="README.md differs"):
        hub.verify(folder)


def test_metrics_with_other_numbers_are_refused(folder, quick):
    change_json(folder / "metrics.json", top1=99.0)
    with pytest.raises(CheckpointError, match="README.md differs"):
        hub.verify(folder)


def test_a_config_that_the_weights_do_not_give_is_refused(folder, quick):
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"]["mean"] = [0.5]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="config.json does not fit"):
        hub.verify(folder)


def test_a_fresh_process_with_other_logits_is_refused(folder, monkeypatch):
    monkeypatch.setattr(_verify, "_RELOAD", "print([[0.0] * 10] * 8)")
    with pytest.raises(CheckpointError, match="other logits"):
        hub.verify(folder)


def test_a_fresh_process_that_fails_or_hangs_is_an_error(folder, monkeypatch):
    monkeypatch.setattr(_verify, "_RELOAD", "raise SystemExit('broken')")
    with pytest.raises(CheckpointError, match="broken"):
        hub.verify(folder)
    monkeypatch.setattr(_verify, "_RELOAD", "import time; time.sleep(60)")
    monkeypatch.setattr(_verify, "_PATIENCE", 0.2)
    with pytest.raises(CheckpointError, match="no answer"):
        hub.verify(folder)


@pytest.mark.parametrize("content", ["[]", "{}", "{", '{"sha256": 1}'])
@pytest.mark.parametrize("name", ["metrics.json", "recipe.json", "config.json"])
def test_a_file_of_the_wrong_kind_is_an_error_and_no_crash(folder, quick, name, content):
    (folder / name).write_text(content)
    with pytest.raises(CnnzooError):
        hub.verify(folder)


BAD_METRICS = [
    dict(confusion=[]), dict(confusion=[[1]]), dict(confusion=[[-1] * 10] * 10), dict(per_class=-1),
    dict(per_class=[101] * 10), dict(per_class=[90.0] * 9), dict(top1=float("nan")), dict(top1="94"), dict(top1=True),
    dict(loss=-0.1), dict(seed="../../x"),
    dict(seed=5), dict(seeds=[]), dict(seeds=[0, 0]), dict(params=-1), dict(minutes=float("inf")), dict(temperature=-1),
    dict(robustness=[1, 2]), dict(robustness={"noise": 120}), dict(sha256="../x"), dict(data_md5=[1]), dict(model=7),
]  # fmt: skip


@pytest.mark.parametrize("fields", BAD_METRICS, ids=lambda fields: str(fields)[:40])
def test_metrics_that_cannot_be_are_refused_by_name_even_where_the_card_says_the_same(folder, quick, fields):
    change_json(folder / "metrics.json", **fields)
    for reader in (hub.verify, hub.measure, lambda place: hub.twin(place, place.parent / "rgb")):
        words = f"metrics.json says that ({'|'.join(fields)}|per_class|seed) is .* allowed is"
        with pytest.raises(CheckpointError, match=words):
            reader(folder)


def test_no_folder_at_all_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match="is not a folder"):
        hub.verify(tmp_path / "nowhere")


# -- the 3-channel twin ----------------------------------------------------------------------------------------------------


def test_the_twin_passes_and_gives_the_gray_models_logits(folder, quick, tmp_path):
    twin = hub.twin(folder, tmp_path / "rgb")
    metrics = hub.verify(twin)
    gray = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    wide = timm.create_model(f"local-dir:{twin}", pretrained=True).eval()
    assert metrics["params"] == sum(p.numel() for p in wide.parameters())
    x = torch.randn(4, 1, 28, 28)
    torch.testing.assert_close(wide(x.expand(-1, 3, -1, -1)), gray(x), atol=1e-4, rtol=1e-4)
    assert "3x28x28" in (twin / "README.md").read_text()


def test_the_twin_is_the_same_every_time(folder, tmp_path):
    once, again = hub.twin(folder, tmp_path / "a"), hub.twin(folder, tmp_path / "b")
    assert {p.name: p.read_bytes() for p in once.iterdir()} == {p.name: p.read_bytes() for p in again.iterdir()}


# -- the card --------------------------------------------------------------------------------------------------------------


def test_the_card_has_the_result_in_the_hubs_own_form():
    card = ModelCard.load(checkpoints.folder(NAME) / "README.md")
    result = card.data.eval_results[0]
    assert (result.dataset_type, result.dataset_split, result.metric_type) == (
        "zalando-datasets/fashion_mnist", "test", "accuracy",
    )  # fmt: skip
    assert result.metric_value == pytest.approx(checkpoints.metrics(NAME)["top1"] / 100)
    assert (card.data.license, card.data.library_name) == ("apache-2.0", "timm")


@pytest.mark.parametrize("words", ["MIT", "Apache-2.0", "md5", "holdout", "knows 10 classes", "seed 0", "sha256"])
def test_the_card_says_what_a_user_must_know(words):
    assert words in (checkpoints.folder(NAME) / "README.md").read_text()


@pytest.mark.parametrize("name", checkpoints.names())
def test_every_card_has_its_picture_whose_counts_are_the_cards_accuracy(name):
    folder, metrics = checkpoints.folder(name), checkpoints.metrics(name)
    counts = torch.tensor(metrics["confusion"])
    assert counts.sum(1).tolist() == [1000] * 10
    assert counts.diag().sum() / 100 == pytest.approx(metrics["top1"])
    assert (counts.diag() / 10).tolist() == pytest.approx(metrics["per_class"])
    assert "(confusion.png)" in (folder / "README.md").read_text()
    assert (folder / "confusion.png").read_bytes().startswith(b"\x89PNG")


def test_counts_and_picture_go_together(folder, quick):
    (folder / "confusion.png").unlink()
    with pytest.raises(CheckpointError, match="confusion.png"):
        hub.verify(folder)
