"""Mixed precision is left where its kernels would be wrong, and only there."""

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from hypothesis import given, strategies as st
from torch import nn

import cnnzoo
from cnnzoo.train._precision import FullPrecisionIfSmall, has_idle_entries

SIDES = st.integers(1, 9)


@st.composite
def convolutions(draw):
    """A convolution of any shape, with the height and width of an image that it can take."""
    size = draw(st.tuples(SIDES, SIDES))
    kernel, stride, dilation = (draw(st.tuples(*[st.integers(1, most)] * 2)) for most in (5, 3, 2))
    padding = draw(st.tuples(st.integers(0, 4), st.integers(0, 4)) | (st.just("same") if stride == (1, 1) else st.nothing()))
    wanted = [dilation[i] * (kernel[i] - 1) + 1 for i in (0, 1)]
    if padding != "same":
        size = tuple(max(size[i], wanted[i] - 2 * padding[i], 1) for i in (0, 1))
    return nn.Conv2d(1, 1, kernel, stride, padding, dilation, bias=False), size


@given(convolutions())
def test_an_entry_is_idle_if_its_gradient_is_zero_whatever_the_image(drawn):
    conv, size = drawn
    conv(torch.ones(1, 1, *size)).sum().backward()
    assert has_idle_entries(conv, (1, *size)) == bool((conv.weight.grad == 0).any())


def test_an_image_as_small_as_that_is_computed_in_fp32_and_a_larger_one_in_bf16():
    AcceleratorState._reset_state()
    model = nn.Sequential(nn.Conv2d(1, 16, 3, 2, padding=1), nn.Conv2d(16, 16, 3, 2, padding=1))
    prepared = Accelerator(cpu=True, mixed_precision="bf16").prepare(FullPrecisionIfSmall(model, 1, [(2, 2), (8, 8)]))
    seen = []
    model[1].register_forward_hook(lambda module, given, result: seen.append(result.dtype))
    for side in (2, 8):
        prepared(torch.ones(2, 1, side, side))
    assert seen == [torch.float32, torch.bfloat16]
    AcceleratorState._reset_state()


def test_gradients_do_not_depend_on_what_the_memory_held_before():
    # A CPU without instructions for bf16 has other kernels; there this holds in any case.
    torch.manual_seed(0)
    model = nn.Conv2d(96, 192, 3, stride=2, padding=1, bias=False).to(memory_format=torch.channels_last)
    safe = FullPrecisionIfSmall(model, 96, [(1, 1)])
    images = torch.randn(8, 96, 1, 1)
    for _ in range(30):
        junk = [
            torch.full((count,), torch.nan) for count in [model.weight.numel() // 2, model.weight.numel()] for _ in range(8)
        ]
        del junk
        with torch.autocast("cpu", torch.bfloat16):
            safe(images).square().sum().backward()
        assert model.weight.grad.isfinite().all()


@pytest.mark.parametrize("name", ["resnext_small", "nin_small", "convnext28_small", "wide_resnet_base"])
def test_the_zoo_trains_in_mixed_precision_at_every_size_of_its_recipes(name):
    model = cnnzoo.create_model(name)
    assert not any(has_idle_entries(model, (1, side, side)) for side in (16, 20, 24, 28))
