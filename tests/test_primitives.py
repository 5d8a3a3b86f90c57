"""Convolution, pooling and merged branches by hand: the textbook's values, and torch's over random shapes."""

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.nn import functional as F

from cnnzoo.errors import CnnzooError, InputError, UnknownNameError
from cnnzoo.primitives import (
    Norm,
    batch_norm,
    conv2d_strict,
    conv_cost,
    corr2d,
    corr2d_1x1,
    corr2d_multi_in,
    corr2d_multi_in_out,
    learn_kernel,
    merge_norm,
    output_size,
    pool2d,
    repvgg_branches,
    repvgg_kernel,
)

X = torch.arange(9.0).reshape(3, 3)
K = torch.tensor([[0.0, 1.0], [2.0, 3.0]])
X2 = torch.stack([X, X + 1])  # two input channels
K2 = torch.stack([K, K + 1])
K32 = torch.stack([K2, K2 + 1, K2 + 2])  # three output channels
K22, K33 = torch.ones(2, 2, 2, 2), torch.ones(2, 2, 3, 3)
NORM = Norm(*torch.ones(4, 2))


def edges() -> tuple[torch.Tensor, torch.Tensor]:
    """An image with a black bar, and its vertical edges."""
    image = torch.ones(6, 8)
    image[:, 2:6] = 0
    expected = torch.zeros(6, 7)
    expected[:, 1], expected[:, 5] = 1, -1
    return image, expected


# -- the textbook's values ------------------------------------------------------------------------------------------------


def test_cross_correlation_gives_the_textbooks_values():
    assert corr2d(X, K).tolist() == [[19, 25], [37, 43]]


def test_strict_convolution_is_cross_correlation_with_the_kernel_flipped_both_ways():
    assert conv2d_strict(X, K).tolist() == [[5, 11], [23, 29]]  # 0*3 + 1*2 + 3*1 + 4*0 = 5
    assert conv2d_strict(X, torch.tensor([[3.0, 2.0], [1.0, 0.0]])).tolist() == [[19, 25], [37, 43]]


def test_a_difference_kernel_finds_vertical_edges_and_none_in_the_transpose():
    image, expected = edges()
    kernel = torch.tensor([[1.0, -1.0]])
    assert torch.equal(corr2d(image, kernel), expected)
    assert torch.equal(corr2d(image.T, kernel), torch.zeros(8, 5))


def test_the_sum_of_bytes_is_larger_than_a_byte():
    image = torch.full((2, 2), 200, dtype=torch.uint8)
    assert corr2d(image, torch.ones(2, 2, dtype=torch.uint8)).item() == 800


def test_a_kernel_is_not_learned_from_whole_numbers():
    with pytest.raises(InputError, match="gradients need real numbers"):
        learn_kernel(torch.ones(2, 2, dtype=torch.int64), torch.ones(2, 1), (1, 2))


def test_the_edge_kernel_is_learned_in_ten_steps():
    image, expected = edges()
    learned = learn_kernel(image, expected, (1, 2))
    assert learned.shape == (1, 2) and not learned.requires_grad
    assert (learned - torch.tensor([[1.0, -1.0]])).abs().max() < 0.1
    assert (learn_kernel(image, expected, (1, 2), steps=1) - learned).abs().max() > 0.1  # and not in one


def test_learning_takes_the_steps_of_torchs_sgd():
    image, expected = edges()
    conv = nn.Conv2d(1, 1, (1, 2), bias=False)
    nn.init.zeros_(conv.weight)
    sgd = torch.optim.SGD(conv.parameters(), lr=0.01)
    for _ in range(3):
        sgd.zero_grad()
        ((conv(image[None, None])[0, 0] - expected) ** 2).sum().backward()
        sgd.step()
    torch.testing.assert_close(learn_kernel(image, expected, (1, 2), steps=3, lr=0.01), conv.weight.detach()[0, 0])


def test_input_channels_are_added_up():
    assert corr2d_multi_in(X2, K2).tolist() == [[56, 72], [104, 120]]


def test_each_output_channel_has_kernels_of_its_own():
    assert corr2d_multi_in_out(X2, K32).tolist() == [
        [[56, 72], [104, 120]],
        [[76, 100], [148, 172]],
        [[96, 128], [192, 224]],
    ]


def test_a_1x1_correlation_is_a_matrix_product_over_the_channels():
    generator = torch.Generator().manual_seed(0)
    image, kernels = torch.randn(3, 3, 3, generator=generator), torch.randn(2, 3, 1, 1, generator=generator)
    product = corr2d_1x1(image, kernels)
    assert product.shape == (2, 3, 3)
    assert (product - corr2d_multi_in_out(image, kernels)).abs().sum() < 1e-6


@pytest.mark.parametrize(
    "kernel, padding, stride, expected",
    [
        ((3, 3), (1, 1), (1, 1), (8, 8)),
        ((5, 3), (2, 1), (1, 1), (8, 8)),
        ((3, 3), (1, 1), (2, 2), (4, 4)),
        ((3, 5), (0, 1), (3, 4), (2, 2)),
    ],
)
def test_the_output_size_follows_the_formula_and_the_correlation_has_it(kernel, padding, stride, expected):
    sizes = tuple(output_size(8, k, 2 * p, s) for k, p, s in zip(kernel, padding, stride, strict=True))
    assert sizes == expected
    assert corr2d(torch.ones(8, 8), torch.ones(kernel), stride, padding).shape == expected


def test_overlapping_windows_are_pooled_as_in_the_textbook():
    assert pool2d(X, (2, 2), "max").tolist() == [[4, 5], [7, 8]]
    assert pool2d(X, (2, 2), "avg").tolist() == [[2, 3], [5, 6]]


@pytest.mark.parametrize(
    "size, stride, padding, expected",
    [
        (3, 3, 0, [[10]]),
        (3, 2, 1, [[5, 7], [13, 15]]),
        ((2, 3), (2, 3), (0, 1), [[5, 7], [13, 15]]),
    ],
)
def test_strided_and_padded_pooling_gives_the_textbooks_values_and_so_does_torch(size, stride, padding, expected):
    image = torch.arange(16.0).reshape(4, 4)
    assert pool2d(image, size, "max", stride, padding).tolist() == expected
    assert nn.MaxPool2d(size, stride, padding)(image[None, None])[0, 0].tolist() == expected


def test_channels_are_pooled_separately():
    image = torch.arange(16.0).reshape(4, 4)
    pooled = pool2d(torch.stack([image, image + 1]), 3, "max", 2, 1)
    assert pooled.tolist() == [[[5, 7], [13, 15]], [[6, 8], [14, 16]]]


def test_the_cost_counts_multiplications_and_additions_apart():
    assert conv_cost(256, 256, 5, 128, 128) == 53_687_091_200
    assert conv_cost(4, 5, (1, 3), 2, 7) == 2 * 4 * 5 * 3 * 2 * 7


# -- torch, over random shapes --------------------------------------------------------------------------------------------


@st.composite
def windows(draw, half: bool = False) -> dict:
    """Image size, and a window with stride and padding that fits; with `half` the padding is at most half the window."""
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    padding = tuple(draw(st.integers(0, k // 2 if half else 3)) for k in kernel)
    size = tuple(draw(st.integers(max(1, k - 2 * p), 7)) for k, p in zip(kernel, padding, strict=True))
    stride = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    seed = draw(st.integers(0, 2**32 - 1))
    return dict(size=size, kernel=kernel, stride=stride, padding=padding, generator=torch.Generator().manual_seed(seed))


def randn(w: dict, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=w["generator"], dtype=torch.float64)


@settings(max_examples=50, deadline=None)
@given(windows())
def test_cross_correlation_and_strict_convolution_agree_with_torch(w):
    x, k = randn(w, *w["size"]), randn(w, *w["kernel"])
    ours, flipped = corr2d(x, k, w["stride"], w["padding"]), conv2d_strict(x, k, w["stride"], w["padding"])
    theirs = F.conv2d(x[None, None], k[None, None], stride=w["stride"], padding=w["padding"])[0, 0]
    torch.testing.assert_close(ours, theirs)
    theirs = F.conv2d(x[None, None], k.flip(0).flip(1)[None, None], stride=w["stride"], padding=w["padding"])[0, 0]
    torch.testing.assert_close(flipped, theirs)


@settings(max_examples=30, deadline=None)
@given(windows(), st.integers(1, 3), st.integers(1, 3))
def test_correlation_of_many_channels_agrees_with_torch(w, ci, co):
    x, k = randn(w, ci, *w["size"]), randn(w, co, ci, *w["kernel"])
    theirs = F.conv2d(x[None], k, stride=w["stride"], padding=w["padding"])[0]
    torch.testing.assert_close(corr2d_multi_in_out(x, k, w["stride"], w["padding"]), theirs)
    torch.testing.assert_close(corr2d_multi_in(x, k[0], w["stride"], w["padding"]), theirs[0])
    pixels = k[:, :, :1, :1]
    torch.testing.assert_close(corr2d_1x1(x, pixels), F.conv2d(x[None], pixels)[0])


@settings(max_examples=50, deadline=None)
@given(windows(half=True), st.integers(1, 2))
def test_pooling_agrees_with_torch(w, chs):
    x = randn(w, chs, *w["size"])
    size, *rest = w["kernel"], w["stride"], w["padding"]
    torch.testing.assert_close(pool2d(x, size, "max", *rest), F.max_pool2d(x[None], size, *rest)[0])
    torch.testing.assert_close(pool2d(x, size, "avg", *rest), F.avg_pool2d(x[None], size, *rest)[0])


@settings(max_examples=50, deadline=None)
@given(windows())
def test_the_output_size_is_that_of_torch(w):
    layer = nn.Conv2d(1, 1, w["kernel"], w["stride"], w["padding"], device="meta")
    expected = layer(torch.ones(1, *w["size"], device="meta"))
    axes = zip(w["size"], w["kernel"], w["padding"], w["stride"], strict=True)
    assert tuple(output_size(n, k, 2 * p, s) for n, k, p, s in axes) == expected.shape[1:]


def test_gradients_flow_through_a_correlation_as_through_torchs():
    x, k = X.double().requires_grad_(), K.double().requires_grad_()
    ours = torch.autograd.grad((corr2d(x, k, 2, 1) ** 2).sum(), (x, k))
    theirs = torch.autograd.grad((F.conv2d(x[None, None], k[None, None], stride=2, padding=1) ** 2).sum(), (x, k))
    torch.testing.assert_close(ours, theirs)


# -- branches that are one convolution -------------------------------------------------------------------------------------


def norms(generator: torch.Generator, channels: int, count: int) -> tuple[Norm, ...]:
    """Batch norms as training leaves them: any mean, a variance above 0, factors of either sign."""
    found = []
    for _ in range(count):
        mean, scale, shift, spread = torch.randn(4, channels, generator=generator, dtype=torch.float64)
        found.append(Norm(mean, spread**2 + 0.1, scale, shift))
    return tuple(found)


@settings(max_examples=50, deadline=None)
@given(windows(), st.integers(1, 3), st.integers(1, 3))
def test_a_convolution_and_the_norm_after_it_are_one_convolution_with_a_bias(w, ci, co):
    x, k = randn(w, ci, *w["size"]), randn(w, co, ci, *w["kernel"])
    (norm,) = norms(w["generator"], co, 1)
    kernels, bias = merge_norm(k, norm)
    before = corr2d_multi_in_out(x, k, w["stride"], w["padding"])
    theirs = F.batch_norm(before[None], norm.mean, norm.variance, norm.scale, norm.shift, eps=norm.eps)[0]
    torch.testing.assert_close(batch_norm(before, norm), theirs)
    torch.testing.assert_close(F.conv2d(x[None], kernels, bias, w["stride"], w["padding"])[0], theirs)


@settings(max_examples=50, deadline=None)
@given(
    size=st.tuples(st.integers(1, 6), st.integers(1, 6)), ci=st.integers(1, 3), co=st.integers(1, 3),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)), seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_the_branches_of_a_repvgg_block_are_one_3x3_convolution(size, ci, co, stride, seed):
    draw = dict(generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = torch.randn(ci, *size, **draw)
    k3, k1 = torch.randn(co, ci, 3, 3, **draw), torch.randn(co, ci, 1, 1, **draw)
    branches = norms(draw["generator"], co, 3 if ci == co and stride == (1, 1) else 2)
    kernels, bias = repvgg_kernel(k3, k1, branches)
    assert kernels.shape == k3.shape
    one = corr2d_multi_in_out(x, kernels, stride, padding=1) + bias[:, None, None]
    torch.testing.assert_close(one, repvgg_branches(x, k3, k1, branches, stride))


def test_each_branch_of_a_repvgg_block_counts():
    x = torch.arange(9.0).reshape(1, 3, 3)
    zero, one = torch.zeros(1), torch.ones(1)
    off, plain = Norm(zero, one, zero, zero, eps=0.0), Norm(zero, one, one, zero, eps=0.0)
    k3, k1 = torch.ones(1, 1, 3, 3), torch.full((1, 1, 1, 1), 2.0)
    one_on = [(plain, off, off), (off, plain, off), (off, off, plain)]
    middle = [repvgg_branches(x, k3, k1, on)[0, 1, 1].item() for on in one_on]
    assert middle == [36, 8, 4]  # the sum of all nine pixels, twice the pixel, the pixel
    assert repvgg_kernel(k3, k1, (plain, plain, plain))[0].flatten().tolist() == [1, 1, 1, 1, 1 + 2 + 1, 1, 1, 1, 1]


# -- errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: corr2d(X2, K), r"X of shape \(2, 3, 3\) was given; \(h, w\) is needed.*Pass "),
        (lambda: corr2d(X, K2), r"K of shape \(2, 2, 2\) was given; \(kh, kw\) is needed"),
        (lambda: corr2d(X, torch.ones(2, 4)), "A window of 4 was given on 3 pixels.* at most 3 .* Pass k=3 or less, or p=1"),
        (lambda: corr2d(X, K, stride=0), r"stride=0 was given; .* from 1 up are allowed. Pass stride=1"),
        (lambda: corr2d(X, K, padding=(1, -1)), r"padding=\(1, -1\) was given; .* from 0 up are allowed. Pass padding=0"),
        (lambda: corr2d(X, K, stride=(1, 1, 1)), r"stride=\(1, 1, 1\) was given; one or two whole numbers"),
        (lambda: corr2d(X[:0], K), r"X of shape \(0, 3\) is empty"),
        (lambda: conv2d_strict(X, K[0]), r"K of shape \(2,\) was given"),
        (lambda: corr2d_multi_in(X2, torch.ones(3, 2, 2)), r"2 channels and kernels for 3.*Pass K of shape \(2, 2, 2\)"),
        (lambda: corr2d_multi_in(X, K2), r"X of shape \(3, 3\) was given; \(ci, h, w\) is needed"),
        (lambda: corr2d_multi_in_out(X2, K2), r"K of shape \(2, 2, 2\) was given; \(co, ci, kh, kw\) is needed"),
        (lambda: corr2d_multi_in_out(X2, torch.ones(5, 1, 2, 2)), "X with 2 channels and kernels for 1"),
        (lambda: corr2d_1x1(X2, K32), r"Kernels of 2x2 were given; .*takes 1x1. Pass them to corr2d_multi_in_out"),
        (lambda: corr2d_1x1(X2, torch.ones(5, 1, 1, 1)), r"kernels for 1 were given.*Pass K of shape \(5, 2, 1, 1\)"),
        (lambda: pool2d(X, 2, "max", padding=2), r"padding=\(2, 2\) was given for a window of 2x2.*Pass padding=\(1, 1\)"),
        (lambda: pool2d(X, 4), "A window of 4 was given on 3 pixels"),
        (lambda: pool2d(X[0], 1), r"X of shape \(3,\) was given; \(h, w\) or \(c, h, w\) is needed"),
        (lambda: pool2d(X.long(), 2), r"X of torch.int64 was given; pooling takes floats. Pass X.float\(\)"),
        (lambda: output_size(8, 3, -1, 1), "k=3, p=-1, s=1 were given"),
        (lambda: output_size(8, 3, 0, 0), "k=3, p=0, s=0 were given"),
        (lambda: conv_cost(8, 8, 0, 1, 1), "kernel_size=0 was given"),
        (lambda: conv_cost(-1, 8, 1, 1, 1), "height=-1 was given; a whole number from 1 up is allowed"),
        (lambda: corr2d(X, K, stride=1.5), "stride=1.5 was given; one or two whole numbers"),
        (lambda: learn_kernel(X, X, (1, 2), steps=0), r"Y of shape \(3, 3\) was given"),
        (lambda: batch_norm(X, NORM), r"X of shape \(3, 3\) was given; \(c, h, w\) is needed"),
        (lambda: batch_norm(X[None], NORM), r"mean of shape \(2,\) was given for 1 channels. Pass mean of shape \(1,\)"),
        (lambda: merge_norm(K32, NORM), r"mean of shape \(2,\) was given for 3 channels"),
        (lambda: repvgg_kernel(K22, K22, (NORM, NORM)), r"K3 of shape \(2, 2, 2, 2\).*Pass K3 of shape \(2, 2, 3, 3\)"),
        (lambda: repvgg_kernel(K33, K33[:1, :, :1, :1], (NORM, NORM)), r"K1 of shape \(1, 2, 1, 1\).*\(2, 2, 1, 1\)"),
        (lambda: repvgg_kernel(K33, K33[:, :, :1, :1], (NORM,)), "1 norms were given for 2 to 2 .*allowed are 2 or 3"),
        (lambda: repvgg_kernel(K33[:1], K33[:1, :, :1, :1], (NORM,) * 3), "3 norms were given for 2 to 1.*allowed are 2,"),
        (lambda: repvgg_branches(X2, K33, K33[:, :, :1, :1], (NORM,) * 3, 2), "stride=2 and three norms .*Pass norms"),
        (lambda: learn_kernel(X, X, (1, 2)), r"Y of shape \(3, 3\) was given, .* give \(3, 2\). Pass Y"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_does(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_an_unknown_pooling_mode_is_refused_with_the_known_ones():
    with pytest.raises(UnknownNameError, match="pooling mode 'maximum'. .*max") as raised:
        pool2d(X, 2, "maximum")
    assert isinstance(raised.value, CnnzooError)
