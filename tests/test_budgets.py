"""Names are promises: what a size may cost, and that a family uses what it may."""

import pytest
import timm
import torch
from helpers import MODELS, cost

# Parameters at 1 input channel and 10 classes; multiply-accumulates for one 1x28x28 image.
BUDGETS = dict(
    tiny=(100_000, 12_000_000), small=(300_000, 40_000_000), base=(1_000_000, 150_000_000), large=(5_000_000, 700_000_000)
)
FAMILIES = (
    "lenet vgg nin googlenet resnet preact_resnet wide_resnet resnext densenet regnet mobilenet repvgg convnext28"
).split()
ZOO = [name for name in MODELS if name.rsplit("_", 1)[1] in BUDGETS]


@pytest.mark.parametrize("name", ZOO)
def test_parameters_and_cost_are_within_what_the_name_promises(name):
    model = timm.create_model(name, device="meta")
    assert model.default_cfg["input_size"] == (1, 28, 28)
    assert (model.in_chans, model.num_classes) == (1, 10)
    most_params, most_macs = BUDGETS[name.rsplit("_", 1)[1]]
    assert cost(name).params <= most_params
    assert cost(name).macs <= most_macs
    if not name.startswith("lenet"):
        assert cost(name).params >= 0.6 * most_params


@pytest.mark.parametrize("name", ZOO)
def test_models_that_pool_globally_take_any_image_from_28_pixels_up(name):
    model = timm.create_model(name, device="meta").eval()
    if model.global_pool == "flatten":
        model = timm.create_model(name, device="meta", global_pool="avg").eval()
    for height, width in ((28, 28), (28, 45), (64, 64)):
        assert model(torch.empty(2, 1, height, width, device="meta")).shape == (2, 10)


def test_every_family_comes_in_every_size():
    sizes = {family: set(BUDGETS) for family in FAMILIES}
    sizes["lenet"] = {"tiny", "small"}
    found: dict[str, set[str]] = {}
    for name in ZOO:
        family, size = name.rsplit("_", 1)
        found.setdefault(family, set()).add(size)
    assert {family: found.get(family) for family in FAMILIES} == sizes


def test_there_are_at_least_60_models():
    assert len(MODELS) >= 60
