"""Training: one recipe in, one run folder out."""

from ._answers import ask
from ._loop import train
from ._parts import Loss
from ._run import Run
from ._saving import CHECKPOINT, environment

__all__ = ["CHECKPOINT", "Loss", "Run", "ask", "environment", "train"]
