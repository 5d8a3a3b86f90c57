"""Checkpoints as Hugging Face Hub repositories: made from runs, verified, pushed, pulled.

`build` makes a checkpoint folder, a repository exactly as it is published; `measure` adds to its numbers; `verify` holds it
against itself; `push` sends it; `pull` fetches one and trusts nothing in it.
"""

from ._build import RGB, build, card, config, twin
from ._measure import measure
from ._pull import Pulled, pull
from ._push import publish, push
from ._verify import verify

__all__ = ["RGB", "Pulled", "build", "card", "config", "measure", "publish", "pull", "push", "twin", "verify"]
