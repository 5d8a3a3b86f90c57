"""Any data set by its name: read, checked, counted, and cut into splits."""

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..datasets import DATASETS, TORCHVISION, DatasetInfo
from ..errors import CnnzooError, DataError, system_errors, unknown
from ..files import user_path
from ._folder import read_folder
from ._sources import Raw, by_lot, fitted, read_hub, read_torchvision
from ._splits import SPLITS, Split, default_data_dir, named_data_dir, part_of, read_official

_SEED = 0
_CHUNK = 10_000  # images that are counted at a time
_IMBALANCE = 5  # times as many images of one class as of another, from which on a warning is due


def load_split(
    name: str = "fashion_mnist",
    split: str = "test",
    *,
    data_dir: str | Path | None = None,
    download: bool = False,
    image_size: int | tuple[int, int, int] | None = None,
    skip_broken: bool = False,
) -> Split:
    """Reads one split of a data set.

    `load_splits` reads several at the cost of one. It has the same arguments, and says more about each.

    Args:
        name: Of the data set: `"fashion_mnist"`, one of torchvision's (`"mnist"`, `"cifar10"`, ...), `"folder"`, or
            `"hfds/ORG/NAME"`.
        split: `"train"`, `"test"`, `"fit"` or `"holdout"`.
        data_dir: Folder of the data; `default_data_dir()` if None.
        download: Fetch what is missing.
        image_size: Channels (1 or 3), height and width to make of every image, or one number for both sides; the set's own
            if None.
        skip_broken: Leave out, with a warning, pictures that cannot be read.

    Returns:
        A `Split`: its `images` are uint8 `(N, C, H, W)`, its `labels` class indices `(N,)`, and its `info` has classes,
        counts, mean and std.

    Raises:
        UnknownNameError: There is no such data set or split.
        DataError: A file is missing, truncated, altered or unreadable.
        CnnzooError: `image_size` is none of these.
    """
    return load_splits(
        name, (split,), data_dir=data_dir, download=download, image_size=image_size, skip_broken=skip_broken
    )[0]  # fmt: skip


@system_errors()
def load_splits(
    name: str,
    splits: str | Sequence[str] = SPLITS,
    *,
    data_dir: str | Path | None = None,
    download: bool = False,
    image_size: int | tuple[int, int, int] | None = None,
    skip_broken: bool = False,
) -> tuple[Split, ...]:
    """Reads splits of a data set. Their `info` has its sizes, classes, mean and std.

    Args:
        name: One of

            - `fashion_mnist`: every file is checked against its md5.
            - `mnist`, `kmnist`, `qmnist`, `usps`, `cifar10`, `cifar100`, `svhn`, `emnist` (its balanced part; another is
              `emnist/letters`, say): through torchvision, which checks what it downloads and CIFAR's and SVHN's files.
            - `folder`: pictures of any size and mode in `data_dir/train/CLASS/` and `data_dir/test/CLASS/` (`val`, `valid`
              or `validation` will do), or in `data_dir/CLASS/` alone; then a fifth of each class is the test split. The
              names of the files draw the lots, so pictures keep their split when others are added; only where the fifth
              needs one more, it comes from those that were trained on. Classes are in the order of their names.
            - `hfds/ORG/NAME`: a data set of the Hugging Face Hub, through timm's reader and the package datasets.
        splits: `"train"` (all training images), `"test"`, or for making choices `"fit"` and `"holdout"`: the training images
            without the last 10 % (at most 5,000), and those. Where the training images come by class or from `folder` or
            `hfds`, they are first put into a fixed order that spreads each class evenly; the holdout may lack small classes.
        data_dir: Folder of the data, as torchvision lays it out (`FashionMNIST/raw`); `default_data_dir()` if None. For
            `folder` the pictures' own, which has to be named, here or by `CNNZOO_DATA_DIR`; for `hfds` the Hub's own cache.
        download: Fetch what is missing, or unpack it; nothing is fetched otherwise.
        image_size: Channels (1 or 3), height, width to make of every image as `create_transform` does, or one number for
            both sides; the set's own if None, and 1x28x28 for `folder`, `hfds` and USPS.
        skip_broken: Leave out, with a warning, pictures that cannot be read.

    Returns:
        A `Split` per name in `splits`. Mean and std are always those of `"train"`, so that `"fit"` is normalised alike.
        A warning tells if the largest class of the training images has more than 5 times the images of the smallest.

    Raises:
        UnknownNameError: There is no such data set or split.
        DataError: A file is missing, truncated, altered or unreadable; the message says which and where it belongs.
    """
    splits = (splits,) if isinstance(splits, str) else splits
    if strangers := [split for split in splits if split not in SPLITS]:
        raise unknown("split", strangers[0], SPLITS)
    name = _canonical(name)
    size = _checked_size(image_size, size_of(name))
    folder = user_path(data_dir) if data_dir else None
    if name in DATASETS and size in (None, DATASETS[name].image_size):
        return tuple(read_official(DATASETS[name], s, folder or default_data_dir(), download) for s in splits)
    if name in DATASETS:
        raw = _resized(DATASETS[name], folder or default_data_dir(), download, size)
    elif name in TORCHVISION:
        raw = read_torchvision(name, folder, download, size)
    elif name == "folder":
        raw = read_folder(folder or named_data_dir(), size, skip_broken)
    else:
        raw = read_hub(name, folder, download, size, skip_broken)
    train, test = _counted(raw)
    if {"train", "fit"} & set(splits):
        _warn_of_imbalance(train)
    return tuple(test if split == "test" else part_of(train, split) for split in splits)


def size_of(name: str) -> tuple[int, int, int] | None:
    """Channels, height and width of a data set's images; None for those that have no size of their own."""
    name = _canonical(name)
    known = DATASETS.get(name) or TORCHVISION.get(name)
    return known.image_size if known else None


def reading_size(name: str, image_size: tuple[int, int, int]) -> tuple[int, int, int]:
    """The size to read a data set's images at, for a model that takes `image_size`.

    Images that all have one size are read at that, and scaled batch by batch, as in training; others when they are read.
    """
    own = size_of(name)
    return image_size if own is None else (image_size[0], *own[1:])


def _canonical(name: str) -> str:
    """The one name of what may be called by several: with a slash as people write it, without as in a checkpoint's tag."""
    name = str(name)
    if name.startswith("hfds--"):
        name = name.replace("--", "/")
    if name.startswith("hfds/") and name != "hfds/":
        return name
    if name.startswith("emnist"):
        name = "emnist_balanced" if name == "emnist" else name.replace("/", "_")
        if name not in TORCHVISION:
            raise unknown("data set", name, [k for k in TORCHVISION if k.startswith("emnist")])
    known = [*DATASETS, *(k for k in TORCHVISION if not k.startswith("emnist_")), "emnist", "folder", "hfds/ORG/NAME"]
    if name not in known and name not in TORCHVISION:
        raise unknown("data set", name, known)
    return name


def _checked_size(image_size: int | Sequence[int] | None, own: tuple[int, int, int] | None) -> tuple[int, int, int] | None:
    """Channels, height and width; of one number it is both sides, with as many channels as the set has."""
    if image_size is None:
        return None
    if isinstance(image_size, int):
        size = (own[0] if own else 1, image_size, image_size)
    else:
        size = tuple(image_size) if isinstance(image_size, Iterable) else ()
    whole = all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in size)
    if len(size) != 3 or not whole or size[0] not in (1, 3):
        raise CnnzooError(
            f"image_size={image_size!r} was given; allowed is channels (1 or 3), height and width, or one whole number for "
            "both sides. For example, write (1, 28, 28), or 28."
        )
    return size


def _resized(info: DatasetInfo, data_dir: Path, download: bool, image_size: tuple[int, int, int]) -> Raw:
    parts = [read_official(info, split, data_dir, download) for split in ("train", "test")]
    train, test = ((fitted(p.images, image_size), p.labels) for p in parts)
    return Raw(info.name, info.title, info.licence, info.homepage, info.labels, train, test, shuffle=False)


def _counted(raw: Raw) -> tuple[Split, Split]:
    """The training and the test split of what was read, with all that is known of it."""
    for split, (images, labels) in dict(training=raw.train, test=raw.test).items():
        least = 2 if split == "training" else 1
        if len(images) < least or len(images) != len(labels):
            raise DataError(
                f"{raw.title} has {len(images)} {split} images and {len(labels)} labels; at least {least} are needed, and "
                "as many labels as images. Add images, or download the data again."
            )
        if labels.min() < 0 or labels.max() >= len(raw.labels):
            raise DataError(
                f"The {split} labels of {raw.title} go from {labels.min()} to {labels.max()}; allowed is 0 to "
                f"{len(raw.labels) - 1}. Download the data again, or choose a data set whose images are all labelled."
            )
    for label in map(str, raw.labels):  # they are written into files when training has ended
        if label != label.encode("utf-8", "replace").decode():
            raise DataError(
                f"{raw.title} has a class named {label!r}, which is not text in UTF-8. Rename it (for pictures of your own: "
                "its folder)."
            )
    images, labels = raw.train
    mean, std = mean_std(images)
    info = DatasetInfo(
        name=raw.name, title=raw.title, folder="", files={}, unpacked={}, mirrors=(),
        image_size=tuple(images.shape[1:]), mean=mean, std=std, labels=raw.labels,
        num_train=len(images), num_test=len(raw.test[0]), holdout=max(1, min(5_000, len(images) // 10)),
        licence=raw.licence, homepage=raw.homepage,
    )  # fmt: skip
    train = Split(images, labels, info, raw.names)
    if raw.shuffle:
        train = train[mixed(labels, by_lot(raw.names) if raw.names else None)]
    return train, Split(*raw.test, info, raw.test_names)


def mixed(labels: Tensor, order: Sequence[int] | None = None) -> Tensor:
    """An order of `labels` `(N,)` that spreads each class evenly from the first to the last.

    Within a class it is `order`; if None, a random one that is always the same.
    """
    if order is None:
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(_SEED))
    order = torch.as_tensor(order)
    place = torch.empty(len(labels), dtype=torch.float64)
    for label in labels.unique():
        members = (labels[order] == label).nonzero()[:, 0]
        place[members] = (torch.arange(len(members), dtype=torch.float64) + 0.5) / len(members)
    return order[place.argsort(stable=True)]


def mean_std(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of uint8 images `(N, C, H, W)`, scaled to [0, 1].

    They are exact up to the last rounding, since they come from how often each of the 256 values occurs. A channel that
    is the same everywhere gets 1 for its standard deviation, so that it can be divided by.
    """
    values = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for channel in range(images.shape[1]):
        counts = sum(part[:, channel].flatten().bincount(minlength=256) for part in images.split(_CHUNK))
        weights = counts.double() / counts.sum()
        mean = (weights * values).sum()
        means.append(round(mean.item(), 6))
        stds.append(round((weights * (values - mean) ** 2).sum().sqrt().item(), 6) or 1.0)
    return tuple(means), tuple(stds)


def _warn_of_imbalance(train: Split) -> None:
    counts = train.labels.bincount(minlength=len(train.info.labels))
    most, least = int(counts.argmax()), int(counts.argmin())
    if counts[most] > _IMBALANCE * counts[least]:
        names = train.info.labels
        warnings.warn(
            f"{train.info.title} is imbalanced: {names[most]} has {counts[most]:,} training images, {names[least]} "
            f"{counts[least]:,}.",
            stacklevel=3,
        )
