"""One forward pass, watched.

Hooks on the modules see who is called and what comes out; underneath, a dispatch mode sees every tensor operation, so
functional calls, branches and joins count as much as layers do.
"""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from ..errors import InputError
from ._fields import Axis, Field, field_after


def by(numbers: tuple[int, ...] | None) -> str:
    """`(1, 28, 28)` as `"1x28x28"`; a dash for nothing."""
    return "x".join(map(str, numbers)) if numbers else "-"


def pretrained_cfg(model: nn.Module) -> dict[str, Any]:
    """timm's facts about a model, empty for any other."""
    cfg = getattr(model, "pretrained_cfg", None)
    return cfg if isinstance(cfg, dict) else {}


@dataclass
class Call:
    """One call of a module.

    Attributes:
        path, module: What was called.
        shape: Of the first tensor that came out, without the batch axis.
        macs: Multiply-accumulates, inner calls included.
        calls: Those inside, in order.
        field: Receptive field of the output, if known.
    """

    path: str
    module: nn.Module
    shape: tuple[int, ...] | None = None
    macs: int = 0
    calls: list["Call"] = field(default_factory=list)
    field: Field | None = None

    def walk(self) -> Iterator["Call"]:
        yield self
        for call in self.calls:
            yield from call.walk()

    def leaves(self) -> Iterator["Call"]:
        """The innermost calls, but no parts of a layer that has parameters itself."""
        if not self.calls or next(self.module.parameters(recurse=False), None) is not None:
            yield self
            return
        for call in self.calls:
            yield from call.leaves()

    def convolutions(self) -> int:
        return sum(isinstance(call.module, nn.modules.conv._ConvNd) for call in self.walk())

    def is_map(self, axes: int) -> bool:
        return self.shape is not None and len(self.shape) == axes

    def idle(self) -> bool:
        """Whether the module does nothing, not even in training."""
        m = self.module
        empty = isinstance(m, nn.Sequential) and len(m) == 0
        return empty or isinstance(m, nn.Identity) or (isinstance(m, nn.Dropout) and m.p == 0)


def trace(model: nn.Module, input_size: tuple[int, ...]) -> Call:
    """Sends a blank image through `model` in evaluation mode, and puts everything back.

    Raises:
        InputError: `model` is none, `input_size` is no size, or `model` cannot run on it.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"A {type(model).__name__} was given as a model. Make one with cnnzoo.create_model.")
    model = getattr(model, "_orig_mod", model)  # of torch.compile, whose graph has no modules
    try:
        valid = len(input_size) > 0 and all(isinstance(n, int) and n > 0 for n in input_size)
    except TypeError:
        valid = False
    if not valid:
        raise InputError(
            f"input_size={input_size!r} was given; channels, height and width in pixels are needed. Pass (1, 28, 28)."
        )
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError(
            f"A {type(model).__name__} was given, which is compiled TorchScript; a Python module is needed. "
            "Pass the module it was made from."
        )
    if any(nn.parameter.is_lazy(p) for p in model.parameters()):
        raise InputError(
            f"A {type(model).__name__} with lazy layers was given; layers of known size are needed. Call it once first: "
            f"model(torch.zeros(1, {', '.join(map(str, input_size))}))."
        )
    try:
        return _run(model, tuple(input_size))
    except Exception as e:  # whatever a foreign forward raises
        raise _cannot_run(model, tuple(input_size), e) from e


def _run(model: nn.Module, input_size: tuple[int, ...]) -> Call:
    reference = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    modes = [(m, m.training) for m in model.modules()]  # one by one: a frozen norm may be in another than the model
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))  # it would hide from the tracer what operations are made of
        stack.enter_context(torch.no_grad())
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))  # attention as the matrix products it is
        stack.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)
        if any(isinstance(m, nn.RNNBase) for m in model.modules()):
            stack.enter_context(torch.backends.mkldnn.flags(enabled=False))  # in which an LSTM is one operation
        image = torch.zeros(1, *input_size, device=reference.device, dtype=reference.dtype)
        tracer = _Tracer(image)
        try:
            tracer.attach(model)
            model.eval()
            with tracer:
                model(image)
        finally:
            tracer.detach()
            for m, training in modes:
                m.training = training
    return tracer.root


def _cannot_run(model: nn.Module, input_size: tuple[int, ...], e: Exception) -> InputError:
    name = type(model).__name__
    cause = str(e).partition("\n")[0].partition(". ")[0].rstrip(".")
    first = next((m for m in model.modules() if isinstance(m, (nn.modules.conv._ConvNd, nn.Linear))), None)
    channels = getattr(first, "in_channels", None) or getattr(first, "in_features", None) or input_size[0]
    for size in (pretrained_cfg(model).get("input_size") or (), input_size):
        size = (channels, *size[1:])
        with contextlib.suppress(Exception):
            _run(model, size)
            return InputError(
                f"input_size={input_size} was given, {name} cannot run on it ({type(e).__name__}: {cause}). "
                f"It takes {by(size)}, for one: pass input_size={size}."
            )
    return InputError(
        f"input_size={input_size} was given, {name} cannot run on it ({type(e).__name__}: {cause}). It takes what it was "
        "built for: pass input_size=(channels, height, width) of an image that model(image[None]) accepts."
    )


class _Tracer(TorchDispatchMode):
    """Notes calls of modules (by hooks) and multiplications and receptive fields (by operation)."""

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        self.root: Call | None = None
        self.open: list[Call] = []
        self.handles: list[Any] = []
        self.axes = image.dim() - 2
        self.fields = WeakTensorKeyDictionary()  # of what depends on the image; None where the field is not known
        self.fields[image] = (Axis(1, 1, 0),) * self.axes if self.axes > 0 else None

    def attach(self, model: nn.Module) -> None:
        for path, module in model.named_modules():
            self.handles.append(module.register_forward_pre_hook(lambda m, _, path=path: self._enter(m, path)))
            self.handles.append(module.register_forward_hook(self._leave))

    def detach(self) -> None:
        for handle in self.handles:
            handle.remove()

    def _enter(self, module: nn.Module, path: str) -> None:
        call = Call(path, module)
        if self.open:
            self.open[-1].calls.append(call)
        else:
            self.root = call
        self.open.append(call)

    def _leave(self, module: nn.Module, _: Any, output: Any) -> None:
        while (call := self.open.pop()).module is not module:
            pass  # calls that ended in an error which the model caught
        tensor = next((x for x in tree_leaves(output) if isinstance(x, Tensor)), None)
        if tensor is not None:
            call.shape = tuple(tensor.shape[1:])
            call.field = self.fields.get(tensor)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        macs = _macs(func.overloadpacket.__name__, args, output)
        for call in self.open:
            call.macs += macs
        inputs = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor) and x in self.fields]
        if inputs:
            outputs = [x for x in tree_leaves(output) if isinstance(x, Tensor)]
            seen = self._field_after(func, args, inputs, outputs)
            for x in outputs:
                self.fields[x] = seen if x.dim() >= self.axes + 2 else None
                if func._schema.is_mutable and x._base is not None:
                    self.fields[x._base] = None  # written in part
        return output

    def _field_after(self, func: Any, args: tuple, inputs: list[Tensor], outputs: list[Tensor]) -> Field | None:
        if not outputs:
            return None
        seen = [(self.fields[x], x.shape[-self.axes :]) for x in inputs]
        return field_after(func, args, seen, outputs[0].shape[-self.axes :])


def _macs(op: str, args: tuple[Any, ...], output: Any) -> int:
    if op in ("convolution", "_convolution"):
        image, weight, transposed = args[0], args[1], args[6]
        positions = (image if transposed else output).shape[2:]
        return image.shape[0] * math.prod(positions) * weight.numel()  # each weight works once per position, groups or not
    if op in ("mm", "bmm", "addmm", "baddbmm"):
        left, right = args[-2:] if op in ("mm", "bmm") else args[1:3]
        return left.numel() * right.shape[-1]
    if op in ("mv", "dot", "vdot"):
        return args[0].numel()
    if op in ("addmv", "addbmm"):
        return args[1].numel() * (args[2].shape[-1] if op == "addbmm" else 1)
    return 0
