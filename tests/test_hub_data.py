"""Data sets of the Hugging Face Hub, through timm's reader."""

import importlib.util
import io
import socket
from pathlib import Path

import pytest
from helpers import grays
from PIL import Image

from cnnzoo.data import _sources, load_split, load_splits
from cnnzoo.errors import DataError


class FakeReader:
    """What the code uses of timm's `ReaderHfds`."""

    def __init__(self, files: list, labels: list, classes: tuple[str, ...] = ()) -> None:
        self.files, self.labels = files, labels
        self.class_to_idx = {name: i for i, name in enumerate(classes)}

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple:
        if self.files[index] is None:
            raise TypeError("what timm's reader does where a row has no image")
        return io.BytesIO(self.files[index]), self.labels[index]

    def iter_targets(self):
        return iter(self.labels)


def png(value: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (30, 30), (value,) * 3).save(file, "PNG")
    return file.getvalue()


def use_readers(monkeypatch, **readers: FakeReader) -> None:
    monkeypatch.setattr(_sources, "open_hub", lambda repo, data_dir, download: readers)


def test_a_hub_data_set_comes_through_timms_reader(monkeypatch):
    """With a stand-in for timm's reader, which needs the package datasets; the tests below use the real one."""
    train = FakeReader([png(i) for i in range(40)], [i // 20 for i in range(40)], ("cat", "dog"))
    use_readers(monkeypatch, train=train, test=FakeReader([png(100 + i) for i in range(4)], [1, 0, 1, 0], ("cat", "dog")))
    read, holdout, test = load_splits("hfds/zoo/pets", ("train", "holdout", "test"))
    assert sorted(grays(read)) == list(range(40))
    assert all((value >= 20) == label for value, label in zip(grays(read), read.labels.tolist(), strict=True))
    assert sorted(holdout.labels.tolist()) == [0, 0, 1, 1]
    assert grays(test) == [100, 101, 102, 103] and test.labels.tolist() == [1, 0, 1, 0]
    assert read.info.labels == ("cat", "dog") and read.info.title == "zoo/pets"
    assert load_split(read.info.name).info == read.info and "/" not in read.info.name


def test_a_hub_data_set_without_class_names_or_test_split_gets_both(monkeypatch):
    """With a stand-in for timm's reader."""
    use_readers(monkeypatch, train=FakeReader([png(i) for i in range(20)], [7 + 3 * (i % 2) for i in range(20)]))
    train, test = load_splits("hfds/zoo/pets", ("train", "test"))
    assert train.info.labels == ("7", "10")
    assert sorted(grays(train) + grays(test)) == list(range(20))
    assert test.labels.bincount().tolist() == [2, 2]


def test_what_is_wrong_with_a_hub_data_set_is_said(monkeypatch):
    """With a stand-in for timm's reader."""
    good = FakeReader([png(i) for i in range(10)], ["x", "y"] * 5)
    use_readers(monkeypatch, train=good, test=FakeReader([png(1)], ["z"]))
    with pytest.raises(DataError, match="test split of zoo/pets has the label z; its classes are x, y"):
        load_split("hfds/zoo/pets")
    use_readers(monkeypatch, train=FakeReader([png(1)] * 3 + [b"", None], ["x", "y", "x", "x", "y"]))
    words = r"2 of 5 images in the train split of zoo/pets.*image 3 \(train\), image 4 \(train\)"
    with pytest.raises(DataError, match=words):
        load_split("hfds/zoo/pets")


@pytest.mark.parametrize("odd", [None, [0, 1], 0.5])
def test_a_row_without_one_class_is_refused(monkeypatch, odd):
    """With a stand-in for timm's reader."""
    use_readers(monkeypatch, train=FakeReader([png(1)] * 4, [0, 1, odd, 1]))
    with pytest.raises(DataError, match="train split of zoo/pets has .* among its labels; one class for each image"):
        load_split("hfds/zoo/pets")


def test_without_the_package_the_error_names_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"hfds/zoo/pets.*datasets.*pip install .cnnzoo\[data\]"):
        load_split("hfds/zoo/pets")


@pytest.fixture
def hub_folder(tmp_path) -> Path:
    """A local data set in the Hub's format: parquet files with an image column and a class column."""
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(dict(picture=datasets.Image(), kind=datasets.ClassLabel(names=["cat", "dog"])))
    folder = tmp_path / "pets"
    (folder / "data").mkdir(parents=True)
    for split, count in dict(train=20, validation=6).items():
        rows = dict(picture=[dict(bytes=png(i), path=None) for i in range(count)], kind=[i % 2 for i in range(count)])
        table = datasets.Dataset.from_dict(rows, features=features)
        table.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    return folder


def test_a_real_data_set_of_the_hub_format_is_read(hub_folder, tmp_path, no_network):
    train, test = load_splits(f"hfds/{hub_folder}", ("train", "test"), data_dir=tmp_path / "cache")
    assert train.info.labels == ("cat", "dog")
    assert sorted(grays(train)) == list(range(20))
    assert all(value % 2 == label for value, label in zip(grays(train), train.labels.tolist(), strict=True))
    assert grays(test) == list(range(6))
    colour = load_split(f"hfds/{hub_folder}", data_dir=tmp_path / "cache", image_size=(3, 32, 32))
    assert colour.images.shape == (6, 3, 32, 32)


def test_a_test_split_whose_labels_are_secret_gives_way_to_the_one_for_validation(hub_folder, tmp_path, no_network):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(dict(picture=datasets.Image(), kind=datasets.ClassLabel(names=["cat", "dog"])))
    rows = dict(picture=[dict(bytes=png(200), path=None)] * 3, kind=[-1] * 3)
    datasets.Dataset.from_dict(rows, features=features).to_parquet(hub_folder / "data" / "test-00000-of-00001.parquet")
    test = load_split(f"hfds/{hub_folder}", data_dir=tmp_path / "cache")
    assert grays(test) == list(range(6))


def test_a_hub_data_set_is_not_fetched_unless_asked(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    tried = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: tried.append(args))
    with pytest.raises(DataError, match="hfds/zoo/pets cannot be read.*download=True"):
        load_split("hfds/zoo/pets", data_dir=tmp_path)
    assert not tried
    assert not datasets.config.HF_HUB_OFFLINE
