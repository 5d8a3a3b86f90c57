"""GoogLeNet: modules that look at the same image with kernels of several sizes, side by side.

Paper: Szegedy et al., "Going Deeper with Convolutions" (2015), https://arxiv.org/abs/1409.4842, table 1
What differs: 28x28 images, so a 3x3 stem and one pooling before the modules; batch norm; the modules `3a` to `4b`,
`4e` or `5a` of the paper's table at a quarter, half or all of their width; no auxiliary classifiers. `googlenet_d2l` is the
textbook's: all of the table, without norm.

The stem is the first convolution; the first stage holds the next two, each further stage modules of one resolution.
"""

from functools import partial

import torch
from timm.models import register_model
from torch import Tensor, nn

from ..layers import ConvAct, Stage
from ._convnet import ConvNet, build, default_cfgs as _cfgs

__all__ = ["GoogLeNet"]

# The paper's table: channels of 1x1 | 1x1 before 3x3, 3x3 | 1x1 before 5x5, 5x5 | 1x1 after the pooling.
MODULES = {
    "3a": (64, (96, 128), (16, 32), 32),
    "3b": (128, (128, 192), (32, 96), 64),
    "4a": (192, (96, 208), (16, 48), 64),
    "4b": (160, (112, 224), (24, 64), 64),
    "4c": (128, (128, 256), (24, 64), 64),
    "4d": (112, (144, 288), (32, 64), 64),
    "4e": (256, (160, 320), (32, 128), 128),
    "5a": (256, (160, 320), (32, 128), 128),
    "5b": (384, (192, 384), (48, 128), 128),
}


class Inception(nn.Module):
    """Four branches over one image, their channels side by side.

    Args:
        in_chs: Channels in.
        branches: Channels as in `MODULES`.
        width: Factor on all of them.
        norm: Batch norm after each convolution.
    """

    def __init__(self, in_chs: int, branches: tuple, width: float, norm: bool, **dd) -> None:
        super().__init__()
        conv = partial(ConvAct, norm=norm, **dd)
        c1, (c3r, c3), (c5r, c5), cp = _scaled(branches, width)
        self.branch1 = conv(in_chs, c1, 1)
        self.branch3 = nn.Sequential(conv(in_chs, c3r, 1), conv(c3r, c3, 3))
        self.branch5 = nn.Sequential(conv(in_chs, c5r, 1), conv(c5r, c5, 5))
        self.branch_pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), conv(in_chs, cp, 1))
        self.num_chs = c1 + c3 + c5 + cp

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch1(x), self.branch3(x), self.branch5(x), self.branch_pool(x)], 1)


def _scaled(channels, width: float):
    return tuple(_scaled(c, width) for c in channels) if isinstance(channels, tuple) else round(channels * width)


class GoogLeNet(ConvNet):
    """A GoogLeNet.

    Args:
        modules: Names of the modules of each stage, as in `MODULES`.
        width: Factor on the paper's channels.
        stem_kernel, stem_stride: Of the first convolution.
        pools: Whether a pooling by 2 ends the stem, the first stage, and so on.
        norm: Batch norm after each convolution.
        weight_init: See `layers.init_weights`.
        common: See `ConvNet`.
    """

    residual = False

    def __init__(
        self,
        modules: tuple[str, ...],
        width: float = 1.0,
        stem_kernel: int = 3,
        stem_stride: int = 1,
        pools: tuple[bool, ...] = (False, True, True, False),
        norm: bool = True,
        weight_init: str = "kaiming",
        **common,
    ) -> None:
        super().__init__(**common)
        conv = partial(ConvAct, norm=norm, **self.factory)
        c1, c2 = _scaled((64, 192), width)
        stem = conv(self.in_chans, c1, stem_kernel, stem_stride)
        levels: list[list[nn.Module]] = [[stem], [conv(c1, c1, 1), conv(c1, c2, 3)]]
        num_chs = [c1, c2]
        for names in modules:
            level, chs = [], num_chs[-1]
            for name in names.split():
                level.append(Inception(chs, MODULES[name], width, norm, **self.factory))
                chs = level[-1].num_chs
            levels.append(level)
            num_chs.append(chs)
        stages, reduction = [], stem_stride
        for level, chs, pool in zip(levels, num_chs, pools, strict=True):
            reduction *= 2 if pool else 1
            stages.append(Stage(*level, *([nn.MaxPool2d(3, 2, 1)] if pool else []), num_chs=chs, reduction=reduction))
        self.assemble(stages[0], stages[1:], weight_init=weight_init)


SIZES = dict(
    googlenet_tiny=dict(modules=("3a 3b", "4a 4b"), width=1 / 4, pools=(True, False, True, False)),
    googlenet_small=dict(modules=("3a 3b", "4a 4b 4c 4d 4e 5a"), width=1 / 4),
    googlenet_base=dict(modules=("3a 3b", "4a 4b 4c 4d 4e"), width=1 / 2),
    googlenet_large=dict(modules=("3a 3b", "4a 4b 4c 4d 4e 5a"), width=1.0),
)
TEXTBOOK = dict(
    googlenet_d2l=dict(
        modules=("3a 3b", "4a 4b 4c 4d 4e", "5a 5b"),
        stem_kernel=7,
        stem_stride=2,
        pools=(True, True, True, True, False),
        norm=False,
        weight_init="xavier",
    )
)

default_cfgs = {**_cfgs(SIZES), **_cfgs(TEXTBOOK, input_size=(1, 96, 96), pool_size=(3, 3))}


@register_model
def googlenet_tiny(pretrained: bool = False, **kwargs) -> GoogLeNet:
    """GoogLeNet within 100 thousand parameters."""
    return build(GoogLeNet, "googlenet_tiny", pretrained, SIZES, **kwargs)


@register_model
def googlenet_small(pretrained: bool = False, **kwargs) -> GoogLeNet:
    """GoogLeNet within 300 thousand parameters."""
    return build(GoogLeNet, "googlenet_small", pretrained, SIZES, **kwargs)


@register_model
def googlenet_base(pretrained: bool = False, **kwargs) -> GoogLeNet:
    """GoogLeNet within 1 million parameters."""
    return build(GoogLeNet, "googlenet_base", pretrained, SIZES, **kwargs)


@register_model
def googlenet_large(pretrained: bool = False, **kwargs) -> GoogLeNet:
    """GoogLeNet within 5 million parameters."""
    return build(GoogLeNet, "googlenet_large", pretrained, SIZES, **kwargs)


@register_model
def googlenet_d2l(pretrained: bool = False, **kwargs) -> GoogLeNet:
    """The textbook's GoogLeNet, 6 million parameters, for 1x96x96."""
    return build(GoogLeNet, "googlenet_d2l", pretrained, TEXTBOOK, **kwargs)
