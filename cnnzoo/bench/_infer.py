"""How fast inference is, in every form that a model can take, beside models that people would use otherwise."""

import copy
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from .. import data, exporting, summary
from ..datasets import FASHION_MNIST
from ..errors import CnnzooError, ExportError
from ..files import user_path
from ..inference import evaluation_copy, inference_form
from ..progress import progress
from ..resolve import resolve
from ._peers import PEERS, is_peer, make

BATCHES = (1, 64, 256, 1024)
FORMS = (
    "eager", "channels_last", "inference_form", "compile", "torch_export", "torch_export bf16", "aoti", "aoti bf16", "onnx",
    "onnx int8",
)  # fmt: skip
QUICK = ("eager", "channels_last", "inference_form", "onnx", "onnx int8")  # which need no compiler
_IN_MEMORY = ("eager", "channels_last", "inference_form", "compile")  # which compute the same up to rounding
_COMPILED = ("compile", "aoti", "aoti bf16")
MODELS = (
    "lenet_tiny", "lenet_small", "nin_tiny", "mobilenet_tiny", "repvgg_tiny", "vgg_small", "nin_small", "resnet_small",
    "resnext_small", "mobilenet_small", "wide_resnet_base", "repvgg_base",
)  # fmt: skip
_ROUNDS = 3  # each times every row once, so that what else the machine does is the same for all
_LEAST_SECONDS = 0.02  # of a row's turn
_LONG_SECONDS = 0.2  # a call that takes so long tells enough alone


def forms(
    names: tuple[str, ...] = (*MODELS, *PEERS),
    *,
    wanted: tuple[str, ...] = QUICK,
    threads: tuple[int, ...] = (1, 2),
    batches: tuple[int, ...] = BATCHES,
    data_dir: str | Path | None = None,
    download: bool = False,
    files: str | Path | None = None,
) -> list[dict[str, Any]]:
    """Times models in several forms on the same raw 28x28 pixels, all in turn, round after round.

    Every form takes uint8 images and gives probabilities, so preprocessing is in the time. Of all rounds the fastest counts,
    since whatever else the machine does only adds to a time. Accuracy is that of the form itself on the test set; the forms
    in memory compute the same up to rounding, so the inference form is measured for all. Models of others have none, since
    they come with no weights for such images: they are untrained, with one channel and ten classes.

    Args:
        names: Pretrained models of the zoo, and `timm:NAME` for those of timm and MLPerf's `resnet8_mlperf`.
        wanted: Forms to time, of `FORMS`.
        threads: Of torch and ONNX Runtime.
        batches: Images per call.
        data_dir, download: Where the data set is, and whether it may be fetched, see `data.load_split`.
        files: A folder for the exported files, of which those that are there are taken; None for one that is removed.

    Returns:
        A row for each model, form and number of threads: `model`, `form`, `threads`, `params`, `macs`, `top1` (None where it
        was not measured), `images_per_s` by batch, and `times`, the most of these relative to the model's first form. Where
        a form needs a C++ compiler and there is none, or `export` refuses its file as too inaccurate, the row has `failed`,
        which says so, in the place of the last two.

    Raises:
        CnnzooError: There is no such form, or a model is neither a pretrained one of the zoo nor one of timm.
        DataError: The data set is not there.
    """
    _check_names(names)
    if strangers := set(wanted) - set(FORMS):
        raise CnnzooError(
            f"The forms {', '.join(sorted(strangers))} were given, allowed are {', '.join(FORMS)}. Choose those."
        )
    if download:  # before the minutes of timing
        data.load_split(split="test", data_dir=data_dir, download=True)
    accuracy: dict[tuple[str, str], float | None] = {}
    former = torch.get_num_threads()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = user_path(files or scratch)
        folder.mkdir(parents=True, exist_ok=True)
        models = [(name, model, form) for name in names for model in [make(name)] for form in wanted]
        try:
            for count in threads:
                torch.set_num_threads(count)
                rows += _timed(models, count, batches, folder, data_dir, accuracy)
        finally:
            torch.set_num_threads(former)
    return rows


def _check_names(names: tuple[str, ...]) -> None:
    for name in names:
        if (kind := resolve(name).kind) not in ("name", "timm"):
            raise CnnzooError(
                f"{name} was given, a {kind}; pretrained models of the zoo and timm:NAME can be timed. Choose one of "
                "cnnzoo list --pretrained."
            )


def cold_start(runs: int = 3) -> dict[str, Any]:
    """From typing to answer: `cnnzoo predict` on a photo, against `import timm` alone, each in fresh processes, in turn.

    Returns:
        `predict_s` and `import_timm_s`, the fastest of `runs` each, and `times`, their ratio.
    """
    with tempfile.TemporaryDirectory() as folder:
        photo = Path(folder) / "photo.png"
        Image.effect_noise((200, 300), 40).save(photo)
        commands = dict(
            predict_s=[sys.executable, "-m", "cnnzoo", "predict", str(photo)],
            import_timm_s=[sys.executable, "-c", "import timm"],
        )
        found = dict.fromkeys(commands, float("inf"))
        for _ in progress(range(runs), "cold starts"):
            for key, command in commands.items():
                began = time.perf_counter()
                subprocess.run(command, check=True, capture_output=True)
                found[key] = round(min(found[key], time.perf_counter() - began), 2)
    return dict(found, times=round(found["predict_s"] / found["import_timm_s"], 2))


def _timed(
    models: list[tuple[str, nn.Module, str]],
    threads: int,
    batches: tuple[int, ...],
    scratch: Path,
    data_dir: str | Path | None,
    accuracy: dict[tuple[str, str], float | None],
) -> list[dict[str, Any]]:
    rows, calls = [], []
    for name, model, form in progress(models, f"{threads} threads"):
        cost = summary.count(model, FASHION_MNIST.image_size)
        row = dict(model=name, form=form, threads=threads, params=cost.params, macs=cost.macs, top1=None)
        rows.append(row)
        if form in _COMPILED and not _has_compiler():
            row["failed"] = "no C++ compiler"
            continue
        try:
            calls.append(_form(model, name, form, scratch, data_dir))
        except ExportError:  # its file answers otherwise than the model
            row["failed"] = "not accurate enough"
            continue
        if not is_peer(name):
            key = name, "in memory" if form in _IN_MEMORY else form
            if key not in accuracy:
                accuracy[key] = _top1(_pixels(inference_form(model)) if form in _IN_MEMORY else calls[-1], data_dir)
            row["top1"] = accuracy[key]
    seconds = {batch: _seconds(calls, batch) for batch in progress(batches, "batches")}
    timed = [row for row in rows if "failed" not in row]
    for i, row in enumerate(timed):
        row["images_per_s"] = {batch: round(batch / found[i]) for batch, found in seconds.items()}
    first = {row["model"]: max(row["images_per_s"].values()) for row in reversed(timed)}
    for row in timed:
        row["times"] = round(max(row["images_per_s"].values()) / first[row["model"]], 2)
    return rows


def _has_compiler() -> bool:
    return shutil.which(os.environ.get("CXX", "g++")) is not None


def _top1(call: Callable[[Tensor], Tensor], data_dir: str | Path | None) -> float:
    split = data.load_split(split="test", data_dir=data_dir)
    answers = torch.cat([call(part).argmax(1) for part in split.images.split(500)])
    return round(100 * (answers == split.labels).double().mean().item(), 2)


def _seconds(calls: list[Callable[[Tensor], Tensor]], batch: int) -> list[float]:
    """Of each call on a batch of random images: the fastest of all rounds."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (batch, 1, 28, 28), generator=generator).to(torch.uint8)
    best = [float("inf")] * len(calls)
    for _ in range(_ROUNDS):
        for i, call in enumerate(calls):
            # The first call finds kernels for this shape, and the threads of the row before may still spin: unless it is
            # long, it does not count towards the turn.
            spent, first = 0.0, True
            while spent < _LEAST_SECONDS:
                began = time.perf_counter()
                call(images)
                took = time.perf_counter() - began
                best[i] = min(best[i], took)
                if not first or took >= _LONG_SECONDS:
                    spent += took
                first = False
    return best


def _form(model: nn.Module, name: str, form: str, scratch: Path, data_dir: str | Path | None) -> Callable[[Tensor], Tensor]:
    """What maps uint8 images `(B, 1, 28, 28)` to probabilities `(B, K)`, with as many threads as torch has."""
    if form == "inference_form":
        return _pixels(inference_form(model))
    if form in ("eager", "channels_last"):
        plain = evaluation_copy(model)
        if form == "channels_last":
            plain = copy.deepcopy(plain).to(memory_format=torch.channels_last)
        return _pixels(torch.inference_mode()(plain.forward))
    if form == "compile":
        pipeline = exporting.make_pipeline(model, torch.float32, True)
        compiled = exporting.compiled(pipeline, torch.zeros(2, 1, 28, 28, dtype=torch.uint8))
        return lambda images: compiled(images)[1]
    kind, _, small = form.partition(" ")
    path = scratch / f"{name}_{form}".replace(" ", "_").replace(":", "_")
    path = path.with_name(path.name + (".onnx" if kind == "onnx" else ".pt2"))
    if not path.exists():
        smaller = dict(bf16=dict(dtype="bf16"), int8=dict(quantize="int8")).get(small, {})
        exporting.export(model, path, kind, **smaller, data_dir=data_dir, verify=not is_peer(name))
    exported = exporting.load_exported(path)
    return lambda images: torch.from_numpy(exported.run(images.numpy())[1])


def _pixels(form: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda images: form(data.normalize(images, FASHION_MNIST.mean, FASHION_MNIST.std)).softmax(1)
