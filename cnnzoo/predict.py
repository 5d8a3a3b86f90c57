"""What a model says of an image."""

import operator
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from .data import read_one_of, tell_broken
from .errors import InputError
from .inference import Input, answering, class_labels, reader
from .progress import progress
from .registry import create_model, photo_weights

_CHUNK = 256  # images that are held as tensors at a time


class Answer(list):
    """The answer of a model to one image: a list of pairs (label, probability), most probable first.

    Attributes:
        photo: Whether the image was treated as a photo of a garment, because it was not in Fashion-MNIST's format.
        warnings: Why the answer is doubtful, and what can be done about it, as sentences; empty if nothing is amiss.
    """

    def __init__(self, pairs: Sequence[tuple[str, float]], photo: bool = False, warnings: Sequence[str] = ()) -> None:
        super().__init__(pairs)
        self.photo = photo
        self.warnings = tuple(warnings)


def predict(
    model: nn.Module | str | os.PathLike,
    images: Any,
    topk: int = 1,
    *,
    photo: str = "auto",
    photo_model: nn.Module | None = None,
    skip_broken: bool = False,
) -> Answer | list[Answer | None]:
    """Names what images show: labels, with probabilities, calibrated on clean images where the checkpoint has a temperature.

    Args:
        model: A classifier, or what `create_model` takes for one. Pass a model instead of a name when you predict more than
            once: a name is loaded at each call. The model is not changed, and several threads may use it at once. Labels are
            those that the weights were trained on (see `models` and its `labels`), or else class indices as text.
        images: A path, PIL image, array or tensor (see `data.open_image`), or a list of them, or an array or tensor of
            several images, `(B, C, H, W)` or `(B, H, W, C)`.
        topk: Answers per image.
        photo: What to do with images that are not 28x28 on black, see `inference.reader`: `"auto"`, `"makers"` or
            `"never"`. Only models with Fashion-MNIST's classes treat them as photos of garments.
        photo_model: What answers for the images that are treated as photos; `model` itself if None. A model given by a name
            without tag has its weights for photos here, if they were measured to be better: see `registry.photo_weights`.
        skip_broken: Of several images, answer None for those that cannot be used, with a warning. If none can, it is an
            error all the same.

    Returns:
        For one image an `Answer`: a list of `topk` pairs (label, probability), most probable first; for several, a list of
        those.

    Raises:
        DataError: With `skip_broken`, no image can be used.
        InputError: An image cannot be read, the list is empty, a model is no classifier, the two models have other classes
            or inputs, or `topk` is out of range.
        CheckpointError: The model's outputs are not finite.
        UnknownNameError: There is no model of that name.
    """
    if isinstance(model, (str, os.PathLike)):
        name, model = model, create_model(model, pretrained=True)
        if photo_model is None and (special := photo_weights(name)):
            photo_model = create_model(special, pretrained=True)
    several = isinstance(images, Sequence) and not isinstance(images, (str, bytes, bytearray, memoryview))
    many = several or getattr(images, "ndim", 0) == 4
    batch = list(images) if many else [images]
    if not batch:
        raise InputError("An empty list of images was given. Pass at least one image.")
    read, logits_of = reader(model, photo), answering(model, photo_model, len(batch))
    labels = class_labels(model)
    topk = _checked_count(topk, len(labels))
    answers: list[Answer | None] = [None] * len(batch)
    reasons: dict[str, str] = {}
    for start in progress(range(0, len(batch), _CHUNK), "predicting", unit="batch"):
        chunk = range(start, min(start + _CHUNK, len(batch)))
        inputs = _inputs(batch, chunk, read, reasons if skip_broken and many else None)
        values, classes = logits_of(list(inputs.values())).softmax(1).topk(topk)  # (B, K) -> (B, topk) each
        for (i, one), row_values, row_classes in zip(inputs.items(), values.tolist(), classes.tolist(), strict=True):
            pairs = [(labels[c], v) for c, v in zip(row_classes, row_values, strict=True)]
            answers[i] = Answer(pairs, one.photo, one.warnings)
    tell_broken(reasons, len(batch), "the list", skip_broken)
    return answers if many else answers[0]


def _inputs(
    images: Sequence[Any], chosen: Iterable[int], read: Callable[[Any], Input], reasons: dict[str, str] | None
) -> dict[int, Input]:
    """What a model gets of the chosen images, by index; why one cannot be used goes into `reasons`, if that is given."""
    found = {}
    for i in chosen:
        try:
            found[i] = replace(read_one_of(images, i, read), steps={})  # pictures are large
        except InputError as e:
            if reasons is None:
                raise
            name = str(images[i]) if isinstance(images[i], (str, os.PathLike)) else ""
            reasons[name if name and name not in reasons else f"image {i + 1}"] = str(e)  # one may be given twice
    return found


def _checked_count(topk: Any, classes: int) -> int:
    try:
        count = 0 if isinstance(topk, bool) else operator.index(topk)
    except TypeError:
        count = 0
    if not 1 <= count <= classes:
        raise InputError(
            f"topk={topk!r} was given; allowed is a whole number from 1 to {classes}. Pass topk=1, for example."
        )
    return count
