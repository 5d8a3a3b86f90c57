"""Depthwise convolutions in bfloat16 on a CPU, with a gradient of the kernels that does not take most of the step."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

_LEAST = 4  # height and width of a kernel; the gradient of smaller ones is fast as it is


def slow_gradient(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1) -> bool:
    """Whether `depthwise` is for this convolution; the parameters are those of `torch.conv2d`, by its names.

    oneDNN 3.12, in torch 2.14, takes about ten times as long for the gradient of a 7x7 kernel as for the convolution.
    """
    plain = all(tuple(each(v, 2)) == (1, 1) for v in (stride, dilation)) and not isinstance(padding, str)
    depthwise = weight.dim() == 4 and input.dim() == 4 and weight.shape[1] == 1 and groups == weight.shape[0] > 1
    return plain and depthwise and min(weight.shape[2:]) >= _LEAST


def depthwise(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1) -> Tensor:
    """What `torch.conv2d` gives in bfloat16, with the same gradients, where `slow_gradient` is true."""
    bias = None if bias is None else bias.bfloat16()
    return _Depthwise.apply(input.bfloat16(), weight.bfloat16(), bias, each(padding, 2))


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, pads: Sequence[int]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.pads = pads
        return torch.conv2d(x, weight, bias, padding=pads, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            how = ([1, 1], ctx.pads, [1, 1], False, [0, 0], len(weight))
            # The bias is left out, since oneDNN would compute the kernels' gradient along with its own.
            of_x = torch.ops.aten.convolution_backward(grad, x, weight, None, *how, (True, False, False))[0]
        if ctx.needs_input_grad[1]:
            of_weight = kernel_gradient(x, grad, ctx.pads, weight.shape[2:]).to(weight)
        if ctx.needs_input_grad[2]:
            of_bias = grad.sum((0, 2, 3))
        return of_x, of_weight, of_bias, None


def kernel_gradient(x: Tensor, grad: Tensor, pads: Sequence[int], kernel: Sequence[int]) -> Tensor:
    """The gradient of the kernels of a depthwise convolution with stride 1, as matrix products.

    An entry's gradient is the sum over all positions of what the entry saw there, times the position's gradient. For one
    row of the kernel, a product of rows of the image with rows of the gradient has these sums on its diagonals.

    Args:
        x: What was convolved, (B, C, H, W).
        grad: The gradient of the result, (B, C, H', W').
        pads: Rows and columns of zeros on each side of `x`.
        kernel: Height and width of the kernels, k and l.

    Returns:
        (C, 1, k, l) in fp32.
    """
    padded = F.pad(x.contiguous(), [pads[1], pads[1], pads[0], pads[0]])  # (B, C, H + 2 pads, W + 2 pads)
    width, (height, out_width) = padded.shape[3], grad.shape[2:]
    by_channel = grad.contiguous().transpose(0, 1).flatten(1, 2)  # (C, B * H', W')
    products = []
    for i in range(kernel[0]):
        seen = padded[:, :, i : i + height].transpose(0, 1).flatten(1, 2)  # (C, B * H', W + 2 pads)
        products.append(seen.transpose(1, 2) @ by_channel)  # (C, W + 2 pads, W')
    table = torch.stack(products, 1)  # (C, k, W + 2 pads, W')
    size = table.stride(1)
    # Entry j of the row saw column j + q for the result's column q: (C, k, l, W')
    diagonals = table.as_strided(
        (len(table), *kernel, out_width), (kernel[0] * width * out_width, size, out_width, out_width + 1)
    )
    return diagonals.sum(3, dtype=torch.float32)[:, None]


def each(value: int | Sequence[int], dims: int) -> Sequence[int]:
    """A number for each dimension, as torch reads `value`."""
    values = [value] if isinstance(value, int) else value
    return [values[0]] * dims if len(values) == 1 else values
