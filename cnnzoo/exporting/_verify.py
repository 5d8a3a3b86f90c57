"""Holding a file that was just written against the model it is of."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .. import data
from ..errors import ExportError
from ._exported import load_exported
from ._pipeline import Pipeline, make_pipeline

_BATCHES = (1, 2, 17)  # compared with the model: one, the one it was traced with, an odd one
_TOLERANCE = 1e-4  # of fp32 logits
_POINTS = {"bf16": 0.1, "int8": 0.3}  # percent of the test images, at least one, that a smaller type may lose
_PART = 500  # images at a time


def example(pipeline: Pipeline, batch: int) -> Tensor:
    """Seeded images `(batch, C, H, W)` of the kind that the pipeline takes, on its device."""
    generator = torch.Generator().manual_seed(batch)
    pixels = torch.randint(0, 256, (batch, *pipeline.input_size), generator=generator).to(torch.uint8)
    return (pixels if pipeline.preprocess else pixels.float() / 128 - 1).to(pipeline.mean.device)


def sized(images: Tensor, pipeline: Pipeline) -> Tensor:
    """uint8 images `(N, C, H, W)` in the height and width that the model is for, which need not be the data set's."""
    size = tuple(pipeline.input_size[1:])
    if tuple(images.shape[2:]) == size:
        return images
    return torch.cat([data.resize(part.float(), size).round().to(torch.uint8) for part in images.split(_PART)])


def compare(made: Path, network: nn.Module, preprocess: bool, split: data.Split | None, dtype: str, scratch: Path) -> None:
    """Opens the file in a fresh process and holds its outputs against the model's in fp32.

    Args:
        made: The file.
        network: What it was made of.
        preprocess: Whether the file takes raw pixels.
        split: The test set, for types whose accuracy counts; None compares logits.
        dtype: `"fp32"`, `"bf16"` or `"int8"`.
        scratch: A folder for what passes between the processes.

    Raises:
        ExportError: They differ by more than the type may.
    """
    reference = make_pipeline(network, torch.float32, preprocess)
    if split is None:
        given = [example(reference, b) for b in _BATCHES]
    else:
        mean, std = (v.flatten().tolist() for v in (reference.mean, reference.std))
        given = [split.images if preprocess else data.normalize(split.images, mean, std)]
    with torch.inference_mode():
        parts = [p for x in given for p in x.split(_PART)]
        logits = torch.cat([reference(p)[0] if preprocess else reference(p) for p in parts])
    np.savez(scratch / "given.npz", *[x.numpy() for x in given])
    command = [sys.executable, "-m", "cnnzoo.exporting", str(made), str(scratch / "given.npz"), str(scratch / "found.npz")]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        reason = (run.stderr.strip() or f"exit code {run.returncode}").splitlines()[-1]
        raise ExportError(f"The file was written, but cannot be opened again, so it was not kept: {reason}")
    found = torch.cat([torch.from_numpy(v) for v in np.load(scratch / "found.npz").values()])
    if split is None:
        worst = (found - logits).abs().max().item()
        if not worst <= _TOLERANCE:
            raise ExportError(f"The file's logits differ from the model's by {worst:.2g}; allowed is {_TOLERANCE:g}.")
        return
    right, kept = ((x.argmax(1) == split.labels).float().mean().item() for x in (logits, found))
    allowed = max(_POINTS[dtype], 100 / len(split))  # of a few images, one says nothing
    if not 100 * (right - kept) <= allowed + 1e-4:
        raise ExportError(
            f"The file's top-1 on {len(split):,} test images is {100 * (right - kept):.2f} points below the model's; "
            f'allowed is {allowed:.3g}. Export it with dtype="fp32" and without quantize.'
        )


def main(arguments: list[str]) -> None:
    """Runs a file on arrays, for `compare`: FILE GIVEN.npz FOUND.npz."""
    torch.backends.cudnn.allow_tf32 = False  # its ten bits are fewer than the tolerance asks for
    exported = load_exported(arguments[0])
    outputs = [
        np.concatenate([exported.run(x[i : i + _PART])[0] for i in range(0, len(x), _PART)])
        for x in np.load(arguments[1]).values()
    ]
    np.savez(arguments[2], *outputs)
