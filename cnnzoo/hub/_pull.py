"""From a repository to a model. Two files are fetched, both hashes are verified, and nothing in them is trusted."""

import contextlib
import dataclasses
import logging
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.hf_api import ModelInfo
from torch import nn

from .. import checkpoints, registry
from ..client import Repository, Unreachable, within
from ..configs import MAX_CONFIG, Config, empty_model, load_model, read_config, size_limit
from ..data import create_transform
from ..errors import CheckpointError, HubError
from ..files import atomic
from ..inference import class_labels
from ._folder import CONFIG
from ._push import digests

_log = logging.getLogger(__name__)

_PATIENCE = 4.0  # seconds for the Hub to say which commit a revision is; after that there is no network
_TRIES = 3


@dataclass(frozen=True)
class Pulled:
    """A model from the Hub, ready to use.

    Attributes:
        model: In evaluation mode, on the CPU.
        transform: From a PIL image to the model's input; None where it takes neither 1 nor 3 channels.
        labels: Class names, by class index.
        commit: What was pulled; `revision=commit` gives the same for ever.
    """

    model: nn.Module
    transform: Callable | None
    labels: tuple[str, ...]
    commit: str


def pull(
    repo_id: str,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    deadline: float = 600,
) -> Pulled:
    """Fetches a model of the zoo's architectures from anybody's Hub repository.

    Fetched are config.json and model.safetensors of one commit, never a pickle. Their hashes are verified: of the zoo's own
    checkpoints against what this package ships, of others against the Hub's. Without a network the cache serves what it has.

    Args:
        repo_id: `"org/name"`.
        revision: A branch, a tag or a full commit; `main` if None.
        token: For private repositories; the one of `hf auth login` or `HF_TOKEN` if None.
        cache_dir: The Hub client's cache, its default if None.
        deadline: Seconds until it is given up.

    Raises:
        HubError: The repository, the revision or a file cannot be had.
        CheckpointError: What came is damaged, not what its hash says, or no model of the zoo.
    """
    repo = Repository(repo_id, token)
    return within(deadline, f"Pulling {repo_id}", lambda: _pull(repo, revision or "main", cache_dir))


class _Damaged(CheckpointError):
    """A file of the cache is not what its name says; it is out of the cache now."""


def _pull(repo: Repository, revision: str, cache_dir: str | Path | None) -> Pulled:
    try:
        commit = _resolve(repo, revision, cache_dir)
        model = _load(commit)
    except _Damaged:
        commit = _resolve(repo, revision, cache_dir)
        model = _load(commit)
    commit.remember(revision)
    transform = create_transform(model) if model.in_chans in (1, 3) else None
    model.base_model = repo.repo_id
    return Pulled(model, transform, class_labels(model), commit.sha)


@dataclass(frozen=True)
class _Commit:
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


def _resolve(repo: Repository, revision: str, cache_dir: str | Path | None) -> _Commit:
    """Which commit a revision is. A full commit that is in the cache needs no network."""
    held = [_in_cache(repo, name, revision, cache_dir) for name in (CONFIG, checkpoints.WEIGHTS)]
    if _is_commit(revision) and all(path is not None and path.is_symlink() for path in held):
        return _Commit(repo, cache_dir, revision, None)
    options = dict(revision=revision, files_metadata=True, timeout=_PATIENCE - 0.5)

    def ask() -> ModelInfo:
        return repo.ask(repo.api.model_info, repo.repo_id, attempts=3, **options)

    try:
        info = within(_PATIENCE, f"Asking the Hub for {repo.repo_id}", ask)
    except Unreachable as e:
        if (path := held[0]) is None:
            raise Unreachable(
                f"{e} The cache has no {repo.repo_id} at {revision} either. Models in the installation need no network: "
                "cnnzoo.list_pretrained()."
            ) from None
        _log.warning("The Hub does not answer; %s comes from the cache, commit %s.", repo.repo_id, path.parent.name)
        return _Commit(repo, cache_dir, path.parent.name, None)
    if not _is_commit(str(info.sha)):
        raise HubError(f"The Hub says that {revision} of {repo.repo_id} is not a commit. Check HF_ENDPOINT, and try again.")
    files = {s.rfilename: (s.size or 0, s.lfs.sha256 if s.lfs else s.blob_id or "") for s in info.siblings or ()}
    return _Commit(repo, cache_dir, info.sha, files)


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
        while path.is_symlink():  # into blobs/, and from there perhaps to where several repositories share a blob
            link, path = path, path.parent / os.readlink(path)
            link.unlink()
        path.unlink(missing_ok=True)
    except OSError as e:
        raise CheckpointError(f"{path} cannot be read or replaced ({e.strerror}). Repair or delete the Hub's cache.") from e
    return None


def _load(commit: _Commit) -> nn.Module:
    where = commit.where(CONFIG)
    config = read_config(commit.fetch(CONFIG, MAX_CONFIG), where)
    limit = size_limit(empty_model(config, where))
    weights = commit.fetch(checkpoints.WEIGHTS, limit)
    org, _, name = commit.repo.repo_id.partition("/")
    if org == checkpoints.HUB_ORG and name in checkpoints.names():
        return _load_zoo(commit, name, config, weights)
    return load_model(config, weights, commit.where(checkpoints.WEIGHTS))


def _load_zoo(commit: _Commit, name: str, config: Config, weights: bytes) -> nn.Module:
    """The zoo's own checkpoints are held against what this package ships, and not against what the Hub says."""
    own = checkpoints.folder(name) / CONFIG
    gray = read_config(own.read_bytes(), str(own))
    where = commit.where(checkpoints.WEIGHTS)
    if config == gray:
        expected, found = checkpoints.metrics(name)["sha256"], digests(weights)[0]
        if expected != found:
            raise _unpublished(where, f"its sha256 is {found}, expected {expected}")
        return load_model(config, weights, where)
    if config != _widened(gray):
        raise _unpublished(commit.where(CONFIG), f"it differs from {own}")
    model = load_model(config, weights, where)
    wide = registry.create_model(name, pretrained=True, in_chans=3, cache_dir=commit.cache_dir).state_dict()
    if not all(torch.equal(tensor, wide[key]) for key, tensor in model.state_dict().items()):
        raise _unpublished(where, "it is not the 3-channel twin of the gray weights")
    return model


def _widened(config: Config) -> Config:
    cfg: dict[str, Any] = dict(config.cfg, input_size=(3, *config.cfg["input_size"][1:]))
    cfg |= {k: 3 * config.cfg[k] for k in ("mean", "std")}
    return dataclasses.replace(config, args=dict(config.args, in_chans=3), cfg=cfg)


def _unpublished(where: str, why: str) -> CheckpointError:
    return CheckpointError(
        f"{where} is not the published file that this version of cnnzoo expects: {why}. Use cnnzoo.create_model, or "
        "upgrade cnnzoo."
    )
