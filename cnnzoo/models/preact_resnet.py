"""Pre-activation ResNet: norm and ReLU before each convolution, so that nothing stands on the path around the blocks.

Paper: He et al., "Identity Mappings in Deep Residual Networks" (2016), https://arxiv.org/abs/1603.05027
What differs: nothing but the sizes, which are those of our ResNets, so that the two can be compared; 3 stages of widths
1:2:4 behind a 3x3 stem. `preact_resnet_small` is the paper's layout of depth 20.
"""

from timm.models import register_model

from ..layers import preact_body
from ._convnet import ConvNet, build, default_cfgs as _cfgs

__all__ = ["PreActResNet"]


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
        rates = dict(drop_rate=block_drop, drop_path_rate=self.drop_path_rate)
        self.assemble(*preact_body(self.in_chans, stem, widths, depths, strides, **rates, **self.factory))


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
