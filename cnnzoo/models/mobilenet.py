"""MobileNet: each 3x3 convolution of many channels as two steps, one that filters and one that mixes.

Paper: Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications" (2017),
https://arxiv.org/abs/1704.04861, section 3.1
What differs: a stem that keeps the resolution of 28x28 images, and three stages. `mobilenet_d2l` is the textbook's, whose
stem halves the image.
"""

from functools import partial

from timm.layers import ConvNormAct
from timm.models import register_model
from torch import Tensor, nn

from ..layers import Stage, equal_stages
from ._convnet import ConvNet, build, default_cfgs as _cfgs

__all__ = ["MobileNet"]


class SeparableBlock(nn.Module):
    """A 3x3 convolution of each channel by itself, then a 1x1 convolution that mixes them; each with batch norm and ReLU.

    Args:
        in_chs, out_chs: Channels in and out.
        stride: Of the 3x3 convolution.
    """

    def __init__(self, in_chs: int, out_chs: int, stride: int = 1, **dd) -> None:
        super().__init__()
        self.depthwise = ConvNormAct(in_chs, in_chs, 3, stride, groups=in_chs, **dd)
        self.pointwise = ConvNormAct(in_chs, out_chs, 1, **dd)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.depthwise(x))


class MobileNet(ConvNet):
    """A MobileNet.

    Args:
        stem, stem_stride: Channels and stride of the stem's 3x3 convolution.
        widths, depths: Channels and blocks of each stage; each but the first begins with a stride of 2.
        textbook: Xavier start.
        common: See `ConvNet`.
    """

    residual = False

    def __init__(
        self,
        stem: int,
        widths: tuple[int, ...],
        depths: tuple[int, ...],
        stem_stride: int = 1,
        textbook: bool = False,
        **common,
    ) -> None:
        super().__init__(**common)
        dd = self.factory
        conv = ConvNormAct(self.in_chans, stem, 3, stem_stride, **dd)
        first = Stage(conv, num_chs=stem, reduction=stem_stride)
        strides = (1,) + (2,) * (len(widths) - 1)
        stages = equal_stages(partial(SeparableBlock, **dd), first, widths, depths, strides)
        self.assemble(first, stages, weight_init="xavier" if textbook else "kaiming")


SIZES = dict(
    mobilenet_tiny=dict(stem=32, widths=(64, 96, 144), depths=(1, 3, 3)),
    mobilenet_small=dict(stem=32, widths=(64, 176, 320), depths=(1, 4, 2)),
    mobilenet_base=dict(stem=64, widths=(128, 304, 576), depths=(1, 5, 2)),
    mobilenet_large=dict(stem=64, widths=(192, 448, 1216), depths=(1, 7, 3)),
)
TEXTBOOK = dict(
    mobilenet_d2l=dict(stem=32, stem_stride=2, widths=(64, 128, 256, 512), depths=(1, 2, 2, 2), textbook=True),
)

default_cfgs = {**_cfgs(SIZES), **_cfgs(TEXTBOOK, input_size=(1, 96, 96), pool_size=(6, 6))}


@register_model
def mobilenet_tiny(pretrained: bool = False, **kwargs) -> MobileNet:
    """MobileNet within 100 thousand parameters."""
    return build(MobileNet, "mobilenet_tiny", pretrained, SIZES, **kwargs)


@register_model
def mobilenet_small(pretrained: bool = False, **kwargs) -> MobileNet:
    """MobileNet within 300 thousand parameters."""
    return build(MobileNet, "mobilenet_small", pretrained, SIZES, **kwargs)


@register_model
def mobilenet_base(pretrained: bool = False, **kwargs) -> MobileNet:
    """MobileNet within 1 million parameters."""
    return build(MobileNet, "mobilenet_base", pretrained, SIZES, **kwargs)


@register_model
def mobilenet_large(pretrained: bool = False, **kwargs) -> MobileNet:
    """MobileNet within 5 million parameters."""
    return build(MobileNet, "mobilenet_large", pretrained, SIZES, **kwargs)


@register_model
def mobilenet_d2l(pretrained: bool = False, **kwargs) -> MobileNet:
    """The textbook's mini-MobileNet, half a million parameters, for 1x96x96."""
    return build(MobileNet, "mobilenet_d2l", pretrained, TEXTBOOK, **kwargs)
