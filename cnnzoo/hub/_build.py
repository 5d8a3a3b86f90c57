"""From run folders to a Hub repository: a checkpoint's folder as it is published."""

import json
import shutil
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from .. import checkpoints, registry, summary
from ..datasets import DatasetInfo, get_dataset_info
from ..errors import CheckpointError
from ..files import atomic, write_json
from ..robustness import as_markdown
from ._folder import CARD, CONFIG, METRICS, PICTURE, RECIPE

_CARD = """---
{header}
---

# {name}

`{m[model]}` of cnnzoo, trained on {info.title}: {m[params]:,} parameters, {millions:.1f} million multiply-accumulates
for one {input_size} image.
{variant}
```python
import cnnzoo  # registers the model with timm
import timm

model = timm.create_model("hf-hub:{source}", pretrained=True).eval()
```

`cnnzoo.hub.pull` checks the hashes too, and gives the transform and the labels with the model.{pipeline}

## Accuracy

| | |
|---|---|
| top-1, test set | {m[top1]:.2f} % (these weights, seed {m[seed]}) |
| {mean_name} | {mean} % (n = {count}) |
| with flip test-time augmentation | {m[top1_tta]:.2f} % |
| cross-entropy, calibration error | {m[loss]:.4f}, {m[ece]:.1f} %{calibrated} |
| top-1, holdout of the run without it | {m[holdout_top1]:.2f} % |

Trained on all {info.num_train:,} training images for a fixed {m[epochs]} epochs; these are the last (averaged) weights.
Choices were made on the last {info.holdout:,} training images, by runs that did not train on them; the published run read
the test set after training. A difference of less than 0.45 points between single runs means nothing.

{robust}{picture}Trained in {m[minutes]:.0f} minutes on {m[hardware]}, torch {m[torch]}, timm {m[timm]}, by `{m[command]}`.

## Recipe

```json
{recipe}
```

## Data

The official {info.title} files ({info.homepage}, licence {info.licence}), md5:

{md5s}

## Use and limits

For small grayscale images of single garments, light on black, and as a start for fine-tuning on small images. It knows ten
classes and nothing else: a picture of anything else gets one of them too.

Weights and code: Apache-2.0. Data: {info.licence}. sha256 of the weights: `{m[sha256]}`.
"""

_CALIBRATED = "; {m[ece_calibrated]:.1f} % at the temperature {m[temperature]:.2f} of the run on the holdout"

_ROBUST = """On the test images, spoiled by `cnnzoo.robustness`:

{table}

"""

_PIPELINE = """

In transformers, whose pipeline hands every model RGB, use the branch `{rgb}`:

```python
import cnnzoo
from transformers import pipeline

classify = pipeline("image-classification", model="{repo_id}", revision="{rgb}")
```"""

_VARIANT = """
This is the 3-channel twin of these weights, on the branch `{rgb}`: its first layer is the gray one's, repeated and divided
by three, so that a gray image in RGB gives the gray model's answer. Accuracy is the gray weights'.
"""

RGB = "rgb"  # the branch with the 3-channel twin


def build(runs: Sequence[str | Path], holdout_run: str | Path, out: str | Path) -> Path:
    """Makes the folder of a checkpoint from finished runs of one recipe; nothing is measured or sent here.

    Args:
        runs: Run folders that trained on all training images, one per seed; the lowest seed's weights ship.
        holdout_run: Run folder of the same recipe on the holdout, which the temperature comes from.
        out: Folder to put `<arch>.<dataset>` into.

    Returns:
        The folder made.

    Raises:
        CheckpointError: A run is unfinished, has read another split, is of another recipe, or its weights changed since.
    """
    found = sorted((_read_run(Path(run), "test") for run in runs), key=lambda pair: pair[1]["seed"])
    chosen = _read_run(Path(holdout_run), "holdout")
    reference = _comparable(found[0][0])
    for folder, (recipe, _) in zip([*runs, holdout_run], [*found, chosen], strict=True):
        if _comparable(recipe) != reference:
            raise CheckpointError(f"{folder} is of another recipe than the rest. Give runs that differ in seed alone.")
    recipe, measured = found[0]
    source = next(Path(run) for run in runs if checkpoints.read_json(Path(run) / METRICS)["seed"] == measured["seed"])
    checkpoints.verify(source / checkpoints.WEIGHTS, measured["sha256"])
    metrics = _merge([m for _, m in found], chosen[1])
    info = get_dataset_info(recipe["dataset"])
    name = f"{recipe['model']}.{info.name}"
    folder = Path(out) / name
    folder.mkdir(parents=True, exist_ok=True)
    with atomic(folder / checkpoints.WEIGHTS) as temporary:
        shutil.copyfile(source / checkpoints.WEIGHTS, temporary)
    write_json(folder / CONFIG, config(recipe["model"], folder / checkpoints.WEIGHTS, info))
    recipe = {k: v for k, v in recipe.items() if k != "holdout"}
    _write(folder, metrics, recipe)
    return folder


def twin(folder: str | Path, out: str | Path) -> Path:
    """Makes the 3-channel twin of a 1-channel checkpoint folder: same logits on gray images, and pipelines can feed it.

    Args:
        folder: A checkpoint folder, `<arch>.<dataset>`.
        out: Folder to put `<arch>.<dataset>` into.

    Raises:
        CheckpointError: The weights do not fit the model.
    """
    folder = Path(folder)
    recipe, metrics = checkpoints.read_json(folder / RECIPE), checkpoints.read_json(folder / METRICS)
    arch, info = recipe["model"], get_dataset_info(recipe["dataset"])
    source = dict(file=str(folder / checkpoints.WEIGHTS))
    try:
        model = registry.create_model(arch, pretrained=True, in_chans=3, pretrained_cfg_overlay=source)
    except (RuntimeError, SafetensorError) as e:
        raise CheckpointError(f"{folder} does not fit {arch} ({str(e).splitlines()[0]}). Build it again.") from e
    made = Path(out) / f"{arch}.{info.name}"
    made.mkdir(parents=True)
    with atomic(made / checkpoints.WEIGHTS) as temporary:
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, temporary, metadata=dict(format="pt"))
    write_json(made / CONFIG, config(arch, made / checkpoints.WEIGHTS, info, in_chans=3))
    size = summary.count(model, (3, *info.image_size[1:]))
    digest = checkpoints.sha256(made / checkpoints.WEIGHTS)
    _write(made, dict(metrics, in_chans=3, params=size.params, macs=size.macs, sha256=digest), recipe)
    return made


def _write(folder: Path, metrics: dict[str, Any], recipe: dict[str, Any]) -> None:
    """The files that follow from metrics and recipe, and these."""
    write_json(folder / RECIPE, recipe)
    write_json(folder / METRICS, metrics)
    if "confusion" in metrics:  # runs of before it was noted lack it
        from .. import plots

        labels = get_dataset_info(recipe["dataset"]).labels
        title = f"{metrics['model']}: {metrics['top1']:.2f} % of the test images"
        plots.save(plots.confusion_matrix(metrics["confusion"], labels, title), folder / PICTURE)
    with atomic(folder / CARD) as temporary:
        temporary.write_text(card(folder.name, metrics, recipe), encoding="utf-8")


def _read_run(run: Path, split: str) -> tuple[dict[str, Any], dict[str, Any]]:
    recipe, metrics = checkpoints.read_json(run / RECIPE), checkpoints.read_json(run / METRICS)
    if missing := {"split", "seed", "top1", "sha256"} - set(metrics) or {"model", "dataset"} - set(recipe):
        raise CheckpointError(f"{run} is not a finished run: it lacks {', '.join(sorted(missing))}. Train it again.")
    if metrics["split"] != split:
        raise CheckpointError(
            f"{run} measured the {metrics['split']} split, a run on {split} is needed. Train it "
            f"{'with' if split == 'holdout' else 'without'} --holdout."
        )
    return recipe, metrics


def _comparable(recipe: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in recipe.items() if k not in ("seed", "holdout", "compile")}


def _merge(runs: list[dict[str, Any]], holdout: dict[str, Any]) -> dict[str, Any]:
    tops = [m["top1"] for m in runs]
    return dict(
        {k: v for k, v in runs[0].items() if k != "split"},
        seeds=[m["seed"] for m in runs],
        top1_mean=round(statistics.mean(tops), 3),
        top1_std=round(statistics.stdev(tops), 3) if len(tops) > 1 else None,
        holdout_top1=holdout["top1"],
        holdout_command=holdout["command"],
        temperature=holdout["temperature"],
    )


def config(arch: str, weights: Path, info: DatasetInfo, in_chans: int = 1) -> dict[str, Any]:
    """A checkpoint's config.json: timm's format, which transformers' TimmWrapper reads too.

    Raises:
        CheckpointError: The weights do not fit the model.
    """
    from timm.models import save_for_hf

    model = registry.create_model(arch, in_chans=in_chans)
    try:
        model.load_state_dict(load_file(weights), strict=True)
    except (RuntimeError, OSError, SafetensorError) as e:
        raise CheckpointError(f"{weights} does not fit {arch} ({str(e).splitlines()[0]}). Give its own weights.") from e
    labels = dict(label_names=list(info.labels))
    with tempfile.TemporaryDirectory() as scratch:
        save_for_hf(model, scratch, model_config=labels, safe_serialization=True)
        written = checkpoints.read_json(Path(scratch) / CONFIG)
    # transformers passes num_classes itself and fails on a second one.
    written.get("model_args", {}).pop("num_classes", None)
    written["pretrained_cfg"].pop("label_names", None)  # they are at the root, where both libraries look
    written["pretrained_cfg"].update(tag=info.name, license="apache-2.0")
    return written


def card(name: str, metrics: dict[str, Any], recipe: dict[str, Any], repo_id: str | None = None) -> str:
    """The model card of a checkpoint, generated from its metrics and recipe; `repo_id` is the zoo's own if None."""
    info = get_dataset_info(recipe["dataset"])
    std = metrics["top1_std"]
    repo_id = repo_id or f"{checkpoints.HUB_ORG}/{name}"
    channels = metrics.get("in_chans", info.image_size[0])
    is_twin = channels != info.image_size[0]
    return _CARD.format(
        header=_card_header(name, metrics, info),
        name=name,
        source=f"{repo_id}@{RGB}" if is_twin else repo_id,
        variant=_VARIANT.format(rgb=RGB) if is_twin else "",
        pipeline=_PIPELINE.format(rgb=RGB, repo_id=repo_id),
        picture=f"![What it takes each class for]({PICTURE})\n\n" if "confusion" in metrics else "",
        calibrated=_CALIBRATED.format(m=metrics) if "ece_calibrated" in metrics else "",
        robust=_ROBUST.format(table=as_markdown(metrics["robustness"])) if "robustness" in metrics else "",
        info=info,
        m=metrics,
        input_size="x".join(map(str, (channels, *info.image_size[1:]))),
        millions=metrics["macs"] / 1e6,
        mean_name="mean" if std is None else "mean ± standard deviation",
        mean=f"{metrics['top1_mean']:.2f}" if std is None else f"{metrics['top1_mean']:.2f} ± {std:.2f}",
        count=len(metrics["seeds"]),
        recipe=json.dumps(recipe, indent=2),
        md5s="\n".join(f"- `{file}`: `{md5}`" for file, md5 in metrics["data_md5"].items()),
    )


def _card_header(name: str, metrics: dict[str, Any], info: DatasetInfo) -> str:
    """The card's metadata as YAML, with the result in the Hub's model-index form."""
    result = EvalResult(
        task_type="image-classification", dataset_type=info.name, dataset_name=info.title, dataset_split="test",
        metric_type="accuracy", metric_name="top-1", metric_value=round(metrics["top1"] / 100, 6),
    )  # fmt: skip
    return ModelCardData(
        license="apache-2.0",
        library_name="timm",
        pipeline_tag="image-classification",
        tags=["image-classification", "timm", "cnnzoo", "grayscale"],
        datasets=[info.name],
        model_name=name,
        eval_results=[result],
    ).to_yaml()
