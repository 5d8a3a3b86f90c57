"""timm's factory and listings, limited to the zoo, with errors that help."""

import fnmatch
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
from torch import nn

from . import checkpoints, configs, models, resnet8 as resnet8, summary
from .datasets import FASHION_MNIST, DatasetInfo, get_dataset_info
from .errors import CheckpointError, CnnzooError, on_one_line, unknown
from .files import read_bytes
from .metrics import check_metrics
from .recipes import TIMM, training_command
from .resolve import Run, Source, name_of, read_run, resolve

PHOTO_TAG = f"photo_{FASHION_MNIST.name}"  # of weights that were trained on images spoiled as photos spoil them

# What a model can do or be told; `info(name)["supports"]` has each model's. All but the last three hold for every model.
CAPABILITIES = (
    "features_only", "forward_intermediates", "fx", "grad_checkpointing", "group_matcher", "in_chans", "num_classes",
    "pruning", "torchscript", "drop_path_rate", "dynamic_size", "img_size",
)  # fmt: skip


def list_models(
    filter: str | Sequence[str] = "*",
    *,
    pretrained: bool = False,
    exclude_filters: str | Sequence[str] = (),
    supports: str | Sequence[str] = (),
) -> list[str]:
    """The names of the zoo's models, sorted; arguments that timm's `list_models` has too mean the same.

    Args:
        filter: A wildcard such as `"resnext*"`, or several; an empty text means all.
        pretrained: Only models that have weights, by the names `<arch>.<tag>` of these.
        exclude_filters: Wildcards for models to leave out.
        supports: A capability (see `CAPABILITIES`), or several: only models that have them all.

    Returns:
        The names; an empty list if none matches.

    Raises:
        UnknownNameError: There is no such capability.
        CnnzooError: A wildcard is no text.
    """
    chosen, left_out = _wildcards("*" if filter == "" else filter), _wildcards(exclude_filters)
    wanted = {supports} if isinstance(supports, str) else set(supports)
    for capability in wanted - set(CAPABILITIES):
        raise unknown("capability", capability, CAPABILITIES)
    names = checkpoints.names() if pretrained else sorted(models.entrypoints())
    found = [name for name in names if _matches(name, chosen) and not _matches(name, left_out)]
    return [name for name in found if not wanted or wanted <= set(_supports(create_model(name, device="meta")) or ())]


def _wildcards(given: str | Sequence[str]) -> list[str]:
    wildcards = [given] if isinstance(given, str) else given
    if not isinstance(wildcards, (list, tuple, set)) or not all(isinstance(w, str) for w in wildcards):
        raise CnnzooError(
            f"The wildcard {given!r} was given; allowed is a text or a list of texts. For example, write 'resnext*'."
        )
    return list(wildcards)


def _matches(name: str, wildcards: list[str]) -> bool:
    """Whether one fits; a wildcard without a tag means the checkpoints of a model by all their tags."""
    return any(fnmatch.fnmatch(n, w) for n in (name, name.split(".")[0]) for w in wildcards)


def list_pretrained(filter: str | Sequence[str] = "*") -> list[str]:
    """The names of the zoo's checkpoints, sorted.

    Args:
        filter: A wildcard such as `"resnext*"`, or several. It may leave out the tag: `"resnext_small"` finds all
            checkpoints of that model.

    Returns:
        Names `<arch>.<tag>`; an empty list if none matches.

    Raises:
        CnnzooError: The wildcard is no text.
    """
    return list_models(filter, pretrained=True)


def create_model(model_name: str | os.PathLike, pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Builds a model, as `timm.create_model` does, which takes names of the zoo too after `import cnnzoo`.

    Args:
        model_name: `"resnext_small"`, or with a checkpoint's tag `"resnext_small.fashion_mnist"`; also `"hf-hub:org/name"`,
            `"local-dir:folder"`, or simply the path of a run folder or a checkpoint folder (see `resolve`). Weights never
            come from a pickle. A run's model has the classes, channels, image size and labels of its data. `"timm:name"` is
            a model of timm's own without weights, for images as Fashion-MNIST's unless told otherwise.
        pretrained: Load its weights, without the network where the installation carries them.
        kwargs: For the model (`num_classes`, `in_chans`, `drop_path_rate`, ...) and for timm (`features_only`,
            `out_indices`, `cache_dir`, ...).

    Returns:
        The model, in training mode, as timm's own factory returns it. From normalised images `(B, C, H, W)` it computes
        logits `(B, num_classes)`; with `features_only=True`, a list of feature maps.

    Raises:
        UnknownNameError: There is no such model, tag or folder; the nearest names are suggested.
        CheckpointError: The weights are missing or not the published ones, a run is not finished, or what is elsewhere is no
            model of the zoo.
        HubError: The Hub cannot be reached, or has no such repository.
        TypeError: A keyword is unknown.
    """
    source = resolve(model_name)
    if source.kind == "run":
        return _from_run(read_run(source.name), pretrained, **kwargs)
    if source.kind == "timm":
        return _from_timm(source.name, pretrained, **kwargs)
    if source.kind != "name":
        return _from_elsewhere(source, pretrained, **kwargs)
    return timm.create_model(source.name, pretrained=pretrained, **kwargs)


def on_device(model: nn.Module, device: str) -> nn.Module:
    """Moves a model to a torch device that somebody named, such as `"cpu"`, `"cuda:1"` or `"mps"`.

    Raises:
        CnnzooError: There is no such device here, or it holds no numbers.
    """
    if device.partition(":")[0] == "meta":
        raise CnnzooError(f"device={device!r} was given, which stores shapes but no numbers. Pass --device cpu.")
    try:
        return model.to(device)
    except (RuntimeError, AssertionError, ImportError, AttributeError) as e:  # torch has several for what is not there
        reason = on_one_line(str(e).splitlines()[0])
        raise CnnzooError(f"device={device!r} cannot be used here ({reason}). Pass --device cpu.") from e


def photo_weights(name: str | os.PathLike) -> str | None:
    """The checkpoint `<arch>.photo_fashion_mnist` of a model that is given by its name alone; None if there is none, or if
    the usual weights name as many photos right, by the two checkpoints' `metrics.json`.

    A name with a tag, a folder, or a repository says which weights are meant, so there are no others for photos.
    """
    special = f"{name}.{PHOTO_TAG}"
    if not isinstance(name, str) or name not in models.entrypoints() or special not in checkpoints.names():
        return None
    usual = next(iter(checkpoints.pretrained_cfgs(name)))
    measured = [(checkpoints.metrics(c).get("photos") or {}).get("top1", 0.0) for c in (special, f"{name}.{usual}")]
    return special if measured[0] > measured[1] else None


def _from_timm(name: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    """A model of timm's own with random weights."""
    if pretrained:
        raise CheckpointError(
            f"pretrained=True was given for {TIMM}{name}, which starts from random weights here. Train it (cnnzoo train "
            f"{TIMM}{name} --out DIR) and name the run folder; for timm's own weights use timm.create_model({name!r})."
        )
    cfg, own = _overlay(FASHION_MNIST, None), timm.models.get_pretrained_cfg(name)
    if own is not None and own.fixed_input_size:
        cfg["input_size"] = own.input_size
    kwargs = dict(in_chans=FASHION_MNIST.image_size[0], num_classes=len(FASHION_MNIST.labels)) | kwargs
    plain = dict(tag="", label_names=None, **_PLAIN)
    kwargs["pretrained_cfg_overlay"] = {**cfg, **plain, **(kwargs.get("pretrained_cfg_overlay") or {})}
    model = timm.create_model(name, **kwargs)
    models.describe_input(model)
    return model


# What timm's own models have otherwise: how they scale large images, and how some files of weights are read.
_PLAIN: dict[str, Any] = dict(interpolation="bilinear", crop_pct=1.0, custom_load=False)


def _overlay(info: DatasetInfo, weights: Path | None) -> dict[str, Any]:
    """What timm's pretrained cfg says of a model for some data: its images and classes, and where its weights are."""
    return dict(
        file=None if weights is None else str(weights), hf_hub_id=None, hf_hub_filename=None, tag=info.name,
        input_size=info.image_size, num_classes=len(info.labels), mean=info.mean, std=info.std, label_names=info.labels,
    )  # fmt: skip


def _from_run(run: Run, pretrained: bool, **kwargs: Any) -> nn.Module:
    """The model of a finished run, with all that the run knows of its data."""
    info, classes = run.info, len(run.info.labels)
    name, theirs = run.arch.removeprefix(TIMM), run.is_timms
    if pretrained:
        if (found := checkpoints.sha256(run.weights)) != run.metrics["sha256"]:
            raise CheckpointError(
                f"{run.weights} is not the file that the run wrote: its sha256 is {found}, expected "
                f"{run.metrics['sha256']}. Train it again, or copy the folder again."
            )
        # The gate: exactly this model's tensors. timm would take others as far as they fit, and adapts to other kwargs.
        own = timm.create_model(name, in_chans=info.image_size[0], num_classes=classes, device="meta")
        checkpoints.read_weights(run.weights, own)
    overlay = _overlay(info, run.weights if pretrained else None) | (_PLAIN if theirs else {})
    kwargs["pretrained_cfg_overlay"] = {**overlay, **(kwargs.get("pretrained_cfg_overlay") or {})}
    kwargs = dict(in_chans=info.image_size[0], num_classes=classes) | kwargs
    model = timm.create_model(name, pretrained=pretrained, **kwargs)
    if theirs:
        models.describe_input(model)  # the zoo's do that themselves
    if pretrained and getattr(model, "num_classes", None) == classes:
        model.temperature = run.temperature
        if theirs:
            model.labels = info.labels
    return model


def _from_elsewhere(source: Source, pretrained: bool, **kwargs: Any) -> nn.Module:
    """A model whose config and weights are a Hub repository's or a checkpoint folder's.

    Both are read as a stranger's before timm sees them, and the weights are held against the hash that is known of them.
    """
    place = source.name
    if source.kind == "hub":
        folder = _fetched(place, pretrained, kwargs.get("cache_dir"))
    else:
        folder = Path(place)
        _check_folder(folder, pretrained)
    try:
        model = timm.create_model(f"local-dir:{folder}", pretrained=pretrained, **kwargs)
    except CnnzooError:
        raise
    except (OSError, KeyError, ValueError, RuntimeError) as e:
        reason = (str(e).strip() or type(e).__name__).splitlines()[0]
        raise CheckpointError(
            f"{place} cannot be built with these arguments ({reason}). Leave out those that it does not have."
        ) from e
    if pretrained and source.kind == "hub":
        model.base_model = place.partition("@")[0]
    return model


def _fetched(place: str, weights: bool, cache_dir: str | Path | None) -> Path:
    """The folder of the Hub client's cache with the files of `ORG/NAME` or `ORG/NAME@REVISION`."""
    from . import remote  # the Hub's client, which other models do not need
    from .client import Repository, within

    repo_id, _, revision = place.partition("@")
    repo = Repository(repo_id)
    fetched = within(
        checkpoints.DEADLINE, f"Fetching {place}", lambda: remote.fetch(repo, revision or "main", cache_dir, weights=weights)
    )
    if fetched.weights is not None:
        where = fetched.commit.where(checkpoints.WEIGHTS)
        checkpoints.read_weights(fetched.weights, configs.empty_model(fetched.config, place), where)
    return fetched.folder


def _check_folder(folder: Path, weights: bool) -> None:
    """Whether a checkpoint folder has what it needs, and its weights are those that its metrics.json was measured of."""
    needed = [checkpoints.CONFIG] + [checkpoints.WEIGHTS] * weights
    try:
        contents = [read_bytes(folder / file) for file in needed]
    except OSError as e:
        raise CheckpointError(
            f"{folder} has no {' and '.join(needed)} that can be read ({e.strerror}); pickles are not. Name a folder that "
            "has both, such as cnnzoo build makes."
        ) from e
    config = configs.read_config(contents[0], f"{folder}/{checkpoints.CONFIG}")
    network = configs.empty_model(config, str(folder))
    if weights:
        checkpoints.read_weights(contents[1], network, f"{folder}/{checkpoints.WEIGHTS}")
        path = folder / checkpoints.METRICS
        if path.is_file() and (expected := checkpoints.read_json(path).get("sha256")):
            checkpoints.verify(folder / checkpoints.WEIGHTS, expected)


def info(name: str | os.PathLike) -> dict[str, Any]:
    """What is known of a model: size, cost, input, classes, accuracy and what it can do.

    Args:
        name: As in `create_model`; with a tag, at the image size of that checkpoint.

    Returns:
        A dictionary that JSON can hold. Its `checkpoints` have by tag the percent of the test images that the weights that
        ship get right, `top1`, and over the `n` seeds the mean and standard deviation, `top1_mean` and `top1_std`; and
        `bundled`, whether these weights are in this installation; the others are on the Hub only. Those of a folder are its
        own, by the name of its data; there are none where nothing was measured on a test set. For a name that has no
        weights, `training_command` says how to train it; otherwise it is None.

    Raises:
        UnknownNameError, CheckpointError: As `create_model`.
    """
    source = resolve(name)
    model = create_model(name, device="meta")
    cfg, arch = model.pretrained_cfg, name_of(model)
    labels = timm.models.get_pretrained_cfg(source.name).label_names if source.kind == "name" else cfg.get("label_names")
    size = summary.count(model, cfg["input_size"])
    if source.kind == "name":
        tags = checkpoints.pretrained_cfgs(arch)
        measured = {tag: (checkpoints.metrics(f"{arch}.{tag}"), checkpoints.folder(f"{arch}.{tag}")) for tag in tags}
    else:
        measured = {tag: (found, source.folder) for tag, found in _measured(source.folder, cfg.get("tag") or "").items()}
    return dict(
        name=arch,
        family=type(model).__name__,
        params=size.params,
        macs=size.macs,
        input_size=list(cfg["input_size"]),
        num_classes=cfg["num_classes"],
        labels=None if labels is None else list(labels),
        features=[dict(channels=f["num_chs"], reduction=f["reduction"]) for f in getattr(model, "feature_info", ())],
        checkpoints={tag: dict(_accuracy(found), bundled=_bundled(folder)) for tag, (found, folder) in measured.items()},
        training_command=training_command(arch) if source.kind == "name" and not measured else None,
        supports=_supports(model),
    )


def _accuracy(m: dict[str, Any]) -> dict[str, Any]:
    """Of the weights that ship, and over all seeds; a run is of one."""
    mean = m.get("top1_mean", m["top1"])
    return dict(top1=m["top1"], top1_mean=mean, top1_std=m.get("top1_std"), n=len(m.get("seeds", (0,))))


def _bundled(folder: Path) -> bool:
    return (folder / checkpoints.WEIGHTS).is_file()


def _measured(folder: Path | None, tag: str) -> dict[str, dict[str, Any]]:
    """What a folder's metrics.json notes of the test set, by the name of the data."""
    path = None if folder is None else folder / checkpoints.METRICS
    if path is None or not path.is_file():
        return {}
    found = checkpoints.read_json(path)
    check_metrics(found, path)
    return {tag: found} if "top1" in found and found.get("split", "test") == "test" else {}


def _supports(model: nn.Module) -> list[str] | None:
    """Of `CAPABILITIES`; None for a model of timm's own, of which nothing was tried."""
    if not isinstance(model, models.ConvNet):
        return None
    lacks = set() if model.residual else {"drop_path_rate"}
    lacks.add("dynamic_size" if model.pretrained_cfg.get("fixed_input_size") else "img_size")
    return sorted(set(CAPABILITIES) - lacks)


def results(filter: str | Sequence[str] = "*") -> list[dict[str, Any]]:
    """The zoo's checkpoints and what was measured of them, as data: what README's table and `cnnzoo list --pretrained` show.

    Args:
        filter: A wildcard for names of checkpoints, such as `"resnext*"`, or several.

    Returns:
        A dictionary that JSON can hold for each, by size. Percents are of the test set. `top1`, `top1_tta` (averaged over
        each image and its mirror image) and the calibration errors `ece` and `ece_calibrated` (at the checkpoint's
        temperature) are those of the weights that ship; `top1_mean` and `top1_std` (None for one run) are over the `n` runs
        of `seeds`. `robustness` is of `robustness.accuracies`. `minutes` of training on `hardware` are one run's, and
        `images_per_s` is how many images that run trained on per second: a speed of training, not of inference. `recipe` is
        all of recipe.json, `command` what was typed. `teachers` are the models that it learned from, whose own training is
        not in the minutes. `bundled` says whether the weights are in this installation; the others are on the Hub only. What
        was not measured is None.

    Raises:
        CnnzooError: The wildcard is no text.
    """
    return sorted((_result(name) for name in list_pretrained(filter)), key=lambda r: (r["params"], r["checkpoint"]))


def _result(name: str) -> dict[str, Any]:
    arch, tag = name.split(".", 1)
    m = checkpoints.metrics(name)
    recipe = checkpoints.read_json(checkpoints.folder(name) / checkpoints.RECIPE)
    images = m["epochs"] * get_dataset_info(recipe["dataset"]).num_train
    return dict(
        checkpoint=name,
        model=arch,
        tag=tag,
        family=models.entrypoints()[arch].__module__.rpartition(".")[2],
        **{k: m[k] for k in ("params", "macs", "seeds")},
        **_accuracy(m),
        **{k: m.get(k) for k in ("top1_tta", "loss", "ece", "ece_calibrated", "temperature", "robustness", "holdout_top1")},
        **{k: m[k] for k in ("epochs", "minutes", "hardware")},
        images_per_s=round(images / (60 * m["minutes"])) if m["minutes"] else None,
        recipe=recipe,
        teachers=list(m.get("teachers", ())),
        bundled=_bundled(checkpoints.folder(name)),
        **{k: m[k] for k in ("command", "torch", "timm", "data_md5", "sha256")},
    )
