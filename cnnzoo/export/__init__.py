"""Models as one file that takes raw pixels: torch.export, AOTInductor, ONNX; and warm torch.compile.

Every file is opened again in a fresh process and compared with the model before it is kept.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import checkpoints, data, evaluate, registry
from ..errors import CnnzooError, InputError, unknown
from ..files import atomic
from ._exported import Exported, load_exported
from ._formats import FORMATS, SUFFIXES, compiled
from ._pipeline import Pipeline, fold_batch_norms, make_pipeline

__all__ = [
    "FORMATS",
    "ExportError",
    "Exported",
    "Pipeline",
    "compiled",
    "export",
    "fold_batch_norms",
    "load_exported",
    "make_pipeline",
]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
MAX_BATCH = 4096
_BATCHES = (1, 2, 17)  # compared with the model: one, the one it was traced with, an odd one
_TOLERANCE = 1e-4  # of fp32 logits
_POINTS = {"bf16": 0.1, "int8": 0.3}  # of top-1 on the test set that a smaller type may lose, in percent


class ExportError(CnnzooError):
    """A model that cannot be exported, or a file that does not do what the model does."""


def export(
    model: nn.Module | str,
    path: str | Path,
    format: str = "torch_export",
    *,
    dtype: str = "fp32",
    quantize: str | None = None,
    preprocess: bool = True,
    data_dir: str | Path | None = None,
) -> Path:
    """Writes a model to a file that takes batches of 1 to 4096, of any size where the model does.

    Args:
        model: A model, or the name of a pretrained one.
        path: The file; `.pt2` for `torch_export` and `aoti`, `.onnx` for `onnx`.
        format: `"torch_export"`, `"aoti"` (native code for this kind of machine; needs a C++ compiler), or `"onnx"`.
        dtype: `"fp32"` or `"bf16"`, of weights and arithmetic; outputs are fp32 always.
        quantize: `"int8"` for 8-bit weights and activations, calibrated on training images; `onnx` only.
        preprocess: Take uint8 images `(B, C, H, W)` and give (logits, probabilities), both `(B, K)`. Otherwise take float
            images, normalised as `create_transform` does it, and give logits.
        data_dir: Where the data set is, for `dtype="bf16"` and `quantize`, whose accuracy is checked on its test set.

    Returns:
        `path`.

    Raises:
        UnknownNameError: There is no such model, format or type.
        ExportError: A package or compiler is missing, or the file does not do what the model does; no file is left.
        CnnzooError: `path` has another ending, or cannot be written.
    """
    path = Path(path)
    choices = dict(format=(format, FORMATS), dtype=(dtype, DTYPES), quantize=(quantize, (None, "int8")))
    for kind, (given, allowed) in choices.items():
        if given not in allowed:
            raise unknown(kind, str(given), map(str, allowed))
    if path.suffix != SUFFIXES[format]:
        raise CnnzooError(f"{path} was given for format={format!r}, whose files end in {SUFFIXES[format]}. Rename it.")
    if quantize and (format != "onnx" or dtype != "fp32" or not preprocess):
        raise CnnzooError(
            f"quantize={quantize!r} was given with format={format!r}, dtype={dtype!r}, preprocess={preprocess}; it works "
            'with "onnx", "fp32" and True. Pass format="onnx".'
        )
    network = registry.create_model(model, pretrained=True) if isinstance(model, str) else model
    pipeline = make_pipeline(network, DTYPES[dtype], preprocess)
    facts = _facts(network, dtype, quantize, preprocess)
    split = None
    if dtype == "bf16" or quantize:
        split = data.load_split(facts["dataset"] or "fashion_mnist", "test", data_dir=data_dir)
    calibration = None
    if quantize:
        train = data.load_split(split.info.name, "train", data_dir=data_dir)
        calibration = train.images[torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:512]]
    with atomic(path) as temporary, tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / f"model{path.suffix}"
        FORMATS[format](pipeline, _example(pipeline, 2), made, facts, calibration)
        _compare(made, network, preprocess, split, _POINTS.get(quantize or dtype), Path(scratch))
        temporary.write_bytes(made.read_bytes())
    return path


def _facts(network: nn.Module, dtype: str, quantize: str | None, preprocess: bool) -> dict[str, Any]:
    """What travels inside the file."""
    cfg = getattr(network, "pretrained_cfg", None) or {}
    name = f"{cfg.get('architecture')}.{cfg.get('tag')}"
    sha256 = checkpoints.metrics(name)["sha256"] if name in checkpoints.names() else None
    return dict(
        labels=list(evaluate.class_labels(network)),
        mean=list(cfg.get("mean", (0.0,))),
        std=list(cfg.get("std", (1.0,))),
        temperature=float(getattr(network, "temperature", 1.0)),
        in_chans=network.in_chans,
        architecture=cfg.get("architecture") or type(network).__name__,
        dataset=cfg.get("tag"),
        source_sha256=sha256,
        dtype=quantize or dtype,
        preprocess=preprocess,
    )


def _example(pipeline: Pipeline, batch: int) -> Tensor:
    """Seeded images `(batch, C, H, W)` of the kind that the pipeline takes."""
    generator = torch.Generator().manual_seed(batch)
    pixels = torch.randint(0, 256, (batch, *pipeline.input_size), generator=generator).to(torch.uint8)
    return pixels if pipeline.preprocess else pixels.float() / 128 - 1


def _compare(
    made: Path, network: nn.Module, preprocess: bool, split: data.Split | None, points: float | None, scratch: Path
) -> None:
    """Opens the file in a fresh process and holds its outputs against the model's in fp32.

    Raises:
        ExportError: They differ by more than the format may.
    """
    reference = make_pipeline(network, torch.float32, preprocess)
    given = [_example(reference, b) for b in _BATCHES]
    if split is not None:
        given = [split.images]
    with torch.inference_mode():
        parts = [p for x in given for p in x.split(500)]
        logits = torch.cat([reference(p)[0] if preprocess else reference(p) for p in parts])
    np.savez(scratch / "given.npz", *[x.numpy() for x in given])
    command = [sys.executable, "-m", "cnnzoo.export", str(made), str(scratch / "given.npz"), str(scratch / "found.npz")]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        raise ExportError(f"The file was written, but cannot be opened again: {run.stderr.strip().splitlines()[-1]}")
    found = torch.cat([torch.from_numpy(v) for v in np.load(scratch / "found.npz").values()])
    if points is None:
        worst = (found - logits).abs().max().item()
        if not worst <= _TOLERANCE:
            raise ExportError(f"The file's logits differ from the model's by {worst:.2g}, allowed is {_TOLERANCE:g}.")
        return
    labels = split.labels
    lost = 100 * ((logits.argmax(1) == labels).float().mean() - (found.argmax(1) == labels).float().mean()).item()
    if not abs(lost) <= points:
        raise ExportError(f"The file's top-1 on the test set is {lost:.2f} points below the model's; allowed is {points}.")


def check_array(array: Any, facts: dict[str, Any]) -> np.ndarray:
    """What a caller gave as images, as a contiguous batch `(B, C, H, W)`.

    Raises:
        InputError: Its type or shape is none that the file takes, or it is empty.
    """
    array = np.asarray(array)
    kind = np.uint8 if facts["preprocess"] else np.float32
    if array.dtype != kind:
        raise InputError(f"An array of type {array.dtype} was given, {np.dtype(kind)} is needed. Convert it with .astype.")
    if facts["preprocess"] and facts["in_chans"] == 1 and array.ndim in (2, 3):
        array = array.reshape(-1, 1, *array.shape[-2:])  # (H, W) or (B, H, W) -> (B, 1, H, W)
    if array.ndim != 4 or array.shape[1] != facts["in_chans"] or 0 in array.shape:
        raise InputError(
            f"An array of shape {array.shape} was given, needed is (B, {facts['in_chans']}, H, W) with at least one image."
        )
    return np.ascontiguousarray(array)


def main(arguments: list[str]) -> None:
    """Runs a file on arrays, for `_compare`: FILE GIVEN.npz FOUND.npz."""
    exported = load_exported(arguments[0])
    given = np.load(arguments[1])
    outputs = [np.concatenate([exported.run(part)[0] for part in _parts(x)]) for x in given.values()]
    np.savez(arguments[2], *outputs)


def _parts(x: np.ndarray) -> list[np.ndarray]:
    return [x[i : i + 500] for i in range(0, len(x), 500)]
