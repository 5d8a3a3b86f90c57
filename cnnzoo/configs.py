"""A checkpoint's config.json, read as what it is: bytes that somebody else may have written.

It names a model of the zoo, sets a few arguments of it and says how to prepare images; all else in it is ignored, or refused
where it would change what is built. Weights go through `checkpoints.read_weights`.
"""

import math
from dataclasses import dataclass, fields
from typing import Any

import timm
from timm.models import PretrainedCfg
from torch import nn

from . import checkpoints, models
from .errors import CheckpointError, CnnzooError, unknown
from .files import parse_json

MAX_CONFIG = 10_000_000  # bytes, with room for the names of 100,000 classes; the zoo's own have about 1,000
MAX_WEIGHTS = 1 << 30  # bytes; the zoo's largest model has half of that

_MAX_CLASSES, _MAX_CHANNELS, _MAX_SIDE, _MAX_TEXT = 100_000, 64, 4096, 200
_FIELDS = {field.name for field in fields(PretrainedCfg)}  # timm builds no model of a config with others
_CHOICES = dict(
    interpolation=("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"),
    crop_mode=("center", "squash", "border"),
)


@dataclass(frozen=True)
class Config:
    """What a config.json says, checked.

    Attributes:
        arch: A model of the zoo.
        args: Keywords for its constructor.
        cfg: Fields of timm's pretrained cfg that say how to prepare images, and the labels.
        temperature: What logits are divided by before they are taken for probabilities.
    """

    arch: str
    args: dict[str, Any]
    cfg: dict[str, Any]
    temperature: float = 1.0


def read_config(content: bytes, where: str) -> Config:
    """Checks a config.json; `where` names it in messages.

    Raises:
        CheckpointError: It is too large, not JSON, or sets what a config may not set.
        UnknownNameError: It names a model that the zoo does not have.
    """
    if len(content) > MAX_CONFIG:
        raise _refusal(where, f"has {len(content):,} bytes", f"at most {MAX_CONFIG:,}")
    try:
        raw = parse_json(content)
    except ValueError as e:  # UnicodeDecodeError is one too
        raise _refusal(where, f"is not JSON ({str(e)[:_MAX_TEXT]})", "a JSON object") from e
    stored, args = (raw.get("pretrained_cfg"), raw.get("model_args") or {}) if isinstance(raw, dict) else (None, None)
    if not isinstance(stored, dict) or not isinstance(args, dict):
        raise _refusal(where, "is no config of timm", "an object with architecture, pretrained_cfg and model_args")
    arch = raw.get("architecture")
    if not isinstance(arch, str) or arch not in models.entrypoints():
        hint = "Models of timm itself: timm.create_model."
        raise unknown(f"architecture in {where}:", _shown(arch), models.entrypoints(), hint=hint)
    reader = _Reader(where, stored, args, raw)
    return Config(arch, reader.args(), reader.cfg(), checkpoints.temperature_of(stored))


@dataclass(frozen=True)
class _Reader:
    """The parts of one config.json, and what each may hold."""

    where: str
    stored: dict[str, Any]
    given: dict[str, Any]
    root: dict[str, Any]

    def args(self) -> dict[str, Any]:
        checks = dict(
            in_chans=lambda v: _is_count(v, _MAX_CHANNELS),
            num_classes=lambda v: _is_count(v, _MAX_CLASSES),
            global_pool=lambda v: isinstance(v, str) and len(v) < _MAX_TEXT,
            img_size=lambda v: _is_count(v, _MAX_SIDE) or _is_row(v, 2, lambda n: _is_count(n, _MAX_SIDE)),
            drop_rate=lambda v: _is_number(v) and 0 <= v < 1,
            drop_path_rate=lambda v: _is_number(v) and 0 <= v < 1,
        )
        for name, value in self.given.items():
            if name not in checks:
                raise _refusal(self.where, f"sets model_args.{_shown(name)}", ", ".join(checks))
            if not checks[name](value):
                raise _refusal(self.where, f"sets model_args.{name} to {_shown(value)}", "a usual value")
        args = dict(self.given, in_chans=self._channels(), num_classes=self._classes())
        return {k: tuple(v) if isinstance(v, list) else v for k, v in args.items()}

    def _classes(self) -> int:
        said = [d["num_classes"] for d in (self.given, self.root, self.stored) if d.get("num_classes") is not None]
        if not said or not _is_count(said[0], _MAX_CLASSES) or any(n != said[0] for n in said):
            raise _refusal(self.where, f"sets num_classes to {_shown(said)}", f"one number from 1 to {_MAX_CLASSES:,}")
        return said[0]

    def _channels(self) -> int:
        size = self.stored.get("input_size")
        if not _is_row(size, 3, lambda n: _is_count(n, _MAX_SIDE)) or size[0] > _MAX_CHANNELS:
            raise _refusal(self.where, f"sets input_size to {_shown(size)}", "channels, height, width, such as [1, 28, 28]")
        if self.given.get("in_chans", size[0]) != size[0]:
            raise _refusal(self.where, f"sets in_chans to {_shown(self.given['in_chans'])}", f"{size[0]}, as in input_size")
        return size[0]

    def cfg(self) -> dict[str, Any]:
        channels = self._channels()
        if unknown_fields := sorted(set(self.stored) - _FIELDS):
            raise _refusal(self.where, f"sets pretrained_cfg.{_shown(unknown_fields[0])}", "what timm's own configs set")
        for name in ("first_conv", "classifier"):
            value = self.stored.get(name)
            if value is not None and not all(isinstance(v, str) for v in (value if isinstance(value, list) else [value])):
                raise _refusal(self.where, f"sets {name} to {_shown(value)}", "names of layers")
        found: dict[str, Any] = dict(input_size=tuple(self.stored["input_size"]), num_classes=self._classes())
        for name in ("mean", "std"):
            values = self.stored.get(name)
            if not _is_row(values, channels, _is_number) or (name == "std" and min(values) <= 0):
                raise _refusal(self.where, f"sets {name} to {_shown(values)}", f"{channels} numbers")
            found[name] = tuple(values)
        for name, choices in _CHOICES.items():
            value = self.stored.get(name, choices[0])
            if value not in choices:
                raise _refusal(self.where, f"sets {name} to {_shown(value)}", ", ".join(choices))
            if name in self.stored:
                found[name] = value
        crop = self.stored.get("crop_pct", 1.0)
        if not _is_number(crop) or not 0 < crop <= 1:
            raise _refusal(self.where, f"sets crop_pct to {_shown(crop)}", "a number above 0, up to 1")
        labels = self.root.get("label_names") or self.stored.get("label_names")
        if labels is not None:
            if not _is_row(labels, self._classes(), lambda v: isinstance(v, str) and len(v) <= _MAX_TEXT):
                raise _refusal(self.where, f"sets label_names to {_shown(labels)}", f"{self._classes()} texts")
            found["label_names"] = tuple(labels)
        tag = self.stored.get("tag")
        if isinstance(tag, str) and len(tag) <= _MAX_TEXT:
            found["tag"] = tag
        return dict(found, crop_pct=crop)


def empty_model(config: Config, where: str) -> nn.Module:
    """The model of a config on the meta device: shapes without memory.

    Raises:
        CheckpointError: The config's arguments do not go together, or the model is larger than any that is loaded.
    """
    try:
        model = timm.create_model(config.arch, device="meta", **config.args)
        numbers = sum(t.numel() for t in model.state_dict().values())
    except (CnnzooError, RuntimeError, TypeError, ValueError, AssertionError, ArithmeticError) as e:
        reason = (str(e).strip() or type(e).__name__).splitlines()[0][:_MAX_TEXT]
        raise _refusal(where, f"asks for a {config.arch} that cannot be built ({reason})", "what timm exported") from e
    if 4 * numbers > MAX_WEIGHTS:
        raise _refusal(where, f"asks for a {config.arch} of {numbers:,} numbers", f"at most {MAX_WEIGHTS // 4:,}")
    return model


def size_limit(model: nn.Module) -> int:
    """The most bytes that a weights file of this model may have: its numbers in double precision, and a header."""
    return 8 * sum(t.numel() for t in model.state_dict().values()) + 1_000_000


def load_model(config: Config, weights: bytes, where: str) -> nn.Module:
    """The config's model with the weights, in evaluation mode; both were checked, or are here.

    Raises:
        CheckpointError: They do not fit.
    """
    state = checkpoints.read_weights(weights, empty_model(config, where), where)
    # The zoo's own weights of this name have nothing to do with the model any more.
    overlay = dict(config.cfg, file=None, hf_hub_id=None, hf_hub_filename=None)
    model = timm.create_model(config.arch, pretrained_cfg_overlay=overlay, **config.args)
    model.load_state_dict(state, strict=True)
    model.labels, model.temperature = config.cfg.get("label_names", ()), config.temperature
    return model.eval()


def _refusal(where: str, what: str, allowed: str) -> CheckpointError:
    return CheckpointError(f"{where} {what}. Allowed: {allowed}. Use a checkpoint made by cnnzoo build or timm.")


def _shown(value: Any) -> str:
    """A value from a stranger's file, short enough for a message."""
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e6 and math.isfinite(value)


def _is_count(value: Any, limit: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= limit


def _is_row(value: Any, length: int, check: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == length and all(check(v) for v in value)
