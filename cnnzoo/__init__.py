"""cnnzoo: the classic CNNs, LeNet to ConvNeXt, as timm models for small grayscale images.

Importing it registers every model with timm. What takes longer to import is in modules of its own, such as `cnnzoo.train`
and `cnnzoo.hub`, which are imported when they are first used.
"""

from importlib import import_module
from types import ModuleType

from . import process as process  # first: it answers Ctrl-C while the rest is imported, which takes seconds

# isort: split
from .data import create_transform, load_split
from .exporting import compiled, export, load_exported
from .inference import inference_form
from .predict import predict
from .registry import create_model, info, list_models, list_pretrained, results
from .version import __version__

__all__ = [
    "__version__", "compiled", "create_model", "create_transform", "export", "inference_form", "info", "list_models",
    "list_pretrained", "load_exported", "load_split", "predict", "results",
]  # fmt: skip

_MODULES = (
    "app", "bench", "drawings", "evaluate", "hub", "memory", "photos", "plots", "primitives", "recipes", "reproduce",
    "robustness", "train",
)  # fmt: skip


def __getattr__(name: str) -> ModuleType:
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
