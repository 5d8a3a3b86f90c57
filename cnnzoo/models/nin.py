"""NiN: convolutions followed by 1x1 convolutions, and an average over the image instead of hidden layers.

Paper: Lin et al., "Network In Network" (2014), https://arxiv.org/abs/1312.4400
What differs: 3x3 convolutions for 28x28 images, batch norm. The paper's last 1x1 convolution, whose maps are averaged to
the class scores, is the classifier behind the average: the two commute, and are one product per image that way.
`nin_d2l` is the textbook's: without norm, and a whole NiN block, ReLU included, for the class scores.

The stem is the first NiN block; a stage begins with the pooling before its block.
"""

from functools import partial

from timm.models import register_model
from torch import Tensor, nn

from ..errors import CnnzooError
from ..layers import ConvAct, Head, Stage
from ._convnet import ConvNet, build, default_cfgs as _cfgs

__all__ = ["NiN"]


def nin_block(
    in_chs: int, out_chs: int, kernel_size: int, stride: int = 1, padding: int | None = None, *, norm: bool, **dd
) -> list[nn.Module]:
    """A convolution and two 1x1 convolutions: a small network that is slid over the image."""
    conv = ConvAct(in_chs, out_chs, kernel_size, stride, padding, norm=norm, **dd)
    return [conv] + [ConvAct(out_chs, out_chs, 1, norm=norm, **dd) for _ in range(2)]


class NiNHead(Head):
    """Dropout, a NiN block with one channel per class, and the average of each channel.

    Without the block (`num_classes=0`) and as `pre_logits` it gives the average of the channels it takes.
    """

    def _build(self, num_classes: int, pool_type: str, dd: dict) -> None:
        if pool_type == "catavgmax":
            raise CnnzooError(
                "global_pool='catavgmax' was given; this model pools the class scores, and would have twice as many. "
                "Pass global_pool='avg', 'max' or 'avgmax'."
            )
        super()._build(num_classes, pool_type, dd)

    def _classifier(self, num_classes: int, dd: dict) -> nn.Module:
        if num_classes == 0:
            return nn.Identity()
        return nn.Sequential(*nin_block(self.in_features, num_classes, 3, norm=False, **dd))

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.drop(x)
        if pre_logits:
            return self.global_pool(x)
        return self.global_pool(self.fc(x))


class NiN(ConvNet):
    """A network in network.

    Args:
        widths, kernels: Channels and kernel of the first convolution of each block.
        stride: Of the first convolution.
        textbook: No batch norm, no padding at the first convolution, one pooling more, `NiNHead`, Xavier start.
        common: See `ConvNet`.
    """

    residual = False

    def __init__(
        self,
        widths: tuple[int, ...],
        kernels: tuple[int, ...],
        stride: int = 1,
        textbook: bool = False,
        **common,
    ) -> None:
        super().__init__(**common)
        block = partial(nin_block, norm=not textbook, **self.factory)
        pool = partial(nn.MaxPool2d, 3, 2, padding=0 if textbook else 1)
        padding = 0 if textbook else None
        stem = Stage(*block(self.in_chans, widths[0], kernels[0], stride, padding), num_chs=widths[0], reduction=stride)
        stages, reduction = [], stride
        for chs, width, kernel in zip(widths, widths[1:], kernels[1:], strict=False):
            reduction *= 2
            stages.append(Stage(pool(), *block(chs, width, kernel), num_chs=width, reduction=reduction))
        if textbook:
            stages.append(Stage(pool(), num_chs=widths[-1], reduction=2 * reduction))
        self.assemble(
            stem,
            stages,
            plain=True,
            head_type=NiNHead if textbook else Head,
            weight_init="xavier" if textbook else "kaiming",
        )


SIZES = dict(
    nin_tiny=dict(widths=(32, 64, 80), kernels=(3, 3, 3)),
    nin_small=dict(widths=(64, 96, 160), kernels=(3, 3, 3)),
    nin_base=dict(widths=(64, 192, 320), kernels=(3, 3, 3)),
    nin_large=dict(widths=(160, 384, 768), kernels=(3, 3, 3)),
)
TEXTBOOK = dict(nin_d2l=dict(widths=(96, 256, 384), kernels=(11, 5, 3), stride=4, textbook=True, drop_rate=0.5))

_LAST_BLOCK = tuple(f"head.fc.{i}.conv" for i in range(3))
default_cfgs = {
    **_cfgs(SIZES),
    **_cfgs(TEXTBOOK, input_size=(1, 224, 224), min_input_size=(1, 224, 224), pool_size=(5, 5), classifier=_LAST_BLOCK),
}


@register_model
def nin_tiny(pretrained: bool = False, **kwargs) -> NiN:
    """NiN within 100 thousand parameters."""
    return build(NiN, "nin_tiny", pretrained, SIZES, **kwargs)


@register_model
def nin_small(pretrained: bool = False, **kwargs) -> NiN:
    """NiN within 300 thousand parameters."""
    return build(NiN, "nin_small", pretrained, SIZES, **kwargs)


@register_model
def nin_base(pretrained: bool = False, **kwargs) -> NiN:
    """NiN within 1 million parameters."""
    return build(NiN, "nin_base", pretrained, SIZES, **kwargs)


@register_model
def nin_large(pretrained: bool = False, **kwargs) -> NiN:
    """NiN within 5 million parameters."""
    return build(NiN, "nin_large", pretrained, SIZES, **kwargs)


@register_model
def nin_d2l(pretrained: bool = False, **kwargs) -> NiN:
    """The textbook's NiN, 2 million parameters, for 1x224x224."""
    return build(NiN, "nin_d2l", pretrained, TEXTBOOK, **kwargs)
