"""From run folders, or a model, to a Hub repository: a checkpoint's folder as it is published."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from timm.models import get_pretrained_cfg
from torch import nn

from .. import checkpoints, inference, registry, storage, summary
from ..configs import load_model, read_config
from ..datasets import DATASETS, DatasetInfo, facts, record
from ..errors import CheckpointError, CnnzooError, system_errors
from ..files import atomic, check_replaceable, kept_if_used, user_path, write_json
from ..metrics import check_metrics
from ..resolve import resolve, resume_command
from ..version import __version__
from ._card import CUSTOM, card, full_name, widened
from ._folder import ANSWERS, CARD, CONFIG, METRICS, PICTURE, RECIPE
from ._pictures import draw
from ._runs import check_alike, merged, noted_on_holdout, read_finished


@system_errors()
def build(
    run_or_model: str | Path | Sequence[str | Path] | nn.Module,
    out: str | Path,
    *,
    holdout_run: str | Path | None = None,
    labels: Sequence[str] | None = None,
    variant: str = "",
) -> Path:
    """Makes a checkpoint's folder from finished runs of one recipe, or from a model; nothing is measured or sent here.

    Args:
        run_or_model: A run folder that trained on all training images, or several, one per seed; the lowest seed's weights
            ship. Or a model of the zoo, as it is: then nothing is known of its accuracy, and the card says so.
        out: Folder to put `<arch>.<dataset>` into, or `<arch>.custom` for a model.
        holdout_run: Run folder of the same recipe on the holdout, which the temperature comes from; a model has its own.
        labels: Class names of a model, by index; those of its checkpoint if None, else the indices.
        variant: What tells these weights from the model's usual ones, such as the recipe's name: the folder becomes
            `<arch>.<variant>_<dataset>`.

    Returns:
        The folder made. What was there before is replaced when all of the new one is ready.

    Raises:
        CheckpointError: A run is unfinished, has read another split, is of another recipe, or its weights changed since;
            or the model is none of the zoo's, or cannot be described by a config.json; or the variant is no name.
    """
    if isinstance(run_or_model, nn.Module):
        if holdout_run is not None or variant:
            extra = f"variant={variant!r}" if variant else f"holdout_run={holdout_run}"
            raise CheckpointError(f"A model was given with {extra}, which is for runs only. Leave it out.")
        return _build_model(run_or_model, user_path(out), labels)
    if labels is not None:
        raise CheckpointError(
            "Runs were given with labels, but labels are for a model only: a run knows its own. Leave them out."
        )
    runs = [run_or_model] if isinstance(run_or_model, (str, os.PathLike)) else list(run_or_model)
    if not runs:
        raise CheckpointError("An empty list of runs was given; at least one is needed. Pass a run folder or a model.")
    holdout_run = None if holdout_run is None else user_path(holdout_run)
    return _build_runs([user_path(run) for run in runs], holdout_run, user_path(out), variant)


def _build_runs(runs: list[Path], holdout_run: Path | None, out: Path, variant: str) -> Path:
    found = [read_finished(run, "test") for run in runs]
    for run in found:
        check_alike(run, found[0].recipe, found[0].metrics)
    for i, run in enumerate(found):
        seed = run.metrics["seed"]
        if twin_run := next((other for other in found[:i] if other.metrics["seed"] == seed), None):
            raise CheckpointError(
                f"{twin_run.folder} and {run.folder} both have the seed {seed}, so they count as one run. Give each run "
                "once, and runs with different seeds."
            )
    found.sort(key=lambda run: run.metrics["seed"])
    source = found[0]
    metrics = merged(found)
    recipe = {k: v for k, v in source.recipe.items() if k != "holdout"}
    if recipe.get("pretrained") and (base := _base_model(recipe["model"])):
        metrics["base_model"] = base
    if variant:
        metrics["tag"] = f"{variant}_{source.info.name}"
    folder = out / full_name(metrics, source.info)
    model = registry.create_model(source.folder, pretrained=True)
    for run in found:
        storage.check_stored(run.weights, model, f"Measure them again: {resume_command(run.folder)}")
    if holdout_run is not None:
        metrics |= noted_on_holdout(holdout_run, source.recipe, source.metrics, model)
    with replacing(folder) as made:
        with atomic(made / checkpoints.WEIGHTS) as temporary:
            shutil.copyfile(source.weights, temporary)
        write_rest(made, model, source.info, metrics, recipe)
    return folder


def _build_model(model: nn.Module, out: Path, labels: Sequence[str] | None) -> Path:
    import timm

    arch = (getattr(model, "pretrained_cfg", None) or {}).get("architecture")
    if arch not in registry.list_models() or not getattr(model, "num_classes", 0):
        raise CheckpointError(
            f"A {type(model).__name__} was given; a classifier made by cnnzoo.create_model is needed: not timm's own, "
            "not wrapped, without features_only, and with at least one class. Pass the model itself."
        )
    inference.runnable(model)
    if bad := [k for k, v in model.state_dict().items() if v.is_floating_point() and not v.isfinite().all()]:
        raise CheckpointError(f"{bad[0]} of the model has numbers that are not finite. Train again, from good weights.")
    names = tuple(inference.class_labels(model) if labels is None else labels)
    wrong = isinstance(labels, str) or not all(isinstance(n, str) and n.strip() for n in names)
    if wrong or len(names) != model.num_classes or len(set(names)) < len(names):
        raise CheckpointError(
            f"{len(names)} labels were given for {model.num_classes} classes: {str(labels)[:60]}. Allowed is a list with "
            "one text for each class, each another. Pass, for example, labels=['cat', 'dog'], in the order of the classes."
        )
    temperature = getattr(model, "temperature", 1.0)
    folder = out / f"{arch}.{CUSTOM}"
    with replacing(folder) as made:
        storage.save_weights(model, made / checkpoints.WEIGHTS)
        # Read as a stranger's is: what does not survive that is refused here, and not when somebody pulls it.
        write_json(made / CONFIG, _described(model, dict(label_names=list(names)), temperature))
        parsed = read_config((made / CONFIG).read_bytes(), f"What describes the {arch}")
        copy = load_model(parsed, (made / checkpoints.WEIGHTS).read_bytes(), f"The {arch}")
        cfg = parsed.cfg
        info = DatasetInfo(
            name=CUSTOM, title="", folder="", files={}, unpacked={}, mirrors=(), image_size=cfg["input_size"],
            mean=cfg["mean"], std=cfg["std"], labels=names, num_train=0, num_test=0, holdout=0, licence="", homepage="",
        )  # fmt: skip
        size = summary.count(copy, cfg["input_size"])
        metrics = dict(
            model=arch, params=size.params, macs=size.macs, torch=torch.__version__, timm=timm.__version__,
            cnnzoo=__version__, data=record(info, cfg["input_size"]), temperature=temperature,
            sha256=checkpoints.sha256(made / checkpoints.WEIGHTS),
        )  # fmt: skip
        if base := getattr(model, "base_model", None):
            metrics["base_model"] = base
        write_rest(made, copy, info, metrics, {})
    return folder


@system_errors()
def twin(model: str | os.PathLike, out: str | Path) -> Path:
    """Makes the 3-channel twin of a 1-channel checkpoint: same logits on gray images, and pipelines can feed it.

    Args:
        model: A checkpoint folder, as `build` makes it, a finished run, or the name of a checkpoint.
        out: Folder to put `<arch>.<tag>` into.

    Raises:
        CheckpointError: It is on the Hub or has no weights, they do not fit the model, it has not 1 channel, or the twin
            would take its place.
    """
    with folder_of(model) as folder:
        return _twin(folder, out)


def _twin(folder: Path, out: str | Path) -> Path:
    metrics, recipe = read_numbers(folder)
    info = facts(metrics, recipe)
    if info.image_size[0] != 1 or metrics.get("in_chans", 1) != 1:
        raise CheckpointError(
            f"The model in {folder} does not have 1 channel; only such models have a 3-channel twin. Push it as it is."
        )
    model = registry.create_model(f"local-dir:{folder}", pretrained=True, in_chans=3)
    made = user_path(out) / full_name(metrics, info)
    if made.resolve() == folder.resolve():
        raise CheckpointError(
            f"{out} was given for the twin, but {folder} itself is there. Name another folder, such as rgb."
        )
    with replacing(made) as scratch:
        storage.save_weights(model, scratch / checkpoints.WEIGHTS)
        size = summary.count(model, (3, *info.image_size[1:]))
        digest = checkpoints.sha256(scratch / checkpoints.WEIGHTS)
        for picture in (PICTURE, ANSWERS):
            if (folder / picture).is_file():  # copied, since other versions of matplotlib and Pillow draw differently
                shutil.copyfile(folder / picture, scratch / picture)
        metrics = dict(metrics, in_chans=3, params=size.params, macs=size.macs, sha256=digest)
        write_rest(scratch, model, info, metrics, recipe)
    return made


@contextmanager
def folder_of(model: str | os.PathLike) -> Iterator[Path]:
    """The checkpoint folder that a MODEL means, see `resolve`; of a run one that is made for the block.

    A folder that is called like a checkpoint of the zoo is meant before that.

    Raises:
        CheckpointError: It is on the Hub, or has no weights, or is a run that no folder can be made of.
    """
    source = resolve(model, folder_first=True)
    if source.kind == "run":
        with tempfile.TemporaryDirectory() as scratch:
            yield build(source.name, scratch)
        return
    if source.folder is None:
        what = "on the Hub" if source.kind == "hub" else "a model without weights"
        raise CheckpointError(f"{model} was given, which is {what}. Name a checkpoint folder, a run folder, or NAME.TAG.")
    yield source.folder


# -- the files -----------------------------------------------------------------------------------------------------------


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A scratch folder beside `folder`, whose files become that folder's when the block ends well."""
    folder = folder.resolve() if folder.exists() else folder  # of a link the folder that it leads to
    try:
        with kept_if_used(folder), tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
            yield Path(scratch)
            made = sorted(Path(scratch).iterdir(), key=lambda p: p.name == CONFIG)  # last, so that a reader finds the rest
            for path in made:
                check_replaceable(folder / path.name)
            for path in made:
                os.replace(path, folder / path.name)
            for name in {RECIPE, PICTURE, ANSWERS} - {p.name for p in made}:
                (folder / name).unlink(missing_ok=True)
    except OSError as e:
        raise CnnzooError(f"{folder} cannot be written ({e.strerror}). Free some space, or choose another out=.") from e


@contextmanager
def placed_in(out: str | Path) -> Iterator[Path]:
    """A scratch folder inside `out`; the checkpoint folders made in there become `out`'s when the block ends well."""
    out = user_path(out)
    with system_errors(), kept_if_used(out), tempfile.TemporaryDirectory(prefix=".", dir=out) as scratch:
        try:
            yield Path(scratch)
        except CnnzooError as e:  # the scratch folder is gone when this is read
            e.args = tuple(a.replace(scratch, str(out)) if isinstance(a, str) else a for a in e.args)
            raise
        for made in Path(scratch).iterdir():
            with replacing(out / made.name) as place:
                for path in made.iterdir():
                    os.replace(path, place / path.name)


def write_rest(made: Path, model: nn.Module, info: DatasetInfo, metrics: dict[str, Any], recipe: dict[str, Any]) -> None:
    """All but the weights: what follows from model, metrics and recipe, and these."""
    temperature = metrics.get("temperature", 1.0)
    shown = widened(info) if metrics.get("in_chans", info.image_size[0]) != info.image_size[0] else info
    write_json(made / CONFIG, config(model, shown, temperature, metrics.get("tag")))
    write_json(made / METRICS, metrics)
    if recipe:
        write_json(made / RECIPE, recipe)
    draw(made, model, info, metrics)
    with atomic(made / CARD) as temporary:
        temporary.write_text(card(full_name(metrics, info), metrics, recipe), encoding="utf-8")


def config(model: nn.Module, info: DatasetInfo, temperature: float = 1.0, tag: str | None = None) -> dict[str, Any]:
    """A checkpoint's config.json: timm's format, which transformers' TimmWrapper reads too.

    Args:
        model: What the weights fit.
        info: Labels, mean, std and size of its images.
        temperature: What its logits are divided by before they are taken for probabilities.
        tag: Of the checkpoint; the data set's name if None.

    Raises:
        CheckpointError: The temperature is none, or a config cannot describe the model.
    """
    images = dict(input_size=info.image_size, mean=info.mean, std=info.std)
    written = _described(model, dict(label_names=list(info.labels)), temperature, images)
    cfg = written["pretrained_cfg"]
    cfg.pop("license", None)
    cfg.update(tag=tag or info.name, **(dict(license="apache-2.0") if info.name in DATASETS else {}))
    if tuple(cfg["input_size"][1:]) != get_pretrained_cfg(written["architecture"]).input_size[1:]:
        cfg["pool_size"] = None  # the zoo's is of its own size
    return written


def _described(
    model: nn.Module, labels: dict[str, Any], temperature: float, images: dict[str, Any] | None = None
) -> dict[str, Any]:
    """What timm says of a model, and the temperature, which timm has no field for."""
    from timm.models._hub import save_config_for_hf

    notes = checkpoints.temperature_notes(temperature)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            save_config_for_hf(model, str(Path(scratch) / CONFIG), model_config=labels, data_config=images)
            written = checkpoints.read_json(Path(scratch) / CONFIG)
    except (KeyError, TypeError, ValueError) as e:
        raise CheckpointError(
            f"A {type(model).__name__} was given that timm cannot describe ({str(e)[:200]}). Needed is a classifier made by "
            "cnnzoo.create_model with plain arguments. Make one, and load the weights into it."
        ) from e
    # transformers passes num_classes itself and fails on a second one.
    written.get("model_args", {}).pop("num_classes", None)
    cfg = written["pretrained_cfg"]
    for name in ("label_names", "notes"):  # labels are at the root, where both libraries look
        cfg.pop(name, None)
    if notes:
        cfg["notes"] = notes
    return written


# -- numbers -------------------------------------------------------------------------------------------------------------


def _base_model(model: str) -> str | None:
    """The Hub's name of the checkpoint that `pretrained` meant for a MODEL, None if it is on no Hub, or gone."""
    try:
        source = resolve(model)
    except CnnzooError:
        return None
    if source.kind == "hub":
        return source.name.partition("@")[0]
    return f"{checkpoints.HUB_ORG}/{source.folder.name}" if source.kind == "name" and source.folder else None


def read_numbers(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """A checkpoint folder's metrics, and its recipe, which is empty where there is none.

    Raises:
        CheckpointError: They cannot be read, or there are measured numbers without a recipe.
    """
    metrics, has_recipe = _read_metrics(folder), (folder / RECIPE).exists()
    if "top1" in metrics and not has_recipe:
        raise CheckpointError(
            f"{folder} lacks {RECIPE}, which is needed with measured numbers. Make the folder again: cnnzoo build."
        )
    return metrics, checkpoints.read_json(folder / RECIPE) if has_recipe else {}


def _read_metrics(folder: Path) -> dict[str, Any]:
    metrics = checkpoints.read_json(folder / METRICS)
    check_metrics(metrics, folder / METRICS)
    return metrics
