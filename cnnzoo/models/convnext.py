"""ConvNeXt: a ResNet changed step by step into what a vision transformer is, but for the attention.

Paper: Liu et al., "A ConvNet for the 2020s" (2022), https://arxiv.org/abs/2201.03545
What differs: the stem and the kernels. The paper's stem cuts the image into patches of 4x4 pixels, which leaves 7x7
positions of a 28x28 image at once; here it is a 3x3 convolution whose windows overlap and which keeps the resolution. Three
stages, at full, half and quarter resolution, the last of which the paper's fourth would only halve again. From small on the
depthwise convolutions are 5x5, which in small and base was more accurate on the holdout than the paper's 7x7, and is faster;
large follows them, untried. `convnext_d2l` is the textbook's, which is the paper's network with fewer channels, patches
included.

The zoo's models are called `convnext28`, since timm has a `convnext_tiny`, `convnext_small`, `convnext_base` and
`convnext_large`, which are larger and for photos.
"""

from functools import partial

from timm.layers import ConvMlp, DropPath, LayerNorm, LayerNorm2d, LayerScale2d, calculate_drop_path_rates
from timm.models import register_model
from torch import Tensor, nn

from ..errors import CnnzooError
from ..layers import Head, Stage
from ._convnet import ConvNet, build, default_cfgs as _cfgs

__all__ = ["ConvNeXt"]


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution, layer norm over the channels, 1x1 to four times as many, GELU, 1x1 back; added to the input.

    Args:
        chs: Channels in and out.
        kernel: Of the depthwise convolution.
        layer_scale: What each channel of the result is multiplied by at the start, before it is added.
        drop_path: Probability of dropping the block in training.
    """

    def __init__(self, chs: int, *, kernel: int, layer_scale: float, drop_path: float = 0.0, **dd) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise CnnzooError(f"kernel={kernel} was given; odd kernels are allowed, which keep the size. Pass kernel=7.")
        self.depthwise = nn.Conv2d(chs, chs, kernel, padding=kernel // 2, groups=chs, **dd)
        self.norm = LayerNorm2d(chs, **dd)
        self.mlp = ConvMlp(chs, 4 * chs, act_layer=nn.GELU, **dd)
        self.scale = LayerScale2d(chs, layer_scale, **dd)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop_path(self.scale(self.mlp(self.norm(self.depthwise(x)))))


class ConvNeXtHead(Head):
    """Average over the image, then layer norm, then the classifier."""

    def _hidden_layers(self, width: int, dd: dict) -> list[nn.Module]:
        return [LayerNorm(width, **dd)]


class ConvNeXt(ConvNet):
    """A ConvNeXt.

    Args:
        widths, depths: Channels and blocks of each stage. The first works at the resolution of the stem; each further one
            begins with layer norm and a 2x2 convolution by 2.
        kernel: Of the depthwise convolutions.
        layer_scale: See `ConvNeXtBlock`.
        patch: Height and width of the patches that the stem cuts the image into; 0 for an overlapping 3x3 convolution.
        textbook: Xavier start.
        common: See `ConvNet`.
    """

    def __init__(
        self,
        widths: tuple[int, ...],
        depths: tuple[int, ...],
        kernel: int = 7,
        layer_scale: float = 1e-6,
        patch: int = 0,
        textbook: bool = False,
        **common,
    ) -> None:
        super().__init__(**common)
        dd = self.factory
        how = dict(kernel_size=patch, stride=patch) if patch else dict(kernel_size=3, padding=1)
        conv = nn.Conv2d(self.in_chans, widths[0], **how, **dd)
        chs, reduction = widths[0], patch or 1
        stem = Stage(conv, LayerNorm2d(chs, **dd), num_chs=chs, reduction=reduction)
        block = partial(ConvNeXtBlock, kernel=kernel, layer_scale=layer_scale, **dd)
        rates = calculate_drop_path_rates(self.drop_path_rate, list(depths), stagewise=True)
        stages = []
        for i, (width, drops) in enumerate(zip(widths, rates, strict=True)):
            layers: list[nn.Module] = []
            if i > 0:
                layers.append(nn.Sequential(LayerNorm2d(chs, **dd), nn.Conv2d(chs, width, 2, 2, **dd)))
                reduction *= 2
            layers += [block(width, drop_path=p) for p in drops]
            stages.append(Stage(*layers, num_chs=width, reduction=reduction))
            chs = width
        self.assemble(stem, stages, head_type=ConvNeXtHead, weight_init="xavier" if textbook else "kaiming")


SIZES = dict(
    convnext28_tiny=dict(widths=(16, 40, 64), depths=(1, 2, 1)),
    convnext28_small=dict(widths=(24, 64, 112), depths=(1, 3, 1), kernel=5),
    convnext28_base=dict(widths=(48, 112, 208), depths=(2, 4, 1), kernel=5),
    convnext28_large=dict(widths=(80, 192, 384), depths=(2, 6, 2), kernel=5),
)
TEXTBOOK = dict(
    convnext_d2l=dict(widths=(40, 80, 160, 320), depths=(2, 2, 6, 2), patch=4, textbook=True, drop_path_rate=0.1),
)

default_cfgs = {
    **_cfgs(SIZES, first_conv="stem.0"),
    **_cfgs(TEXTBOOK, first_conv="stem.0", input_size=(1, 96, 96), pool_size=(3, 3)),
}


@register_model
def convnext28_tiny(pretrained: bool = False, **kwargs) -> ConvNeXt:
    """ConvNeXt within 100 thousand parameters."""
    return build(ConvNeXt, "convnext28_tiny", pretrained, SIZES, **kwargs)


@register_model
def convnext28_small(pretrained: bool = False, **kwargs) -> ConvNeXt:
    """ConvNeXt within 300 thousand parameters."""
    return build(ConvNeXt, "convnext28_small", pretrained, SIZES, **kwargs)


@register_model
def convnext28_base(pretrained: bool = False, **kwargs) -> ConvNeXt:
    """ConvNeXt within 1 million parameters."""
    return build(ConvNeXt, "convnext28_base", pretrained, SIZES, **kwargs)


@register_model
def convnext28_large(pretrained: bool = False, **kwargs) -> ConvNeXt:
    """ConvNeXt within 5 million parameters."""
    return build(ConvNeXt, "convnext28_large", pretrained, SIZES, **kwargs)


@register_model
def convnext_d2l(pretrained: bool = False, **kwargs) -> ConvNeXt:
    """The textbook's scaled-down ConvNeXt, 3.4 million parameters, for 1x96x96."""
    return build(ConvNeXt, "convnext_d2l", pretrained, TEXTBOOK, **kwargs)
