"""Data sets beside Fashion-MNIST, read from small files that are written here in each one's real format."""

import bz2
import gzip
import hashlib
import io
import pickle
import struct
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from helpers import idx_bytes
from hypothesis import example, given, strategies as st
from scipy import io as matlab

from cnnzoo.data import SPLITS, _load, _sources, create_transform, load_split, load_splits, normalize, open_image
from cnnzoo.datasets import TORCHVISION, trained_on
from cnnzoo.errors import CnnzooError, DataError, UnknownNameError

TRAIN, TEST = 40, 12


@pytest.mark.parametrize("name", [*TORCHVISION, "fashion_mnist", "folder"])
def test_a_checkpoints_tag_names_its_data_with_or_without_a_variant(name):
    assert trained_on(name) == trained_on(f"textbook_{name}") == name
    theirs = f"hfds--org--my_{name}"  # whose name has the same end
    assert trained_on(theirs) == trained_on(f"textbook_{theirs}") == theirs


@pytest.mark.parametrize("tag", ["custom", "hfds--me--cats", "textbook_custom", ""])
def test_a_tag_of_data_that_the_package_does_not_know_is_its_own(tag):
    assert trained_on(tag) == tag


def noise(count: int, *size: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, *size), generator=generator).to(torch.uint8)


def turns(count: int, classes: int) -> torch.Tensor:
    """Labels that take turns, so that no order in the file looks like one by class."""
    return torch.arange(count).remainder(classes)


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


# -- torchvision's sets, written in their formats ------------------------------------------------------------------------


def write_idx(data_dir: Path, monkeypatch, reader: str) -> list[tuple]:
    """MNIST's four files, packed as they are served."""
    folder = data_dir / reader / "raw"
    folder.mkdir(parents=True)
    parts = [(noise(n, 28, 28, seed=n), turns(n, 10)) for n in (TRAIN, TEST)]
    resources = []
    for stem, (images, labels) in zip(("train", "t10k"), parts, strict=True):
        for kind, values in (("images-idx3", images), ("labels-idx1", labels.to(torch.uint8))):
            content = gzip.compress(idx_bytes(values))
            (folder / f"{stem}-{kind}-ubyte.gz").write_bytes(content)
            resources.append((f"{stem}-{kind}-ubyte.gz", md5(content)))
    monkeypatch.setattr(getattr(torchvision.datasets, reader), "resources", resources)
    return [(images[:, None], labels) for images, labels in parts]


def write_qmnist(data_dir: Path, monkeypatch) -> list[tuple]:
    """Labels are eight big-endian numbers each, of which the first is the class."""
    folder = data_dir / "QMNIST" / "raw"
    folder.mkdir(parents=True)
    resources, parts = {}, []
    for part, n in (("train", TRAIN), ("test", TEST)):
        images, labels = noise(n, 28, 28, seed=n), turns(n, 10)
        rows = torch.stack([labels, *[labels + 11 + i for i in range(7)]], 1).numpy().astype(">i4")
        files = {
            f"qmnist-{part}-images-idx3-ubyte.gz": idx_bytes(images),
            f"qmnist-{part}-labels-idx2-int.gz": bytes([0, 0, 12, 2]) + struct.pack(">2I", n, 8) + rows.tobytes(),
        }
        resources[part] = []
        for name, content in files.items():
            packed = gzip.compress(content)
            (folder / name).write_bytes(packed)
            resources[part].append((f"http://127.0.0.1:9/{name}", md5(packed)))
        parts.append((images[:, None], labels))
    monkeypatch.setattr(torchvision.datasets.QMNIST, "resources", resources)
    return parts


def write_emnist(data_dir: Path, monkeypatch, variant: str, classes: int, first: int = 0) -> list[tuple]:
    """One zip of packed idx files; pixels are stored by columns."""
    folder = data_dir / "EMNIST" / "raw"
    folder.mkdir(parents=True)
    parts = []
    with zipfile.ZipFile(folder / "gzip.zip", "w") as archive:
        for part, n in (("train", 2 * classes), ("test", classes)):
            images, labels = noise(n, 28, 28, seed=n), turns(n, classes)
            stem = f"gzip/emnist-{variant}-{part}"
            archive.writestr(f"{stem}-images-idx3-ubyte.gz", gzip.compress(idx_bytes(images.transpose(1, 2))))
            stored = (labels + first).to(torch.uint8)
            archive.writestr(f"{stem}-labels-idx1-ubyte.gz", gzip.compress(idx_bytes(stored)))
            parts.append((images[:, None], labels))
    monkeypatch.setattr(torchvision.datasets.EMNIST, "md5", md5((folder / "gzip.zip").read_bytes()))
    return parts


def write_cifar(data_dir: Path, monkeypatch, classes: int) -> list[tuple]:
    """Pickled batches in a tar.gz: rows of 3,072 bytes, red first."""
    reader = getattr(torchvision.datasets, f"CIFAR{classes}")
    train, test = [(noise(n, 3, 32, 32, seed=n), turns(n, classes)) for n in (2 * classes, classes)]
    key = "labels" if classes == 10 else "fine_labels"
    names = [f"class {i}" for i in range(classes)]
    pieces = torch.arange(len(train[1])).chunk(len(reader.train_list))
    contents = {name: (train[0][piece], train[1][piece]) for (name, _), piece in zip(reader.train_list, pieces, strict=True)}
    contents[reader.test_list[0][0]] = test
    files = {
        name: pickle.dumps({"data": images.reshape(len(images), -1).numpy(), key: labels.tolist()})
        for name, (images, labels) in contents.items()
    }
    files[reader.meta["filename"]] = pickle.dumps({reader.meta["key"]: names})
    data_dir.mkdir(parents=True)
    with tarfile.open(data_dir / reader.filename, "w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"{reader.base_folder}/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    monkeypatch.setattr(reader, "tgz_md5", md5((data_dir / reader.filename).read_bytes()))
    monkeypatch.setattr(reader, "train_list", [[name, md5(files[name])] for name, _ in reader.train_list])
    monkeypatch.setattr(reader, "test_list", [[name, md5(files[name])] for name, _ in reader.test_list])
    monkeypatch.setattr(reader, "meta", dict(reader.meta, md5=md5(files[reader.meta["filename"]])))
    return [train, test]


def write_svhn(data_dir: Path, monkeypatch) -> list[tuple]:
    """MATLAB files, height x width x channels x images; the class 0 is stored as 10."""
    data_dir.mkdir(parents=True)
    listed, parts = {}, []
    for part, n in (("train", TRAIN), ("test", TEST)):
        images, labels = noise(n, 3, 32, 32, seed=n), turns(n, 10)
        path = data_dir / f"{part}_32x32.mat"
        stored = torch.where(labels == 0, 10, labels).to(torch.uint8)
        matlab.savemat(path, dict(X=images.permute(2, 3, 1, 0).numpy(), y=stored[:, None].numpy()))
        listed[part] = ["http://127.0.0.1:9/", path.name, md5(path.read_bytes())]
        parts.append((images, labels))
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", listed)
    return parts


def write_usps(data_dir: Path, monkeypatch) -> list[tuple]:
    """Lines of `label index:value`, labels from 1, values from -1 to 1."""
    data_dir.mkdir(parents=True)
    parts = []
    for name, n in (("usps.bz2", TRAIN), ("usps.t.bz2", TEST)):
        images, labels = noise(n, 16, 16, seed=n), turns(n, 10)
        values = ((images.double() + 0.5) / 127.5 - 1).clamp(max=1).flatten(1).tolist()
        lines = [
            " ".join([str(k + 1), *(f"{i + 1}:{v:.6f}" for i, v in enumerate(row))])
            for k, row in zip(labels.tolist(), values, strict=True)
        ]
        (data_dir / name).write_bytes(bz2.compress("\n".join(lines).encode() + b"\n"))
        parts.append((images[:, None], labels))
    return parts


LETTERS = tuple("abcdefghijklmnopqrstuvwxyz")
DIGITS = tuple("0123456789")
BALANCED = (*DIGITS, *(k.upper() for k in LETTERS), *"abdefghnqrt")
WRITTEN = {
    "mnist": (lambda d, m: write_idx(d, m, "MNIST"), DIGITS),
    "kmnist": (lambda d, m: write_idx(d, m, "KMNIST"), ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")),
    "qmnist": (write_qmnist, DIGITS),
    "emnist": (lambda d, m: write_emnist(d, m, "balanced", 47), BALANCED),
    "emnist/letters": (lambda d, m: write_emnist(d, m, "letters", 26, first=1), LETTERS),
    "cifar10": (lambda d, m: write_cifar(d, m, 10), tuple(f"class {i}" for i in range(10))),
    "cifar100": (lambda d, m: write_cifar(d, m, 100), tuple(f"class {i}" for i in range(100))),
    "svhn": (write_svhn, DIGITS),
    "usps": (write_usps, DIGITS),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_what_torchvision_reads_comes_as_it_was_written(name, tmp_path, monkeypatch, no_network):
    write, labels = WRITTEN[name]
    data_dir = tmp_path / "data"
    written = write(data_dir, monkeypatch)
    # The archives are there, so that to download is to unpack; after that there is nothing left to download.
    size = (1, 16, 16) if name == "usps" else None
    for download in (True, False):
        read = load_splits(name, ("train", "test"), data_dir=data_dir, download=download, image_size=size)
        for split, (images, targets) in zip(read, written, strict=True):
            assert split.images.dtype == torch.uint8 and split.images.is_contiguous()
            assert torch.equal(split.images, images)
            assert split.labels.dtype == torch.int64
            assert torch.equal(split.labels, targets)
    info = read[0].info
    assert info.labels == labels
    assert info.image_size == tuple(written[0][0].shape[1:])
    assert (info.num_train, info.num_test, info.holdout) == (len(read[0]), len(read[1]), len(read[0]) // 10)
    assert read[1].info == info
    assert load_split(info.name, data_dir=data_dir, image_size=size).info == info  # the name in a tag leads back
    assert not set(info.name) & set("/.")


@pytest.mark.parametrize("name", [*TORCHVISION, "emnist"])
def test_a_set_that_is_not_there_is_named_with_its_place_and_how_to_get_it(name, tmp_path, no_network):
    title = TORCHVISION[name if name != "emnist" else "emnist_balanced"].title
    with pytest.raises(DataError) as e:
        load_split(name, data_dir=tmp_path / "data")
    assert all(part in str(e.value) for part in (title, str(tmp_path / "data"), "data_dir=", "download=True"))
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(("name", "site"), [("cifar10", r"cs\.toronto\.edu"), ("emnist", "nist"), ("svhn", "stanford")])
def test_without_a_network_a_download_says_to_go_online_and_leaves_no_folder(tmp_path, no_network, name, site):
    with pytest.raises(DataError, match=rf"cannot be read.*Go online.*{site}"):
        load_split(name, data_dir=tmp_path / "new/data", download=True)
    assert not list(tmp_path.iterdir())


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


DAMAGED = {
    "mnist": "MNIST/raw/t10k-images-idx3-ubyte",
    "emnist": "EMNIST/raw/emnist-balanced-train-labels-idx1-ubyte",
    "cifar10": "cifar-10-batches-py/data_batch_3",
    "usps": "usps.t.bz2",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_truncated_file_is_an_error_of_ours(name, tmp_path, monkeypatch):
    WRITTEN[name][0](tmp_path / "data", monkeypatch)
    load_split(name, data_dir=tmp_path / "data", download=True)
    cut(tmp_path / "data" / DAMAGED[name])
    with pytest.raises(DataError, match=f"{tmp_path / 'data'}"):
        load_split(name, data_dir=tmp_path / "data")


def test_labels_beyond_the_classes_are_refused(tmp_path, monkeypatch):
    write_emnist(tmp_path, monkeypatch, "letters", 26, first=2)
    with pytest.raises(DataError, match="labels of EMNIST letters go from 1 to 26; allowed is 0 to 25"):
        load_split("emnist/letters", data_dir=tmp_path, download=True)


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(UnknownNameError, match="'cifar11'.*cifar10"):
        load_split("cifar11")
    with pytest.raises(UnknownNameError, match="emnist_greek"):
        load_split("emnist/greek")
    with pytest.raises(UnknownNameError, match="hfds/"):
        load_split("hfds/")


# -- sizes, statistics, holdout ------------------------------------------------------------------------------------------


def test_a_set_of_its_own_size_is_converted_on_request(tmp_path, monkeypatch):
    [(_, _), (images, _)] = write_cifar(tmp_path / "data", monkeypatch, 10)
    kwargs = dict(data_dir=tmp_path / "data", download=True)
    split = load_split("cifar10", image_size=(1, 28, 28), **kwargs)
    transform = create_transform(timm.create_model("lenet_tiny", device="meta"))
    expected = torch.stack([transform(open_image(image, 3)) for image in images])
    torch.testing.assert_close(normalize(split.images, (0.2860,), (0.3530,)), expected)
    assert split.info.image_size == (1, 28, 28) and len(split.info.mean) == 1
    assert load_split("cifar10", image_size=20, **kwargs).info.image_size == (3, 20, 20)  # one number is both sides
    for bad in ((28, 28), (2, 28, 28), (1, 0, 28), (1, 28.0, 28), 0, -3, 28.0, True):
        with pytest.raises(CnnzooError, match=r"image_size=.*\(1, 28, 28\)"):
            load_split("cifar10", image_size=bad, **kwargs)


def test_usps_is_scaled_up_to_what_the_models_take(tmp_path, monkeypatch):
    write_usps(tmp_path / "data", monkeypatch)
    assert load_split("usps", data_dir=tmp_path / "data").images.shape == (TEST, 1, 28, 28)


def test_fashion_mnists_kind_keeps_its_facts_unless_it_is_converted(miniature):
    data_dir, info = miniature
    assert load_split("miniature", data_dir=data_dir, image_size=(1, 28, 28)).info is info
    with pytest.warns(UserWarning, match="imbalanced"):  # it has 40 images of random classes
        train = load_split("miniature", "train", data_dir=data_dir, image_size=(3, 32, 32))
    assert train.images.shape == (40, 3, 32, 32)
    assert train.info.image_size == (3, 32, 32) and train.info.labels == info.labels


@given(st.integers(1, 9), st.sampled_from([1, 3]), st.integers(1, 7), st.integers(1, 7), st.integers(0, 2**31))
def test_mean_and_std_are_numpys(count, chans, height, width, seed):
    images = noise(count, chans, height, width, seed=seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_load, "_CHUNK", 4)
        mean, std = _load.mean_std(images)
    scaled = images.numpy().astype(np.float64) / 255
    np.testing.assert_allclose(mean, scaled.mean((0, 2, 3)), atol=1e-6)
    expected = scaled.std((0, 2, 3))
    np.testing.assert_allclose(std, np.where(expected == 0, 1, expected), atol=1e-6)


def test_every_split_is_normalised_by_the_training_images(tmp_path, monkeypatch):
    [(images, _), _] = write_cifar(tmp_path / "data", monkeypatch, 10)
    read = load_splits("cifar10", data_dir=tmp_path / "data", download=True)
    scaled = images.numpy() / 255
    for split in read:
        np.testing.assert_allclose(split.info.mean, scaled.mean((0, 2, 3)), atol=1e-6)
        np.testing.assert_allclose(split.info.std, scaled.std((0, 2, 3)), atol=1e-6)
    train, fit, holdout, _ = read
    assert torch.equal(torch.cat([fit.images, holdout.images]), train.images)
    assert [load_split("cifar10", s, data_dir=tmp_path / "data").labels.tolist() for s in SPLITS] == [
        split.labels.tolist() for split in read
    ]


labels_of_classes = st.lists(st.integers(0, 6), min_size=1, max_size=80)


@given(labels_of_classes)
@example([0] * 40 + [1] * 40)
def test_the_mixed_order_is_a_fixed_permutation_whose_every_tail_has_its_share_of_each_class(labels):
    order = _load.mixed(torch.tensor(labels))
    assert sorted(order.tolist()) == list(range(len(labels)))
    assert torch.equal(order, _load.mixed(torch.tensor(labels)))
    total = Counter(labels)
    for length in range(len(labels) + 1):
        tail = Counter(torch.tensor(labels)[order][len(labels) - length :].tolist())
        for label, count in total.items():
            assert abs(tail[label] - count * length / len(labels)) <= 1 + count * len(total) / len(labels)


@given(labels_of_classes)
def test_dividing_is_a_fixed_partition_with_a_fifth_of_each_class_for_testing(labels):
    names = [f"{i}.png" for i in range(len(labels))]
    train, test = _sources.divide(labels, names)
    assert sorted(train + test) == list(range(len(labels)))
    assert (train, test) == _sources.divide(labels, names)
    tested = Counter(labels[i] for i in test)
    for label, count in Counter(labels).items():
        assert tested[label] == (count // 5 if count >= 5 else int(count > 1))


@given(st.integers(1, 60), st.integers(1, 20))
def test_an_image_that_was_trained_on_is_tested_on_later_only_where_the_fifth_needs_one_more(before, added):
    names = [f"{i}.png" for i in range(before + added)]
    old, new = (_sources.divide([0] * count, names[:count]) for count in (before, before + added))
    assert len(set(old[0]) & set(new[1])) <= len(new[1]) - len(old[1])


def test_a_set_that_comes_by_class_is_mixed_before_its_end_is_held_out(tmp_path, monkeypatch):
    monkeypatch.setattr("test_sources.turns", lambda count, classes: torch.arange(count) * classes // count)
    write_cifar(tmp_path / "data", monkeypatch, 10)
    train, holdout = load_splits("cifar10", ("train", "holdout"), data_dir=tmp_path / "data", download=True)
    assert sorted(train.labels.tolist()) == sorted([*range(10)] * 2)
    assert len(set(holdout.labels.tolist())) == len(holdout) == 2
