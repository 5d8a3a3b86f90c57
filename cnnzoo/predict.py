"""What a model says of an image."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import nn
from tqdm import tqdm

from .data import create_transform, open_image, photo_steps
from .errors import InputError
from .evaluate import evaluation_mode

_CHUNK = 256  # images that are held as tensors at a time


def predict(model: nn.Module, images: Any, topk: int = 1, *, photo: bool = False) -> list:
    """What the model takes images for.

    Args:
        model: A classifier; labels come from its checkpoint, or are its class indices as text if it has none.
        images: A path, PIL image, array or tensor (see `data.open_image`), or a list of them.
        topk: Answers per image.
        photo: They are photos of garments: make of each what Fashion-MNIST would have made of it, see `data.photo_steps`.

    Returns:
        For one image a list of `topk` pairs (label, probability), most probable first; for a list, a list of those. The
        probabilities are calibrated, where the model's checkpoint has a temperature.

    Raises:
        InputError: An image cannot be read, the list is empty, or `topk` is out of range.
    """
    many = isinstance(images, Sequence) and not isinstance(images, str)
    batch = list(images) if many else [images]
    if not batch:
        raise InputError("An empty list of images was given. Pass one image at least.")
    if not 1 <= topk <= model.num_classes:
        raise InputError(f"topk={topk} was given, allowed is 1 to {model.num_classes}. Pass topk=1, say.")
    transform = create_transform(model)
    read = _from_photo if photo else open_image
    reference = next(model.parameters())
    temperature = getattr(model, "temperature", 1.0)
    chunks = []
    with torch.inference_mode(), evaluation_mode(model):
        for start in tqdm(range(0, len(batch), _CHUNK), desc="predicting", unit="batch", leave=False, disable=None):
            tensors = [transform(read(image)) for image in batch[start : start + _CHUNK]]
            logits = model(torch.stack(tensors).to(reference)).float()
            chunks.append((logits / temperature).softmax(1).cpu())
    values, classes = torch.cat(chunks).topk(topk)
    labels = class_labels(model)
    answers = [
        [(labels[c], v) for c, v in zip(row_classes, row_values, strict=True)]
        for row_classes, row_values in zip(classes.tolist(), values.tolist(), strict=True)
    ]
    return answers if many else answers[0]


def _from_photo(source: Any) -> Image.Image:
    return photo_steps(source)["8-bit"]


def class_labels(model: nn.Module) -> tuple[str, ...]:
    """Class names by index: the checkpoint's where the model has its classes, else the indices as text."""
    names = (getattr(model, "pretrained_cfg", None) or {}).get("label_names") or ()
    return tuple(names) if len(names) == model.num_classes else tuple(str(i) for i in range(model.num_classes))
