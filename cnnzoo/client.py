"""The Hub's client, with an end to every wait, retries where it has none, and errors that say what to do.

The client raises what its HTTP library raises, what its Xet library raises, and its own errors; many calls have no timeout.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from .errors import HubError
from .version import __version__

T = TypeVar("T")

# The base class of the HTTP library in use, which changes with the client's version; ReadError and the like are only that.
_HTTPError = next(c for c in HfHubHTTPError.__mro__ if c.__name__ == "HTTPError")
_PAUSE = 0.3  # seconds before the first retry, doubled for each one after it


class Unreachable(HubError):
    """There is no answer, or none but that the Hub is out of order."""


class Missing(HubError):
    """There is no such repository or revision, or none that the token may see."""


def within(seconds: float, doing: str, function: Callable[[], T]) -> T:
    """Runs `function` and waits for it at most so long; the client has calls that wait for ever.

    Raises:
        Unreachable: Time is up. What was running goes on in its thread, and ends with the process at the latest.
    """
    outcome: list[tuple[bool, Any]] = []

    def work() -> None:
        try:
            outcome.append((True, function()))
        except BaseException as e:  # given to the caller below
            outcome.append((False, e))

    thread = threading.Thread(target=work, name="cnnzoo-hub", daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise Unreachable(
            f"{doing} took longer than {seconds:g} s. Try again; push and pull wait longer with deadline=SECONDS."
        )
    good, value = outcome[0]
    if good:
        return value
    raise value


def pause(attempt: int) -> None:
    """Waits before the next attempt, each time longer."""
    time.sleep(_PAUSE * 2**attempt)


def status_of(e: BaseException) -> int | None:
    """The HTTP status that an exception reports, if it does."""
    return getattr(getattr(e, "response", None), "status_code", None)


def is_transient(e: BaseException) -> bool:
    """Whether the same call may well succeed when made again."""
    if isinstance(e, (OfflineModeIsEnabled, EntryNotFoundError)):
        return False
    status = status_of(e)
    if status is not None:
        return status in (408, 409, 412, 429) or status >= 500
    # "Consistency check failed" is how the client reports a body of the wrong length; errno is for the disk's errors.
    cut_short = type(e) is OSError and e.errno is None
    return isinstance(e, (_HTTPError, ConnectionError, TimeoutError)) or cut_short


@dataclass(frozen=True)
class Repository:
    """One repository as one user sees it. The token is passed on, and never shown."""

    repo_id: str
    token: str | bool | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.ask(validate_repo_id, self.repo_id)  # before anything is made for it

    @property
    def api(self) -> HfApi:
        return HfApi(token=self.token, library_name="cnnzoo", library_version=__version__)

    def ask(self, function: Callable[..., T], *args: Any, attempts: int = 1, **kwargs: Any) -> T:
        """Calls the client, again after transient failures.

        Raises:
            HubError: What the client raised, in words.
        """
        for attempt in range(attempts):
            try:
                return function(*args, **kwargs)
            except Exception as e:  # the libraries below have no common class
                if attempt == attempts - 1 or not is_transient(e):
                    # The chain is cut: a server that repeats the token in its answer must not get it into a traceback.
                    raise self.error(e, kwargs.get("revision")) from None
            pause(attempt)
        raise AssertionError

    def error(self, e: BaseException, revision: str | None = None) -> HubError:
        """What a failure of the client means, and what to do about it."""
        if isinstance(e, LocalEntryNotFoundError) and e.__cause__ is not None:
            e = e.__cause__  # the client's guess is "check your connection", whatever it was
        name, status = self.repo_id, status_of(e)
        if isinstance(e, HFValidationError):
            return HubError(f"{name!r} is not the name of a repository ({self._clean(e)}). Write ORG/NAME.")
        if isinstance(e, GatedRepoError):
            return HubError(f"{name} is gated, and the token's owner has no access. Ask for it on the Hub's page of {name}.")
        if isinstance(e, RevisionNotFoundError):
            return Missing(f"{name} has no revision {revision!r}. Pass one of its branches or tags, or a full commit.")
        if isinstance(e, RepositoryNotFoundError):
            return Missing(
                f"{name} does not exist, or it is private and {self._whose()} gives no access. Check the name; log in "
                "with hf auth login, or pass token=."
            )
        if status == 401:
            return HubError(f"The Hub does not accept {self._whose()}. Log in with hf auth login, or pass a valid token=.")
        if status == 403:
            return HubError(f"{self._whose().capitalize()} has no right to do this with {name} (403). Pass another token=.")
        if isinstance(e, OSError) and e.errno is not None and not isinstance(e, (ConnectionError, TimeoutError)):
            return HubError(f"Files of {name} cannot be written ({e.strerror}). Free some space, or pass cache_dir=.")
        if is_transient(e) or isinstance(e, (OfflineModeIsEnabled, LocalEntryNotFoundError)):
            what = f"error {status}" if status else type(e).__name__
            return Unreachable(f"The Hub does not deliver {name} ({what}). Check the connection, and try again.")
        if isinstance(e, EntryNotFoundError):
            return HubError(f"A file of {name} is gone ({self._clean(e)}). Try again, or pass another revision=.")
        return HubError(f"The Hub's answer about {name} cannot be used ({type(e).__name__}: {self._clean(e)}). Try again.")

    def _whose(self) -> str:
        given = self.token is True or (self.token is None and get_token())
        return "the token" if isinstance(self.token, str) or given else "an anonymous call"

    def _clean(self, e: BaseException) -> str:
        """The first words of a message, without the token."""
        text = " ".join(str(getattr(e, "server_message", None) or e).split())
        for secret in (self.token, get_token()):
            if isinstance(secret, str) and secret:
                text = text.replace(secret, "***")
        return text[:200]
