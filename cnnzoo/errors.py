"""The exceptions that users may want to catch.

Every message has three parts: what was given, what is allowed, and what to type instead. All of them are
`ValueError`s, so code that knows nothing of cnnzoo still catches them.
"""

import difflib
from collections.abc import Iterable


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
        listed = "Allowed: " + ", ".join(names) + "."
    else:
        listed = f"There are {len(names)} to choose from."
    return UnknownNameError(f"Unknown {kind} {given!r}. {listed}{' ' + hint if hint else ''}")
