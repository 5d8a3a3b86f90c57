"""A model in use: the one place that says how it is run, what its classes are called, and what it cannot answer.

A model that is given is never changed, not even for a moment: other threads may be using it.
"""

import os
from collections.abc import Callable, Sequence
from copy import copy as shallow, deepcopy
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

from .data import PHOTO, create_transform, images_of, in_format, open_image, photo_steps, to_mode
from .datasets import FASHION_MNIST
from .errors import CheckpointError, InputError, shown_path, unknown
from .folding import fold, rebound
from .memory import keep_memory

_MANY = 256  # images from which on it pays to merge batch norms and the like
# A batch goes through a model in pieces whose largest activation has so many bytes, at most. What a layer gives has to be in
# the cache when the next one reads it: 16 MiB is half of a server's third-level cache, so that input and output fit. In a
# second-level cache there is room for so few images that reading the weights for each piece made every model slower.
_BYTES = 16 << 20
_LEAST = 16  # images of a piece at least, for the same reason


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside of `torch.compile`'s wrapper, or those of parallel training."""
    while True:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod
        else:
            return model


def evaluation_copy(model: nn.Module) -> nn.Module:
    """The model in evaluation mode, without a change to `model`.

    It is a copy of the tree of modules that shares parameters and buffers, so it costs next to nothing and is made anew for
    each use. A compiled model in evaluation mode is returned as it is, and one in training mode is run uncompiled.
    """
    if unwrapped(model) is not model and not any(m.training for m in model.modules()):
        return model
    if isinstance(model, torch.jit.ScriptModule):
        return deepcopy(model).eval()
    return _copied(unwrapped(model))


def _copied(model: nn.Module) -> nn.Module:
    """The copy that `evaluation_copy` describes."""
    done: dict[int, nn.Module] = {}
    copy = _copied_tree(model, done)
    for module in done.values():
        # accelerate puts a `forward` on the module itself. It is bound to the original, which may be in training mode: then
        # the copy would compute with the statistics of the batch, and change those of the original. Layers in a plain list
        # are those of the original too.
        vars(module).update({k: rebound(v, done) for k, v in vars(module).items()})
    return copy


def _copied_tree(module: nn.Module, done: dict[int, nn.Module]) -> nn.Module:
    if id(module) in done:  # one module in two places
        return done[id(module)]
    copy = done[id(module)] = object.__new__(type(module))
    # Hooks and parameters that are put on the copy do not belong on the model.
    state = {k: shallow(v) if isinstance(v, dict) else v for k, v in vars(module).items()}
    state["_modules"] = {k: None if m is None else _copied_tree(m, done) for k, m in module._modules.items()}
    vars(copy).update(state, training=False)
    return copy


def runnable(model: Any) -> nn.Module:
    """What is run of a model that was given: the model in the wrappers of parallel training. Whatever runs models asks this.

    Raises:
        InputError: It is no model, or has no weights.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"A {type(model).__name__} was given as a model. Make one with cnnzoo.create_model.")
    while isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        model = model.module
    if any(t.is_meta for t in chain(model.parameters(), model.buffers())):
        raise InputError("A model on the meta device was given, which has no weights. Build it without device='meta'.")
    return model


def inference_form(model: nn.Module, images: int | None = None) -> Callable[[Tensor], Tensor]:
    """A form in which a model answers faster: what maps normalised images `(B, C, H, W)` to logits `(B, K)`, both fp32.

    It is a copy of the model, which stays as it is, in evaluation mode: batch norms are merged into the convolutions before
    them, blocks such as RepVGG's become the one convolution that they are, and memory is ordered channels last. A CPU takes
    large batches in pieces, which are so small that the largest activation of a piece fits into the caches. Several threads
    may use the form at once. The copy is made when the form is first called; a model whose weights change after that needs a
    new form. The logits are on the model's device, have no gradients, and differ from the model's own by rounding alone.

    Models in half precision are not merged, since that would round their weights once more. Compiled models are run as they
    are.

    Args:
        model: Any classifier of the zoo, of timm, or of your own.
        images: How many it is made for, where that is known: for a few, the copy would take longer than it saves.

    Raises:
        InputError: It is no model, has no weights, or, on call, gives something else than logits.
        CheckpointError: On call, where a logit is not finite.
    """
    model = runnable(model)
    reference = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    form = evaluation_copy(model)
    ours = type(form) is type(unwrapped(model)) and not isinstance(form, torch.jit.ScriptModule)
    made: list[nn.Module] = [] if ours and (images is None or images >= _MANY) else [form]
    per_pixel: list[float] = []  # bytes of the largest activation, once it is known
    if reference.device.type == "cpu":
        keep_memory()

    def logits(images: Tensor) -> Tensor:
        images = images.to(reference)
        if not made and len(images):
            made.append(fast_copy(form, images[:1]))  # twice if two threads are first, of which either will do
        with torch.inference_mode():
            pieces: Sequence[Tensor] = [images]
            if ours and images.device.type == "cpu" and len(images) > _LEAST:
                if not per_pixel:
                    per_pixel.append(_largest(made[0], images[:1]) / images[0, 0].numel())
                most = max(_LEAST, _BYTES / per_pixel[0] / images[0, 0].numel())
                pieces = images.tensor_split(max(1, round(len(images) / most)))  # about as many in each, and no small rest
            outputs = [logits_of(made[0] if made else form, piece) for piece in pieces]
            return torch.cat(outputs) if len(outputs) > 1 else outputs[0]

    return logits


def fast_copy(model: nn.Module, example: Tensor) -> nn.Module:
    """A copy of a model in evaluation mode, folded and with its kernels channels last; see `inference_form`.

    Args:
        model: Of a compiled one the model inside is copied.
        example: What it takes, `(B, C, H, W)`, on its device; one image will do.
    """
    made = _copied(unwrapped(model))
    with torch.inference_mode(False), torch.no_grad():
        if not any(p.dtype in (torch.float16, torch.bfloat16) for p in made.parameters()):
            fold(made, example)
        for module in made.modules():
            if type(module) is nn.Conv2d and not module._forward_pre_hooks:  # by which pruning makes its weights
                weight = module.weight.clone(memory_format=torch.channels_last)  # .contiguous keeps those of one channel
                module.weight = nn.Parameter(weight, module.weight.requires_grad)
    return made


def _largest(model: nn.Module, image: Tensor) -> int:
    """Bytes of the largest tensor that a module in the model gives for one image `(1, C, H, W)`, or that it takes itself."""
    sizes, copy = [image.nbytes], _copied(model)  # a copy, since other threads may be using the model

    def note(module: nn.Module, args: Any, out: Any) -> None:
        sizes.extend(leaf.nbytes for leaf in tree_leaves(out) if isinstance(leaf, Tensor))

    for module in copy.modules():
        module.register_forward_hook(note)
    copy(image)
    return max(sizes)


def logits_of(form: nn.Module, images: Tensor) -> Tensor:
    """What a model makes of images `(B, C, H, W)`, of its device and number format: logits `(B, K)`, in fp32.

    Raises:
        InputError: It gives something else.
        CheckpointError: A logit is not finite.
    """
    out = form(images)
    if not isinstance(out, Tensor) or out.dim() != 2:
        shape = f"a tensor {tuple(out.shape)}" if isinstance(out, Tensor) else f"a {type(out).__name__}"
        raise InputError(
            f"The {type(unwrapped(form)).__name__} gives {shape}; logits (B, K) are needed. Build it as a classifier: "
            "without features_only, and with num_classes of 1 at least."
        )
    return checked(out.float())


def checked(logits: Tensor) -> Tensor:
    """The same outputs `(B, K)`, if every one is finite: of NaN there is no most probable class.

    Raises:
        CheckpointError: One is not.
    """
    if not logits.isfinite().all():
        raise CheckpointError(
            "The model's outputs are not finite, so they say nothing: its weights hold NaN or infinity, or its number "
            "format is too small for them. Load good weights, or call model.float()."
        )
    return logits


def temperature(model: nn.Module) -> float:
    """What the model's logits are divided by before they are taken for probabilities.

    Raises:
        CheckpointError: It is no positive number.
    """
    value = getattr(unwrapped(model), "temperature", 1.0)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
        raise CheckpointError(
            f"The model's temperature is {value!r}; a positive number is needed. Set model.temperature = 1."
        )
    return float(value)


def class_labels(model: nn.Module) -> tuple[str, ...]:
    """Class names by index: those that the model's weights were trained on, else the indices as text."""
    inner = unwrapped(model)
    count = class_count(inner)
    names: Any = getattr(inner, "labels", None)
    if names is None:  # a model of timm's own
        names = (getattr(inner, "pretrained_cfg", None) or {}).get("label_names")
    return tuple(names) if names and len(names) == count else tuple(str(i) for i in range(count))


def class_count(model: nn.Module) -> int:
    """How many classes a classifier tells apart.

    Raises:
        InputError: The model is no classifier, or does not say.
    """
    count = getattr(unwrapped(model), "num_classes", None)
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise InputError(
            f"A {type(unwrapped(model)).__name__} was given, which is not a classifier: it has no num_classes of 1 or more. "
            "Build it with cnnzoo.create_model, without features_only and num_classes=0."
        )
    return count


def check_photo_model(model: nn.Module, photo_model: nn.Module | None) -> None:
    """Sees that a second model can answer in the place of the first, for photos; None always can.

    Raises:
        InputError: It has other classes or channels, or is no model of timm or of the zoo.
    """
    if photo_model is None:
        return
    kinds = [(class_labels(m), images_of(unwrapped(m))["input_size"][0]) for m in (model, photo_model)]
    if kinds[0] != kinds[1]:
        raise InputError(
            "The model and its photo_model have different classes or channels. Pass two models of the same data set."
        )


def with_levels(model: Any) -> nn.Module:
    """The model itself, which can be looked into level by level.

    Raises:
        InputError: It is none, has no weights, or no levels.
    """
    inner = unwrapped(runnable(model))
    if not (hasattr(inner, "forward_intermediates") and hasattr(inner, "feature_info")):
        raise InputError(
            f"A {type(inner).__name__} was given, which has no feature levels to show. Build it with cnnzoo.create_model, "
            "without features_only."
        )
    return inner


def class_activation(model: nn.Module, x: Tensor, label: int | None = None, level: int = -1) -> tuple[Tensor, Tensor]:
    """The map of `plots.grad_cam` for one normalised image `(1, C, H, W)`: `(H, W)` in [0, 1], and the logits `(K,)`.

    Raises:
        InputError: The model is no classifier with weights and levels, or there is no such class or level.
        CheckpointError: The model's outputs are not finite.
    """
    model = with_levels(model)
    levels, classes = [f["module"] for f in model.feature_info], class_count(model)
    if label is not None and not (hasattr(label, "__index__") and 0 <= label < classes):
        raise InputError(f"label={label!r} was given; the model has {classes} classes, from 0. Pass 0 to {classes - 1}.")
    if not -len(levels) <= level < len(levels):
        raise InputError(f"level={level} was given; there are {len(levels)} levels. Pass 0 to {len(levels) - 1}, or -1.")
    kept: list[Tensor] = []
    form = evaluation_copy(model)
    handle = form.get_submodule(levels[level]).register_forward_hook(lambda module, args, out: kept.append(out))
    try:
        with torch.enable_grad():
            logits = logits_of(form, x.detach().clone().requires_grad_())[0]  # a frozen model's weights ask for no gradient
    finally:
        handle.remove()
    maps = kept[0]
    if not isinstance(maps, Tensor) or maps.dim() != 4:
        raise InputError(
            f"Level {level} of a {type(model).__name__} gives no feature maps (B, C, H, W), which Grad-CAM needs. Pass a "
            "convolutional network."
        )
    (slope,) = torch.autograd.grad(logits.max() if label is None else logits[label], maps)
    if getattr(model, "output_fmt", "NCHW") == "NHWC":  # as Swin and MambaOut have them
        slope, maps = slope.permute(0, 3, 1, 2), maps.permute(0, 3, 1, 2)
    cam = (slope.mean((2, 3), keepdim=True) * maps).sum(1, keepdim=True).relu()  # (1, C, h, w) -> (1, 1, h, w)
    cam = F.interpolate(cam.float(), x.shape[2:], mode="bilinear")[0, 0].detach()
    return cam / cam.max().clamp(min=1e-12), logits.detach()


@dataclass(frozen=True)
class Input:
    """An image as a model takes it.

    Attributes:
        pixels: Normalised, `(C, H, W)`.
        photo: Whether it was treated as a photo of a garment.
        warnings: What makes an answer to it doubtful, and what can be done about it.
        steps: The image, and what came out of each step for photos, by its name.
    """

    pixels: Tensor
    photo: bool
    warnings: tuple[str, ...]
    steps: dict[str, Image.Image]


def reader(model: nn.Module, photo: str = "auto") -> Callable[[Any], Input]:
    """What turns an image of any kind (see `data.open_image`) into a model's input: all that look at images use it.

    Args:
        model: A classifier of 1 or 3 channels.
        photo: `"auto"`: a model of Fashion-MNIST gets every image that is not in its format (28x28, on black) through the
            steps for photos, see `data.photo_steps`; other models get images as they are. `"makers"`: such an image goes
            through the steps of the data set's makers. `"never"`: all images as they are. As they are means scaled to fit.

    Raises:
        UnknownNameError: `photo` is none of these.
        InputError: It is no model of timm or of the zoo, has no weights, or takes other channels. On call: it is no image
            that can be read; of a file the message says which.
    """
    if photo not in PHOTO:
        raise unknown("way with photos", str(photo), PHOTO)
    inner = unwrapped(runnable(model))
    transform, channels = create_transform(inner), images_of(inner)["input_size"][0]
    # Only weights that know Fashion-MNIST's format profit from pictures in it.
    prepared = photo != "never" and class_labels(inner) == FASHION_MNIST.labels

    def read(image: Any) -> Input:
        opened = open_image(image, channels)  # whose own errors name the file
        try:
            if not prepared or in_format(opened):
                return Input(transform(opened), False, (), dict(image=to_mode(opened, "RGB")))
            made = photo_steps(opened, photo)
            return Input(transform(made.image), True, made.warnings, made.steps)
        except InputError as e:
            if not isinstance(image, (str, os.PathLike)):
                raise
            raise InputError(f"{shown_path(image)}: {e}") from e

    return read


def answering(model: nn.Module, photo_model: nn.Module | None, images: int) -> Callable[[Sequence[Input]], Tensor]:
    """What gives logits at the model's temperature, `(B, K)` on the CPU, for B inputs of its `reader`.

    Args:
        model: A classifier.
        photo_model: What answers for those that are treated as photos; `model` itself if None.
        images: How many it is made for, see `inference_form`.

    Raises:
        InputError: A model is no classifier or has no weights, or the two do not fit together.
        CheckpointError: A temperature is no positive number.
    """
    classes = class_count(model)
    check_photo_model(model, photo_model)
    usual = inference_form(model, images), temperature(model)
    others = usual if photo_model is None else (inference_form(photo_model, images), temperature(photo_model))
    forms = {False: usual, True: others}

    def logits(inputs: Sequence[Input]) -> Tensor:
        rows = torch.zeros(len(inputs), classes)
        for kind, (form, divisor) in forms.items():
            if chosen := [i for i, one in enumerate(inputs) if one.photo == kind]:
                rows[chosen] = form(torch.stack([inputs[i].pixels for i in chosen])).cpu() / divisor
        return rows

    return logits
