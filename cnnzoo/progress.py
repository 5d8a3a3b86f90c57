"""What is shown of work that takes a while: a bar on a terminal, elsewhere a plain line now and then."""

import contextlib
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

_Item = TypeVar("_Item")
_EVERY = 15.0  # seconds without a line, where there is no terminal


def progress(items: Iterable[_Item], desc: str, *, total: int | None = None, unit: str = "it") -> Iterator[_Item]:
    """Hands on `items` one by one, and shows on stderr how far it is.

    Args:
        items: With a length, or give `total`.
        desc: What is done to them, in one word or two.
        total: How many there are.
        unit: What one of them is called beside a bar.
    """
    total = len(items) if total is None else total
    bar = tqdm(items, total=total, desc=desc, unit=unit, leave=False, disable=no_bar())
    if not bar.disable:
        yield from bar
        return
    said = time.monotonic()
    for done, item in enumerate(items):
        if time.monotonic() - said >= _EVERY:
            said = time.monotonic()
            say(f"{desc}: {done} of {total}")
        yield item


def no_bar() -> bool | None:
    """What tqdm's `disable` has to be: None, which has it look for a terminal, or True where there is no stderr at all.

    A program without a console has none, and tqdm would fail there.
    """
    return True if sys.stderr is None else None


def say(text: str) -> None:
    """Writes a line to stderr. That nobody can read it any more does not end a run of hours."""
    if sys.stderr is None:  # it was closed before Python began; print would take standard output instead
        return
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)
