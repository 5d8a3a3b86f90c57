"""Whether a checkpoint folder is what it says, before anybody else gets it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

from .. import checkpoints, storage
from ..configs import load_model, read_config
from ..datasets import facts
from ..errors import CheckpointError, CnnzooError, system_errors
from ..files import parse_json, read_bytes
from ._build import config, folder_of, read_numbers
from ._card import card, full_name, widened
from ._folder import ALLOWED, ANSWERS, CARD, CONFIG, METRICS, PICTURE, RECIPE, REQUIRED
from ._pictures import wanted

# A process that knows nothing but the folder; what it prints last is its answer.
_RELOAD = """
import json, sys, torch
import cnnzoo, timm
model = timm.create_model("local-dir:" + sys.argv[1], pretrained=True).eval()
shape = (8, *model.pretrained_cfg["input_size"])
with torch.inference_mode():
    print(json.dumps(model(torch.randn(shape, generator=torch.Generator().manual_seed(0))).tolist()))
"""
_PATIENCE = 300  # seconds; importing torch takes most of it on a slow disk


@system_errors()
def verify(model: str | os.PathLike) -> dict:
    """Checks that the files of a checkpoint agree with each other; nothing is sent.

    A fresh process that loads it as `local-dir:` must give the logits of the weights, the sha256 must be the one in
    metrics.json, config and card the ones that the numbers generate, and no other file may lie there.

    Args:
        model: A checkpoint folder as `hub.build` makes it, the name of one of the zoo's, or a run folder, of which one is
            made for the purpose.

    Returns:
        Its metrics; those of a model that nobody measured have no accuracy.

    Raises:
        CheckpointError: Something does not agree; the message says what.
        UnknownNameError: There is no such checkpoint or folder.
    """
    with folder_of(model) as folder:
        return _verify(folder)


def _verify(folder: Path) -> dict:
    _check_files(folder)
    metrics, recipe = read_numbers(folder)
    weights = folder / checkpoints.WEIGHTS
    if not isinstance(metrics.get("sha256"), str):
        raise CheckpointError(f"{folder / METRICS} has no sha256 of the weights. Make the folder again: cnnzoo build.")
    checkpoints.verify(weights, metrics["sha256"])
    parsed = read_config(read_bytes(folder / CONFIG), str(folder / CONFIG))
    model = load_model(parsed, read_bytes(weights), str(weights))
    storage.check_stored(weights, model, "Build the folder again from its runs: cnnzoo build.")
    _check_generated(folder, metrics, recipe, model)
    size = (8, *parsed.cfg["input_size"])
    with torch.inference_mode():
        direct = model(torch.randn(size, generator=torch.Generator().manual_seed(0)))
    reloaded = torch.tensor(_reload(folder))
    # The two may use another number of threads, and sum in another order.
    if direct.shape != reloaded.shape or not torch.allclose(direct, reloaded, rtol=1e-4, atol=1e-5):
        raise CheckpointError(f"{folder} gives other logits when it is loaded again. Make the folder again: cnnzoo build.")
    return metrics


def _check_files(folder: Path) -> None:
    found = {p.name for p in folder.iterdir()}
    if missing := sorted(set(REQUIRED) - found):
        raise CheckpointError(f"{folder} lacks {', '.join(missing)}. Make the folder again: cnnzoo build.")
    if stray := sorted(found - set(ALLOWED)):
        raise CheckpointError(
            f"{folder} holds {', '.join(stray)}; allowed are {', '.join(ALLOWED)}, and never a pickle. Remove the others."
        )
    if links := sorted(p.name for p in folder.iterdir() if p.is_symlink() or not p.is_file()):
        raise CheckpointError(
            f"{folder} holds {', '.join(links)}, which is not an ordinary file. Copy the file itself there."
        )


def _check_generated(folder: Path, metrics: dict, recipe: dict, model: nn.Module) -> None:
    """Whether card and config are what metrics and recipe make of them."""
    written = (folder / CARD).read_text(encoding="utf-8", errors="replace")
    source = re.search(r'"hf-hub:([^"@]+)', written)  # push writes the repository into it
    try:
        info = facts(metrics, recipe)
        fresh = card(full_name(metrics, info), metrics, recipe, source and source[1])
        shown = info if model.in_chans == info.image_size[0] else widened(info)
        settings = config(model, shown, metrics.get("temperature", 1.0), metrics.get("tag"))
    except (KeyError, TypeError, AttributeError, ValueError) as e:
        if isinstance(e, CnnzooError):
            raise
        raise CheckpointError(f"{folder}: {METRICS} or {RECIPE} lacks {e}. Make the folder again: cnnzoo build.") from e
    if written != fresh:
        line = next((i for i, (a, b) in enumerate(zip(written.splitlines(), fresh.splitlines()), 1) if a != b), "the last")
        raise CheckpointError(f"{folder / CARD} differs from {METRICS} in line {line}. Make the folder again: cnnzoo build.")
    if checkpoints.read_json(folder / CONFIG) != parse_json(json.dumps(settings)):
        raise CheckpointError(f"{folder / CONFIG} does not fit the weights. Make the folder again: cnnzoo build.")
    needed = wanted(metrics, info)
    for name in (PICTURE, ANSWERS):
        if (name in needed) != (folder / name).is_file():
            what = "lacks" if name in needed else "holds, without the numbers for it,"
            raise CheckpointError(f"{folder} {what} {name}. Make the folder again: cnnzoo build.")


def _reload(folder: Path) -> list:
    """The logits that a fresh process gets from the folder."""
    package = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    environment = dict(os.environ, PYTHONPATH=path, HF_HUB_OFFLINE="1")
    command = [sys.executable, "-c", _RELOAD, str(folder.resolve())]
    try:
        run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_PATIENCE)
        return parse_json(run.stdout.splitlines()[-1])
    except (subprocess.TimeoutExpired, IndexError, ValueError) as e:
        reason = f"no answer in {_PATIENCE} s"
        if not isinstance(e, subprocess.TimeoutExpired):
            reason = (run.stderr.strip() or "no answer").splitlines()[-1]
        raise CheckpointError(f"{folder} cannot be loaded in a fresh process ({reason}). Make the folder again.") from e
