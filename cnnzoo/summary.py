"""What a module is made of: parameters and multiply-accumulates, counted by running it once."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Count:
    """Size and cost of a model.

    Attributes:
        params: Parameters, buffers not counted.
        macs: Multiply-accumulates of convolutions and linear layers for one image.
    """

    params: int
    macs: int


def count(model: nn.Module, input_size: tuple[int, int, int]) -> Count:
    """Counts parameters and multiply-accumulates.

    Args:
        model: Any module whose multiplications are those of Conv2d and Linear layers; left as it was.
        input_size: Channels, height and width of the image.
    """
    macs = 0

    def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal macs
        if isinstance(module, nn.Conv2d):
            per_output = module.in_channels // module.groups * math.prod(module.kernel_size)
        else:
            per_output = module.in_features
        macs += output.numel() * per_output

    handles = [m.register_forward_hook(add) for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    reference = next(model.parameters())
    was_training = model.training
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, *input_size, device=reference.device, dtype=reference.dtype))
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    return Count(sum(p.numel() for p in model.parameters()), macs)
