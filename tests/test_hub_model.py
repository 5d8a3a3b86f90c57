"""Checkpoint folders of a model in memory: whole, honest, and ready to push."""

import re

import pytest
import timm
import torch
from helpers import fill
from hub_helpers import MINE, logits, pull
from huggingface_hub import ModelCard
from loopback_hub import ALICE
from safetensors import safe_open
from torch import nn

import cnnzoo
from cnnzoo import checkpoints, hub
from cnnzoo.errors import CheckpointError, CnnzooError
from cnnzoo.predict import class_labels


def trained(name="resnet_tiny", **kwargs):
    """A model whose weights are not those of any checkpoint, and whose classes have names if there are three."""
    model = fill(cnnzoo.create_model(name, **kwargs)).eval()
    if model.num_classes == 3:
        model.labels = ("cat", "dog", "eel")
    return model


def test_a_model_becomes_a_folder_that_a_fresh_process_and_timm_load(tmp_path):
    model = trained(num_classes=3)
    folder = hub.build(model, tmp_path)
    assert folder == tmp_path / "resnet_tiny.custom"
    assert [p.name for p in tmp_path.iterdir()] == [folder.name]
    assert {p.name for p in folder.iterdir()} == {"config.json", "model.safetensors", "README.md", "metrics.json"}
    assert all(p.stat().st_mode & 0o777 == 0o644 for p in folder.iterdir())
    with safe_open(folder / "model.safetensors", "pt") as weights:
        assert weights.metadata() == dict(format="pt")
    metrics = hub.verify(folder)
    assert metrics["params"] == sum(p.numel() for p in model.parameters())
    assert metrics["sha256"] == checkpoints.sha256(folder / "model.safetensors")
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True)
    assert torch.equal(logits(loaded), logits(model))
    assert class_labels(loaded) == ("cat", "dog", "eel")


def test_the_card_of_a_model_claims_nothing_that_nobody_measured(tmp_path):
    text = (hub.build(trained(num_classes=3), tmp_path) / "README.md").read_text()
    card = ModelCard(text)
    assert card.data.eval_results is None and "model-index" not in text and card.data.datasets is None
    assert card.data.license is None and "licence not stated" in text
    assert "Not measured." in text and not re.search(r"\d ?%|top-1|Fashion|Trained on", text)
    assert '["cat", "dog", "eel"]' in text and "3 classes" in text


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("lenet_tiny", dict(in_chans=3, num_classes=2, img_size=(32, 40))),
        ("resnet_tiny", dict(in_chans=2, num_classes=3, global_pool="max")),
        ("densenet_tiny", dict(pretrained_cfg_overlay=dict(mean=(0.5,), std=(0.25,), interpolation="nearest"))),
    ],
)
def test_channels_classes_sizes_and_preparation_travel(tmp_path, quick, name, kwargs):
    model = trained(name, **kwargs)
    folder = hub.build(model, tmp_path)
    hub.verify(folder)
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True)
    size = loaded.pretrained_cfg["input_size"]
    assert size == (model.in_chans, *kwargs.get("img_size", (28, 28)))
    assert torch.equal(logits(loaded), logits(model, size))
    if model.in_chans == 1:
        picture = torch.rand(50, 20)
        assert cnnzoo.predict(loaded, picture, 10) == cnnzoo.predict(model, picture, 10)


def test_a_fine_tuned_head_gets_the_labels_that_are_given_and_else_its_indices(tmp_path, quick):
    model = cnnzoo.create_model("lenet_tiny", pretrained=True, num_classes=2)
    for labels, expected in ((["shoe", "other"], ("shoe", "other")), (None, ("0", "1"))):
        folder = hub.build(model, tmp_path, labels=labels)
        hub.verify(folder)
        assert class_labels(cnnzoo.create_model(f"local-dir:{folder}", pretrained=True)) == expected


def test_half_precision_and_layouts_of_training_are_no_obstacle(tmp_path, quick):
    model = trained().half().to(memory_format=torch.channels_last).train()
    folder = hub.build(model, tmp_path)
    hub.verify(folder)
    assert model.training
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True)
    torch.testing.assert_close(logits(loaded), logits(model.float()), rtol=1e-4, atol=1e-2)  # of logits up to 600


@pytest.mark.usefixtures("brisk")
def test_a_pushed_model_comes_back_with_its_labels_its_temperature_and_a_twin(server, cache, tmp_path):
    model = trained(num_classes=3)
    model.temperature = 0.731
    hub.push(hub.build(model, tmp_path), MINE, token=ALICE)
    pulled = pull(cache, token=ALICE)
    assert torch.equal(logits(pulled.model), logits(model))
    assert pulled.labels == ("cat", "dog", "eel") and pulled.model.temperature == 0.731
    wide = pull(cache, token=ALICE, revision="rgb")
    x = torch.rand(2, 1, 28, 28)
    torch.testing.assert_close(wide.model(x.expand(-1, 3, -1, -1)), model(x), atol=1e-4, rtol=1e-4)
    assert wide.labels == pulled.labels and wide.model.temperature == 0.731
    assert wide.model.pretrained_cfg["mean"] == 3 * tuple(pulled.model.pretrained_cfg["mean"])


@pytest.mark.usefixtures("brisk")
def test_a_model_of_three_channels_needs_no_twin(server, tmp_path):
    hub.push(hub.build(trained(in_chans=3), tmp_path), MINE, token=ALICE)
    assert set(server.repos[MINE].branches) == {"main"}
    assert 'revision="rgb"' not in server.read(MINE, "README.md").decode()


def spoiled():
    model = trained()
    with torch.no_grad():
        model.get_classifier().bias[0] = float("nan")
    return model


REFUSED = dict(
    foreign=(lambda: nn.Linear(2, 2), "A Linear was given; a classifier made by cnnzoo"),
    timms=(lambda: timm.create_model("resnet10t", num_classes=2), "A ResNet was given"),
    headless=(lambda: trained(num_classes=0), "at least one class"),
    features=(lambda: cnnzoo.create_model("resnet_tiny", features_only=True), "features_only"),
    weightless=(lambda: cnnzoo.create_model("resnet_tiny", device="meta"), "meta device"),
    compiled=(lambda: torch.compile(trained()), "A OptimizedModule was given"),
    altered=(lambda: trained(widths=(8, 16, 24)), "model_args.widths"),
    not_finite=(spoiled, "head.fc.bias .*not finite"),
    many_labels=(lambda: (trained(num_classes=3), ["a"]), "1 labels were given for 3 classes"),
    equal_labels=(lambda: (trained(num_classes=2), ["a", "a"]), "each another"),
    blank_label=(lambda: (trained(num_classes=2), ["a", " "]), "each another"),
    text=(lambda: (trained(num_classes=2), "ab"), "Allowed is a list"),
    odd_labels=(lambda: (trained(num_classes=3), ["a", "b", 3]), "text for each"),
    long_label=(lambda: (trained(num_classes=3), ["a", "b", "c" * 999]), "label_names"),
)


@pytest.mark.parametrize("what", REFUSED)
def test_what_a_folder_cannot_say_is_refused_and_nothing_is_left(tmp_path, what):
    make, words = REFUSED[what]
    made = make()
    model, labels = made if isinstance(made, tuple) else (made, None)
    with pytest.raises(CnnzooError, match=words) as caught:
        hub.build(model, tmp_path / "out", labels=labels)
    assert "\n" not in str(caught.value)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_a_failure_leaves_the_folder_of_before(tmp_path):
    folder = hub.build(trained(), tmp_path)
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(CheckpointError):
        hub.build(spoiled(), tmp_path)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    (tmp_path / "file").write_text("")
    with pytest.raises(CnnzooError, match="cannot be written"):
        hub.build(trained(), tmp_path / "file")


def test_options_of_the_other_kind_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="is for runs only"):
        hub.build(trained(), tmp_path, holdout_run=tmp_path)
    with pytest.raises(CheckpointError, match="variant='textbook', which is for runs only"):
        hub.build(trained(), tmp_path, variant="textbook")
    with pytest.raises(CheckpointError, match="for a model only"):
        hub.build(tmp_path, tmp_path, labels=["a"])
    with pytest.raises(CheckpointError, match="empty list"):
        hub.build([], tmp_path)
