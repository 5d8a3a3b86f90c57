"""The exceptions that users may want to catch.

Every message has three parts: what was given, what is allowed, and what to type instead. All of them are
`ValueError`s, so code that knows nothing of cnnzoo still catches them.
"""

import contextlib
import difflib
import errno
import os
from collections.abc import Iterable, Iterator


class CnnzooError(ValueError):
    """Base of every error that cnnzoo raises on purpose."""


class UnknownNameError(CnnzooError):
    """A model, tag, data set, recipe or field that does not exist."""


class InputError(CnnzooError):
    """An image, tensor or batch that no model can take."""


class DataError(CnnzooError):
    """A data set file that is missing, truncated, altered or unreadable."""


class CheckpointError(CnnzooError):
    """Weights or a training checkpoint that are missing, damaged or not what they claim to be."""


class HubError(CnnzooError):
    """The Hugging Face Hub cannot be reached, refuses, or has not got what was asked for."""


class TrainingError(CnnzooError):
    """A run that cannot go on, because its loss is not finite."""


class ExportError(CnnzooError):
    """An exported file that cannot be opened, or does not do what the model does."""


def unknown(kind: str, given: str, allowed: Iterable[str], *, hint: str = "") -> UnknownNameError:
    """Builds the error for an unknown name, with the closest allowed names.

    Args:
        kind: What the name names, such as `"model"`.
        given: The name as the user typed it.
        allowed: Every name that would have been accepted.
        hint: A command or call that lists the allowed names.
    """
    names = sorted(allowed)
    close = difflib.get_close_matches(given, names, n=3, cutoff=0.5)
    if close:
        listed = "Did you mean " + " or ".join(close) + "?"
    elif len(names) <= 12:
        listed = "Allowed: " + ", ".join(name or "''" for name in names) + "."
    else:
        listed = f"There are {len(names)} to choose from."
    return UnknownNameError(f"Unknown {kind} {given!r}. {listed}{' ' + hint if hint else ''}")


_ADVICE = {
    errno.ENAMETOOLONG: "Use a shorter name.",
    errno.ENOENT: "Check the name.",
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "Free some space, or choose another place."),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "Check the permissions, or choose another place."),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "Close some files, or allow more: ulimit -n."),
}


def from_system(e: OSError) -> CnnzooError:
    """What the operating system refused, as one line: which file, why, and what to do."""
    place = f"{shown_path(e.filename)} cannot be used" if e.filename is not None else "The system refused something"
    reason = " ".join((e.strerror or str(e) or type(e).__name__).split())
    return CnnzooError(f"{place} ({reason}). {_ADVICE.get(e.errno or 0, 'Choose another place.')}")


@contextlib.contextmanager
def system_errors() -> Iterator[None]:
    """Inside the block, or the function that it decorates, what the system refuses is a `CnnzooError`."""
    try:
        yield
    except OSError as e:
        if e.errno == errno.EPIPE:  # the reader of a pipe has gone, which is nobody's fault
            raise
        raise from_system(e) from e
    except RuntimeError as e:  # pathlib's, for links that go in a circle, and for ~ without a home
        if "Symlink loop" in str(e):
            raise from_system(OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(e).partition("'")[2].rstrip("'"))) from e
        if "home directory" not in str(e):
            raise
        raise CnnzooError("~ was given, but this user has no home folder. Write the path in full, or set HOME.") from e


def on_one_line(text: str) -> str:
    """The text with what cannot be printed, such as line breaks and bytes that are no text, as the escapes of Python."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)


def shown_path(path: object) -> str:
    """A path as a message shows it: on one line, not too long, and readable where its bytes are no text."""
    text = on_one_line(os.fsdecode(path) if isinstance(path, (str, bytes, os.PathLike)) else str(path))
    return text if len(text) <= 200 else f"{text[:90]}...{text[-90:]}"
