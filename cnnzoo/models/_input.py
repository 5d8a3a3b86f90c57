"""What images a model takes: the check before each pass, and what `pretrained_cfg` says."""

import torch
from timm.models import get_model_input_config
from torch import Tensor, nn

from ..errors import InputError


def check_input(x: Tensor, in_chans: int, height: int, width: int, fixed: bool) -> None:
    """Refuses images that a model cannot take. Costs about a microsecond.

    Args:
        x: What was given.
        in_chans: Channels that the model takes.
        height, width: The size it takes, or if not `fixed` the least.
        fixed: Whether it takes this size only.

    Raises:
        InputError: With what was given, what is allowed, and what to do.
    """
    if x.dim() != 4:
        raise InputError(
            f"A tensor of {x.dim()} dimensions was given; a model takes images as (B, C, H, W). "
            "For one image pass x[None], for grayscale without a channel axis x[:, None]."
        )
    if not (x.is_floating_point() or x.is_complex() or x.is_quantized):
        raise InputError(
            "Whole numbers were given as images; a model takes normalised floating-point numbers. For pixels from 0 to 255 "
            "call cnnzoo.data.normalize(images, mean, std), with those of model.pretrained_cfg."
        )
    if torch.jit.is_tracing():  # sizes are tensors there, and a condition on one is a warning
        return
    if x.shape[0] == 0:
        raise InputError("An empty batch was given; at least one image is needed. Skip the call when there is none.")
    if x.shape[1] != in_chans:
        rgb = ""
        if (x.shape[1], in_chans) == (3, 1):
            rgb = (
                " For tools that make every image RGB, such as transformers' pipeline, make a twin of its run or "
                "checkpoint folder: cnnzoo twin MODEL OUT."
            )
        raise InputError(
            f"Images with {x.shape[1]} channels were given; this model takes {in_chans}. Convert them with "
            f"cnnzoo.create_transform(model), or build the model with in_chans={x.shape[1]}.{rgb}"
        )
    if fixed and (x.shape[2] != height or x.shape[3] != width):
        raise InputError(
            f"Images of {x.shape[2]}x{x.shape[3]} pixels were given; this model is built for {height}x{width}. "
            f"Resize them with cnnzoo.create_transform(model), or build it with img_size=({x.shape[2]}, {x.shape[3]})."
        )
    if x.shape[2] < height or x.shape[3] < width:
        raise InputError(
            f"Images of {x.shape[2]}x{x.shape[3]} pixels are too small; this model needs at least {height}x{width}. "
            "Resize them with cnnzoo.create_transform(model)."
        )


def describe_input(model: nn.Module) -> None:
    """Makes `pretrained_cfg`, which is the model's own, say what images this model takes, and not what its row takes."""
    cfg = dict(model.pretrained_cfg)
    size = get_model_input_config(model)["input_size"]
    if tuple(cfg["input_size"][1:]) != size[1:]:
        cfg["pool_size"] = None
    for key in ("mean", "std"):
        if values := cfg.get(key):
            cfg[key] = tuple(values) if len(values) == size[0] else (sum(values) / len(values),) * size[0]
    for key in ("test_input_size", "min_input_size"):
        if cfg.get(key):
            cfg[key] = (size[0], *cfg[key][1:])
    cfg["input_size"] = size
    if hasattr(model, "fixed_size"):
        cfg["fixed_input_size"] = model.fixed_size
    model.pretrained_cfg = model.default_cfg = cfg


def describe_head(model: nn.Module) -> None:
    """Makes `pretrained_cfg`, which timm writes into what it saves, fit a new head: it knows none of the former classes."""
    if cfg := getattr(model, "pretrained_cfg", None):
        gone = {k: None for k in ("label_names", "label_descriptions", "notes", "tag") if k in cfg}
        model.pretrained_cfg = model.default_cfg = dict(cfg, **gone, fixed_input_size=model.fixed_size)
