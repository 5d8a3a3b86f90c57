"""How good a model is: accuracy, loss, calibration."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .checkpoints import TEMPERATURES
from .data import Split, normalize, resize
from .errors import InputError
from .inference import class_count, inference_form, unwrapped
from .memory import keep_memory
from .progress import progress

BATCH = 250  # images per forward pass; with 500 the activations of a small model are too large for the caches


@dataclass(frozen=True)
class Metrics:
    """Measured on `count` images.

    Attributes:
        top1: Percent of images whose most probable class is right.
        loss: Mean cross-entropy, in nats.
        ece: Expected calibration error over 15 equal bins of confidence, in percent (arXiv:1706.04599).
        per_class: Percent right among the images of each class; None for a class without images.
        confusion: `confusion[i][j]` images of class i were classified as class j.
    """

    count: int
    top1: float
    loss: float
    ece: float
    per_class: tuple[float | None, ...]
    confusion: tuple[tuple[int, ...], ...]


def predict_logits(
    model: nn.Module,
    split: Split,
    *,
    tta: bool = False,
    batch_size: int = BATCH,
    image_size: tuple[int, int] | None = None,
) -> Tensor:
    """The model's outputs for every image of a split, in order, in fp32.

    Args:
        model: Runs in evaluation mode, on the device it is on and in its number format; it is not changed.
        split: Any split of images that the model was made for. They are normalised with the split's mean and std; see
            `as_trained` for those of a model's weights.
        tta: Average the log-probabilities of each image and its mirror image.
        batch_size: Images per forward pass.
        image_size: Height and width to scale images to. If None, the size that the model's checkpoint or head is for; for
            a model that does not say one, the images' own.

    Returns:
        `(N, num_classes)` on the CPU.

    Raises:
        InputError: The split is empty, `batch_size` is below 1, or the model gives no logits.
        CheckpointError: The outputs are not finite.
    """
    _check_split(split)
    if len(split) == 0:
        raise InputError("An empty split was given; at least one image is needed. Check the slice that made it.")
    if batch_size < 1:
        raise InputError(f"batch_size={batch_size} was given; 1 or more is allowed. Leave it out for {BATCH}.")
    cfg = getattr(unwrapped(model), "pretrained_cfg", None) or {}
    if image_size is None and cfg.get("input_size"):
        image_size = tuple(cfg["input_size"][1:])
    keep_memory()
    form = inference_form(model, len(split))
    outputs = []
    starts = progress(range(0, len(split), batch_size), "evaluating", unit="batch")
    device = next((p.device for p in model.parameters()), "cpu")
    for start in starts:
        images = split.images[start : start + batch_size].to(device)
        x = resize(normalize(images, split.info.mean, split.info.std), image_size)
        logits = form(x)
        if tta:
            logits = averaged(logits, form(x.flip(3)))
        outputs.append(logits.cpu())
    return torch.cat(outputs)


def _check_split(split: Any) -> None:
    """Sees that images were given as a split.

    Raises:
        InputError: They were not.
    """
    if not isinstance(split, Split):
        raise InputError(
            f"A {type(split).__name__} was given as a split. Pass one of cnnzoo.load_split, or of tensors of your own: "
            "cnnzoo.data.Split(images, labels, cnnzoo.datasets.FASHION_MNIST), with uint8 images (N, C, H, W)."
        )


def averaged(logits: Tensor, mirrored: Tensor) -> Tensor:
    """The mean of the log-probabilities of images and of their mirror images, `(N, K)` each (flip TTA)."""
    return (logits.log_softmax(1) + mirrored.log_softmax(1)) / 2


def measure(logits: Tensor, labels: Tensor) -> Metrics:
    """Metrics of outputs `(N, K)` against class indices `(N,)`."""
    labels = labels.cpu()
    probabilities = logits.softmax(1)
    confidence, guess = probabilities.max(1)
    right = guess == labels
    classes = logits.shape[1]
    # (N,) pairs (label, guess) -> (K, K) counts
    confusion = torch.bincount(labels * classes + guess, minlength=classes * classes).view(classes, classes)
    per_class = 100 * confusion.diag() / confusion.sum(1)  # NaN where there are none
    return Metrics(
        count=len(labels),
        top1=round(100 * right.double().mean().item(), 4),
        loss=round(F.cross_entropy(logits, labels).item(), 5),
        ece=round(calibration_error(confidence, right), 3),
        per_class=tuple(None if math.isnan(v) else round(v, 2) for v in per_class.tolist()),
        confusion=tuple(tuple(row) for row in confusion.tolist()),
    )


def calibration_error(confidence: Tensor, right: Tensor, bins: int = 15) -> float:
    """Expected calibration error in percent: the mean distance of confidence and accuracy, over equal bins of confidence."""
    which = (confidence * bins).long().clamp(max=bins - 1)
    gap = torch.zeros(bins, dtype=torch.double).index_add_(0, which, confidence.double() - right.double())
    return 100 * gap.abs().sum().item() / len(confidence)


def fit_temperature(logits: Tensor, labels: Tensor) -> float | None:
    """The temperature that minimises the cross-entropy of `logits / temperature` (Guo et al., 2017, arXiv:1706.04599).

    None where there is none in `TEMPERATURES`: it would be 0 where all answers are right, and infinite where all are wrong.
    """
    logits, labels = logits.double(), labels.cpu()
    log_t = torch.zeros(1, dtype=torch.double, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_t], max_iter=50, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(logits / log_t.exp(), labels)
        loss.backward()
        return loss

    optimizer.step(closure)
    found, (low, high) = round(log_t.exp().item(), 4), TEMPERATURES
    right = int((logits.argmax(1) == labels).sum())
    return found if low < found < high and 0 < right < len(labels) else None


def evaluate(model: nn.Module, split: Split, *, tta: bool = False, batch_size: int = BATCH) -> Metrics:
    """Accuracy, loss, calibration and confusion of a model on a split.

    A model whose checkpoint, or whose head, is for images of another size gets them scaled to it. A model with `labels` gets
    the images as its weights know them: normalised with its checkpoint's mean and std. Its class names and those of the
    split have to be the same, but for their order and spelling; rows of the result are in the model's order. For other
    models, such as one that was trained since it was loaded, the split's mean, std and order of classes are used.

    Args:
        model, split, tta, batch_size: See `predict_logits`.

    Returns:
        `Metrics`, with percentages.

    Raises:
        InputError: The split is empty, its classes are not the model's, or the model gives no logits.
        CheckpointError: The outputs are not finite.
    """
    _check_split(split)
    labels = tuple(getattr(unwrapped(model), "labels", None) or ())
    if labels:
        split = as_trained(model, split)
    logits = predict_logits(model, split, tta=tta, batch_size=batch_size)
    return measure(logits, matched(split, labels, logits.shape[1]).labels)


def as_trained(model: nn.Module, split: Split) -> Split:
    """A split as a model that was loaded with its weights knows such images: its mean, its std, its class indices.

    Raises:
        InputError: The split has a class that the model does not know.
    """
    inner = unwrapped(model)
    cfg = getattr(inner, "pretrained_cfg", None) or {}
    split = matched(split, tuple(getattr(inner, "labels", None) or ()), class_count(inner))
    own = {k: tuple(cfg[k]) for k in ("mean", "std") if len(cfg.get(k) or ()) == len(getattr(split.info, k))}
    return replace(split, info=replace(split.info, **own))


def matched(split: Split, labels: tuple[str, ...], count: int) -> Split:
    """The split with its labels renumbered as a model of `count` classes called `labels` (empty if unknown) has them.

    Raises:
        InputError: The split has a class that the model does not know, or two that are the same to it.
    """
    info, theirs = split.info, split.info.labels
    if theirs == labels or (not labels and len(theirs) == count):
        return split
    if not labels:
        raise InputError(
            f"{info.title} has {len(theirs)} classes, but the model has {count}. Choose the data that it was trained on."
        )
    places = torch.tensor(class_places(theirs, labels, info.title))
    return replace(split, labels=places[split.labels.cpu()], info=replace(info, labels=labels))


def class_places(names: Sequence[str], labels: Sequence[str], title: str) -> list[int]:
    """For each class of the data called `title` the index of the label that it means, see `class_index`.

    Raises:
        InputError: One means no label, or more than one, or two mean the same.
    """
    found = {name: class_index(name, labels) for name in names}
    if strangers := [name for name, place in found.items() if place is None]:
        raise InputError(
            f"{title} has classes that the model does not know: {_listed(strangers)}. It knows {_listed(labels)}. Measure "
            "it on the data that it was trained on, or rename the classes."
        )
    for place in found.values():
        if len(same := [name for name, other in found.items() if other == place]) > 1:
            raise InputError(
                f"{title} has the classes {_listed(same)}, and all of them mean {labels[place]} to the model. It knows "
                f"{_listed(labels)}; at most one class for each is allowed. Rename the others, or put them into one."
            )
    return [found[name] for name in names]


def class_index(name: str, labels: Sequence[str]) -> int | None:
    """The index of the label that `name` means: `ankle_boot` means `Ankle boot`, and `tshirt` means `T-shirt/top`.

    A label that is written exactly so comes first, since others may differ in no more than a capital: a and A, C and C++.
    None if there is no such label, or if several would do.
    """
    if name in labels:
        return labels.index(name)

    def plain(text: str) -> str:
        return re.sub(r"[\W_]", "", text).lower()

    wanted = plain(name)
    for spelling in (plain, lambda label: plain(label.split("/")[0])):
        found = [i for i, label in enumerate(labels) if wanted and spelling(label) == wanted]
        if found:
            return found[0] if len(found) == 1 else None
    return None


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
