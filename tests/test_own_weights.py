"""Whose weights `pretrained=True` loads: the caller's where they are named, else the zoo's, and none that do not fit."""

import shutil

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import cnnzoo
from cnnzoo import checkpoints
from cnnzoo.datasets import FASHION_MNIST
from cnnzoo.errors import CheckpointError


@pytest.fixture
def mine(tmp_path):
    """A file of weights that are not the zoo's."""
    save_file(cnnzoo.create_model("lenet_tiny").state_dict(), tmp_path / "mine.safetensors")
    return str(tmp_path / "mine.safetensors")


@pytest.mark.parametrize("how", ["overlay", "copy of the zoo's config", "config without a tag", "config object"])
def test_weights_that_the_caller_names_are_loaded_however_they_are_named(mine, how):
    cfg = timm.models.get_pretrained_cfg("lenet_tiny").to_dict()
    given = {
        "overlay": dict(pretrained_cfg_overlay=dict(file=mine)),
        "copy of the zoo's config": dict(pretrained_cfg=dict(cfg, file=mine)),
        "config without a tag": dict(pretrained_cfg=dict(cfg, file=mine, tag="")),
        "config object": dict(pretrained_cfg=timm.models.PretrainedCfg(**dict(cfg, file=mine))),
    }[how]
    model = timm.create_model("lenet_tiny", pretrained=True, **given)
    assert torch.equal(model.state_dict()["head.fc.bias"], load_file(mine)["head.fc.bias"])
    assert (model.labels, model.temperature, model.base_model) == ((), 1.0, None)


@pytest.mark.parametrize("where", [dict(hf_hub_id="you/mine"), dict(url="http://127.0.0.1:1/mine.safetensors")])
@pytest.mark.parametrize("whole", [False, True])
def test_a_place_that_the_caller_names_is_asked_and_not_replaced_by_the_zoos_file(where, whole, monkeypatch):
    asked = []
    for ask in ("load_state_dict_from_hf", "load_state_dict_from_url"):
        monkeypatch.setattr(f"timm.models._builder.{ask}", lambda place, *a, **k: asked.append(place) or {})
    cfg = dict(timm.models.get_pretrained_cfg("lenet_tiny").to_dict(), **where)
    given = dict(pretrained_cfg=cfg) if whole else dict(pretrained_cfg_overlay=where)
    with pytest.raises(RuntimeError, match="Missing key"):
        timm.create_model("lenet_tiny", pretrained=True, **given)
    assert asked == list(where.values())


def test_the_zoos_own_config_given_whole_means_the_zoos_weights():
    cfg = timm.models.get_pretrained_cfg("lenet_tiny").to_dict()
    model = timm.create_model("lenet_tiny", pretrained=True, pretrained_cfg=cfg)
    assert model.labels == FASHION_MNIST.labels and model.base_model == "cnnzoo/lenet_tiny.fashion_mnist"


@pytest.mark.parametrize("change", ["another head", "no head"])
def test_a_new_head_is_saved_by_timm_without_the_former_labels_and_temperature(tmp_path, change):
    model = cnnzoo.create_model("local-dir:hub_configs/lenet_tiny.fashion_mnist", pretrained=True)
    if change == "no head":
        model.prune_intermediate_layers()
    model.reset_classifier(10)
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True)
    saved = checkpoints.read_json(tmp_path / "config.json")
    assert "label_names" not in saved and not saved["pretrained_cfg"].get("label_names")
    assert not saved["pretrained_cfg"].get("notes")
    if change == "another head":
        loaded = cnnzoo.create_model(tmp_path, pretrained=True)
        assert (loaded.labels, loaded.temperature) == ((), 1.0)


def test_random_weights_are_saved_by_timm_without_the_zoos_labels(tmp_path):
    for pretrained in (False, True):
        model = timm.create_model("lenet_tiny", pretrained=pretrained)
        timm.models.save_for_hf(model, tmp_path / str(pretrained), safe_serialization=True)
        loaded = cnnzoo.create_model(f"local-dir:{tmp_path / str(pretrained)}", pretrained=True)
        assert loaded.labels == (FASHION_MNIST.labels if pretrained else ())


@pytest.mark.parametrize("change", [dict(img_size=64), dict(global_pool="avg"), dict(img_size=64, num_classes=3)])
@pytest.mark.parametrize("name", ["lenet_tiny", str(checkpoints.folder("lenet_tiny.fashion_mnist"))])
def test_arguments_that_the_weights_do_not_fit_are_refused_in_words(name, change):
    with pytest.raises(CheckpointError, match="lenet_tiny.* do not fit .*size mismatch.* Leave out .*img_size"):
        cnnzoo.create_model(name, pretrained=True, **change)


def test_a_folder_whose_weights_are_not_those_that_were_measured_is_refused(tmp_path):
    folder = shutil.copytree(checkpoints.folder("lenet_tiny.fashion_mnist"), tmp_path / "mine")
    assert cnnzoo.create_model(folder, pretrained=True).labels == FASHION_MNIST.labels
    path = folder / checkpoints.WEIGHTS
    damaged = bytearray(path.read_bytes())
    damaged[-2] ^= 0x40
    path.write_bytes(damaged)
    with pytest.raises(CheckpointError, match="sha256.* copy or build its folder again"):
        cnnzoo.create_model(folder, pretrained=True)
    (folder / "metrics.json").unlink()  # nothing says any more what they were
    cnnzoo.create_model(folder, pretrained=True)
