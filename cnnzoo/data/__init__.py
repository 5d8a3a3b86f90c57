"""Data sets as tensors, augmentation on whole batches, and images of any kind to model input."""

from ._batches import Augment, epoch_batches, normalize, resize
from ._folder import dataset_in, has_test_folder, labelled_files
from ._images import (
    Limits,
    create_transform,
    images_of,
    open_image,
    read_images,
    read_one_of,
    tell_broken,
    to_mode,
    to_pixels,
)
from ._load import load_split, load_splits, reading_size, size_of
from ._photo import PHOTO, Photo, in_format, photo_steps
from ._sketch import filled, on_paper
from ._splits import SPLITS, Split, default_data_dir, fetch, named_data_dir

__all__ = [
    "PHOTO", "SPLITS", "Augment", "Limits", "Photo", "Split", "create_transform", "dataset_in", "default_data_dir",
    "epoch_batches", "fetch", "filled", "has_test_folder", "images_of", "in_format", "labelled_files", "load_split",
    "load_splits", "named_data_dir", "normalize", "on_paper", "open_image", "photo_steps", "read_images", "read_one_of",
    "reading_size", "resize", "size_of", "tell_broken", "to_mode", "to_pixels",
]  # fmt: skip
