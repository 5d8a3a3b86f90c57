"""How fast inference is, in every form that a model can take, beside models that people would use otherwise."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from tqdm import tqdm

from .. import data, evaluate, exporting, registry
from ..datasets import FASHION_MNIST
from ..errors import CnnzooError
from ._timing import median_seconds

BATCHES = (1, 64, 256, 1024)
FORMS = ("eager", "compile", "torch_export", "aoti", "onnx", "onnx int8")
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

    Every form takes uint8 images and gives probabilities, so preprocessing is in the time. Accuracy is that of the form
    itself on the test set; rivals have none, since they come with no weights for such images.

    Args:
        name: The model.
        wanted: Forms to time.
        rivals: Other libraries' models, untrained, with one channel and ten classes.
        batches: Images per call.
        data_dir: Where the data set is.

    Returns:
        A row each: `model`, `form`, `top1`, `latency_ms` (batch 1) and `images_per_s` by batch.

    Raises:
        CnnzooError: There is no such form.
    """
    if strangers := set(wanted) - set(FORMS):
        raise CnnzooError(
            f"The forms {', '.join(sorted(strangers))} were given, allowed are {', '.join(FORMS)}. Choose those."
        )
    model = registry.create_model(name, pretrained=True)
    split = data.load_split(split="test", data_dir=data_dir)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for form in tqdm(wanted, desc=name, leave=False, disable=None):
            call = _form(model, form, Path(scratch), data_dir)
            rows.append(_row(name, form, call, split, batches))
    for rival in tqdm(rivals, desc="rivals", leave=False, disable=None):
        rows.append(_row(rival, "eager", _eager(_rival(rival)), None, batches))
    return rows


def _row(
    name: str, form: str, call: Callable[[Tensor], Tensor], split: data.Split | None, batches: tuple[int, ...]
) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    speeds = {}
    for batch in batches:
        images = torch.randint(0, 256, (batch, 1, 28, 28), generator=generator).to(torch.uint8)
        for _ in range(3):
            call(images)
        speeds[batch] = median_seconds(lambda x=images: call(x), max(5, 200 // batch))
    top1 = None
    if split is not None:
        answers = torch.cat([call(part).argmax(1) for part in split.images.split(500)])
        top1 = round(100 * (answers == split.labels).double().mean().item(), 2)
    return dict(
        model=name,
        form=form,
        top1=top1,
        latency_ms=round(1000 * speeds[1], 3) if 1 in speeds else None,
        images_per_s={batch: round(batch / seconds) for batch, seconds in speeds.items()},
    )


def _form(model: nn.Module, form: str, scratch: Path, data_dir: str | Path | None) -> Callable[[Tensor], Tensor]:
    """What maps uint8 images `(B, 1, 28, 28)` to probabilities `(B, K)`."""
    if form == "eager":
        return _eager(model)
    if form == "compile":
        pipeline = exporting.make_pipeline(model, torch.float32, True)
        compiled = exporting.compiled(pipeline, torch.zeros(2, 1, 28, 28, dtype=torch.uint8))
        return lambda images: compiled(images)[1]
    kind, _, quantize = form.partition(" ")
    path = scratch / f"{form.replace(' ', '_')}{'.onnx' if kind == 'onnx' else '.pt2'}"
    exported = exporting.load_exported(exporting.export(model, path, kind, quantize=quantize or None, data_dir=data_dir))
    return lambda images: torch.from_numpy(exported.run(images.numpy())[1])


def _eager(model: nn.Module) -> Callable[[Tensor], Tensor]:
    model = model.eval()

    def call(images: Tensor) -> Tensor:
        with torch.inference_mode(), evaluate.evaluation_mode(model):
            return model(data.normalize(images, FASHION_MNIST.mean, FASHION_MNIST.std)).softmax(1)

    return call


def _rival(name: str) -> nn.Module:
    library, model = name.split()
    if library == "timm":
        return timm.create_model(model, in_chans=1, num_classes=10)
    from torchvision.models import resnet18

    network = resnet18(num_classes=10)
    network.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)  # torchvision has no argument for it
    return network
