"""What goes wrong between a folder and a model on the way, and how it ends: the right weights or an error of ours.

Each test carries its row of the table in the README.
"""

import hashlib
import json
import shutil

import pytest
import torch
from click.testing import CliRunner
from helpers import HUB_NAME as NAME
from hub_helpers import (
    FILES,
    FOLDER,
    MINE,
    WEIGHTS,
    assert_nothing_half_written,
    assert_right,
    both_ways,
    fault,
    pull,
    refused,
)
from huggingface_hub import constants
from huggingface_hub.utils import close_session
from loopback_http import ALWAYS
from loopback_hub import ALICE, BOB, ZOO
from PIL import Image

import cnnzoo
from cnnzoo import checkpoints, hub
from cnnzoo.cli import main
from cnnzoo.errors import CheckpointError, HubError

pytestmark = [pytest.mark.usefixtures("brisk"), pytest.mark.timeout(300)]  # that is a hang

PULL = ("info", "head", "cdn", "small-head", "small")
PUSH = ("create", "info", "validate", "preupload", "lfs-batch", "lfs-put", "lfs-verify", "commit", "branch")


# -- the Hub is out of order -----------------------------------------------------------------------------------------------


@fault("503 once, on each route of a pull", "asked again: the right weights")
@pytest.mark.parametrize("route", PULL)
def test_a_pull_survives_one_503(server, cache, route):
    server.put(MINE, FILES)
    server.fault(route, 503)
    assert_right(pull(cache))
    assert server.faults[0].times == 0


@fault("503 each time, on each route of a pull", "`HubError`; nothing half-written")
@pytest.mark.parametrize("route", PULL)
def test_a_pull_ends_when_503_does_not(server, cache, route):
    server.put(MINE, FILES)
    server.fault(route, 503, ALWAYS)
    refused(lambda: pull(cache), MINE, "503", "try again", kind=HubError)
    assert_nothing_half_written(cache)


@fault("503 once, on each route of a push", "asked again: one commit per branch")
@pytest.mark.parametrize("route", PUSH)
def test_a_push_survives_one_503(server, cache, route):
    server.fault(route, 503)
    commit = hub.push(FOLDER, MINE, token=ALICE)
    assert server.faults[0].times == 0
    assert server.repos[MINE].branches["main"] == commit
    assert len(server.repos[MINE].commits) == 3  # the Hub's own first one, main, rgb
    assert_right(pull(cache, token=ALICE))


@fault("503 each time, on each route of a push", "`HubError`; the repository holds the old version or the new one, whole")
@pytest.mark.parametrize("route", PUSH)
def test_a_push_ends_when_503_does_not(server, route):
    old = {"config.json": FILES["config.json"]}
    server.put(MINE, old, private=True)
    server.fault(route, 503, ALWAYS)
    refused(lambda: hub.push(FOLDER, MINE, token=ALICE), MINE, kind=HubError)
    assert server.names(MINE) == (set(FILES) if route == "branch" else set(old))


@fault("503 on Xet's tokens", "once: asked again; each time: `HubError`")
def test_xets_tokens_may_fail(server, cache, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    server.fault("xet-token", 503)
    hub.push(FOLDER, MINE, private=False, token=ALICE)
    server.fault("xet-token", 503)
    assert_right(pull(cache))
    server.fault("xet-token", 503, ALWAYS)
    refused(lambda: pull(cache, revision="rgb"), MINE, kind=HubError)
    assert_nothing_half_written(cache)


# -- the line is ----------------------------------------------------------------------------------------------------------


@fault("connection reset, or cut, before or in a download", "fetched again: the right weights")
@pytest.mark.parametrize("at", [0, 100_000])
@pytest.mark.parametrize("kind", ["reset", "cut"])
def test_a_broken_download_is_made_again(server, cache, kind, at):
    server.put(MINE, FILES)
    server.fault("cdn", kind, at=at)
    assert_right(pull(cache))
    assert server.routes().count("cdn") == 2


@fault("every download breaks off", "`HubError`; nothing half-written")
@pytest.mark.parametrize("kind", ["reset", "cut"])
def test_downloads_that_always_break_end(server, cache, kind):
    server.put(MINE, FILES)
    server.fault("cdn", kind, ALWAYS, at=100_000)
    refused(lambda: pull(cache), MINE, kind=HubError)
    assert_nothing_half_written(cache)


@fault("a download stalls", "after the client's ten seconds fetched again: the right weights")
def test_a_stalled_download_is_made_again(server, cache, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 1)
    server.put(MINE, FILES)
    server.fault("cdn", "stall", at=100_000)
    assert_right(pull(cache))


@fault("the Hub stalls, on any route of a push", "`HubError` when the deadline is over")
@pytest.mark.parametrize("route", ["create", "preupload", "lfs-put", "commit"])
def test_a_stalled_push_ends_with_the_deadline(server, route):
    server.fault(route, "stall", ALWAYS)
    refused(lambda: hub.push(FOLDER, MINE, token=ALICE, deadline=0.7), "longer than 0.7 s", kind=HubError)


@fault("a pull stalls for longer than its deadline", "`HubError` when the deadline is over")
def test_a_stalled_pull_ends_with_the_deadline(server, cache):
    server.put(MINE, FILES)
    server.fault("cdn", "stall", ALWAYS, at=1000)
    refused(lambda: pull(cache, deadline=0.7), "longer than 0.7 s", kind=HubError)


@fault("no network and nothing in the cache", "`HubError` with advice, in less than 5 s")
def test_no_network_and_no_cache_is_said_soon(server, cache, request, waits):
    close_session()
    request.getfixturevalue("no_network")
    refused(lambda: pull(cache), "cache has no", "list_pretrained", kind=HubError)
    assert waits[0] == 600 and 0 < sum(waits[1:]) < 5  # the deadline of the whole pull, and what it took of it


@fault("a network that swallows everything", "`HubError` with advice, in less than 5 s")
def test_a_hub_that_never_answers_is_given_up_soon(server, cache, waits):
    server.put(MINE, FILES)
    server.fault("info", "stall", ALWAYS)
    refused(lambda: pull(cache), "cache has no", kind=HubError)
    assert waits[0] == 600 and 0 < sum(waits[1:]) < 5


@fault("no network, but in the cache", "the right weights, of the commit that was pulled last")
def test_the_cache_helps_out(server, cache):
    commit = server.put(MINE, FILES)
    pull(cache)
    server.fault("info", "reset", ALWAYS)
    assert pull(cache).commit == commit
    assert_right(pull(cache, revision=commit))


# -- what arrives is not what was sent -------------------------------------------------------------------------------------


@fault("a truncated body that claims to be whole", "fetched again; if it stays, `HubError`; nothing half-written")
def test_a_truncated_body_is_noticed(server, cache):
    server.put(MINE, FILES)
    server.fault("cdn", "short", at=100_000)
    assert_right(pull(cache))
    shutil.rmtree(cache)
    server.fault("cdn", "short", ALWAYS, at=100_000)
    refused(lambda: pull(cache), MINE, kind=HubError)
    assert_nothing_half_written(cache)


@fault("a flipped byte, same size", "fetched again; if it stays, `CheckpointError`; nothing of it stays in the cache")
@pytest.mark.parametrize("route", ["cdn", "small"])
@both_ways
def test_a_flipped_byte_is_noticed(server, cache, take, route):
    server.put(MINE, FILES)
    server.fault(route, "flip")
    assert_right(take(cache))
    shutil.rmtree(cache)
    server.fault(route, "flip", ALWAYS)
    refused(lambda: take(cache), "hash", kind=CheckpointError)
    assert_nothing_half_written(cache)


@fault("flipped bytes in Xet's store", "`CheckpointError`; nothing of it stays in the cache")
def test_flipped_bytes_in_xets_store_are_noticed(server, cache, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    folder = FOLDER.parent / "resnet_tiny.fashion_mnist"  # no other test has put it into this store
    hub.push(folder, MINE, private=False, token=ALICE)
    stored = (server.cas / "xet" / "xorbs" / "xorbs").iterdir()
    kept = {p: p.read_bytes() for p in stored if p.stat().st_size > 10_000}
    assert kept
    try:
        for path, content in kept.items():
            path.chmod(0o644)
            flipped = bytearray(content)
            flipped[5000::10_000] = bytes(b ^ 1 for b in content[5000::10_000])  # the card's picture is in there too
            path.write_bytes(flipped)
        refused(lambda: pull(cache), MINE)
        assert_nothing_half_written(cache)
        assert not [p for p in cache.rglob("*") if p.stat().st_size > 100_000]  # Xet keeps its files elsewhere in the cache
    finally:
        for path, content in kept.items():
            path.write_bytes(content)


@fault("a flipped byte in the upload", "the Hub refuses it: `HubError`, no commit")
def test_a_flipped_byte_in_the_upload_is_no_commit(server):
    server.fault("lfs-put", "flip", ALWAYS)
    refused(lambda: hub.push(FOLDER, MINE, token=ALICE), MINE, kind=HubError)
    assert server.names(MINE) == {".gitattributes"}


@fault("a damaged file in the cache", "fetched again; without a network `CheckpointError`")
def test_a_damaged_cache_is_noticed(server, cache):
    commit = server.put(MINE, FILES)
    pull(cache)
    [blob] = cache.rglob(hashlib.sha256(WEIGHTS).hexdigest())

    def damage():
        blob.chmod(0o644)
        blob.write_bytes(WEIGHTS[:-1] + b"\x55")

    for revision in (None, commit):
        damage()
        assert_right(pull(cache, revision=revision))
    damage()
    server.fault("info", 503, ALWAYS)
    refused(lambda: pull(cache), "the Hub does not answer")
    assert_nothing_half_written(cache)


@fault("weights of the zoo that the package does not know", "`CheckpointError`, whatever the Hub says of them")
@pytest.mark.parametrize("branch", ["main", "rgb"])
def test_the_zoos_weights_must_be_the_packages(server, cache, branch, tmp_path, monkeypatch):
    hub.push(FOLDER, f"cnnzoo/{NAME}", private=False, token=ZOO)
    assert pull(cache, f"cnnzoo/{NAME}", revision=branch).model.in_chans == (1 if branch == "main" else 3)
    files = {name: server.read(f"cnnzoo/{NAME}", name, branch) for name in FILES}
    files["model.safetensors"] = files["model.safetensors"][:-1] + b"\x55"
    server.put(f"cnnzoo/{NAME}", files, branch=branch)
    refused(lambda: pull(cache, f"cnnzoo/{NAME}", revision=branch), "published", kind=CheckpointError)


@fault("a wrong hash in the package's manifest", "`CheckpointError` with both hashes")
def test_a_wrong_manifest_is_an_error(server, cache, tmp_path, monkeypatch):
    shutil.copytree(FOLDER, tmp_path / "zoo" / NAME)
    metrics = dict(checkpoints.metrics(NAME), sha256="0" * 64)
    (tmp_path / "zoo" / NAME / "metrics.json").write_text(json.dumps(metrics))
    monkeypatch.setattr(checkpoints, "root", lambda: tmp_path / "zoo")
    server.put(f"cnnzoo/{NAME}", FILES)
    refused(lambda: pull(cache, f"cnnzoo/{NAME}"), "0" * 64, hashlib.sha256(WEIGHTS).hexdigest(), kind=CheckpointError)


# -- pushes that meet ------------------------------------------------------------------------------------------------------


@fault("the reply to a commit is lost", "noticed: one commit, and its name is returned")
def test_a_lost_reply_makes_no_second_commit(server, transport):
    server.fault("commit", "lose", 1)
    commit = hub.push(FOLDER, MINE, token=ALICE)
    assert server.repos[MINE].branches["main"] == commit
    assert len(server.repos[MINE].commits) == 3


@fault("somebody else pushes at the same time", "made anew on top of theirs; the branch is one version, whole")
def test_a_stale_parent_is_made_anew(server, transport):
    server.put(MINE, FILES, private=True)
    theirs = []
    server.fault("commit", lambda: theirs.append(server.put(MINE, {"config.json": b"theirs", "new.txt": b""})))
    server.put(MINE, {"config.json": FILES["config.json"]})
    commit = hub.push(FOLDER, MINE, token=ALICE)
    assert len(theirs) == 1 and server.routes().count("commit") >= 3  # refused, main, rgb; on a busy machine some again
    assert server.repos[MINE].branches["main"] == commit
    assert server.names(MINE) == set(FILES)


# -- who asks --------------------------------------------------------------------------------------------------------------


@fault("no token, a bad one, somebody else's, for a private repository", "`HubError` that says so; the token is never shown")
@pytest.mark.parametrize(
    ("token", "words"), [(False, "anonymous"), ("hf_nobody", "does not accept the token"), (BOB, "gives no access")]
)
def test_a_private_repository_stays_closed(server, cache, token, words):
    server.put(MINE, FILES, private=True)
    assert "hf_nobody" not in str(refused(lambda: pull(cache, token=token), words, kind=HubError))
    assert_right(pull(cache, token=ALICE))
    refused(lambda: pull(cache, token=token), words, kind=HubError)  # nor does the cache open it


@fault("no token, a bad one, somebody else's, for a push", "`HubError` that says so; nothing was sent")
@pytest.mark.parametrize(
    ("token", "words"), [(False, "anonymous"), ("hf_nobody", "does not accept the token"), (BOB, "has no right")]
)
def test_only_the_owner_pushes(server, token, words):
    refused(lambda: hub.push(FOLDER, MINE, token=token), words, kind=HubError)
    server.put(MINE, {"config.json": FILES["config.json"]})
    refused(lambda: hub.push(FOLDER, MINE, private=False, token=token), words, kind=HubError)
    assert server.names(MINE) == {"config.json"} and "lfs-put" not in server.routes()


@fault("a gated repository", "`HubError` that says where to ask for access")
def test_a_gated_repository_says_so(server, cache):
    server.put(MINE, FILES, gated=True)
    refused(lambda: pull(cache, token=BOB), "gated", "Ask for it", kind=HubError)


@fault("a server that repeats the token in its answer", "the token is in no message and no traceback")
@pytest.mark.parametrize("route", [*PULL, "commit"])
@pytest.mark.parametrize("status", [400, 401, 403, 418, 500])
def test_the_token_is_never_shown(server, cache, route, status, caplog, capfd):
    server.put(MINE, FILES, private=True)
    server.fault(route, status, ALWAYS, at=1)
    act = (lambda: hub.push(FOLDER, MINE, token=ALICE)) if route == "commit" else (lambda: pull(cache, token=ALICE))
    if route == "commit":
        server.put(MINE, {"config.json": FILES["config.json"]})
    refused(act, MINE if status != 401 else "token", kind=HubError)
    assert ALICE not in caplog.text + "".join(capfd.readouterr())


@fault('the same, through `create_model("hf-hub:...")`', "the token is in no message and no traceback")
@pytest.mark.parametrize("route", ["info", "head", "small"])
@pytest.mark.parametrize("status", [400, 401, 403, 404, 418])
def test_create_model_never_shows_the_token(server, cache, route, status, monkeypatch, caplog, capfd):
    monkeypatch.setenv("HF_TOKEN", ALICE)
    server.put(MINE, FILES, private=True)
    server.fault(route, status, ALWAYS, at=1)
    refused(lambda: cnnzoo.create_model(f"hf-hub:{MINE}", pretrained=True, cache_dir=cache))
    assert ALICE not in caplog.text + "".join(capfd.readouterr())


@fault('no network, through `create_model("hf-hub:...")` or `predict --model hf-hub:...`', "one line, in less than 5 s")
def test_create_model_gives_up_soon_without_a_network_unless_the_cache_helps(server, cache, tmp_path, waits):
    server.put(MINE, FILES)
    cnnzoo.create_model(f"hf-hub:{MINE}", pretrained=True, cache_dir=cache)
    server.fault("info", "stall", ALWAYS)
    model = cnnzoo.create_model(f"hf-hub:{MINE}", pretrained=True, cache_dir=cache)
    assert torch.equal(model.get_classifier().bias, cnnzoo.create_model(NAME, pretrained=True).get_classifier().bias)
    Image.new("L", (28, 28)).save(tmp_path / "image.png")
    waits.clear()
    result = CliRunner().invoke(main, ["predict", str(tmp_path / "image.png"), "--model", "hf-hub:alice/other"])
    assert waits[0] == 600 and 0 < sum(waits[1:]) < 5
    assert (result.exit_code, len(result.output.splitlines())) == (1, 1), result.output


@fault("no such repository, revision or file", "`HubError` that names it")
def test_what_is_missing_is_named(server, cache):
    server.put(MINE, {k: v for k, v in FILES.items() if k != "model.safetensors"})
    refused(lambda: pull(cache, "alice/nothing"), "alice/nothing", kind=HubError)
    refused(lambda: pull(cache, revision="v9"), "'v9'", kind=HubError)
    refused(lambda: pull(cache), "has no model.safetensors", kind=HubError)
    refused(lambda: pull(cache, "a b"), "ORG/NAME", kind=HubError)
