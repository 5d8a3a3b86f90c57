"""Names: what can be created, listed and wished for, through cnnzoo and through timm."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import timm
from helpers import MODELS, each, fill
from hypothesis import given, strategies as st
from safetensors.torch import save_file

import cnnzoo
from cnnzoo import checkpoints, registry
from cnnzoo.errors import CheckpointError, CnnzooError, UnknownNameError

# -- listing -------------------------------------------------------------------------------------------------------------


def test_the_list_is_sorted_and_holds_only_models_of_the_zoo():
    assert cnnzoo.list_models() == sorted(set(MODELS))
    assert not {"resnet18", "vgg11", "regnetx_002"} & set(cnnzoo.list_models())
    for name in MODELS:
        assert timm.model_entrypoint(name).__module__.startswith("cnnzoo.models.")


def test_a_wildcard_lists_what_it_matches():
    assert cnnzoo.list_models("lenet_*") == [n for n in MODELS if n.startswith("lenet_")]
    assert cnnzoo.list_models("*_tiny") == [n for n in MODELS if n.endswith("_tiny")]
    assert cnnzoo.list_models(["*_tiny", "lenet_tiny", "*_d2l"]) == [n for n in MODELS if n.endswith(("_tiny", "_d2l"))]
    assert cnnzoo.list_models("resnext_small") == ["resnext_small"]
    assert cnnzoo.list_models("resnet18") == cnnzoo.list_models("nothing*") == cnnzoo.list_models([]) == []


def test_models_are_listed_and_made_by_the_keywords_of_timm():
    how = dict(filter="*_tiny", exclude_filters=["lenet*", "nin_*"])
    assert cnnzoo.list_models(**how) == sorted(n for n in timm.list_models(**how) if n in MODELS)
    assert cnnzoo.list_models(exclude_filters="*_tiny") == [n for n in MODELS if not n.endswith("_tiny")]
    made = [make(model_name="lenet_tiny", num_classes=3) for make in (timm.create_model, cnnzoo.create_model)]
    assert type(made[0]) is type(made[1]) and made[1].num_classes == 3


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("lenet_tiny", dict(weight_init="foo"), "Unknown weight_init 'foo'. Allowed: kaiming, xavier"),
        ("lenet_tiny", dict(act="gelu"), "act='gelu' was given.*Its own is act='relu'"),
        ("googlenet_tiny", dict(modules=("3a 9z", "4a")), "modules=.*9z.*Its own is modules="),
        ("resnet_tiny", dict(widths=(16, 32)), r"widths=\(16, 32\) was given.*Its own is widths=\(16, 32, 64\)"),
        ("resnext_small", dict(group_width=48), "group_width=48 was given for 64 channels"),
        ("regnet_tiny", dict(w_m=1), "w_m=1 was given.*ZeroDivisionError"),
        ("convnext28_tiny", dict(kernel=4), "odd kernels"),
    ],
)
def test_layers_that_cannot_be_built_are_refused_with_the_models_own(name, arguments, words):
    with pytest.raises(CnnzooError, match=words):
        cnnzoo.create_model(name, **arguments)


def test_timm_lists_the_zoo_after_the_import():
    assert set(MODELS) < set(timm.list_models())
    assert set(cnnzoo.list_models("resnext_*")) <= set(timm.list_models("resnext_*"))
    assert all(timm.is_model(name) for name in MODELS)
    assert set(cnnzoo.list_models("lenet*")) == set(timm.list_models("lenet*")) < set(timm.list_models(module="lenet"))


def test_the_pretrained_list_is_the_list_of_checkpoint_folders():
    on_disk = sorted(p.parent.name for p in checkpoints.root().glob("*/config.json"))
    assert cnnzoo.list_pretrained() == on_disk
    assert all(name.split(".")[0] in MODELS for name in on_disk)
    assert {n for n in timm.list_pretrained() if n.split(".")[0] in MODELS} == set(on_disk)
    assert cnnzoo.list_pretrained("nothing*") == []


@pytest.mark.parametrize(
    "pattern", ["lenet_tiny", "lenet_d2l", "lenet*", "*_d2l", "lenet_d2l.*", "*.textbook*", ["vgg_tiny", "nin*"], "lenet"]
)
def test_a_pattern_finds_the_checkpoints_that_it_finds_in_timm(pattern):
    expected = sorted(n for n in timm.list_models(pattern, pretrained=True) if n.split(".")[0] in MODELS)
    assert cnnzoo.list_pretrained(pattern) == expected == cnnzoo.list_models(pattern, pretrained=True)
    assert bool(expected) == (pattern != "lenet")
    assert [r["checkpoint"] for r in sorted(cnnzoo.results(pattern), key=lambda r: r["checkpoint"])] == expected


@pytest.mark.parametrize("listing", [cnnzoo.list_models, cnnzoo.list_pretrained, cnnzoo.results])
def test_an_empty_pattern_means_all_and_what_is_no_pattern_is_refused(listing):
    assert listing("") == listing() and listing([]) == []
    for bad in (None, 3, ["vgg*", 2]):
        with pytest.raises(CnnzooError, match="a text or a list of texts"):
            listing(bad)


def test_the_results_are_what_the_folders_hold_by_size():
    rows = cnnzoo.results()
    assert sorted(r["checkpoint"] for r in rows) == cnnzoo.list_pretrained()
    assert [r["params"] for r in rows] == sorted(r["params"] for r in rows)
    for r in json.loads(json.dumps(rows)):
        metrics = checkpoints.metrics(r["checkpoint"])
        assert {k: r[k] for k in metrics if k in r} == {k: v for k, v in metrics.items() if k in r}
        assert f"{r['model']}.{r['tag']}" == r["checkpoint"]
        assert r["model"].startswith(r["family"])
        assert r["n"] == len(metrics["seeds"])
        assert bool(r["teachers"]) == bool(r["recipe"].get("teacher") or r["recipe"].get("answers"))
        assert r["recipe"] == checkpoints.read_json(checkpoints.folder(r["checkpoint"]) / "recipe.json")
        whole = 0.5 / r["images_per_s"]  # it is rounded to a whole number
        assert r["images_per_s"] * r["minutes"] * 60 == pytest.approx(60_000 * r["epochs"], rel=0.001 + whole)
    assert sorted(r["checkpoint"] for r in cnnzoo.results("lenet*")) == cnnzoo.list_pretrained("lenet*")


# -- names are promises --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_a_name_is_family_and_size_or_the_textbooks(name):
    assert re.fullmatch(r"[a-z][a-z0-9_]*_(tiny|small|base|large|d2l)", name)


# -- creating ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", each(MODELS))
def test_cnnzoo_and_timm_create_the_same_model(name):
    ours, timms = cnnzoo.create_model(name, device="meta"), timm.create_model(name, device="meta")
    assert type(ours) is type(timms)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in timms.state_dict().items()}
    assert ours.pretrained_cfg["architecture"] == name


def test_keywords_reach_the_model():
    model = cnnzoo.create_model("lenet_tiny", num_classes=3, in_chans=2, drop_rate=0.25, device="meta")
    assert (model.num_classes, model.in_chans, model.drop_rate) == (3, 2, 0.25)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("resnext_smal", "resnext_small"), ("lenet-tiny", "lenet_tiny"), ("ResNet_base", "resnet_base"), ("lenet", "lenet_")],
)
def test_an_unknown_model_suggests_the_nearest(typed, meant):
    with pytest.raises(UnknownNameError, match=rf"{typed}.*Did you mean.*{meant}.*list_models"):
        cnnzoo.create_model(typed)


def test_a_model_that_only_timm_has_says_so():
    with pytest.raises(UnknownNameError, match="resnet18.*timm has it: write timm:resnet18"):
        cnnzoo.create_model("resnet18")


def test_an_unknown_tag_says_which_there_are():
    with pytest.raises(UnknownNameError, match="tag of lenet_tiny.*'imagenet'.*list_pretrained"):
        cnnzoo.create_model("lenet_tiny.imagenet")


@given(st.text(max_size=30))
def test_no_text_is_taken_for_a_name_by_accident(text):
    if text in MODELS or text in cnnzoo.list_pretrained() or ":" in text:
        return
    with pytest.raises(CnnzooError):
        cnnzoo.create_model(text)


def test_weights_that_do_not_exist_yet_are_an_error_that_says_where_to_look():
    trained = {name.split(".")[0] for name in cnnzoo.list_pretrained()}
    for name in [n for n in MODELS if n not in trained]:
        why = ", since they would be too large" if name in checkpoints.TOO_LARGE else " yet"
        recipe = " --recipe textbook" if name.endswith("_d2l") else ""
        data = " --dataset cifar10" if name.startswith("convnet_") else ""
        command = f"cnnzoo train {name}{recipe}{data} --out runs/{name}"
        with pytest.raises(
            CheckpointError, match=f"{name} has no pretrained weights{why}.*list_pretrained.*=False.*{command}$"
        ):
            cnnzoo.create_model(name, pretrained=True)
        assert cnnzoo.info(name)["training_command"] == command
    assert all(cnnzoo.info(name)["training_command"] is None for name in trained)


def test_weights_that_would_be_too_large_are_those_of_over_40_million_parameters():
    sizes = {name: sum(p.numel() for p in cnnzoo.create_model(name, device="meta").parameters()) for name in MODELS}
    assert {name for name, size in sizes.items() if size > 40_000_000} == set(checkpoints.TOO_LARGE)


# -- tags, with a checkpoint made for the test ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to import cnnzoo from, laid out as a wheel installs it, with two checkpoints of lenet_tiny inside."""
    site = tmp_path_factory.mktemp("site")
    package = Path(cnnzoo.__file__).parent
    shutil.copytree(package, site / "cnnzoo", ignore=shutil.ignore_patterns("hub_configs", "__pycache__"))
    for tag, mean in (("fashion_mnist", 0.286), ("other_fashion_mnist", 0.5)):
        folder = site / "cnnzoo" / "hub_configs" / f"lenet_tiny.{tag}"
        folder.mkdir(parents=True)
        weights = folder / checkpoints.WEIGHTS
        save_file(fill(cnnzoo.create_model("lenet_tiny")).state_dict(), weights)
        cfg = dict(tag=tag, input_size=[1, 28, 28], num_classes=10, mean=[mean], std=[0.353], fixed_input_size=True)
        config = dict(architecture="lenet_tiny", num_classes=10, label_names=list("abcdefghij"), pretrained_cfg=cfg)
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "metrics.json").write_text(json.dumps(dict(sha256=checkpoints.sha256(weights))))
    return site


_PRELUDE = """
import socket
def refuse(*args): raise OSError("the network was tried")
socket.socket.connect = socket.getaddrinfo = refuse
import timm, torch, cnnzoo
print(cnnzoo.__file__)
x = torch.linspace(-1, 1, 784).view(1, 1, 28, 28)
"""


def run_installed(site: Path, code: str) -> subprocess.CompletedProcess:
    """Runs code in a fresh process in that installation, offline."""
    command = f"import sys; sys.path.insert(0, {str(site)!r})\n{_PRELUDE}{code}"
    run = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, cwd=site)
    assert run.stdout.startswith(str(site)), run.stdout + run.stderr
    return run


def test_a_checkpoint_folder_is_all_it_takes_to_be_pretrained(installed):
    run = run_installed(installed, """
names = ["lenet_tiny.fashion_mnist", "lenet_tiny.other_fashion_mnist"]
assert cnnzoo.list_pretrained() == names
assert [n for n in timm.list_pretrained() if n.startswith("lenet")] == names
assert "lenet_tiny.other_fashion_mnist" in timm.list_models("lenet*", include_tags=True)
assert timm.models.is_model_pretrained("lenet_tiny") and not timm.models.is_model_pretrained("lenet_small")
for create in (cnnzoo.create_model, timm.create_model):
    model = create("lenet_tiny", pretrained=True).eval()
    assert model.pretrained_cfg["tag"] == "fashion_mnist"
    assert model.pretrained_cfg["label_names"] == tuple("abcdefghij")
    other = create("lenet_tiny.other_fashion_mnist", pretrained=True).eval()
    assert other.pretrained_cfg["mean"] == (0.5,)
    assert torch.equal(model(x), other(x))
    rgb = create("lenet_tiny", pretrained=True, in_chans=3).eval()
    torch.testing.assert_close(rgb(x.expand(-1, 3, -1, -1)), model(x), rtol=1e-4, atol=1e-4)
    five = create("lenet_tiny", pretrained=True, num_classes=5).eval()
    assert five(x).shape == (1, 5)
    assert torch.equal(five.forward_features(x), model.forward_features(x))
    assert torch.equal(create("lenet_tiny", pretrained=True, num_classes=0).eval()(x), model.forward_head(
        model.forward_features(x), pre_logits=True))
    assert len(create("lenet_tiny", pretrained=True, features_only=True)(x)) == 3
""")  # fmt: skip
    assert run.returncode == 0, run.stderr


def test_without_the_import_timm_does_not_know_the_zoo():
    code = "import timm; assert not timm.is_model('resnext_small') and not timm.list_models('lenet*')"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


@pytest.mark.parametrize(("usual", "special", "chosen"), [(78.0, 80.0, True), (80.0, 78.0, False), (80.0, 80.0, False)])
def test_weights_for_photos_answer_for_them_where_they_were_measured_to_be_better(monkeypatch, usual, special, chosen):
    numbers = {"lenet_tiny.fashion_mnist": usual, "lenet_tiny.photo_fashion_mnist": special}
    monkeypatch.setattr(checkpoints, "names", lambda: tuple(numbers))
    monkeypatch.setattr(checkpoints, "metrics", lambda name: dict(photos=dict(top1=numbers[name], count=100)))
    monkeypatch.setattr(checkpoints, "pretrained_cfgs", lambda arch: dict.fromkeys(["fashion_mnist", "photo_fashion_mnist"]))
    assert registry.photo_weights("lenet_tiny") == ("lenet_tiny.photo_fashion_mnist" if chosen else None)
    for name in ("lenet_tiny.fashion_mnist", "lenet_small", Path("lenet_tiny"), "hf-hub:cnnzoo/lenet_tiny"):
        assert registry.photo_weights(name) is None


@pytest.mark.parametrize("device", ["nope", "cuda:x", "Õ¾\x8d", "cpu:-1", "meta", ""])
def test_a_device_that_is_not_here_is_refused_in_one_line(device):
    with pytest.raises(CnnzooError, match="Pass --device cpu") as e:
        registry.on_device(cnnzoo.create_model("lenet_tiny"), device)
    assert len(str(e.value).splitlines()) == 1
