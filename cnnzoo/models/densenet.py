"""DenseNet: each layer sees the outputs of all layers before it at its resolution.

Paper: Huang et al., "Densely Connected Convolutional Networks" (2017), https://arxiv.org/abs/1608.06993, DenseNet-BC
What differs: two or three dense blocks that end at 7x7, with depths that grow towards the end as the paper's ImageNet
networks have them. `densenet_d2l` is the textbook's: no bottleneck, 7x7 stem, biases.

A stage is the transition (before the first a pooling, or nothing) and the dense block behind it; norm and ReLU end the last.
"""

from functools import partial

import torch
from timm.layers import BatchNormAct2d
from timm.models import register_model
from torch import Tensor, nn

from ..layers import Stage, small_stem, textbook_stem
from ._convnet import ConvNet, build, default_cfgs as _cfgs

__all__ = ["DenseNet"]


class NormActConv(nn.Module):
    """Batch norm, ReLU, convolution."""

    def __init__(self, in_chs: int, out_chs: int, kernel_size: int, *, bias: bool = False, **dd) -> None:
        super().__init__()
        self.bn = BatchNormAct2d(in_chs, **dd)
        self.conv = nn.Conv2d(in_chs, out_chs, kernel_size, padding=kernel_size // 2, bias=bias, **dd)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.bn(x))


class DenseLayer(nn.Module):
    """A 3x3 convolution of everything so far, its output put beside its input.

    Args:
        in_chs: Channels in.
        growth: Channels added.
        bottleneck: Width of a 1x1 convolution before it, in multiples of `growth`; 0 for none.
        bias: Give the convolutions a bias, as the textbook does.
    """

    def __init__(self, in_chs: int, growth: int, bottleneck: int, *, bias: bool = False, **dd) -> None:
        super().__init__()
        conv = partial(NormActConv, bias=bias, **dd)
        width = bottleneck * growth or in_chs
        self.conv1 = conv(in_chs, width, 1) if bottleneck else nn.Identity()
        self.conv2 = conv(width, growth, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv2(self.conv1(x))], 1)


class DenseNet(ConvNet):
    """A DenseNet; transitions halve the channels and the resolution.

    Args:
        growth: Channels that each layer adds.
        depths: Layers of each dense block.
        stem: Channels of the stem's 3x3 convolutions.
        pool: Halve the resolution before the first dense block, as the paper's ImageNet networks do.
        bottleneck: See `DenseLayer`.
        textbook: Build it of the book's parts: 7x7 stem of `stem[0]` channels with pooling, biases, Xavier start.
        common: See `ConvNet`.
    """

    residual = False

    def __init__(
        self,
        growth: int,
        depths: tuple[int, ...],
        stem: tuple[int, ...],
        pool: bool = False,
        bottleneck: int = 4,
        textbook: bool = False,
        **common,
    ) -> None:
        super().__init__(**common)
        dd = self.factory
        if textbook:
            first = textbook_stem(self.in_chans, stem[0], **dd)
        else:
            first = small_stem(self.in_chans, stem, **dd)
        stages, chs, reduction = [], first.num_chs, first.reduction
        for i, depth in enumerate(depths):
            layers: list[nn.Module] = []
            if i > 0:
                conv = NormActConv(chs, chs // 2, 1, bias=textbook, **dd)
                layers.append(nn.Sequential(conv, nn.AvgPool2d(2)))
                chs, reduction = chs // 2, reduction * 2
            elif pool:
                layers.append(nn.MaxPool2d(3, 2, 1))
                reduction *= 2
            for _ in range(depth):
                layers.append(DenseLayer(chs, growth, bottleneck, bias=textbook, **dd))
                chs += growth
            stages.append(Stage(*layers, num_chs=chs, reduction=reduction))
        stages[-1].append(BatchNormAct2d(chs, **dd))
        self.assemble(first, stages, weight_init="xavier" if textbook else "kaiming")


SIZES = dict(
    densenet_tiny=dict(growth=20, depths=(2, 3), stem=(16, 16), pool=True),
    densenet_small=dict(growth=24, depths=(3, 6), stem=(16, 32), pool=True),
    densenet_base=dict(growth=24, depths=(3, 6, 12), stem=(48,)),
    densenet_large=dict(growth=32, depths=(6, 12, 24), stem=(64,)),
)
TEXTBOOK = dict(densenet_d2l=dict(growth=32, depths=(4, 4, 4, 4), stem=(64,), bottleneck=0, textbook=True))

default_cfgs = {**_cfgs(SIZES), **_cfgs(TEXTBOOK, input_size=(1, 96, 96), pool_size=(3, 3))}


@register_model
def densenet_tiny(pretrained: bool = False, **kwargs) -> DenseNet:
    """DenseNet-BC within 100 thousand parameters."""
    return build(DenseNet, "densenet_tiny", pretrained, SIZES, **kwargs)


@register_model
def densenet_small(pretrained: bool = False, **kwargs) -> DenseNet:
    """DenseNet-BC within 300 thousand parameters."""
    return build(DenseNet, "densenet_small", pretrained, SIZES, **kwargs)


@register_model
def densenet_base(pretrained: bool = False, **kwargs) -> DenseNet:
    """DenseNet-BC within 1 million parameters."""
    return build(DenseNet, "densenet_base", pretrained, SIZES, **kwargs)


@register_model
def densenet_large(pretrained: bool = False, **kwargs) -> DenseNet:
    """DenseNet-BC within 5 million parameters."""
    return build(DenseNet, "densenet_large", pretrained, SIZES, **kwargs)


@register_model
def densenet_d2l(pretrained: bool = False, **kwargs) -> DenseNet:
    """The textbook's DenseNet, 758 thousand parameters, for 1x96x96."""
    return build(DenseNet, "densenet_d2l", pretrained, TEXTBOOK, **kwargs)
