"""The faster form of a model answers as the model does, and leaves it alone."""

import copy
import threading
import types
from concurrent.futures import ThreadPoolExecutor

import accelerate
import numpy as np
import pytest
import timm
import torch
from helpers import fill
from torch import Tensor, nn

import cnnzoo
from cnnzoo import exporting, inference
from cnnzoo.errors import InputError
from cnnzoo.evaluate import predict_logits
from cnnzoo.inference import inference_form

TOLERANCE = 1e-4  # of logits
FAMILIES = [name for name in cnnzoo.list_models() if name.endswith("_tiny")]
TRAINED = {name.split(".")[0] for name in cnnzoo.list_pretrained()}


def warmed(model: nn.Module, x: Tensor) -> nn.Module:
    """The model, its batch norms with what these images give, so that its logits are of a usual size."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(x)
    return model


def noise(count: int, size: int = 28, channels: int = 1) -> Tensor:
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(count))


def norms_of(model: nn.Module) -> int:
    return sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())


@pytest.mark.parametrize("name", FAMILIES)
def test_the_form_of_every_family_answers_as_the_model_and_leaves_it_alone(name):
    model = cnnzoo.create_model(name, pretrained=name in TRAINED)
    if name not in TRAINED:
        model = warmed(fill(model), noise(32))
    model.train()
    before = {k: (v, v.clone(), v.stride()) for k, v in model.state_dict(keep_vars=True).items()}
    modules = list(model.modules())
    x = noise(65)
    answers = inference_form(model)(x)
    assert all(m.training for m in model.modules()) and list(model.modules()) == modules
    for key, value in model.state_dict(keep_vars=True).items():
        same, content, stride = before[key]
        assert value is same and value.equal(content) and value.stride() == stride
    with torch.no_grad():
        wanted = model.eval()(x)
    assert wanted.abs().max() > 0.1
    torch.testing.assert_close(answers, wanted, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["resnet10t", "test_efficientnet", "repvgg_a0", "test_vit"])
def test_models_of_timm_have_a_form_too(name):
    size = 160 if name == "test_vit" else 32
    model = warmed(timm.create_model(name, in_chans=1, num_classes=10), noise(4, size)).eval()
    x = noise(3, size)
    with torch.no_grad():
        wanted = model(x)
    torch.testing.assert_close(inference_form(model)(x), wanted, rtol=1e-3, atol=TOLERANCE * wanted.abs().max().item())
    assert norms_of(inference.fast_copy(model, x)) == 0


@pytest.mark.parametrize("name", ["repvgg_a0", "mobileone_s0", "nextvit_small"])
def test_a_model_whose_blocks_say_what_they_become_can_still_be_trained_after_it_answered(name):
    model = timm.create_model(name, in_chans=1, num_classes=10).eval()
    before = {k: (v.clone(), v.requires_grad) for k, v in model.state_dict(keep_vars=True).items()}
    inference_form(model)(noise(2, 32))
    for key, value in model.state_dict(keep_vars=True).items():
        content, trainable = before[key]
        assert value.equal(content) and value.requires_grad == trainable


class Listed(nn.Module):
    """Its layers are in a plain list too, one is called as a method of timm's is, and one is given its input by name."""

    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU()]
        self.layers = []
        for i, layer in enumerate(layers):
            self.add_module(f"layer{i}", layer)
            self.layers.append(layer)
        self.fuse, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.fc, self.num_classes = nn.Linear(4, 10), 10

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.fc(self.norm(self.fuse(input=x)).mean((2, 3)))


def test_a_model_that_keeps_its_layers_in_a_list_is_run_in_evaluation_mode_and_left_alone():
    model = warmed(Listed(), noise(8)).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    answers = inference_form(model)(noise(3))
    assert all(v.equal(before[k]) for k, v in model.state_dict().items())
    with torch.no_grad():
        torch.testing.assert_close(answers, model.eval()(noise(3)), rtol=0, atol=TOLERANCE)
    assert norms_of(inference.fast_copy(model, noise(1))) == 0


@pytest.mark.parametrize("count", [1, 63, 64, 129])
def test_any_number_of_images_is_answered(count):
    model = cnnzoo.create_model("lenet_tiny", pretrained=True).eval()
    with torch.no_grad():
        wanted = model(noise(count))
    torch.testing.assert_close(inference_form(model)(noise(count)), wanted, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("name", "sizes", "of_large_images"), [("nin_small", [100, 100], [20, 20]), ("timm:test_resnet", [200], [40])]
)
def test_a_piece_is_as_many_images_as_the_caches_hold_the_largest_activation_of(name, sizes, of_large_images, monkeypatch):
    """64 channels of 28x28 numbers in the first blocks of nin_small, 8 of them in those of timm's."""
    model, seen = cnnzoo.create_model(name).eval(), []
    monkeypatch.setattr(inference, "logits_of", lambda form, piece: seen.append(len(piece)) or piece[:, 0, 0])
    form = inference_form(model)
    for _ in range(2):
        assert form(noise(200)).shape == (200, 28)
    form(noise(40, 56))  # four times the pixels
    assert seen == [*sizes, *sizes, *of_large_images]


def test_eight_threads_may_use_one_form():
    model, x = cnnzoo.create_model("repvgg_tiny").eval(), noise(20)
    with torch.no_grad():
        wanted = model(x)
    form, start = inference_form(model), threading.Barrier(8)

    def work(_: int) -> Tensor:
        start.wait()
        return form(x)

    with ThreadPoolExecutor(8) as pool:
        for answers in pool.map(work, range(8)):
            torch.testing.assert_close(answers, wanted, rtol=0, atol=TOLERANCE)


def test_a_new_form_knows_weights_that_were_changed_in_place_and_unnoticed():
    model, image = cnnzoo.create_model("lenet_tiny", pretrained=True), noise(1)
    before = inference_form(model)(image)
    model.stem[0].conv.weight.data.mul_(2)  # which no version counter sees
    assert not inference_form(model)(image).allclose(before)


class Branching(nn.Module):
    """A convolution that a norm follows, whose output is added to the norm's."""

    num_classes = 4

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.last = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.last(self.norm(y) + y).mean((2, 3))


class Twice(Branching):
    """One convolution in two places."""

    def forward(self, x: Tensor) -> Tensor:
        return (self.norm(self.conv(x)) + self.last(self.conv(x + 1))).mean((2, 3))


class Blanked(Branching):
    """A part of a convolution's output is written to."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y[:, :1] = 0
        return self.last(self.norm(y).relu()).mean((2, 3))


class Tied(Branching):
    """A convolution whose kernel does something else too."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x)).relu()
        return self.last(nn.functional.conv2d(nn.functional.conv_transpose2d(y, self.conv.weight), self.conv.weight)).mean(
            (2, 3)
        )


@pytest.mark.parametrize("kind", [Branching, Twice, Blanked, Tied])
def test_a_convolution_that_is_used_elsewhere_too_keeps_its_output(kind):
    model = warmed(kind(), noise(16)).eval()
    with torch.no_grad():
        wanted = model(noise(5))
    torch.testing.assert_close(inference_form(model)(noise(5)), wanted, rtol=0, atol=TOLERANCE)
    assert norms_of(inference.fast_copy(model, noise(1))) == 2


def test_a_hook_sees_what_it_saw():
    model, seen = cnnzoo.create_model("nin_tiny", pretrained=True).eval(), []
    model.stem[0].conv.register_forward_hook(lambda module, args, out: seen.append(out.clone()))
    with torch.no_grad():
        model(noise(1))
    inference_form(model)(noise(1))
    assert all(out.allclose(seen[0], atol=1e-5) for out in seen[1:]) and len(seen) > 1


def test_pruned_weights_stay_pruned():
    from torch.nn.utils import parametrize, prune

    model = cnnzoo.create_model("nin_tiny", pretrained=True).eval()
    prune.l1_unstructured(model.stem[0].conv, "weight", amount=0.5)
    parametrize.register_parametrization(model.stem[1].conv, "weight", nn.Tanh())
    with torch.no_grad():
        wanted = model(noise(3))
    torch.testing.assert_close(inference_form(model)(noise(3)), wanted, rtol=0, atol=TOLERANCE)


def test_no_copy_is_made_for_a_few_images(monkeypatch, tiny_split):
    def refuse(*args: object) -> None:
        raise AssertionError("a copy was made")

    model = cnnzoo.create_model("lenet_tiny", pretrained=True)
    monkeypatch.setattr(inference, "fast_copy", refuse)
    cnnzoo.predict(model, np.zeros((28, 28), np.uint8))
    predict_logits(model, tiny_split[:8])
    many = [np.zeros((28, 28), np.uint8)] * 256
    with pytest.raises(AssertionError, match="copy"):
        cnnzoo.predict(model, many)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_not_rounded_once_more(dtype):
    model = cnnzoo.create_model("nin_tiny", pretrained=True).to(dtype).eval()
    assert norms_of(inference.fast_copy(model, noise(1).to(dtype))) == norms_of(model) > 0
    assert inference_form(model)(noise(2)).dtype == torch.float32


def test_what_gives_no_logits_is_refused_on_call():
    form = inference_form(cnnzoo.create_model("lenet_tiny", features_only=True))
    with pytest.raises(InputError, match="gives a list; logits"):
        form(noise(2))


def test_compiling_leaves_the_model_as_it_is(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model, **_: model)  # takes long, and is torch's own
    model = cnnzoo.create_model("nin_tiny", pretrained=True)
    strides = [p.stride() for p in model.parameters()]
    answers = exporting.compiled(model, noise(2))(noise(3))
    assert all(m.training for m in model.modules()) and [p.stride() for p in model.parameters()] == strides
    with torch.no_grad():
        torch.testing.assert_close(answers, model.eval()(noise(3)), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("hooked", [False, True])
def test_a_model_that_accelerate_has_prepared_is_run_in_evaluation_mode_and_left_alone(hooked):
    model = warmed(fill(cnnzoo.create_model("resnext_tiny")), noise(32)).train()
    x = noise(65)
    with torch.no_grad():
        wanted = copy.deepcopy(model).eval()(x)
    if hooked:
        accelerate.hooks.add_hook_to_module(model, accelerate.hooks.ModelHook())
    else:
        model.forward = types.MethodType(lambda self, x: type(self).forward(self, x), model)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    torch.testing.assert_close(inference_form(model)(x), wanted, rtol=0, atol=TOLERANCE)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
