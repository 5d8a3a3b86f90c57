"""How fast training is."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from .. import registry, train
from ..data import Split
from ..memory import keep_memory
from ..recipes import get_recipe
from ._scaling import served
from ._timing import median_seconds

_BATCH = 128
# What is turned on one after the other: name, bf16 autocast, channels_last, torch.compile.
_SWITCHES = (
    ("fp32", False, False, False),
    ("+ bf16", True, False, False),
    ("+ channels_last", True, True, False),
    ("+ compile", True, True, True),
)


def loops(split: Split, *, model: str = "lenet_d2l") -> list[dict[str, Any]]:
    """One epoch of `model` at batch 128: a plain loop as a textbook has it, and ours with the same arithmetic.

    The plain loop takes each image from a `DataLoader` through PIL and `ToTensor`, in fp32, with and without worker
    processes. Ours is `train.train` with the recipe `textbook`.

    Returns:
        A row each with `loop` and `seconds`; ours also with `times`, how many times faster it is than the faster plain one.
    """
    rows = [
        dict(loop=f"DataLoader, {workers or 'no'} workers", seconds=round(_plain_epoch(split, model, workers), 2))
        for workers in tqdm((0, 2), desc="plain loop", leave=False, disable=None)
    ]
    with tempfile.TemporaryDirectory() as folder, served(split, split):
        recipe = get_recipe("textbook", model, dataset=split.info.name, epochs=1)
        train.train(recipe, Path(folder) / "run", device="cpu")
        line = json.loads((Path(folder) / "run" / "metrics.jsonl").read_text())
    times = round(min(row["seconds"] for row in rows) / line["seconds"], 2)
    return [*rows, dict(loop="cnnzoo, recipe textbook", seconds=line["seconds"], times=times)]


class _PlainImages(torch.utils.data.Dataset):
    """Image by image, as torchvision's own data sets do it."""

    def __init__(self, split: Split) -> None:
        from torchvision.transforms import ToTensor

        self.images, self.labels, self.transform = split.images[:, 0].numpy(), split.labels.tolist(), ToTensor()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image

        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


def _plain_epoch(split: Split, model: str, workers: int) -> float:
    loader = torch.utils.data.DataLoader(_PlainImages(split), _BATCH, shuffle=True, num_workers=workers)
    network = registry.create_model(model).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    began = time.perf_counter()
    for images, labels in loader:
        optimizer.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        optimizer.step()
    return time.perf_counter() - began


def switches(*, model: str = "resnext_small", steps: int = 20) -> list[dict[str, Any]]:
    """Training images per second of `model` on random images, with each of fp32, bf16, channels_last and compile on in turn.

    Returns:
        A row each with `switch`, `images_per_s` (of the median step) and `times`, relative to the first row.
    """
    rows: list[dict[str, Any]] = []
    for name, bf16, channels_last, compiled in tqdm(_SWITCHES, desc="switches", leave=False, disable=None):
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
        A row per command: `name`, `seconds`, `top1` and `top1_tta` with one entry per seed.
    """
    runs = [(name, arguments, seed) for name, arguments in commands.items() for seed in seeds]
    found: dict[str, dict[str, list[float]]] = {name: dict(seconds=[], top1=[], top1_tta=[]) for name in commands}
    for name, arguments, seed in tqdm(runs, desc="cold starts", leave=False, disable=None):
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "run"
            command = [sys.executable, "-m", "cnnzoo", "train", *arguments, "--seed", str(seed), "--out", str(out)]
            began = time.perf_counter()
            subprocess.run([*command, "--data-dir", str(data_dir)], check=True, capture_output=True)
            found[name]["seconds"].append(round(time.perf_counter() - began, 1))
            metrics = json.loads((out / "metrics.json").read_text())
        for key in ("top1", "top1_tta"):
            found[name][key].append(metrics[key])
    return [dict(name=name, command=f"cnnzoo train {' '.join(commands[name])}", **found[name]) for name in commands]
