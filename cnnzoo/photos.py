"""How good a model is on a folder of photos, through the same steps that `predict` takes."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from .data import labelled_files
from .evaluate import Metrics, class_places, measure
from .inference import class_labels, inference_form, reader, temperature
from .progress import progress


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


def evaluate_photos(model: nn.Module, data_dir: str | Path, photo: str = "auto") -> PhotoMetrics:
    """Measures a model on pictures of any kind.

    Args:
        model: A classifier.
        data_dir: A folder for each class, `CLASS/*.jpg`, or these in `test/`; names as the model's labels, in any spelling.
        photo: What to do with them, see `inference.reader`.

    Raises:
        DataError: The folder has no classes, or one is empty.
        InputError: A class is none of the model's, or two are the same one; or a file is no image that can be read.
    """
    labels = class_labels(model)
    files = labelled_files(Path(data_dir))
    names = sorted({name for _, name in files})
    places = dict(zip(names, class_places(names, labels, str(data_dir)), strict=True))
    read, form = reader(model, photo), inference_form(model, len(files))
    inputs = [read(path) for path, _ in progress(files, "reading photos")]
    logits = torch.cat([form(i.pixels[None]).cpu() for i in inputs]) / temperature(model)  # (N, K)
    truth = torch.tensor([places[name] for _, name in files])
    right, warned = logits.argmax(1) == truth, torch.tensor([bool(i.warnings) for i in inputs])

    def share(chosen: torch.Tensor) -> float | None:
        return round(100 * right[chosen].float().mean().item(), 2) if chosen.any() else None

    return PhotoMetrics(measure(logits, truth), int(warned.sum()), share(warned), share(~warned))
