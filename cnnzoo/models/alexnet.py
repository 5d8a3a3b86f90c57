"""AlexNet: LeNet grown up, with ReLU, overlapping max pooling, dropout and a large head.

Paper: Krizhevsky et al., "ImageNet Classification with Deep Convolutional Neural Networks" (2012),
https://papers.nips.cc/paper_files/paper/2012/hash/c399862d3b9d6b76c8436e924a68c45b-Abstract.html
What differs: the textbook's network, which has grayscale images, one tower instead of two, and no response normalisation.

The stem is the first convolution; a stage begins with the pooling before it; the last stage is the last pooling.
"""

from functools import partial

from timm.models import register_model
from torch import nn

from ..layers import ConvAct, Stage, linear_act
from ._convnet import ConvNet, build, default_cfgs as _cfgs

__all__ = ["AlexNet"]


class AlexNet(ConvNet):
    """An AlexNet.

    Args:
        widths: Channels of the five convolutions.
        hidden: Widths of the head's hidden layers.
        img_size: Height and width of the images; with `global_pool="avg"` any size will do.
        common: See `ConvNet`.
    """

    residual = False

    def __init__(
        self,
        widths: tuple[int, int, int, int, int],
        hidden: tuple[int, ...],
        img_size: int | tuple[int, int] = (224, 224),
        global_pool: str = "flatten",
        **common,
    ) -> None:
        super().__init__(global_pool=global_pool, **common)
        conv = partial(ConvAct, norm=False, **self.factory)
        pool = partial(nn.MaxPool2d, 3, 2)
        c1, c2, c3, c4, c5 = widths
        stem = Stage(conv(self.in_chans, c1, 11, 4, padding=1), num_chs=c1, reduction=4)
        stages = [
            Stage(pool(), conv(c1, c2, 5), num_chs=c2, reduction=8),
            Stage(pool(), conv(c2, c3, 3), conv(c3, c4, 3), conv(c4, c5, 3), num_chs=c5, reduction=16),
            Stage(pool(), num_chs=c5, reduction=32),
        ]
        self.assemble(
            stem, stages, plain=True, img_size=img_size, hidden=hidden, hidden_layer=linear_act, weight_init="xavier"
        )


TEXTBOOK = dict(
    alexnet_d2l=dict(widths=(96, 256, 384, 384, 256), hidden=(4096, 4096), drop_rate=0.5),
)

default_cfgs = _cfgs(TEXTBOOK, input_size=(1, 224, 224), pool_size=(5, 5), fixed_input_size=True)


@register_model
def alexnet_d2l(pretrained: bool = False, **kwargs) -> AlexNet:
    """The textbook's AlexNet, 46.8 million parameters, for 1x224x224."""
    return build(AlexNet, "alexnet_d2l", pretrained, TEXTBOOK, **kwargs)
