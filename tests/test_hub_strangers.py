"""What strangers and disks may do to a pull, and how it ends. Each test carries its row of the table in the README."""

import json
import os
import resource
import struct

import pytest
import torch
from hub_helpers import FILES, MINE, WEIGHTS, assert_nothing_half_written, assert_right, both_ways, fault, pull, refused
from loopback_http import ALWAYS

import cnnzoo
from cnnzoo.configs import MAX_CONFIG
from cnnzoo.errors import CheckpointError, CnnzooError, HubError

pytestmark = [pytest.mark.usefixtures("brisk"), pytest.mark.timeout(300)]  # that is a hang


# -- what strangers put into a repository ----------------------------------------------------------------------------------


class Evil:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, witness):
        self.witness = witness

    def __reduce__(self):
        return (open, (str(self.witness), "w"))


@fault("403 or 404 on the weights, and a pickle beside them", "an error; the pickle is not even asked for")
@pytest.mark.parametrize("status", [403, 404])
def test_a_pickle_is_no_way_out(server, cache, status, tmp_path):
    torch.save(Evil(tmp_path / "witness"), tmp_path / "evil")
    server.put(MINE, dict(FILES, **{"pytorch_model.bin": (tmp_path / "evil").read_bytes()}))
    server.fault("head", status, ALWAYS, only="model.safetensors")
    refused(lambda: pull(cache))
    refused(lambda: cnnzoo.create_model(f"hf-hub:{MINE}", pretrained=True, cache_dir=cache))
    assert not [r for r in server.requests if "pytorch_model" in r.path]
    assert not (tmp_path / "witness").exists()


@fault(
    "a pickle that timm would read, in `cnnzoo.create_model`",
    "the right weights or an error; the pickle is not even asked for",
)
@pytest.mark.parametrize("gone", [False, True])
@pytest.mark.parametrize(
    "lures", [dict(), dict(hf_hub_filename="pytorch_model.bin", custom_load="hf", url="pytorch_model.bin")]
)
def test_cnnzoos_create_model_reads_no_pickle_where_timms_would(server, cache, tmp_path, gone, lures):
    torch.save(Evil(tmp_path / "witness"), tmp_path / "evil")
    files = dict(FILES, **{"config.json": config(**{f"pretrained_cfg__{k}": v for k, v in lures.items()})})
    files["pytorch_model.bin"] = (tmp_path / "evil").read_bytes()
    if gone:
        del files["model.safetensors"]
    server.put(MINE, files)
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    for name in (f"hf-hub:{MINE}", f"local-dir:{folder}"):
        if gone:
            refused(lambda name=name: cnnzoo.create_model(name, pretrained=True, cache_dir=cache), "model.safetensors")
        else:
            expected = cnnzoo.create_model("lenet_tiny", pretrained=True).state_dict()
            found = cnnzoo.create_model(name, pretrained=True, cache_dir=cache).state_dict()
            assert all(torch.equal(value, expected[key]) for key, value in found.items())
    assert not [r for r in server.requests if "pytorch_model" in r.path]
    assert not (tmp_path / "witness").exists()


@fault(
    "a malicious pickle, beside the weights or in their place", "not asked for, or `CheckpointError`; its code does not run"
)
def test_a_malicious_pickle_does_nothing(server, cache, tmp_path):
    torch.save(Evil(tmp_path / "witness"), tmp_path / "evil")
    evil = (tmp_path / "evil").read_bytes()
    server.put(MINE, dict(FILES, **{"pytorch_model.bin": evil}))
    assert_right(pull(cache))
    server.put(MINE, dict(FILES, **{"model.safetensors": evil}))
    refused(lambda: pull(cache), "not a safetensors file", kind=CheckpointError)
    assert not [r for r in server.requests if "pytorch_model" in r.path]
    assert not (tmp_path / "witness").exists()


@fault("file names and commits that lead out of the cache", "the right weights or `HubError`; nothing is written outside")
def test_hostile_paths_write_nothing_outside(server, cache, tmp_path):
    hostile = {f"{up}evil.txt": b"evil" for up in ("../", "../../../../", "/", "a/../../", "C:\\")}
    server.put(MINE, dict(FILES, **hostile))
    assert_right(pull(cache))
    repo = server.repos[MINE]
    repo.commits["../../../evil"] = repo.commits[repo.branches["main"]]
    repo.branches["main"] = "../../../evil"
    refused(lambda: pull(cache), "not a commit", kind=HubError)
    assert {p.name for p in tmp_path.iterdir()} == {"cache"}
    assert not list(cache.rglob("evil*"))


def config(**changes):
    """The checkpoint's config.json with changes; a key with a dot is one level down."""
    content = json.loads(FILES["config.json"])
    for key, value in changes.items():
        *parents, leaf = key.split("__")
        place = content
        for parent in parents:
            place = place[parent]
        place[leaf] = value
    return json.dumps(content).encode()


CONFIGS = dict(
    huge=b" " * MAX_CONFIG + FILES["config.json"],
    empty=b"",
    not_json=b"\x80\x04\x95pickle",
    a_list=b"[]",
    nested=b'{"pretrained_cfg":' + b"[" * 40_000,
    huge_number=b'{"num_classes": ' + b"9" * 5000 + b"}",
    unknown_architecture=config(architecture="resnet50"),
    odd_architecture=config(architecture=["lenet_tiny"]),
    smuggled_argument=config(model_args__widths=[1, 2, 3]),
    smuggled_device=config(model_args__device="cuda"),
    smuggled_file=config(model_args__pretrained_cfg={"file": "/etc/passwd"}),
    many_classes=config(num_classes=10**9, model_args__num_classes=10**9, pretrained_cfg__num_classes=10**9),
    two_answers=config(num_classes=7),
    large_image=config(model_args__img_size=[4000, 4000], pretrained_cfg__input_size=[1, 4000, 4000]),
    other_channels=config(model_args__in_chans=3),
    nan_mean=config(pretrained_cfg__mean=[float("nan")]),
    zero_std=config(pretrained_cfg__std=[0.0]),
    odd_interpolation=config(pretrained_cfg__interpolation="__class__"),
    few_labels=config(label_names=["one"]),
    **{
        f"temperature_{value}": config(pretrained_cfg__notes=[f"temperature={value}"])
        for value in ("nan", "inf", "-1", "0", "0.0", "1e3", "101", "1_0", "", "9" * 5000)
    },
    two_temperatures=config(pretrained_cfg__notes=["temperature=0.5", "temperature=2"]),
)


@fault(
    "config.json that is huge, no JSON, of an unknown model, or smuggles arguments",
    "an error; the weights are not asked for",
)
@pytest.mark.parametrize("name", CONFIGS)
@both_ways
def test_a_hostile_config_is_refused(server, cache, take, name):
    server.put(MINE, dict(FILES, **{"config.json": CONFIGS[name]}))
    refused(lambda: take(cache), kind=CnnzooError)
    assert "cdn" not in server.routes()


@fault("config.json that says where weights are or how to read them", "ignored: the right weights")
def test_a_config_does_not_say_where_weights_are(server, cache, tmp_path):
    lures = dict(
        file=str(tmp_path / "evil"), url="http://evil.invalid/x.bin", custom_load=True, hf_hub_filename="pytorch_model.bin"
    )
    server.put(MINE, dict(FILES, **{"config.json": config(**{f"pretrained_cfg__{k}": v for k, v in lures.items()})}))
    assert_right(pull(cache))


def safetensors_with(change):
    """The weights with a changed header, of whatever length."""
    (length,) = struct.unpack("<Q", WEIGHTS[:8])
    header = json.loads(WEIGHTS[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + WEIGHTS[8 + length :]


WRONG_WEIGHTS = dict(
    empty=b"",
    header_length=struct.pack("<Q", 2**63) + WEIGHTS[8:],
    cut=WEIGHTS[:-100],
    longer=WEIGHTS + b"\0" * 100,
    beyond_the_end=safetensors_with(lambda h: h["head.fc.weight"].update(data_offsets=[0, 10**15])),
    larger_shape=safetensors_with(lambda h: h["head.fc.weight"].update(shape=[2**40, 2**40])),
    other_shape=safetensors_with(lambda h: h["head.fc.weight"]["shape"].reverse()),
    other_type=safetensors_with(lambda h: h["head.fc.weight"].update(dtype="I32")),
    unknown_type=safetensors_with(lambda h: h["head.fc.weight"].update(dtype="PICKLE")),
    missing=safetensors_with(lambda h: h.pop("head.fc.bias")),
    renamed=safetensors_with(lambda h: h.update({"head.fc.extra": h.pop("head.fc.bias")})),
)


@fault("safetensors whose header lies about sizes, shapes, types or names", "`CheckpointError`")
@pytest.mark.parametrize("name", WRONG_WEIGHTS)
def test_lying_weights_are_refused(server, cache, name):
    server.put(MINE, dict(FILES, **{"model.safetensors": WRONG_WEIGHTS[name]}))
    refused(lambda: pull(cache), "model.safetensors", kind=CheckpointError)


@fault("weights larger than the model", "`CheckpointError` before they are downloaded")
@both_ways
def test_large_weights_are_not_downloaded(server, cache, take):
    server.put(MINE, dict(FILES, **{"model.safetensors": WEIGHTS + b"\0" * 2_000_000}))
    refused(lambda: take(cache), "bytes", kind=CheckpointError)
    assert "cdn" not in server.routes()


# -- the disk --------------------------------------------------------------------------------------------------------------


@fault("the disk is full", "`HubError`; nothing half-written")
def test_a_full_disk_is_an_error(server, cache):
    server.put(MINE, FILES)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # the weights have three times that
    try:
        refused(lambda: pull(cache), "cannot be written", kind=HubError)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert_nothing_half_written(cache)
    assert_right(pull(cache))


@fault("a cache that cannot be written", "what is in it is used; else `HubError`")
def test_a_read_only_cache_serves_what_it_has(server, tmp_path, monkeypatch):
    server.put(MINE, FILES)
    (tmp_path / "file").write_text("a cache cannot be below a file")
    refused(lambda: pull(tmp_path / "file" / "cache"), "cannot be written", kind=HubError)
    cache = tmp_path / "cache"
    pull(cache)
    before = sorted(cache.rglob("*"))
    for name in ("mkdir", "makedirs", "open", "replace", "unlink"):  # root may write anywhere, so modes would prove nothing
        original = getattr(os, name)

        def guarded(path, *args, _original=original, _name=name, **kwargs):
            reads = _name == "open" and not (args and args[0] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
            if str(path).startswith(str(cache)) and not reads and not (_name == "makedirs" and os.path.isdir(path)):
                raise PermissionError(30, "Read-only file system", str(path))
            return _original(path, *args, **kwargs)

        monkeypatch.setattr(os, name, guarded)
    assert_right(pull(cache))
    assert sorted(cache.rglob("*")) == before
