"""What a run shows while it trains."""

from tqdm import tqdm

from ..recipes import Recipe


class Progress:
    """A bar over the images of all epochs, where there is a terminal.

    Args:
        recipe: Of the run.
        updates_per_epoch: How many there are.
        done: Updates before this sitting.
        shown: Whether this process shows anything.
    """

    def __init__(self, recipe: Recipe, updates_per_epoch: int, done: int, shown: bool) -> None:
        scale = dict(unit="img", unit_scale=recipe.batch_size, smoothing=0.05)
        total = recipe.epochs * updates_per_epoch
        self._bar = tqdm(total=total, initial=done, desc=recipe.model, disable=None if shown else True, **scale)

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
