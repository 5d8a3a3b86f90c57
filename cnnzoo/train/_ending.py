"""The end of a run: its weights written, and the judging split read once."""

import dataclasses
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn

from .. import checkpoints, data, datasets, evaluate, storage, summary
from ..files import write_json
from ..resolve import name_of
from ._run import Run, diverged
from ._saving import draw_curves, environment


def judged(run: Run, judge: data.Split) -> Tensor:
    """What the best weights answer to every image of a split, `(N, K)`.

    Raises:
        TrainingError: An answer is not finite.
    """
    logits = _gathered_logits(run, run.best_weights, judge)
    if not torch.isfinite(logits).all():
        raise diverged(run, "The model's answers are not finite")
    return logits


def _gathered_logits(run: Run, model: nn.Module, judge: data.Split) -> Tensor:
    """Outputs for every image of a split, each computed by one process."""
    rank, world = run.accelerator.process_index, run.accelerator.num_processes
    size = run.recipe.full_size(judge.info.image_size[1:])
    if world == 1:
        return evaluate.predict_logits(model, judge, image_size=size)
    mine = evaluate.predict_logits(model, judge[rank::world], image_size=size) if rank < len(judge) else None
    logits = torch.empty(len(judge), run.model.num_classes)
    for other, part in gather_object([(rank, mine)]):
        if part is not None:
            logits[other::world] = part
    return logits


@torch.no_grad()
def _average(model: nn.Module, start: dict[str, Tensor], share: float) -> None:
    """Moves a model's weights and statistics towards those that the run began with (WiSE-FT, arXiv:2109.01903)."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            tensor.lerp_(start[name], share)


def finish(run: Run, judge: data.Split) -> dict[str, Any]:
    """Reads the judging split once, and writes the weights and what was measured."""
    if run.start is not None:
        _average(run.best_weights, run.start, run.recipe.wise_ft)
    storage.round_as_stored(run.best_weights)  # so that what is measured is what is stored
    logits = judged(run, judge)
    mirrored = judged(run, dataclasses.replace(judge, images=judge.images.flip(3)))
    if not run.accelerator.is_main_process:
        return {}
    model = run.best_weights
    weights = run.out / checkpoints.WEIGHTS
    storage.save_weights(model, weights)
    measured = evaluate.measure(logits, judge.labels)
    image_size = (judge.info.image_size[0], *run.recipe.full_size(judge.info.image_size[1:]))
    size = summary.count(model, image_size)
    metrics = dict(
        model=name_of(run.model),
        dataset=run.recipe.dataset,
        split="holdout" if run.holdout else "test",
        top1=measured.top1,
        top1_tta=evaluate.measure(evaluate.averaged(logits, mirrored), judge.labels).top1,
        loss=measured.loss,
        ece=measured.ece,
        per_class=measured.per_class,
        confusion=measured.confusion,
        params=size.params,
        macs=size.macs,
        seed=run.recipe.seed,
        epochs=run.epoch,
        minutes=round(run.seconds / 60, 2),
        **environment(run.accelerator.device),
        data=datasets.record(judge.info, image_size),
        data_md5=judge.info.files,
        sha256=checkpoints.sha256(weights),
    )
    if run.loss.teachers:
        metrics["teachers"] = [name_of(teacher) for teacher in run.loss.teachers]
    if run.answers:
        metrics.update(teachers=run.answers.teachers, answers_command=run.answers.command)
    if run.holdout and (found := evaluate.fit_temperature(logits, judge.labels)):
        metrics["temperature"] = found
    write_json(run.out / checkpoints.METRICS, metrics)
    draw_curves(run.out)
    return metrics
