"""What a metrics.json may say: one gate for those of runs, checkpoint folders and strangers; and teachers in words."""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from .errors import CheckpointError


def taught_by(metrics: Mapping[str, Any], quote: str = "") -> str:
    """In words, for example `", taught by resnext_small (2 runs) and nin_tiny"`, with `quote` around each name.

    Empty where there was no teacher.
    """
    counts = Counter(metrics.get("teachers", ()))
    names = [f"{quote}{name}{quote}" + (f" ({count} runs)" if count > 1 else "") for name, count in counts.items()]
    return f", taught by {' and '.join(names)}" if names else ""


def _number(value: Any, least: float = 0.0, most: float = math.inf) -> bool:
    good = isinstance(value, (int, float)) and not isinstance(value, bool)
    return good and math.isfinite(value) and least <= value <= most


def _percent(value: Any) -> bool:
    return _number(value, 0, 100)


def _count(value: Any, least: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < 1 << 63


def _seed(value: Any) -> bool:
    return _count(value, -(1 << 63))


def _text(value: Any) -> bool:
    return isinstance(value, str) and len(value) < 10_000


def _row(value: Any, check: Callable[[Any], bool]) -> bool:
    return isinstance(value, (list, tuple)) and len(value) > 0 and all(check(v) for v in value)


def _table(value: Any, check: Callable[[Any], bool]) -> bool:
    return isinstance(value, Mapping) and all(_text(k) and check(v) for k, v in value.items())


_PERCENT = ("a percentage", _percent)
_COUNT = ("a whole number", _count)
_TEXT = ("a text", _text)

# What each field may be, in words and as a check. Fields that are not here are notes, which nothing is computed from.
_FIELDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(("top1", "top1_tta", "top1_mean", "holdout_top1", "ece", "ece_calibrated"), _PERCENT),
    **dict.fromkeys(("params", "macs", "epochs", "in_chans"), _COUNT),
    **dict.fromkeys(("model", "dataset", "split", "tag", "hardware", "torch", "timm", "cnnzoo", "command"), _TEXT),
    **dict.fromkeys(("holdout_command", "answers_command"), _TEXT),
    "top1_std": ("a percentage or null", lambda v: v is None or _percent(v)),
    **dict.fromkeys(("loss", "minutes", "temperature"), ("a number of 0 or more", _number)),
    "per_class": ("a percentage, or null, for each class", lambda v: _row(v, lambda one: one is None or _percent(one))),
    "confusion": (
        "a row of counts for each class, each as long",
        lambda v: _row(v, lambda row: _row(row, _count) and len(row) == len(v)) and any(map(any, v)),
    ),
    "robustness": ("a percentage by the name of what spoils the images", lambda v: _table(v, _percent)),
    "photos": (
        "a percentage as top1 and a number as count",
        lambda v: isinstance(v, Mapping) and set(v) == {"top1", "count"} and _percent(v["top1"]) and _count(v["count"]),
    ),
    "seed": ("a whole number", _seed),
    "seeds": ("whole numbers, each once", lambda v: _row(v, _seed) and len(set(v)) == len(v)),
    "teachers": ("names of models", lambda v: isinstance(v, list) and all(map(_text, v))),
    "data": ("what is known of the data", lambda v: isinstance(v, Mapping)),
    "data_md5": ("an md5 by the name of a file", lambda v: _table(v, _text)),
    "sha256": ("64 hexadecimal digits", lambda v: isinstance(v, str) and re.fullmatch("[0-9a-f]{64}", v) is not None),
}  # fmt: skip


def check_metrics(metrics: Mapping[str, Any], where: object) -> None:
    """Whether each number can be what its name says. Which fields there must be is for the caller to say.

    Args:
        metrics: The content of a metrics.json.
        where: What messages call it.

    Raises:
        CheckpointError: One cannot; the message names it, and says what is allowed.
    """
    for name, (allowed, check) in _FIELDS.items():
        if name in metrics and not check(metrics[name]):
            raise _refusal(where, name, metrics[name], allowed)
    classes = {name: len(metrics[name]) for name in ("per_class", "confusion") if name in metrics}
    if len(set(classes.values())) > 1:
        raise _refusal(where, "per_class", metrics["per_class"], f"{classes['confusion']} numbers, as in confusion")
    if "seeds" in metrics and metrics.get("seed") not in metrics["seeds"]:
        raise _refusal(where, "seed", metrics.get("seed"), f"one of the seeds {metrics['seeds']}")


def _refusal(where: object, name: str, value: Any, allowed: str) -> CheckpointError:
    shown = repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "..."
    return CheckpointError(f"{where} says that {name} is {shown}; allowed is {allowed}. Measure again, or train again.")
