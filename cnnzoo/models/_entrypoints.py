"""Which of timm's entry points are the zoo's."""

from collections.abc import Callable

from timm.models._registry import _model_entrypoints

_PACKAGE = __name__.rpartition(".")[0] + "."


def entrypoints() -> dict[str, Callable]:
    """What builds each of the zoo's models, by name."""
    return {name: fn for name, fn in _model_entrypoints.items() if fn.__module__.startswith(_PACKAGE)}
