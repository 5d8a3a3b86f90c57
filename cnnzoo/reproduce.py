"""Whether a checkpoint's number can be had again: its recipe, trained anew, against its card."""

import dataclasses
import math
from pathlib import Path
from typing import Any

from . import checkpoints, train
from .datasets import get_dataset_info
from .errors import unknown
from .recipes import Recipe, override
from .resolve import resolve

_ERRORS = 3  # standard errors of the difference that are allowed
FORMULA = f"{_ERRORS} sqrt((p (1 - p) + q (1 - q)) / n)"


@dataclasses.dataclass(frozen=True)
class Reproduction:
    """A run compared with a checkpoint's card.

    Attributes:
        checkpoint: `<arch>.<tag>`.
        seed: Of the run; the card's number is of the seed that ships.
        card: Top-1 of the card, in percent of `count` test images.
        top1: Top-1 of the run.
        count: Test images, n.
        tolerance: Points that chance explains: `FORMULA`, for the shares p and q of right answers.
        run: The run folder.
        teachers: Names of the checkpoints that the run learned from. They are the zoo's; the runs that taught the checkpoint
            itself are not published.
    """

    checkpoint: str
    seed: int
    card: float
    top1: float
    count: int
    tolerance: float
    run: str
    teachers: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        """Whether the two numbers differ by no more than the tolerance, in either direction."""
        return abs(self.top1 - self.card) <= self.tolerance


def reproduce(
    name: str,
    out: str | Path,
    *,
    seed: int | None = None,
    data_dir: str | Path | None = None,
    download: bool = False,
    resume: bool = False,
    device: str | None = None,
) -> Reproduction | None:
    """Trains a checkpoint again by its recipe.json, and compares accuracies on the test set.

    A model that was taught is taught again by the zoo's weights of its teachers' names, which are asked while it trains.

    Args:
        name: A checkpoint of the zoo, or a model, whose default it then is.
        out: The run folder.
        seed: The recipe's own if None.
        data_dir, download, resume, device: See `train.train`.

    Returns:
        Both numbers; under several processes, on other processes than the main one, nothing.

    Raises:
        UnknownNameError: There is no such checkpoint, or its recipe has a field that this version does not know.
        CheckpointError, TrainingError, CnnzooError: As `train.train`.
    """
    name = _checkpoint(name)
    stored = checkpoints.read_json(checkpoints.folder(name) / checkpoints.RECIPE)
    recipe = override(Recipe(model=name.split(".", 1)[0]), **stored)
    if teachers := checkpoints.metrics(name).get("teachers"):
        # Folders with their answers, or with their runs, are not published.
        recipe = override(recipe, answers="", teacher=",".join(teachers))
    if seed is not None:
        recipe = override(recipe, seed=seed)
    measured = train.train(recipe, out, data_dir=data_dir, download=download, resume=resume, device=device)
    return compare(name, measured, out) if measured else None


def compare(name: str, measured: dict[str, Any], run: str | Path = "") -> Reproduction:
    """Compares the metrics of a run with the card of the checkpoint `name`."""
    card, count = checkpoints.metrics(name)["top1"], get_dataset_info(measured["dataset"]).num_test
    tolerance = 100 * _tolerance(card / 100, measured["top1"] / 100, count)
    seed, top1, teachers = measured["seed"], measured["top1"], tuple(measured.get("teachers", ()))
    return Reproduction(name, seed, card, top1, count, round(tolerance, 3), str(run), teachers)


def _tolerance(p: float, q: float, count: int) -> float:
    """So many standard errors of the difference of two shares of right answers, each binomial over `count` images.

    The runs see the same test images, which makes their errors alike and the true standard error smaller: this is generous.
    """
    return _ERRORS * math.sqrt((p * (1 - p) + q * (1 - q)) / count)


def _checkpoint(name: str) -> str:
    source = resolve(name)
    if source.kind != "name" or source.folder is None:
        known = checkpoints.names()
        raise unknown("checkpoint", name, known, hint="cnnzoo list --pretrained lists the checkpoints.")
    return source.folder.name
