"""From run folders to a Hub repository: a checkpoint's folder as it is published."""

import json
import shutil
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from safetensors.torch import load_file

from . import checkpoints, registry
from .datasets import DatasetInfo, get_dataset_info
from .errors import CheckpointError
from .files import atomic, write_json

_CARD = """---
{header}
---

# {name}

`{m[model]}` of cnnzoo, trained on {info.title}: {m[params]:,} parameters, {millions:.1f} million multiply-accumulates
for one {input_size} image.

```python
import cnnzoo  # registers the model with timm
import timm

model = timm.create_model("hf-hub:{org}/{name}", pretrained=True).eval()
```

## Accuracy

| | |
|---|---|
| top-1, test set | {m[top1]:.2f} % (these weights, seed {m[seed]}) |
| {mean_name} | {mean} % (n = {count}) |
| with flip test-time augmentation | {m[top1_tta]:.2f} % |
| cross-entropy, calibration error | {m[loss]:.4f}, {m[ece]:.1f} % |
| top-1, holdout of the run without it | {m[holdout_top1]:.2f} % |

Trained on all {info.num_train:,} training images for a fixed {m[epochs]} epochs; these are the last (averaged) weights.
Choices were made on the last {info.holdout:,} training images, by runs that did not train on them; the published run read
the test set after training. A difference of less than 0.45 points between single runs means nothing.

Trained in {m[minutes]:.0f} minutes on {m[hardware]}, torch {m[torch]}, timm {m[timm]}, by `{m[command]}`.

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

Weights and code: Apache-2.0. sha256 of the weights: `{m[sha256]}`.
"""

CONFIG, METRICS, RECIPE, CARD = "config.json", "metrics.json", "recipe.json", "README.md"


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
    write_json(folder / RECIPE, recipe)
    write_json(folder / METRICS, metrics)
    with atomic(folder / CARD) as temporary:
        temporary.write_text(card(name, metrics, recipe), encoding="utf-8")
    return folder


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


def config(arch: str, weights: Path, info: DatasetInfo) -> dict[str, Any]:
    """A checkpoint's config.json: timm's format, which transformers' TimmWrapper reads too.

    Raises:
        CheckpointError: The weights do not fit the model.
    """
    from timm.models import save_for_hf

    model = registry.create_model(arch)
    try:
        model.load_state_dict(load_file(weights), strict=True)
    except (RuntimeError, OSError) as e:
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


def card(name: str, metrics: dict[str, Any], recipe: dict[str, Any]) -> str:
    """The model card of a checkpoint, generated from its metrics and recipe."""
    info = get_dataset_info(recipe["dataset"])
    std = metrics["top1_std"]
    return _CARD.format(
        header=_card_header(name, metrics, info),
        name=name,
        org=checkpoints.HUB_ORG,
        info=info,
        m=metrics,
        input_size="x".join(map(str, info.image_size)),
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
