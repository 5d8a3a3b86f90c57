"""ResNet: pairs of 3x3 convolutions around which the signal can pass unchanged.

Paper: He et al., "Deep Residual Learning for Image Recognition" (2015), https://arxiv.org/abs/1512.03385, section 4.2
What differs: the paper's CIFAR networks (a 3x3 stem, three stages of widths 1:2:4 at full, half and quarter resolution),
with projections on the shortcuts where the paper pads with zeros. `resnet_tiny` is ResNet-8, `resnet_small` ResNet-20.
"""

from functools import partial

from timm.layers import ConvNormAct, DropPath
from timm.models import register_model
from torch import Tensor, nn

from ..layers import equal_stages, shortcut, small_stem, textbook_stem
from ._convnet import ConvNet, build, default_cfgs as _cfgs

__all__ = ["ResNet"]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, each with batch norm, added to the shortcut.

    Args:
        in_chs, out_chs: Channels in and out.
        stride: Of the first convolution and the shortcut.
        textbook: Give the convolutions a bias and leave the norm off the shortcut, as the textbook does.
        drop_path: Probability of dropping the block in training.
    """

    def __init__(
        self, in_chs: int, out_chs: int, stride: int = 1, *, textbook: bool = False, drop_path: float = 0.0, **dd
    ) -> None:
        super().__init__()
        self.conv1 = ConvNormAct(in_chs, out_chs, 3, stride, bias=textbook, **dd)
        self.conv2 = ConvNormAct(out_chs, out_chs, 3, bias=textbook, apply_act=False, **dd)
        self.shortcut = shortcut(in_chs, out_chs, stride, norm=not textbook, bias=textbook, **dd)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.act = nn.ReLU(inplace=True)

    def zero_init_last(self) -> None:
        nn.init.zeros_(self.conv2.bn.weight)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.conv1(x))
        return self.act(self.drop_path(y) + self.shortcut(x))


class ResNet(ConvNet):
    """A ResNet of basic blocks.

    Args:
        widths, depths, strides: Channels, blocks and first stride of each stage.
        textbook: Build it of the book's parts: 7x7 stem with pooling, biases, Xavier start.
        common: See `ConvNet`.
    """

    def __init__(
        self,
        widths: tuple[int, ...],
        depths: tuple[int, ...],
        strides: tuple[int, ...] = (1, 2, 2),
        textbook: bool = False,
        **common,
    ) -> None:
        super().__init__(**common)
        dd = self.factory
        if textbook:
            stem = textbook_stem(self.in_chans, widths[0], **dd)
        else:
            stem = small_stem(self.in_chans, widths[:1], **dd)
        block = partial(BasicBlock, textbook=textbook, **dd)
        stages = equal_stages(block, stem, widths, depths, strides, self.drop_path_rate)
        self.assemble(stem, stages, weight_init="xavier" if textbook else "kaiming")


SIZES = dict(
    resnet_tiny=dict(widths=(16, 32, 64), depths=(1, 1, 1)),
    resnet_small=dict(widths=(16, 32, 64), depths=(3, 3, 3)),
    resnet_base=dict(widths=(24, 48, 96), depths=(4, 4, 4)),
    resnet_large=dict(widths=(48, 96, 192), depths=(5, 5, 5)),
)
TEXTBOOK = dict(
    resnet18_d2l=dict(widths=(64, 128, 256, 512), depths=(2, 2, 2, 2), strides=(1, 2, 2, 2), textbook=True),
)

default_cfgs = {**_cfgs(SIZES), **_cfgs(TEXTBOOK, input_size=(1, 96, 96), pool_size=(3, 3))}


@register_model
def resnet_tiny(pretrained: bool = False, **kwargs) -> ResNet:
    """The paper's ResNet-8, within 100 thousand parameters."""
    return build(ResNet, "resnet_tiny", pretrained, SIZES, **kwargs)


@register_model
def resnet_small(pretrained: bool = False, **kwargs) -> ResNet:
    """The paper's ResNet-20, within 300 thousand parameters."""
    return build(ResNet, "resnet_small", pretrained, SIZES, **kwargs)


@register_model
def resnet_base(pretrained: bool = False, **kwargs) -> ResNet:
    """A ResNet-26 half as wide again, within 1 million parameters."""
    return build(ResNet, "resnet_base", pretrained, SIZES, **kwargs)


@register_model
def resnet_large(pretrained: bool = False, **kwargs) -> ResNet:
    """A ResNet-32 three times as wide, within 5 million parameters."""
    return build(ResNet, "resnet_large", pretrained, SIZES, **kwargs)


@register_model
def resnet18_d2l(pretrained: bool = False, **kwargs) -> ResNet:
    """The textbook's ResNet-18, 11.2 million parameters, for 1x96x96."""
    return build(ResNet, "resnet18_d2l", pretrained, TEXTBOOK, **kwargs)
