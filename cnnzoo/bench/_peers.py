"""The models that people would use instead: how they are made, and what they reached where they were trained."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from .. import registry
from ..datasets import FASHION_MNIST
from ..errors import CheckpointError
from ..files import parse_json, write_json
from ..recipes import TIMM
from ..resolve import read_run, resolve

RESNET8 = "mlperf:resnet8"
PEERS = (
    *(
        TIMM + name
        for name in (
            "resnet18", "resnet10t", "mobilenetv3_small_050", "mobilenetv3_small_100", "efficientnet_lite0", "test_resnet",
        )
    ),
    RESNET8,
)  # fmt: skip
FILE = Path(__file__).with_name("peers.json")


class ResNet8(nn.Module):
    """The network of MLPerf Tiny's image classification (Banbury et al., 2021, arXiv:2106.07597), layer by layer.

    As in its reference, `keras_model.py`, convolutions have biases, and the shortcuts have no norm. For CIFAR-10's
    3x32x32 it has the reference's 77,706 weights and biases, and 480 of batch norms.

    Args:
        in_chans: Channels of the images.
        num_classes: Outputs.

    Shape: `(B, in_chans, H, W)` to `(B, num_classes)`.
    """

    def __init__(self, in_chans: int = 1, num_classes: int = 10) -> None:
        super().__init__()
        self.in_chans, self.num_classes = in_chans, num_classes
        facts = dict(input_size=(in_chans, 28, 28), mean=FASHION_MNIST.mean * in_chans, std=FASHION_MNIST.std * in_chans)
        self.pretrained_cfg = dict(facts, architecture="resnet8", tag="", num_classes=num_classes)
        self.stem, self.stem_norm = nn.Conv2d(in_chans, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.stacks = nn.Sequential(_Stack(16, 16, 1), _Stack(16, 32, 2), _Stack(32, 64, 2))
        self.fc = nn.Linear(64, num_classes)

    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return self.fc

    def forward(self, x: Tensor) -> Tensor:
        x = self.stacks(self.stem_norm(self.stem(x)).relu())  # (B, 64, H / 4, W / 4)
        return self.fc(x.mean((2, 3)))


class _Stack(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 convolution where the stride is not 1."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.first, self.first_norm = nn.Conv2d(before, width, 3, stride, padding=1), nn.BatchNorm2d(width)
        self.second, self.second_norm = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.shortcut = nn.Identity() if stride == 1 else nn.Conv2d(before, width, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first_norm(self.first(x)).relu()
        return F.relu(self.second_norm(self.second(y)) + self.shortcut(x))


def is_peer(name: str) -> bool:
    """Whether a name of the benchmark is none of the zoo's."""
    return name == RESNET8 or name.startswith(TIMM)


def make(name: str) -> nn.Module:
    """A model by its name in the benchmark, in evaluation mode: pretrained where it is the zoo's, else untrained.

    Raises:
        UnknownNameError: There is none of that name.
    """
    model = ResNet8() if name == RESNET8 else registry.create_model(name, pretrained=not is_peer(name))
    return model.eval()


def collect(runs: Sequence[str | Path]) -> list[dict[str, Any]]:
    """What runs of peers measured, one row a run: `model`, `top1`, `epochs`, `minutes`, `hardware`, `seed`, `command`.

    Args:
        runs: Run folders that `cnnzoo train timm:NAME` made.

    Raises:
        CheckpointError: One is no finished run of a model of timm's on Fashion-MNIST's test set, or two are of one model.
    """
    rows = []
    for folder in runs:
        source = resolve(Path(folder))
        run = read_run(source.name) if source.kind == "run" else None
        if run is None or not is_peer(run.arch) or (run.metrics["split"], run.info.name) != ("test", FASHION_MNIST.name):
            raise CheckpointError(
                f"{folder} was given; a finished run of a timm model on {FASHION_MNIST.title} is needed, without "
                f"--holdout. Make one: cnnzoo train {TIMM}NAME --out DIR."
            )
        if run.arch in (row["model"] for row in rows):
            raise CheckpointError(f"{folder} is the second run of {run.arch} that was given. Give one run a model.")
        kept = ("top1", "epochs", "minutes", "hardware", "seed", "command", "torch", "timm")
        rows.append(dict(model=run.arch, **{k: run.metrics[k] for k in kept}))
    return rows


def keep(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Writes what `collect` found into the file that the tables are made of, and returns all that is in it now.

    A run replaces an older one of the same model.
    """
    found = {row["model"]: row for row in (*trained(), *rows)}
    write_json(FILE, dict(rows=list(found.values())))
    return list(found.values())


def trained() -> list[dict[str, Any]]:
    """The rows of `collect` that were kept."""
    return parse_json(FILE.read_bytes())["rows"]
