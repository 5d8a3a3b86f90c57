"""RegNet: ResNeXt blocks whose widths and depths follow one straight line.

Paper: Radosavovic et al., "Designing Network Design Spaces" (2020), https://arxiv.org/abs/2003.13678, section 3.3
What differs: RegNetX for 28x28 images, so a stem that keeps the resolution, and a first stage that does too; parameters of
the line that give three stages. `regnetx32_d2l` is the textbook's, with its biases, and every stage halves the resolution.
"""

import math
from functools import partial
from itertools import groupby

from timm.layers import ConvNormAct
from timm.models import register_model

from ..layers import ResNeXtBlock, Stage, equal_stages
from ._convnet import ConvNet, build, default_cfgs as _cfgs

__all__ = ["RegNet"]


def stage_sizes(depth: int, w_0: int, w_a: float, w_m: float, group_width: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Widths and depths of the stages by the paper's quantised linear rule.

    Block j would be `u_j = w_0 + w_a * j` wide (equation 2). It gets the nearest `w_0 * w_m**s` with a whole s (equations
    3 and 4), as a multiple of 8. Blocks of equal width are a stage, its width made a multiple of the group width.

    Args:
        depth: Blocks in all.
        w_0, w_a: Width of the first block, and the slope.
        w_m: Factor from one stage to the next, if s skips none.
        group_width: Channels per group.
    """
    widths = []
    for j in range(depth):
        s = round(math.log((w_0 + w_a * j) / w_0, w_m))
        widths.append(8 * round(w_0 * w_m**s / 8))
    stages = [(width, len(list(blocks))) for width, blocks in groupby(widths)]
    return tuple(max(round(w / group_width), 1) * group_width for w, _ in stages), tuple(d for _, d in stages)


class RegNet(ConvNet):
    """A RegNetX.

    Args:
        depth, w_0, w_a, w_m, group_width: See `stage_sizes`.
        stem, stem_stride: Channels and stride of the stem's 3x3 convolution.
        stride: Of the first stage; the others have 2.
        textbook: Give the convolutions a bias, Xavier start.
        common: See `ConvNet`.
    """

    def __init__(
        self,
        depth: int,
        w_0: int,
        w_a: float,
        w_m: float,
        group_width: int,
        stem: int = 32,
        stem_stride: int = 1,
        stride: int = 1,
        textbook: bool = False,
        **common,
    ) -> None:
        super().__init__(**common)
        dd = self.factory
        widths, depths = stage_sizes(depth, w_0, w_a, w_m, group_width)
        conv = ConvNormAct(self.in_chans, stem, 3, stem_stride, bias=textbook, **dd)
        first = Stage(conv, num_chs=stem, reduction=stem_stride)
        block = partial(ResNeXtBlock, group_width=group_width, bias=textbook, **dd)
        strides = (stride,) + (2,) * (len(widths) - 1)
        stages = equal_stages(block, first, widths, depths, strides, self.drop_path_rate)
        self.assemble(first, stages, weight_init="xavier" if textbook else "kaiming")


SIZES = dict(
    regnet_tiny=dict(depth=8, w_0=16, w_a=11, w_m=2.25, group_width=8, stem=16),
    regnet_small=dict(depth=8, w_0=32, w_a=17.5, w_m=2.0, group_width=16),
    regnet_base=dict(depth=8, w_0=64, w_a=41, w_m=2.0, group_width=16),
    regnet_large=dict(depth=10, w_0=128, w_a=62.5, w_m=2.0, group_width=32),
)
TEXTBOOK = dict(
    regnetx32_d2l=dict(depth=10, w_0=32, w_a=5.5, w_m=2.5, group_width=16, stem_stride=2, stride=2, textbook=True)
)

default_cfgs = {**_cfgs(SIZES), **_cfgs(TEXTBOOK, input_size=(1, 96, 96), pool_size=(12, 12))}


@register_model
def regnet_tiny(pretrained: bool = False, **kwargs) -> RegNet:
    """RegNetX within 100 thousand parameters."""
    return build(RegNet, "regnet_tiny", pretrained, SIZES, **kwargs)


@register_model
def regnet_small(pretrained: bool = False, **kwargs) -> RegNet:
    """RegNetX within 300 thousand parameters."""
    return build(RegNet, "regnet_small", pretrained, SIZES, **kwargs)


@register_model
def regnet_base(pretrained: bool = False, **kwargs) -> RegNet:
    """RegNetX within 1 million parameters."""
    return build(RegNet, "regnet_base", pretrained, SIZES, **kwargs)


@register_model
def regnet_large(pretrained: bool = False, **kwargs) -> RegNet:
    """RegNetX within 5 million parameters."""
    return build(RegNet, "regnet_large", pretrained, SIZES, **kwargs)


@register_model
def regnetx32_d2l(pretrained: bool = False, **kwargs) -> RegNet:
    """The textbook's RegNetX: 4 blocks of 32 channels and 6 of 80, for 1x96x96."""
    return build(RegNet, "regnetx32_d2l", pretrained, TEXTBOOK, **kwargs)
