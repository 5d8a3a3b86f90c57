"""The models that the page offers, and what it says of each."""

import html
import os
from dataclasses import dataclass
from threading import Lock
from typing import Any

import torch
from torch import nn

from .. import registry
from ..bench import median_seconds
from ..checkpoints import pretrained_cfgs
from ..datasets import DATASETS, FASHION_MNIST
from ..errors import unknown
from ..inference import class_labels, inference_form

DEFAULT = "resnext_small"
_REPEATS = 9  # of an answer, to say how long one takes


@dataclass(frozen=True)
class Loaded:
    """A model with its weights, and what is known of it.

    Attributes:
        model: It.
        photo_model: What answers for photos in its place, if it has weights for those (see `registry.photo_weights`).
        facts: What `registry.info` says of it.
        milliseconds: That it takes for one image, on this machine.
    """

    model: nn.Module
    photo_model: nn.Module | None
    facts: dict[str, Any]
    milliseconds: float

    @property
    def knows_garments(self) -> bool:
        """Whether its classes are Fashion-MNIST's, whose images are garments as areas."""
        return class_labels(self.model) == FASHION_MNIST.labels


class Models:
    """Every pretrained model of the zoo, and one that the user named. Each is loaded when it is first asked for.

    Attributes:
        names: What there is to choose from.
        first: The one to begin with.
    """

    def __init__(self, model: str | None = None) -> None:
        """
        Args:
            model: A MODEL, see `resolve`.

        Raises:
            CnnzooError: It cannot be loaded.
        """
        # A model's usual checkpoint goes by the model's name alone, which has photos answered by its weights for photos.
        split = [name.split(".", 1) for name in registry.list_pretrained()]
        names = [arch if tag == next(iter(pretrained_cfgs(arch))) else f"{arch}.{tag}" for arch, tag in split]
        self.first = os.fspath(model or DEFAULT)
        self.names = names if self.first in names else [self.first, *names]
        self._lock, self._loaded = Lock(), {}
        self.load(self.first)

    def load(self, name: str) -> Loaded:
        """The model of that name, which must be one of `names`: a stranger may have sent it.

        Raises:
            UnknownNameError: It is none of them.
            CnnzooError: It cannot be loaded.
        """
        if name not in self.names:
            raise unknown("model", str(name)[:100], self.names)
        with self._lock:
            if name not in self._loaded:
                model, special = registry.create_model(name, pretrained=True), registry.photo_weights(name)
                photo_model = registry.create_model(special, pretrained=True) if special else None
                form = inference_form(model)
                image = torch.zeros(1, *model.pretrained_cfg["input_size"])
                form(image)  # the first time takes longer
                seconds = median_seconds(lambda: form(image), _REPEATS)
                self._loaded[name] = Loaded(model, photo_model, registry.info(name), 1000 * seconds)
            return self._loaded[name]


def facts(loaded: Loaded) -> str:
    """Accuracy, size and time of a model, as HTML."""
    known = loaded.facts
    shown, tag = [], loaded.model.pretrained_cfg.get("tag") or ""
    if found := known["checkpoints"].get(tag):
        title = next((d.title for d in DATASETS.values() if tag.endswith(d.name)), "its data")
        shown.append(("Accuracy", f"{found['top1']:.2f} %", f"of the test images of {title}"))
    weights = sum(t.numel() * t.element_size() for t in loaded.model.state_dict().values())
    shown += [
        ("Parameters", f"{known['params']:,}", f"{weights / 1e6:.1f} MB in memory"),
        ("Operations", f"{known['macs'] / 1e6:,.1f} million", "multiply-accumulates for an image"),
        ("Time", f"{loaded.milliseconds:.1f} ms", "for an image, on this machine"),
    ]
    rows = (f"<div><dt>{a}</dt><dd>{b}</dd><dd class='note'>{html.escape(c)}</dd></div>" for a, b, c in shown)
    return f"<dl class='facts'>{''.join(rows)}</dl>"
