"""A run: what changes while training, and how it is kept in its folder and taken up again."""

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from ..checkpoints import ENVIRONMENT, RECIPE
from ..errors import CheckpointError, TrainingError
from ..files import write_json
from ..recipes import Recipe
from ._answers import Answers
from ._optimizer import Schedule
from ._parts import Loss
from ._saving import (
    CHECKPOINT,
    check_places,
    clear_leftovers,
    damaged,
    environment,
    load_state,
    refuse_former_run,
    save_state,
)


@dataclass
class Run:
    """Everything that changes while training, and what it is trained with."""

    recipe: Recipe
    holdout: bool
    out: Path
    accelerator: Accelerator
    model: nn.Module  # the plain module; its weights are what is saved
    forward: nn.Module  # the same weights behind processes, mixed precision and torch.compile
    ema: ModelEmaV3 | None
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    loss: Loss
    updates_per_epoch: int
    data: dict[str, Any]  # what the run was begun with, see `_saving.fingerprint`
    answers: Answers | None = None  # of teachers, asked before
    start: dict[str, Tensor] | None = None  # the pretrained weights, where the recipe's `wise_ft` wants them at the end
    epoch: int = 0  # completed
    step: int = 0  # updates done in the epoch after those
    tally: Tensor = field(default_factory=lambda: torch.zeros(3))  # of that epoch: loss times images, right answers, images
    seconds: float = 0.0  # spent training, over all sittings
    spent: float = 0.0  # of these, in the epoch that is not completed, before `began`
    began: float = 0.0  # when this sitting began with that epoch, by `time.perf_counter`
    history: list[dict[str, Any]] = field(default_factory=list)  # the lines of metrics.jsonl
    stop: bool = False  # SIGTERM came

    @property
    def identity(self) -> dict[str, Any]:
        """What has to be the same for a run to be resumed."""
        return dict(dataclasses.asdict(self.recipe), holdout=self.holdout)

    @property
    def best_weights(self) -> nn.Module:
        """The module whose weights are published: the average if there is one."""
        return self.ema.module if self.ema is not None else self.model


def open_folder(run: Run, resume: bool) -> None:
    """Makes the run folder, or goes on with what is in it."""
    if not resume:
        refuse_former_run(run.out)
    run.accelerator.wait_for_everyone()  # before the main process puts a checkpoint there
    if resume and (run.out / CHECKPOINT).is_file():
        load(run)
    if run.accelerator.is_main_process:
        check_places(run.out)
        clear_leftovers(run.out)
        write_json(run.out / RECIPE, run.identity)
        write_json(run.out / ENVIRONMENT, environment(run.accelerator.device))
        if not run.history and not run.step:
            save(run)


def diverged(run: Run, what: str) -> TrainingError:
    """The error for numbers that are not finite, which `what` names."""
    return TrainingError(
        f"{what} (epoch {run.epoch + (run.step > 0)}). Lower the learning rate (lr={run.recipe.lr}) or set clip_grad; "
        f"{run.out / CHECKPOINT} holds the last good state."
    )


def check_weights(run: Run) -> None:
    """Sees that no weight has become infinite or NaN, as the last update may leave it: no loss comes after that.

    Raises:
        TrainingError: One has.
    """
    for name, tensor in (*run.model.state_dict().items(), *run.best_weights.state_dict().items()):
        if not torch.isfinite(tensor).all():
            raise diverged(run, f"{name} of the model is no longer finite")


def save(run: Run) -> None:
    """Writes the state of a run into its folder."""
    state = dict(
        recipe=run.identity,
        data=run.data,
        answers=run.answers.sha256 if run.answers else None,
        epoch=run.epoch,
        step=run.step,
        tally=run.tally.cpu(),
        seconds=run.seconds,
        spent=run.spent,
        history=run.history,
        model=run.model.state_dict(),
        ema=run.ema.state_dict() if run.ema is not None else None,
        optimizer=run.optimizer.state_dict(),
    )
    save_state(run.out, state)


def load(run: Run) -> None:
    """Goes on from the state in the run's folder."""
    state = load_state(run.out, run.identity, run.data)
    if run.answers and state.get("answers", run.answers.sha256) != run.answers.sha256:  # older checkpoints do not say
        raise CheckpointError(
            f"{run.recipe.answers} holds other answers than when the run in {run.out} began. Ask the same teachers again, "
            "or choose another --out."
        )
    try:
        run.model.load_state_dict(state["model"])
        if run.ema is not None:
            run.ema.load_state_dict(state["ema"])
        run.optimizer.load_state_dict(state["optimizer"])
        run.epoch, run.step, run.seconds = int(state["epoch"]), int(state["step"]), float(state["seconds"])
        run.spent = float(state.get("spent", 0.0))  # older checkpoints have none
        run.tally, run.history = state["tally"].to(run.tally), list(state["history"])
        _check_progress(run)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as e:
        raise damaged(run.out / CHECKPOINT, e) from e


def _check_progress(run: Run) -> None:
    """Sees that what a checkpoint says of its run can be true.

    Raises:
        ValueError: It cannot.
    """
    tensors = [*run.model.state_dict().values(), *run.best_weights.state_dict().values(), run.tally]
    steps = run.updates_per_epoch if run.epoch < run.recipe.epochs else 0
    if (
        run.epoch > run.recipe.epochs
        or [line["epoch"] for line in run.history] != list(range(1, run.epoch + 1))
        or not 0 <= run.step <= steps
        or not 0 <= run.spent <= run.seconds < math.inf
        or run.tally.shape != (3,)
        or not all(torch.isfinite(tensor).all() for tensor in tensors)
    ):
        raise ValueError("what it says of the run cannot be true")
