"""The pictures in a checkpoint's folder: its answers to ten drawings, and its confusions on the test set."""

from pathlib import Path
from typing import Any

from PIL import Image
from torch import nn

from ..datasets import DATASETS, DatasetInfo
from ..drawings import contact_sheet, garments
from ..files import atomic
from ..predict import predict
from ._folder import ANSWERS, PICTURE


def wanted(metrics: dict[str, Any], info: DatasetInfo) -> set[str]:
    """The names of the pictures that belong to a folder with these metrics."""
    names = {PICTURE} if "confusion" in metrics else set()
    # The drawings are of the zoo's own data set, and gray or RGB.
    return names | ({ANSWERS} if info.name in DATASETS and "top1" in metrics and info.image_size[0] in (1, 3) else set())


def draw(folder: Path, model: nn.Module, info: DatasetInfo, metrics: dict[str, Any]) -> None:
    """Draws the pictures that a folder lacks.

    Args:
        folder: Where they go.
        model: Has the folder's weights; its calibration temperature becomes that of the metrics.
        info: What it was trained on.
        metrics: Of the folder.
    """
    lacking = {name for name in wanted(metrics, info) if not (folder / name).exists()}
    if PICTURE in lacking:
        from .. import plots

        title = f"{metrics['model']}: {metrics['top1']:.2f} % of the test images"
        plots.save(plots.confusion_matrix(metrics["confusion"], info.labels, title), folder / PICTURE)
    if ANSWERS in lacking:
        model.temperature = metrics.get("temperature", 1.0)
        draw_answers(model, folder / ANSWERS)


def draw_answers(model: nn.Module, path: Path) -> None:
    """The ten drawings of `cnnzoo demo`, each with the model's answer, as a PNG of about 14 KB."""
    drawn = garments()
    answers = [best[0] for best in predict(model, list(drawn.values()))]
    rows = [(drawn[name], f"{label} {p:.0%}", label == name) for name, (label, p) in zip(drawn, answers, strict=True)]
    with atomic(path) as temporary:
        sheet = contact_sheet(rows).quantize(64, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        sheet.save(temporary, format="PNG", optimize=True)
