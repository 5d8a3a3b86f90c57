"""What is measured on a checkpoint folder after the run: calibration and robustness, on the test set."""

from pathlib import Path
from typing import Any

from torch import nn

from .. import checkpoints, data, evaluate, robustness
from ..errors import CheckpointError, unknown
from ._build import _write
from ._folder import CONFIG, METRICS, RECIPE, load_model, read_config

_TOLERANCE = 0.05  # points of top-1; another machine may round another way


def measure(
    folder: str | Path, *, data_dir: str | Path | None = None, download: bool = False, device: str = "cpu"
) -> dict[str, Any]:
    """Measures what a checkpoint's metrics.json lacks, and writes it there and into the card; all else stays as it is.

    Measured are `ece_calibrated`, the calibration error at the stored temperature, and `robustness`, the accuracy on
    spoiled images (see `robustness.accuracies`).

    Args:
        folder: A checkpoint folder as `hub.build` makes it, or the name of one of the zoo's.
        data_dir, download: See `data.load_split`.
        device: A torch device.

    Returns:
        What was added; nothing if nothing was lacking.

    Raises:
        CheckpointError: The weights are not the folder's, or do not give its accuracy.
        UnknownNameError: There is no such checkpoint.
    """
    folder = _find(folder)
    metrics, recipe = checkpoints.read_json(folder / METRICS), checkpoints.read_json(folder / RECIPE)
    lacks_error = "ece_calibrated" not in metrics and "temperature" in metrics
    lacks_robustness = set(metrics.get("robustness", ())) != set(robustness.names())
    if not lacks_error and not lacks_robustness:
        return {}
    model = _load(folder, metrics).to(device)
    split = data.load_split(recipe["dataset"], "test", data_dir=data_dir, download=download)
    logits = evaluate.predict_logits(model, split, image_size=model.pretrained_cfg["input_size"][1:])
    top1 = evaluate.measure(logits, split.labels).top1
    if abs(top1 - metrics["top1"]) > _TOLERANCE:
        raise CheckpointError(
            f"{folder} gives {top1:.2f} % on the test set; allowed is the {metrics['top1']:.2f} % of its {METRICS}. Make "
            "the folder again: cnnzoo build."
        )
    added: dict[str, Any] = {}
    if lacks_error:
        added["ece_calibrated"] = evaluate.measure(logits / metrics["temperature"], split.labels).ece
    if lacks_robustness:
        added["robustness"] = robustness.accuracies(model, split)
    _write(folder, _after("ece", metrics, added), recipe)
    return added


def _find(folder: str | Path) -> Path:
    path = Path(folder)
    if path.is_dir():
        return path
    if str(folder) not in checkpoints.names():
        raise unknown("checkpoint", str(folder), checkpoints.names(), hint="A folder that cnnzoo build made will do too.")
    return checkpoints.folder(str(folder))


def _load(folder: Path, metrics: dict[str, Any]) -> nn.Module:
    weights, settings = folder / checkpoints.WEIGHTS, folder / CONFIG
    checkpoints.verify(weights, str(metrics.get("sha256")))
    return load_model(read_config(settings.read_bytes(), str(settings)), weights.read_bytes(), str(weights))


def _after(key: str, metrics: dict[str, Any], added: dict[str, Any]) -> dict[str, Any]:
    """The metrics with more of them, put behind one of their keys."""
    keys = list(metrics)
    place = keys.index(key) + 1
    order = [k for k in keys[:place] if k not in added] + [*added] + [k for k in keys[place:] if k not in added]
    return {k: added.get(k, metrics.get(k)) for k in order}
