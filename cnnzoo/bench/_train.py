"""How fast training is."""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import torch.compiler.config
from torch import nn
from torch.nn import functional as F
from torchvision.datasets import FashionMNIST
from torchvision.transforms import ToTensor

from .. import registry, train
from ..checkpoints import LOG
from ..data import Split
from ..files import parse_json
from ..memory import keep_memory
from ..progress import progress
from ..recipes import get_recipe
from ._scaling import served
from ._timing import median_seconds

_BATCH = 128
_WARM_UP = 20  # batches that are timed apart
# What is turned on one after the other: name, bf16 autocast, channels_last, torch.compile.
_SWITCHES = (
    ("fp32", False, False, False),
    ("+ bf16", True, False, False),
    ("+ channels_last", True, True, False),
    ("+ compile", True, True, True),
)


def loops(split: Split, *, model: str = "lenet_d2l", repeats: int = 3) -> list[dict[str, Any]]:
    """One epoch of `model` at batch 128: a plain loop as a textbook has it, and ours, with the same arithmetic, in bf16, and
    compiled too.

    The plain loop takes each image from torchvision's data set through PIL and `ToTensor`, with and without worker
    processes, in fp32. Ours is `train.train` with the recipe `textbook`. Both keep loss and accuracy. Each epoch has a
    process of its own, as ours tells the C library how to keep memory, and starts after a run of a few batches, which is
    timed apart: torch.compile works then, without what it kept of earlier runs. The loops take turns, so that a slow moment
    of the machine meets each of them.

    Args:
        split: What to train on.
        model: A model of the zoo.
        repeats: Epochs of each.

    Returns:
        A row each with `loop`, and the medians of `seconds` and of `warm_up`, the seconds of the run before; ours also with
        `times`, how many times faster they are than the faster plain one.
    """
    contenders: dict[str, tuple[Callable[..., float], Any]] = {
        "DataLoader, no workers": (_plain_epoch, 0),
        "DataLoader, 2 workers": (_plain_epoch, 2),
        "cnnzoo, recipe textbook": (_our_epoch, dict()),
        "cnnzoo, the same in bf16": (_our_epoch, dict(amp="bf16")),
        "cnnzoo, in bf16 and compiled": (_our_epoch, dict(amp="bf16", compile=True)),
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for name, (epoch, how) in progress([*contenders.items()] * repeats, "loops"):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
            found[name].append(fresh.submit(_warm_epoch, epoch, split, model, how).result())
    rows: list[dict[str, Any]] = []
    for name, times in found.items():
        warm_up, seconds = (round(statistics.median(column), 2) for column in zip(*times, strict=True))
        rows.append(dict(loop=name, warm_up=warm_up, seconds=seconds))
    plain = min(row["seconds"] for row in rows[:2])
    return rows[:2] + [dict(row, times=round(plain / row["seconds"], 2)) for row in rows[2:]]


def _warm_epoch(epoch: Callable[[Split, str, Any], float], split: Split, model: str, how: Any) -> tuple[float, float]:
    """Seconds of a few batches in this fresh process, and of an epoch after them."""
    with torch.compiler.config.patch(force_disable_caches=True):
        return epoch(split[: _WARM_UP * _BATCH], model, how), epoch(split, model, how)


class _InMemory(FashionMNIST):
    """torchvision's data set, without its files: it hands out the images of a split, one by one, in its own way."""

    def __init__(self, split: Split) -> None:
        self.data, self.targets = split.images[:, 0], split.labels
        self.transform, self.target_transform = ToTensor(), None


def _plain_epoch(split: Split, model: str, workers: int) -> float:
    loader = torch.utils.data.DataLoader(_InMemory(split), _BATCH, shuffle=True, num_workers=workers)
    network = registry.create_model(model).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    total = right = 0.0
    began = time.perf_counter()
    for images, labels in loader:
        optimizer.zero_grad()
        logits = network(images)
        loss = F.cross_entropy(logits, labels)
        loss.backward()
        optimizer.step()
        total += loss.item() * len(labels)
        right += (logits.argmax(1) == labels).sum().item()
    return time.perf_counter() - began


def _our_epoch(split: Split, model: str, fields: dict[str, Any]) -> float:
    with tempfile.TemporaryDirectory() as folder, served(split, split[:1]):
        recipe = get_recipe("textbook", model, dataset=split.info.name, epochs=1, **fields)
        train.train(recipe, Path(folder) / "run", device="cpu")
        return parse_json((Path(folder) / "run" / LOG).read_text())["seconds"]


def switches(*, model: str = "resnext_small", steps: int = 20) -> list[dict[str, Any]]:
    """Training images per second of `model` on random images, with each of fp32, bf16, channels_last and compile on in turn.

    Returns:
        A row each with `switch`, `images_per_s` (of the median step) and `times`, relative to the first row.
    """
    rows: list[dict[str, Any]] = []
    for name, bf16, channels_last, compiled in progress(_SWITCHES, "switches"):
        layout = torch.channels_last if channels_last else torch.contiguous_format
        network = registry.create_model(model).to(memory_format=layout).train()
        step = _step(network, bf16, compiled, layout)
        for _ in range(3):
            step()
        rate = _BATCH / median_seconds(step, steps)
        first = rows[0]["images_per_s"] if rows else rate
        rows.append(dict(switch=name, images_per_s=round(rate), times=round(rate / first, 2)))
    return rows


def _step(network: nn.Module, bf16: bool, compiled: bool, layout: torch.memory_format) -> Callable[[], None]:
    keep_memory()
    x = torch.randn(_BATCH, 1, 28, 28).contiguous(memory_format=layout)
    y = torch.randint(0, 10, (_BATCH,))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)
    forward = torch.compile(network) if compiled else network

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = forward(x)
        F.cross_entropy(logits.float(), y).backward()
        optimizer.step()

    return step


def cold_starts(
    data_dir: str | Path, commands: dict[str, list[str]], seeds: tuple[int, ...] = (0, 1, 2)
) -> list[dict[str, Any]]:
    """Runs `cnnzoo train ...` in fresh processes: seconds from the start of Python to its end, and the accuracy reached.

    Imports, reading the data, compiling and the reading of the test set are all in the time.

    Args:
        data_dir: Where Fashion-MNIST is.
        commands: Name to what follows `cnnzoo train`.
        seeds: One run each.

    Returns:
        A row per command: `name`, `command`, `recipe` without its seed, and `seconds`, `top1` and `top1_tta` with one entry
        per seed.
    """
    runs = [(name, arguments, seed) for name, arguments in commands.items() for seed in seeds]
    found: dict[str, dict[str, Any]] = {
        name: dict(command=f"cnnzoo train {' '.join(arguments)}", recipe={}, seconds=[], top1=[], top1_tta=[])
        for name, arguments in commands.items()
    }
    for name, arguments, seed in progress(runs, "cold starts"):
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "run"
            command = [sys.executable, "-m", "cnnzoo", "train", *arguments, "--seed", str(seed), "--out", str(out)]
            began = time.perf_counter()
            subprocess.run([*command, "--data-dir", str(data_dir)], check=True, capture_output=True)
            found[name]["seconds"].append(round(time.perf_counter() - began, 1))
            metrics, recipe = (parse_json((out / f"{file}.json").read_text()) for file in ("metrics", "recipe"))
        found[name]["recipe"] = {k: v for k, v in recipe.items() if k not in ("seed", "holdout")}
        for key in ("top1", "top1_tta"):
            found[name][key].append(metrics[key])
    return [dict(name=name, **row) for name, row in found.items()]
