"""`few_images.py FILE ...` and `few_images.py -m MODULE ...` are `python` with a few random images for Fashion-MNIST."""

import os
import runpy
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from helpers import write_miniature

from cnnzoo.datasets import DATASETS, FASHION_MNIST

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        few = write_miniature(Path(folder), num_train=1_100, num_test=60)
        DATASETS[FASHION_MNIST.name] = replace(few, name=FASHION_MNIST.name, title=FASHION_MNIST.title)
        os.environ["CNNZOO_DATA_DIR"] = folder
        del sys.argv[0]
        if sys.argv[0] == "-m":
            del sys.argv[0]
            runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(sys.argv[0], run_name="__main__")
