"""Feature levels: one for each reduction, and what timm wraps a model in to give them (`features_only=True`)."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from timm.models import FeatureDictNet, FeatureHookNet, FeatureListNet
from timm.models._features import FeatureGetterNet, feature_take_indices
from timm.models._features_fx import FeatureGraphNet
from torch import Tensor, nn

from ..errors import CnnzooError, unknown
from ..layers import Stage


def find_levels(parts: list[tuple[str, Stage]]) -> list[dict[str, Any]]:
    """timm's `feature_info`: for each reduction, finest first, the last map that has it.

    A stage that ends in a pooling has two maps: what goes into the pooling, and what comes out.

    Args:
        parts: Stem and stages with their paths in the model.
    """
    levels: dict[int, dict[str, Any]] = {}
    for path, stage in parts:
        if (before := stage.reduction_before_pooling()) is not None:
            levels[before] = dict(num_chs=stage.num_chs, reduction=before, module=f"{path}.{len(stage) - 2}")
        levels[stage.reduction] = dict(num_chs=stage.num_chs, reduction=stage.reduction, module=path)
    return list(levels.values())


def take_indices(levels: int, indices: int | list[int] | tuple[int, ...] | None) -> tuple[list[int], int]:
    """The levels asked for, counted from 0, and the last of them; `indices` as in `ConvNet.forward_intermediates`.

    Raises:
        CnnzooError: There is no such level.
    """
    asked = indices if isinstance(indices, (list, tuple)) else () if indices is None else (indices,)
    whole = all(isinstance(i, int) and not isinstance(i, bool) for i in asked)
    none = isinstance(indices, (list, tuple)) and not indices
    try:
        if none or not whole or len({i % levels for i in asked}) < len(asked):
            raise AssertionError("none, no whole number, or one twice")
        return feature_take_indices(levels, indices)
    except AssertionError as e:
        if whole and isinstance(indices, int):
            raise CnnzooError(
                f"{indices} was given for the feature levels; a single number is how many of the last, 1 to {levels}. "
                f"For one level write it as a list, such as [{indices if -levels <= indices < levels else -1}]."
            ) from e
        raise CnnzooError(
            f"Feature levels {indices!r} were given; this model has levels 0 (the finest) to {levels - 1}, or -{levels} to "
            "-1 counted from the end. Name at least one, and each only once."
        ) from e


def steps_to(parts: list[tuple[str, Stage]], paths: list[str]) -> Iterator[tuple[str, Callable[[Tensor], Tensor]]]:
    """What computes the levels at `paths`, in order: stem and stages, and one with a level inside in two steps."""
    for path, stage in parts:
        before = f"{path}.{len(stage) - 2}"
        if before in paths:
            yield before, stage.forward_before_pooling
        yield path, stage[len(stage) - 1] if before in paths else stage


def cut_after(model: nn.Module, path: str) -> None:
    """Drops all between the level at `path` and the head."""
    part, *numbers = path.split(".")
    kept = 0 if part == "stem" else int(numbers.pop(0)) + 1
    model.stages = model.stages[:kept]
    if numbers:  # the level is what the last layer pools
        owner, name = (model, "stem") if part == "stem" else (model.stages, str(kept - 1))
        stage = getattr(owner, name)
        reduction = stage.reduction_before_pooling()
        setattr(owner, name, Stage(*list(stage)[:-1], num_chs=stage.num_chs, reduction=reduction))


class LevelList(FeatureGetterNet):
    """timm's `FeatureGetterNet`, which can also save memory as the model inside can."""

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """See `ConvNet.set_grad_checkpointing`."""
        self.model.set_grad_checkpointing(enable)


class LevelDict(LevelList):
    """As `LevelList`, but gives a dictionary: the map of each level by its number as text, as timm's dict."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {str(i): level for i, level in zip(self.out_indices, super().forward(x), strict=True)}


# timm's list and dict cut a model at its outer modules only; the levels lie deeper, and the getter gives the same.
_WRAPPERS: dict[Any, Callable[..., nn.Module]] = {
    "getter": LevelList,
    "list": LevelList,
    "dict": LevelDict,
    "fx": FeatureGraphNet,
    "hook": FeatureHookNet,
    FeatureListNet: LevelList,
    FeatureDictNet: LevelDict,
}


def feature_wrapper(feature_cls: Any = None) -> Callable[..., nn.Module]:
    """What makes a feature extractor of a model, from timm's `feature_cls`.

    Args:
        feature_cls: `"getter"` (also if None), `"list"`, `"dict"`, `"fx"`, `"hook"`, or a class that takes a model and
            `out_indices=`.

    Raises:
        UnknownNameError: There is no such kind.
    """
    kind = "getter" if feature_cls is None else feature_cls
    if isinstance(kind, str):
        kind = kind.lower()
        if kind not in _WRAPPERS:
            raise unknown("feature_cls", feature_cls, [k for k in _WRAPPERS if isinstance(k, str)])
    return partial(_wrap, _WRAPPERS.get(kind, kind))


def _wrap(wrapper: Callable[..., nn.Module], model: nn.Module, out_indices: Any = None, **options: Any) -> nn.Module:
    # Without the layers after the last level, and without a head that would fix the size of the images.
    taken = model.prune_intermediate_layers(out_indices)
    return wrapper(model, out_indices=tuple(taken), **options)
