"""cnnzoo: the classic CNNs, LeNet to RegNet, as timm models for small grayscale images.

Importing it registers every model with timm. What takes longer to import is in modules of its own: `cnnzoo.train`,
`cnnzoo.hub`.
"""

__version__ = "0.1.0"

from .data import create_transform, load_split
from .evaluate import predict
from .exporting import compiled, export, load_exported
from .registry import create_model, info, list_models, list_pretrained, results

__all__ = [
    "compiled", "create_model", "create_transform", "export", "info", "list_models", "list_pretrained", "load_exported",
    "load_split", "predict", "results",
]  # fmt: skip
