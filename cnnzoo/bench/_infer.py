"""How fast inference is, in every form that a model can take, beside models that people would use otherwise."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from tqdm import tqdm

from .. import data, exporting, registry
from ..datasets import FASHION_MNIST
from ..errors import CnnzooError
from ..inference import inference_form
from ._timing import median_seconds

BATCHES = (1, 64, 256, 1024)
FORMS = ("eager", "compile", "torch_export", "torch_export bf16", "aoti", "aoti bf16", "onnx", "onnx int8")
_ROUNDS = 5  # each times every row once, so that what else the machine does is the same for all
_RIVALS = ("timm resnet18", "timm test_resnet", "torchvision resnet18")


def forms(
    name: str = "resnext_small",
    *,
    wanted: tuple[str, ...] = FORMS,
    rivals: tuple[str, ...] = _RIVALS,
    batches: tuple[int, ...] = BATCHES,
    data_dir: str | Path | None = None,
) -> list[dict[str, Any]]:
    """Times a pretrained model of the zoo in several forms, and rivals in eager mode, on the same raw 28x28 pixels.

    Every form takes uint8 images and gives probabilities, so preprocessing is in the time. All have as many threads as
    torch has. Accuracy is that of the form itself on the test set; rivals have none, since they come with no weights for
    such images.

    Args:
        name: The model.
        wanted: Forms to time.
        rivals: Other libraries' models, untrained, with one channel and ten classes.
        batches: Images per call.
        data_dir: Where the data set is.

    Returns:
        A row each: `model`, `form`, `top1`, `latency_ms` (batch 1), `images_per_s` by batch, and `times`, the most images
        per second of any batch relative to the first row's.

    Raises:
        CnnzooError: There is no such form.
    """
    if strangers := set(wanted) - set(FORMS):
        raise CnnzooError(
            f"The forms {', '.join(sorted(strangers))} were given, allowed are {', '.join(FORMS)}. Choose those."
        )
    model = registry.create_model(name, pretrained=True)
    split = data.load_split(split="test", data_dir=data_dir)
    rows, calls = [], []
    with tempfile.TemporaryDirectory() as scratch:
        for form in tqdm(wanted, desc=name, leave=False, disable=None):
            call = _form(model, form, Path(scratch), data_dir)
            rows.append(dict(model=name, form=form, top1=_top1(call, split)))
            calls.append(call)
        for rival in rivals:
            rows.append(dict(model=rival, form="eager", top1=None))
            calls.append(_eager(_rival(rival)))
        seconds = {batch: _seconds(calls, batch) for batch in tqdm(batches, desc="batches", leave=False, disable=None)}
    for i, row in enumerate(rows):
        row["latency_ms"] = round(1000 * seconds[1][i], 3) if 1 in seconds else None
        row["images_per_s"] = {batch: round(batch / found[i]) for batch, found in seconds.items()}
        row["times"] = round(max(row["images_per_s"].values()) / max(rows[0]["images_per_s"].values()), 2)
    return rows


def _top1(call: Callable[[Tensor], Tensor], split: data.Split) -> float:
    answers = torch.cat([call(part).argmax(1) for part in split.images.split(500)])
    return round(100 * (answers == split.labels).double().mean().item(), 2)


def _seconds(calls: list[Callable[[Tensor], Tensor]], batch: int) -> list[float]:
    """Of each call on a batch of random images: the median of the rounds' medians."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (batch, 1, 28, 28), generator=generator).to(torch.uint8)
    rounds: list[list[float]] = [[] for _ in calls]
    for _ in range(_ROUNDS):
        for call, medians in zip(calls, rounds):
            call(images)  # fills the caches, and finds kernels for this shape
            call(images)
            medians.append(median_seconds(lambda call=call: call(images), max(3, 100 // batch)))
    return [sorted(medians)[len(medians) // 2] for medians in rounds]


def _form(model: nn.Module, form: str, scratch: Path, data_dir: str | Path | None) -> Callable[[Tensor], Tensor]:
    """What maps uint8 images `(B, 1, 28, 28)` to probabilities `(B, K)`."""
    if form == "eager":
        return _eager(model)
    if form == "compile":
        pipeline = exporting.make_pipeline(model, torch.float32, True)
        compiled = exporting.compiled(pipeline, torch.zeros(2, 1, 28, 28, dtype=torch.uint8))
        return lambda images: compiled(images)[1]
    kind, _, small = form.partition(" ")
    path = scratch / f"{form.replace(' ', '_')}{'.onnx' if kind == 'onnx' else '.pt2'}"
    smaller = dict(bf16=dict(dtype="bf16"), int8=dict(quantize="int8")).get(small, {})
    exported = exporting.load_exported(exporting.export(model, path, kind, **smaller, data_dir=data_dir))
    return lambda images: torch.from_numpy(exported.run(images.numpy())[1])


def _eager(model: nn.Module) -> Callable[[Tensor], Tensor]:
    form = inference_form(model)

    def call(images: Tensor) -> Tensor:
        return form(data.normalize(images, FASHION_MNIST.mean, FASHION_MNIST.std)).softmax(1)

    return call


def _rival(name: str) -> nn.Module:
    library, model = name.split()
    if library == "timm":
        return timm.create_model(model, in_chans=1, num_classes=10)
    from torchvision.models import resnet18

    network = resnet18(num_classes=10)
    network.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)  # torchvision has no argument for it
    return network
