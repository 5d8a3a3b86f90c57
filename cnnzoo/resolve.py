"""What people type for a model, and what it means: the one place that reads it.

A MODEL is a name of the zoo with or without tag, `hf-hub:ORG/NAME`, `local-dir:FOLDER`, or simply the path of a run folder
or of a checkpoint folder. `timm:NAME` is a model of timm's own, untrained.
"""

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
from timm.models import is_model, split_model_name_tag
from torch import nn

from . import checkpoints, models
from .datasets import DATASETS, DatasetInfo, facts
from .errors import CheckpointError, CnnzooError, UnknownNameError, from_system, shown_path, unknown
from .files import user_path
from .metrics import check_metrics
from .recipes import TIMM

_ALLOWED = "a name, timm:NAME, hf-hub:ORG/NAME, local-dir:FOLDER, or the path of a run folder or a checkpoint folder"


@dataclass(frozen=True)
class Source:
    """Where a model comes from.

    Attributes:
        kind: `"name"` (of the zoo), `"timm"` (of timm's own), `"hub"` (a repository), `"folder"` (of a checkpoint) or
            `"run"` (a run folder).
        name: The model's name, with a tag where one was given; of a repository `ORG/NAME`, of a folder its path.
    """

    kind: str
    name: str

    @property
    def folder(self) -> Path | None:
        """The run's or the checkpoint's folder. A name without tag means the model's usual checkpoint; it may have none."""
        if self.kind in ("hub", "timm"):
            return None
        if self.kind != "name":
            return Path(self.name)
        arch, tag = split_model_name_tag(self.name)
        tag = tag or next(iter(checkpoints.pretrained_cfgs(arch)), "")
        return checkpoints.folder(f"{arch}.{tag}") if tag else None


@dataclass(frozen=True)
class Run:
    """A finished run, from its folder.

    Attributes:
        folder: It.
        arch: The model's name, without tag; `timm:NAME` for one of timm's own.
        recipe, metrics: What recipe.json and metrics.json hold.
        info: The data, with `image_size` as the model got its images.
        temperature: What logits are divided by; 1 where the run measured on no holdout, or on one that says nothing of it.
    """

    folder: Path
    arch: str
    recipe: dict[str, Any]
    metrics: dict[str, Any]
    info: DatasetInfo

    @property
    def is_timms(self) -> bool:
        """Whether its model is one of timm's own."""
        return self.arch.startswith(TIMM)

    @property
    def weights(self) -> Path:
        """The file of weights."""
        return self.folder / checkpoints.WEIGHTS

    @property
    def temperature(self) -> float:
        found = self.metrics.get("temperature", 1.0)
        if isinstance(found, (int, float)):
            low, high = checkpoints.TEMPERATURES
            found = found if low < found < high else 1.0  # older runs fitted 0 to a holdout without errors
        checkpoints.temperature_notes(found)  # which refuses what is no number
        return float(found)


def resolve(model: str | os.PathLike, *, folder_first: bool = False) -> Source:
    """Finds out what a MODEL means. Nothing is loaded, and no network is used.

    Args:
        model: See above; a `Path` is always a folder's.
        folder_first: Whether a folder that is called like a model of the zoo is meant, and not that model. Otherwise the
            name wins, so that no folder changes what a name means; `./NAME` is the folder.

    Raises:
        UnknownNameError: There is no such model, tag or folder.
        CheckpointError: The folder is neither a run's nor a checkpoint's.
        CnnzooError: It is no text.
    """
    if isinstance(model, os.PathLike):
        return _of_folder(os.fspath(model))
    if not isinstance(model, str):
        raise CnnzooError(f"A {type(model).__name__} was given for a model; allowed is {_ALLOWED}. Pass its name.")
    arch, tag = split_model_name_tag(model)
    full = arch in models.entrypoints() and (not tag or f"{arch}.{tag}" in checkpoints.names())
    is_folder = _is_folder(model)
    if full and not (folder_first and is_folder):
        return Source("name", model)
    if is_folder:
        return _of_folder(model)
    source, colon, place = model.partition(":")
    if model.startswith(TIMM):
        return Source("timm", _of_timm(place))
    if colon:
        if source not in ("hf-hub", "local-dir") or not place:
            raise UnknownNameError(f"Unknown model {model!r}. Allowed is {_ALLOWED}. For example, write hf-hub:ORG/NAME.")
        return Source("hub", place) if source == "hf-hub" else _of_folder(place)
    raise _unknown(model, arch, tag)


def _is_folder(given: str) -> bool:
    """Whether there is such a folder.

    Raises:
        CnnzooError: The user may not look there, so nobody can say.
    """
    try:
        return stat.S_ISDIR(os.stat(os.path.expanduser(given)).st_mode)
    except PermissionError as e:
        raise from_system(e) from e
    except (OSError, ValueError):  # it is not there, or no name of anything: a null byte, say
        return False


def _of_folder(given: str) -> Source:
    folder = user_path(given)
    try:
        str(folder).encode()
    except UnicodeEncodeError as e:  # what reads weights for timm refuses such a path, by an error of its own
        raise CheckpointError(f"{shown_path(given)} was given, whose name is not text in UTF-8. Rename the folder.") from e
    if (folder / checkpoints.CONFIG).is_file():
        return Source("folder", str(folder))
    # A checkpoint has a card, and a run has none.
    if (folder / checkpoints.RECIPE).is_file() and not (folder / checkpoints.CARD).is_file():
        return Source("run", str(folder))
    what = "has no" if folder.is_dir() else "is not a folder with"
    raise CheckpointError(
        f"{given} was given for a model, but it {what} config.json (of a checkpoint folder) or recipe.json (of a run). "
        "Name a folder that cnnzoo build or cnnzoo train made."
    )


def _unknown(model: str, arch: str, tag: str) -> UnknownNameError:
    if os.path.isfile(model):
        return UnknownNameError(f"{model} is a file; allowed is {_ALLOWED}. {_instead(model)}")
    if arch in models.entrypoints():
        checkpoints.check_installation()
        tags = list(checkpoints.pretrained_cfgs(arch))
        return unknown(f"tag of {arch}", tag, tags, hint="cnnzoo.list_pretrained() lists the checkpoints.")
    if not arch or any(c in model for c in "/\\~"):
        repository = f" For a repository of the Hub write hf-hub:{model}." if model.count("/") == 1 and arch else ""
        return UnknownNameError(f"Unknown model {model!r}: there is no such folder. Allowed is {_ALLOWED}.{repository}")
    hint = f"timm has it: write {TIMM}{arch}." if is_model(arch) else "cnnzoo.list_models() lists them."
    return unknown("model", arch, models.entrypoints(), hint=hint)


def _instead(file: str) -> str:
    """What to do with a file that was given for a model."""
    folder, ending = os.path.split(file)[0] or ".", os.path.splitext(file)[1].lower()
    if ending in (".onnx", ".pt2"):
        return "An exported file is opened by cnnzoo.load_exported."
    if any(os.path.isfile(os.path.join(folder, name)) for name in (checkpoints.CONFIG, checkpoints.RECIPE)):
        return f"Write {folder} for its folder."
    if ending in (".safetensors", ".pt", ".pth", ".bin", ".ckpt"):
        return "Weights alone do not say which model they belong to: cnnzoo.create_model(NAME, checkpoint_path=FILE)."
    return "Name a model or a folder."


# -- models of timm's own ------------------------------------------------------------------------------------------------


def _of_timm(given: str) -> str:
    """The name of a model of timm's own.

    Raises:
        UnknownNameError: There is none, or the zoo has it, or a tag says which weights are meant.
    """
    arch, tag = split_model_name_tag(given)
    if arch in models.entrypoints():
        raise UnknownNameError(f"{TIMM}{given} was given, and {arch} is a model of the zoo, not timm's own. Write {arch}.")
    if not is_model(arch):
        own = set(timm.list_models()) - set(models.entrypoints())
        raise unknown("model of timm", given, own, hint="timm.list_models() lists them.")
    if tag:
        raise UnknownNameError(
            f"{TIMM}{given} was given; {tag} names weights, and timm's models have random ones here. Write {TIMM}{arch}."
        )
    return arch


def name_of(model: nn.Module) -> str:
    """What a model of the zoo or of timm is called, as `resolve` takes it, without tag."""
    arch = model.pretrained_cfg["architecture"]
    return arch if arch in models.entrypoints() else f"{TIMM}{arch}"


# -- runs ----------------------------------------------------------------------------------------------------------------


def read_run(folder: str | os.PathLike) -> Run:
    """Reads a run folder, but not its weights.

    Raises:
        CheckpointError: The run is not finished, or was made by a version that did not note what its data were.
        DataError: What it notes of them is not whole.
        UnknownNameError: Its model is neither the zoo's nor timm's.
    """
    folder = Path(folder)
    recipe = checkpoints.read_json(folder / checkpoints.RECIPE)
    if not (folder / checkpoints.METRICS).is_file() or not (folder / checkpoints.WEIGHTS).is_file():
        raise CheckpointError(
            f"{folder} is not a finished run: it has no weights yet. To continue it, type: {resume_command(folder)}"
        )
    metrics = checkpoints.read_json(folder / checkpoints.METRICS)
    if missing := {"split", "seed", "top1", "sha256"} - set(metrics) or {"model", "dataset"} - set(recipe):
        raise CheckpointError(f"{folder} is not a finished run: it lacks {', '.join(sorted(missing))}. Train it again.")
    check_metrics(metrics, folder / checkpoints.METRICS)
    if "data" not in metrics and recipe["dataset"] not in DATASETS:
        raise CheckpointError(
            f"{folder} does not say what data it was trained on: it was made by an older version. Train it again."
        )
    arch = split_model_name_tag(str(metrics.get("model", recipe["model"])))[0]
    if arch.startswith(TIMM):
        _of_timm(arch.removeprefix(TIMM))
    elif arch not in models.entrypoints():
        raise unknown(f"model of the run {folder}:", arch, models.entrypoints())
    return Run(folder, arch, recipe, metrics, facts(metrics, recipe))


def resume_command(folder: Path) -> str:
    """The command that goes on with a run: the one that it was begun with, where that is known."""
    try:
        command = str(checkpoints.read_json(folder / checkpoints.ENVIRONMENT).get("command"))
    except CheckpointError:
        command = ""
    if " train " not in f"{command} ":
        return f"cnnzoo train ... --out {folder} --resume"
    return command if "--resume" in command.split() else f"{command} --resume"
