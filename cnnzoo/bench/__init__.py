"""How fast training and inference are: ratios, each measured in one run on one machine.

`cnnzoo bench train`, `cnnzoo bench scaling` and `cnnzoo bench infer` print them as tables and write JSON; `cnnzoo bench
transfer` does it with accuracies.
"""

from ._infer import FORMS, MODELS, QUICK, cold_start, forms
from ._peers import PEERS, collect, keep, trained
from ._picture import draw
from ._scaling import scaling
from ._tables import TABLES, Table, markdown, where
from ._timing import machine, median_seconds
from ._train import cold_starts, loops, switches
from ._transfer import transfer

__all__ = [
    "FORMS", "MODELS", "PEERS", "QUICK", "TABLES", "Table", "cold_start", "cold_starts", "collect", "draw", "forms", "keep",
    "loops", "machine", "markdown", "median_seconds", "scaling", "switches", "trained", "transfer", "where",
]  # fmt: skip
