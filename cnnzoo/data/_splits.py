"""Data sets from their official files: found or fetched, checked against their md5, kept as tensors."""

import contextlib
import gzip
import hashlib
import io
import os
import struct
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ..datasets import DatasetInfo
from ..errors import DataError
from ..files import kept_if_used, read_bytes

SPLITS = ("train", "fit", "holdout", "test")


@dataclass(frozen=True)
class Split:
    """Images and labels of one split, in memory.

    `split[3]` is one image `(C, H, W)` and its label, as of torch's data sets, so that a `DataLoader` takes a split. A slice
    or a tensor of indices gives a smaller split.

    Attributes:
        images: uint8, `(N, C, H, W)`.
        labels: int64, `(N,)`.
        info: Facts about the data set.
        names: What the images are called, for pictures from a folder: their files, below it. Empty where they have no names.
    """

    images: Tensor
    labels: Tensor
    info: DatasetInfo
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int | slice | Tensor) -> "Split | tuple[Tensor, int]":
        if hasattr(index, "__index__") and not (isinstance(index, Tensor) and index.dim()):
            return self.images[index], int(self.labels[index])
        chosen = torch.arange(len(self), device=self.labels.device)[index].tolist() if self.names else ()
        names = tuple(self.names[i] for i in chosen)
        return replace(self, images=self.images[index], labels=self.labels[index], names=names)

    def to(self, device: torch.device | str) -> "Split":
        """The same split on another device."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))


def named_data_dir() -> Path | None:
    """The folder that `CNNZOO_DATA_DIR` names; None if it is not set, or empty."""
    given = os.environ.get("CNNZOO_DATA_DIR")
    return Path(given).expanduser() if given else None


def default_data_dir() -> Path:
    """`CNNZOO_DATA_DIR` if set, else `cnnzoo` in the user's cache folder."""
    if given := named_data_dir():
        return given
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "cnnzoo"


def read_official(info: DatasetInfo, split: str, data_dir: Path, download: bool) -> Split:
    """One split of a data set whose files and md5s are known, every file checked; see `load_split`."""
    folder = data_dir / info.folder
    names = list(info.files)[2:] if split == "test" else list(info.files)[:2]
    if download:
        fetch(info, folder, names)
    images = _read_idx(info, folder, names[0])
    labels = _read_idx(info, folder, names[1])
    return part_of(Split(images.view(-1, *info.image_size), labels.long(), info), split)


def part_of(whole: Split, split: str) -> Split:
    """Of all training images those of `split`; anything but `"fit"` and `"holdout"` is the whole."""
    if split == "fit":
        return whole[: -whole.info.holdout]
    return whole[-whole.info.holdout :] if split == "holdout" else whole


def fetch(info: DatasetInfo, folder: Path, names: list[str]) -> None:
    """Downloads the missing ones of `names` into `folder`, trying each mirror in turn.

    Raises:
        DataError: No mirror delivered a file with the right md5, or the folder cannot be written to.
    """
    try:
        names = [n for n in names if not ((folder / n).is_file() or (folder / n.removesuffix(".gz")).is_file())]
        if names:
            with kept_if_used(folder):
                _download(info, folder, names)
    except OSError as e:
        raise _no_access(folder, e) from e


def _download(info: DatasetInfo, folder: Path, names: list[str]) -> None:
    from torchvision.datasets.utils import download_url

    for name in names:
        failures = []
        for mirror in info.mirrors:
            try:
                # In a place of its own until its md5 is known to be right, so that several may fetch it at a time.
                with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=folder) as scratch:
                    with quiet_unless_watched():
                        download_url(mirror + name, scratch, name, info.files[name])
                    os.replace(Path(scratch, name), folder / name)
                break
            except PermissionError as e:
                raise _no_access(folder, e) from e
            except (OSError, RuntimeError) as e:  # URLError is an OSError, a wrong md5 a RuntimeError
                failures.append(f"{mirror}: {e}")
        else:
            raise DataError(
                f"{name} of {info.title} could not be downloaded ({'; '.join(failures)}). Go online and try again, or put "
                f"the file (md5 {info.files[name]}, see {info.homepage}) into {folder}."
            )


def quiet_unless_watched() -> contextlib.AbstractContextManager:
    """Keeps foreign progress bars off a stderr that is no terminal: torchvision's has no switch."""
    return contextlib.nullcontext() if sys.stderr.isatty() else contextlib.redirect_stderr(io.StringIO())


def _no_access(folder: Path, e: OSError) -> DataError:
    return DataError(
        f"{folder} cannot be used ({e.strerror}). Choose another folder with data_dir= (--data-dir, CNNZOO_DATA_DIR)."
    )


def _read_idx(info: DatasetInfo, folder: Path, name: str) -> Tensor:
    """Images `(N, H, W)` or labels `(N,)` of one idx file, as uint8."""
    packed, plain = folder / name, folder / name.removesuffix(".gz")
    path, expected = packed, info.files[name]
    try:
        if plain.exists() and not packed.exists():
            path, expected = plain, info.unpacked[plain.name]
        raw = read_bytes(path)
    except (FileNotFoundError, NotADirectoryError) as e:
        raise DataError(
            f"{packed} of {info.title} is missing. Allowed is the official file, md5 {expected}. Pass the folder above "
            f"{info.folder} as data_dir= (--data-dir, CNNZOO_DATA_DIR), or let it be downloaded: download=True (--download)."
        ) from e
    except OSError as e:
        raise DataError(f"{path} cannot be read ({e.strerror}). Check its permissions or choose another data_dir.") from e
    found = hashlib.md5(raw, usedforsecurity=False).hexdigest()
    if found != expected:
        raise DataError(
            f"{path} is not the official file: its md5 is {found}, expected {expected} ({len(raw):,} bytes found). It is "
            f"truncated or altered; delete it and download it again, or put the right one into {folder}."
        )
    content = bytearray(gzip.decompress(raw) if path == packed else raw)
    dims = content[3]
    shape = struct.unpack(f">{dims}I", content[4 : 4 + 4 * dims])  # the md5 was right, so the header is too
    return torch.frombuffer(content, dtype=torch.uint8, offset=4 + 4 * dims).view(shape)
