"""ResNeXt: residual blocks whose 3x3 convolution works in groups.

Paper: Xie et al., "Aggregated Residual Transformations for Deep Neural Networks" (2017), https://arxiv.org/abs/1611.05431
What differs: a stem for 28x28 images, two or three stages that end at 7x7, a group *width* instead of a group count (the
groups grow with the channels), a bottleneck as wide as the block.
"""

from functools import partial

from timm.models import register_model

from ..layers import ResNeXtBlock, equal_stages, small_stem, textbook_stem
from ._convnet import ConvNet, build, default_cfgs as _cfgs

__all__ = ["ResNeXt"]


class ResNeXt(ConvNet):
    """A ResNeXt for small images.

    Args:
        widths, depths, strides: Channels, blocks and first stride of each stage.
        stem: Channels of the stem's 3x3 convolutions.
        group_width: See `layers.ResNeXtBlock`.
        textbook: Build it of the book's parts: 7x7 stem of `stem[0]` channels with pooling, biases, Xavier start.
        common: See `ConvNet`.
    """

    def __init__(
        self,
        widths: tuple[int, ...],
        depths: tuple[int, ...],
        strides: tuple[int, ...],
        stem: tuple[int, ...] = (64,),
        group_width: int = 16,
        textbook: bool = False,
        **common,
    ) -> None:
        super().__init__(**common)
        dd = self.factory
        if textbook:
            first = textbook_stem(self.in_chans, stem[0], **dd)
        else:
            first = small_stem(self.in_chans, stem, **dd)
        block = partial(ResNeXtBlock, group_width=group_width, bias=textbook, **dd)
        stages = equal_stages(block, first, widths, depths, strides, self.drop_path_rate)
        self.assemble(first, stages, weight_init="xavier" if textbook else "kaiming")


SIZES = dict(
    resnext_tiny=dict(stem=(32,), widths=(48, 96), depths=(2, 2), strides=(2, 2)),
    resnext_small=dict(stem=(16,), widths=(64, 128), depths=(1, 3), strides=(2, 2), group_width=32),
    resnext_base=dict(stem=(64,), widths=(64, 128, 256), depths=(2, 3, 3), strides=(1, 2, 2), group_width=32),
    resnext_large=dict(stem=(96,), widths=(96, 256, 512), depths=(3, 6, 5), strides=(1, 2, 2), group_width=32),
)
TEXTBOOK = dict(
    resnext18_d2l=dict(stem=(64,), widths=(64, 128, 256, 512), depths=(2, 2, 2, 2), strides=(1, 2, 2, 2), textbook=True)
)

default_cfgs = {**_cfgs(SIZES), **_cfgs(TEXTBOOK, input_size=(1, 96, 96), pool_size=(3, 3))}


@register_model
def resnext_tiny(pretrained: bool = False, **kwargs) -> ResNeXt:
    """ResNeXt within 100 thousand parameters."""
    return build(ResNeXt, "resnext_tiny", pretrained, SIZES, **kwargs)


@register_model
def resnext_small(pretrained: bool = False, **kwargs) -> ResNeXt:
    """ResNeXt within 300 thousand parameters."""
    return build(ResNeXt, "resnext_small", pretrained, SIZES, **kwargs)


@register_model
def resnext_base(pretrained: bool = False, **kwargs) -> ResNeXt:
    """ResNeXt within 1 million parameters."""
    return build(ResNeXt, "resnext_base", pretrained, SIZES, **kwargs)


@register_model
def resnext_large(pretrained: bool = False, **kwargs) -> ResNeXt:
    """ResNeXt within 5 million parameters."""
    return build(ResNeXt, "resnext_large", pretrained, SIZES, **kwargs)


@register_model
def resnext18_d2l(pretrained: bool = False, **kwargs) -> ResNeXt:
    """The textbook's ResNet-18 layout, built of its ResNeXt blocks; for 1x96x96."""
    return build(ResNeXt, "resnext18_d2l", pretrained, TEXTBOOK, **kwargs)
