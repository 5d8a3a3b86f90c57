"""Data sets that others read: torchvision, and timm's reader of the Hugging Face Hub."""

import contextlib
import hashlib
import importlib.util
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..datasets import TORCHVISION, TorchvisionSet
from ..errors import DataError
from ..files import kept_if_used
from ._images import read_images
from ._splits import default_data_dir, quiet_unless_watched

TEST_NAMES = ("test", "testing", "val", "valid", "validation")


@dataclass(frozen=True)
class Raw:
    """A data set as it was read, before anything is counted.

    Attributes:
        name, title, licence, homepage, labels: As in `datasets.DatasetInfo`.
        train, test: Images, uint8 `(N, C, H, W)`, and labels, int64 `(N,)`.
        shuffle: Whether the training images come in an order, such as by class, that spoils a holdout at their end.
        names, test_names: Of the images, where they have any that stay when others are added; else empty.
    """

    name: str
    title: str
    licence: str
    homepage: str
    labels: tuple[str, ...]
    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    shuffle: bool
    names: tuple[str, ...] = ()
    test_names: tuple[str, ...] = ()


def by_lot(names: Sequence[str]) -> list[int]:
    """Indices of `names` in an order that is as good as random, and in which two keep theirs whatever is added."""
    lots = [hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest() for name in names]
    return sorted(range(len(names)), key=lambda i: (lots[i], i))


def divide(labels: Sequence[int], names: Sequence[str]) -> tuple[list[int], list[int]]:
    """Indices to train on, and to test on: a fifth of each class, at least one of two; the same in every run.

    The names decide: an image that was trained on is tested on later only where one more is needed for the fifth.
    """
    classes: dict[int, list[int]] = {}
    for i in by_lot(names):
        classes.setdefault(labels[i], []).append(i)
    train, test = [], []
    for members in classes.values():
        count = len(members) // 5 or min(1, len(members) - 1)
        test += members[:count]
        train += members[count:]
    return sorted(train), sorted(test)


def fitted(images: Tensor, image_size: tuple[int, int, int]) -> Tensor:
    """Images `(N, C, H, W)` as `(N, *image_size)`, made to fit as any picture is; as they are where they fit."""
    if tuple(images.shape[1:]) == image_size:
        return images
    sources = (image.permute(1, 2, 0) for image in images)  # (C, H, W) -> (H, W, C)
    return read_images(sources, [str(i) for i in range(len(images))], image_size, place="memory")[0]


# -- torchvision ---------------------------------------------------------------------------------------------------------


def read_torchvision(name: str, data_dir: Path | None, download: bool, image_size: tuple[int, int, int] | None) -> Raw:
    """A data set of `datasets.TORCHVISION`, from its official files as torchvision lays them out below `data_dir`.

    Raises:
        DataError: torchvision cannot read or download it, or a package is missing.
    """
    facts = TORCHVISION[name]
    size = image_size or facts.image_size
    parts, labels = [], facts.labels
    for train in (True, False):
        opened = _open_torchvision(facts, data_dir or default_data_dir(), train, download)
        images, targets = _tensors(facts, opened)
        parts.append((fitted(images, size), targets))
        labels = labels or tuple(opened.classes)
    if facts.variant == "letters":
        labels = labels[1:]  # torchvision calls the class 0, which there is not, N/A
    ordered = bool((parts[0][1].diff() >= 0).all())
    return Raw(name, facts.title, facts.licence, facts.homepage, labels, *parts, shuffle=ordered)


def _open_torchvision(facts: TorchvisionSet, data_dir: Path, train: bool, download: bool) -> Any:
    from torchvision import datasets

    arguments: dict[str, Any] = dict(train=train)
    if facts.reader == "SVHN":
        arguments = dict(split="train" if train else "test")
    if facts.variant:
        arguments["split"] = facts.variant
    try:
        with quiet_unless_watched(), kept_if_used(data_dir) if download else contextlib.nullcontext():
            return getattr(datasets, facts.reader)(str(data_dir), download=download, **arguments)
    except Exception as e:  # a damaged file raises whatever its format's reader does
        advice = (
            f"Go online and try again, or put its official files (see {facts.homepage}) there."
            if download
            else "Pass the folder that holds them as data_dir= (--data-dir, CNNZOO_DATA_DIR), or let them be downloaded or "
            "unpacked: download=True (--download)."
        )
        raise DataError(
            f"{facts.title} cannot be read from {data_dir} ({_reason(e)}). Its official files are needed, in the same "
            f"folders as torchvision has them. {advice}"
        ) from e


def _reason(e: Exception) -> str:
    """The first line of what a library says, less its own advice."""
    lines = str(e).strip().splitlines() or [type(e).__name__]
    return lines[0].split(". You can use")[0].rstrip(".:")


def _tensors(facts: TorchvisionSet, opened: Any) -> tuple[Tensor, Tensor]:
    """Images `(N, C, H, W)` and labels `(N,)` of one of torchvision's objects, each of which has a layout of its own."""
    images = torch.as_tensor(opened.data)
    targets = torch.as_tensor(opened.labels if facts.reader == "SVHN" else opened.targets, dtype=torch.int64)
    if facts.reader == "EMNIST":
        images = images.transpose(1, 2)  # the files hold columns first
    if facts.reader == "QMNIST":
        targets = targets[:, 0]  # the rest is who wrote it
    if facts.variant == "letters":
        targets = targets - 1  # a is 1 in the files
    if images.dim() == 3:
        images = images.unsqueeze(1)  # (N, H, W) -> (N, 1, H, W)
    elif facts.reader.startswith("CIFAR"):
        images = images.permute(0, 3, 1, 2)  # (N, H, W, C) -> (N, C, H, W)
    return images.contiguous(), targets


# -- the Hugging Face Hub ------------------------------------------------------------------------------------------------


def read_hub(
    name: str, data_dir: Path | None, download: bool, image_size: tuple[int, int, int] | None, skip_broken: bool
) -> Raw:
    """The data set `hfds/ORG/NAME` through timm's reader; without a test split a fifth of each class is it.

    Raises:
        DataError: The package datasets is missing, the data set is not there, or an image cannot be read.
    """
    repo = name.removeprefix("hfds/")
    readers = open_hub(repo, data_dir, download)
    values = {split: list(reader.iter_targets()) for split, reader in readers.items()}
    for split, labels in values.items():
        if (odd := next((v for v in labels if not isinstance(v, (int, str))), 0)) != 0:
            raise DataError(
                f"The {split} split of {repo} has {str(odd)[:60]} among its labels; one class for each image, a number or a "
                "text, is needed. Choose a data set for image classification."
            )
    classes = readers["train"].class_to_idx
    if classes:
        index = {i: i for i in classes.values()}
    else:
        found = sorted(set(values["train"]), key=lambda v: (isinstance(v, str), v))
        index = {v: i for i, v in enumerate(found)}
        classes = {str(v): i for v, i in index.items()}
    parts = {}
    for split, reader in readers.items():
        if strangers := {str(v) for v in values[split] if v not in index}:
            raise DataError(
                f"The {split} split of {repo} has the label {sorted(strangers)[0]}; its classes are {', '.join(classes)}. "
                "Choose a data set whose splits have the same labels."
            )
        names = [f"image {i} ({split})" for i in range(len(reader))]
        size, place = image_size or (1, 28, 28), f"the {split} split of {repo}"
        images, good = read_images(_HubImages(reader), names, size, place=place, skip_broken=skip_broken)
        parts[split] = (images, torch.tensor([index[values[split][i]] for i in good], dtype=torch.int64))
    if "test" not in parts:
        images, labels = parts["train"]
        divided = divide(labels.tolist(), [str(i) for i in range(len(labels))])
        parts = {k: (images[i], labels[i]) for k, i in zip(("train", "test"), divided, strict=True)}
    tag = name.replace("/", "--")
    page = f"https://huggingface.co/datasets/{repo}"
    return Raw(tag, repo, "see its homepage", page, tuple(classes), parts["train"], parts["test"], shuffle=True)


class _HubImages(Sequence):
    """The files of a reader's images, opened as they are asked for."""

    def __init__(self, reader: Any) -> None:
        self.reader = reader

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, index: int) -> io.BytesIO:
        if index >= len(self):
            raise IndexError(index)
        try:
            with self.reader[index][0] as file:
                return io.BytesIO(file.read())
        except (OSError, TypeError, AssertionError):  # no image in this row, or its file is gone
            return io.BytesIO()  # which is listed among the broken ones


def open_hub(repo: str, data_dir: Path | None, download: bool) -> dict[str, Any]:
    """timm's readers of a data set's training split and, if it has one, its test split."""
    if importlib.util.find_spec("datasets") is None:
        raise DataError(f'hfds/{repo} needs the package datasets, which is not installed. Type: pip install "cnnzoo[data]"')
    import datasets
    from timm.data.readers import create_reader

    root = None if data_dir is None else str(data_dir)
    with quiet_unless_watched(), contextlib.nullcontext() if download else _offline():
        try:
            tables = datasets.load_dataset(repo, cache_dir=root)
        except Exception as e:  # of the network, the Hub, pyarrow, or the data set's own
            raise DataError(
                f"hfds/{repo} cannot be read ({_reason(e)}). Allowed is a data set of the Hub, hfds/ORG/NAME. Check its "
                "name, or let it be downloaded: download=True (--download)."
            ) from e
        if "train" not in tables:
            raise DataError(
                f"{repo} has the splits {', '.join(tables)}; a split named train is needed. Choose another data set."
            )
        columns = tables["train"].features
        images = [k for k, v in columns.items() if isinstance(v, datasets.Image)]
        labels = [k for k, v in columns.items() if isinstance(v, datasets.ClassLabel)]
        labels += [k for k in ("label", "labels") if k in columns]
        if not images or not labels:
            raise DataError(
                f"{repo} has the columns {', '.join(columns)}; a column of images and one of labels are needed. Choose a "
                "data set for image classification."
            )
        splits = {"train": "train"}
        # Of some sets, ImageNet's among them, the labels of the test split are secret: all of them are -1 or missing.
        tests = [k for k in TEST_NAMES if k in tables and any(v not in (-1, None) for v in tables[k][labels[0]])]
        if tests:
            splits["test"] = tests[0]
        return {
            k: create_reader(f"hfds/{repo}", root, split, input_key=images[0], target_key=labels[0])
            for k, split in splits.items()
        }


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    # Neither datasets nor timm's reader has an argument for it, and both libraries read their switch at every request.
    import datasets.config
    import huggingface_hub.constants

    switches = (datasets.config, huggingface_hub.constants)
    before = [module.HF_HUB_OFFLINE for module in switches]
    try:
        for module in switches:
            module.HF_HUB_OFFLINE = True
        yield
    finally:
        for module, value in zip(switches, before, strict=True):
            module.HF_HUB_OFFLINE = value
