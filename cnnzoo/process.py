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


def _prepare() -> None:
    if not _is_command():
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
    """Inside the block Ctrl-C raises `KeyboardInterrupt`, so that what was begun is undone; outside it just ends."""
    waiting = signal.getsignal(signal.SIGINT) is _stop
    if waiting:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        if waiting:
            signal.signal(signal.SIGINT, _stop)


def _is_command() -> bool:
    program = os.path.basename(sys.argv[0]) if sys.argv else ""
    # While `python -m cnnzoo` imports the package, "-m" stands in for the program.
    return program.removesuffix(".exe") == "cnnzoo" or (program == "-m" and "cnnzoo" in sys.orig_argv)


def _stop(number: int, frame: object) -> None:
    with contextlib.suppress(OSError):
        os.write(2, b"Error: stopped by Ctrl-C.\n")
    os._exit(INTERRUPTED)  # not by an exception: in the middle of an import some libraries make another one of it


_prepare()
