"""How good a model is on a folder of photos, through the same steps that `predict` takes."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch
from torch import nn

from .data import labelled_files, tell_broken
from .errors import InputError
from .evaluate import Metrics, class_places, measure
from .inference import Input, answering, class_labels, reader
from .progress import progress

_CHUNK = 256  # images that are held as tensors at a time


@dataclass(frozen=True)
class PhotoMetrics:
    """Measured on a folder of photos.

    Attributes:
        metrics: Of all of them, at the model's temperature; classes in the model's order.
        warned: How many came with a warning.
        warned_top1, other_top1: Percent right among these, and among the others; None where there are none.
    """

    metrics: Metrics
    warned: int
    warned_top1: float | None
    other_top1: float | None


def evaluate_photos(
    model: nn.Module,
    data_dir: str | Path,
    photo: str = "auto",
    *,
    photo_model: nn.Module | None = None,
    skip_broken: bool = False,
) -> PhotoMetrics:
    """Measures a model on pictures of any kind.

    Args:
        model: A classifier.
        data_dir: A folder for each class, `CLASS/*.jpg`, named as the model's labels, in any spelling. If it has a folder
            `test` of such (or `val` and the like), its pictures alone are measured on.
        photo: What to do with them, see `inference.reader`.
        photo_model: What answers for those that are treated as photos, see `predict`; `model` itself if None.
        skip_broken: Leave out, with a warning, what cannot be read or shows no garment.

    Raises:
        DataError: The folder has no classes, or one is empty, or a file cannot be used and `skip_broken` is false, or none
            can be.
        InputError: A class is none of the model's, or two are the same one; or `photo_model` has other classes or channels.
    """
    files = labelled_files(data_dir)
    names = sorted({name for _, name in files})
    places = dict(zip(names, class_places(names, class_labels(model), str(data_dir)), strict=True))
    read, logits_of = reader(model, photo), answering(model, photo_model, len(files))
    outputs, classes, doubtful, reasons = [], [], [], {}

    def inputs() -> Iterator[Input]:
        for path, name in progress(files, "reading photos"):
            try:
                one = replace(read(path), steps={})  # pictures are large
            except InputError as e:
                reasons[str(path)] = str(e)
                continue
            classes.append(places[name])
            doubtful.append(bool(one.warnings))
            yield one

    readable = inputs()
    while chunk := list(islice(readable, _CHUNK)):
        outputs.append(logits_of(chunk))
    tell_broken(reasons, len(files), str(data_dir), skip_broken)
    logits, truth, warned = torch.cat(outputs), torch.tensor(classes), torch.tensor(doubtful)  # (N, K), (N,), (N,)
    right = logits.argmax(1) == truth

    def share(chosen: torch.Tensor) -> float | None:
        return round(100 * right[chosen].float().mean().item(), 2) if chosen.any() else None

    return PhotoMetrics(measure(logits, truth), int(warned.sum()), share(warned), share(~warned))
