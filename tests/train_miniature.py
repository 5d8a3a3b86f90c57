"""`cnnzoo` with a data set of a few random images, for tests that need real processes. Takes what `cnnzoo` takes.

With CTRL_C_AT=N in the environment the process gets, at its update N, the signal that Ctrl-C sends.
"""

import os
import signal
import sys
import tempfile
from pathlib import Path

from helpers import write_miniature

from cnnzoo import datasets
from cnnzoo.cli import main
from cnnzoo.train import _loop


def interrupt_at(count: int) -> None:
    """Has the process interrupt itself at that update."""
    done = []

    def update(*args, real=_loop._update):
        done.append(1)
        if len(done) == count:
            os.kill(os.getpid(), signal.SIGINT)
        return real(*args)

    _loop._update = update


if at := os.environ.get("CTRL_C_AT"):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs without it
    interrupt_at(int(at))

with tempfile.TemporaryDirectory() as folder:
    info = write_miniature(Path(folder), num_train=320, num_test=13)  # 13: two processes cannot share it evenly
    datasets.DATASETS[info.name] = info
    os.environ["CNNZOO_DATA_DIR"] = folder
    main(sys.argv[1:])
