"""ConvNet: the pair of networks with which the textbook compares max and average pooling on CIFAR-10.

Source: Zhang et al., "Dive into Deep Learning", https://d2l.ai; two padded 3x3 convolutions in LeNet's layout.
"""

from timm.models import register_model

from ._convnet import build, default_cfgs as _cfgs
from .lenet import LeNet

__all__ = []

_BOOK = dict(widths=(32, 64), hidden=(512,), norm=False, kernel_size=3, paddings=(1, 1), weight_init="xavier")

TEXTBOOK = dict(
    convnet_max_d2l=dict(_BOOK, pool="max"),
    convnet_avg_d2l=dict(_BOOK, pool="avg"),
)

# Mean and standard deviation of the CIFAR-10 training images.
default_cfgs = _cfgs(
    TEXTBOOK,
    input_size=(3, 32, 32),
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
    pool_size=(8, 8),
    fixed_input_size=True,
)


@register_model
def convnet_max_d2l(pretrained: bool = False, **kwargs) -> LeNet:
    """The textbook's convolutional network with max pooling, for 3x32x32."""
    return build(LeNet, "convnet_max_d2l", pretrained, TEXTBOOK, **kwargs)


@register_model
def convnet_avg_d2l(pretrained: bool = False, **kwargs) -> LeNet:
    """The textbook's convolutional network with average pooling, for 3x32x32."""
    return build(LeNet, "convnet_avg_d2l", pretrained, TEXTBOOK, **kwargs)
