"""timm's factory and listings, limited to the zoo, with errors that help."""

import fnmatch
from collections.abc import Sequence
from typing import Any

import timm
from timm.models import is_model, split_model_name_tag
from torch import nn

from . import checkpoints, models, summary
from .errors import unknown

_PACKAGE = models.__name__ + "."


def _ours() -> dict[str, Any]:
    from timm.models._registry import _model_entrypoints

    return {name: fn for name, fn in _model_entrypoints.items() if fn.__module__.startswith(_PACKAGE)}


def list_models(pattern: str | Sequence[str] = "*") -> list[str]:
    """The names of the zoo's models, sorted.

    Args:
        pattern: A wildcard such as `"resnext*"`, or several.
    """
    patterns = [pattern] if isinstance(pattern, str) else list(pattern)
    return sorted(name for name in _ours() if any(fnmatch.fnmatch(name, p) for p in patterns))


def list_pretrained(pattern: str | Sequence[str] = "*") -> list[str]:
    """The names `<arch>.<dataset>` of the zoo's checkpoints, sorted; `pattern` as in `list_models`."""
    patterns = [pattern] if isinstance(pattern, str) else list(pattern)
    return [name for name in checkpoints.names() if any(fnmatch.fnmatch(name, p) for p in patterns)]


def create_model(name: str, pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Builds a model of the zoo; as `timm.create_model`, which works just as well after `import cnnzoo`.

    Args:
        name: `"resnext_small"`, or with a checkpoint's tag `"resnext_small.fashion_mnist"`.
        pretrained: Load the checkpoint's weights, without the network where the installation carries them.
        kwargs: For the model (`num_classes`, `in_chans`, `drop_path_rate`, ...) and for timm (`features_only`,
            `out_indices`, `cache_dir`, ...).

    Raises:
        UnknownNameError: There is no such model or tag; the nearest names are suggested.
        CheckpointError: The weights are missing or not the published ones.
        TypeError: A keyword is unknown.
    """
    if ":" in name:  # hf-hub:, local-dir:
        return timm.create_model(name, pretrained=pretrained, **kwargs)
    arch, tag = split_model_name_tag(name)
    if arch not in _ours():
        hint = "timm has it: use timm.create_model." if is_model(arch) else "cnnzoo.list_models() lists them."
        raise unknown("model", arch, _ours(), hint=hint)
    if tag and name not in checkpoints.names():
        tags = [n.split(".", 1)[1] for n in list_pretrained(f"{arch}.*")]
        raise unknown(f"tag of {arch}", tag, tags, hint="cnnzoo.list_pretrained() lists the checkpoints.")
    return timm.create_model(name, pretrained=pretrained, **kwargs)


def info(name: str) -> dict[str, Any]:
    """What is known of a model: size, cost, input, checkpoints and what it can do.

    Args:
        name: A model of the zoo, without tag.

    Returns:
        A dictionary that JSON can hold.

    Raises:
        UnknownNameError: There is no such model.
    """
    arch, _ = split_model_name_tag(name)
    model = create_model(arch, device="meta")
    cfg = model.pretrained_cfg
    size = summary.count(model, cfg["input_size"])
    supports = ["features_only", "forward_intermediates", "grad_checkpointing", "group_matcher", "in_chans", "num_classes"]
    if model.residual:
        supports.append("drop_path_rate")
    supports.append("img_size" if cfg.get("fixed_input_size") else "dynamic_size")
    accuracy = {tag: checkpoints.metrics(f"{arch}.{tag}")["top1"] for tag in checkpoints.pretrained_cfgs(arch)}
    return dict(
        name=arch,
        family=type(model).__name__,
        params=size.params,
        macs=size.macs,
        input_size=list(cfg["input_size"]),
        num_classes=cfg["num_classes"],
        features=[dict(channels=f["num_chs"], reduction=f["reduction"]) for f in model.feature_info],
        checkpoints=accuracy,
        supports=sorted(supports),
    )


def results() -> list[dict[str, Any]]:
    """The measured numbers of every checkpoint, by name; each is its folder's metrics.json with `name` added."""
    return [dict(name=name, **checkpoints.metrics(name)) for name in checkpoints.names()]
