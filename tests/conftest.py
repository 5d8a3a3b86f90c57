"""Fixtures and settings of the whole suite."""

import os

# Before anything imports the Hub client.
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["DO_NOT_TRACK"] = "1"
# Before anything imports torch: the tests run side by side, one process per core, and their models are small.
os.environ["OMP_NUM_THREADS"] = "1"

import socket
from pathlib import Path

import pytest
import torch
from helpers import write_miniature
from hypothesis import HealthCheck, settings

from cnnzoo import data, datasets

# The same examples in every run: what fails once fails again.
settings.register_profile(
    "cnnzoo", deadline=None, derandomize=True, max_examples=20, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("cnnzoo")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--accept", action="store_true", help="rewrite tests/golden.csv, cards, and the README's tables")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """What writes files does so in one process."""
    if config.getoption("accept"):
        config.option.numprocesses, config.option.dist = 0, "no"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, so that no process works alone at the end."""
    items.sort(key=lambda item: item.get_closest_marker("xdist_group") is None)


@pytest.fixture(scope="session")
def fashion_mnist_dir() -> Path:
    """The data directory with the real Fashion-MNIST; tests that need it carry the marker `data` and are skipped without."""
    info = datasets.FASHION_MNIST
    folder = data.default_data_dir()
    absent = [name for name in info.files if not (folder / info.folder / name).is_file()]
    if absent:
        pytest.skip(f"the real Fashion-MNIST is not in {folder} ({', '.join(absent)} absent); set CNNZOO_DATA_DIR")
    return folder


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes every connection and every name look-up fail at once, loopback included."""

    def refuse(*args, **kwargs):
        raise OSError(f"a test that must stay offline tried the network: {args[-1:]}")

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)  # it would hide an attempt
    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("getaddrinfo", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)


@pytest.fixture
def tiny_split() -> data.Split:
    """Forty random images with random labels, for what needs a split and not a data set."""
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (40, 1, 28, 28), generator=generator).to(torch.uint8)
    labels = torch.randint(0, 10, (40,), generator=generator)
    return data.Split(pixels, labels, datasets.FASHION_MNIST)


@pytest.fixture
def miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, datasets.DatasetInfo]:
    """A data directory with a few images in the real format, and their facts, known to the package as `miniature`."""
    data_dir = tmp_path / "data"
    info = write_miniature(data_dir)
    monkeypatch.setitem(datasets.DATASETS, info.name, info)
    return data_dir, info
