"""RepVGG: a plain stack of 3x3 convolutions, trained with two more branches that are afterwards merged into them.

Paper: Ding et al., "RepVGG: Making VGG-style ConvNets Great Again" (2021), https://arxiv.org/abs/2101.03697
What differs: a stem that keeps the resolution of 28x28 images, and is one plain convolution, since beside a single gray
channel the other branches add nothing; three stages of widths 1:2:4, as VGG has them here.

Parameters and multiply-accumulates are counted as in training, a ninth more than after merging. timm's
`reparameterize_model` merges a whole model; `cnnzoo.export` does so by itself. `primitives.repvgg_kernel` shows the
arithmetic in plain functions.
"""

from functools import partial

import torch
from timm.layers import ConvNormAct
from timm.models import register_model
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import fuse_conv_bn_weights

from ..layers import ConvAct, equal_stages, small_stem
from ._convnet import ConvNet, build, default_cfgs as _cfgs

__all__ = ["RepVGG"]


class RepVGGBlock(nn.Module):
    """3x3 convolution, 1x1 convolution, and the input itself where shapes agree; each with batch norm, added, ReLU.

    Args:
        in_chs, out_chs: Channels in and out.
        stride: Of both convolutions.
    """

    def __init__(self, in_chs: int, out_chs: int, stride: int = 1, **dd) -> None:
        super().__init__()
        # Padding is given, since timm's own depends on the stride, and from 3 on the windows of the two would not agree.
        self.conv3 = ConvNormAct(in_chs, out_chs, 3, stride, padding=1, apply_act=False, **dd)
        self.conv1 = ConvNormAct(in_chs, out_chs, 1, stride, padding=0, apply_act=False, **dd)
        self.identity = nn.BatchNorm2d(in_chs, **dd) if in_chs == out_chs and stride == 1 else None
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv3(x) + self.conv1(x)
        if self.identity is not None:
            y = y + self.identity(x)
        return self.act(y)

    @torch.no_grad()
    def fuse(self) -> ConvAct:
        """The block as one 3x3 convolution with bias and ReLU: what it computes in evaluation mode."""
        conv = self.conv3.conv
        kernel, bias = _merged(conv.weight, self.conv3.bn)
        branches = [(F.pad(self.conv1.conv.weight, (1, 1, 1, 1)), self.conv1.bn)]  # (co, ci, 1, 1) -> (co, ci, 3, 3)
        if self.identity is not None:
            branches.append((nn.init.dirac_(torch.empty_like(conv.weight)), self.identity))
        for weight, norm in branches:
            more_kernel, more_bias = _merged(weight, norm)
            kernel, bias = kernel + more_kernel, bias + more_bias
        where = dict(device=conv.weight.device, dtype=conv.weight.dtype)
        fused = ConvAct(conv.in_channels, conv.out_channels, 3, conv.stride[0], norm=False, **where)
        fused.conv.weight.copy_(kernel)
        fused.conv.bias.copy_(bias)
        return fused.train(self.training).requires_grad_(conv.weight.requires_grad)


def _merged(weight: Tensor, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Kernel and bias of a convolution with its norm, in double precision: three are added up and rounded once."""
    values = (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    mean, var, scale, shift = (v.double() for v in values)
    return fuse_conv_bn_weights(weight.double(), None, mean, var, norm.eps, scale, shift)


class RepVGG(ConvNet):
    """A RepVGG.

    Args:
        widths, depths: Channels and blocks of each stage; each but the first begins with a stride of 2.
        common: See `ConvNet`.
    """

    residual = False  # the identity is one branch of three, not the way around a block that could be dropped

    def __init__(self, widths: tuple[int, ...], depths: tuple[int, ...], **common) -> None:
        super().__init__(**common)
        stem = small_stem(self.in_chans, widths[:1], **self.factory)
        strides = (1,) + (2,) * (len(widths) - 1)
        stages = equal_stages(partial(RepVGGBlock, **self.factory), stem, widths, depths, strides)
        self.assemble(stem, stages)


SIZES = dict(
    repvgg_tiny=dict(widths=(16, 32, 64), depths=(2, 2, 2)),
    repvgg_small=dict(widths=(32, 64, 112), depths=(2, 2, 2)),
    repvgg_base=dict(widths=(48, 96, 192), depths=(2, 4, 2)),
    repvgg_large=dict(widths=(96, 192, 368), depths=(2, 4, 3)),
)

default_cfgs = _cfgs(SIZES)


@register_model
def repvgg_tiny(pretrained: bool = False, **kwargs) -> RepVGG:
    """RepVGG within 100 thousand parameters."""
    return build(RepVGG, "repvgg_tiny", pretrained, SIZES, **kwargs)


@register_model
def repvgg_small(pretrained: bool = False, **kwargs) -> RepVGG:
    """RepVGG within 300 thousand parameters."""
    return build(RepVGG, "repvgg_small", pretrained, SIZES, **kwargs)


@register_model
def repvgg_base(pretrained: bool = False, **kwargs) -> RepVGG:
    """RepVGG within 1 million parameters."""
    return build(RepVGG, "repvgg_base", pretrained, SIZES, **kwargs)


@register_model
def repvgg_large(pretrained: bool = False, **kwargs) -> RepVGG:
    """RepVGG within 5 million parameters."""
    return build(RepVGG, "repvgg_large", pretrained, SIZES, **kwargs)
