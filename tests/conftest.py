"""Fixtures and settings of the whole suite."""

# ruff: noqa: E402 (the environment comes first)

import copy
import math
import os
import runpy
import socket
import tempfile
import threading
import time
from collections.abc import Iterator

# Before anything imports the Hub client, which reads these once. Nobody's token, cache or Hub takes part: the endpoint is a
# port of this process, where nothing listens until a test starts the Hub of loopback_hub.py.
_HUB_SOCKET = socket.socket()
_HUB_SOCKET.bind(("127.0.0.1", 0))
_HUB_HOME = tempfile.TemporaryDirectory(prefix="cnnzoo-hf-", ignore_cleanup_errors=True)
for _name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_DISABLE_XET"):
    os.environ.pop(_name, None)
os.environ.update(
    HF_ENDPOINT="http://{}:{}".format(*_HUB_SOCKET.getsockname()),
    HF_HOME=_HUB_HOME.name,
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_DISABLE_UPDATE_CHECK="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    DO_NOT_TRACK="1",
    NO_PROXY="127.0.0.1",
)
# No test uses a network, nor does a process that it starts.
_OFFLINE = os.path.join(os.path.dirname(__file__), "offline")
runpy.run_path(os.path.join(_OFFLINE, "sitecustomize.py"))
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [_OFFLINE, os.environ.get("PYTHONPATH")]))
# Before anything imports torch: the tests run side by side, one process per core, and their models are small.
os.environ["OMP_NUM_THREADS"] = "1"

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from contract_models import create
from helpers import MODELS, TINY, each, write_miniature
from hypothesis import HealthCheck, settings
from loopback_hub import LoopbackHub
from torch import nn

from cnnzoo import data, datasets, progress
from cnnzoo.recipes import Recipe

# The same examples in every run: what fails once fails again.
settings.register_profile(
    "cnnzoo", deadline=None, derandomize=True, max_examples=20, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("cnnzoo")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--accept", action="store_true", help="rewrite golden.csv, cards, the README's tables and picture")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """What writes files does so in one process."""
    if config.getoption("accept"):
        config.option.numprocesses, config.option.dist = 0, "no"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, so that no process works alone at the end."""
    items.sort(key=lambda item: item.get_closest_marker("xdist_group") is None)


@pytest.fixture(autouse=True, scope="module")
def no_lines_of_progress() -> Iterator[None]:
    """On a slow machine too, what a command prints has no such line in between."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "_EVERY", math.inf)
        yield


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


@pytest.fixture(scope="session")
def _loopback_hub(tmp_path_factory):
    hub = LoopbackHub(_HUB_SOCKET, tmp_path_factory.mktemp("xet"))
    yield hub
    hub.close()


@pytest.fixture
def server(_loopback_hub):
    """A Hub of the test's own; however the test ends, its CDN must not have seen a token."""
    _loopback_hub.reset()
    yield _loopback_hub
    _loopback_hub.over.set()
    for thread in threading.enumerate():  # a push that stalled goes on now, and must not reach the next test's Hub
        if thread.name == "cnnzoo-hub":
            thread.join(10)
    assert not [r for r in _loopback_hub.requests if r.server == "cdn" and r.token], "the CDN was sent a token"


@pytest.fixture(params=["lfs", "xet"])
def transport(request, monkeypatch):
    """Both ways that large files travel."""
    from huggingface_hub import constants

    if request.param == "xet":
        pytest.importorskip("hf_xet", reason="the Xet client is not installed, so large files travel by LFS only")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", request.param == "lfs")
    return request.param


@pytest.fixture
def brisk(monkeypatch):
    """Retries without the waits between them, large files by LFS, and pushes without the verification's fresh process."""
    from huggingface_hub import constants

    from cnnzoo import client
    from cnnzoo.hub import _push

    clock = SimpleNamespace(sleep=lambda seconds: None, time=time.time)
    for module in ("utils._http", "file_download"):
        monkeypatch.setattr(f"huggingface_hub.{module}.time", clock)
    monkeypatch.setattr(client, "_PAUSE", 0.001)
    monkeypatch.setattr(_push, "verify", lambda folder: None)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)


@pytest.fixture
def waits(monkeypatch):
    """The seconds that the Hub's client is given, call by call, before it is given up."""
    from cnnzoo import client, remote
    from cnnzoo.hub import _pull

    given = []

    def noted(seconds, *args, real=client.within):
        given.append(seconds)
        return real(seconds, *args)

    for module in (client, remote, _pull):
        monkeypatch.setattr(module, "within", noted)
    return given


@pytest.fixture
def quick(monkeypatch):
    """The reload of `hub.verify` without its process, which takes seconds."""
    import timm

    from cnnzoo.hub import _verify

    def reload(where):
        model = timm.create_model(f"local-dir:{where}", pretrained=True).eval()
        with torch.inference_mode():
            x = torch.randn(8, *model.pretrained_cfg["input_size"], generator=torch.Generator().manual_seed(0))
            return model(x).tolist()

    monkeypatch.setattr(_verify, "_reload", reload)


@pytest.fixture
def cache(tmp_path):
    """Where the Hub's client keeps what it downloads, empty."""
    return tmp_path / "cache"


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


@pytest.fixture
def recipe() -> Recipe:
    """A run of seconds on the data set of `miniature`."""
    return Recipe(model="lenet_tiny", **TINY)


# -- the contract's models -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=each(MODELS))
def shared(request: pytest.FixtureRequest) -> nn.Module:
    """Each model of the zoo in turn; a test must leave it as it is."""
    model = create(request.param)
    model.zoo_name = request.param
    return model


@pytest.fixture(scope="module")
def name(shared: nn.Module) -> str:
    return shared.zoo_name


@pytest.fixture
def model(shared: nn.Module) -> nn.Module:
    """A copy that the test may change."""
    return copy.deepcopy(shared)
