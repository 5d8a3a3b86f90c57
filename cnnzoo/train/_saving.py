"""Run folders: what is in them, and that none of it is ever half written.

The state in `checkpoint.pt` is of the last completed epoch, or of the step at which the run was told to stop. The state
before that is kept as `checkpoint.previous.pt`.
"""

import json
import os
import platform
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError, CnnzooError
from ..files import atomic
from ..recipes import completed

CHECKPOINT, PREVIOUS, LOG = "checkpoint.pt", "checkpoint.previous.pt", "metrics.jsonl"
_KEYS = {"recipe", "epoch", "step", "tally", "seconds", "history", "model", "ema", "optimizer"}


def make_folder(out: Path, resume: bool) -> None:
    """Makes the run folder.

    Raises:
        CnnzooError: It cannot be made.
        CheckpointError: It holds a run already, and `resume` is false.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise CnnzooError(f"{out} cannot be made a run folder ({e.strerror}). Choose another with --out.") from e
    if (out / CHECKPOINT).exists() and not resume:
        raise CheckpointError(f"{out} holds a run already. Go on with it (--resume), delete it, or choose another --out.")


def save_state(out: Path, state: dict[str, Any]) -> None:
    """Writes the checkpoint, keeps the one before, and writes the log that belongs to it."""
    path = out / CHECKPOINT
    with atomic(path) as temporary:
        torch.save(state, temporary)
        if path.exists():
            # A second name for the same file: there is no moment without a whole checkpoint.
            (out / PREVIOUS).unlink(missing_ok=True)
            try:
                os.link(path, out / PREVIOUS)
            except OSError:  # a file system without links
                shutil.copyfile(path, out / PREVIOUS)
    with atomic(out / LOG) as temporary:
        temporary.write_text("".join(json.dumps(line) + "\n" for line in state["history"]), encoding="utf-8")


def load_state(out: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """The checkpoint of a run that is what `identity` says.

    Raises:
        CheckpointError: The file is damaged, or of something else, or of another recipe.
    """
    path = out / CHECKPOINT
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        missing, found = _KEYS - set(state), completed(dict(state["recipe"]))
        if missing:
            raise KeyError(", ".join(sorted(missing)))
    except Exception as e:  # torch raises half a dozen kinds for a damaged file
        raise damaged(path, e) from e
    wanted = completed(identity)
    if differ := [k for k in wanted | found if wanted.get(k) != found.get(k)]:
        changed = ", ".join(f"{k}: {found.get(k)!r} then, {wanted.get(k)!r} now" for k in differ)
        raise CheckpointError(f"{path} is of another recipe ({changed}). Resume with the same one, or choose another --out.")
    return state


def damaged(path: Path, e: Exception) -> CheckpointError:
    """The error for a checkpoint that cannot be gone on from, with what can be done."""
    previous = path.parent / PREVIOUS
    if previous.is_file():
        way_out = f"The state before it is whole: mv {shlex.quote(str(previous))} {shlex.quote(str(path))}, then --resume"
    else:
        way_out = "Delete it to start again, or choose another --out"
    return CheckpointError(f"{path} is damaged or foreign ({type(e).__name__}). {way_out}.")


def environment(device: torch.device) -> dict[str, str]:
    """What a number depends on beside the recipe: hardware, versions, and the command that was typed."""
    import timm

    if device.type == "cuda":
        hardware = torch.cuda.get_device_name(device)
    else:
        threads = torch.get_num_threads()
        hardware = f"{_cpu_name()}, {threads} thread{'s' if threads > 1 else ''}"
    program = os.path.basename(sys.argv[0])
    command = shlex.join(["cnnzoo" if program == "__main__.py" else program, *sys.argv[1:]])
    return dict(hardware=hardware, torch=torch.__version__, timm=timm.__version__, command=command)


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def draw_curves(out: Path) -> None:
    """Draws curves.png from the log, where the extra for plots is installed."""
    try:
        from .. import plots
    except CnnzooError:
        return
    plots.save(plots.curves(out), out / "curves.png")
