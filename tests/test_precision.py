"""Mixed precision on a CPU: it is left where its kernels would be wrong or slow, and only there."""

import pytest
import torch
from hypothesis import given, strategies as st
from torch import nn

import cnnzoo
from cnnzoo.train._precision import MixedPrecision

SIDES = st.integers(1, 9)


def dtypes_of(model, x):
    """What the convolutions of `model` give in mixed precision, one after the other."""
    seen = []
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    handles = [m.register_forward_hook(lambda module, given, result: seen.append(result.dtype)) for m in convolutions]
    with torch.autocast("cpu", torch.bfloat16):
        MixedPrecision(model)(x)
    for handle in handles:
        handle.remove()
    return seen


@st.composite
def convolutions(draw):
    """A convolution of any shape, with the height and width of an image that it can take."""
    size = draw(st.tuples(SIDES, SIDES))
    kernel, stride, dilation = (draw(st.tuples(*[st.integers(1, most)] * 2)) for most in (5, 3, 2))
    padding = draw(
        st.tuples(st.integers(0, 4), st.integers(0, 4)) | (st.just("same") if stride == (1, 1) else st.just("valid"))
    )
    if padding != "same":
        pads = (0, 0) if padding == "valid" else padding
        size = tuple(max(size[i], dilation[i] * (kernel[i] - 1) + 1 - 2 * pads[i], 1) for i in (0, 1))
    return nn.Conv2d(1, 1, kernel, stride, padding, dilation, bias=False), size


@given(convolutions())
def test_a_convolution_is_in_fp32_if_an_entry_of_its_kernel_meets_padding_only(drawn):
    conv, size = drawn
    conv(torch.ones(1, 1, *size)).sum().backward()
    idle = bool((conv.weight.grad == 0).any())
    assert dtypes_of(conv, torch.ones(1, 1, *size)) == [torch.float32 if idle else torch.bfloat16]


def test_a_depthwise_convolution_is_in_fp32_if_it_has_a_stride():
    model = nn.Sequential(
        *[nn.Conv2d(8, 8, 3, stride, 1, groups=groups) for stride, groups in [(1, 8), (2, 8), (2, 1), (2, 4)]]
    )
    assert dtypes_of(model, torch.ones(2, 8, 28, 28)) == [torch.bfloat16, torch.float32, torch.bfloat16, torch.bfloat16]


@pytest.mark.parametrize("name", ["resnext_small", "nin_small", "convnext28_small", "wide_resnet_base"])
def test_all_others_are_in_bf16_at_every_size_of_the_recipes(name):
    model = cnnzoo.create_model(name)
    for side in (16, 20, 24, 28):
        assert set(dtypes_of(model, torch.ones(2, 1, side, side))) == {torch.bfloat16}


def signs(*shape):
    """Numbers whose sums have no error, also in bfloat16, up to 256."""
    return torch.randint(-1, 2, shape).float()


@st.composite
def large_depthwise_convolutions(draw):
    """A depthwise convolution of the kind that has a gradient of its own, and images that it can take."""
    kernel, pads, size = (draw(st.tuples(*[st.integers(*ends)] * 2)) for ends in ((4, 7), (0, 4), (1, 9)))
    size = [max(s, k - 2 * p) for s, k, p in zip(size, kernel, pads, strict=True)]
    chs = draw(st.integers(2, 5))
    conv = nn.Conv2d(chs, chs, kernel, padding=pads, groups=chs, bias=draw(st.booleans()))
    conv.load_state_dict({name: signs(*value.shape) for name, value in conv.state_dict().items()})
    return conv, signs(draw(st.integers(1, 2)), chs, *size).requires_grad_()


@given(large_depthwise_convolutions())
def test_large_depthwise_kernels_stay_in_bf16_and_have_the_gradients_of_fp32(drawn):
    conv, images = drawn
    wanted = [images, *conv.parameters()]
    exact = conv(images)
    with torch.autocast("cpu", torch.bfloat16):
        found = MixedPrecision(conv)(images)
    assert "Depthwise" in found.grad_fn.name() and found.dtype == torch.bfloat16 and torch.equal(found.float(), exact)
    grad = signs(*exact.shape)
    theirs, own = torch.autograd.grad(exact, wanted, grad), torch.autograd.grad(found, wanted, grad.bfloat16())
    for one, other in zip(own, theirs, strict=True):
        assert one.dtype == torch.float32 and torch.equal(one, other)


def test_gradients_do_not_depend_on_what_the_memory_held_before():
    # A CPU without instructions for bf16 has other kernels; there this holds in any case.
    torch.manual_seed(0)
    model = nn.Conv2d(96, 192, 3, stride=2, padding=1, bias=False).to(memory_format=torch.channels_last)
    images = torch.randn(8, 96, 1, 1)
    count = model.weight.numel()
    for _ in range(30):
        junk = [torch.full((size,), torch.nan) for size in [count // 2, count] * 8]
        del junk
        with torch.autocast("cpu", torch.bfloat16):
            MixedPrecision(model)(images).square().sum().backward()
        assert model.weight.grad.isfinite().all()
