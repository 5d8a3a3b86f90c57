"""From pixels to probabilities as one module, with batch norms folded into the convolutions before them."""

import copy

import torch
from timm.layers import ConvNormAct
from timm.models import reparameterize_model
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

from .. import inference
from ..errors import InputError
from ..layers import ConvAct, PreActBlock


class Pipeline(nn.Module):
    """A model with its preprocessing.

    Args:
        model: In evaluation mode.
        mean, std: Per channel.
        input_size: Channels, height, width that the model is made for.
        dtype: Of the arithmetic.
        preprocess: Take uint8 images and give (logits, probabilities); otherwise normalised ones, and logits alone.
        temperature: What logits are divided by before they are taken for probabilities.

    Shape: `(B, C, H, W)` to `(B, K)`, fp32.
    """

    def __init__(
        self,
        model: nn.Module,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        input_size: tuple[int, int, int],
        dtype: torch.dtype,
        preprocess: bool,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        self.model = model
        self.input_size, self.dtype, self.preprocess = input_size, dtype, preprocess
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))
        self.temperature = temperature

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        if not self.preprocess:
            return self.model(images.to(self.dtype)).float()
        x = (images.float() / 255 - self.mean) / self.std
        logits = self.model(x.to(self.dtype)).float()
        return logits, (logits / self.temperature).softmax(1)


def make_pipeline(model: nn.Module, dtype: torch.dtype, preprocess: bool) -> Pipeline:
    """The pipeline of a copy of `model`, on the CPU, folded.

    Raises:
        InputError: It is no timm model, so nothing says what images it takes.
    """
    inner = getattr(model, "_orig_mod", model)  # a compiled model cannot be traced; the one inside can
    cfg = getattr(inner, "pretrained_cfg", None)
    if not cfg or not hasattr(inner, "in_chans"):
        raise InputError(
            f"A {type(inner).__name__} was given, needed is a model of timm or the zoo, which knows the images it takes. "
            "Make it with cnnzoo.create_model."
        )
    folded = fold_batch_norms(copy.deepcopy(inner).cpu().eval().requires_grad_(False)).to(dtype)
    size = (inner.in_chans, *cfg["input_size"][1:])
    mean, std = (tuple(cfg[k]) * (size[0] if len(cfg[k]) == 1 else 1) for k in ("mean", "std"))
    return Pipeline(folded, mean, std, size, dtype, preprocess, inference.temperature(inner)).eval()


def fold_batch_norms(model: nn.Module) -> nn.Module:
    """Merges every batch norm that follows a convolution into it, in place; outputs stay what they were.

    A max pooling in between does not matter unless one of the norm's factors is negative, which makes the largest the least.

    Blocks that say by a method `fuse` what they are after training, such as RepVGG's, become that first.

    Args:
        model: In evaluation mode.
    """
    reparameterize_model(model, inplace=True)
    for module in list(model.modules()):
        pooled = isinstance(module, ConvAct) and isinstance(module.pool, nn.MaxPool2d)
        if pooled and isinstance(module.bn, nn.BatchNorm2d) and (module.bn.weight < 0).any():
            continue
        if isinstance(module, (ConvNormAct, ConvAct)):
            _fold(module, "conv", "bn")
        elif isinstance(module, PreActBlock):
            _fold(module, "conv1", "bn2")
        elif isinstance(module, nn.Sequential):
            names = list(module._modules)
            for first, second in zip(names, names[1:]):
                _fold(module, first, second)
    return model


def _fold(owner: nn.Module, conv: str, norm: str) -> None:
    first, second = getattr(owner, conv), getattr(owner, norm)
    if not isinstance(first, nn.Conv2d) or not isinstance(second, nn.BatchNorm2d):
        return
    setattr(owner, conv, fuse_conv_bn_eval(first, second))
    # timm's batch norm may have dropout and activation inside, which stay.
    rest = [getattr(second, part, None) for part in ("drop", "act")]
    setattr(owner, norm, nn.Sequential(*[m for m in rest if m is not None and not isinstance(m, nn.Identity)]))
