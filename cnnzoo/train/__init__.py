"""Training: one recipe in, one run folder out."""

from ._loop import Run, train
from ._parts import Loss
from ._saving import CHECKPOINT, environment

__all__ = ["CHECKPOINT", "Loss", "Run", "environment", "train"]
