"""What is measured on, and how."""

import os
import platform
import time
from collections.abc import Callable
from typing import Any

import torch

from .. import train


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    return dict(train.environment(torch.device("cpu")), cores=os.cpu_count(), python=platform.python_version())


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
