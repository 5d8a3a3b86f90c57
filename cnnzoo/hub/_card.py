"""The model card of a checkpoint folder, from what its metrics and recipe say; what they do not say, it does not claim."""

import dataclasses
import json
import math
import re
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from .. import checkpoints, published, registry, storage
from ..datasets import DATASETS, HUB_IDS, TORCHVISION, DatasetInfo, facts
from ..errors import CheckpointError
from ..metrics import taught_by
from ..recipes import by_the_book
from ..robustness import as_markdown
from . import _card_text as text
from ._folder import ANSWERS, PICTURE
from ._paper import about, bibtex
from ._pictures import wanted

RGB = "rgb"  # the branch with the 3-channel twin
CUSTOM = "custom"  # what stands for the data set's name where nothing is known of the data


def full_name(metrics: dict[str, Any], info: DatasetInfo) -> str:
    """A folder's name: `<arch>.<dataset>`, or `<arch>.<variant>_<dataset>`.

    Raises:
        CheckpointError: The variant is no name, or of another data set, or makes the name of one (`fashion` of `mnist`).
    """
    tag = metrics.get("tag", info.name)
    named = isinstance(tag, str) and re.fullmatch(rf"[a-z0-9]+_{re.escape(info.name)}", tag)
    if tag != info.name and (not named or tag in DATASETS or tag in TORCHVISION):
        raise CheckpointError(
            f"The tag {str(tag)[:60]!r} was given; allowed is {info.name}, or a variant of it in lower-case letters and "
            f"digits, as in textbook_{info.name}. Choose a variant such as textbook."
        )
    return f"{metrics['model']}.{tag}"


def widened(info: DatasetInfo) -> DatasetInfo:
    """The facts of 1-channel data as its pictures in RGB have them."""
    return dataclasses.replace(info, image_size=(3, *info.image_size[1:]), mean=3 * info.mean, std=3 * info.std)


def card(name: str, metrics: dict[str, Any], recipe: dict[str, Any], repo_id: str | None = None) -> str:
    """The model card of a checkpoint, generated from its metrics and recipe; `repo_id` is the zoo's own if None."""
    info = facts(metrics, recipe)
    repo_id = repo_id or f"{checkpoints.HUB_ORG}/{name}"
    channels = metrics.get("in_chans", info.image_size[0])
    is_twin = channels != info.image_size[0]
    known = info.name in DATASETS
    measured = "top1" in metrics
    input_size = "x".join(map(str, (channels, *info.image_size[1:])))
    return text.CARD.format(
        header=_header(name, metrics, info),
        name=name,
        trained=f", trained on {info.title}" if measured else "",
        source=f"{repo_id}@{RGB}" if is_twin else repo_id,
        base=text.BASE.format(metrics["base_model"]) if "base_model" in metrics else "",
        variant=text.VARIANT.format(rgb=RGB) if is_twin else "",
        pipeline=_pipeline(repo_id, info.image_size[0]),
        accuracy=_accuracy(metrics, recipe, info) if measured else text.UNMEASURED,
        recipe=_recipe(metrics, recipe) if recipe else "",
        data=_data(metrics, info) if measured else "",
        use=(text.GARMENTS if known else "") + _classes(info, input_size),
        about=about(metrics["model"]),
        answers=f"\n![Ten drawings of garments, each with the answer of this model]({ANSWERS})\n"
        if ANSWERS in wanted(metrics, info)
        else "",
        note=text.NOTES.get(name, ""),
        neighbours=_neighbours(name, metrics) if known and measured else "",
        import_image="from cnnzoo.drawings import garments" if known else "from PIL import Image",
        image='garments()["Bag"]' if known else 'Image.new("L", (28, 28))',
        org=checkpoints.HUB_ORG,
        paper=bibtex(metrics["model"]),
        licences=_licences(known, info if measured else None),
        m=metrics,
        input_size=input_size,
        millions=metrics["macs"] / 1e6,
    )


def _neighbours(name: str, metrics: dict[str, Any], each_side: int = 2) -> str:
    """The zoo's checkpoints of the same kind or the same model with the next fewer and the next more parameters, this one
    between them."""
    arch, _, tag = name.partition(".")
    alike = [r for r in registry.results() if (r["tag"] == tag or r["model"] == arch) and r["checkpoint"] != name]
    if not alike:
        return ""
    fewer = [r for r in alike if r["params"] < metrics["params"]][-each_side:]
    more = [r for r in alike if r["params"] >= metrics["params"]][:each_side]
    table = ["| checkpoint | parameters | MACs | top-1 accuracy |", "|---|---:|---:|---:|"]
    for r in (*fewer, dict(metrics, checkpoint=name), *more):
        shown = f"**{name}**" if r["checkpoint"] == name else r["checkpoint"]
        table.append(f"| {shown} | {r['params']:,} | {r['macs'] / 1e6:.1f} M | {r['top1']:.2f} |")
    return text.NEIGHBOURS.format(table="\n".join(table))


def _recipe(m: dict[str, Any], recipe: dict[str, Any]) -> str:
    asked = ""
    if "answers_command" in m:
        many = "s" * (len(m.get("teachers", ())) > 1)
        asked = f", and before them the answers of the teacher{many} by `{m['answers_command']}`"
    return text.RECIPE.format(command=m["command"], asked=asked, recipe=json.dumps(recipe, indent=2))


def _accuracy(m: dict[str, Any], recipe: dict[str, Any], info: DatasetInfo) -> str:
    std, n = m["top1_std"], len(m["seeds"])
    start = ", from pretrained weights" if recipe.get("pretrained") else ""
    start += taught_by(m, quote="`")
    book = info.name in HUB_IDS and by_the_book(recipe)
    section = published.TEXTBOOK.get(m["model"]) if book else None
    choices = text.BY_THE_BOOK if book else text.CHOICES if "holdout_top1" in m else _no_choices(m, info)
    return text.ACCURACY.format(
        m=m,
        info=info,
        mean_name="mean" if std is None else "mean ± standard deviation",
        mean=f"{m['top1_mean']:.2f}" if std is None else f"{m['top1_mean']:.2f} ± {std:.2f}",
        count=f"{n} run{'s' if n > 1 else ''}",
        holdout=text.HOLDOUT.format(m["holdout_top1"]) if "holdout_top1" in m else "",
        book=text.BOOK.format(_training_of(section), section.printed) if section and section.printed else "",
        trained=text.TRAINED.format(info=info, m=m, start=start),
        averaged=_averaged(recipe),
        choices=choices.format(
            info=info,
            choice=(section and section.choice) or text.NO_CHOICE,
            amp=text.IN_BF16 if recipe.get("amp") == "bf16" else "",
        ),
        uncertainty=uncertainty(m["top1"], info),
        minutes=_minutes(m["minutes"]),
        calibrated=text.CALIBRATED.format(m=m) if "ece_calibrated" in m else text.NOT_CALIBRATED,
        robust=text.ROBUST.format(table=as_markdown(m["robustness"])) if "robustness" in m else "",
        photos=text.PHOTOS.format(m=m["photos"], name=full_name(m, info)) if "photos" in m else "",
        halved=text.HALVED if m["params"] > storage.LARGE else "",
        picture=f"![Confusion matrix: the answers for each true class, in percent]({PICTURE})\n\n"
        if "confusion" in m
        else "",
    )


def _no_choices(m: dict[str, Any], info: DatasetInfo) -> str:
    """Of a checkpoint without a run on the holdout; how the zoo chose the settings of its own for photos is known."""
    name = full_name(m, info)
    if m.get("tag") != registry.PHOTO_TAG or name not in checkpoints.names():
        return text.NO_CHOICES
    own = checkpoints.metrics(name)  # compared by what the 3-channel twin has too
    return text.PHOTO_CHOICES if all(m.get(k) == own.get(k) for k in ("command", "loss", "minutes")) else text.NO_CHOICES


def _training_of(section: published.Section) -> str:
    return f"at {section.training}" if section.training else "in fp32"


def uncertainty(top1: float, info: DatasetInfo) -> str:
    """How far apart accuracies must be to differ, as a sentence; of accuracies of 95 % where the data set is the zoo's."""
    n = max(1, info.num_test)
    share = 0.95 if info.name in DATASETS else top1 / 100
    share = min(max(share, 1 / (n + 2)), 1 - 1 / (n + 2))  # all right is no proof of no errors
    one = 100 * math.sqrt(share * (1 - share) / n)
    two = math.sqrt(2) * one
    return (
        f"At an accuracy of {100 * share:.3g} %, one measurement has a standard error of {_rounded(one, 2)} points, and the "
        f"difference of two has one of {_rounded(two, 2)} points.\nTwo accuracies that are less than {_rounded(2 * two, 1)} "
        "points apart cannot be told apart."
    )


def _rounded(value: float, digits: int) -> str:
    """To so many significant digits, never as a power of ten."""
    return f"{float(f'{value:.{digits}g}'):g}"


def _averaged(recipe: dict[str, Any]) -> str:
    over = ", averaged over the run" if recipe.get("ema_decay") else ""
    if not recipe.get("wise_ft"):
        return over
    return f"{over}, and then averaged with the pretrained ones, which have a share of {recipe['wise_ft']:g} (WiSE-FT)"


def _minutes(minutes: float) -> str:
    return "1 minute" if round(minutes) == 1 else f"{minutes:.0f} minutes" if minutes >= 1 else "less than a minute"


def _data(metrics: dict[str, Any], info: DatasetInfo) -> str:
    if metrics["data_md5"]:
        hub = f";\non the Hub: `{HUB_IDS[info.name]}`" if info.name in HUB_IDS else ""
        return text.DATA.format(
            info=info, hub=hub, md5s="\n".join(f"- `{file}`: `{md5}`" for file, md5 in metrics["data_md5"].items())
        )
    return text.OTHER_DATA.format(info=info, homepage=f" ({info.homepage})" if info.homepage else "")


def _classes(info: DatasetInfo, input_size: str) -> str:
    row = [", ".join(f"{v:g}" for v in values) for values in (info.mean, info.std)]
    labels = json.dumps(list(info.labels), ensure_ascii=False)  # as JSON, since names may hold anything
    return text.CLASSES.format(count=len(info.labels), labels=labels, input_size=input_size, mean=row[0], std=row[1])


def _licences(known: bool, info: DatasetInfo | None) -> str:
    data = f" Data: {info.licence}." if info else ""
    return f"Weights and code: Apache-2.0.{data}" if known else f"Code: Apache-2.0. Weights: licence not stated.{data}"


def _pipeline(repo_id: str, channels: int) -> str:
    if channels == 1:
        return text.PIPELINE.format(branch=f", use the branch `{RGB}`", revision=f', revision="{RGB}"', repo_id=repo_id)
    return text.PIPELINE.format(branch="", revision="", repo_id=repo_id) if channels == 3 else ""


def _header(name: str, metrics: dict[str, Any], info: DatasetInfo) -> str:
    """The card's metadata as YAML, with the result, if there is one, in the Hub's model-index form."""
    gray = ["grayscale"] if info.image_size[0] == 1 else []
    fields: dict[str, Any] = dict(
        library_name="timm",
        pipeline_tag="image-classification",
        tags=["image-classification", "timm", "cnnzoo", *gray],
    )
    if "base_model" in metrics:
        fields["base_model"] = metrics["base_model"]
    if info.name in DATASETS:
        fields["license"] = "apache-2.0"
    if "top1" in metrics:
        # What the Hub calls a data set: pictures of one's own have no name there.
        own = info.name == "folder"
        kind = "imagefolder" if own else HUB_IDS.get(info.name, info.name.removeprefix("hfds--").replace("--", "/"))
        result = EvalResult(
            task_type="image-classification", dataset_type=kind, dataset_name=info.title, dataset_split="test",
            metric_type="accuracy", metric_name="top-1", metric_value=round(metrics["top1"] / 100, 6),
        )  # fmt: skip
        fields |= dict(datasets=None if own else [kind], metrics=["accuracy"], model_name=name, eval_results=[result])
    return ModelCardData(**fields).to_yaml()
