"""A user's own pictures: a folder per class."""

import os
from collections.abc import Iterator
from pathlib import Path

import torch

from ..datasets import DATASETS
from ..errors import DataError, shown_path, system_errors
from ..files import open_file, user_path
from ._images import read_images
from ._sources import TEST_NAMES, Raw, divide
from ._splits import default_data_dir

_TRAIN_NAMES = ("train", "training")
_CLUTTER = ("thumbs.db", "desktop.ini", "__macosx")  # what systems leave beside pictures


def read_folder(data_dir: Path | None, image_size: tuple[int, int, int] | None, skip_broken: bool) -> Raw:
    """Pictures in `train/CLASS/` and `test/CLASS/`, or in `CLASS/` alone; see `load_splits`.

    Raises:
        DataError: There are no classes, one is empty, test has one that train lacks, or a file is no image.
    """
    if data_dir is None:
        raise DataError(
            "The data set 'folder' was given without its folder. Pass it as data_dir= (--data-dir, CNNZOO_DATA_DIR)."
        )
    try:
        train_dir, test_dir = _layout(data_dir)
        files = _files(train_dir)
        tests = _files(test_dir) if test_dir else None
    except OSError as e:
        raise DataError(f"{e.filename} cannot be read ({e.strerror}). Check its name and permissions.") from e
    classes = sorted(files)
    if len(classes) < 2:
        raise DataError(
            f"{train_dir} has {len(classes)} class folders ({', '.join(classes) or 'none'}); at least two are needed. Put "
            "the pictures of each class into a folder of its name, CLASS/*.png."
        )
    if tests is not None and (strangers := sorted(set(tests) - set(files))):
        raise DataError(
            f"{test_dir} has classes that {train_dir} lacks: {', '.join(strangers)}. Allowed: {', '.join(classes)}. Name "
            "the folders the same in both."
        )
    train = [(path, classes.index(k)) for k in classes for path in files[k]]
    if tests is not None:
        test = [(path, classes.index(k)) for k in sorted(tests) for path in tests[k]]
    else:
        divided = divide([label for _, label in train], _names(train, data_dir))
        train, test = ([train[i] for i in part] for part in divided)
    size = image_size or (1, 28, 28)
    both = [*train, *test]
    names = _names(both, data_dir)
    images, good = read_images((path for path, _ in both), names, size, place=str(data_dir), skip_broken=skip_broken)
    labels = torch.tensor([both[i][1] for i in good], dtype=torch.int64)
    ours = sum(i < len(train) for i in good)
    counts = labels[:ours].bincount(minlength=len(classes)).tolist()
    if 0 in counts:
        raise DataError(
            f"None of the pictures of class {classes[counts.index(0)]} in {train_dir} can be read; at least one is needed. "
            "Export them again, or remove the class."
        )
    title = os.fsencode(data_dir.resolve().name).decode("utf-8", "backslashreplace")
    parts = (images[:ours], labels[:ours]), (images[ours:].clone(), labels[ours:])  # a view would keep all others
    known = tuple(names[i] for i in good)
    return Raw("folder", title, "not stated", "", tuple(classes), *parts, True, known[:ours], known[ours:])


@system_errors()
def labelled_files(root: str | Path) -> list[tuple[Path, str]]:
    """The pictures in `root/test/CLASS/` if there is such a folder, else in `root/CLASS/`, and their classes' names, sorted.

    Raises:
        DataError: There are none, or the folder cannot be read.
    """
    root = user_path(root)
    try:
        test = _parts(root)[1]  # train need not be there
        files = _files(test if test and _class_folders(test) else _layout(root)[0])
    except OSError as e:
        raise DataError(f"{e.filename} cannot be read ({e.strerror}). Check its name and permissions.") from e
    if not files:
        raise DataError(f"{root} has no class folders. Put the pictures of each class into a folder of its name.")
    return [(path, name) for name in sorted(files) for path in files[name]]


@system_errors()
def dataset_in(data_dir: str | Path, usual: str, download: bool = False) -> str:
    """The data set of a folder, where none was named: `"folder"` for pictures in `CLASS/` or `train/CLASS/`, else `usual`.

    Where the files of a data set lie that has a name, other pictures may lie beside them.

    Raises:
        DataError: There is no such folder, or it has neither, and `usual` is not to be downloaded into it.
    """
    root, info = user_path(data_dir), DATASETS.get(usual)
    if any((root / known.folder).is_dir() for known in DATASETS.values()):
        return usual
    if root.is_dir() and any(_is_picture(path) for entry in _class_folders(root) for path in _inside(entry)):
        return "folder"
    if download or info is None:
        return usual
    wrong = "has no pictures in class folders" if root.is_dir() else "is a file" if root.exists() else "does not exist"
    raise DataError(
        f"{shown_path(root)} was given for the data, but it {wrong}. Allowed is a folder in which the pictures of each "
        "class have a folder of its name, CLASS/*.png (or train/CLASS/*.png and test/CLASS/*.png), or one with "
        f"{info.folder} for {info.title}. Pass such a folder, or name another data set: --dataset."
    )


def _is_picture(path: Path) -> bool:
    """Whether a file is one by its ending, or, if it has none, by its first bytes."""
    from PIL import Image

    if path.suffix:
        return path.suffix.lower() in Image.registered_extensions() and path.is_file()
    try:
        with open_file(path) as file, Image.open(file):
            return True
    except Exception:  # each format's reader raises kinds of its own
        return False


def has_test_folder(data_dir: str | Path | None) -> bool:
    """Whether the pictures to test on lie in a folder of their own; else a fifth of each class is tested on.

    None means the folder that `CNNZOO_DATA_DIR` names.
    """
    return _layout(user_path(data_dir or default_data_dir()))[1] is not None


def _parts(root: Path) -> tuple[Path | None, Path | None]:
    """The folders that are called like those of training and of test classes."""
    folders = {p.name.lower(): p for p in _class_folders(root)}
    return tuple(next((folders[n] for n in names if n in folders), None) for names in (_TRAIN_NAMES, TEST_NAMES))


def _layout(root: Path) -> tuple[Path, Path | None]:
    """The folder of training classes, and that of test classes if it is another."""
    train, test = _parts(root)
    if train and test:
        return train, test
    # A class may well be called train, but then it has pictures and no classes of its own.
    for lone in filter(None, (train, test)):
        if _class_folders(lone):
            raise DataError(
                f"{root} has only the folder {lone.name}. Allowed are train and test (or {', '.join(TEST_NAMES[1:])}) side "
                f"by side, or class folders. Add the other one, or pass {lone} itself: then a fifth of it is for testing."
            )
    return root, None


def _refuse(e: OSError) -> None:
    """Of a folder that cannot be read: `os.walk` would pass over it."""
    raise e


def _class_folders(folder: Path) -> list[Path]:
    """The folders in a folder that are not hidden, sorted."""
    return [entry for entry in sorted(folder.iterdir()) if entry.is_dir() and not _hidden(entry.name)]


def _inside(folder: Path) -> Iterator[Path]:
    """All files at any depth that are not hidden."""
    seen = set()
    for place, inner, names in os.walk(folder, onerror=_refuse, followlinks=True):
        seen.add(os.path.realpath(place))
        # A link may lead back to where it is, which would go on for ever.
        inner[:] = [n for n in inner if not _hidden(n) and os.path.realpath(os.path.join(place, n)) not in seen]
        yield from (Path(place, n) for n in names if not _hidden(n))


def _files(folder: Path) -> dict[str, list[Path]]:
    """The files of each class, at any depth, sorted. All that is not hidden has to be an image: nothing is passed over."""
    found: dict[str, list[Path]] = {}
    for entry in _class_folders(folder):
        paths = sorted(_inside(entry))
        if not paths:
            raise DataError(
                f"The class folder {entry} is empty; at least one picture is needed. Add one, or remove the folder."
            )
        found[entry.name] = paths
    return found


def _hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _CLUTTER


def _names(files: list[tuple[Path, int]], root: Path) -> list[str]:
    """What each file is called below `root`."""
    return [path.relative_to(root).as_posix() for path, _ in files]
