"""From a repository to a model. Two files are fetched, both hashes are verified, and nothing in them is trusted."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from ..checkpoints import WEIGHTS
from ..client import Repository, within
from ..configs import load_model
from ..data import create_transform
from ..inference import class_labels
from ..remote import fetch


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

    Returns:
        The model in evaluation mode, with its labels, its transform and the commit; see `Pulled`.

    Raises:
        HubError: The repository, the revision or a file cannot be had.
        CheckpointError: What came is damaged, not what its hash says, or no model of the zoo.
    """
    repo = Repository(repo_id, token)
    return within(deadline, f"Pulling {repo_id}", lambda: _pull(repo, revision or "main", cache_dir))


def _pull(repo: Repository, revision: str, cache_dir: str | Path | None) -> Pulled:
    fetched = fetch(repo, revision, cache_dir)
    model = load_model(fetched.config, fetched.weights, fetched.commit.where(WEIGHTS))
    model.base_model = repo.repo_id
    transform = create_transform(model) if model.in_chans in (1, 3) else None
    return Pulled(model, transform, class_labels(model), fetched.commit.sha)
