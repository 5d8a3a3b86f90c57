"""Reading only what ends, and writing files so that a reader never sees half of one."""

import contextlib
import errno
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from .errors import CnnzooError, shown_path, system_errors


def user_path(path: str | os.PathLike) -> Path:
    """A path as users mean it: `~` is their home folder, also where no shell has seen it, as in `--out=~/run` and in Python.

    Raises:
        CnnzooError: There is no such home folder.
    """
    with system_errors():
        return Path(path).expanduser()


def absolute(path: str | os.PathLike) -> Path:
    """A user's path from the root on, without `..`: it means the same however far of it exists.

    Raises:
        CnnzooError: There is no such home folder.
    """
    return Path(os.path.abspath(user_path(path)))


def discard(path: Path) -> None:
    """Deletes a file; of a link, such as those of the Hub client's cache, also the file that it leads to.

    Raises:
        OSError: It cannot be deleted.
    """
    while path.is_symlink():  # into blobs/, and from there perhaps to where several repositories share a blob
        link, path = path, path.parent / os.readlink(path)
        link.unlink()
    path.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Gives a temporary path beside `path`; on success what was written there replaces `path`, on failure nothing stays.

    Where `path` is a link to a file, that file is replaced.

    Raises:
        CnnzooError: There is something at `path` that is no file, or the disk is full, or the folder cannot be written to;
            `path` is as it was.
    """
    path = user_path(path)
    temporary: Path | None = None
    try:
        check_replaceable(path)
        path = Path(os.path.realpath(path)) if path.is_symlink() else path
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:40]}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with open(temporary, "rb+") as f:
            os.fsync(f.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp and safetensors write 0600
        os.replace(temporary, path)
    except Exception as e:
        if not _is_write_failure(e):
            raise
        reason = (isinstance(e, OSError) and e.strerror) or " ".join(str(e).split())[:200]
        raise CnnzooError(
            f"{shown_path(path)} could not be written ({reason}). Free some space, or choose a folder that you can write "
            "to. Nothing was changed."
        ) from e
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def open_file(path: str | Path) -> BinaryIO:
    """Opens a file to read its bytes; what is no file, such as a pipe, is not waited for.

    Raises:
        OSError: It is no file, or the system refuses to read it.
    """
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # of a folder the system says so itself
        raise OSError(errno.EINVAL, f"it is a {_kind(mode)}, not a file", os.fspath(path))
    return open(path, "rb")


def read_bytes(path: str | Path) -> bytes:
    """The content of a file, see `open_file`."""
    with open_file(path) as f:
        return f.read()


@contextlib.contextmanager
def kept_if_used(folder: Path) -> Iterator[None]:
    """Makes a folder, and those above it that are not there. At the end it removes those that it made and that hold no file.

    Raises:
        OSError: The system refuses to make one.
    """
    made = [folder] * (not folder.exists())
    made += [above for above in folder.parents if not above.exists()] if made else []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        # What is deeper comes first. Others may work here at the same time: unlike rglob, os.walk passes over what is gone
        # meanwhile, and a name with a dot in front is a scratch folder of theirs, which may be empty for a moment.
        inside = [Path(path) for path, _, _ in os.walk(folder, topdown=False)] if made else []
        for one in [path for path in inside if not path.name.startswith(".")] + made:
            with contextlib.suppress(OSError):  # it is not empty, or gone
                one.rmdir()


class _Enough(Exception):
    """Ends the block of `atomic` before it replaces anything."""


def check_writable(path: str | Path) -> None:
    """Sees that `atomic` could write a file at `path`, before what takes long is done for it. Nothing is written there.

    Raises:
        CnnzooError: As `atomic`.
    """
    with contextlib.suppress(_Enough), atomic(path):
        raise _Enough


def check_replaceable(path: Path) -> None:
    """Refuses what must not be replaced by a file: only a file may be, or nothing at all.

    Raises:
        CnnzooError: It is a folder, a device, a pipe or a socket.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        raise CnnzooError(
            f"{shown_path(path)} is a {_kind(mode)}; only a file can be replaced. Choose a file, or a new name."
        )


def _kind(mode: int) -> str:
    return {stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}.get(stat.S_IFMT(mode), "device")


def _is_write_failure(e: Exception) -> bool:
    """Whether the system refused to write: torch says so by a RuntimeError, safetensors by an error of its own."""
    foreign = isinstance(e, RuntimeError) or type(e).__module__.startswith("safetensors")
    words = ("write", "No space", "PytorchStreamWriter", "unexpected pos", "os error")
    return isinstance(e, OSError) or (foreign and any(word in str(e) for word in words))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


_DEEP, _LONG = 100, 40  # levels of nesting and digits of a whole number, far more than any file of ours has


def parse_json(content: str | bytes) -> Any:
    """What a JSON text holds, which may be a stranger's.

    Raises:
        ValueError: It is no JSON, or nested deeper, or has longer numbers, than what computes with it can bear.
    """

    def whole(digits: str) -> int:
        if len(digits) > _LONG:
            raise ValueError(f"a whole number of {len(digits):,} digits")
        return int(digits)

    try:
        found = json.loads(content, parse_int=whole)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    level = [found]
    for _ in range(_DEEP):
        inner = [v.values() if isinstance(v, dict) else v for v in level if isinstance(v, (dict, list))]
        if not inner:
            return found
        level = [v for values in inner for v in values]
    raise ValueError("nested too deeply")


def write_json(path: str | Path, content: dict) -> None:
    """Writes a JSON object, two-space indented, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
