"""The one base class: stem, stages, head, and everything timm asks of a model.

A family file holds its blocks and a table of sizes. What timm's factory, feature API, optimiser groups, fine-tuning and
tracing need is here, once.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from timm.layers import get_device_dtype
from timm.models import build_model_with_cfg, checkpoint_seq, generate_default_cfgs
from timm.models._manipulate import checkpoint
from torch import Tensor, nn

from .. import checkpoints
from ..datasets import FASHION_MNIST
from ..errors import CheckpointError, CnnzooError
from ..layers import Head, Stage, chain_size, init_weights, smallest_image
from ._arguments import check_arguments, check_size
from ._earned import Earned
from ._input import check_input, describe_head, describe_input
from ._levels import cut_after, feature_wrapper, find_levels, steps_to, take_indices
from ._pretrained import choose, describe_weights

torch.fx.wrap("check_input")  # one opaque call for torch.fx, which would trip over the conditions inside


class ConvNet(Earned):
    """A convolutional classifier of three parts: stem, stages, head.

    A family's class calls this constructor, builds its stem and stages, and hands them to `assemble`.

    Args:
        num_classes: Outputs of the classifier; 0 leaves it out.
        in_chans: Channels of the images.
        global_pool: How the head pools: `"avg"`, `"max"`, `"avgmax"`, `"catavgmax"`, `"flatten"`, or `""` with
            `num_classes=0` for the bare feature map.
        drop_rate: Dropout after each hidden layer of the head and before the classifier, 0 to 1.
        drop_path_rate: Stochastic depth of the last residual block, growing linearly from 0 (arXiv:1603.09382); a
            family without residual blocks refuses any but 0.
        device, dtype: Where and as what the parameters are created.

    Attributes:
        num_features: Channels of the last feature map.
        head_hidden_size: Width of what the classifier sees.
        feature_info: One entry per feature level, finest first: of each reduction the last map.
        min_size: The least height and width of an image, in pixels; with `fixed_size` the only ones.
        fixed_size: Whether it takes images of one size only, as with a `"flatten"` head.
        base_model: The Hub's name of the checkpoint that the weights were loaded from, None if there was none.
        labels, temperature: Names of the classes and the checkpoint's calibration, see `Earned`.

    Shape: `(B, in_chans, H, W)` to `(B, num_classes)`.

    Raises:
        InputError: On `forward`, for images it cannot take; the message says which it can.
    """

    base_model = None
    residual = True  # whether drop_path_rate has blocks to act on

    def __init__(
        self,
        num_classes: int = 10,
        in_chans: int = 1,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        check_arguments(num_classes, in_chans, global_pool, drop_rate, drop_path_rate)
        if drop_path_rate and not self.residual:
            raise CnnzooError(
                f"drop_path_rate={drop_path_rate} was given; {type(self).__name__} has no residual blocks to drop. "
                "Leave it out, or use drop_rate for dropout in the head."
            )
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.global_pool = global_pool
        self.drop_rate = drop_rate
        self.drop_path_rate = drop_path_rate
        self.grad_checkpointing = False
        self.factory = dict(device=device, dtype=dtype)

    def assemble(
        self,
        stem: Stage,
        stages: list[Stage],
        *,
        plain: bool = False,
        img_size: int | tuple[int, int] | None = None,
        head_type: type[Head] = Head,
        hidden: tuple[int, ...] = (),
        hidden_layer: Callable[..., nn.Module] | None = None,
        weight_init: str = "kaiming",
    ) -> None:
        """Puts the parts together, adds the head and initialises the weights.

        Args:
            stem: Takes the images.
            stages: In order; each takes the one before.
            plain: Every layer takes the one before, so the size of a feature map follows from kernels, strides and
                paddings. Other networks pad so that as many pixels as the last stage's reduction are enough.
            img_size: Height and width of the image that a `"flatten"` head is built for, of plain networks only.
                None where there is no such head.
            head_type: `Head`, or a kind of it.
            hidden, hidden_layer: The head's hidden layers, see `Head`.
            weight_init: Scheme of `layers.init_weights`.
        """
        dd = self.__dict__.pop("factory")
        self.stem = stem
        self.stages = nn.Sequential(*stages)
        self.feature_info = find_levels(self._parts())
        self.num_features = stages[-1].num_chs
        self.pooled_size = max(stages[-1].reduction, smallest_image(stem, *stages) if plain else 0)
        self.img_size = (0, 0)
        feature_size = None
        if img_size is not None:
            self.img_size = check_size("img_size", img_size)
            self._check_img_size()
            feature_size = tuple(chain_size(n, stem, *stages) for n in self.img_size)
        self.head = head_type(
            self.num_features,
            self.num_classes,
            self.global_pool,
            feature_size=feature_size,
            hidden=hidden,
            hidden_layer=hidden_layer,
            drop_rate=self.drop_rate,
            **dd,
        )
        self.head_hidden_size = self.head.num_features
        init_weights(self, weight_init)
        self._set_limits()

    def _parts(self) -> list[tuple[str, Stage]]:
        return [("stem", self.stem), *((f"stages.{i}", stage) for i, stage in enumerate(self.stages))]

    def _check_img_size(self) -> None:
        if min(self.img_size) < self.pooled_size:
            raise CnnzooError(
                f"img_size={self.img_size} was given, {type(self).__name__} needs {self.pooled_size}x{self.pooled_size} "
                f"at least. Leave it out, or pass img_size={self.pooled_size} or more."
            )

    def _set_limits(self) -> None:
        # A flatten head fits one size only; any other needs one output pixel at least.
        self.fixed_size = self.global_pool == "flatten"
        self.min_size = self.img_size if self.fixed_size else (self.pooled_size, self.pooled_size)

    # -- forward ------------------------------------------------------------------------------------------------------

    def forward_features(self, x: Tensor) -> Tensor:
        """Stem and stages: `(B, in_chans, H, W)` to `(B, num_features, h, w)`."""
        check_input(x, self.in_chans, self.min_size[0], self.min_size[1], self.fixed_size)
        x = self.stem(x)
        if self.grad_checkpointing and not torch.jit.is_scripting():
            return checkpoint_seq(self.stages, x) if len(self.stages) else x
        return self.stages(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pooling and classifier: `(B, num_features, h, w)` to `(B, num_classes)`, or with `pre_logits` to
        `(B, head_hidden_size)`."""
        return self.head(x, pre_logits=pre_logits)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | tuple[int, ...] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Feature maps by level: level 0 is the finest, and each has its entry in `feature_info`.

        Args:
            x: Images, `(B, in_chans, H, W)`.
            indices: Levels to return (negative ones count from the end), the last n if an int, all if None.
            norm: Accepted for timm's interface; a final norm is part of the last stage, so there is none to add.
            stop_early: Do not compute beyond the last level asked for.
            output_fmt: `"NCHW"`, the only format there is.
            intermediates_only: Leave out the final feature map.

        Returns:
            The list of maps, or (final map, list of maps).

        Raises:
            CnnzooError: `output_fmt` is another, or a level does not exist.
        """
        if output_fmt != "NCHW":
            raise CnnzooError(f"output_fmt={output_fmt!r} was given, only 'NCHW' is possible. Leave it out.")
        paths = [level["module"] for level in self.feature_info]
        take, last = take_indices(len(paths), indices)
        check_input(x, self.in_chans, self.min_size[0], self.min_size[1], self.fixed_size)
        maps = []
        for path, step in steps_to(self._parts(), paths):
            x = checkpoint(step, x) if self.grad_checkpointing and not path.startswith("stem") else step(x)
            if path in paths and paths.index(path) in take:
                maps.append(x)
            if stop_early and path == paths[last]:
                break
        return maps if intermediates_only else (x, maps)

    # -- changing the model -------------------------------------------------------------------------------------------

    def prune_intermediate_layers(
        self,
        indices: int | list[int] | tuple[int, ...] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> list[int]:
        """Drops the layers after the last level asked for, and by default the head.

        Args:
            indices: Levels to keep reachable, as in `forward_intermediates`.
            prune_norm: Accepted for timm's interface; there is no separate final norm.
            prune_head: Drop the classifier and the hidden layers too.

        Returns:
            The levels as positive indices.
        """
        take, last = take_indices(len(self.feature_info), indices)
        cut_after(self, self.feature_info[last]["module"])
        self.feature_info = find_levels(self._parts())
        if prune_head:
            self.num_features = self.feature_info[-1]["num_chs"]
            self.head = Head(self.num_features, 0, "", **get_device_dtype(self)).train(self.training)
            self.num_classes, self.global_pool = 0, ""
            self.head_hidden_size = self.num_features
            self._set_limits()
            describe_head(self)
        return take

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """The last layer of the head, `nn.Identity` if there is none."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the classifier by a fresh one for `num_classes`; 0 leaves it out.

        `global_pool` stays unless given; only from `""`, which no classifier can follow, it goes back to the pooling before.
        """
        check_arguments(num_classes, global_pool=self.global_pool if global_pool is None else global_pool)
        # The head may have no parameters left, so the whole model says where to put the new ones.
        self.head.reset(num_classes, global_pool, **get_device_dtype(self))
        self.num_classes = num_classes
        self.global_pool = self.head.pool_type
        self.head_hidden_size = self.head.num_features
        self._set_limits()
        describe_head(self)

    # -- for optimisers and memory ------------------------------------------------------------------------------------

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns that order the parameters by depth, for layer-wise learning rates: by stage, or by block."""
        return dict(stem=r"^stem", blocks=r"^stages\.(\d+)" if coarse else r"^stages\.(\d+)\.(\d+)")

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recomputes each stage in the backward pass instead of keeping its activations."""
        self.grad_checkpointing = enable


def default_cfgs(archs: Mapping[str, Any] | list[str], **common: Any) -> dict:
    """timm's pretrained cfgs for a family: an untrained one per name, and one per checkpoint folder.

    Args:
        archs: The names, such as the keys of the table of sizes.
        common: Fields that differ from the zoo's usual (1x28x28, 10 classes, average pooling).
    """
    usual = dict(
        input_size=FASHION_MNIST.image_size,
        num_classes=len(FASHION_MNIST.labels),
        mean=FASHION_MNIST.mean,
        std=FASHION_MNIST.std,
        interpolation="bilinear",
        crop_pct=1.0,
        pool_size=(7, 7),
        first_conv="stem.0.conv",
        classifier="head.fc",
        license="apache-2.0",
    )
    cfgs = {}
    for arch in archs:
        tags = checkpoints.pretrained_cfgs(arch)
        if not tags:
            cfgs[arch] = {**usual, **common}
        for tag, stored in tags.items():
            cfgs[f"{arch}.{tag}"] = {**usual, **common, **stored}
    return generate_default_cfgs(cfgs)


def _typed(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in arguments.items())


def build(cls: type[ConvNet], arch: str, pretrained: bool, sizes: Mapping[str, dict], **kwargs: Any) -> ConvNet:
    """Builds `arch` as its entry point was asked to; keywords override its row in `sizes`.

    Raises:
        CheckpointError: The pretrained weights are missing or not the published ones.
        CnnzooError: `output_stride` was given, or a `feature_cls` that there is not, or layers that cannot be built.
        TypeError: A keyword is unknown.
    """
    row = {**sizes[arch], **kwargs}
    if (stride := row.pop("output_stride", None)) is not None:
        raise CnnzooError(
            f"output_stride={stride} was given; {arch} cannot replace its strides by dilation. "
            "Leave it out; where a decoder such as DeepLabV3 asks for it, take one that does not, such as Unet."
        )
    given, overlay = row.get("pretrained_cfg"), dict(row.get("pretrained_cfg_overlay") or {})
    name = None
    if pretrained:
        name, row["pretrained_cfg_overlay"] = choose(arch, given, overlay, row.get("cache_dir"))
    if row.get("features_only"):
        row["feature_cls"] = feature_wrapper(row.get("feature_cls"))
    try:
        model = build_model_with_cfg(cls, arch, pretrained, feature_cfg=dict(out_indices=None), **row)  # None: all levels
    except RuntimeError as e:
        if not pretrained or "size mismatch" not in str(e):
            raise
        reason = next(line.strip() for line in str(e).splitlines() if "size mismatch" in line)
        raise CheckpointError(
            f"The weights of {name or arch} do not fit the {arch} that these arguments make ({reason.rstrip('.')}). Leave "
            "out what changes its layers, such as img_size and global_pool, or pass pretrained=False for random weights."
        ) from e
    except (LookupError, ArithmeticError, ValueError) as e:
        own = {k: p.default for k, p in inspect.signature(cls.__init__).parameters.items() if k in kwargs} | sizes[arch]
        given = {k: v for k, v in kwargs.items() if k in own}
        if isinstance(e, CnnzooError) or not given:
            raise
        raise CnnzooError(
            f"{_typed(given)} was given, with which {arch} cannot be built ({type(e).__name__}: {e}). Its own is "
            f"{_typed({k: own[k] for k in given})}: pass something of that kind."
        ) from e
    describe_input(model)
    describe_weights(model, arch, pretrained, name, given, overlay)
    return model
