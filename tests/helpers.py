"""What several test files share: the list of models, closed-form weights, a data set of a few images."""

import functools
import gzip
import hashlib
import math
import struct
import zlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import cnnzoo
from cnnzoo.data import Split
from cnnzoo.datasets import FASHION_MNIST, DatasetInfo
from cnnzoo.recipes import Recipe
from cnnzoo.summary import Count, count

# Sorted, so that test ids and their order are the same in every process.
MODELS = sorted(cnnzoo.list_models())

# One of each kind. A test that says the same of every model runs on these by default, and on the others when asked for with
# `-m slow`; golden.csv, the budgets and the names are checked for every model every time.
REPRESENTATIVES = {
    "lenet_d2l",  # the textbook's; flattens its feature map, so it takes one image size
    "nin_d2l",  # classifies before it pools
    "resnext_tiny",  # residual blocks, grouped convolutions
    "preact_resnet_tiny",  # normalises before it convolves
    "densenet_tiny",  # concatenates
    "googlenet_tiny",  # branches
    "repvgg_tiny",  # branches that are merged after training
    "convnext28_tiny",  # layer norm, and some of it in the head
}


def hub_only() -> set[str]:
    """The checkpoints whose weights pyproject.toml leaves out of the wheel, so that it stays small."""
    tomllib = pytest.importorskip("tomllib")  # of Python 3.11
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    left_out = project["tool"]["hatch"]["build"]["targets"]["wheel"]["exclude"]
    return {Path(path).parent.name for path in left_out if path.endswith("/model.safetensors")}


def each(names: Iterable[str]) -> list:
    """Models or checkpoints as parameters of a test: all but those of the representatives are marked `slow`."""
    marks = {True: (), False: pytest.mark.slow}
    return [pytest.param(name, marks=marks[name.split(".")[0] in REPRESENTATIVES]) for name in names]


HUB_NAME = "lenet_tiny.fashion_mnist"  # the smallest checkpoint, which the tests of the Hub send around

# Above either, a model runs on the meta device in the contract tests: shapes, types and gradients' existence are checked,
# numbers are not. Up to 129 million parameters would make the suite heavy; timm's own suite runs every model for real.
MAX_PARAMS = 8_000_000
MAX_MACS = 250_000_000


def native_size(name: str) -> tuple[int, int, int]:
    """Channels, height, width that a model is made for."""
    return tuple(timm.get_pretrained_cfg(name).input_size)


@functools.cache
def cost(name: str) -> Count:
    """Parameters and multiply-accumulates at the native size, counted without computing anything."""
    return count(timm.create_model(name, device="meta"), native_size(name))


def is_large(name: str) -> bool:
    """Whether a model is too large to be run many times in a light test suite."""
    return cost(name).params > MAX_PARAMS or cost(name).macs > MAX_MACS


def wave(shape: tuple[int, ...], name: str) -> Tensor:
    """A closed form that looks random: the sine of a quadratic in the index, phase by `name`; variance 1/2.

    Integer arithmetic up to the last step, so it is the same on every machine and in every version of torch. A sine of
    the index itself would give filters that are all mixtures of two.
    """
    prime = 2**31 - 1
    index = torch.arange(1, math.prod(shape) + 1, dtype=torch.int64)
    phase = (index * index % prime * 48_271 + index * (zlib.crc32(name.encode()) % 1_000_003)) % prime
    return torch.sin(phase.double() * (2 * math.pi / prime)).float().view(shape)


def fill(model: nn.Module) -> nn.Module:
    """Gives every parameter and running statistic its closed form, in place; scaled so that signals neither die nor explode.

    The default start leaves residual branches at zero, which would hide them from the tests.
    """
    kinds = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm)
    norms = {n for n, m in model.named_modules() if isinstance(m, kinds)}
    with torch.no_grad():
        for name, tensor in model.state_dict(keep_vars=True).items():
            if tensor.device.type == "meta" or not tensor.is_floating_point():
                continue
            values = wave(tuple(tensor.shape), name)
            prefix, _, leaf = name.rpartition(".")
            if tensor.dim() >= 2:
                tensor.copy_(values * 2 / math.sqrt(tensor[0].numel()))  # std sqrt(2 / fan-in), what ReLU asks for
            elif prefix in norms and leaf in ("weight", "running_var"):
                tensor.copy_(1 + values / 2)
            else:
                tensor.copy_(values / 10)
    return model


def images(name: str, batch: int = 2, *, device: torch.device | str = "cpu") -> Tensor:
    """A batch of the model's native size, `(B, C, H, W)`, in closed form."""
    return wave((batch, *native_size(name)), "images").to(device)


def assert_same(actual: Tensor, expected: Tensor) -> None:
    """Equal up to rounding, relative to the largest value; on the meta device equal in shape and type."""
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    assert actual.device == expected.device
    if expected.device.type != "meta" and expected.numel():
        assert torch.isfinite(expected).all()
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=2e-5 * expected.abs().max().item())


def grays(split: Split) -> list[int]:
    """The first pixel of each image, which tells images of one gray value apart."""
    return split.images[:, 0, 0, 0].tolist()


# -- a data set of a few images ------------------------------------------------------------------------------------------


def idx_bytes(values: Tensor) -> bytes:
    """A uint8 tensor in the idx format of the MNIST family: magic number, sizes, values."""
    header = bytes([0, 0, 8, values.dim()]) + struct.pack(f">{values.dim()}I", *values.shape)
    return header + values.contiguous().numpy().tobytes()


def write_miniature(data_dir: Path, *, num_train: int = 40, num_test: int = 12, holdout: int = 8) -> DatasetInfo:
    """Writes a tiny Fashion-MNIST look-alike into `data_dir`, and returns the facts about it, its true md5s included.

    The files have the real names, folder and format. Nothing knows of it until it is put into `datasets.DATASETS`,
    which the fixture `miniature` does.
    """
    generator = torch.Generator().manual_seed(0)
    folder = data_dir / FASHION_MNIST.folder
    folder.mkdir(parents=True)
    files, unpacked = {}, {}
    for i, name in enumerate(FASHION_MNIST.files):
        number = num_train if i < 2 else num_test
        shape = (number, 28, 28) if i % 2 == 0 else (number,)
        high = 256 if i % 2 == 0 else 10
        content = idx_bytes(torch.randint(0, high, shape, generator=generator).to(torch.uint8))
        packed = gzip.compress(content, mtime=0)
        (folder / name).write_bytes(packed)
        files[name] = hashlib.md5(packed).hexdigest()
        unpacked[name.removesuffix(".gz")] = hashlib.md5(content).hexdigest()
    return replace(
        FASHION_MNIST, name="miniature", title="Miniature", files=files, unpacked=unpacked, mirrors=(),
        num_train=num_train, num_test=num_test, holdout=holdout,
    )  # fmt: skip


# -- runs on it ----------------------------------------------------------------------------------------------------------

TINY = dict(dataset="miniature", epochs=3, batch_size=8, warmup_epochs=1, amp="no", ema_decay=0.9)


def run_recipe(recipe: Recipe, out: Path, miniature: tuple[Path, DatasetInfo], **kwargs: Any) -> dict[str, Any]:
    """Trains on the CPU, on the data set of the fixture `miniature`."""
    from cnnzoo import train  # takes a second to import, and most tests do not train

    return train.train(recipe, out, data_dir=miniature[0], device="cpu", **kwargs)


def weights_of(out: Path) -> dict[str, Tensor]:
    """The weights that a finished run left."""
    return load_file(out / "model.safetensors")
