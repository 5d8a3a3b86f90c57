"""Which weights `pretrained=True` means, and what a model that has them, or has none, says of itself."""

from collections.abc import Mapping
from typing import Any

from timm.models import PretrainedCfg, get_pretrained_cfg
from torch import nn

from .. import checkpoints
from ..errors import CheckpointError, unknown
from ..recipes import training_command
from ._earned import Earned

# Where timm may take weights from, and what says whose they are.
_SOURCES = ("state_dict", "file", "hf_hub_id", "url")


def choose(arch: str, given: Any, overlay: Mapping[str, Any], cache_dir: Any) -> tuple[str | None, dict[str, Any]]:
    """Which weights `pretrained=True` means.

    Args:
        arch: The model.
        given: What the caller passed as `pretrained_cfg`: nothing, a tag, or a whole config.
        overlay: What the caller passed as `pretrained_cfg_overlay`.
        cache_dir: The Hub client's cache, its default if None.

    Returns:
        The name of the checkpoint, None where the caller brings weights of their own, and the overlay that makes timm take
        these and no others.

    Raises:
        CheckpointError: The weights are missing or not the published ones.
        UnknownNameError: There is no such tag.
    """
    cfg = _fields(given)
    if cfg.get("source") in ("hf-hub", "local-dir"):
        return None, dict(overlay)
    own = {k for k in _SOURCES if overlay.get(k)} or {k for k in _SOURCES if _is_callers(arch, cfg, k)}
    if own:  # timm would prefer a file of the zoo's to a repository or an address of the caller's
        return None, {**dict.fromkeys(set(_SOURCES) - own), **overlay}
    name = _name(arch, given if isinstance(given, str) else (cfg or get_pretrained_cfg(arch).to_dict()).get("tag"))
    return name, dict(overlay, file=str(checkpoints.locate(name, cache_dir)))


def _fields(given: Any) -> dict[str, Any]:
    """A config that the caller passed; empty for a tag, which means a config of the zoo's."""
    return given.to_dict() if isinstance(given, PretrainedCfg) else given if isinstance(given, dict) else {}


def _is_callers(arch: str, cfg: Mapping[str, Any], field: str) -> bool:
    """Whether the caller has set a field of a whole config; most such configs are copies of the zoo's with changes."""
    if not cfg.get(field):
        return False
    name = f"{arch}.{cfg['tag']}" if cfg.get("tag") else arch
    ours = get_pretrained_cfg(name).to_dict() if name == arch or name in checkpoints.names() else {}
    return cfg.get(field) != ours.get(field)


def _name(arch: str, tag: str | None) -> str:
    if tag and f"{arch}.{tag}" in checkpoints.names():
        return f"{arch}.{tag}"
    checkpoints.check_installation()
    tags = [name.split(".", 1)[1] for name in checkpoints.names() if name.split(".", 1)[0] == arch]
    if tag:
        raise unknown("pretrained tag", tag, tags, hint=f"cnnzoo.list_pretrained('{arch}*') lists them.")
    why = ", since they would be too large for the package" if arch in checkpoints.TOO_LARGE else " yet"
    raise CheckpointError(
        f"pretrained=True was given, and {arch} has no pretrained weights{why}. cnnzoo.list_pretrained() lists the models "
        f"that have; pass pretrained=False for random weights. To train it, type: {training_command(arch)}"
    )


def describe_weights(model: nn.Module, arch: str, pretrained: bool, name: str | None, given: Any, overlay: Mapping) -> None:
    """Sets what a model's weights have earned: labels, temperature, and the checkpoint that they come from.

    Random weights have earned none of it, and `pretrained_cfg`, which timm writes into what it saves, must not say so.

    Args:
        model: A `ConvNet`, or what gives the features of one; both have a `pretrained_cfg` of their own.
        arch, given, overlay: As in `choose`.
        pretrained: Whether the model has weights of a checkpoint.
        name: What `choose` found.
    """
    cfg, theirs = model.pretrained_cfg, _fields(given)
    elsewhere = cfg.get("source") in ("hf-hub", "local-dir")
    if name is None and not elsewhere and "label_names" not in overlay and not _is_callers(arch, theirs, "label_names"):
        cfg["label_names"] = None
    if not pretrained or not isinstance(model, Earned):
        return
    if name is not None:
        model.base_model = f"{checkpoints.HUB_ORG}/{name}"
    elif cfg.get("source") == "hf-hub":
        model.base_model = cfg["hf_hub_id"]
    if model.num_classes == cfg["num_classes"]:
        names = cfg.get("label_names") or ()
        model.labels = names if len(names) == model.num_classes else ()
        if name is not None:
            model.temperature = checkpoints.metrics(name).get("temperature", 1.0)
        elif elsewhere:
            model.temperature = checkpoints.temperature_of(cfg)
