"""Mixed precision where it is fast, and where its kernels are right."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from accelerate.utils import is_bf16_available
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ._depthwise import depthwise, each, slow_gradient

_CONVOLUTIONS = (torch.conv1d, torch.conv2d, torch.conv3d)


def fast_bf16(kind: str) -> bool:
    """Whether a kind of device, such as `"cpu"`, computes in bfloat16 faster than in float32."""
    if kind == "cpu":  # some builds lack oneDNN, and many processors lack the instructions
        return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return is_bf16_available()


class MixedPrecision(nn.Sequential):
    """A model that is trained in mixed precision, with the convolutions in fp32 that CPUs compute badly in bfloat16.

    There are two kinds of them, both seen with oneDNN 3.12, in torch 2.14:

    - Where an entry of a kernel meets padding only, such as the border of a 3x3 kernel on a map of one pixel, its gradient
      is left unwritten. It is what the memory held before, now and then NaN, where 0 is right.
    - Depthwise convolutions with a stride have no kernel of their own for the gradient of their input. It takes more than a
      hundred times as long as in fp32, and most of a MobileNet's step.

    Those with large depthwise kernels stay in bfloat16, but have a gradient of their own (see `_depthwise`).
    """

    def forward(self, x: Tensor) -> Tensor:
        """Logits, (B, num_classes), of images, (B, C, H, W)."""
        if x.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
            return super().forward(x)
        with _BetterConvolutions():
            return super().forward(x)


class _BetterConvolutions(TorchFunctionMode):
    def __torch_function__(self, func: Callable, types: Any, args: Sequence = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.conv2d and slow_gradient(*args, **kwargs):
            return depthwise(*args, **kwargs)
        if func in _CONVOLUTIONS and _bad_in_bf16(*args, **kwargs):
            with torch.autocast("cpu", enabled=False):
                args = [x.float() if isinstance(x, Tensor) else x for x in args]
                return func(*args, **{k: x.float() if isinstance(x, Tensor) else x for k, x in kwargs.items()})
        return func(*args, **kwargs)


def _bad_in_bf16(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1) -> bool:
    """The parameters are those of `torch.conv2d`, by its names."""
    strides, dilations = (each(x, weight.dim() - 2) for x in (stride, dilation))
    if weight.shape[1] == 1 and groups > 1 and any(s > 1 for s in strides):
        return True
    if padding == "same":
        pads = [d * (k - 1) // 2 for d, k in zip(dilations, weight.shape[2:], strict=True)]
    else:
        pads = each(0 if padding == "valid" else padding, weight.dim() - 2)
    ends = [p if padding != "same" else d * (k - 1) - p for p, d, k in zip(pads, dilations, weight.shape[2:], strict=True)]
    return any(map(_has_idle_entry, input.shape[2:], weight.shape[2:], strides, pads, ends, dilations))


def _has_idle_entry(size: int, kernel: int, stride: int, before: int, after: int, dilation: int) -> bool:
    """Whether an entry of a kernel meets padding only, in one dimension; `before` and `after` are widths of the padding."""
    count = (before + size + after - dilation * (kernel - 1) - 1) // stride + 1
    for offset in range(-before, dilation * kernel - before, dilation):
        first = max(0, -(offset // stride))  # the first of the kernel's positions at which the entry is not before the image
        if first >= count or first * stride + offset >= size:
            return True
    return False
