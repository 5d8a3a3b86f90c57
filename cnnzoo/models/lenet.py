"""LeNet: two convolutions, two poolings, and a small network of linear layers on top.

Paper: LeCun et al., "Gradient-Based Learning Applied to Document Recognition" (1998), https://doi.org/10.1109/5.726791
What differs: `lenet_tiny` and `lenet_small` are wider and use batch norm, ReLU and max pooling. The `_d2l` pair is the
textbook's: LeNet-5 with sigmoid and average pooling, and the same with ReLU and max pooling.

The stem is the paper's C1; the stages are S2 with C3, and S4; the head flattens, so it is built for one image size.
"""

from functools import partial

from timm.models import register_model
from torch import Tensor, nn

from ..errors import CnnzooError
from ..layers import Stage
from ._convnet import ConvNet, build, default_cfgs as _cfgs

__all__ = ["LeNet"]

_ACTS = dict(relu=nn.ReLU, sigmoid=nn.Sigmoid)
_POOLS = dict(max=nn.MaxPool2d, avg=nn.AvgPool2d)


class ConvAct(nn.Module):
    """5x5 convolution, by choice batch norm, activation."""

    def __init__(self, in_chs: int, out_chs: int, padding: int, act: str, norm: bool, **dd) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_chs, out_chs, 5, padding=padding, bias=not norm, **dd)
        self.bn = nn.BatchNorm2d(out_chs, **dd) if norm else nn.Identity()
        self.act = _ACTS[act]()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))


def _hidden_layer(inputs: int, outputs: int, *, act: str, **dd) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, outputs, **dd), _ACTS[act]())


class LeNet(ConvNet):
    """A LeNet.

    Args:
        widths: Channels of the two convolutions.
        hidden: Widths of the head's hidden layers.
        act: `"relu"` or `"sigmoid"`.
        pool: `"max"` or `"avg"`.
        norm: Batch norm after each convolution.
        weight_init: See `layers.init_weights`.
        img_size: Height and width of the images; with `global_pool="avg"` any size will do.
        common: See `ConvNet`.
    """

    residual = False

    def __init__(
        self,
        widths: tuple[int, int],
        hidden: tuple[int, int],
        act: str = "relu",
        pool: str = "max",
        norm: bool = True,
        weight_init: str = "kaiming",
        img_size: int | tuple[int, int] = (28, 28),
        global_pool: str = "flatten",
        **common,
    ) -> None:
        super().__init__(global_pool=global_pool, **common)
        dd = self.factory
        size = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
        if min(size) < 12:
            raise CnnzooError(f"img_size={img_size} was given, LeNet needs 12x12 at least. Pass img_size=28, say.")
        c1, c3 = widths
        stem = Stage(ConvAct(self.in_chans, c1, 2, act, norm, **dd), num_chs=c1, reduction=1)
        s2_c3 = Stage(_POOLS[pool](2), ConvAct(c1, c3, 0, act, norm, **dd), num_chs=c3, reduction=2)
        s4 = Stage(_POOLS[pool](2), num_chs=c3, reduction=4)
        self.assemble(
            stem,
            [s2_c3, s4],
            min_size=12,
            img_size=size,
            feature_size=((size[0] // 2 - 4) // 2, (size[1] // 2 - 4) // 2),
            hidden=hidden,
            hidden_layer=partial(_hidden_layer, act=act),
            weight_init=weight_init,
        )


_BOOK = dict(widths=(6, 16), hidden=(120, 84), norm=False, weight_init="xavier")

SIZES = dict(
    lenet_tiny=dict(widths=(16, 32), hidden=(80, 56)),
    lenet_small=dict(widths=(24, 64), hidden=(120, 84)),
    lenet_d2l=dict(_BOOK, act="sigmoid", pool="avg"),
    lenet_relu_d2l=dict(_BOOK, act="relu", pool="max"),
)

default_cfgs = _cfgs(SIZES, pool_size=(5, 5), fixed_input_size=True)


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
