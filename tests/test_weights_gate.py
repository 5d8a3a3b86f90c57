"""One gate for weights: whichever way they come in, they are the model's and their numbers can be."""

import json
import shutil

import pytest
import torch
from helpers import HUB_NAME as NAME
from hub_helpers import fault
from safetensors.torch import load, save, save_file

import cnnzoo
from cnnzoo import checkpoints, hub
from cnnzoo.errors import CheckpointError, CnnzooError

GOOD = load((checkpoints.folder(NAME) / checkpoints.WEIGHTS).read_bytes())
BIAS = "head.fc.bias"


VARIANCE = next(k for k in GOOD if k.endswith("running_var"))


def changed(**tensors):
    return save({**GOOD, **tensors}, metadata=dict(format="pt"))


BAD = dict(
    nan=changed(**{BIAS: torch.full((10,), torch.nan)}),
    infinite=changed(**{BIAS: torch.tensor([0.0] * 9 + [torch.inf])}),
    too_large_for_the_models_type=changed(**{BIAS: torch.full((10,), 1e300, dtype=torch.float64)}),
    integers=changed(**{BIAS: torch.zeros(10, dtype=torch.int64)}),
    truths=changed(**{BIAS: torch.zeros(10, dtype=torch.bool)}),
    complex=changed(**{BIAS: torch.zeros(10, dtype=torch.complex64)}),
    tiny_floats=changed(**{VARIANCE: torch.full(GOOD[VARIANCE].shape, -1.0).to(torch.float8_e4m3fn)}),
    other_shape=changed(**{BIAS: torch.zeros(9)}),
    one_more=changed(**{"head.extra": torch.zeros(1)}),
    one_less=save({k: v for k, v in GOOD.items() if k != BIAS}),
    damaged=changed()[:-7],
    empty=b"",
)


@pytest.fixture
def folder(tmp_path):
    """A copy of a checkpoint folder that a test may damage."""
    return shutil.copytree(checkpoints.folder(NAME), tmp_path / NAME)


@pytest.mark.parametrize("kind", BAD)
def test_bad_weights_are_refused_by_the_gate(kind):
    model = cnnzoo.create_model(NAME.split(".")[0])
    with pytest.raises(CheckpointError, match="weights.safetensors .* Allowed:"):
        checkpoints.read_weights(BAD[kind], model, "weights.safetensors")


@fault(
    "weights that are not finite, or of other types, in a folder that is loaded or verified",
    "`CheckpointError` that names them",
)
@pytest.mark.parametrize("kind", ["nan", "integers", "truths", "damaged"])
def test_a_folder_with_bad_weights_is_refused_by_local_dir_verify_and_the_gate_alike(folder, quick, kind):
    path = folder / checkpoints.WEIGHTS
    path.write_bytes(BAD[kind])
    metrics = folder / "metrics.json"
    metrics.write_text(json.dumps(dict(json.loads(metrics.read_text()), sha256=checkpoints.sha256(path))))
    for way in (
        lambda: cnnzoo.create_model(f"local-dir:{folder}", pretrained=True),
        lambda: hub.verify(folder),
        lambda: checkpoints.read_weights(path, cnnzoo.create_model(NAME.split(".")[0])),
    ):
        with pytest.raises(CheckpointError, match="model.safetensors .* Allowed:"):
            way()


def test_half_precision_passes_and_nothing_of_a_refused_file_is_loaded(tmp_path):
    model = cnnzoo.create_model(NAME.split(".")[0])
    before = {k: v.clone() for k, v in model.state_dict().items()}
    (tmp_path / "bad").write_bytes(BAD["nan"])
    with pytest.raises(CheckpointError):
        model.load_state_dict(checkpoints.read_weights(tmp_path / "bad", model))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    halved = {k: v.half() if v.is_floating_point() else v for k, v in GOOD.items()}
    save_file(halved, tmp_path / "half")
    model.load_state_dict(checkpoints.read_weights(tmp_path / "half", model))
    assert torch.equal(model.state_dict()[BIAS], GOOD[BIAS].half().float())


CONFIGS = [
    dict(num_classes=0), dict(num_classes=-1), dict(num_classes="ten"), dict(num_classes=1e300), dict(architecture=None),
    dict(architecture=["lenet_tiny"]), dict(architecture="resnet50"), dict(model_args=dict(global_pool="foo")),
    dict(model_args=dict(global_pool=7)), dict(model_args=7), dict(pretrained_cfg=[]),
    {"pretrained_cfg.temperature": 0}, {"pretrained_cfg.first_conv": 5}, {"pretrained_cfg.classifier": [["a"]]},
]  # fmt: skip


@pytest.mark.parametrize("fields", CONFIGS, ids=str)
def test_an_odd_config_of_a_local_folder_is_refused_in_one_line(folder, fields):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for name, value in fields.items():
        place, _, key = name.rpartition(".")
        (config[place] if place else config)[key] = value
    path.write_text(json.dumps(config))
    for pretrained in (False, True):
        with pytest.raises(CnnzooError) as caught:
            cnnzoo.create_model(f"local-dir:{folder}", pretrained=pretrained)
        assert len(str(caught.value).splitlines()) == 1
