"""Building blocks that two families share and `timm.layers` lacks."""

from collections.abc import Callable
from functools import partial
from itertools import count, pairwise

from timm.layers import BatchNormAct2d, ConvNormAct, DropPath, SelectAdaptivePool2d, calculate_drop_path_rates
from torch import Tensor, nn

from .errors import CnnzooError, unknown

_ACTS = dict(relu=partial(nn.ReLU, inplace=True), sigmoid=nn.Sigmoid)


class Stage(nn.Sequential):
    """Blocks that work at one resolution, with what the rest of the model has to know about them.

    Attributes:
        num_chs: Channels of the output.
        reduction: Input pixels per output pixel along one axis, counted from the image.
    """

    def __init__(self, *blocks: nn.Module, num_chs: int, reduction: int) -> None:
        super().__init__(*blocks)
        self.num_chs = num_chs
        self.reduction = reduction

    def reduction_before_pooling(self) -> int | None:
        """The reduction of the map that the last layer pools, None where it does not pool or nothing comes before it."""
        last = self[len(self) - 1]
        pool = getattr(last, "pool", last)  # that of a `ConvAct`, or the layer itself
        if len(self) == 1 or not isinstance(pool, (nn.MaxPool2d, nn.AvgPool2d)):
            return None
        return self.reduction // pool.stride

    def forward_before_pooling(self, x: Tensor) -> Tensor:
        """All layers but the last."""
        for layer in list(self)[:-1]:
            x = layer(x)
        return x


class ConvAct(nn.Module):
    """Convolution, by choice batch norm, activation. (timm's `ConvNormAct` has no activation without the norm.)

    Args:
        in_chs, out_chs: Channels in and out.
        kernel_size, stride: Of the convolution.
        padding: Of the convolution; `kernel_size // 2` if None.
        norm: Batch norm in place of the convolution's bias.
        act: `"relu"` or `"sigmoid"`.
        pool: Side of the max pooling between convolution and norm; 1 for none.
    """

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        kernel_size: int,
        stride: int = 1,
        padding: int | None = None,
        *,
        norm: bool = True,
        act: str = "relu",
        pool: int = 1,
        **dd,
    ) -> None:
        super().__init__()
        padding = kernel_size // 2 if padding is None else padding
        self.conv = nn.Conv2d(in_chs, out_chs, kernel_size, stride, padding, bias=not norm, **dd)
        self.pool = nn.MaxPool2d(pool) if pool > 1 else nn.Identity()
        self.bn = nn.BatchNorm2d(out_chs, **dd) if norm else nn.Identity()
        self.act = _ACTS[act]()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.pool(self.conv(x))))


def linear_act(inputs: int, outputs: int, *, act: str = "relu", **dd) -> nn.Module:
    """A hidden layer for `Head`: linear, activation."""
    return nn.Sequential(nn.Linear(inputs, outputs, **dd), _ACTS[act]())


class Head(nn.Module):
    """Pooling, optional hidden layers, dropout and classifier.

    Args:
        in_features: Channels of the last feature map.
        num_classes: Outputs of the classifier; 0 for none.
        pool_type: `"flatten"`, one of timm's global poolings (`"avg"`, `"max"`, `"avgmax"`, `"catavgmax"`), or `""`,
            which hands the feature map on as it is and so needs `num_classes=0`.
        feature_size: Height and width of the last feature map, without which `"flatten"` is refused.
        hidden: Widths of the hidden layers.
        hidden_layer: Makes one hidden layer from (inputs, outputs, **dd); called once per width.
        drop_rate: Dropout after each hidden layer and before the classifier, 0 to 1.

    Shape: `(B, in_features, H, W)` to `(B, num_classes)`.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        pool_type: str = "avg",
        *,
        feature_size: tuple[int, int] | None = None,
        hidden: tuple[int, ...] = (),
        hidden_layer: Callable[..., nn.Module] | None = None,
        drop_rate: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.feature_size = feature_size
        self.hidden = hidden
        self.hidden_layer = hidden_layer
        self.drop = nn.Dropout(drop_rate)
        # Hidden layers by the number of features that they take: those that were trained come back with their pooling.
        self._kept: dict[int, nn.Sequential] = {}
        self.last_pool = "avg" if feature_size is None else "flatten"  # what a classifier gets after ""
        self._build(num_classes, pool_type, dict(device=device, dtype=dtype))

    def _build(self, num_classes: int, pool_type: str, dd: dict) -> None:
        if pool_type == "" and num_classes > 0:
            raise CnnzooError(
                f"global_pool='' was given with num_classes={num_classes}; a classifier needs pooled features. "
                "Pass num_classes=0 as well, or a pooling such as global_pool='avg'."
            )
        if pool_type == "flatten" and self.feature_size is None:
            raise CnnzooError(
                "global_pool='flatten' was given; this model takes images of any size, so it has to pool. "
                "Pass global_pool='avg', 'max', 'avgmax' or 'catavgmax'; or img_size= too, for a model that has it."
            )
        self.pool_type = pool_type
        self.last_pool = pool_type or self.last_pool
        if pool_type == "flatten":
            self.global_pool: nn.Module = nn.Flatten(1)  # (B, C, H, W) -> (B, C*H*W)
            width = self.in_features * self.feature_size[0] * self.feature_size[1]
        else:
            self.global_pool = SelectAdaptivePool2d(pool_type=pool_type, flatten=pool_type != "")  # -> (B, C)
            width = self.in_features * self.global_pool.feat_mult()
        self.pre_logits = nn.Sequential()
        if pool_type != "":
            if width not in self._kept:
                self._kept[width] = nn.Sequential(*self._hidden_layers(width, dd))
            self.pre_logits = self._kept[width].to(**dd)
        self.num_features = self.hidden[-1] if self.hidden and pool_type != "" else width
        self.fc = self._classifier(num_classes, dd)

    def _hidden_layers(self, width: int, dd: dict) -> list[nn.Module]:
        widths = (width, *self.hidden)
        return [self.hidden_layer(*pair, **dd) for pair in pairwise(widths)]

    def _classifier(self, num_classes: int, dd: dict) -> nn.Module:
        return nn.Linear(self.num_features, num_classes, **dd) if num_classes > 0 else nn.Identity()

    def reset(self, num_classes: int, pool_type: str | None = None, *, device=None, dtype=None) -> None:
        """Replaces the classifier; another `pool_type` also the pooling, and hidden layers that do not fit it.

        With None the pooling stays, or, where there is none and a classifier needs it, comes back.
        """
        dd = dict(device=device, dtype=dtype)
        if pool_type is None:
            pool_type = self.last_pool if num_classes > 0 else self.pool_type
        if pool_type != self.pool_type or (pool_type == "" and num_classes > 0):  # the latter is refused
            self._build(num_classes, pool_type, dd)
        else:
            self.fc = self._classifier(num_classes, dd)
        self.train(self.training)

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.global_pool(x)
        if len(self.pre_logits) == 0:
            x = self.drop(x)
        for layer in self.pre_logits:
            x = self.drop(layer(x))
        if pre_logits:
            return x
        return self.fc(x)


def init_weights(module: nn.Module, scheme: str) -> None:
    """Fills the convolutions and linear layers of `module` in place.

    Args:
        module: Any module; normalisation layers keep torch's own start (scale 1, shift 0).
        scheme: `"kaiming"`: normal, scaled by the fan-out, biases zero (He et al., 2015, arXiv:1502.01852); a block with
            a method `zero_init_last` starts as its shortcut (Goyal et al., 2017, arXiv:1706.02677).
            `"xavier"`: uniform, torch's own biases, as the textbook does it (Glorot and Bengio, 2010).

    Raises:
        UnknownNameError: There is no such scheme.
    """
    if scheme not in ("kaiming", "xavier"):
        raise unknown("weight_init", str(scheme), ("kaiming", "xavier"))
    for m in module.modules():
        if not isinstance(m, (nn.Conv2d, nn.Linear)):
            continue
        if scheme == "xavier":
            nn.init.xavier_uniform_(m.weight)
            continue
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
        else:
            nn.init.normal_(m.weight, std=0.01)
        if m.bias is not None:
            nn.init.zeros_(m.bias)
    for m in module.modules():
        if scheme == "kaiming" and hasattr(m, "zero_init_last"):
            m.zero_init_last()


def small_stem(in_chans: int, chs: tuple[int, ...], **dd) -> Stage:
    """A stem for small images, at their full resolution: 3x3 convolutions, each with batch norm and ReLU."""
    layers = [ConvNormAct(i, o, 3, **dd) for i, o in zip((in_chans, *chs), chs, strict=False)]
    return Stage(*layers, num_chs=(in_chans, *chs)[-1], reduction=1)


def textbook_stem(in_chans: int, chs: int, **dd) -> Stage:
    """The stem of the textbook's ResNet and DenseNet: 7x7 convolution by 2, batch norm, ReLU, 3x3 max pooling by 2."""
    conv = ConvNormAct(in_chans, chs, 7, 2, padding=3, bias=True, **dd)
    return Stage(conv, nn.MaxPool2d(3, 2, 1), num_chs=chs, reduction=4)


def shortcut(in_chs: int, out_chs: int, stride: int, *, norm: bool = True, bias: bool = False, **dd) -> nn.Module:
    """The path around a residual block: identity where the shapes agree, else a 1x1 convolution, by choice with norm."""
    if in_chs == out_chs and stride == 1:
        return nn.Identity()
    conv = nn.Conv2d(in_chs, out_chs, 1, stride, bias=bias, **dd)
    return nn.Sequential(conv, nn.BatchNorm2d(out_chs, **dd)) if norm else conv


class ResNeXtBlock(nn.Module):
    """1x1, grouped 3x3, 1x1, each with batch norm, added to the shortcut.

    Args:
        in_chs, out_chs: Channels in and out.
        stride: Of the 3x3 convolution and the shortcut.
        group_width: Channels per group, which has to divide `out_chs`.
        bias: Give the convolutions a bias, as the textbook does.
        drop_path: Probability of dropping the block in training.
    """

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        stride: int = 1,
        *,
        group_width: int = 16,
        bias: bool = False,
        drop_path: float = 0.0,
        **dd,
    ) -> None:
        super().__init__()
        if out_chs % group_width:
            raise CnnzooError(
                f"group_width={group_width} was given for {out_chs} channels, which it has to divide. Pass group_width=16, "
                "for example."
            )
        self.conv1 = ConvNormAct(in_chs, out_chs, 1, bias=bias, **dd)
        self.conv2 = ConvNormAct(out_chs, out_chs, 3, stride, groups=out_chs // group_width, bias=bias, **dd)
        self.conv3 = ConvNormAct(out_chs, out_chs, 1, bias=bias, apply_act=False, **dd)
        self.shortcut = shortcut(in_chs, out_chs, stride, bias=bias, **dd)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.act = nn.ReLU(inplace=True)

    def zero_init_last(self) -> None:
        nn.init.zeros_(self.conv3.bn.weight)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv3(self.conv2(self.conv1(x)))
        return self.act(self.drop_path(y) + self.shortcut(x))


class PreActBlock(nn.Module):
    """Twice batch norm, ReLU, 3x3 convolution, added to the shortcut.

    The shortcut is the signal as it came where the shapes agree, and a 1x1 convolution of the activated one elsewhere.

    Args:
        in_chs, out_chs: Channels in and out.
        stride: Of the first convolution and the shortcut.
        drop_rate: Dropout between the convolutions.
        drop_path: Probability of dropping the block in training.
    """

    def __init__(
        self, in_chs: int, out_chs: int, stride: int = 1, *, drop_rate: float = 0.0, drop_path: float = 0.0, **dd
    ) -> None:
        super().__init__()
        self.bn1 = BatchNormAct2d(in_chs, **dd)
        self.conv1 = nn.Conv2d(in_chs, out_chs, 3, stride, 1, bias=False, **dd)
        self.bn2 = BatchNormAct2d(out_chs, **dd)
        self.drop = nn.Dropout(drop_rate) if drop_rate else nn.Identity()
        self.conv2 = nn.Conv2d(out_chs, out_chs, 3, 1, 1, bias=False, **dd)
        self.shortcut = shortcut(in_chs, out_chs, stride, norm=False, **dd)
        self.projected = not isinstance(self.shortcut, nn.Identity)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def zero_init_last(self) -> None:
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(x)
        around = self.shortcut(y) if self.projected else x
        y = self.conv2(self.drop(self.bn2(self.conv1(y))))
        return self.drop_path(y) + around


def equal_stages(
    block: Callable[..., nn.Module],
    stem: Stage,
    widths: tuple[int, ...],
    depths: tuple[int, ...],
    strides: tuple[int, ...],
    drop_path_rate: float = 0.0,
) -> list[Stage]:
    """Stages of equal blocks; the first block of a stage takes its stride.

    Args:
        block: Makes one block from (channels in, channels out, stride, drop_path=).
        stem: What the first stage takes.
        widths, depths, strides: Channels, blocks and stride of each stage.
        drop_path_rate: Drop probability of the last block; grows linearly from 0 at the first.
    """
    rates = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
    stages, chs, reduction = [], stem.num_chs, stem.reduction
    for width, depth, stride, drop in zip(widths, depths, strides, rates, strict=True):
        chs_in = [chs] + [width] * (depth - 1)
        steps = [stride] + [1] * (depth - 1)
        options = [dict(drop_path=p) if p else {} for p in drop]
        blocks = [block(c, width, s, **o) for c, s, o in zip(chs_in, steps, options, strict=True)]
        chs, reduction = width, reduction * stride
        stages.append(Stage(*blocks, num_chs=chs, reduction=reduction))
    return stages


def preact_body(
    in_chans: int,
    stem: tuple[int, ...],
    widths: tuple[int, ...],
    depths: tuple[int, ...],
    strides: tuple[int, ...],
    *,
    drop_rate: float,
    drop_path_rate: float,
    **dd,
) -> tuple[Stage, list[Stage]]:
    """Stem and stages of a network of pre-activation blocks.

    Args:
        in_chans: Channels of the images.
        stem: Channels of the 3x3 convolutions of the stem, of which the last leaves norm and ReLU to the first block.
        widths, depths, strides: As in `equal_stages`.
        drop_rate: Dropout between the convolutions of a block.
        drop_path_rate: As in `equal_stages`.
    """
    before = small_stem(in_chans, stem[:-1], **dd)
    conv = ConvNormAct(before.num_chs, stem[-1], 3, apply_norm=False, **dd)  # without the norm no ReLU either
    first = Stage(*before, conv, num_chs=stem[-1], reduction=1)
    block = partial(PreActBlock, drop_rate=drop_rate, **dd)
    stages = equal_stages(block, first, widths, depths, strides, drop_path_rate)
    stages[-1].append(BatchNormAct2d(widths[-1], **dd))
    return first, stages


def chain_size(size: int, *chain: nn.Module) -> int:
    """Height (or width) of what a plain chain of layers makes of an image of height `size`; 0 if nothing is left.

    Args:
        size: Pixels.
        chain: Modules without branches, so that convolutions and poolings stand in the order in which they work.
    """
    for m in (m for part in chain for m in part.modules()):
        if isinstance(m, (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)):
            k, s, p = (v if isinstance(v, int) else v[0] for v in (m.kernel_size, m.stride, m.padding))
            if size + 2 * p < k:
                return 0
            size = (size + 2 * p - k) // s + 1
    return size


def smallest_image(*chain: nn.Module) -> int:
    """The smallest height of an image of which a plain chain of layers leaves a pixel; `chain` as in `chain_size`."""
    return next(n for n in count(1) if chain_size(n, *chain) > 0)
