"""Run folders: what is in them, and that none of it is ever half written.

The state in `checkpoint.pt` is of the last completed epoch, or of the step at which the run was told to stop. The state
before that is kept as `checkpoint.previous.pt`. A folder belongs to one run at a time.
"""

import contextlib
import hashlib
import json
import os
import platform
import shlex
import shutil
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from filelock import FileLock, Timeout

from ..checkpoints import ENVIRONMENT, LOG, METRICS, RECIPE, WEIGHTS
from ..data import Split
from ..errors import CheckpointError, CnnzooError
from ..files import atomic, check_replaceable
from ..recipes import completed

CHECKPOINT, PREVIOUS = "checkpoint.pt", "checkpoint.previous.pt"
LOCK = ".lock"  # it stays, as lock files do, and says which process has or had the folder
_WRITTEN = (CHECKPOINT, LOG, RECIPE, ENVIRONMENT, METRICS, WEIGHTS, "curves.png")
_KEYS = {"recipe", "epoch", "step", "tally", "seconds", "history", "model", "ema", "optimizer"}


@contextlib.contextmanager
def owned(out: Path, accelerator: Accelerator) -> Iterator[None]:
    """Makes the run folder; inside the block it belongs to this run, of several processes to the main one for all.

    Raises:
        CnnzooError: It cannot be made, or it belongs to another run that goes on.
    """
    with contextlib.ExitStack() as stack:
        refusal = None
        if accelerator.is_main_process:
            try:
                stack.enter_context(_locked(out))
            except CnnzooError as e:
                refusal = e
        if accelerator.num_processes > 1:  # none waits for a main process that has gone
            refusal = next(filter(None, gather_object([refusal])), None)
        if refusal is not None:
            raise refusal
        yield


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[None]:
    lock = FileLock(out / LOCK)
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout:
        raise CnnzooError(
            f"{out} is in use by a run that has not ended ({_owner(out)}). Wait for it, or choose another --out."
        ) from None
    except OSError as e:
        raise CnnzooError(f"{out} cannot be made a run folder ({e.strerror}). Choose another with --out.") from e
    try:
        (out / LOCK).write_text(f"process {os.getpid()} on {platform.node()} since {time.strftime('%Y-%m-%d %H:%M:%S')}")
        yield
    finally:
        lock.release()


def _owner(out: Path) -> str:
    try:
        return (out / LOCK).read_text()[:200] or "it has just begun"
    except (OSError, UnicodeDecodeError):
        return "it does not say whose"


def refuse_former_run(out: Path) -> None:
    """Sees that the folder holds no run.

    Raises:
        CheckpointError: It does.
    """
    if (out / CHECKPOINT).exists():
        raise CheckpointError(f"{out} already holds a run. Continue it (--resume), delete it, or choose another --out.")


def check_places(out: Path) -> None:
    """Sees before training that all that a run writes can be written.

    Raises:
        CnnzooError: There is something that is no file in the place of one.
    """
    for name in (*_WRITTEN, PREVIOUS):
        check_replaceable(out / name)


def clear_leftovers(out: Path) -> None:
    """Removes what a run that was killed while writing left: the temporary files of `files.atomic`."""
    for path in out.glob(".*.tmp"):
        if path.name.startswith(tuple(f".{name}." for name in _WRITTEN)):
            path.unlink(missing_ok=True)


def fingerprint(*splits: Split) -> dict[str, Any]:
    """What tells one data set from another: its classes, how many images each split has, and a hash of all."""
    digest = hashlib.sha256(repr([(tuple(s.images.shape), s.info.labels) for s in splits]).encode())
    for split in splits:
        for tensor in (split.images, split.labels):
            digest.update(tensor.cpu().contiguous().numpy())
    return dict(classes=list(splits[0].info.labels), images=[len(s) for s in splits], sha256=digest.hexdigest())


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


def load_state(out: Path, identity: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    """The checkpoint of a run that is what `identity` says, on the data of which `data` is the fingerprint.

    Raises:
        CheckpointError: The file is damaged, or of something else, or of another recipe or data.
    """
    path = out / CHECKPOINT
    try:
        state = _opened(path)
        missing, found = _KEYS - set(state), completed(dict(state["recipe"]))
        if missing:
            raise KeyError(", ".join(sorted(missing)))
        former = dict(state.get("data") or data)  # runs of older versions did not note it
        classes, images = list(former["classes"]), list(former["images"])
    except Exception as e:  # torch raises half a dozen kinds for a damaged file
        raise damaged(path, e) from e
    wanted = completed(identity)
    differ = [k for k in wanted | found if wanted.get(k) != found.get(k)]
    if differ and (differ != ["batch_size"] or former == data):  # of more images it may be another by itself
        changed = ", ".join(f"{k}: {found.get(k)!r} then, {wanted.get(k)!r} now" for k in differ)
        raise CheckpointError(
            f"{path} belongs to another recipe ({changed}). Resume with the same one, or choose another --out."
        )
    if former != data:
        changed = _difference(classes, images, data)
        raise CheckpointError(
            f"{path} belongs to other data ({changed}). Resume with the same data, or choose another --out."
        )
    return state


def _opened(path: Path) -> Any:
    """What is in a checkpoint, all of whose bytes are what was written: torch does not look at the checksums in it."""
    with zipfile.ZipFile(path) as archive:
        if (bad := archive.testzip()) is not None:
            raise zipfile.BadZipFile(f"{bad} is not what its checksum says")
    return torch.load(path, map_location="cpu", weights_only=True)


def _difference(classes: list[Any], images: list[Any], data: dict[str, Any]) -> str:
    """What is other in the data than it was, in words."""
    came, gone = ([c for c in a if c not in b] for a, b in ((data["classes"], classes), (classes, data["classes"])))
    if came or gone:
        words = [f"new classes: {', '.join(map(str, came))}"] * bool(came)
        return "; ".join(words + [f"classes that are gone: {', '.join(map(str, gone))}"] * bool(gone))
    if images != data["images"]:
        counts = (" and ".join(map(str, n)) for n in (images, data["images"]))
        return "{} images to train and to measure on then, {} now".format(*counts)
    return "as many images, but not the same ones with the same labels"


def damaged(path: Path, e: Exception) -> CheckpointError:
    """The error for a checkpoint that cannot be gone on from, with what can be done."""
    previous = path.parent / PREVIOUS
    way_out = "Delete it to start again, or choose another --out"
    with contextlib.suppress(Exception):  # where the one before is damaged too
        _opened(previous)
        way_out = f"The state before it is whole: mv {shlex.quote(str(previous))} {shlex.quote(str(path))}, then --resume"
    return CheckpointError(f"{path} is damaged, or not written by cnnzoo train ({type(e).__name__}). {way_out}.")


def environment(device: torch.device) -> dict[str, str]:
    """What a number depends on beside the recipe: hardware, versions, and the command that was typed."""
    import timm

    if device.type == "cuda":
        hardware = torch.cuda.get_device_name(device)
    else:
        threads = torch.get_num_threads()
        hardware = f"{_cpu_name()}, {threads} thread{'s' if threads > 1 else ''}"
    program = os.path.basename(sys.argv[0])
    words = ["cnnzoo" if program == "__main__.py" else program, *sys.argv[1:]]
    # A path may have bytes that are no UTF-8, which no JSON file can hold.
    command = shlex.join(os.fsencode(word).decode("utf-8", "backslashreplace") for word in words)
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
