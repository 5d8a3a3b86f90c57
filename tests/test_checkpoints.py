"""Weights come from where they should, and from nowhere else."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from click.testing import CliRunner
from helpers import each, hub_only, native_size
from huggingface_hub.utils import close_session
from loopback_http import ALWAYS
from PIL import Image

import cnnzoo
from cnnzoo import checkpoints, published, registry, robustness
from cnnzoo.cli import main
from cnnzoo.datasets import FASHION_MNIST
from cnnzoo.drawings import garments
from cnnzoo.errors import CheckpointError, CnnzooError

NAMES = checkpoints.names()
NAME = "lenet_tiny.fashion_mnist"


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The checkpoint folders as a copy that a test may damage."""
    folder = tmp_path / "hub_configs"
    shutil.copytree(checkpoints.root(), folder)
    monkeypatch.setattr(checkpoints, "root", lambda: folder)
    return folder


def test_the_headline_checkpoints_are_there():
    assert {"lenet_tiny.fashion_mnist", "resnet_tiny.fashion_mnist", "resnext_small.fashion_mnist"} <= set(NAMES)


def test_the_headline_model_reaches_its_bar():
    assert checkpoints.metrics("resnext_small.fashion_mnist")["top1"] >= 95.4


@pytest.mark.parametrize("name", each(NAMES))
def test_every_bundled_checkpoint_loads_without_a_network(name, no_network):
    model = cnnzoo.create_model(name, pretrained=True).eval()
    torch.manual_seed(0)
    fresh = cnnzoo.create_model(name.split(".")[0]).eval()
    x = torch.rand(2, *model.pretrained_cfg["input_size"])
    assert model(x).isfinite().all()
    assert not torch.allclose(model(x), fresh(x))


@pytest.mark.parametrize("name", NAMES)
def test_timm_lists_every_checkpoint_and_takes_that_of_the_plain_tag_as_the_default_where_there_is_one(name):
    arch, tag = name.split(".", 1)
    assert name in timm.list_pretrained(f"{arch}*")
    usual = "fashion_mnist" if f"{arch}.fashion_mnist" in NAMES else tag
    assert timm.create_model(arch).pretrained_cfg["tag"] == usual
    assert timm.create_model(name).pretrained_cfg["tag"] == tag


@pytest.mark.parametrize("name", NAMES)
def test_every_folder_is_whole_and_its_numbers_agree(name):
    folder = checkpoints.folder(name)
    metrics = checkpoints.metrics(name)
    assert {p.name for p in folder.iterdir()} == {
        "config.json", "model.safetensors", "README.md", "recipe.json", "metrics.json", "confusion.png", "answers.png",
    }  # fmt: skip
    assert (folder / "answers.png").stat().st_size < 20_000
    facts = cnnzoo.info(name)
    assert checkpoints.sha256(folder / checkpoints.WEIGHTS) == metrics["sha256"]
    assert (facts["params"], facts["macs"]) == (metrics["params"], metrics["macs"])
    assert metrics["seed"] == min(metrics["seeds"]) == 0
    config = json.loads((folder / "config.json").read_text())
    assert config["architecture"] == metrics["model"]
    assert "num_classes" not in config.get("model_args", {})  # transformers fails on it
    assert len(config["label_names"]) == config["num_classes"] == 10


@pytest.mark.parametrize("name", NAMES)
def test_every_checkpoint_says_how_it_fares_on_spoiled_images_and_once_calibrated(name):
    metrics = checkpoints.metrics(name)
    assert tuple(metrics["robustness"]) == robustness.names(), f"cnnzoo measure {name} writes what is lacking."
    assert all(10 < top1 <= metrics["top1"] + 0.5 for top1 in metrics["robustness"].values())
    card = (checkpoints.folder(name) / "README.md").read_text(encoding="utf-8")
    assert robustness.as_markdown(metrics["robustness"]) in card
    if name.endswith(f".{registry.PHOTO_TAG}"):  # begun with weights that have seen the holdout: no temperature can be found
        assert "temperature" not in metrics
    if "temperature" not in metrics:
        assert "ece_calibrated" not in metrics
        assert f"{metrics['ece']:.1f} %; the probabilities are not calibrated" in card
        return
    assert metrics["ece_calibrated"] < metrics["ece"]
    assert f"{metrics['ece_calibrated']:.1f} % at the temperature {metrics['temperature']:.2f}" in card


@pytest.mark.parametrize("name", NAMES)
def test_every_card_has_the_accuracy_on_photos(name):
    photos = checkpoints.metrics(name)["photos"]
    assert photos["count"] == 157
    card = (checkpoints.folder(name) / "README.md").read_text(encoding="utf-8")
    assert f"{photos['top1']:.1f} % of 157" in card and f"chosen on a set of {photos['count']} photos" in card


@pytest.mark.parametrize("name", NAMES)
def test_the_card_and_the_config_are_what_the_numbers_generate(name, request):
    from cnnzoo import hub
    from cnnzoo.datasets import facts
    from cnnzoo.files import write_json
    from cnnzoo.hub._pictures import draw

    folder = checkpoints.folder(name)
    recipe = checkpoints.read_json(folder / "recipe.json")
    metrics = checkpoints.metrics(name)
    card = hub.card(name, metrics, recipe)
    info = facts(metrics, recipe)
    config = hub.config(cnnzoo.create_model(recipe["model"]), info, metrics.get("temperature", 1.0), metrics.get("tag"))
    assert config["pretrained_cfg"]["tag"] == name.split(".", 1)[1]
    if request.config.getoption("--accept"):
        (folder / "README.md").write_text(card, encoding="utf-8")
        write_json(folder / "config.json", config)
        draw(folder, cnnzoo.create_model(name, pretrained=True), info, metrics)
    stale = f"{folder} is stale: pytest tests/test_checkpoints.py --accept writes card and config anew."
    assert (folder / "README.md").read_text(encoding="utf-8") == card, stale
    assert checkpoints.read_json(folder / "config.json") == json.loads(json.dumps(config)), stale


def test_the_picture_of_ten_drawings_has_the_answers_of_predict(tmp_path, monkeypatch):
    from cnnzoo.hub import _pictures

    shown = []
    monkeypatch.setattr(_pictures, "contact_sheet", lambda rows: shown.extend(rows) or Image.new("RGB", (5, 5)))
    model, metrics = cnnzoo.create_model(NAME, pretrained=True), checkpoints.metrics(NAME)
    model.temperature = 5.0
    _pictures.draw(tmp_path, model, FASHION_MNIST, {k: v for k, v in metrics.items() if k != "confusion"})
    answers = cnnzoo.predict(NAME, list(garments().values()))
    assert [caption for _, caption, _ in shown] == [f"{best[0][0]} {best[0][1]:.0%}" for best in answers]
    assert [right for *_, right in shown] == [best[0][0] == drawn for best, drawn in zip(answers, garments(), strict=True)]


def test_a_card_cites_the_papers_of_its_architecture_and_of_the_zoo():
    for name, title in ((NAME, "Gradient-Based Learning"), ("vgg_tiny.fashion_mnist", "Very Deep Convolutional Networks")):
        card = (checkpoints.folder(name) / "README.md").read_text(encoding="utf-8")
        entries = re.findall(r"^@\w+\{(\w+),$", card.split("```bibtex")[1], re.MULTILINE)
        assert entries[0] == "cnnzoo" and len(entries) == 2 and f"title  = {{{{{title}" in card


def test_a_card_says_averaged_where_weights_were_and_counts_one_minute_as_one():
    book, modern = (
        (checkpoints.folder(f"lenet_d2l.{tag}fashion_mnist") / "README.md").read_text() for tag in ("textbook_", "")
    )
    assert "averaged over the run" not in book and "the last weights, averaged over the run" in modern
    photo = (checkpoints.root() / "wide_resnet_base.photo_fashion_mnist" / "README.md").read_text(encoding="utf-8")
    assert "averaged with the pretrained ones, which have a share of 0.4 (WiSE-FT)" in photo
    assert "chosen by the\naccuracy on test images and on the photos below" in photo
    assert "Trained in 1 minute on" in book and "Trained in 5 minutes on" in modern


def test_weights_are_readable_by_everyone():
    for name in NAMES:
        assert (checkpoints.folder(name) / checkpoints.WEIGHTS).stat().st_mode & 0o044 == 0o044


@pytest.mark.parametrize("damage", ["flipped", "truncated", "swapped", "empty"])
def test_a_damaged_file_is_refused_with_its_path_and_both_hashes(copied, damage):
    name = "lenet_tiny.fashion_mnist"
    path = copied / name / checkpoints.WEIGHTS
    content = path.read_bytes()
    if damage == "flipped":
        content = content[:-1] + bytes([content[-1] ^ 1])
    elif damage == "truncated":
        content = content[:-100]
    elif damage == "swapped":
        content = (copied / "resnet_tiny.fashion_mnist" / checkpoints.WEIGHTS).read_bytes()
    else:
        content = b""
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        cnnzoo.create_model("lenet_tiny", pretrained=True)
    message = str(caught.value)
    assert str(path) in message
    assert checkpoints.sha256(path) in message
    assert checkpoints.metrics(name)["sha256"] in message
    with pytest.raises(CheckpointError):
        timm.create_model("lenet_tiny", pretrained=True)


@pytest.fixture
def absent(copied):
    """The weights of a checkpoint, which are not in the installation any more."""
    path = copied / NAME / checkpoints.WEIGHTS
    content = path.read_bytes()
    path.unlink()
    return content


def create(cache):
    return cnnzoo.create_model("lenet_tiny", pretrained=True, cache_dir=cache)


@pytest.mark.usefixtures("brisk")
def test_without_the_bundled_file_the_hub_is_asked_once_and_its_copy_verified(absent, server, cache):
    server.put(f"cnnzoo/{NAME}", {checkpoints.WEIGHTS: absent})
    assert create(cache).temperature == checkpoints.metrics(NAME)["temperature"]
    server.requests.clear()
    create(cache)
    create(cache / "not there" / "..")  # the same place
    assert not server.requests
    server.put(f"cnnzoo/{NAME}", {checkpoints.WEIGHTS: absent[:-1] + b"\x00", "pytorch_model.bin": b"pickle"})
    with pytest.raises(CheckpointError, match="sha256"):
        create(cache / "another")
    server.put(f"cnnzoo/{NAME}", {"pytorch_model.bin": b"pickle"})
    with pytest.raises(CheckpointError, match="neither in this installation"):
        create(cache / "third")
    assert not [r for r in server.requests if "pytorch_model" in r.path]


@pytest.mark.usefixtures("brisk")
def test_a_copy_that_was_damaged_in_the_cache_is_fetched_again(absent, server, cache):
    server.put(f"cnnzoo/{NAME}", {checkpoints.WEIGHTS: absent})
    path = checkpoints.locate(NAME, cache)
    path.resolve().write_bytes(absent[:-1] + b"\x00")
    assert checkpoints.locate(NAME, cache).read_bytes() == absent


def test_without_file_and_network_the_advice_waits_for_less_than_five_seconds(absent, server, cache, request, waits):
    server.fault("info", "stall", ALWAYS)
    for network in ("that swallows everything", "none"):
        if network == "none":
            close_session()
            request.getfixturevalue("no_network")
        waits.clear()
        with pytest.raises(CheckpointError, match="neither in this installation.*Go online.*cnnzoo train lenet_tiny --out"):
            create(cache)
        assert 0 < sum(waits) < 5, network


def test_the_clients_own_offline_switch_is_said_at_once(absent, no_network, monkeypatch, cache):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="Go online"):
        create(cache)


def test_pretrained_without_weights_says_which_models_have_them():
    arch = next(n for n in cnnzoo.list_models() if not checkpoints.pretrained_cfgs(n))
    with pytest.raises(CheckpointError, match="list_pretrained"):
        timm.create_model(arch, pretrained=True)


@pytest.mark.parametrize("name", ["lenet_tiny", NAME])
def test_an_installation_without_the_folders_says_so(name, monkeypatch):
    """As where Python imports the package from a zip file."""
    monkeypatch.setattr(checkpoints, "root", lambda: Path("cnnzoo.zip/hub_configs"))
    monkeypatch.setattr(checkpoints, "names", lambda: ())
    with pytest.raises(CheckpointError, match="cnnzoo.zip/hub_configs does not exist.* pip install cnnzoo"):
        cnnzoo.create_model(name, pretrained=True)


def test_a_wrong_tag_is_refused():
    with pytest.raises(CnnzooError, match="fashion_mnist"):
        cnnzoo.create_model("resnext_small.fashion_mnst", pretrained=True)


@pytest.mark.parametrize("name", each(NAMES))
def test_a_folder_loads_as_a_local_hub_repository(name, no_network):
    loaded = timm.create_model(f"local-dir:{checkpoints.folder(name)}", pretrained=True).eval()
    x = torch.rand(2, *native_size(name))
    torch.testing.assert_close(loaded(x), cnnzoo.create_model(name, pretrained=True).eval()(x))


@pytest.mark.parametrize("name", each(NAMES))
@pytest.mark.parametrize("in_chans", [2, 3, 4])
def test_more_channels_give_the_grayscale_logits_on_gray_images(name, in_chans):
    gray = cnnzoo.create_model(name, pretrained=True).eval()
    wide = timm.create_model(name, pretrained=True, in_chans=in_chans).eval()
    x = torch.randn(4, *native_size(name))
    with torch.inference_mode():
        torch.testing.assert_close(wide(x.expand(-1, in_chans, -1, -1)), gray(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", each(NAMES))
def test_another_number_of_classes_keeps_the_features_and_swaps_the_head(name):
    whole = cnnzoo.create_model(name, pretrained=True).eval()
    five = timm.create_model(name, pretrained=True, num_classes=5, in_chans=3).eval()
    x = torch.randn(2, *native_size(name))
    assert five(x.expand(-1, 3, -1, -1)).shape == (2, 5)
    torch.testing.assert_close(
        five.forward_features(x.expand(-1, 3, -1, -1)), whole.forward_features(x), atol=1e-4, rtol=1e-4
    )


def test_features_only_loads_the_weights():
    backbone = timm.create_model("resnext_small", pretrained=True, features_only=True, out_indices=(-1,)).eval()
    whole = cnnzoo.create_model("resnext_small", pretrained=True).eval()
    x = torch.randn(2, 1, 28, 28)
    torch.testing.assert_close(backbone(x)[0], whole.forward_features(x))


def test_the_weights_in_the_wheel_stay_within_sixty_megabytes_and_the_others_are_of_checkpoints_that_exist():
    assert hub_only() < set(NAMES)
    assert sum((checkpoints.folder(n) / checkpoints.WEIGHTS).stat().st_size for n in set(NAMES) - hub_only()) < 60e6


@pytest.mark.parametrize("name", [n for n in NAMES if n.endswith(".textbook_fashion_mnist")])
def test_the_cards_of_the_textbooks_networks_have_the_textbooks_accuracy_beside_ours(name):
    text, section = (checkpoints.folder(name) / "README.md").read_text(), published.TEXTBOOK[name.partition(".")[0]]
    assert (section.choice or "Nothing was chosen.") in text and "which images choices were made" not in text
    recipe = checkpoints.read_json(checkpoints.folder(name) / "recipe.json")
    assert ("training was in mixed precision (bf16)" in text) is (recipe["amp"] == "bf16")
    training = f"at {section.training}" if section.training else "in fp32"
    row = f"| what the textbook prints, after its own training {training} | {section.printed} % |"
    assert [line for line in text.splitlines() if "the textbook prints" in line] == [row] * bool(section.printed)


def test_what_is_being_made_or_was_built_of_other_data_is_no_checkpoint_of_the_zoo(copied):
    for name in (".lenet_tiny.fashion_mnist.eu2pke_y", "lenet_tiny.folder", "lenet_tiny.custom"):
        shutil.copytree(copied / NAME, copied / name)
    assert checkpoints.names.__wrapped__() == checkpoints.names()  # without its cache


def test_listing_and_info_say_which_checkpoints_are_on_the_hub_only(copied):
    names = ["lenet_tiny.fashion_mnist", "vgg_tiny.fashion_mnist"]
    assert "Hub only" not in CliRunner().invoke(main, ["list", "--pretrained", "*_tiny"]).output
    (copied / names[0] / checkpoints.WEIGHTS).unlink()
    listing = CliRunner().invoke(main, ["list", "--pretrained", "*_tiny"]).output
    assert listing.splitlines()[-1].startswith("On the Hub only") and listing.splitlines()[-1].endswith(names[0])
    assert {r["checkpoint"]: r["bundled"] for r in cnnzoo.results(names)} == {names[0]: False, names[1]: True}
    said = {name: CliRunner().invoke(main, ["info", name.partition(".")[0]]).output for name in names}
    assert "%, on the Hub only\n" in said[names[0]] and "Hub" not in said[names[1]]
    assert [cnnzoo.info(n)["checkpoints"]["fashion_mnist"]["bundled"] for n in ("lenet_tiny", "vgg_tiny")] == [False, True]


def test_a_new_folder_is_a_new_checkpoint_without_any_edit(tmp_path):
    """In a copy of the package with one more folder, timm lists it and loads it."""
    package = Path(cnnzoo.__file__).parent
    shutil.copytree(package, tmp_path / "cnnzoo", ignore=shutil.ignore_patterns("__pycache__", "hub_configs"))
    shutil.copytree(checkpoints.root(), tmp_path / "cnnzoo" / "hub_configs")
    source = tmp_path / "cnnzoo" / "hub_configs" / "lenet_tiny.fashion_mnist"
    shutil.copytree(source, source.parent / "lenet_tiny.another_fashion_mnist")
    code = (
        f"import cnnzoo, timm; assert cnnzoo.__file__.startswith({str(tmp_path)!r}), cnnzoo.__file__;"
        "assert 'lenet_tiny.another_fashion_mnist' in timm.list_pretrained('lenet*');"
        "timm.create_model('lenet_tiny.another_fashion_mnist', pretrained=True)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
