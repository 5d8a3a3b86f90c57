"""Eleven thousand broken configs and weights: each is read, or refused by an error of ours; no crash, no code run."""

import copy
import json
import struct
import sys

import pytest
import safetensors.torch
import torch
from helpers import HUB_NAME as NAME
from hypothesis import given, settings, strategies as st
from torch import nn

from cnnzoo import checkpoints, configs
from cnnzoo.errors import CnnzooError

pytestmark = pytest.mark.slow

CONFIG = json.loads((checkpoints.folder(NAME) / "config.json").read_text())
TARGET = nn.Linear(3, 2)
STATE = dict(weight=torch.ones(2, 3), bias=torch.zeros(2))
WEIGHTS = safetensors.torch.save(STATE, metadata=dict(format="pt"))

_FORBIDDEN = (
    "os.system",
    "os.exec",
    "subprocess.Popen",
    "socket.connect",
    "pickle.find_class",
    "shutil.rmtree",
    "os.remove",
)
_seen: list[str] = []
_watching = False


def _watch(event: str, args: tuple) -> None:
    if _watching and (event in _FORBIDDEN or (event == "open" and args[1] and set(str(args[1])) & set("wax+"))):
        _seen.append(event)


sys.addaudithook(_watch)


def verdict(function, *args):
    """What a reader makes of its input: a result, or None for an error of ours. Anything else fails the test."""
    global _watching
    _watching = True
    try:
        return function(*args)
    except CnnzooError as e:
        assert len(str(e)) < 1500 and "\n" not in str(e)
        return None
    finally:
        _watching = False
        assert not _seen, f"reading led to {_seen}"


odd_numbers = st.sampled_from(
    [0, -1, 1, 2, 3, 10, 28, 2**31, 2**63, 2**64, 10**30, 0.5, -0.0, 1e308, float("nan"), float("inf")]
)
odd_texts = st.sampled_from(
    [
        "",
        "avg",
        "max",
        "temperature=nan",
        "temperature=2",
        "..",
        "/etc/passwd",
        "lenet_tiny",
        "__class__",
        "\0",
        "\ud800",
        "{x}",
        "e" * 5000,
    ]
)
odd_values = st.one_of(
    st.none(),
    st.booleans(),
    odd_numbers,
    odd_texts,
    st.lists(odd_numbers, max_size=4),
    st.dictionaries(odd_texts, odd_numbers),
)


def places(tree, prefix=()):
    """Every path in a tree of dictionaries and lists."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield (*prefix, key)
        yield from places(value, (*prefix, key))


def mutations(tree, names):
    """Lists of changes of a tree: another value, a further key from `names`, or a deletion (`...`)."""
    known = [p for p in places(tree)]
    parents = [p for p in [(), *known] if isinstance(at(tree, p), dict)]
    added = st.builds(lambda parent, name: (*parent, name), st.sampled_from(parents), st.sampled_from(names))
    values = st.one_of(odd_values, st.just(...))
    return st.lists(st.tuples(st.one_of(st.sampled_from(known), added), values), min_size=1, max_size=3)


def at(tree, path):
    for key in path:
        tree = tree[key]
    return tree


def changed(tree, changes):
    tree = copy.deepcopy(tree)
    for path, value in changes:
        try:
            parent = at(tree, path[:-1])
            if value is ...:
                del parent[path[-1]]
            else:
                parent[path[-1]] = value
        except (KeyError, IndexError, TypeError):
            pass  # an earlier change took the place away
    return tree


def splices(content):
    """A content with a piece replaced, left out or repeated."""
    spot = st.integers(0, len(content))
    return st.builds(
        lambda i, j, piece: content[: min(i, j)] + piece + content[max(i, j) :], spot, spot, st.binary(max_size=40)
    )


NAMES = [
    "widths",
    "device",
    "pretrained_cfg",
    "file",
    "url",
    "custom_load",
    "num_classes",
    "in_chans",
    "img_size",
    "label_names",
    "notes",
]


def assert_buildable(content):
    config = verdict(configs.read_config, content, "config.json")
    if config is not None:
        model = verdict(configs.empty_model, config, "config.json")
        if model is not None:
            assert model.num_classes == config.cfg["num_classes"]
            assert 0.01 <= config.temperature <= 100
            assert model.in_chans == config.cfg["input_size"][0] == len(config.cfg["mean"])
            assert all(t.is_meta for t in model.state_dict().values())


@settings(max_examples=4000)
@given(mutations(CONFIG, NAMES))
def test_configs_with_odd_values(changes):
    assert_buildable(json.dumps(changed(CONFIG, changes)).encode())


@settings(max_examples=2000)
@given(splices(json.dumps(CONFIG).encode()))
def test_configs_with_odd_bytes(content):
    assert_buildable(content)


def assert_exact(content):
    state = verdict(checkpoints.read_weights, content, TARGET, "model.safetensors")
    if state is not None:
        nn.Linear(3, 2).load_state_dict(state, strict=True)


HEADER = json.loads(WEIGHTS[8 : 8 + struct.unpack("<Q", WEIGHTS[:8])[0]])
BODY = WEIGHTS[-32:]


@settings(max_examples=2500)
@given(
    mutations(HEADER, ["bias", "extra", "dtype", "shape", "data_offsets"]),
    st.sampled_from([0, 0, 0, -1, 1, 8, 2**40, 2**63]),
)
def test_headers_with_odd_values(changes, off):
    text = json.dumps(changed(HEADER, changes)).encode()
    assert_exact(struct.pack("<Q", max(0, len(text) + off) % 2**64) + text + BODY)


@settings(max_examples=2500)
@given(splices(WEIGHTS))
def test_weights_with_odd_bytes(content):
    assert_exact(content)


def test_the_unbroken_pass_and_a_crash_would_show():
    assert verdict(configs.read_config, json.dumps(CONFIG).encode(), "config.json") is not None
    assert verdict(checkpoints.read_weights, WEIGHTS, TARGET, "model.safetensors") is not None
    with pytest.raises(ZeroDivisionError):
        verdict(lambda: 1 / 0)
    with pytest.raises(AssertionError, match="open"):
        verdict(lambda: open("/dev/null", "w").close())
    _seen.clear()
