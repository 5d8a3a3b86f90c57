"""Checkpoints as Hugging Face Hub repositories: made from runs, verified, pushed, pulled.

`build` makes a checkpoint folder, a repository exactly as it is published, from runs or a model; `measure` adds to its
numbers; `verify` checks that its files agree; `push` sends it; `pull` fetches one and trusts nothing in it.
"""

from ._build import build, config, placed_in, twin
from ._card import RGB, card
from ._measure import measure
from ._pull import Pulled, pull
from ._push import publish, push
from ._verify import verify

__all__ = ["RGB", "Pulled", "build", "card", "config", "measure", "placed_in", "publish", "pull", "push", "twin", "verify"]
