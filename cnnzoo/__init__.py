"""cnnzoo: the classic CNNs, LeNet to RegNet, as timm models for small grayscale images.

Importing it registers every model with timm.
"""

__version__ = "0.1.0"

from .registry import create_model, list_models, list_pretrained

__all__ = ["create_model", "list_models", "list_pretrained"]
