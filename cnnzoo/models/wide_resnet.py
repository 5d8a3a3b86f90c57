"""Wide ResNet: few pre-activation blocks with many channels, instead of many with few.

Paper: Zagoruyko and Komodakis, "Wide Residual Networks" (2016), https://arxiv.org/abs/1605.07146, table 1
What differs: `wide_resnet_tiny` and `wide_resnet_small` leave out the paper's first group, the one at full resolution, which
a small budget cannot make wide, and have a second stem convolution for it; `wide_resnet_base` is WRN-16-2 with one block
more in the last group. `wide_resnet_large` is WRN-22-4.
"""

from timm.models import register_model

from ..layers import preact_body
from ._convnet import ConvNet, build, default_cfgs as _cfgs

__all__ = ["WideResNet"]


class WideResNet(ConvNet):
    """A wide ResNet: groups of 16k, 32k, 64k channels behind a stem of 16.

    Args:
        k: The widening factor.
        depths: Blocks of each group.
        strides: First stride of each group.
        stem: Channels of the stem's 3x3 convolutions, of which the last leaves norm and ReLU to the first block.
        block_drop: Dropout between the convolutions of a block.
        common: See `ConvNet`.
    """

    def __init__(
        self,
        k: int,
        depths: tuple[int, ...],
        strides: tuple[int, ...] = (1, 2, 2),
        stem: tuple[int, ...] = (16,),
        block_drop: float = 0.0,
        **common,
    ) -> None:
        super().__init__(**common)
        widths = tuple(16 * k * 2**i for i in range(len(depths)))
        rates = dict(drop_rate=block_drop, drop_path_rate=self.drop_path_rate)
        self.assemble(*preact_body(self.in_chans, stem, widths, depths, strides, **rates, **self.factory))


SIZES = dict(
    wide_resnet_tiny=dict(k=2, depths=(2, 1), strides=(2, 2), stem=(16, 16)),
    wide_resnet_small=dict(k=4, depths=(1, 1), strides=(2, 2), stem=(16, 32)),
    wide_resnet_base=dict(k=2, depths=(2, 2, 3)),
    wide_resnet_large=dict(k=4, depths=(3, 3, 3)),
)

default_cfgs = _cfgs(SIZES)


@register_model
def wide_resnet_tiny(pretrained: bool = False, **kwargs) -> WideResNet:
    """Wide ResNet within 100 thousand parameters."""
    return build(WideResNet, "wide_resnet_tiny", pretrained, SIZES, **kwargs)


@register_model
def wide_resnet_small(pretrained: bool = False, **kwargs) -> WideResNet:
    """Wide ResNet within 300 thousand parameters."""
    return build(WideResNet, "wide_resnet_small", pretrained, SIZES, **kwargs)


@register_model
def wide_resnet_base(pretrained: bool = False, **kwargs) -> WideResNet:
    """Wide ResNet within 1 million parameters."""
    return build(WideResNet, "wide_resnet_base", pretrained, SIZES, **kwargs)


@register_model
def wide_resnet_large(pretrained: bool = False, **kwargs) -> WideResNet:
    """Wide ResNet within 5 million parameters."""
    return build(WideResNet, "wide_resnet_large", pretrained, SIZES, **kwargs)
