"""Mixed precision where it is fast, and where its kernels are right."""

from collections.abc import Iterable

import torch
from accelerate.utils import is_bf16_available
from torch import Tensor, nn

from ..inference import evaluation_copy


def fast_bf16(kind: str) -> bool:
    """Whether a kind of device, such as `"cpu"`, computes in bfloat16 faster than in float32."""
    if kind == "cpu":  # some builds lack oneDNN, and many processors lack the instructions
        return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return is_bf16_available()


class FullPrecisionIfSmall(nn.Sequential):
    """A model that leaves mixed precision on a CPU for images in which some of its kernels have idle entries.

    oneDNN (3.12, in torch 2.14) leaves the gradients of such entries unwritten in bfloat16. They are what the memory held
    before, now and then NaN, where 0 is right.

    Args:
        model: The model.
        channels: Of the images that it will get.
        sizes: Heights and widths of these images, in pixels.
    """

    def __init__(self, model: nn.Module, channels: int, sizes: Iterable[tuple[int, int]]):
        super().__init__(model)
        on_cpu = next(model.parameters()).device.type == "cpu"
        self.small = {size for size in set(sizes) if on_cpu and has_idle_entries(model, (channels, *size))}

    def forward(self, x: Tensor) -> Tensor:
        """Logits, (B, num_classes), of images, (B, C, H, W)."""
        if tuple(x.shape[2:]) not in self.small:
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x)


def has_idle_entries(model: nn.Module, image_size: tuple[int, int, int]) -> bool:
    """Whether an entry of a kernel meets padding only, when `model` gets images of `image_size`, (C, H, W).

    So it is with the border of a 3x3 kernel on a map of one pixel.
    """
    found = []
    model = evaluation_copy(model)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda conv, given, result: found.append(_idle(conv, given[0], result)))
    with torch.no_grad():
        model(torch.zeros(2, *image_size))
    return any(found)


def _idle(conv: nn.Conv2d, given: Tensor, result: Tensor) -> bool:
    pads = conv._reversed_padding_repeated_twice[-2::-2]  # of height and width; in numbers also where "same" was written
    if conv.padding_mode != "zeros":
        return False
    return any(
        not any(0 <= i * stride + entry * dilation - pad < size for i in range(count))
        for size, count, kernel, stride, dilation, pad in zip(
            given.shape[2:], result.shape[2:], conv.kernel_size, conv.stride, conv.dilation, pads, strict=True
        )
        for entry in range(kernel)
    )
