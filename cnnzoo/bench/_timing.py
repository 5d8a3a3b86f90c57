"""What is measured on, and how."""

import contextlib
import importlib.metadata
import os
import platform
import time
from collections.abc import Callable
from typing import Any

import torch

from .. import train


def machine() -> dict[str, Any]:
    """What the numbers were measured on: hardware, threads, versions, and the command that was typed."""
    packages = {}
    for package in ("torchvision", "onnxruntime"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            packages[package] = importlib.metadata.version(package)
    cores, python = os.cpu_count(), platform.python_version()
    return dict(train.environment(torch.device("cpu")), cores=cores, python=python, **packages)


def median_seconds(call: Callable[[], Any], repeats: int) -> float:
    """Of so many calls, each waited for."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return sorted(times)[len(times) // 2]
