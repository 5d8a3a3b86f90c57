"""From a verified folder to a repository: one commit per branch, all of it or nothing."""

import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete
from huggingface_hub.hf_api import ModelInfo

from .. import checkpoints
from ..client import Missing, Repository, is_transient, pause, within
from ..datasets import facts
from ..errors import CheckpointError, HubError, system_errors
from ..files import user_path
from ..remote import digests, fetch
from ..version import __version__
from ._build import folder_of, read_numbers, twin
from ._card import RGB, card, full_name
from ._folder import ALLOWED, CARD, CONFIG
from ._verify import verify

_MESSAGE = f"Push from cnnzoo {__version__}"
_TRIES = 6
_TIMEOUT = 30  # seconds, for each question
_KEEP = (".gitattributes", "LICENSE")  # the Hub's own file, and the owner's


@system_errors()
def push(
    model: str | os.PathLike,
    repo_id: str,
    *,
    private: bool = True,
    revision: str | None = None,
    token: str | bool | None = None,
    deadline: float = 600,
) -> str:
    """Publishes a checkpoint: verifies its folder, and makes a branch hold exactly its files, in one commit.

    What an older version left there goes in the same commit. A push to `main` brings the branch `rgb` up to date too, which
    has the 3-channel twin of a 1-channel model; a 3-channel model itself is put there, where the branch exists. Pushing what
    is already there makes no commit.

    Args:
        model: A checkpoint folder, the name of one of the zoo's, or a run folder; see `verify`.
        repo_id: `"org/name"`; made if it does not exist.
        private: Who may see it. A repository of the other kind is refused, and stays as it is.
        revision: A branch, made if it does not exist; `main` if None.
        token: Of somebody who may write there; the one of `hf auth login` or `HF_TOKEN` if None.
        deadline: Seconds until it is given up.

    Returns:
        The branch's commit.

    Raises:
        CheckpointError, UnknownNameError: As `verify`; the folder is not fit to be published.
        HubError: The Hub refuses or cannot be reached. What others see is the old state or the new one.
    """
    if repo_id.count("/") != 1:
        raise HubError(f"{repo_id!r} was given; a repository has an owner and a name. Push to you/{repo_id.split('/')[-1]}.")
    repo, branch = Repository(repo_id, token), revision or "main"
    with folder_of(model) as folder, tempfile.TemporaryDirectory() as scratch:
        verify(folder)
        branches = _branches(folder, repo_id, branch, Path(scratch))
        return within(deadline, f"Pushing {model} to {repo_id}", lambda: _push(repo, branches, private))


def publish(
    root: str | Path | None = None, *, org: str = checkpoints.HUB_ORG, really: bool = False, token: str | bool | None = None
) -> Iterator[tuple[str, str]]:
    """Pushes every checkpoint folder to a public repository of its own name; says what would change unless `really`.

    Args:
        root: Folder of checkpoint folders, the zoo's own if None.
        org: Whose repositories.
        really: Do it.
        token: As in `push`.

    Yields:
        A branch, as `org/name@branch`, and what changes there; when pushed, its commit.

    Raises:
        CheckpointError, HubError: As `push`; what came before is published. Or `root` holds no checkpoint folder.
    """
    place = user_path(root or checkpoints.root())
    with system_errors():
        if place.is_dir():
            os.listdir(place)  # glob finds nothing where it may not look
        folders = sorted(p.parent for p in place.glob(f"[!.]*.*/{CONFIG}"))  # a dot is a folder that is being made
    if not folders:
        what = "holds no checkpoint folder, NAME.TAG" if place.is_dir() else "is not a folder"
        raise CheckpointError(f"{place} {what}; nothing was published. Name the folder that cnnzoo build put them into.")
    for folder in folders:
        repo_id = f"{org}/{folder.name}"
        if really:
            yield f"{repo_id}@main", push(folder, repo_id, private=False, token=token)
            continue
        repo = Repository(repo_id, token)
        verify(folder)
        with tempfile.TemporaryDirectory() as scratch:
            for branch, contents in _branches(folder, repo_id, "main", Path(scratch)).items():
                yield f"{repo_id}@{branch}", _difference(repo, branch, contents)


def _branches(folder: Path, repo_id: str, branch: str, scratch: Path) -> dict[str, dict[str, bytes]]:
    """What each branch shall hold."""
    branches = {branch: _contents(folder, repo_id)}
    metrics, recipe = read_numbers(folder)
    if branch == "main" and metrics.get("in_chans", facts(metrics, recipe).image_size[0]) == 1:
        branches[RGB] = _contents(twin(folder, scratch), repo_id)
    return branches


def _contents(folder: Path, repo_id: str) -> dict[str, bytes]:
    """The files of a repository by name: the folder's, with a card that names the repository."""
    contents = {name: (folder / name).read_bytes() for name in ALLOWED if (folder / name).is_file()}
    metrics, recipe = read_numbers(folder)
    name = full_name(metrics, facts(metrics, recipe))
    return dict(contents, **{CARD: card(name, metrics, recipe, repo_id).encode()})


def _push(repo: Repository, branches: dict[str, dict[str, bytes]], private: bool) -> str:
    repo.ask(repo.api.create_repo, repo.repo_id, private=private, exist_ok=True, attempts=_TRIES)
    info = _info(repo, None)
    if bool(info.private) != private:
        found, asked = ("private", "public") if info.private else ("public", "private")
        raise HubError(
            f"{repo.repo_id} is {found}, but {asked} was asked for; nothing was sent. Pass private={info.private}, or "
            "change it in the repository's settings."
        )
    _check_replaceable(repo, info)
    if branches.keys() == {"main"} and _has_branch(repo, RGB):  # of the gray model that was there before
        branches = branches | {RGB: branches["main"]}
    commits = []
    for branch, contents in branches.items():
        if branch != "main":
            repo.ask(repo.api.create_branch, repo.repo_id, branch=branch, exist_ok=True, attempts=_TRIES)
        commits.append(_commit(repo, branch, contents))
    return commits[0]


def _check_replaceable(repo: Repository, info: ModelInfo) -> None:
    """Sees that a repository holds nothing, or a model of the zoo's, whose place the pushed one takes.

    Raises:
        HubError: It holds something else.
    """
    held = {s.rfilename for s in info.siblings or ()} - {*_KEEP, CARD}
    if not held:
        return
    shown = ", ".join(sorted(held)[:3])
    try:
        if CONFIG in held:
            fetch(repo, str(info.sha), weights=False)
            return
    except CheckpointError:
        shown += "; its config.json is of another model"
    raise HubError(f"{repo.repo_id} holds other files ({shown}), and no checkpoint; nothing was sent. Push to a new name.")


def _has_branch(repo: Repository, branch: str) -> bool:
    try:
        _info(repo, branch)
    except Missing:
        return False
    return True


def _commit(repo: Repository, branch: str, contents: Mapping[str, bytes]) -> str:
    """Makes a branch hold the contents: one commit on top of the head that was looked at, or none.

    The client tries a commit once. After a failure the head is read anew: the reply may have been lost and not the commit,
    or somebody else may have been faster.
    """
    for attempt in range(_TRIES):
        head = _info(repo, branch)
        operations = repo.ask(_operations, head, contents)
        if not operations:
            return head.sha
        try:
            done = repo.api.create_commit(
                repo.repo_id, operations, commit_message=_MESSAGE, revision=branch, parent_commit=head.sha
            )
            return done.oid
        except Exception as e:  # see Repository.ask
            if attempt == _TRIES - 1 or not is_transient(e):
                raise repo.error(e, branch) from None
        pause(attempt)
    raise AssertionError


def _info(repo: Repository, branch: str | None) -> ModelInfo:
    return repo.ask(
        repo.api.model_info, repo.repo_id, revision=branch, files_metadata=True, timeout=_TIMEOUT, attempts=_TRIES
    )


def _operations(head: ModelInfo, contents: Mapping[str, bytes]) -> list[CommitOperationAdd | CommitOperationDelete]:
    held = {s.rfilename: s.lfs.sha256 if s.lfs else s.blob_id for s in head.siblings or ()}
    changed = [name for name, content in contents.items() if held.get(name) not in digests(content)]
    stale = sorted(set(held) - set(contents) - set(_KEEP))
    return [
        *(CommitOperationAdd(name, contents[name]) for name in changed),
        *(CommitOperationDelete(name, is_folder=False) for name in stale),
    ]


def _difference(repo: Repository, branch: str, contents: Mapping[str, bytes]) -> str:
    """What a push to a branch would change, in words."""
    try:
        operations = _operations(_info(repo, branch), contents)
    except Missing:
        return f"would be made, with {', '.join(contents)}"
    sent = [o.path_in_repo for o in operations if isinstance(o, CommitOperationAdd)]
    gone = [o.path_in_repo for o in operations if isinstance(o, CommitOperationDelete)]
    words = [f"{verb} {', '.join(names)}" for verb, names in (("would send", sent), ("would delete", gone)) if names]
    return "; ".join(words) or "is up to date"
