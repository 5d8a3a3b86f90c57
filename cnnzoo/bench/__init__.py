"""How fast training and inference are: ratios, each measured in one run on one machine.

`cnnzoo bench train`, `cnnzoo bench scaling` and `cnnzoo bench infer` print them as tables and write JSON.
"""

from ._infer import FORMS, forms, forms_markdown, forms_table, where
from ._scaling import scaling
from ._timing import machine
from ._train import cold_starts, loops, switches

__all__ = [
    "FORMS",
    "cold_starts",
    "forms",
    "forms_markdown",
    "forms_table",
    "loops",
    "machine",
    "scaling",
    "switches",
    "where",
]
