"""Training: one recipe in, one run folder out."""

from ._loop import train
from ._parts import Loss
from ._run import Run
from ._saving import CHECKPOINT, environment

__all__ = ["CHECKPOINT", "Loss", "Run", "environment", "train"]
