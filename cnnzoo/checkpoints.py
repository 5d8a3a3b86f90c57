"""From folders to pretrained models: `hub_configs/<arch>.<tag>/` is all there is to know about a checkpoint.

The tag is the data set's name, or `<variant>_<dataset>` for weights of another recipe than the usual.

Each folder is a Hub repository as published. This module turns them into timm's pretrained cfgs, says where the weights
of a cfg are, and refuses weights whose sha256 is not the one in the folder's `metrics.json`.
"""

import hashlib
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from .datasets import DATASETS, FASHION_MNIST, trained_on
from .errors import CheckpointError, HubError, shown_path
from .files import absolute, discard, open_file, parse_json, read_bytes

HUB_ORG = "cnnzoo"
# The files of checkpoint folders, of which run folders have some; and two that only run folders have.
CONFIG, WEIGHTS, METRICS, RECIPE, CARD = "config.json", "model.safetensors", "metrics.json", "recipe.json", "README.md"
LOG, ENVIRONMENT = "metrics.jsonl", "environment.json"

# The textbook's networks of 43 to 129 million parameters. A package cannot hold their weights.
TOO_LARGE = ("alexnet_d2l", "vgg11_d2l", "vgg11_thin_d2l")

PATIENCE = 4.0  # seconds for the Hub to answer at all; after that there is no network
DEADLINE = 600.0  # seconds for a download

# What a Hub repository's pretrained_cfg may set. The rest (file, url, custom_load, ...) decides where weights come from
# and how they are read, and is ours to say.
_FIELDS = (
    "num_classes", "input_size", "min_input_size", "fixed_input_size", "interpolation", "crop_pct", "crop_mode",
    "mean", "std", "pool_size", "first_conv", "classifier", "license", "description", "origin_url", "paper_ids",
)  # fmt: skip


def root() -> Path:
    """The folder of checkpoint folders: inside the package when installed from a wheel, beside it in a checkout."""
    inside = Path(__file__).parent / "hub_configs"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "hub_configs"


@cache
def names() -> tuple[str, ...]:
    """Every `<arch>.<tag>` that has a folder, sorted. Others may lie there too: those that are being made, whose names begin
    with a dot, and what somebody built of other data."""
    if not root().is_dir():
        return ()
    found = (p.parent.name for p in root().glob("[!.]*.*/config.json"))
    return tuple(sorted(name for name in found if trained_on(name.partition(".")[2]) in DATASETS))


def check_installation() -> None:
    """Whether the folders of checkpoints can be read.

    Raises:
        CheckpointError: They cannot, because Python imports the package out of a zip file, or they were left out.
    """
    if not root().is_dir():
        raise CheckpointError(
            f"The checkpoints' folder {root()} does not exist: cnnzoo runs from a zip file, or from an incomplete copy. "
            "Install the whole package, unpacked: pip install cnnzoo."
        )


def folder(name: str) -> Path:
    """The folder of one checkpoint, `<arch>.<tag>`."""
    return root() / name


def read_json(path: Path) -> dict:
    """Reads one of the JSON files of a checkpoint or a run.

    Raises:
        CheckpointError: The file is missing or is not a JSON object.
    """
    try:
        content = parse_json(read_bytes(path))
    except (OSError, ValueError) as e:
        reason = getattr(e, "strerror", None) or str(e)[:200]
        raise CheckpointError(
            f"{shown_path(path)} cannot be read as JSON ({reason}). Name a folder that has it, or restore it: a file of "
            "cnnzoo by installing cnnzoo again, a file of a run by training again."
        ) from e
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}; a JSON object is needed. Restore the file.")
    return content


def metrics(name: str) -> dict:
    """The measured numbers of a checkpoint: accuracy, parameters, protocol, sha256 of the weights."""
    return read_json(folder(name) / METRICS)


def pretrained_cfgs(arch: str) -> dict[str, dict]:
    """The timm cfg fields of every checkpoint of `arch`, by tag, that of the plain recipe on Fashion-MNIST first."""
    found = [name.split(".", 1)[1] for name in names() if name.split(".", 1)[0] == arch]
    # timm takes the first for the default.
    return {tag: _cfg(f"{arch}.{tag}") for tag in sorted(found, key=lambda tag: (tag != FASHION_MNIST.name, tag))}


def _cfg(name: str) -> dict:
    config = read_json(folder(name) / CONFIG)
    stored = config.get("pretrained_cfg", {})
    cfg = {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items() if k in _FIELDS}
    if "label_names" in config:
        cfg["label_names"] = tuple(config["label_names"])
    weights = folder(name) / WEIGHTS
    # timm reads `file` first and never falls back, so it is set only when the weights are really there.
    return dict(
        cfg,
        file=str(weights) if weights.is_file() else None,
        hf_hub_id=f"{HUB_ORG}/{name}",
        hf_hub_filename=WEIGHTS,
    )


def sha256(path: Path) -> str:
    """The sha256 of a file, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open_file(path) as f:  # Python 3.10 has no hashlib.file_digest
        while chunk := f.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def locate(name: str, cache_dir: str | Path | None = None) -> Path:
    """The verified weights of `<arch>.<tag>`: the bundled file, else the Hub's copy.

    Args:
        name: Checkpoint name.
        cache_dir: The Hub client's cache, its default if None.

    Raises:
        CheckpointError: The weights are nowhere to be had, or their sha256 is not the published one.
    """
    path = folder(name) / WEIGHTS
    if not path.is_file():
        path = _download(name, None if cache_dir is None else absolute(cache_dir))
    verify(path, metrics(name)["sha256"])
    return path


def verify(path: Path, expected: str) -> None:
    """Checks a weights file against its published sha256.

    Raises:
        CheckpointError: They differ; the message has the path and both hashes.
    """
    try:
        found = sha256(path)
    except OSError as e:
        raise CheckpointError(f"{path} cannot be read ({e.strerror}). Check its permissions, or reinstall cnnzoo.") from e
    if found != expected:
        raise CheckpointError(
            f"{path} is not the published file: its sha256 is {found}, expected {expected}. It is damaged or was "
            "replaced. To get the right one, install cnnzoo again, delete the file if it is in the Hub's cache, or copy or "
            "build its folder again."
        )


def read_weights(source: str | Path | bytes, model: nn.Module, where: str = "") -> dict[str, Tensor]:
    """The tensors of a safetensors file, once they have passed `check_weights`. All weights of files come in by this gate.

    Args:
        source: The file, or its content.
        model: What the weights are for; it may be on the meta device, and is not changed.
        where: What messages call the file; its path if empty.

    Raises:
        CheckpointError: It cannot be read, is no safetensors file, or `check_weights` refuses what is in it.
    """
    import safetensors.torch

    where = where or str(source)
    try:
        content = source if isinstance(source, bytes) else read_bytes(source)
    except OSError as e:
        raise CheckpointError(f"{where} cannot be read ({e.strerror}). Name a file of weights, {WEIGHTS}.") from e
    try:
        state = safetensors.torch.load(content)
    except Exception as e:  # SafetensorError, KeyError, RuntimeError, ...: the library has no common class
        raise _bad_weights(where, f"is not a safetensors file ({str(e)[:200]})", "a whole model.safetensors") from e
    check_weights(state, model, where)
    return state


def check_weights(state: Mapping[str, Tensor], model: nn.Module, where: str) -> None:
    """Whether weights are the model's: its names, its shapes, its types, and possible numbers.

    A floating type may be of another precision than the model's, as long as all numbers stay finite in the model's own.

    Args:
        state: Tensors by name.
        model: What they are for; it may be on the meta device.
        where: What messages call them.

    Raises:
        CheckpointError: They are not; the message names the tensor.
    """
    wanted = model.state_dict()
    if different := sorted(set(wanted) ^ set(state)):
        shown = ", ".join(name[:60] for name in different[:3]) + (", ..." if len(different) > 3 else "")
        raise _bad_weights(where, f"differs from {type(model).__name__} in the names {shown}", f"its {len(wanted)} names")
    for name, tensor in state.items():
        own = wanted[name]
        floats = tensor.is_floating_point() and own.is_floating_point()
        if tensor.shape != own.shape or not (floats or tensor.dtype == own.dtype):
            found, needed = (f"{t.dtype} {tuple(t.shape)}" for t in (tensor, own))
            raise _bad_weights(where, f"has {name} as {found}", needed)
        if tensor.is_meta:
            raise _bad_weights(where, f"has {name} on the meta device", "numbers")
        if floats and not tensor.to(own.dtype).isfinite().all():
            raise _bad_weights(where, f"has numbers in {name} that are not finite", f"finite {own.dtype}")
        if name.endswith("running_var") and (tensor.to(own.dtype) < 0).any():
            raise _bad_weights(where, f"has numbers in {name} below 0", "variances of 0 or more")


def _bad_weights(where: str, what: str, allowed: str) -> CheckpointError:
    return CheckpointError(f"{where} {what}. Allowed: {allowed}. Use weights of a run, of cnnzoo build or of timm.")


# timm's cfg refuses fields that it does not know, but it has one for notes, which goes wherever the cfg goes.
_NOTE = "temperature="
TEMPERATURES = (0.01, 100.0)


def temperature_notes(temperature: float) -> list[str]:
    """A calibration temperature as the `notes` of a timm pretrained cfg; 1, which changes nothing, needs none.

    Raises:
        CheckpointError: It is no number from 0.01 to 100.
    """
    low, high = TEMPERATURES
    if not isinstance(temperature, (int, float)) or isinstance(temperature, bool) or not low <= temperature <= high:
        raise _no_temperature(temperature)
    return [] if temperature == 1 else [f"{_NOTE}{temperature:.6g}"]


def temperature_of(cfg: Mapping[str, Any]) -> float:
    """The calibration temperature that the `notes` of a pretrained cfg hold, 1 if none. The cfg may be a stranger's.

    Raises:
        CheckpointError: It is no number from 0.01 to 100, or there are two.
    """
    notes = cfg.get("notes")
    notes = notes if isinstance(notes, (list, tuple)) else [notes]
    found = [n.removeprefix(_NOTE) for n in notes if isinstance(n, str) and n.startswith(_NOTE)]
    if not found:
        return 1.0
    low, high = TEMPERATURES
    if len(found) > 1 or not re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,9})?", found[0]) or not low <= float(found[0]) <= high:
        raise _no_temperature(", ".join(found))
    return float(found[0])


def _no_temperature(given: Any) -> CheckpointError:
    low, high = TEMPERATURES
    return CheckpointError(
        f"The temperature {str(given)[:60]!r} was given for a checkpoint; allowed is one number from {low:g} to {high:g}. "
        "Use a checkpoint made by cnnzoo build, or set model.temperature = 1."
    )


def _download(name: str, cache_dir: str | Path | None) -> Path:
    """The Hub's copy of a checkpoint's weights; one in the cache that is the published one needs no network."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    from .client import Repository, within
    from .recipes import training_command

    repo = Repository(f"{HUB_ORG}/{name}")
    held = try_to_load_from_cache(repo.repo_id, WEIGHTS, cache_dir=cache_dir)
    if isinstance(held, str) and sha256(Path(held)) == metrics(name)["sha256"]:
        return Path(held)

    def ask() -> None:
        repo.ask(repo.api.model_info, repo.repo_id, attempts=3, timeout=PATIENCE - 0.5)

    def fetch() -> str:
        return repo.ask(hf_hub_download, repo.repo_id, WEIGHTS, cache_dir=cache_dir, attempts=3)

    try:
        within(PATIENCE, f"Asking the Hub for {repo.repo_id}", ask)  # the client alone tries for 20 s
        path = Path(within(DEADLINE, f"Fetching {repo.repo_id}", fetch))
        if sha256(path) != metrics(name)["sha256"]:  # damaged in the cache, where the client does not look at it again
            discard(path)
            path = Path(within(DEADLINE, f"Fetching {repo.repo_id}", fetch))
        return path
    except HubError as e:
        raise CheckpointError(
            f"The weights of {name} are neither in this installation ({folder(name) / WEIGHTS}) nor can they be had from "
            f"the Hub: {e} Go online and try again, put the file there yourself, or train the model: "
            f"{training_command(name.partition('.')[0])}"
        ) from e
