"""What the tests of the Hub's faults share: a small checkpoint, and what must hold however a call ends."""

import hashlib
import traceback
from types import SimpleNamespace

import pytest
import torch
from helpers import HUB_NAME as NAME
from loopback_hub import ALICE, BOB

import cnnzoo
from cnnzoo import checkpoints, hub
from cnnzoo.errors import CnnzooError

FOLDER = checkpoints.folder(NAME)
FILES = {p.name: p.read_bytes() for p in FOLDER.iterdir()}
WEIGHTS = FILES["model.safetensors"]
MINE = "alice/mine"


def fault(name: str, outcome: str):
    """Marks a test as the proof of a row of the README's table of faults."""

    def mark(test):
        test.fault_row = (name, outcome)
        return test

    return mark


def pull(cache, repo_id=MINE, token=False, **options):
    return hub.pull(repo_id, token=token, cache_dir=cache, **options)


def created(cache):
    """The other way to a model of the Hub, with what `pull` gives."""
    return SimpleNamespace(model=cnnzoo.create_model(f"hf-hub:{MINE}", pretrained=True, cache_dir=cache))


both_ways = pytest.mark.parametrize("take", [pull, created])


def logits(model, size=None):
    """What a model says of four fixed images, of its own size or of the one that is given."""
    x = torch.rand(4, *(size or model.pretrained_cfg["input_size"]), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return model.eval()(x)


def assert_right(pulled):
    """The very weights, bit by bit."""
    expected = cnnzoo.create_model(NAME, pretrained=True).state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in pulled.model.state_dict().items())


def refused(function, *words, kind=CnnzooError):
    """Runs what must fail with a typed error that has the words, and never with a token in sight."""
    with pytest.raises(kind) as caught:
        function()
    shown = "".join(traceback.format_exception(caught.value))
    assert ALICE not in shown and BOB not in shown
    for word in words:
        assert word in str(caught.value), caught.value
    return caught.value


def assert_nothing_half_written(cache):
    """What is in the cache under the name of a hash has that hash, and no temporary file is left."""
    for path in cache.rglob("*"):
        assert not path.name.endswith((".incomplete", ".tmp")), path
        if path.parent.name == "blobs" and path.parent.parent.name.startswith("models--"):
            content = path.read_bytes()
            git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            assert path.name in (git, hashlib.sha256(content).hexdigest())
