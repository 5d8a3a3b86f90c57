"""Batch norms made part of the convolutions before them, in any model.

Which convolution a norm follows is not read from the kinds of modules, but seen while one image passes through. So it works
for models of others too.
"""

import inspect
from collections import Counter
from functools import partial
from types import MethodType
from typing import Any

import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_weights
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves


def fold(model: nn.Module, example: Tensor) -> nn.Module:
    """Merges every batch norm that follows a convolution into it, in place; outputs stay what they were, up to rounding.

    A max pooling in between does not matter unless one of the norm's factors is negative, which makes the largest the least.
    A convolution whose output goes elsewhere too keeps it, and so does one on which somebody has put a hook. Blocks that say
    by a method `fuse` what they are after training, such as RepVGG's, become that first.

    Args:
        model: In evaluation mode, the caller's own: its modules get new parameters, none is written to.
        example: What it takes, `(B, C, H, W)`, on its device and in its number format; one image will do.

    Returns:
        `model`.
    """
    with torch.inference_mode(False), torch.no_grad():
        _reparameterize(model)
        places: dict[int, list[str]] = {}
        rests: dict[int, nn.Module] = {}
        for name, module in model.named_modules(remove_duplicate=False):
            places.setdefault(id(module), []).append(name)
        pairs = _pairs(model, example.clone())  # kept, since a new module could get the id of a norm that is gone
        for conv, norm in pairs:
            values = (norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
            conv.weight, conv.bias = fuse_conv_bn_weights(conv.weight, conv.bias, *values)
            rests[id(norm)] = _rest(norm)
            for name in places[id(norm)]:
                model.set_submodule(name, rests[id(norm)])
        for module in model.modules():  # norms may also stand in a plain list
            vars(module).update({k: rebound(v, rests) for k, v in vars(module).items()})
    return model


def rebound(value: Any, copies: dict[int, nn.Module]) -> Any:
    """A module, a method of one, or a partial function, as that of the module's copy; so for those in lists and the like."""
    if isinstance(value, nn.Module):
        return copies.get(id(value), value)
    if type(value) in (list, tuple):
        return type(value)(rebound(v, copies) for v in value)
    if type(value) is dict:
        return {k: rebound(v, copies) for k, v in value.items()}
    if isinstance(value, MethodType):
        return MethodType(value.__func__, copies.get(id(value.__self__), value.__self__))
    if isinstance(value, partial):
        return partial(value.func, *(copies.get(id(arg), arg) for arg in value.args), **value.keywords)
    return value


def _reparameterize(model: nn.Module) -> None:
    """timm's `reparameterize_model`, which takes a layer that is called `fuse` for a method, and writes to parameters."""
    for name, child in model.named_children():
        found = next((m for m in _FUSING if _needs_nothing(getattr(child, m, None))), None)
        if found:
            own: dict[int, Tensor] = {}  # copies, since some of these methods change the data of parameters, or freeze them
            for module in child.modules():
                for key, p in module._parameters.items():
                    if p is not None:
                        module._parameters[key] = own.setdefault(id(p), nn.Parameter(p.clone(), p.requires_grad))
                for key, buffer in module._buffers.items():
                    if buffer is not None:
                        module._buffers[key] = own.setdefault(id(buffer), buffer.clone())
            made = getattr(child, found)()
            if found == "fuse":  # the others change the block itself
                model._modules[name] = child = made
        _reparameterize(child)


_FUSING = ("fuse", "reparameterize", "switch_to_deploy")


def _needs_nothing(method: Any) -> bool:
    if not inspect.ismethod(method):
        return False
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(method).parameters.values()
    return all(p.default is not inspect.Parameter.empty or p.kind in kinds for p in parameters)


def _rest(norm: nn.BatchNorm2d) -> nn.Module:
    """What a batch norm does beside: timm's may have dropout and activation inside."""
    parts = [getattr(norm, part, None) for part in ("drop", "act")]
    kept = [m for m in parts if m is not None and not isinstance(m, (nn.Identity, nn.Dropout))]
    return kept[0] if len(kept) == 1 else nn.Sequential(*kept)


class _Uses(TorchFunctionMode):
    """Counts how many operations take each tensor, by its id; reading a shape is none, writing to a part of it is one."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[int] = Counter()
        self._kept: list[Tensor] = []  # or a later tensor might get the id of one that is gone

    def __torch_function__(self, func, types, args=(), kwargs=None) -> Any:
        out = func(*args, **(kwargs or {}))
        if out is None or any(isinstance(leaf, Tensor) for leaf in tree_leaves(out)):
            self.add((args, kwargs))
        return out

    def add(self, values: Any) -> None:
        tensors = [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
        self.counts.update({id(tensor) for tensor in tensors})
        self._kept += tensors


def _pairs(model: nn.Module, example: Tensor) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """The convolutions and the norms that can be merged into them."""
    calls: list[tuple[nn.Module, Tensor, Tensor]] = []
    handles = [
        module.register_forward_hook(
            lambda module, args, named, out: calls.append((module, args[0] if args else named["input"], out)),
            with_kwargs=True,
        )
        for module in model.modules()
        if _is_plain(module)
    ]
    try:
        with _Uses() as uses:
            uses.add(model(example))
    finally:
        for handle in handles:
            handle.remove()
    times = Counter(id(module) for module, _, _ in calls)
    made_by = {id(out): (module, given) for module, given, out in calls if times[id(module)] == 1}
    pairs = []
    for norm, given, _ in calls:
        if not isinstance(norm, nn.BatchNorm2d) or times[id(norm)] > 1:
            continue
        source, before = made_by.get(id(given), (None, given))
        used = [uses.counts[id(given)]]
        if isinstance(source, nn.MaxPool2d) and not (norm.weight < 0).any():
            used.append(uses.counts[id(before)])
            source, _ = made_by.get(id(before), (None, before))
        if isinstance(source, nn.Conv2d):
            used += [uses.counts[id(p)] for p in source.parameters(recurse=False)]  # which may be read elsewhere too
        if isinstance(source, nn.Conv2d) and max(used) == 1:
            pairs.append((source, norm))
    return pairs


def _is_plain(module: nn.Module) -> bool:
    """Whether a module is a convolution, a pooling or a norm that does what its class says, and nobody looks at it."""
    if module._forward_hooks or module._forward_pre_hooks:
        return False
    if type(module) in (nn.BatchNorm2d, BatchNormAct2d):
        return module.affine and module.running_mean is not None
    return type(module) in (nn.Conv2d, nn.MaxPool2d)
