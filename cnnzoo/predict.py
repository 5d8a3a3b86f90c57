"""What a model says of an image."""

import operator
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from .errors import InputError
from .inference import class_count, class_labels, inference_form, reader, temperature

_CHUNK = 256  # images that are held as tensors at a time


class Answer(list):
    """What a model takes one image for: a list of pairs (label, probability), most probable first.

    Attributes:
        photo: Whether the image was treated as a photo of a garment, because it was not in Fashion-MNIST's format.
        warnings: Why the answer is doubtful, and what can be done about it, as sentences; empty if nothing is amiss.
    """

    def __init__(self, pairs: Sequence[tuple[str, float]], photo: bool = False, warnings: Sequence[str] = ()) -> None:
        super().__init__(pairs)
        self.photo = photo
        self.warnings = tuple(warnings)


def predict(model: nn.Module, images: Any, topk: int = 1, *, photo: str = "auto") -> Answer | list[Answer]:
    """What the model takes images for.

    Args:
        model: A classifier. It is not changed, and several threads may use it at once. Labels are those that its weights
            were trained on (see `models` and its `labels`), or else its class indices as text.
        images: A path, PIL image, array or tensor (see `data.open_image`), or a list of them.
        topk: Answers per image.
        photo: What to do with images that are not 28x28 on black, see `inference.reader`: `"auto"`, `"makers"` or
            `"never"`. Only models with Fashion-MNIST's classes treat them as photos of garments.

    Returns:
        For one image an `Answer`: a list of `topk` pairs (label, probability), most probable first; for a list, a list of
        those. The probabilities are calibrated, where the model's checkpoint has a temperature.

    Raises:
        InputError: An image cannot be read, the list is empty, the model is no classifier, or `topk` is out of range.
        CheckpointError: The model's outputs are not finite.
    """
    many = isinstance(images, Sequence) and not isinstance(images, (str, bytes))
    batch = list(images) if many else [images]
    if not batch:
        raise InputError("An empty list of images was given. Pass one image at least.")
    form = inference_form(model)
    topk = _checked_count(topk, class_count(model))
    labels, divisor = class_labels(model), temperature(model)
    read = reader(model, photo)
    answers: list[Answer] = []
    for start in tqdm(range(0, len(batch), _CHUNK), desc="predicting", unit="batch", leave=False, disable=None):
        inputs = [replace(read(image), steps={}) for image in batch[start : start + _CHUNK]]  # pictures are large
        probabilities = (form(torch.stack([i.pixels for i in inputs])) / divisor).softmax(1).cpu()
        values, classes = probabilities.topk(topk)  # (B, topk) each
        for one, row_values, row_classes in zip(inputs, values.tolist(), classes.tolist(), strict=True):
            pairs = [(labels[c], v) for c, v in zip(row_classes, row_values, strict=True)]
            answers.append(Answer(pairs, one.photo, one.warnings))
    return answers if many else answers[0]


def _checked_count(topk: Any, classes: int) -> int:
    try:
        count = 0 if isinstance(topk, bool) else operator.index(topk)
    except TypeError:
        count = 0
    if not 1 <= count <= classes:
        raise InputError(f"topk={topk!r} was given, allowed is a whole number from 1 to {classes}. Pass topk=1, say.")
    return count
