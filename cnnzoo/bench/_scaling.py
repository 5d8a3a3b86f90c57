"""What an epoch costs as the data, the processes and the model grow."""

import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from .. import data, summary, train
from ..checkpoints import LOG
from ..data import Split
from ..datasets import FASHION_MNIST
from ..files import parse_json
from ..progress import progress
from ..recipes import get_recipe
from ..registry import create_model

_IMAGES = 60_000
_FEW = 12_800  # images, for the axes along which an epoch of all would take minutes
_MODELS = ("resnet_tiny", "resnet_small", "resnet_base")


def scaling(*, images: int = _IMAGES, few: int = _FEW, models: tuple[str, ...] = _MODELS) -> list[dict[str, Any]]:
    """One epoch of `standard` on whole synthetic images, each in fresh processes: 1, 2 and 4 times as many images, 1 and 2
    processes of one thread each, and models of growing size.

    Args:
        images: The data set's size, of `lenet_tiny`.
        few: The data set's size where processes (of `models[0]`) and models grow.
        models: Small to large.

    Returns:
        A row each: `axis` (`"data"`, `"processes"` or `"model"`), `model`, `images`, `processes`, `seconds` of the epoch,
        `images_per_s`, `gmacs_per_s` (billions of multiply-accumulates, a step counted as three forward passes), and
        `peak_mb`, the resident memory of the largest process.
    """
    points = [("data", "lenet_tiny", images * n, 0) for n in (1, 2, 4)]
    points += [("processes", models[0], few, n) for n in (1, 2)]
    points += [("model", model, few, 0) for model in models]
    rows = []
    for axis, model, count, processes in progress(points, "scaling"):
        found = _measure(model, count, processes)
        rate = count / found["seconds"]
        speed = 3 * summary.count(create_model(model), FASHION_MNIST.image_size).macs * rate / 1e9
        row = dict(axis=axis, model=model, images=count, processes=max(1, processes), seconds=round(found["seconds"], 2))
        rows.append(dict(row, images_per_s=round(rate), gmacs_per_s=round(speed, 1), peak_mb=found["peak_mb"]))
    return rows


def _measure(model: str, images: int, processes: int) -> dict[str, Any]:
    """An epoch under torchrun with so many processes of one thread, or, for 0, in one process with all cores."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)] if processes else []
    env = dict(os.environ, **({"OMP_NUM_THREADS": "1"} if processes else {}))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        command = [sys.executable, *launcher, "-m", "cnnzoo.bench", model, str(images), str(out)]
        subprocess.run(command, check=True, capture_output=True, env=env)
        return parse_json(out.read_text())


def main(arguments: list[str]) -> None:
    """One point of `scaling`, in this process: MODEL IMAGES FOUND.json."""
    model, images, out = arguments[0], int(arguments[1]), Path(arguments[2])
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (images, 1, 28, 28), dtype=torch.uint8, generator=generator)
    split = Split(pixels, torch.randint(0, 10, (images,), generator=generator), FASHION_MNIST)
    with served(split, split[:1000]):
        train.train(get_recipe("standard", model, epochs=1, start_size=0), out.parent / "run", device="cpu")
    if int(os.environ.get("RANK", "0")):
        return
    line = parse_json((out.parent / "run" / LOG).read_text())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, kilobytes elsewhere
    out.write_text(json.dumps(dict(seconds=line["seconds"], peak_mb=round(peak / unit))))


@contextlib.contextmanager
def served(split: Split, judge: Split) -> Iterator[None]:
    """Inside the block `train.train`, which reads its data by name, gets these splits from memory."""
    former = data.load_splits
    data.load_splits = lambda *_, **__: (split, judge)
    try:
        yield
    finally:
        data.load_splits = former
