"""`cnnzoo` with a data set of a few random images, for tests that need real processes. Takes what `cnnzoo` takes."""

import os
import sys
import tempfile
from pathlib import Path

from helpers import write_miniature

from cnnzoo import datasets
from cnnzoo.cli import main

with tempfile.TemporaryDirectory() as folder:
    info = write_miniature(Path(folder), num_train=320, num_test=13)  # 13: two processes cannot share it evenly
    datasets.DATASETS[info.name] = info
    os.environ["CNNZOO_DATA_DIR"] = folder
    main(sys.argv[1:])
