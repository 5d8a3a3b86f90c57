"""Push and pull against the loopback Hub, with the real client: what went in comes out, and nothing else."""

import json
import logging
import os
import shutil
import subprocess
import sys

import pytest
import timm
import torch
from click.testing import CliRunner
from helpers import HUB_NAME as NAME
from huggingface_hub.utils import close_session
from loopback_hub import ALICE, BOB, ZOO
from PIL import Image

import cnnzoo
from cnnzoo import checkpoints, hub
from cnnzoo.cli import main
from cnnzoo.errors import CheckpointError, HubError
from cnnzoo.hub import _push

FOLDER = checkpoints.folder(NAME)
MINE = "alice/mine"


@pytest.fixture
def unverified(monkeypatch):
    """A push that does not verify first, which takes a fresh process and is tested in test_hub_folder.py."""
    monkeypatch.setattr(_push, "verify", lambda folder: None)


def logits(model):
    shape = (4, *model.pretrained_cfg["input_size"])
    with torch.inference_mode():
        return model(torch.rand(shape, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("private", [True, False])
def test_what_was_pushed_comes_back(server, transport, tmp_path, private, unverified):
    commit = hub.push(FOLDER, MINE, private=private, token=ALICE)
    assert server.repos[MINE].private is private
    assert server.repos[MINE].branches["main"] == commit
    pulled = hub.pull(MINE, token=ALICE if private else False, cache_dir=tmp_path)
    assert pulled.commit == commit
    assert pulled.labels[9] == "Ankle boot"
    assert not pulled.model.training
    torch.testing.assert_close(logits(pulled.model), logits(cnnzoo.create_model(NAME, pretrained=True).eval()))
    assert pulled.transform(Image.new("RGB", (40, 30))).shape == (1, 28, 28)
    assert cnnzoo.predict(pulled.model, Image.new("L", (28, 28)))[0][0] in pulled.labels
    assert ("lfs-put" in server.routes()) == (transport == "lfs")
    assert ("xet-token" in server.routes()) == (transport == "xet")


@pytest.mark.slow
def test_a_fresh_process_pulls_the_same_logits_and_timm_loads_them_too(server, transport, tmp_path, unverified):
    commit = hub.push(FOLDER, MINE, token=ALICE)
    code = (
        "import json, sys, torch, cnnzoo, timm\n"
        "from cnnzoo import hub\n"
        "x = torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))\n"
        "pulled = hub.pull(sys.argv[1], cache_dir=sys.argv[2])\n"
        "through_timm = timm.create_model('hf-hub:' + sys.argv[1], pretrained=True, cache_dir=sys.argv[2]).eval()\n"
        "with torch.inference_mode():\n"
        "    print(json.dumps([pulled.commit, pulled.model(x).tolist(), through_timm(x).tolist()]))\n"
    )
    environment = dict(os.environ, HF_TOKEN=ALICE, HF_HUB_DISABLE_XET=str(int(transport == "lfs")))
    run = subprocess.run(
        [sys.executable, "-c", code, MINE, tmp_path], env=environment, capture_output=True, text=True, timeout=600
    )
    assert run.returncode == 0, run.stderr
    assert ALICE not in run.stdout + run.stderr
    found, pulled, through_timm = json.loads(run.stdout.splitlines()[-1])
    assert found == commit
    expected = logits(cnnzoo.create_model(NAME, pretrained=True).eval())
    torch.testing.assert_close(torch.tensor(pulled), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(torch.tensor(through_timm), expected, atol=1e-5, rtol=1e-4)


# -- push ------------------------------------------------------------------------------------------------------------------


def test_a_push_is_one_commit_per_branch_and_the_same_again_is_none(server, unverified):
    first = hub.push(FOLDER, MINE, token=ALICE)
    assert server.names(MINE) == {p.name for p in FOLDER.iterdir()} | {".gitattributes"}
    assert len(server.repos[MINE].commits) == 3  # the first one is the Hub's, then main and rgb
    server.requests.clear()
    assert hub.push(FOLDER, MINE, token=ALICE) == first
    assert len(server.repos[MINE].commits) == 3
    assert "commit" not in server.routes() and "preupload" not in server.routes()


def test_what_an_older_version_left_goes_in_the_same_commit(server, unverified):
    config = (FOLDER / "config.json").read_bytes()
    old = {"config.json": config, "pytorch_model.bin": b"pickle", "old/notes.txt": b"x", ".gitattributes": b"kept"}
    server.put(MINE, old, private=True)
    hub.push(FOLDER, MINE, token=ALICE)
    assert server.names(MINE) == {p.name for p in FOLDER.iterdir()} | {".gitattributes"}
    assert server.read(MINE, ".gitattributes") == b"kept"
    assert server.routes().count("commit") == 2  # main and rgb


def test_the_card_names_the_repository_it_is_in(server, unverified):
    hub.push(FOLDER, MINE, token=ALICE)
    card = server.read(MINE, "README.md").decode()
    assert f"hf-hub:{MINE}" in card and "hf-hub:cnnzoo/" not in card
    assert f"hf-hub:{MINE}@rgb" in server.read(MINE, "README.md", "rgb").decode()


def test_a_downloaded_repository_passes_the_verification(server, unverified, tmp_path, monkeypatch):
    hub.push(FOLDER, MINE, token=ALICE)
    for name in server.names(MINE):
        (tmp_path / name).write_bytes(server.read(MINE, name) or (FOLDER / name).read_bytes())
    monkeypatch.setattr(hub._verify, "_RELOAD", "raise SystemExit('reached')")
    with pytest.raises(CheckpointError, match="reached"):
        hub.verify(tmp_path)


def test_a_folder_that_does_not_pass_is_not_pushed(server, tmp_path):
    folder = shutil.copytree(FOLDER, tmp_path / NAME)
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(CheckpointError, match="pytorch_model.bin"):
        hub.push(folder, MINE, token=ALICE)
    assert not server.requests


def test_a_branch_of_ones_own_is_made_and_main_stays(server, unverified):
    hub.push(FOLDER, MINE, token=ALICE)
    before = server.repos[MINE].branches["main"]
    commit = hub.push(FOLDER, MINE, revision="v2", token=ALICE)
    assert server.repos[MINE].branches == {"main": before, "rgb": server.repos[MINE].branches["rgb"], "v2": commit}


@pytest.mark.parametrize("private", [True, False])
def test_a_repository_of_the_other_visibility_is_refused_and_untouched(server, unverified, private):
    server.put(MINE, {".gitattributes": b""}, private=not private)
    with pytest.raises(HubError, match=f"private={not private}"):
        hub.push(FOLDER, MINE, private=private, token=ALICE)
    assert server.names(MINE) == {".gitattributes"}
    assert not {"preupload", "commit", "lfs-put"} & set(server.routes())


def test_a_repository_of_something_else_is_refused(server, unverified):
    server.put(MINE, {"thesis.tex": b"years of work"}, private=True)
    with pytest.raises(HubError, match="thesis.tex"):
        hub.push(FOLDER, MINE, token=ALICE)
    assert server.names(MINE) == {"thesis.tex"}


@pytest.mark.parametrize("config", [b'{"model_type": "bert"}', b'{"architecture": "resnet50"}', b"no json"])
def test_a_repository_of_another_kind_of_model_is_refused_and_keeps_its_files(server, unverified, config):
    theirs = {"config.json": config, "pytorch_model.bin": b"weights", "LICENSE": b"MIT"}
    server.put(MINE, theirs, private=True)
    with pytest.raises(HubError, match="config.json is of another model"):
        hub.push(FOLDER, MINE, token=ALICE)
    assert server.names(MINE) == set(theirs)


def test_the_owners_licence_stays(server, unverified):
    server.put(MINE, {"LICENSE": b"mine"}, private=True)
    hub.push(FOLDER, MINE, token=ALICE)
    assert server.read(MINE, "LICENSE") == b"mine" and "model.safetensors" in server.names(MINE)


@pytest.mark.parametrize("name", ["mine", "a/b/c", ""])
def test_a_repository_without_owner_and_name_is_refused_before_the_hub_is_asked(server, unverified, name):
    with pytest.raises(HubError, match="an owner and a name"):
        hub.push(FOLDER, name, token=ALICE)
    assert not server.requests


def test_a_model_of_three_channels_takes_the_place_of_the_twin_too(server, unverified, tmp_path):
    hub.push(FOLDER, MINE, token=ALICE)
    hub.push(hub.twin(FOLDER, tmp_path / "rgb"), MINE, token=ALICE)
    assert server.read(MINE, "config.json") == server.read(MINE, "config.json", "rgb")
    wide = [hub.pull(MINE, revision=b, token=ALICE, cache_dir=tmp_path / "cache").model for b in ("main", "rgb")]
    assert torch.equal(*(logits(model) for model in wide))


def test_the_branch_rgb_has_the_twin(server, unverified, tmp_path):
    hub.push(FOLDER, MINE, token=ALICE)
    gray = hub.pull(MINE, token=ALICE, cache_dir=tmp_path)
    wide = hub.pull(MINE, revision="rgb", token=ALICE, cache_dir=tmp_path)
    x = torch.rand(4, 1, 28, 28)
    torch.testing.assert_close(wide.model(x.expand(-1, 3, -1, -1)), gray.model(x), atol=1e-4, rtol=1e-4)
    picture = Image.effect_noise((40, 30), 50)
    assert wide.transform(picture).shape == (3, 28, 28)
    assert cnnzoo.predict(wide.model, picture)[0][0] == cnnzoo.predict(gray.model, picture)[0][0]


# -- pull ------------------------------------------------------------------------------------------------------------------


def test_probabilities_are_as_calibrated_as_those_of_the_zoos_own_by_whatever_way_they_come(server, tmp_path, unverified):
    hub.push(FOLDER, MINE, private=False, token=ALICE)
    own = cnnzoo.create_model(NAME, pretrained=True)
    assert own.temperature == checkpoints.metrics(NAME)["temperature"] != 1
    ways = [hub.pull(MINE, cache_dir=tmp_path).model, hub.pull(MINE, revision="rgb", cache_dir=tmp_path).model]
    for create_model in (timm.create_model, cnnzoo.create_model):
        ways.append(create_model(f"hf-hub:{MINE}", pretrained=True, cache_dir=tmp_path))
        assert ways[-1].base_model == MINE
        ways.append(create_model(f"local-dir:{FOLDER}", pretrained=True))
    picture = Image.effect_noise((28, 28), 60)
    [(label, probability)] = cnnzoo.predict(own, picture)
    for model in ways:
        assert model.temperature == own.temperature
        assert cnnzoo.predict(model, picture) == [(label, pytest.approx(probability, abs=1e-5))]


def test_a_new_head_and_weights_of_ones_own_are_not_calibrated(tmp_path):
    assert timm.create_model(f"local-dir:{FOLDER}", pretrained=True, num_classes=3).temperature == 1
    assert timm.create_model(f"local-dir:{FOLDER}").temperature == 1
    own = dict(file=str(FOLDER / "model.safetensors"))
    assert cnnzoo.create_model("lenet_tiny", pretrained=True, pretrained_cfg_overlay=own).temperature == 1


def test_only_the_config_and_the_weights_are_fetched(server, tmp_path):
    server.put(MINE, FOLDER)
    hub.pull(MINE, cache_dir=tmp_path)
    fetched = {r.path.split("/")[-1] for r in server.requests if r.route in ("head", "get")}
    assert fetched == {"config.json", "model.safetensors"}
    assert server.routes().count("cdn") == 1


def test_a_revision_may_be_a_branch_or_a_commit_and_gives_its_own_weights(server, tmp_path):
    server.put(MINE, FOLDER)
    other = server.put(MINE, checkpoints.folder("resnet_tiny.fashion_mnist"), branch="v2")
    assert type(hub.pull(MINE, cache_dir=tmp_path).model).__name__ == "LeNet"
    assert hub.pull(MINE, revision="v2", cache_dir=tmp_path).commit == other
    assert type(hub.pull(MINE, revision=other, cache_dir=tmp_path).model).__name__ == "ResNet"


def test_a_moved_branch_is_noticed(server, tmp_path):
    server.put(MINE, FOLDER)
    hub.pull(MINE, cache_dir=tmp_path)
    other = server.put(MINE, checkpoints.folder("resnet_tiny.fashion_mnist"))
    assert hub.pull(MINE, cache_dir=tmp_path).commit == other


def test_a_commit_that_is_in_the_cache_needs_no_request(server, tmp_path):
    commit = server.put(MINE, FOLDER)
    hub.pull(MINE, cache_dir=tmp_path)
    server.requests.clear()
    assert hub.pull(MINE, revision=commit, cache_dir=tmp_path).commit == commit
    assert not server.requests


def test_the_zoos_own_are_held_against_the_package(server, tmp_path, unverified):
    repo_id = f"cnnzoo/{NAME}"
    hub.push(FOLDER, repo_id, private=False, token=ZOO)
    for revision in (None, "rgb"):
        hub.pull(repo_id, revision=revision, cache_dir=tmp_path)


def test_the_cache_serves_branches_without_a_network(server, tmp_path, transport, unverified, request, caplog):
    commit = hub.push(FOLDER, MINE, private=False, token=ALICE)
    online = hub.pull(MINE, cache_dir=tmp_path)
    close_session()  # or it would use the connection that it has
    request.getfixturevalue("no_network")
    with caplog.at_level(logging.WARNING):
        offline = hub.pull(MINE, cache_dir=tmp_path)
    assert offline.commit == commit and commit in caplog.text
    assert torch.equal(logits(offline.model), logits(online.model))


def test_timm_and_cnnzoo_load_a_pushed_repository_by_name(server, tmp_path, transport, unverified):
    hub.push(FOLDER, MINE, private=False, token=ALICE)
    expected = logits(cnnzoo.create_model(NAME, pretrained=True).eval())
    for create_model in (timm.create_model, cnnzoo.create_model):
        model = create_model(f"hf-hub:{MINE}", pretrained=True, cache_dir=tmp_path).eval()
        torch.testing.assert_close(logits(model), expected)


# -- publish ---------------------------------------------------------------------------------------------------------------


def test_publish_says_what_would_change_and_sends_only_when_told(server, unverified, tmp_path):
    shutil.copytree(FOLDER, tmp_path / NAME)
    dry = dict(hub.publish(tmp_path, token=ZOO))
    assert set(dry) == {f"cnnzoo/{NAME}@main", f"cnnzoo/{NAME}@rgb"}
    assert all("would be made" in text for text in dry.values())
    assert not server.repos and {r.method for r in server.requests} == {"GET"}
    [(name, commit)] = hub.publish(tmp_path, really=True, token=ZOO)
    assert (name, commit) == (f"cnnzoo/{NAME}@main", server.repos[f"cnnzoo/{NAME}"].branches["main"])
    assert not server.repos[f"cnnzoo/{NAME}"].private
    assert set(dict(hub.publish(tmp_path, token=BOB)).values()) == {"is up to date"}
    server.put(f"cnnzoo/{NAME}", {"config.json": b"{}", "old.txt": b""})
    [text, _] = dict(hub.publish(tmp_path, token=ZOO)).values()
    assert "would send config.json" in text and "would delete old.txt" in text


# -- the commands ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def as_alice(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", ALICE)


def run(*words, code=0):
    result = CliRunner().invoke(main, [str(w) for w in words])
    assert result.exit_code == code, (result.output, result.exception)
    assert ALICE not in result.output
    return result.output


def test_push_and_pull_print_the_commit(server, unverified, as_alice, tmp_path):
    pushed = run("push", FOLDER, MINE)
    commit = server.repos[MINE].branches["main"]
    assert server.repos[MINE].private
    assert pushed == f"{MINE} is at {commit}\n"
    assert run("pull", MINE, "--cache-dir", tmp_path).startswith(f"{MINE} is at {commit}: 82,482 parameters, 10 classes")
    assert "--public" in run("push", "--help")
    assert "private" in run("push", FOLDER, MINE, "--public", code=1)


def test_publish_is_a_dry_run(server, unverified, as_alice, tmp_path):
    shutil.copytree(FOLDER, tmp_path / NAME)
    lines = run("publish", "--root", tmp_path, "--org", "alice").splitlines()
    assert [line.split(":")[0] for line in lines] == [f"alice/{NAME}@main", f"alice/{NAME}@rgb"]
    assert not server.repos
    run("publish", "--root", tmp_path, "--org", "alice", "--really")
    assert "up to date" in run("publish", "--root", tmp_path, "--org", "alice")
    found = json.loads(run("publish", "--root", tmp_path, "--org", "alice", "--json"))
    assert [row["repository"] for row in found] == [f"alice/{NAME}@main", f"alice/{NAME}@rgb"]
    assert all(row["change"] == "is up to date" and row["published"] is False for row in found)
    [row] = json.loads(run("publish", "--root", tmp_path, "--org", "alice", "--really", "--json"))
    assert row["published"] is True and row["commit"] == server.repos[f"alice/{NAME}"].branches["main"]


def test_verify_prints_a_line_per_folder(monkeypatch):
    monkeypatch.setattr(hub, "verify", lambda folder: checkpoints.read_json(FOLDER / "metrics.json"))
    top1 = checkpoints.metrics(NAME)["top1"]
    assert run("verify", FOLDER, FOLDER).splitlines() == [f"{FOLDER}: good, {top1:.2f} % top-1"] * 2
    [row] = json.loads(run("verify", FOLDER, "--json"))
    assert row == dict(model=str(FOLDER), good=True, top1=top1, sha256=checkpoints.metrics(NAME)["sha256"])
    monkeypatch.setattr(hub, "verify", lambda folder: dict(sha256="0"))
    assert run("verify", FOLDER) == f"{FOLDER}: good, accuracy not measured\n"
