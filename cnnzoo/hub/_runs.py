"""What finished runs have to have in common, and what they say together of a checkpoint."""

import statistics
from pathlib import Path
from typing import Any

from torch import nn

from .. import storage
from ..errors import CheckpointError
from ..holdout import has_seen_holdout
from ..recipes import completed
from ..resolve import Run, read_run, resolve, resume_command


def read_finished(given: Path, split: str) -> Run:
    """A run of a model of the zoo, which measured a split at its end.

    Raises:
        CheckpointError: It is none, is unfinished, or measured another split.
    """
    source = resolve(given)
    if source.kind != "run":
        raise CheckpointError(f"{given} is a checkpoint folder; a run folder is needed. Name one that cnnzoo train made.")
    run = read_run(source.name)
    if run.is_timms:
        raise CheckpointError(
            f"{given} is a run of {run.arch}; checkpoint folders are of models of the zoo. Use the run folder itself, which "
            "cnnzoo predict, eval, export and app take."
        )
    if run.metrics["split"] != split:
        raise CheckpointError(
            f"{given} measured the {run.metrics['split']} split; a run on {split} is needed. Train it "
            f"{'with' if split == 'holdout' else 'without'} --holdout."
        )
    return run


def check_alike(run: Run, recipe: dict[str, Any], metrics: dict[str, Any]) -> None:
    """Sees that a run differs from another, whose recipe and metrics these are, in its seed and in nothing else.

    Raises:
        CheckpointError: It differs in more.
    """
    for what, differs in (
        ("has another recipe", _comparable(run.recipe, run.metrics) != _comparable(recipe, metrics)),
        ("was trained on other data", run.metrics.get("data") != metrics.get("data")),
    ):
        if differs:
            raise CheckpointError(
                f"{run.folder} {what} than the other runs of this checkpoint. Give runs that differ only in their seed."
            )


def _comparable(recipe: dict[str, Any], measured: dict[str, Any]) -> dict[str, Any]:
    """What has to be the same in all runs of a checkpoint.

    Of teachers that is what kind of model they are: those of the run on the holdout have to be others of that kind, which
    have not seen the holdout either.
    """
    same = {k: v for k, v in completed(recipe).items() if k not in ("seed", "holdout", "compile", "teacher", "answers")}
    return same | dict(teachers=measured.get("teachers", []))


def merged(runs: list[Run]) -> dict[str, Any]:
    """The metrics of a checkpoint that is the first of some runs, which measured the test set."""
    tops = [run.metrics["top1"] for run in runs]
    return dict(
        {k: v for k, v in runs[0].metrics.items() if k != "split"},
        model=runs[0].arch,
        seeds=[run.metrics["seed"] for run in runs],
        top1_mean=round(statistics.mean(tops), 3),
        top1_std=round(statistics.stdev(tops), 3) if len(tops) > 1 else None,
    )


def noted_on_holdout(given: Path, recipe: dict[str, Any], metrics: dict[str, Any], model: nn.Module) -> dict[str, Any]:
    """What a run on the holdout adds to the metrics of a checkpoint of the same recipe: above all the temperature, if it has
    one.

    Raises:
        CheckpointError: It is no such run.
    """
    run = read_finished(given, "holdout")
    check_alike(run, recipe, metrics)
    storage.check_stored(run.weights, model, f"Measure them again: {resume_command(run.folder)}")
    if run.recipe.get("pretrained") and has_seen_holdout(run.recipe["model"], run.info):
        raise CheckpointError(
            f"{given} began with weights that had been trained on its holdout ({run.recipe['model']}), so what it measured "
            "there says nothing. Leave --holdout out."
        )
    noted = dict(holdout_top1=run.metrics["top1"], holdout_command=run.metrics["command"])
    return noted if run.temperature == 1 else noted | dict(temperature=run.temperature)
