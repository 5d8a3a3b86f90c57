"""Data sets: where they are looked for, how damage is reported, where they come from."""

import gzip
import hashlib
import http.server
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import idx_bytes, write_miniature
from torch.utils.data import DataLoader

from cnnzoo import data, datasets
from cnnzoo.data import _splits, load_split
from cnnzoo.errors import DataError, UnknownNameError

NAMES = list(datasets.FASHION_MNIST.files)


def raw(data_dir: Path) -> Path:
    return data_dir / "FashionMNIST" / "raw"


# -- where the files are looked for --------------------------------------------------------------------------------------


def test_the_data_directory_is_the_variable_then_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("CNNZOO_DATA_DIR", str(tmp_path / "set"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert data.default_data_dir() == tmp_path / "set"
    monkeypatch.delenv("CNNZOO_DATA_DIR")
    assert data.default_data_dir() == tmp_path / "cache" / "cnnzoo"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert data.default_data_dir() == tmp_path / "home" / ".cache" / "cnnzoo"
    monkeypatch.setenv("CNNZOO_DATA_DIR", "~/mine")
    assert data.default_data_dir() == tmp_path / "home" / "mine"


def test_the_argument_wins_over_the_variable_and_the_variable_over_the_cache(miniature, monkeypatch, tmp_path):
    data_dir, _ = miniature
    nowhere = tmp_path / "nowhere"
    monkeypatch.setenv("CNNZOO_DATA_DIR", str(nowhere))
    assert len(load_split("miniature", data_dir=data_dir)) == 12
    with pytest.raises(DataError, match=str(nowhere)):
        load_split("miniature")
    monkeypatch.setenv("CNNZOO_DATA_DIR", str(data_dir))
    monkeypatch.setenv("XDG_CACHE_HOME", str(nowhere))
    assert len(load_split("miniature")) == 12


# -- what is read --------------------------------------------------------------------------------------------------------


def test_the_splits_have_the_sizes_that_the_facts_promise(miniature):
    data_dir, info = miniature
    sizes = dict(train=info.num_train, fit=info.num_train - info.holdout, holdout=info.holdout, test=info.num_test)
    for name, size in sizes.items():
        split = load_split("miniature", name, data_dir=data_dir)
        assert len(split) == size
        assert split.images.shape == (size, *info.image_size)
        assert split.images.dtype == torch.uint8
        assert split.labels.shape == (size,)
        assert split.labels.dtype == torch.int64
    assert set(sizes) == set(data.SPLITS)


def test_fit_and_holdout_are_the_training_images_in_two_parts(miniature):
    train, fit, holdout = (load_split("miniature", name, data_dir=miniature[0]) for name in ("train", "fit", "holdout"))
    assert torch.equal(torch.cat([fit.images, holdout.images]), train.images)
    assert torch.equal(torch.cat([fit.labels, holdout.labels]), train.labels)


def test_unpacked_files_do_as_well_as_packed_ones(miniature):
    data_dir, _ = miniature
    packed = load_split("miniature", data_dir=data_dir)
    for path in raw(data_dir).iterdir():
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    unpacked = load_split("miniature", data_dir=data_dir)
    assert torch.equal(packed.images, unpacked.images)
    assert torch.equal(packed.labels, unpacked.labels)


def test_what_was_written_is_what_is_read(tmp_path, monkeypatch):
    pixels = torch.arange(2 * 28 * 28, dtype=torch.int64).remainder(251).to(torch.uint8).view(2, 28, 28)
    labels = torch.tensor([7, 3], dtype=torch.uint8)
    info = write_miniature(tmp_path)
    files = dict(info.files)
    for name, values in zip(NAMES[2:], (pixels, labels), strict=True):
        content = gzip.compress(idx_bytes(values))
        (raw(tmp_path) / name).write_bytes(content)
        files[name] = hashlib.md5(content).hexdigest()
    monkeypatch.setitem(datasets.DATASETS, "miniature", replace(info, files=files))
    split = load_split("miniature", data_dir=tmp_path)
    assert torch.equal(split.images[:, 0], pixels)
    assert split.labels.tolist() == [7, 3]


@pytest.mark.data
def test_the_real_data_set_is_what_its_facts_say(fashion_mnist_dir):
    info = datasets.FASHION_MNIST
    train = load_split("fashion_mnist", "train", data_dir=fashion_mnist_dir)
    test = load_split("fashion_mnist", "test", data_dir=fashion_mnist_dir)
    assert train.images.shape == (60_000, 1, 28, 28)
    assert test.images.shape == (10_000, 1, 28, 28)
    assert train.labels.bincount().tolist() == [6_000] * len(info.labels)
    assert test.labels.bincount().tolist() == [1_000] * len(info.labels)
    assert len(load_split("fashion_mnist", "fit", data_dir=fashion_mnist_dir)) == 55_000
    scaled = train.images.double() / 255
    assert round(scaled.mean().item(), 4) == info.mean[0]
    assert round(scaled.std().item(), 4) == info.std[0]


def test_a_split_is_a_data_set_of_torch(tiny_split):
    image, label = tiny_split[3]
    assert torch.equal(image, tiny_split.images[3]) and label == tiny_split.labels[3] and isinstance(label, int)
    batches = list(DataLoader(tiny_split, batch_size=16))
    assert torch.equal(torch.cat([images for images, _ in batches]), tiny_split.images)
    assert torch.equal(torch.cat([labels for _, labels in batches]), tiny_split.labels)
    assert len(tiny_split[torch.tensor([1, 2])]) == len(tiny_split[1:3]) == 2 and len(list(tiny_split)) == len(tiny_split)


def test_one_split_may_be_named_without_a_list(miniature):
    (one,) = data.load_splits("miniature", "test", data_dir=miniature[0])
    assert torch.equal(one.images, data.load_split("miniature", "test", data_dir=miniature[0]).images)


def test_unknown_data_sets_and_splits_are_refused_with_the_known_ones():
    with pytest.raises(UnknownNameError, match="fashionmnist.*fashion_mnist"):
        load_split("fashionmnist")
    with pytest.raises(UnknownNameError, match="Unknown data set '5'"):
        load_split(5)
    with pytest.raises(UnknownNameError, match="'validation'.*fit.*holdout.*test.*train"):
        load_split(split="validation")


# -- what is wrong with the files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("split", "index"), [("train", 0), ("holdout", 1), ("test", 2), ("test", 3)])
def test_a_missing_file_is_named_with_its_md5_its_place_and_how_to_get_it(miniature, split, index):
    data_dir, info = miniature
    path = raw(data_dir) / NAMES[index]
    path.unlink()
    with pytest.raises(DataError) as e:
        load_split("miniature", split, data_dir=data_dir)
    text = str(e.value)
    assert str(path) in text and "missing" in text
    assert info.files[path.name] in text, f"the md5 of {path.name} is {info.files[path.name]}, the message says: {text}"
    assert "data_dir=" in text and "CNNZOO_DATA_DIR" in text and "download=True" in text


def test_only_the_files_of_the_split_are_asked_for(miniature):
    data_dir, _ = miniature
    for name in NAMES[:2]:
        (raw(data_dir) / name).unlink()
    assert len(load_split("miniature", "test", data_dir=data_dir)) == 12


DAMAGE = dict(
    truncated=lambda content: content[:-20],
    altered=lambda content: content[:-3] + bytes([content[-3] ^ 1]) + content[-2:],
    empty=lambda content: b"",
    replaced=lambda content: b"<html>404</html>",
    appended=lambda content: content + b"\0",
)


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("index", [2, 3])
@pytest.mark.parametrize("unpacked", [False, True])
def test_a_damaged_file_is_named_with_both_md5s_and_its_place(miniature, kind, index, unpacked):
    data_dir, info = miniature
    path = raw(data_dir) / NAMES[index]
    if unpacked:
        content = gzip.decompress(path.read_bytes())
        path.unlink()
        path = path.with_suffix("")
        path.write_bytes(content)
    damaged = DAMAGE[kind](path.read_bytes())
    path.write_bytes(damaged)
    with pytest.raises(DataError) as e:
        load_split("miniature", data_dir=data_dir)
    expected = info.unpacked[path.name] if unpacked else info.files[path.name]
    for part in (str(path), expected, hashlib.md5(damaged).hexdigest(), "delete it", f"into {path.parent}"):
        assert part in str(e.value)
    assert path.read_bytes() == damaged  # reading never repairs


def test_a_file_that_cannot_be_read_is_named_with_the_reason(miniature):
    path = raw(miniature[0]) / NAMES[2]
    path.unlink()
    path.mkdir()
    with pytest.raises(DataError, match=rf"{path} cannot be read \(Is a directory\).*permissions.*data_dir"):
        load_split("miniature", data_dir=miniature[0])


@contextmanager
def forbidden(folder: Path) -> Iterator[None]:
    """Makes a folder inaccessible; root, whom modes do not bind, becomes nobody for the time."""
    root = os.geteuid() == 0
    folder.chmod(0)
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o755)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="this system has no file modes")
@pytest.mark.parametrize("download", [False, True])
def test_a_data_directory_without_permission_is_named(miniature, download):
    folder = raw(miniature[0])
    with forbidden(folder), pytest.raises(DataError) as e:
        load_split("miniature", data_dir=miniature[0], download=download)
    assert str(folder) in str(e.value)
    assert "data_dir" in str(e.value)


# -- downloading ---------------------------------------------------------------------------------------------------------


class Mirrors:
    """A web server on this machine: /absent answers 404, /corrupt wrong content, /short cuts off, /good the files."""

    def __init__(self, folder: Path) -> None:
        self.asked: list[str] = []
        asked = self.asked

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:  # noqa: N802
                if self.command == "GET":
                    asked.append(self.path)
                _, kind, name = self.path.split("/")
                if kind == "absent":
                    self.send_error(404)
                    return
                content = (folder / name).read_bytes()
                length = len(content)
                if kind == "corrupt":
                    content = bytes(length)
                elif kind == "short":
                    content = content[:-50]
                self.send_response(200)
                self.send_header("Content-Length", str(length))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(content)

            do_HEAD = do_GET  # noqa: N815

            def log_message(self, *args) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def address(self, kind: str) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/{kind}/"


@pytest.fixture
def mirrors(miniature, monkeypatch) -> Iterator[Mirrors]:
    """The miniature data set on a web server, and how to name its mirrors."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    served = Mirrors(raw(miniature[0]))
    yield served
    served.server.shutdown()
    served.server.server_close()


def use_mirrors(monkeypatch, mirrors: Mirrors, info: datasets.DatasetInfo, *kinds: str) -> None:
    addresses = tuple(mirrors.address(kind) for kind in kinds)
    monkeypatch.setitem(datasets.DATASETS, "miniature", replace(info, mirrors=addresses))


def test_mirrors_are_tried_in_turn_until_one_gives_the_right_file(miniature, mirrors, monkeypatch, tmp_path):
    data_dir, info = miniature
    use_mirrors(monkeypatch, mirrors, info, "absent", "corrupt", "short", "good", "absent")
    target = tmp_path / "new" / "folder"
    fetched = load_split("miniature", "test", data_dir=target, download=True)
    assert torch.equal(fetched.images, load_split("miniature", "test", data_dir=data_dir).images)
    tried = [(path.split("/")[1], path.split("/")[2]) for path in mirrors.asked]
    in_turn = list(dict.fromkeys(tried))
    # A mirror that said 404 to the look-up of redirects may not be asked again.
    wanted = [(kind, name) for name in NAMES[2:] for kind in ("absent", "corrupt", "short", "good")]
    assert [t for t in in_turn if t[0] != "absent"] == [w for w in wanted if w[0] != "absent"]
    assert not [t for t in tried if t[1] in NAMES[:2]]  # the test split needs no training files
    assert sorted(p.name for p in raw(target).iterdir()) == sorted(NAMES[2:])  # nothing partial


def test_three_may_download_into_one_folder_at_a_time(miniature, mirrors, monkeypatch, tmp_path):
    from torchvision.datasets import utils

    data_dir, info = miniature
    use_mirrors(monkeypatch, mirrors, info, "good")
    together = threading.Barrier(3, timeout=60)

    def downloaded(*args, real=utils.download_url):
        real(*args)
        together.wait()  # each of the three has its file before one of them goes on

    monkeypatch.setattr(utils, "download_url", downloaded)
    monkeypatch.setattr(_splits, "quiet_unless_watched", nullcontext)
    target = tmp_path / "new"
    with ThreadPoolExecutor(3) as pool:
        fetched = list(pool.map(lambda _: load_split("miniature", "test", data_dir=target, download=True), range(3)))
    expected = load_split("miniature", "test", data_dir=data_dir).images
    assert all(torch.equal(split.images, expected) for split in fetched)
    assert sorted(p.name for p in raw(target).iterdir()) == sorted(NAMES[2:])


def test_what_is_there_is_not_downloaded_again(miniature, mirrors, monkeypatch):
    data_dir, info = miniature
    use_mirrors(monkeypatch, mirrors, info, "good")
    load_split("miniature", data_dir=data_dir, download=True)
    assert not mirrors.asked
    (raw(data_dir) / NAMES[2]).with_suffix("").write_bytes(gzip.decompress((raw(data_dir) / NAMES[2]).read_bytes()))
    load_split("miniature", data_dir=data_dir, download=True)
    assert not mirrors.asked


def test_when_no_mirror_delivers_the_error_names_file_md5_place_and_every_mirror(miniature, mirrors, monkeypatch, tmp_path):
    _, info = miniature
    use_mirrors(monkeypatch, mirrors, info, "absent", "corrupt", "short")
    with pytest.raises(DataError) as e:
        load_split("miniature", data_dir=tmp_path / "new", download=True)
    folder = raw(tmp_path / "new")
    for part in (NAMES[2], info.files[NAMES[2]], str(folder), *map(mirrors.address, ("absent", "corrupt", "short"))):
        assert part in str(e.value)
    assert not (tmp_path / "new").exists()


def test_nothing_is_downloaded_unless_asked(miniature, no_network, tmp_path):
    with pytest.raises(DataError, match="missing.*download=True"):
        load_split("miniature", data_dir=tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_without_a_network_the_error_says_to_go_online_or_where_to_put_the_file(no_network, tmp_path):
    with pytest.raises(DataError, match="could not be downloaded.*Go online.*or put the file.*into"):
        load_split("fashion_mnist", data_dir=tmp_path / "new", download=True)
    assert not (tmp_path / "new").exists()


def test_a_data_directory_that_is_a_file_is_an_error_of_ours(miniature, mirrors, monkeypatch, tmp_path):
    use_mirrors(monkeypatch, mirrors, miniature[1], "good")
    (tmp_path / "file").write_text("")
    for download in (False, True):
        with pytest.raises(DataError, match=str(tmp_path / "file")):
            load_split("miniature", data_dir=tmp_path / "file", download=download)
