"""Writing files so that a reader never sees half of one."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .errors import CnnzooError


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Gives a temporary path beside `path`; on success what was written there replaces `path`, on failure nothing stays.

    Raises:
        CnnzooError: The disk is full, or the folder cannot be written to; `path` is as it was.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with open(temporary, "rb+") as f:
            os.fsync(f.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp and safetensors write 0600
        os.replace(temporary, path)
    except (OSError, RuntimeError) as e:  # torch.save reports a failed write as a RuntimeError
        if not isinstance(e, OSError) and not _is_write_failure(e):
            raise
        raise CnnzooError(
            f"{path} could not be written ({e}). Free some space or choose a folder you may write to; the file is as it was."
        ) from e
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _is_write_failure(e: RuntimeError) -> bool:
    return any(word in str(e) for word in ("write", "No space", "PytorchStreamWriter"))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_json(path: str | Path, content: dict) -> None:
    """Writes a JSON object, two-space indented, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
