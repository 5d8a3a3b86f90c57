"""VGG: blocks of 3x3 convolutions, each block followed by a pooling that halves the image.

Paper: Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition" (2015),
https://arxiv.org/abs/1409.1556
What differs: three blocks of widths 1:2:4 for 28x28 images, with batch norm; a block's pooling comes before its last norm
and activation, which then see a quarter of the pixels; the last block is not pooled by 2 but as a whole, which takes the
place of the hidden layers. The `_d2l` networks are the textbook's: all of the paper's configuration A, and the same a
quarter as wide.

The stem is the first block; each further block is a stage.
"""

from timm.models import register_model
from torch import nn

from ..layers import ConvAct, Stage, linear_act
from ._convnet import ConvNet, build, default_cfgs as _cfgs

__all__ = ["VGG"]


class VGG(ConvNet):
    """A VGG.

    Args:
        depths, widths: Convolutions and channels of each block.
        textbook: No batch norm, a pooling after the last block too, Xavier start.
        hidden: Widths of the head's hidden layers.
        img_size: Height and width of the images, which `global_pool="flatten"` needs; otherwise any size will do.
        common: See `ConvNet`.
    """

    residual = False

    def __init__(
        self,
        depths: tuple[int, ...],
        widths: tuple[int, ...],
        textbook: bool = False,
        hidden: tuple[int, ...] = (),
        img_size: int | tuple[int, int] | None = None,
        **common,
    ) -> None:
        super().__init__(**common)
        blocks, chs, reduction = [], self.in_chans, 1
        for i, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            pooled = textbook or i < len(depths) - 1
            layers: list[nn.Module] = []
            for j in range(depth):
                pool = 2 if pooled and not textbook and j == depth - 1 else 1
                layers.append(ConvAct(chs, width, 3, norm=not textbook, pool=pool, **self.factory))
                chs = width
            if textbook:
                layers.append(nn.MaxPool2d(2))
            reduction *= 2 if pooled else 1
            blocks.append(Stage(*layers, num_chs=width, reduction=reduction))
        self.assemble(
            blocks[0],
            blocks[1:],
            plain=True,
            img_size=img_size,
            hidden=hidden,
            hidden_layer=linear_act,
            weight_init="xavier" if textbook else "kaiming",
        )


SIZES = dict(
    vgg_tiny=dict(depths=(2, 2, 2), widths=(16, 32, 64)),
    vgg_small=dict(depths=(2, 2, 2), widths=(32, 64, 128)),
    vgg_base=dict(depths=(2, 2, 3), widths=(48, 96, 192)),
    vgg_large=dict(depths=(2, 3, 3), widths=(96, 192, 384)),
)
_BOOK = dict(depths=(1, 1, 2, 2, 2), textbook=True, hidden=(4096, 4096), drop_rate=0.5, global_pool="flatten")
TEXTBOOK = dict(
    vgg11_d2l=dict(_BOOK, widths=(64, 128, 256, 512, 512)),
    vgg11_thin_d2l=dict(_BOOK, widths=(16, 32, 64, 128, 128)),
)

default_cfgs = {**_cfgs(SIZES), **_cfgs(TEXTBOOK, input_size=(1, 224, 224), fixed_input_size=True)}


@register_model
def vgg_tiny(pretrained: bool = False, **kwargs) -> VGG:
    """VGG within 100 thousand parameters."""
    return build(VGG, "vgg_tiny", pretrained, SIZES, **kwargs)


@register_model
def vgg_small(pretrained: bool = False, **kwargs) -> VGG:
    """VGG within 300 thousand parameters."""
    return build(VGG, "vgg_small", pretrained, SIZES, **kwargs)


@register_model
def vgg_base(pretrained: bool = False, **kwargs) -> VGG:
    """VGG within 1 million parameters."""
    return build(VGG, "vgg_base", pretrained, SIZES, **kwargs)


@register_model
def vgg_large(pretrained: bool = False, **kwargs) -> VGG:
    """VGG within 5 million parameters."""
    return build(VGG, "vgg_large", pretrained, SIZES, **kwargs)


@register_model
def vgg11_d2l(pretrained: bool = False, **kwargs) -> VGG:
    """The textbook's VGG-11, 128.8 million parameters, for 1x224x224."""
    return build(VGG, "vgg11_d2l", pretrained, TEXTBOOK, **kwargs)


@register_model
def vgg11_thin_d2l(pretrained: bool = False, **kwargs) -> VGG:
    """The textbook's VGG-11 with a quarter of the channels, 43.1 million parameters, for 1x224x224."""
    return build(VGG, "vgg11_thin_d2l", pretrained, TEXTBOOK, **kwargs)
