"""Files of Hub repositories: config.json and model.safetensors of one commit, with their hashes verified.

Whatever takes a model from the Hub takes it through `fetch`. No other file is read, and never a pickle.
"""

import contextlib
import dataclasses
import hashlib
import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.hf_api import ModelInfo

from . import checkpoints
from .checkpoints import CONFIG, PATIENCE, WEIGHTS
from .client import Repository, Unreachable, within
from .configs import MAX_CONFIG, Config, empty_model, read_config, size_limit
from .errors import CheckpointError, HubError
from .files import absolute, atomic, discard

_log = logging.getLogger(__name__)

_TRIES = 3


@dataclass(frozen=True)
class Fetched:
    """What a repository has of a model, verified and checked.

    Attributes:
        config: Its config.json.
        weights: The content of its weights, None where they were not asked for.
        folder: The folder of the Hub client's cache that has these files.
        commit: What they are of.
    """

    config: Config
    weights: bytes | None
    folder: Path
    commit: "Commit"


def fetch(repo: Repository, revision: str, cache_dir: str | Path | None = None, *, weights: bool = True) -> Fetched:
    """Fetches a model's config and, if that is one of a model of the zoo, its weights. Without a network the cache serves.

    Hashes are verified: of the zoo's own checkpoints against what this package ships, of others against the Hub's.

    Args:
        repo: Whose.
        revision: A branch, a tag or a full commit.
        cache_dir: The Hub client's cache, its default if None.
        weights: Whether to fetch these too.

    Raises:
        HubError: The repository, the revision or a file cannot be had.
        CheckpointError: What came is damaged, not what its hash says, or no model of the zoo.
    """
    cache_dir = None if cache_dir is None else absolute(cache_dir)
    try:
        fetched = _fetch(_resolve(repo, revision, cache_dir), weights)
    except _Damaged:  # and deleted, so it is downloaded now
        fetched = _fetch(_resolve(repo, revision, cache_dir), weights)
    fetched.commit.remember(revision)
    return fetched


def _fetch(commit: "Commit", weights: bool) -> Fetched:
    where = commit.where(CONFIG)
    config = read_config(commit.fetch(CONFIG, MAX_CONFIG), where)
    limit = size_limit(empty_model(config, where))
    content = commit.fetch(WEIGHTS, limit) if weights else None
    org, _, name = commit.repo.repo_id.partition("/")
    if content is not None and org == checkpoints.HUB_ORG and name in checkpoints.names():
        _check_published(commit, name, config, content)
    found = _in_cache(commit.repo, CONFIG, commit.sha, commit.cache_dir)
    assert found is not None  # it was just read
    return Fetched(config, content, found.parent, commit)


class _Damaged(CheckpointError):
    """A file of the cache is not what its name says; it is out of the cache now."""


def digests(content: bytes) -> tuple[str, str]:
    """The two names that the Hub gives to a content: sha256 for large files, git's for others."""
    return hashlib.sha256(content).hexdigest(), hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass(frozen=True)
class Commit:
    """A commit of a repository; `files` has the size and hash of each, None where only the cache is asked."""

    repo: Repository
    cache_dir: str | Path | None
    sha: str
    files: dict[str, tuple[int, str]] | None

    def where(self, name: str) -> str:
        return f"{self.repo.repo_id}@{self.sha[:7]}/{name}"

    def fetch(self, name: str, limit: int) -> bytes:
        """A file's content, verified.

        Raises:
            HubError: There is no such file, or it does not come.
            CheckpointError: It is larger than `limit`, or not what its hash says.
        """
        if self.files is None:
            return self._cached(name, limit)
        if name not in self.files:
            raise HubError(
                f"{self.repo.repo_id} has no {name}; no other file is read, and never a pickle. Ask its owner for this file."
            )
        size, digest = self.files[name]
        if size > limit:
            raise CheckpointError(f"{self.where(name)} has {size:,} bytes; allowed are {limit:,}. Pull another repository.")
        for _ in range(2):
            path = self.repo.ask(
                hf_hub_download, self.repo.repo_id, name, revision=self.sha, cache_dir=self.cache_dir,
                token=self.repo.token, library_name="cnnzoo", attempts=_TRIES,
            )  # fmt: skip
            if (content := _verified(Path(path), digest, limit)) is not None:
                return content
        raise CheckpointError(
            f"{self.where(name)} was downloaded twice, and its content does not fit its hash {digest}; nothing was "
            "kept. Try again, or tell its owner."
        )

    def _cached(self, name: str, limit: int) -> bytes:
        path = _in_cache(self.repo, name, self.sha, self.cache_dir)
        if path is None:
            raise HubError(f"The cache has no {self.where(name)}, and the Hub does not answer. Go online, and try again.")
        # The link's target is named by the hash. Systems without links keep none, and must ask the Hub.
        digest = Path(os.readlink(path)).name if path.is_symlink() else ""
        if len(digest) not in (40, 64):
            raise HubError(f"Only the Hub knows the hash of {path}, and it does not answer. Go online, and try again.")
        if (content := _verified(path, digest, limit)) is None:
            raise _Damaged(f"{path} was damaged, and has been deleted. Go online, and try again to download it.")
        return content

    def remember(self, revision: str) -> None:
        """Notes in the cache which commit a branch is, for when there is no network. A cache may be read-only."""
        path = _in_cache(self.repo, CONFIG, self.sha, self.cache_dir)
        if self.files is not None and path is not None and not _is_commit(revision) and ".." not in revision:
            ref = path.parents[2] / "refs" / revision
            with contextlib.suppress(OSError, ValueError):
                ref.parent.mkdir(parents=True, exist_ok=True)
                with atomic(ref) as temporary:
                    temporary.write_text(self.sha)


def _resolve(repo: Repository, revision: str, cache_dir: str | Path | None) -> Commit:
    """Which commit a revision is. A full commit that is in the cache needs no network."""
    held = [_in_cache(repo, name, revision, cache_dir) for name in (CONFIG, WEIGHTS)]
    if _is_commit(revision) and all(path is not None and path.is_symlink() for path in held):
        return Commit(repo, cache_dir, revision, None)
    options = dict(revision=revision, files_metadata=True, timeout=PATIENCE - 0.5)

    def ask() -> ModelInfo:
        return repo.ask(repo.api.model_info, repo.repo_id, attempts=3, **options)

    try:
        info = within(PATIENCE, f"Asking the Hub for {repo.repo_id}", ask)
    except Unreachable as e:
        if (path := held[0]) is None:
            raise Unreachable(
                f"{e} The cache has no {repo.repo_id} at {revision} either. Models in the installation need no network: "
                "cnnzoo.list_pretrained()."
            ) from None
        _log.warning("The Hub does not answer; %s comes from the cache, commit %s.", repo.repo_id, path.parent.name)
        return Commit(repo, cache_dir, path.parent.name, None)
    if not _is_commit(str(info.sha)):
        raise HubError(f"The Hub says that {revision} of {repo.repo_id} is not a commit. Check HF_ENDPOINT, and try again.")
    files = {s.rfilename: (s.size or 0, s.lfs.sha256 if s.lfs else s.blob_id or "") for s in info.siblings or ()}
    return Commit(repo, cache_dir, info.sha, files)


def _is_commit(revision: str) -> bool:
    return re.fullmatch("[0-9a-f]{40}", revision) is not None


def _in_cache(repo: Repository, name: str, revision: str, cache_dir: str | Path | None) -> Path | None:
    path = repo.ask(try_to_load_from_cache, repo.repo_id, name, cache_dir=cache_dir, revision=revision)
    return Path(path) if isinstance(path, str) else None


def _verified(path: Path, digest: str, limit: int) -> bytes | None:
    """The content of a file of the cache, None if its hash is another one; then the file is deleted."""
    try:
        if path.stat().st_size <= limit:
            content = path.read_bytes()
            if digest in digests(content):
                return content
        discard(path)
    except OSError as e:
        raise CheckpointError(f"{path} cannot be read or replaced ({e.strerror}). Repair or delete the Hub's cache.") from e
    return None


# -- the zoo's own -------------------------------------------------------------------------------------------------------


def _check_published(commit: Commit, name: str, config: Config, weights: bytes) -> None:
    """The zoo's own checkpoints are held against what this package ships, and not against what the Hub says."""
    own = checkpoints.folder(name) / CONFIG
    gray = read_config(own.read_bytes(), str(own))
    where = commit.where(WEIGHTS)
    if config == gray:
        expected, found = checkpoints.metrics(name)["sha256"], digests(weights)[0]
        if expected != found:
            raise _unpublished(where, f"its sha256 is {found}, expected {expected}")
        return
    if config != _widened(gray):
        raise _unpublished(commit.where(CONFIG), f"it differs from {own}")
    wide = timm.create_model(name, pretrained=True, in_chans=3, cache_dir=commit.cache_dir).state_dict()
    state = checkpoints.read_weights(weights, empty_model(config, where), where)
    if not all(torch.equal(tensor.to(wide[key].dtype), wide[key]) for key, tensor in state.items()):
        raise _unpublished(where, "it is not the 3-channel twin of the gray weights")


def _widened(config: Config) -> Config:
    cfg: dict[str, Any] = dict(config.cfg, input_size=(3, *config.cfg["input_size"][1:]))
    cfg |= {k: 3 * config.cfg[k] for k in ("mean", "std")}
    return dataclasses.replace(config, args=dict(config.args, in_chans=3), cfg=cfg)


def _unpublished(where: str, why: str) -> CheckpointError:
    return CheckpointError(
        f"{where} is not the published file that this version of cnnzoo expects: {why}. Load it by its name "
        "alone, without hf-hub:, or upgrade cnnzoo."
    )
