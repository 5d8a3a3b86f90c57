"""Opening exported files."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import CheckpointError, CnnzooError
from ._formats import _EXTRA, FACTS


class Exported:
    """An exported file, ready to run.

    Attributes:
        labels: Class names, by class index.
        facts: What travels inside the file: architecture, mean, std, dtype, source checkpoint and its sha256.
    """

    def __init__(self, run: Callable[[np.ndarray], list[np.ndarray]], facts: dict[str, Any]) -> None:
        self._run = run
        self.facts = facts
        self.labels = tuple(facts["labels"])

    def run(self, images: Any) -> list[np.ndarray]:
        """The file's raw outputs for an array: logits `(B, K)` and, with preprocessing inside, probabilities `(B, K)`."""
        from . import check_array

        return self._run(check_array(images, self.facts))

    def predict(self, images: Any) -> tuple[list[str], np.ndarray]:
        """What images show.

        Args:
            images: uint8, `(H, W)`, `(B, H, W)` or `(B, C, H, W)`; of a file without preprocessing normalised float32.

        Returns:
            A label per image, and the probabilities of all classes `(B, K)`.

        Raises:
            InputError: The array has another type or shape, or is empty.
        """
        outputs = self.run(images)
        logits = outputs[0]
        if len(outputs) == 2:
            probabilities = outputs[1]
        else:
            e = np.exp((logits - logits.max(1, keepdims=True)) / self.facts["temperature"])
            probabilities = e / e.sum(1, keepdims=True)
        return [self.labels[i] for i in logits.argmax(1)], probabilities

    __call__ = predict


def load_exported(path: str | Path) -> Exported:
    """Opens a file that `export` wrote, of any format.

    Raises:
        CheckpointError: The file is missing, damaged, or not one of ours.
        CnnzooError: The package that runs it is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file. Name a .pt2 or .onnx file that cnnzoo export wrote.")
    try:
        return _load_onnx(path) if path.suffix == ".onnx" else _load_pt2(path)
    except CnnzooError:
        raise
    except Exception as e:  # each library has a dozen kinds for a damaged file
        raise CheckpointError(
            f"{path} cannot be opened ({type(e).__name__}): it is damaged, or not a file of cnnzoo export. Export it again."
        ) from e


def _load_onnx(path: Path) -> Exported:
    try:
        import onnxruntime
    except ImportError as e:
        raise CnnzooError(f"{path} needs onnxruntime, which is not installed. {_EXTRA}") from e
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    facts = json.loads(session.get_modelmeta().custom_metadata_map[FACTS])
    return Exported(lambda x: session.run(None, {"images": x}), facts)


def _load_pt2(path: Path) -> Exported:
    with zipfile.ZipFile(path) as archive:
        native = any("/aotinductor/" in name for name in archive.namelist())
    if native:
        module = torch._inductor.aoti_load_package(str(path))
        facts = json.loads(module.get_metadata()[FACTS])
    else:
        extra = {FACTS: ""}
        module = torch.export.load(str(path), extra_files=extra).module()
        facts = json.loads(extra[FACTS])

    def run(x: np.ndarray) -> list[np.ndarray]:
        with torch.inference_mode():
            outputs = module(torch.tensor(x))  # a copy: the array may be read-only
        outputs = outputs if isinstance(outputs, (tuple, list)) else [outputs]
        return [o.numpy() for o in outputs]

    return Exported(run, facts)
