"""Opening exported files."""

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from .. import data
from ..errors import CheckpointError, CnnzooError, InputError, system_errors
from ..files import parse_json, user_path
from ..inference import checked
from ._formats import _EXTRA, FACTS
from ._seal import check_seal


class Exported:
    """An exported file, ready to run.

    Attributes:
        labels: Class names, by class index.
        facts: What travels inside the file: labels, mean, std, temperature, dtype, device, source checkpoint and its sha256,
            and the `limits` of the shape that it takes.
    """

    def __init__(self, run: Callable[[np.ndarray], list[np.ndarray]], facts: dict[str, Any]) -> None:
        self._run = run
        self.facts = facts
        self.labels = tuple(facts["labels"])

    def run(self, images: Any) -> list[np.ndarray]:
        """The file's raw outputs for images: logits `(B, K)` and, with preprocessing inside, probabilities `(B, K)`.

        Arrays are taken at the size that they have, where the file takes it; the rest is as of `predict`.

        Raises:
            InputError: The array has another type or shape, or is empty.
            CheckpointError: An output is not finite.
        """
        outputs = self._run(_batch(images, self.facts))
        for output in outputs:
            checked(torch.from_numpy(output))
        return outputs

    def predict(self, images: Any) -> tuple[list[str], np.ndarray]:
        """What images show.

        Args:
            images: uint8, `(H, W)`, `(B, H, W)` or `(B, C, H, W)`, a PIL image or a path, or a list of these. Images of
                another size than the model's are scaled to fit, as by `cnnzoo.predict(..., photo="never")`. For a file
                without preprocessing normalised float32 `(B, C, H, W)`, which is never scaled.

        Returns:
            A label per image, and the probabilities of all classes `(B, K)`.

        Raises:
            InputError: The array has another type or shape, or is empty, or an image cannot be read.
            CheckpointError: An output is not finite.
        """
        outputs = self.run(_fitted(images, self.facts))
        logits = outputs[0]
        if len(outputs) == 2:
            probabilities = outputs[1]
        else:
            e = np.exp((logits - logits.max(1, keepdims=True)) / self.facts["temperature"])
            probabilities = e / e.sum(1, keepdims=True)
        return [self.labels[i] for i in logits.argmax(1)], probabilities

    __call__ = predict


@system_errors()
def load_exported(path: str | Path) -> Exported:
    """Opens a file that `export` wrote, of any format, once its digest has shown that not a bit of it has changed.

    Args:
        path: A `.pt2` or `.onnx` file.

    Returns:
        A function from images to their labels and probabilities; see `Exported.predict`.

    Raises:
        CheckpointError: The file is missing, damaged, or not one of ours.
        CnnzooError: The package that runs it is not installed, or it is for a GPU and there is none.
    """
    path = user_path(path)
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file. Name a .pt2 or .onnx file that cnnzoo export wrote.")
    check_seal(path)
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
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # as the other formats have it
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    facts = parse_json(session.get_modelmeta().custom_metadata_map[FACTS])
    return Exported(lambda x: session.run(None, {"images": x}), facts)


def _load_pt2(path: Path) -> Exported:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        native = any("/aotinductor/" in name for name in names)
        ends = "_metadata.json" if native else (f"/extra/{FACTS}", f"extra_files/{FACTS}")  # the latter is of torch 2.6
        where = next(name for name in names if name.endswith(ends))
        inside = parse_json(archive.read(where))
    facts = parse_json(inside[FACTS]) if native else inside
    device = torch.device(facts["device"])
    if device.type == "cuda" and not torch.cuda.is_available():
        raise CnnzooError(f"{path} was exported for device='cuda', but torch finds no GPU here. Export it for 'cpu'.")
    module = torch._inductor.aoti_load_package(str(path)) if native else torch.export.load(str(path)).module()

    def run(x: np.ndarray) -> list[np.ndarray]:
        with torch.inference_mode():
            outputs = module(torch.from_numpy(x if x.flags.writeable else x.copy()).to(device))  # torch wants it writeable
        outputs = outputs if isinstance(outputs, (tuple, list)) else [outputs]
        return [o.cpu().numpy() for o in outputs]

    return Exported(run, facts)


def _fitted(images: Any, facts: dict[str, Any]) -> Any:
    """What a caller gave as images; uint8 arrays of which one has another size or shape than the file takes are made to fit.

    Raises:
        InputError: An array that has to be scaled is no image.
    """
    if not facts["preprocess"] or "input_size" not in facts:
        return images
    sources = images if isinstance(images, (list, tuple)) else [images]
    if not sources or not all(isinstance(source, (np.ndarray, torch.Tensor)) for source in sources):
        return images  # paths and PIL images are scaled in any case
    arrays = [_numbers(source) for source in sources]
    chans, *size = facts["input_size"]
    first, fitting = arrays[0], {(chans, *size)} | ({tuple(size)} if chans == 1 else set())
    if sources is not images and first.ndim > 2:
        several = first.ndim == 4 or first.shape[0] != 3 and first.shape[2] not in (1, 3)
        arrays = list(first) if several else [first]  # (B, C, H, W) or (B, H, W), else one image
        if chans == 3 and not several:
            fitting = set()  # the file itself takes batches alone
    wrong = any(array.dtype != np.uint8 or array.ndim < 2 for array in arrays)
    wrong = wrong or first.ndim == 4 and first.shape[1] not in (1, chans) and first.shape[3] not in (1, 3)
    if wrong or all(array.shape in fitting for array in arrays):
        return images
    return _pixels(arrays, facts)


def _batch(array: Any, facts: dict[str, Any]) -> np.ndarray:
    """What a caller gave as images, as a contiguous batch `(B, C, H, W)`.

    Raises:
        InputError: Its type or shape is none that the file takes, it is empty, or an image cannot be read.
    """
    sources = list(array) if isinstance(array, (list, tuple)) else [array]
    if any(isinstance(source, (str, os.PathLike, Image.Image)) for source in sources):
        array = _pixels(sources, facts)
    array = _numbers(array)
    kind = np.uint8 if facts["preprocess"] else np.float32
    if array.dtype != kind:
        how = "Multiply numbers from 0 to 1 by 255, round them, and call .astype(numpy.uint8)"
        how = how if kind is np.uint8 and array.dtype.kind == "f" else f"Convert it with .astype({np.dtype(kind)})"
        raise InputError(f"An array of type {array.dtype} was given; {np.dtype(kind)} is needed. {how}.")
    limits = facts["limits"]
    if facts["preprocess"] and limits[1][1] == 1 and array.ndim in (2, 3):
        if array.ndim == 3 and len(array) == 3:
            raise InputError(
                f"An array of shape {array.shape} was given, which can mean three images, or one image of three "
                "channels. Pass three as (3, 1, H, W)."
            )
        array = array.reshape(-1, 1, *array.shape[-2:])  # (H, W) or (B, H, W) -> (B, 1, H, W)
    if array.ndim != 4 or not all(least <= n <= most for n, (least, most) in zip(array.shape, limits)):
        ranges = dict(zip("BCHW", limits))
        shape = ", ".join(name if least < most else str(least) for name, (least, most) in ranges.items())
        free = ", ".join(f"{name} from {least} to {most}" for name, (least, most) in ranges.items() if least < most)
        raise InputError(
            f"An array of shape {array.shape} was given; the file takes ({shape}) with {free}. Resize or split it."
        )
    return np.ascontiguousarray(array)


def _numbers(values: Any) -> np.ndarray:
    """Arrays or tensors, or lists of them, as one array."""
    try:
        if isinstance(values, (list, tuple)):
            return np.asarray([_numbers(value) for value in values])
        return np.asarray(values.detach().cpu() if isinstance(values, torch.Tensor) else values)
    except (TypeError, ValueError, RuntimeError) as e:  # of NumPy, about shapes; of torch, about types that NumPy lacks
        reason = str(e).splitlines()[0].rstrip(".")
        raise InputError(
            f"The images cannot be made one array ({reason}). Pass arrays of one size, or PIL images or paths, which are "
            "scaled to fit."
        ) from e


def _pixels(sources: list[Any], facts: dict[str, Any]) -> np.ndarray:
    """Images of any kind as uint8 `(B, C, H, W)`, by the reader that all others use."""
    if not facts["preprocess"]:
        raise InputError(
            "Images were given to a file without preprocessing, which takes normalised arrays. Export again with it."
        )
    if "input_size" not in facts:
        raise InputError("The file does not say which size it takes. Export it again, or pass arrays (B, C, H, W).")
    size, how = tuple(facts["input_size"]), facts.get("interpolation", "bilinear")  # older files do not say
    fit = data.to_pixels(size, how)
    read = [data.read_one_of(sources, i, lambda x: fit(data.open_image(x, size[0]))) for i in range(len(sources))]
    return torch.stack(read).numpy()
