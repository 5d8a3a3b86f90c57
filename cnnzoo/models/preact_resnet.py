"""Pre-activation ResNet: norm and ReLU before each convolution, so that nothing stands on the path around the blocks.

Paper: He et al., "Identity Mappings in Deep Residual Networks" (2016), https://arxiv.org/abs/1603.05027
What differs: nothing but the sizes, which are those of our ResNets, so that the two can be compared; 3 stages of widths
1:2:4 behind a 3x3 stem. `preact_resnet_small` is the paper's layout of depth 20.
"""

from functools import partial

from timm.layers import BatchNormAct2d, ConvNormAct, DropPath
from timm.models import register_model
from torch import Tensor, nn

from ..layers import Stage, residual_stages, shortcut, small_stem
from ._convnet import ConvNet, build, default_cfgs as _cfgs

__all__ = ["PreActResNet"]


class PreActBlock(nn.Module):
    """Twice batch norm, ReLU, 3x3 convolution, added to the shortcut.

    The shortcut is the signal as it came where the shapes agree, and a 1x1 convolution of the activated one elsewhere.

    Args:
        in_chs, out_chs: Channels in and out.
        stride: Of the first convolution and the shortcut.
        drop_rate: Dropout between the convolutions.
        drop_path: Probability of dropping the block in training.
    """

    def __init__(
        self, in_chs: int, out_chs: int, stride: int = 1, *, drop_rate: float = 0.0, drop_path: float = 0.0, **dd
    ) -> None:
        super().__init__()
        self.bn1 = BatchNormAct2d(in_chs, **dd)
        self.conv1 = nn.Conv2d(in_chs, out_chs, 3, stride, 1, bias=False, **dd)
        self.bn2 = BatchNormAct2d(out_chs, **dd)
        self.drop = nn.Dropout(drop_rate) if drop_rate else nn.Identity()
        self.conv2 = nn.Conv2d(out_chs, out_chs, 3, 1, 1, bias=False, **dd)
        self.shortcut = shortcut(in_chs, out_chs, stride, norm=False, **dd)
        self.projected = not isinstance(self.shortcut, nn.Identity)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def zero_init_last(self) -> None:
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(x)
        around = self.shortcut(y) if self.projected else x
        y = self.conv2(self.drop(self.bn2(self.conv1(y))))
        return self.drop_path(y) + around


class PreActResNet(ConvNet):
    """A pre-activation ResNet of basic blocks.

    Args:
        widths, depths, strides: Channels, blocks and first stride of each stage.
        stem: Channels of the stem's 3x3 convolutions, of which the last leaves norm and ReLU to the first block.
        block_drop: Dropout between the convolutions of a block.
        common: See `ConvNet`.
    """

    def __init__(
        self,
        widths: tuple[int, ...],
        depths: tuple[int, ...],
        stem: tuple[int, ...],
        strides: tuple[int, ...] = (1, 2, 2),
        block_drop: float = 0.0,
        **common,
    ) -> None:
        super().__init__(**common)
        dd = self.factory
        before = small_stem(self.in_chans, stem[:-1], **dd)
        conv = ConvNormAct(before.num_chs, stem[-1], 3, apply_norm=False, **dd)  # so without ReLU too
        first = Stage(*before, conv, num_chs=stem[-1], reduction=1)
        block = partial(PreActBlock, drop_rate=block_drop, **dd)
        stages = residual_stages(block, first, widths, depths, strides, self.drop_path_rate)
        stages[-1].append(BatchNormAct2d(widths[-1], **dd))
        self.assemble(first, stages)


SIZES = dict(
    preact_resnet_tiny=dict(stem=(16,), widths=(16, 32, 64), depths=(1, 1, 1)),
    preact_resnet_small=dict(stem=(16,), widths=(16, 32, 64), depths=(3, 3, 3)),
    preact_resnet_base=dict(stem=(24,), widths=(24, 48, 96), depths=(4, 4, 4)),
    preact_resnet_large=dict(stem=(48,), widths=(48, 96, 192), depths=(5, 5, 5)),
)

default_cfgs = _cfgs(SIZES)


@register_model
def preact_resnet_tiny(pretrained: bool = False, **kwargs) -> PreActResNet:
    """Pre-activation ResNet-8, within 100 thousand parameters."""
    return build(PreActResNet, "preact_resnet_tiny", pretrained, SIZES, **kwargs)


@register_model
def preact_resnet_small(pretrained: bool = False, **kwargs) -> PreActResNet:
    """Pre-activation ResNet-20, within 300 thousand parameters."""
    return build(PreActResNet, "preact_resnet_small", pretrained, SIZES, **kwargs)


@register_model
def preact_resnet_base(pretrained: bool = False, **kwargs) -> PreActResNet:
    """Pre-activation ResNet-26 half as wide again, within 1 million parameters."""
    return build(PreActResNet, "preact_resnet_base", pretrained, SIZES, **kwargs)


@register_model
def preact_resnet_large(pretrained: bool = False, **kwargs) -> PreActResNet:
    """Pre-activation ResNet-32 three times as wide, within 5 million parameters."""
    return build(PreActResNet, "preact_resnet_large", pretrained, SIZES, **kwargs)
