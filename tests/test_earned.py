"""Labels and temperature belong to the weights that they were found for, and go with them."""

import copy

import pytest
import torch
from timm.models import reparameterize_model
from timm.utils.model import freeze
from torch import nn

import cnnzoo
from cnnzoo.datasets import FASHION_MNIST
from cnnzoo.errors import InputError
from cnnzoo.folding import fold
from cnnzoo.inference import class_labels


def pretrained() -> nn.Module:
    return cnnzoo.create_model("resnext_small", pretrained=True)


def with_other_weights(model: nn.Module) -> nn.Module:
    model.load_state_dict(cnnzoo.create_model("resnext_small").state_dict())
    return model


def with_a_new_classifier(model: nn.Module) -> nn.Module:
    model.reset_classifier(10)
    return model


def with_a_classifier_put_in_by_hand(model: nn.Module) -> nn.Module:
    model.head.fc = nn.Linear(model.head.fc.in_features, 10)
    return model


def folded(model: nn.Module) -> nn.Module:
    return fold(model, torch.zeros(1, 1, 28, 28))


def frozen(model: nn.Module) -> nn.Module:
    freeze(model)
    return model


def trained_on(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return model


def fine_tuned(model: nn.Module) -> nn.Module:
    """By the usual small rate, for classes that are called otherwise."""
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
    images, labels = torch.rand(32, 1, 28, 28), torch.arange(32) % 10
    for _ in range(30):
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def with_its_classes_in_another_order(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for p in model.get_classifier().parameters():
            p.copy_(p.roll(1, 0))
    return model


@pytest.mark.parametrize(
    "change",
    [
        with_other_weights, with_a_new_classifier, with_a_classifier_put_in_by_hand, trained_on, fine_tuned,
        with_its_classes_in_another_order,
    ],
)  # fmt: skip
def test_labels_and_temperature_go_with_the_weights_that_earned_them(change):
    model = pretrained()
    assert class_labels(model) == FASHION_MNIST.labels and model.temperature != 1
    change(model)
    assert class_labels(model) == tuple("0123456789") and model.temperature == 1
    model.labels = "abcdefghij"  # who knows better says so
    assert class_labels(model) == tuple("abcdefghij")


@pytest.mark.parametrize(
    ("name", "value"),
    [("labels", ("cat", "dog")), ("labels", range(10)), ("temperature", 0), ("temperature", "a"), ("temperature", True)],
)
def test_what_cannot_be_labels_or_a_temperature_is_refused_when_it_is_set(name, value):
    model = pretrained()
    before = getattr(model, name)
    with pytest.raises(InputError, match="is needed"):
        setattr(model, name, value)
    assert getattr(model, name) == before


@pytest.mark.parametrize("merge", [reparameterize_model, folded, frozen])
def test_labels_and_temperature_stay_when_layers_are_merged_until_the_result_is_trained_on(merge):
    model = cnnzoo.create_model("repvgg_tiny", pretrained=True).eval()
    merged = merge(copy.deepcopy(model))
    assert len(list(merged.parameters())) < len(list(model.parameters()))
    assert (merged.labels, merged.temperature) == (model.labels, model.temperature) and merged.temperature != 1
    trained_on(merged.stages)
    assert (merged.labels, merged.temperature) == ((), 1)


def test_a_merged_model_with_another_classifier_knows_no_names():
    merged = with_a_new_classifier(reparameterize_model(cnnzoo.create_model("repvgg_tiny", pretrained=True)))
    assert merged.labels == ()


def test_an_untrained_model_knows_no_names():
    assert class_labels(cnnzoo.create_model("resnext_small")) == tuple("0123456789")


def test_another_number_format_is_no_other_training():
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        model = pretrained().to(dtype)
        assert model.labels == FASHION_MNIST.labels and model.temperature != 1
