"""The training loop: one recipe in, one run folder out.

A run folder holds recipe.json, environment.json, metrics.jsonl (a line per epoch), checkpoint.pt (to resume from),
and at the end model.safetensors and metrics.json.
"""

import contextlib
import ctypes
import dataclasses
import json
import os
import platform
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import is_bf16_available
from safetensors.torch import save_file
from timm.optim import create_optimizer_v2, get_optimizer_info, list_optimizers
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from tqdm import tqdm

from . import checkpoints, data, evaluate, registry, summary
from .datasets import get_dataset_info
from .errors import CheckpointError, CnnzooError, TrainingError, unknown
from .files import atomic, write_json
from .recipes import Recipe

CHECKPOINT = "checkpoint.pt"
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_CHECK_EVERY = 25  # updates between looks at the loss, each of which waits for the device


@dataclass
class Run:
    """Everything that changes while training, and what it is trained with."""

    recipe: Recipe
    holdout: bool
    out: Path
    accelerator: Accelerator
    model: nn.Module  # the plain module; its weights are what is saved
    forward: nn.Module  # the same weights behind processes, mixed precision and torch.compile
    ema: ModelEmaV3 | None
    optimizer: torch.optim.Optimizer
    scheduler: Any
    updates_per_epoch: int
    epoch: int = 0  # epochs completed
    seconds: float = 0.0  # spent training, over all sittings

    @property
    def identity(self) -> dict[str, Any]:
        """What has to be the same for a run to be resumed."""
        return dict(dataclasses.asdict(self.recipe), holdout=self.holdout)

    @property
    def best_weights(self) -> nn.Module:
        """The module whose weights are published: the average if there is one."""
        return self.ema.module if self.ema is not None else self.model


def train(
    recipe: Recipe,
    out: str | Path,
    *,
    data_dir: str | Path | None = None,
    download: bool = False,
    holdout: bool = False,
    resume: bool = False,
    device: str | None = None,
) -> dict[str, Any]:
    """Trains a model and measures it once.

    Args:
        recipe: What to do.
        out: The run folder; made if it does not exist.
        data_dir, download: See `data.load_split`.
        holdout: Train on the first 55,000 images, and measure on the last 5,000 after every epoch; for choices. Otherwise
            all 60,000 are trained on and the test set is read once, at the end.
        resume: Go on from the run folder's last completed epoch, if it has one.
        device: `"cpu"`, or None for whatever accelerate finds.

    Returns:
        What is in the run folder's metrics.json.

    Raises:
        CheckpointError: There is a run in `out` already and `resume` is false, or it is of another recipe, or damaged.
        TrainingError: The loss is not finite any more.
        CnnzooError: The disk is full; the last good checkpoint is intact.
    """
    if device not in (None, "cpu"):
        raise CnnzooError(f"device={device!r} was given, allowed is 'cpu'. Leave it out to use the accelerator there is.")
    out = Path(out)
    accelerator = _accelerator(recipe, device)
    split = data.load_split(recipe.dataset, "fit" if holdout else "train", data_dir=data_dir, download=download)
    judge = data.load_split(recipe.dataset, "holdout" if holdout else "test", data_dir=data_dir, download=download)
    split = split.to(accelerator.device)
    if recipe.batch_size > len(split) or recipe.batch_size % accelerator.num_processes:
        raise CnnzooError(
            f"batch_size={recipe.batch_size} was given for {len(split)} images and {accelerator.num_processes} processes. "
            "Choose one that the processes divide and the data set exceeds."
        )
    run = _start(recipe, holdout, out, accelerator, len(split))
    _make_folder(out, resume)
    if resume and (out / CHECKPOINT).is_file():
        _load(run)
    if accelerator.is_main_process:
        write_json(out / "recipe.json", run.identity)
        write_json(out / "environment.json", environment(accelerator.device))
        if run.epoch == 0:
            (out / "metrics.jsonl").write_text("")
            _save(run)
    _run_epochs(run, split, judge if holdout else None)
    return _finish(run, judge)


def _accelerator(recipe: Recipe, device: str | None) -> Accelerator:
    # accelerate keeps the first run's precision for the whole process; a second run may want another.
    AcceleratorState._reset_state()
    on_cpu = device == "cpu" or not torch.accelerator.is_available()
    if on_cpu:  # some builds lack oneDNN, and with it fast bf16
        has_bf16 = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    else:
        has_bf16 = is_bf16_available()
    return Accelerator(cpu=device == "cpu", mixed_precision="bf16" if recipe.amp == "bf16" and has_bf16 else "no")


def _make_folder(out: Path, resume: bool) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise CnnzooError(f"{out} cannot be made a run folder ({e.strerror}). Choose another with --out.") from e
    if (out / CHECKPOINT).exists() and not resume:
        raise CheckpointError(f"{out} holds a run already. Go on with it (--resume), delete it, or choose another --out.")


def _start(recipe: Recipe, holdout: bool, out: Path, accelerator: Accelerator, num_images: int) -> Run:
    torch.manual_seed(recipe.seed)
    model = registry.create_model(recipe.model, drop_rate=recipe.drop_rate, drop_path_rate=recipe.drop_path_rate or None)
    model = model.to(accelerator.device, memory_format=torch.channels_last)
    ema = ModelEmaV3(model, decay=recipe.ema_decay, use_warmup=True) if recipe.ema_decay else None
    optimizer = _optimizer(recipe, model)
    _check_sizes(recipe, model)
    updates = num_images // recipe.batch_size
    scheduler, _ = create_scheduler_v2(
        optimizer,
        recipe.sched,
        num_epochs=recipe.epochs,
        warmup_epochs=recipe.warmup_epochs,
        warmup_lr=recipe.lr / 100,
        step_on_epochs=False,
        updates_per_epoch=updates,
    )
    forward, optimizer = accelerator.prepare(model, optimizer)
    if recipe.compile:
        forward = torch.compile(forward)
    return Run(recipe, holdout, out, accelerator, model, forward, ema, optimizer, scheduler, updates)


def _optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    if recipe.opt not in list_optimizers():
        raise unknown("optimiser", recipe.opt, list_optimizers(), hint="timm.optim.list_optimizers() lists them.")
    takes = get_optimizer_info(recipe.opt)
    extra = {}
    if takes.has_momentum:
        extra = dict(momentum=recipe.momentum)
    elif takes.has_betas and takes.num_betas == 2:
        extra = dict(betas=(recipe.momentum, 0.999))
    return create_optimizer_v2(model, opt=recipe.opt, lr=recipe.lr, weight_decay=recipe.weight_decay, **extra)


def _check_sizes(recipe: Recipe, model: nn.Module) -> None:
    """Refuses images that the model cannot take, at the start of the run or at its end."""
    full = get_dataset_info(recipe.dataset).image_size[1:]
    least = model.min_size
    wanted = {"Choose another model or data set": full, "Use start_size=0": recipe.size_at(0, full)}
    for advice, (height, width) in wanted.items():
        if height < least[0] or width < least[1] or (model.fixed_size and (height, width) != least):
            raise CnnzooError(
                f"{recipe.model} would get images of {height}x{width} pixels, and takes {least[0]}x{least[1]} "
                f"{'only' if model.fixed_size else 'or more'}. {advice}."
            )


def _run_epochs(run: Run, split: data.Split, judge: data.Split | None) -> None:
    total = run.recipe.epochs * run.updates_per_epoch
    start = run.epoch * run.updates_per_epoch
    hidden = None if run.accelerator.is_main_process else True
    with tqdm(total=total, initial=start, unit="step", desc=run.recipe.model, disable=hidden) as bar:
        while run.epoch < run.recipe.epochs:
            began = time.perf_counter()
            line = _run_epoch(run, split, bar)
            run.seconds += time.perf_counter() - began
            run.epoch += 1
            line = dict(epoch=run.epoch, **line, seconds=round(time.perf_counter() - began, 2))
            if judge is not None:
                m = evaluate.evaluate(run.best_weights, judge)
                line.update(holdout_loss=m.loss, holdout_top1=m.top1)
            if run.accelerator.is_main_process:
                _save(run)
                _append(run.out / "metrics.jsonl", line)
            bar.set_postfix({k: line[k] for k in ("train_loss", "train_top1", "holdout_top1") if k in line})


def _run_epoch(run: Run, split: data.Split, bar: tqdm) -> dict[str, float]:
    recipe, accelerator = run.recipe, run.accelerator
    augment = data.Augment(flip=recipe.flip, shift=recipe.shift, cutout=recipe.cutout)
    batches = data.epoch_batches(
        split, recipe.batch_size, augment, seed=recipe.seed, epoch=run.epoch,
        image_size=recipe.size_at(run.epoch, split.info.image_size[1:]),
        rank=accelerator.process_index, world=accelerator.num_processes,
    )  # fmt: skip
    criterion = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
    _keep_memory()
    run.model.train()
    losses: list[Tensor] = []
    right = torch.zeros((), device=accelerator.device)
    seen = 0
    for i, (images, labels) in enumerate(batches):
        update = run.epoch * run.updates_per_epoch + i
        run.scheduler.step_update(update)
        output = run.forward(images)
        loss = criterion(output, labels)
        accelerator.backward(loss)
        if recipe.clip_grad:
            accelerator.clip_grad_norm_(run.model.parameters(), recipe.clip_grad)
        run.optimizer.step()
        run.optimizer.zero_grad()
        if run.ema is not None:
            run.ema.update(run.model, step=update)
        losses.append(loss.detach())
        right += (output.detach().argmax(1) == labels).sum()
        seen += len(labels)
        if i % _CHECK_EVERY == 0 or i == run.updates_per_epoch - 1:
            _check_finite(run, losses, update - len(losses) + 1)
        bar.update()
    mean = torch.stack(losses).mean()
    totals = accelerator.reduce(torch.stack([mean, right / seen]), "mean").tolist()
    return dict(lr=run.optimizer.param_groups[0]["lr"], train_loss=round(totals[0], 5), train_top1=round(100 * totals[1], 3))


def _keep_memory() -> None:
    """Has glibc keep the activations' memory from step to step.

    By default it returns large blocks to the system at every free, and a fifth of a training step on a CPU goes into getting
    them back page by page. Elsewhere than on Linux with glibc this does nothing.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_MMAP_THRESHOLD, 32 << 20)  # the most that glibc allows
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def _check_finite(run: Run, losses: list[Tensor], first: int) -> None:
    bad = (~torch.isfinite(torch.stack(losses))).nonzero()
    if len(bad):
        raise TrainingError(
            f"The loss is not finite at step {first + bad[0].item()} (epoch {run.epoch + 1}). Lower the learning rate "
            f"(lr={run.recipe.lr}) or set clip_grad; {run.out / CHECKPOINT} is of the last good epoch."
        )


# -- saving, loading, finishing ------------------------------------------------------------------------------------------


def _save(run: Run) -> None:
    state = dict(
        recipe=run.identity,
        epoch=run.epoch,
        seconds=run.seconds,
        model=run.model.state_dict(),
        ema=run.ema.state_dict() if run.ema is not None else None,
        optimizer=run.optimizer.state_dict(),
        rng=torch.get_rng_state(),
    )
    with atomic(run.out / CHECKPOINT) as temporary:
        torch.save(state, temporary)


def _append(path: Path, line: dict[str, Any]) -> None:
    try:
        with open(path, "a", encoding="utf-8") as f:
            f.write(json.dumps(line) + "\n")
    except OSError as e:
        raise CnnzooError(
            f"{path} could not be written ({e.strerror}). Free some space, then go on with --resume; no epoch is lost."
        ) from e


def _load(run: Run) -> None:
    path = run.out / CHECKPOINT
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        given, found = run.identity, dict(state["recipe"])
    except Exception as e:  # torch raises half a dozen kinds for a damaged file
        raise _damaged(path, e) from e
    if given != found:
        changed = ", ".join(f"{k}: {found.get(k)!r} then, {v!r} now" for k, v in given.items() if found.get(k) != v)
        raise CheckpointError(f"{path} is of another recipe ({changed}). Resume with the same one, or choose another --out.")
    try:
        run.model.load_state_dict(state["model"])
        if run.ema is not None:
            run.ema.load_state_dict(state["ema"])
        run.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"])
        run.epoch, run.seconds = int(state["epoch"]), float(state["seconds"])
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as e:
        raise _damaged(path, e) from e


def _damaged(path: Path, e: Exception) -> CheckpointError:
    return CheckpointError(
        f"{path} is damaged or foreign ({type(e).__name__}). Delete it to start again, or choose another --out."
    )


def _finish(run: Run, judge: data.Split) -> dict[str, Any]:
    """Writes the weights, then reads the judging split once."""
    if not run.accelerator.is_main_process:
        return {}
    model = run.best_weights.to("cpu", memory_format=torch.contiguous_format)
    weights = run.out / checkpoints.WEIGHTS
    with atomic(weights) as temporary:
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, temporary, metadata=dict(format="pt"))
    logits = evaluate.predict_logits(model, judge)
    measured = evaluate.measure(logits, judge.labels)
    size = summary.count(model, judge.info.image_size)
    metrics = dict(
        model=run.recipe.model,
        dataset=run.recipe.dataset,
        split="holdout" if run.holdout else "test",
        top1=measured.top1,
        top1_tta=evaluate.evaluate(model, judge, tta=True).top1,
        loss=measured.loss,
        ece=measured.ece,
        per_class=measured.per_class,
        params=size.params,
        macs=size.macs,
        seed=run.recipe.seed,
        epochs=run.epoch,
        minutes=round(run.seconds / 60, 2),
        **environment(run.accelerator.device),
        data_md5=judge.info.files,
        sha256=checkpoints.sha256(weights),
    )
    if run.holdout:
        metrics["temperature"] = evaluate.fit_temperature(logits, judge.labels)
    write_json(run.out / "metrics.json", metrics)
    return metrics


def environment(device: torch.device) -> dict[str, str]:
    """What a number depends on beside the recipe: hardware, versions, and the command that was typed."""
    import timm

    if device.type == "cuda":
        hardware = torch.cuda.get_device_name(device)
    else:
        hardware = f"{_cpu_name()}, {torch.get_num_threads()} threads"
    program = os.path.basename(sys.argv[0])
    command = shlex.join(["cnnzoo" if program == "__main__.py" else program, *sys.argv[1:]])
    return dict(hardware=hardware, torch=torch.__version__, timm=timm.__version__, command=command)


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
