"""The models that people would use instead: how they are made, and what they reached where they were trained."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from .. import registry
from ..datasets import FASHION_MNIST
from ..errors import CheckpointError
from ..files import parse_json, write_json
from ..recipes import TIMM
from ..resolve import read_run, resolve

PEERS = tuple(
    TIMM + name
    for name in (
        "resnet18", "resnet10t", "mobilenetv3_small_050", "mobilenetv3_small_100", "efficientnet_lite0", "test_resnet",
        "resnet8_mlperf",
    )
)  # fmt: skip
FILE = Path(__file__).with_name("peers.json")


def is_peer(name: str) -> bool:
    """Whether a name of the benchmark is none of the zoo's."""
    return name.startswith(TIMM)


def make(name: str) -> nn.Module:
    """A model by its name in the benchmark, in evaluation mode: pretrained where it is the zoo's, else untrained.

    Raises:
        UnknownNameError: There is none of that name.
    """
    return registry.create_model(name, pretrained=not is_peer(name)).eval()


def collect(runs: Sequence[str | Path]) -> list[dict[str, Any]]:
    """What runs of peers measured, one row a run: `model`, `top1`, `epochs`, `minutes`, `hardware`, `seed`, `command`.

    Args:
        runs: Run folders that `cnnzoo train timm:NAME` made.

    Raises:
        CheckpointError: One is no finished run of a model of timm's on Fashion-MNIST's test set, or two are of one model.
    """
    rows = []
    for folder in runs:
        source = resolve(Path(folder))
        run = read_run(source.name) if source.kind == "run" else None
        if run is None or not is_peer(run.arch) or (run.metrics["split"], run.info.name) != ("test", FASHION_MNIST.name):
            raise CheckpointError(
                f"{folder} was given; a finished run of a timm model on {FASHION_MNIST.title} is needed, without "
                f"--holdout. Make one: cnnzoo train {TIMM}NAME --out DIR."
            )
        if run.arch in (row["model"] for row in rows):
            raise CheckpointError(f"{folder} is the second run of {run.arch} that was given. Give one run a model.")
        kept = ("top1", "epochs", "minutes", "hardware", "seed", "command", "torch", "timm")
        rows.append(dict(model=run.arch, **{k: run.metrics[k] for k in kept}))
    return rows


def keep(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Writes what `collect` found into the file that the tables are made of, and returns all that is in it now.

    A run replaces an older one of the same model.
    """
    found = {row["model"]: row for row in (*trained(), *rows)}
    write_json(FILE, dict(rows=list(found.values())))
    return list(found.values())


def trained() -> list[dict[str, Any]]:
    """The rows of `collect` that were kept."""
    return parse_json(FILE.read_bytes())["rows"]
