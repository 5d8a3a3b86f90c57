"""The training loop: one recipe in, one run folder out.

A run folder holds recipe.json, environment.json, metrics.jsonl (a line per epoch), checkpoint.pt (to resume from) and the
one before it, and at the end model.safetensors, metrics.json and, with matplotlib, curves.png.
"""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from .. import data, evaluate
from ..errors import system_errors
from ..files import user_path
from ..memory import keep_memory
from ..progress import say
from ..recipes import Recipe
from ._answers import augmentation, load_answers
from ._ending import finish, judged
from ._optimizer import Schedule, make_optimizer
from ._parts import (
    Loss,
    as_pretrained,
    check_start,
    deterministic,
    load_teachers,
    make_accelerator,
    make_model,
    read_size,
    seed_device,
    with_batch,
)
from ._precision import MixedPrecision
from ._progress import Progress
from ._run import Run, check_weights, diverged, open_folder, save
from ._saving import fingerprint, owned

_CHECK_EVERY = 25  # updates between looks at the loss, each of which waits for the device
_SIGTERM_EXIT = 143


@system_errors()
def train(
    recipe: Recipe,
    out: str | Path,
    *,
    data_dir: str | Path | None = None,
    download: bool = False,
    holdout: bool = False,
    resume: bool = False,
    device: str | None = None,
    track: str | None = None,
    skip_broken: bool = False,
    on_start: Callable[[dict[str, Any], data.Split, data.Split], None] | None = None,
) -> dict[str, Any]:
    """Trains a model and measures it once.

    Under `accelerate launch` or `torchrun` it is one of several processes, which share each batch. On a terminal it draws a
    bar, elsewhere each epoch is a line on stderr. SIGTERM saves the state, says how to go on, and exits with code 143.

    Args:
        recipe: What to do.
        out: The run folder; made if it does not exist.
        data_dir, download, skip_broken: See `data.load_splits`.
        holdout: Train on the training images without the holdout, and measure on that after every epoch; for choices.
            Otherwise all training images are trained on and the test set is read once, at the end.
        resume: Go on from where the run folder's run was, if it has one.
        device: `"cpu"`, or None for whatever accelerate finds.
        track: Also log to `"tensorboard"`, `"trackio"` or `"wandb"`, through accelerate.
        on_start: Called on the main process when all is checked and training begins: with the recipe, with the images that
            are trained on, and with those that are measured on.

    Returns:
        What is in the run folder's metrics.json; on other processes than the main one nothing.

    Raises:
        CheckpointError: There is a run in `out` already and `resume` is false, or it is of another recipe or of other data,
            or damaged.
        TrainingError: The loss is no longer finite.
        CnnzooError: The disk is full; the last good checkpoint is intact. Or `out` belongs to a run that is going on.
    """
    out, recipe = user_path(out), as_pretrained(recipe)
    accelerator = make_accelerator(recipe, device, track, out)
    splits = ("fit", "holdout") if holdout else ("train", "test")
    where = dict(data_dir=data_dir, download=download, skip_broken=skip_broken)
    split, judge = data.load_splits(recipe.dataset, splits, image_size=read_size(recipe), **where)
    split = split.to(accelerator.device)
    recipe = with_batch(recipe, split, accelerator)
    run = _start(recipe, holdout, out, accelerator, split, judge)
    with owned(out, accelerator), _sigterm_stops(run), deterministic(recipe.deterministic):
        open_folder(run, resume)
        if on_start and accelerator.is_main_process:
            on_start(run.identity, split, judge)
        if track:
            accelerator.init_trackers("cnnzoo", config=run.identity)
        _run_epochs(run, split, judge if holdout else None)
        metrics = finish(run, judge)
    if track:
        accelerator.end_training()
    return metrics


def _start(recipe: Recipe, holdout: bool, out: Path, accelerator: Accelerator, split: data.Split, judge: data.Split) -> Run:
    torch.manual_seed(recipe.seed)
    if holdout:
        check_start(recipe, split.info)
    model = make_model(recipe, split, accelerator.num_processes).to(accelerator.device, memory_format=torch.channels_last)
    if accelerator.num_processes > 1 and accelerator.device.type == "cuda":  # torch has it for accelerators only
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    ema = ModelEmaV3(model, decay=recipe.ema_decay, use_warmup=True) if recipe.ema_decay else None
    optimizer = make_optimizer(recipe, model)
    updates = len(split) // recipe.batch_size
    schedule = Schedule(recipe, optimizer, updates)
    loss = Loss(recipe, load_teachers(recipe, split.info, holdout)).to(accelerator.device)
    # The optimiser stays as it is: accelerate's wrapper scales the gradients of fp16, which we have none of, and looks for
    # a package on disk at every step.
    # It puts a forward in mixed precision on what it prepares; the model itself keeps its own, by which it is measured.
    forward = accelerator.prepare(MixedPrecision(model))
    if recipe.compile:
        # Each size of progressive resizing is compiled for itself.
        torch._dynamo.config.recompile_limit = max(32, torch._dynamo.config.recompile_limit)
        forward = torch.compile(forward, dynamic=False)
    known = fingerprint(split, judge)
    answers = load_answers(recipe, known, accelerator.device)
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()} if recipe.wise_ft else None
    run = Run(
        recipe, holdout, out, accelerator, model, forward, ema, optimizer, schedule, loss, updates, known, answers, start
    )  # fmt: skip
    run.tally = run.tally.to(accelerator.device)
    return run


# -- epochs and steps ----------------------------------------------------------------------------------------------------


def _run_epochs(run: Run, split: data.Split, judge: data.Split | None) -> None:
    recipe = run.recipe
    done = run.epoch * run.updates_per_epoch + run.step
    own, shown = split.info.image_size[1:], run.accelerator.is_main_process
    with Progress(recipe, run.updates_per_epoch, done, own, shown) as progress:
        while run.epoch < recipe.epochs:
            run.began = time.perf_counter()
            line = dict(epoch=run.epoch + 1, **_run_epoch(run, split, progress))
            check_weights(run)
            run.seconds += time.perf_counter() - run.began
            run.epoch, run.step = run.epoch + 1, 0
            run.tally.zero_()
            if judge is not None:
                m = evaluate.measure(judged(run, judge), judge.labels)
                line.update(holdout_loss=m.loss, holdout_top1=m.top1)
            line.update(seconds=round(run.spent + time.perf_counter() - run.began, 2))
            run.spent = 0.0
            run.history.append(line)
            if run.accelerator.is_main_process:
                save(run)
            progress.epoch_done(line, run.seconds)
            run.accelerator.log({k: v for k, v in line.items() if k != "epoch"}, step=run.epoch)


def _run_epoch(run: Run, split: data.Split, progress: Progress) -> dict[str, float]:
    recipe, accelerator = run.recipe, run.accelerator
    answers, world, own = run.answers, accelerator.num_processes, split.info.image_size[1:]
    size = recipe.size_at(run.epoch, own)
    seed, epoch = (answers.seed, answers.epoch(run.epoch, recipe.seed)) if answers else (recipe.seed, run.epoch)
    batches = data.epoch_batches(
        split, recipe.batch_size, augmentation(recipe), seed=seed, epoch=epoch,
        image_size=recipe.full_size(own) if run.loss.teachers else size,  # teachers know images of full size best
        start=run.step,
        rank=accelerator.process_index, world=world,
    )  # fmt: skip
    keep_memory()
    run.model.train()
    if recipe.freeze:
        run.model.eval()  # statistics stay as they are
        head = getattr(run.model, "head", run.model.get_classifier()).train()
        for layer in head.modules():  # of timm's models some have batch norms in the head, before the classifier
            if isinstance(layer, nn.modules.batchnorm._BatchNorm) and not any(p.requires_grad for p in layer.parameters()):
                layer.eval()
    unchecked: list[Tensor] = []
    for step, (images, labels) in enumerate(batches, start=run.step):
        update = run.epoch * run.updates_per_epoch + step
        said = answers and answers.of(epoch, step * recipe.batch_size, recipe.batch_size)
        part = None if said is None else said[accelerator.process_index :: world]
        unchecked.append(_update(run, update, images, labels, part, size))
        run.step = step + 1
        look = step % _CHECK_EVERY == 0 or run.step == run.updates_per_epoch
        if look:
            _check_finite(run, unchecked, update)
            unchecked.clear()
            loss, right, seen = run.tally.tolist()
            holdout = run.history[-1].get("holdout_top1") if run.history else None
            progress.show(run.epoch + 1, loss / seen, 100 * right / seen, holdout)
        progress.update()
        if _told_to_stop(run, look):
            _check_finite(run, unchecked, update)
            check_weights(run)
            _leave(run)
    totals = accelerator.reduce(run.tally, "sum").tolist()
    lr = max(group["lr"] for group in run.optimizer.param_groups)
    return dict(lr=lr, train_loss=round(totals[0] / totals[2], 5), train_top1=round(100 * totals[1] / totals[2], 3))


def _update(run: Run, update: int, images: Tensor, labels: Tensor, answers: Tensor | None, size: tuple[int, int]) -> Tensor:
    """One step of the optimiser on this process's part of a batch, scaled to `size`; returns the loss."""
    recipe, accelerator = run.recipe, run.accelerator
    # Dropout depends on seed, update and process alone, so a resumed run goes on as it would have.
    seed_device((recipe.seed * 1_000_003 + update) * 4_099 + accelerator.process_index, accelerator.device)
    run.schedule.set(update)
    parts = recipe.accumulate
    said = [None] * parts if answers is None else answers.chunk(parts)
    pieces = list(zip(images.chunk(parts), labels.chunk(parts), said, strict=True))
    losses = []
    for i, (x, y, told) in enumerate(pieces):
        last = i == len(pieces) - 1
        with contextlib.nullcontext() if last else accelerator.no_sync(run.forward):
            logits = run.forward(data.resize(x, size))
            with accelerator.autocast():
                loss = run.loss(logits, y, x, told)
            accelerator.backward(loss / len(pieces))
        losses.append(loss.detach())
        truth = y if y.dim() == 1 else y.argmax(1)
        run.tally += torch.stack([losses[-1] * len(y), (logits.detach().argmax(1) == truth).sum(), len(y) + 0 * losses[-1]])
    if recipe.clip_grad:
        accelerator.clip_grad_norm_(run.model.parameters(), recipe.clip_grad)
    run.optimizer.step()
    run.optimizer.zero_grad()
    if run.ema is not None:
        run.ema.update(run.model, step=update)
    return torch.stack(losses).mean()


def _check_finite(run: Run, losses: list[Tensor], update: int) -> None:
    """Stops the run if one of the losses up to and including that of `update` is not finite."""
    bad = (~torch.isfinite(torch.stack(losses))).nonzero() if losses else []
    if len(bad):
        raise diverged(run, f"The loss is not finite at step {update - len(losses) + 1 + bad[0].item()}")


# -- stopping, saving, going on ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _sigterm_stops(run: Run) -> Iterator[None]:
    """Inside the block SIGTERM, which is how machines are taken away, only asks the run to stop."""
    if threading.current_thread() is not threading.main_thread():  # signals are not for other threads to handle
        yield
        return
    former = signal.signal(signal.SIGTERM, lambda *_: setattr(run, "stop", True))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


def _told_to_stop(run: Run, look: bool) -> bool:
    """Whether to stop after this step; several processes agree on it, every `_CHECK_EVERY` steps."""
    if run.accelerator.num_processes == 1:
        return run.stop
    if not look:
        return False
    told = torch.tensor([float(run.stop)], device=run.accelerator.device)
    return run.accelerator.reduce(told, "sum").item() > 0


def _leave(run: Run) -> None:
    """Saves the state in the middle of an epoch, and exits."""
    run.tally = run.accelerator.reduce(run.tally, "sum") / run.accelerator.num_processes  # each goes on with its share
    elapsed = time.perf_counter() - run.began
    run.seconds, run.spent = run.seconds + elapsed, run.spent + elapsed
    if run.accelerator.is_main_process:
        save(run)
        stopped = f"Stopped by SIGTERM in epoch {run.epoch + 1} of {run.recipe.epochs}; {run.out} holds the state."
        say(f"{stopped} To continue, add --resume to the same command, or train(..., resume=True) in Python.")
    run.accelerator.wait_for_everyone()
    raise SystemExit(_SIGTERM_EXIT)
