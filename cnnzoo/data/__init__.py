"""Data sets as tensors, augmentation on whole batches, and images of any kind to model input."""

from ._batches import Augment, epoch_batches, normalize, resize
from ._folder import is_image_folder
from ._images import create_transform, open_image
from ._load import load_split, load_splits, size_of
from ._photo import photo_steps
from ._splits import SPLITS, Split, default_data_dir, fetch

__all__ = [
    "SPLITS", "Augment", "Split", "create_transform", "default_data_dir", "epoch_batches", "fetch", "load_split",
    "is_image_folder", "load_splits", "normalize", "open_image", "photo_steps", "resize", "size_of",
]  # fmt: skip
