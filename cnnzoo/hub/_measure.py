"""What is measured on a checkpoint folder after the run: confusions, calibration and robustness, on the test set."""

import os
import shutil
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from .. import checkpoints, data, evaluate, photos as photographs, registry, robustness, storage
from ..datasets import facts
from ..errors import CheckpointError, system_errors
from ..files import user_path, write_json
from ..resolve import resolve
from ._build import folder_of, read_numbers, replacing, write_rest
from ._folder import METRICS
from ._runs import noted_on_holdout

_SAME = dict(top1=0.1, loss=0.01)  # how far a second measurement may be from the first: machines round differently


@system_errors()
def measure(
    model: str | os.PathLike, *, data_dir: str | Path | None = None, download: bool = False, device: str = "cpu",
    photos: str | Path | None = None, holdout_run: str | Path | None = None, skip_broken: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Measures what a checkpoint's metrics.json lacks, and writes it there and into its card; all else stays as it is.

    Measured are `confusion`, how often each class is taken for each, `ece_calibrated`, the calibration error at the stored
    temperature, and `robustness`, the accuracy on spoiled images (see `robustness.accuracies`).

    Args:
        model: A checkpoint folder as `hub.build` makes it from runs, the name of one of the zoo's, or a run folder, in whose
            metrics.json it is noted.
        data_dir, download: See `data.load_split`.
        device: A torch device.
        photos: A folder of photos per class, on which `photos`, the accuracy and their number, is measured anew.
        holdout_run: Run folder of the folder's recipe on the holdout, which the temperature comes from. It takes the place
            of one that is there.
        skip_broken: Leave out, with a warning, pictures and photos that cannot be read.

    Returns:
        What was added or measured anew; nothing if nothing was lacking.

    Raises:
        CheckpointError: The weights are not the folder's, or do not give its accuracy, or it has none; or the run on the
            holdout is of another recipe, or was given for a run folder.
        UnknownNameError: There is no such checkpoint or folder.
    """
    source = resolve(model, folder_first=True)
    if source.kind == "run" and holdout_run is not None:
        raise CheckpointError(
            f"{model} is a run folder; only a checkpoint folder takes its temperature from another run. Build one from "
            f"both: cnnzoo build {model} --holdout {holdout_run}."
        )
    with folder_of(model) as folder:
        where = dict(data_dir=data_dir, download=download, skip_broken=skip_broken)
        added = _measure(folder, where, device, photos, holdout_run)
    if source.kind == "run" and added:
        path = source.folder / METRICS
        write_json(path, _after("ece", checkpoints.read_json(path), added))
    return added


def _measure(
    folder: Path, where: dict[str, Any], device: str, photos: str | Path | None, holdout_run: str | Path | None
) -> dict[str, Any]:
    metrics, recipe = read_numbers(folder)
    if "top1" not in metrics:
        raise CheckpointError(
            f"{folder} has no measured numbers; only a folder built from a run has them. Build it so: cnnzoo build."
        )
    checkpoints.verify(folder / checkpoints.WEIGHTS, str(metrics.get("sha256")))
    model = registry.create_model(f"local-dir:{folder}", pretrained=True)
    storage.check_stored(folder / checkpoints.WEIGHTS, model, "Build the folder again from its runs: cnnzoo build.")
    noted = {} if holdout_run is None else noted_on_holdout(user_path(holdout_run), recipe, metrics, model)
    if noted and "temperature" not in noted:
        raise CheckpointError(
            f"{holdout_run} has no temperature: its holdout gives none, as where all answers are right or all are guessed. "
            "Hold out more images, of more data."
        )
    if noted:  # the error that was measured is that of another temperature, if of any
        metrics = {k: v for k, v in metrics.items() if k != "ece_calibrated"} | noted
    lacking = _lacking(metrics, photos)
    if not lacking:
        return {}
    info = facts(metrics, recipe)
    registry.on_device(model, device)
    size = data.reading_size(recipe["dataset"], info.image_size)
    split = data.load_split(recipe["dataset"], "test", image_size=size, **where)
    logits = evaluate.predict_logits(model, split, image_size=info.image_size[1:])
    measured = evaluate.measure(logits, split.labels)
    for key, distance in _SAME.items():
        if abs(getattr(measured, key) - metrics[key]) > distance:
            raise CheckpointError(
                f"{folder} says {key} {metrics[key]}, and {getattr(measured, key)} was measured. Pass the data that it was "
                "measured on (--data-dir), or build the folder again."
            )
    added = noted | _added(lacking, metrics, measured, model, split, logits)
    if photos is not None:
        found = photographs.evaluate_photos(model, photos, skip_broken=where["skip_broken"]).metrics
        added["photos"] = dict(top1=found.top1, count=found.count)
    with replacing(folder) as made:
        shutil.copyfile(folder / checkpoints.WEIGHTS, made / checkpoints.WEIGHTS)
        write_rest(made, model.cpu(), info, _after("ece", metrics, added), recipe)
    return added


def _lacking(metrics: dict[str, Any], photos: str | Path | None) -> set[str]:
    """The names of what is to be measured."""
    lacking = set() if "confusion" in metrics else {"confusion"}
    if "temperature" in metrics and "ece_calibrated" not in metrics:
        lacking.add("ece_calibrated")
    if set(metrics.get("robustness", ())) != set(robustness.names()):
        lacking.add("robustness")
    if photos is not None:
        lacking.add("photos")
    return lacking


def _added(
    lacking: set[str], metrics: dict[str, Any], measured: evaluate.Metrics, model: nn.Module, split: data.Split,
    logits: Tensor,
) -> dict[str, Any]:  # fmt: skip
    added: dict[str, Any] = {}
    if "confusion" in lacking:
        added["confusion"] = measured.confusion
    if "ece_calibrated" in lacking:
        added["ece_calibrated"] = evaluate.measure(logits / metrics["temperature"], split.labels).ece
    if "robustness" in lacking:
        added["robustness"] = robustness.accuracies(model, split)
    return added


def _after(key: str, metrics: dict[str, Any], added: dict[str, Any]) -> dict[str, Any]:
    """The metrics with more of them: those that are new come behind one of the keys, the others in their old places."""
    order = []
    for name in metrics:
        order += [name, *(k for k in added if k not in metrics)] if name == key else [name]
    return {k: added.get(k, metrics.get(k)) for k in order}
