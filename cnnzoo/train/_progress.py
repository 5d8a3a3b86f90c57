"""What a run shows while it trains: a bar on a terminal, elsewhere a line per epoch."""

import math
from typing import Any

from tqdm import tqdm

from ..progress import no_bar, say
from ..recipes import Recipe


class Progress:
    """A bar over the images of all epochs where there is a terminal, else a line on stderr after every epoch.

    Args:
        recipe: Of the run.
        updates_per_epoch: How many there are.
        done: Updates before this sitting.
        own: Height and width of the images.
        shown: Whether this process shows anything.
    """

    def __init__(self, recipe: Recipe, updates_per_epoch: int, done: int, own: tuple[int, int], shown: bool) -> None:
        scale = dict(unit="img", unit_scale=recipe.batch_size, smoothing=0.05)
        total = recipe.epochs * updates_per_epoch
        self._bar = tqdm(total=total, initial=done, desc=recipe.model, disable=no_bar() if shown else True, **scale)
        self._lines = shown and self._bar.disable  # tqdm found no terminal
        self._recipe, self._own = recipe, own

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def update(self) -> None:
        """One more update is done."""
        self._bar.update()

    def show(self, epoch: int, loss: float, top1: float, holdout: float | None) -> None:
        """What is known in the middle of `epoch`, counted from 1: mean loss and percent right so far, and percent right on
        the holdout after the epoch before.
        """
        shown = dict(epoch=epoch, loss=f"{loss:.3f}", top1=f"{top1:.1f}%")
        if holdout is not None:
            shown["holdout"] = f"{holdout:.1f}%"
        self._bar.set_postfix(shown, refresh=False)

    def epoch_done(self, line: dict[str, Any], seconds: float) -> None:
        """Says what an epoch came to.

        Args:
            line: Of metrics.jsonl.
            seconds: That all epochs so far took.
        """
        if not self._lines:
            return
        holdout = f", holdout {line['holdout_top1']:.2f} %" if "holdout_top1" in line else ""
        left = seconds * self._pixels(line["epoch"], self._recipe.epochs) / self._pixels(0, line["epoch"])
        say(
            f"epoch {line['epoch']} of {self._recipe.epochs}: loss {line['train_loss']:.3f}, accuracy "
            f"{line['train_top1']:.2f} %{holdout}, {_duration(line['seconds'])}, {_duration(left)} left"
        )

    def _pixels(self, first: int, end: int) -> int:
        """Of one image in each of some epochs: what an epoch costs grows with the images of progressive resizing."""
        return sum(math.prod(self._recipe.size_at(epoch, self._own)) for epoch in range(first, end))


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"
