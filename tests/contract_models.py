"""The models that the contract's tests look at."""

import pytest
import timm
from helpers import cost, fill, images, is_large
from torch import Tensor, nn


def create(name: str, **kwargs) -> nn.Module:
    """The model in evaluation mode with closed-form weights; on the meta device if it is large."""
    device = "meta" if is_large(name) else "cpu"
    return fill(timm.create_model(name, device=device, **kwargs)).eval()


def batch_for(model: nn.Module, name: str, size: int = 2) -> Tensor:
    return images(name, size, device=next(model.parameters()).device)


def need_numbers(name: str) -> None:
    if is_large(name):
        size = f"{cost(name).params:,} parameters, {cost(name).macs:,} multiply-accumulates"
        pytest.skip(f"{name} has {size}: on the meta device here, which holds no numbers")
