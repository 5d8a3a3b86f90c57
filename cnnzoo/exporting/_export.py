"""Writing a model to a file."""

import dataclasses
import os
import tempfile
import threading
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from .. import checkpoints, data, evaluate, registry
from ..datasets import trained_on
from ..errors import CnnzooError, InputError, system_errors, unknown
from ..files import atomic, user_path
from ..inference import class_labels, runnable, temperature, unwrapped
from ._formats import FORMATS, SUFFIXES, format_of, limits
from ._pipeline import Pipeline, make_pipeline
from ._seal import sealed
from ._verify import compare, example, sized

_ONE_AT_A_TIME = threading.Lock()  # torch traces one model at a time in a process
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@system_errors()
def export(
    model: nn.Module | str | os.PathLike,
    path: str | Path,
    format: str | None = None,
    *,
    dtype: str = "fp32",
    device: str = "cpu",
    quantize: str | None = None,
    preprocess: bool = True,
    data_dir: str | Path | None = None,
    skip_broken: bool = False,
    verify: bool = True,
) -> Path:
    """Writes a model to a file that takes batches of 1 to 4096, of any size where the model does.

    Args:
        model: A model, or the name of a pretrained one, or a folder; see `registry.create_model`.
        path: The file; `.pt2` for `torch_export` and `aoti`, `.onnx` for `onnx`.
        format: `"torch_export"`, `"aoti"` (native code for this kind of machine; needs a C++ compiler), or `"onnx"`. By the
            ending of `path` if None: `torch_export` for `.pt2`, `onnx` for `.onnx`.
        dtype: `"fp32"` or `"bf16"`, of weights and arithmetic; outputs are fp32 always.
        device: What a `.pt2` file runs on, `"cpu"` or `"cuda"`; ONNX Runtime chooses when it opens the file.
        quantize: `"int8"` for 8-bit weights and activations, calibrated on training images; `onnx` only.
        preprocess: Take uint8 images `(B, C, H, W)` and give (logits, probabilities), both `(B, K)`. Otherwise take float
            images, normalised as `create_transform` does it, and give logits.
        data_dir, skip_broken: See `data.load_split`; for `dtype="bf16"` and `quantize`, whose accuracy is checked.
        verify: Compare the file with the model. Without it, an untrained model has a small type too, to time it, say.

    Returns:
        `path`.

    Raises:
        UnknownNameError: There is no such model, format or type.
        ExportError: The file does not do what the model does; none is left.
        CheckpointError: The model has weights that are not finite.
        InputError: It is no model, has no weights, or gives no logits: it is headless, or gives features only.
        CnnzooError: `path` has another ending, or cannot be written; a package, a compiler or the device is missing.
    """
    path = user_path(path)
    format = format or format_of(path)
    _check(path, format, dtype, device, quantize, preprocess)
    network = registry.create_model(model, pretrained=True) if isinstance(model, (str, os.PathLike)) else model
    network = _checked(network)
    with _ONE_AT_A_TIME, atomic(path) as temporary, tempfile.TemporaryDirectory() as scratch:
        pipeline = make_pipeline(network, DTYPES[dtype], preprocess).to(device)
        how = dict(dtype=quantize or dtype, device=device, preprocess=preprocess, limits=limits(pipeline))
        facts = dict(_facts(network), **how)
        split = calibration = None
        where = dict(dataset=facts["dataset"] or "fashion_mnist", data_dir=data_dir, skip_broken=skip_broken)
        if verify and (quantize or dtype == "bf16"):
            split = evaluate.as_trained(network, _images(pipeline, "test", where))
        if quantize:
            calibration = _images(pipeline, "train", where, count=512).images
        made = Path(scratch) / f"model{path.suffix}"
        FORMATS[format](pipeline, example(pipeline, 2), made, facts, calibration)
        made.write_bytes(sealed(made.read_bytes(), made.suffix))
        if verify:
            compare(made, network, preprocess, split, quantize or dtype, Path(scratch))
        temporary.write_bytes(made.read_bytes())
    return path


def _images(pipeline: Pipeline, part: str, where: dict[str, Any], count: int | None = None) -> data.Split:
    """A split in the channels and size that the pipeline's model is for, or `count` images of it, drawn with a seed.

    `where` has `data_dir`, what lies there if the folder does not say it (`dataset`), and `skip_broken`.
    """
    named, data_dir, skip_broken = where["dataset"], where["data_dir"], where["skip_broken"]
    dataset = data.dataset_in(data_dir, named) if data_dir else named
    size = data.reading_size(dataset, pipeline.input_size)
    split = data.load_split(dataset, part, data_dir=data_dir, image_size=size, skip_broken=skip_broken)
    if count is not None:
        chosen = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))[:count]
        split = split[chosen]
    return dataclasses.replace(split, images=sized(split.images, pipeline))


def _check(path: Path, format: str, dtype: str, device: str, quantize: str | None, preprocess: bool) -> None:
    """Refuses what cannot be, before anything is loaded."""
    if format == "compile":
        raise CnnzooError(
            f"format='compile' was given, but torch.compile makes no file; files are {', '.join(FORMATS)}. "
            "Call cnnzoo.compiled(model, images)."
        )
    choices = dict(format=(format, FORMATS), dtype=(dtype, DTYPES), quantize=(quantize, (None, "int8")))
    for kind, (given, allowed) in choices.items():
        if given not in allowed:
            raise unknown(kind, str(given), map(str, allowed))
    if dtype == "bf16" and format == "onnx":
        raise CnnzooError(
            f"dtype='bf16' was given for {path}, and ONNX Runtime cannot run such files on a CPU. Pass quantize='int8', or "
            "the name of a .pt2 file."
        )
    devices = ("cpu",) if format == "onnx" else ("cpu", "cuda")
    if device not in devices:
        raise CnnzooError(
            f"device={device!r} was given, allowed for format={format!r} is {' or '.join(devices)}. Pass device='cpu'."
        )
    if device == "cuda" and not torch.cuda.is_available():
        raise CnnzooError("device='cuda' was given, but torch finds no GPU here. Pass device='cpu'.")
    if path.suffix != SUFFIXES[format]:
        raise CnnzooError(f"{path} was given for format={format!r}, whose files end in {SUFFIXES[format]}. Rename it.")
    if path.is_dir():
        raise CnnzooError(f"{path} is a folder; the name of a file is needed. Write {path / f'model{path.suffix}'}.")
    if quantize and (format != "onnx" or dtype != "fp32" or not preprocess):
        raise CnnzooError(
            f"quantize={quantize!r} was given with format={format!r}, dtype={dtype!r}, preprocess={preprocess}; it "
            'needs "onnx", "fp32" and True. Pass format="onnx".'
        )


def _checked(model: nn.Module) -> nn.Module:
    """The model inside of its wrappers, if a file can answer for it: it has to map images to the logits of classes."""
    network = unwrapped(runnable(model))
    if hasattr(network, "pretrained_cfg") and not (
        hasattr(network, "get_classifier") and getattr(network, "num_classes", 0)
    ):
        raise InputError(
            f"A {type(network).__name__} without classes was given, which gives features; a classifier is needed. Make it "
            "without features_only and with num_classes of at least 1."
        )
    checkpoints.check_weights(network.state_dict(), network, f"The {type(network).__name__}")
    return network


def _facts(network: nn.Module) -> dict[str, Any]:
    """What travels inside every file of a model."""
    cfg = getattr(network, "pretrained_cfg", None) or {}
    source, images = _source(network), data.images_of(network)
    return dict(
        labels=list(class_labels(network)),
        mean=list(images["mean"]),
        std=list(images["std"]),
        temperature=temperature(network),
        architecture=cfg.get("architecture") or type(network).__name__,
        input_size=list(images["input_size"]),
        interpolation=images["interpolation"],
        dataset=trained_on(cfg.get("tag") or "") or None,
        source=source,
        source_sha256=checkpoints.metrics(source)["sha256"] if source else None,
    )


def _source(network: nn.Module) -> str | None:
    """The checkpoint in this installation that a model's weights are; None where they are others, or were trained on."""
    cfg = getattr(network, "pretrained_cfg", None) or {}
    name = f"{cfg.get('architecture')}.{cfg.get('tag')}"
    path = checkpoints.folder(name) / checkpoints.WEIGHTS
    if not path.is_file():
        return None
    theirs, ours = load_file(path), network.state_dict()
    same = theirs.keys() == ours.keys() and all(torch.equal(v, ours[k].cpu()) for k, v in theirs.items())
    return name if same else None
