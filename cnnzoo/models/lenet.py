"""LeNet: two convolutions, two poolings, and a small network of linear layers on top.

Paper: LeCun et al., "Gradient-Based Learning Applied to Document Recognition" (1998), https://doi.org/10.1109/5.726791
What differs: `lenet_tiny` and `lenet_small` are wider and use batch norm, ReLU and max pooling. `lenet_d2l` is the
textbook's LeNet-5 with sigmoid and average pooling, `lenet_relu_d2l` the same with ReLU and max pooling. `convnet_max_d2l`
and `convnet_avg_d2l` are what the textbook compares poolings with on CIFAR-10: LeNet's layout, padded 3x3 convolutions.

The stem is the paper's C1; the stages are S2 with C3, and S4; the head flattens, so it is built for one image size.
"""

from functools import partial

from timm.models import register_model
from torch import nn

from ..layers import ConvAct, Stage, linear_act
from ._convnet import ConvNet, build, default_cfgs as _cfgs

__all__ = ["LeNet"]

_POOLS = dict(max=nn.MaxPool2d, avg=nn.AvgPool2d)


class LeNet(ConvNet):
    """A LeNet.

    Args:
        widths: Channels of the two convolutions.
        hidden: Widths of the head's hidden layers.
        act: `"relu"` or `"sigmoid"`.
        pool: `"max"` or `"avg"`.
        norm: Batch norm after each convolution.
        kernel_size, paddings: Of the two convolutions.
        weight_init: See `layers.init_weights`.
        img_size: Height and width of the images; with `global_pool="avg"` any size will do.
        common: See `ConvNet`.
    """

    residual = False

    def __init__(
        self,
        widths: tuple[int, int],
        hidden: tuple[int, ...],
        act: str = "relu",
        pool: str = "max",
        norm: bool = True,
        kernel_size: int = 5,
        paddings: tuple[int, int] = (2, 0),
        weight_init: str = "kaiming",
        img_size: int | tuple[int, int] = (28, 28),
        global_pool: str = "flatten",
        **common,
    ) -> None:
        super().__init__(global_pool=global_pool, **common)
        dd = self.factory
        conv = partial(ConvAct, kernel_size=kernel_size, norm=norm, act=act, **dd)
        c1, c3 = widths
        stem = Stage(conv(self.in_chans, c1, padding=paddings[0]), num_chs=c1, reduction=1)
        s2_c3 = Stage(_POOLS[pool](2), conv(c1, c3, padding=paddings[1]), num_chs=c3, reduction=2)
        s4 = Stage(_POOLS[pool](2), num_chs=c3, reduction=4)
        self.assemble(
            stem,
            [s2_c3, s4],
            plain=True,
            img_size=img_size,
            hidden=hidden,
            hidden_layer=partial(linear_act, act=act),
            weight_init=weight_init,
        )


_BOOK = dict(widths=(6, 16), hidden=(120, 84), norm=False, weight_init="xavier")

SIZES = dict(
    lenet_tiny=dict(widths=(16, 32), hidden=(80, 56)),
    lenet_small=dict(widths=(20, 48), hidden=(120, 84)),
    lenet_d2l=dict(_BOOK, act="sigmoid", pool="avg"),
    lenet_relu_d2l=dict(_BOOK, act="relu", pool="max"),
)

_PAIR = dict(widths=(32, 64), hidden=(512,), norm=False, kernel_size=3, paddings=(1, 1), weight_init="xavier")

CIFAR = dict(
    convnet_max_d2l=dict(_PAIR, pool="max"),
    convnet_avg_d2l=dict(_PAIR, pool="avg"),
)
_CIFAR10 = dict(  # mean and standard deviation are those of its training images
    input_size=(3, 32, 32), mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616), pool_size=(8, 8)
)

default_cfgs = {
    **_cfgs(SIZES, pool_size=(5, 5), fixed_input_size=True),
    **_cfgs(CIFAR, **_CIFAR10, fixed_input_size=True),
}


@register_model
def lenet_tiny(pretrained: bool = False, **kwargs) -> LeNet:
    """LeNet with batch norm and ReLU, within 100 thousand parameters."""
    return build(LeNet, "lenet_tiny", pretrained, SIZES, **kwargs)


@register_model
def lenet_small(pretrained: bool = False, **kwargs) -> LeNet:
    """LeNet with batch norm and ReLU, within 300 thousand parameters."""
    return build(LeNet, "lenet_small", pretrained, SIZES, **kwargs)


@register_model
def lenet_d2l(pretrained: bool = False, **kwargs) -> LeNet:
    """The textbook's LeNet: sigmoid, average pooling, 61,706 parameters."""
    return build(LeNet, "lenet_d2l", pretrained, SIZES, **kwargs)


@register_model
def lenet_relu_d2l(pretrained: bool = False, **kwargs) -> LeNet:
    """The textbook's LeNet with ReLU and max pooling, 61,706 parameters."""
    return build(LeNet, "lenet_relu_d2l", pretrained, SIZES, **kwargs)


@register_model
def convnet_max_d2l(pretrained: bool = False, **kwargs) -> LeNet:
    """The textbook's pooling comparison, with max pooling, for 3x32x32."""
    return build(LeNet, "convnet_max_d2l", pretrained, CIFAR, **kwargs)


@register_model
def convnet_avg_d2l(pretrained: bool = False, **kwargs) -> LeNet:
    """The textbook's pooling comparison, with average pooling, for 3x32x32."""
    return build(LeNet, "convnet_avg_d2l", pretrained, CIFAR, **kwargs)
