"""What a model may be built with."""

from numbers import Integral, Real
from typing import Any

from ..errors import CnnzooError, unknown

POOLINGS = ("avg", "max", "avgmax", "catavgmax", "flatten", "")


def check_arguments(
    num_classes: Any = 0, in_chans: Any = 1, global_pool: Any = "avg", drop_rate: Any = 0.0, drop_path_rate: Any = 0.0
) -> None:
    """Refuses arguments that no model can be built with; see `ConvNet` for what they are.

    Raises:
        CnnzooError: A number is of the wrong kind, or out of range.
        UnknownNameError: There is no such pooling.
    """
    for name, value, least, example in (("num_classes", num_classes, 0, 10), ("in_chans", in_chans, 1, 1)):
        if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
            raise CnnzooError(
                f"{name}={value!r} was given; allowed is a whole number from {least}. Pass {name}={example}, for example."
            )
    for name, value in (("drop_rate", drop_rate), ("drop_path_rate", drop_path_rate)):
        if not isinstance(value, Real) or isinstance(value, bool) or not 0 <= value <= 1:
            raise CnnzooError(f"{name}={value!r} was given; allowed is a number from 0 to 1. Pass {name}=0.1, for example.")
    if global_pool not in POOLINGS:
        raise unknown("global_pool", str(global_pool), POOLINGS)


def check_size(name: str, value: Any) -> tuple[int, int]:
    """Height and width, from a number for both or from the two.

    Raises:
        CnnzooError: It is neither.
    """
    pair = tuple(value) if isinstance(value, (list, tuple)) else (value, value)
    if len(pair) != 2 or not all(isinstance(n, Integral) and not isinstance(n, bool) and n > 0 for n in pair):
        raise CnnzooError(
            f"{name}={value!r} was given; allowed is a whole number of pixels from 1, or height and width. Pass {name}=28, "
            "for example."
        )
    return int(pair[0]), int(pair[1])
