"""What a process that is the command `cnnzoo` does before it imports the rest, which takes seconds.

Importing this module does it: it answers Ctrl-C in one line, and gives closed streams a place to write to, so that no file
that is opened later becomes standard output or standard error. A process that only imports cnnzoo stays as it is.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator

INTERRUPTED = 130  # the exit code of a command that Ctrl-C ended, as shells have it
TERMINATED = 143  # and of one that SIGTERM ended


def _prepare() -> None:
    if not _COMMAND:
        return
    for _ in range(3):
        if (number := os.open(os.devnull, os.O_RDWR)) > 2:  # the lowest number that is free
            os.close(number)
            break
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else whoever started the command ignores Ctrl-C
        signal.signal(signal.SIGINT, _stop)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Inside the block Ctrl-C raises `KeyboardInterrupt` and SIGTERM `SystemExit`, so that what was begun is undone; outside
    it they just end a command."""
    answers = {signal.SIGINT: (_stop, signal.default_int_handler), signal.SIGTERM: (signal.SIG_DFL, _terminate)}
    changed = [n for n, (outside, _) in answers.items() if _COMMAND and signal.getsignal(n) == outside]
    for number in changed:
        signal.signal(number, answers[number][1])
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, answers[number][0])


def _is_command() -> bool:
    program = os.path.basename(sys.argv[0]) if sys.argv else ""
    # While `python -m cnnzoo` imports the package, "-m" stands in for the program.
    return program.removesuffix(".exe") == "cnnzoo" or (program == "-m" and "cnnzoo" in sys.orig_argv)


def _stop(number: int, frame: object) -> None:
    with contextlib.suppress(OSError):
        os.write(2, b"Error: stopped by Ctrl-C.\n")
    os._exit(INTERRUPTED)  # not by an exception: in the middle of an import some libraries make another one of it


def _terminate(number: int, frame: object) -> None:
    signal.signal(number, signal.SIG_DFL)  # a second one ends it at once
    raise SystemExit(TERMINATED)


_COMMAND = _is_command()  # later "-m" is a path
_prepare()
