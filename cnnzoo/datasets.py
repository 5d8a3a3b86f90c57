"""Facts about each data set, and nothing else: no torch, no files, no network. The one home of every constant."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import DataError, unknown


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """What is known of a data set: of Fashion-MNIST before opening it, of the others once `data.load_splits` has read them.

    Those others have no `folder`, `files`, `unpacked` or `mirrors`.

    Attributes:
        name: The name in checkpoint tags, such as `fashion_mnist`; `data.load_split` takes it, and it suits a file name.
        title: The name as people write it.
        folder: Folder below the data directory; torchvision's own layout, so its copies are found.
        files: File name to md5 of the compressed files, in the order train images, train labels, test images, test labels.
        unpacked: The md5 of the same four files unpacked, for copies whose archives were deleted.
        mirrors: Addresses that serve `files`, tried in this order.
        image_size: Channels, height, width.
        mean, std: Per channel, over the training images scaled to [0, 1].
        labels: Class names, by class index.
        num_train, num_test: Images in each split.
        holdout: Training images at the end of the training split that choices are made on.
        licence, homepage: Where the data come from and what may be done with them.
    """

    name: str
    title: str
    folder: str
    files: dict[str, str]
    unpacked: dict[str, str]
    mirrors: tuple[str, ...]
    image_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    labels: tuple[str, ...]
    num_train: int
    num_test: int
    holdout: int
    licence: str
    homepage: str


FASHION_MNIST = DatasetInfo(
    name="fashion_mnist",
    title="Fashion-MNIST",
    folder="FashionMNIST/raw",
    files={
        "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
    },
    unpacked={
        "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
        "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
        "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    },
    mirrors=(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
    ),
    image_size=(1, 28, 28),
    mean=(0.2860,),
    std=(0.3530,),
    labels=(
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
        "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    ),
    num_train=60_000,
    num_test=10_000,
    holdout=5_000,
    licence="MIT",
    homepage="https://github.com/zalandoresearch/fashion-mnist",
)  # fmt: skip

DATASETS = {d.name: d for d in (FASHION_MNIST,)}
HUB_IDS = {FASHION_MNIST.name: "zalando-datasets/fashion_mnist"}  # what the Hugging Face Hub calls them

# What a run notes of its data, under `data` in its metrics.json. The rest says where files come from.
_RECORDED = (
    "name", "title", "image_size", "mean", "std", "labels", "num_train", "num_test", "holdout", "licence", "homepage",
)  # fmt: skip


def record(info: DatasetInfo, image_size: tuple[int, int, int]) -> dict[str, Any]:
    """What a checkpoint has to know of its data, as JSON holds it.

    Args:
        info: The data set.
        image_size: Channels, height and width that the model got its images in.
    """
    return {k: getattr(info, k) for k in _RECORDED} | dict(image_size=image_size)


def from_record(recorded: Mapping[str, Any]) -> DatasetInfo:
    """The facts that `record` noted; those of files are empty.

    Raises:
        DataError: One is missing, or of the wrong kind.
    """
    try:
        fields = {k: tuple(recorded[k]) if isinstance(recorded[k], list) else recorded[k] for k in _RECORDED}
        rows = fields["labels"], fields["mean"], fields["std"], fields["image_size"]
        texts = fields["name"], fields["title"], fields["licence"], fields["homepage"], *fields["labels"]
        counts = fields["num_train"], fields["num_test"], fields["holdout"], *fields["image_size"]
        numbers = (*fields["mean"], *fields["std"])
        kinds = ((rows, tuple), (texts, str), (counts, int), (numbers, (int, float)))
        if wrong := [v for values, kind in kinds for v in values if not isinstance(v, kind)]:
            raise TypeError(f"{wrong[0]!r} in it")
        channels = fields["image_size"][0]
        if len(fields["image_size"]) != 3 or not len(fields["mean"]) == len(fields["std"]) == channels:
            raise ValueError(f"image_size {fields['image_size']} with a mean of {len(fields['mean'])} channels")
    except (KeyError, IndexError, TypeError, ValueError) as e:
        raise DataError(
            f"The record of a data set is incomplete ({type(e).__name__}: {e}). Needed are {', '.join(_RECORDED)}. Train "
            "the run again, or build the folder again."
        ) from e
    return DatasetInfo(folder="", files={}, unpacked={}, mirrors=(), **fields)


@dataclass(frozen=True, kw_only=True)
class TorchvisionSet:
    """What is known of a data set that torchvision reads. Counts, mean and std are found out when it is read.

    Attributes:
        title, licence, homepage: As in `DatasetInfo`.
        reader: The class in `torchvision.datasets`.
        variant: Which of EMNIST's six parts; empty for the rest.
        image_size: Channels, height, width to read it into; it is converted where its own differ.
        labels: Class names, by class index; empty where torchvision's own are good.
    """

    title: str
    reader: str
    variant: str = ""
    image_size: tuple[int, int, int] = (1, 28, 28)
    labels: tuple[str, ...] = ()
    licence: str
    homepage: str


_DIGITS = tuple("0123456789")
_EMNIST = ("balanced", "byclass", "bymerge", "digits", "letters", "mnist")

TORCHVISION = {
    "mnist": TorchvisionSet(
        title="MNIST", reader="MNIST", labels=_DIGITS, licence="CC BY-SA 3.0", homepage="http://yann.lecun.com/exdb/mnist/"
    ),
    "kmnist": TorchvisionSet(
        title="Kuzushiji-MNIST", reader="KMNIST", licence="CC BY-SA 4.0", homepage="https://github.com/rois-codh/kmnist"
    ),
    "qmnist": TorchvisionSet(
        title="QMNIST", reader="QMNIST", labels=_DIGITS, licence="BSD-3-Clause",
        homepage="https://github.com/facebookresearch/qmnist",
    ),
    **{
        f"emnist_{variant}": TorchvisionSet(
            title=f"EMNIST {variant}", reader="EMNIST", variant=variant, licence="not stated",
            homepage="https://www.nist.gov/itl/products-and-services/emnist-dataset",
        )
        for variant in _EMNIST
    },
    # 16x16 pixels, and the models take 28x28 or more.
    "usps": TorchvisionSet(
        title="USPS", reader="USPS", labels=_DIGITS, licence="not stated",
        homepage="https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/multiclass.html#usps",
    ),
    "cifar10": TorchvisionSet(
        title="CIFAR-10", reader="CIFAR10", image_size=(3, 32, 32), licence="not stated",
        homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
    ),
    "cifar100": TorchvisionSet(
        title="CIFAR-100", reader="CIFAR100", image_size=(3, 32, 32), licence="not stated",
        homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
    ),
    "svhn": TorchvisionSet(
        title="SVHN", reader="SVHN", image_size=(3, 32, 32), labels=_DIGITS, licence="non-commercial use only",
        homepage="http://ufldl.stanford.edu/housenumbers/",
    ),
}  # fmt: skip


def get_dataset_info(name: str) -> DatasetInfo:
    """Facts about the data set called `name`, one of those that are known before they are read.

    Raises:
        UnknownNameError: There is no such data set; the message lists what there is.
    """
    if name not in DATASETS:
        raise unknown("data set", name, DATASETS)
    return DATASETS[name]


def facts(metrics: dict[str, Any], recipe: dict[str, Any]) -> DatasetInfo:
    """What a run or a checkpoint folder says of its data; of older ones, what is known of their data set.

    Raises:
        DataError: What was noted is not whole.
        UnknownNameError: Nothing was noted, and the data set is none that is known before it is read.
    """
    if "data" in metrics:
        return from_record(metrics["data"])
    return get_dataset_info(recipe["dataset"])


def trained_on(tag: str) -> str:
    """The data set that a checkpoint's tag names, as `<dataset>` or `<variant>_<dataset>`; any other tag is its own."""
    known, (variant, _, rest) = {*DATASETS, *TORCHVISION, "folder"}, tag.partition("_")
    if tag in known or not re.fullmatch("[a-z0-9]+", variant):  # names of the Hub may have such an end too
        return tag
    return rest if rest in known or rest.startswith("hfds--") else tag
