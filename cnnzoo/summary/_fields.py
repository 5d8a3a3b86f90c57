"""Receptive fields: what each tensor operation does to the window of the input that a position sees.

An operation that is not listed has no known reach: what comes out of it has no field. Nothing is estimated.
"""

from typing import Any, NamedTuple

import torch


class Axis(NamedTuple):
    """What the positions of a feature map see along one axis: position i sees `size` pixels from `start + i * jump` on."""

    size: int
    jump: int
    start: int

    def window(self, kernel: int, stride: int, padding: int, dilation: int = 1) -> "Axis":
        reach = (kernel - 1) * dilation * self.jump
        return Axis(self.size + reach, self.jump * stride, self.start - padding * self.jump)


Field = tuple[Axis, ...]


class ChannelsLast(tuple):
    """The field of a map that has been turned to `(B, H, W, C)`, as for layer norm over the channels."""


Input = tuple[Field | None, tuple[int, ...]]  # a field, and the number of positions per axis

_KEEPING = {"clone", "_to_copy", "detach", "alias", "lift_fresh", "_native_batch_norm_legit_no_training"}
_POINTWISE = {"hardswish", "_prelu_kernel"}  # those that torch has not tagged


def field_after(func: Any, args: tuple, inputs: list[Input], output: tuple[int, ...]) -> Field | None:
    """The field of what an operation returns, None if it is not known.

    Args:
        func: The operation, as a dispatch mode sees it.
        args: Its positional arguments.
        inputs: Of the arguments that depend on the image.
        output: Positions per axis of what it returned.
    """
    op = func.overloadpacket.__name__.removesuffix("_")  # in place or not
    if any(known is None for known, _ in inputs):
        return None
    seen, positions = inputs[0]
    axes = len(seen)
    if any(isinstance(known, ChannelsLast) for known, _ in inputs) or op in ("permute", "native_layer_norm"):
        return _turned(op, seen, axes, args) if len(inputs) == 1 else None
    if op in _POINTWISE or torch.Tag.pointwise in func.tags:
        return _join(inputs, output)
    if op == "cat":
        rank = args[0][0].dim()
        return _join(inputs, output) if _arg(args, 1, 0) % rank < rank - axes else None
    if len(inputs) > 1:
        return None
    if op in _KEEPING:
        return seen
    rule = _RULES.get(op)
    return rule(seen, positions, axes, args) if rule else None


def _turned(op: str, seen: Field, axes: int, args: tuple) -> Field | None:
    """What is known where channels go last and back, and of what is done to them there, position by position."""
    last = isinstance(seen, ChannelsLast)
    rank = args[0].dim()
    space = tuple(range(2, rank))
    if op in _KEEPING:
        return seen
    if op == "permute" and rank == axes + 2:
        to = tuple(d % rank for d in args[1])
        if to == ((0, rank - 1, *range(1, rank - 1)) if last else (0, *space, 1)):
            return tuple(seen) if last else ChannelsLast(seen)
    return seen if op == "native_layer_norm" and last and len(args[1]) == 1 else None


def _join(inputs: list[Input], output: tuple[int, ...]) -> Field | None:
    """The field around several that meet position by position."""
    joined = []
    for i, n in enumerate(output):
        parts = [known[i]._replace(jump=0) if positions[i] < n else known[i] for known, positions in inputs]  # broadcast
        low = min(axis.start for axis in parts)
        if len({axis.jump for axis in parts}) == 1:
            joined.append(Axis(max(axis.start + axis.size for axis in parts) - low, parts[0].jump, low))
            continue
        # Something pooled over the whole map, as in squeeze-and-excitation: all positions see what it sees.
        high = max(axis.start + (n - 1) * axis.jump + axis.size for axis in parts)
        whole = Axis(high - low, 0, low)
        if whole not in parts:
            return None
        joined.append(whole)
    return tuple(joined)


def _each(value: Any, axes: int) -> list[int]:
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    return values * axes if len(values) == 1 else values


def _arg(args: tuple, index: int, default: Any) -> Any:
    return args[index] if len(args) > index else default


def _convolve(seen: Field, positions: Any, axes: int, args: tuple) -> Field | None:
    weight, stride, padding, dilation, transposed = args[1], args[3], args[4], args[5], args[6]
    if transposed or weight.dim() != axes + 2:
        return None
    settings = zip(seen, weight.shape[2:], *(_each(v, axes) for v in (stride, padding, dilation)), strict=True)
    return tuple(axis.window(*setting) for axis, *setting in settings)


def _pool(seen: Field, positions: Any, axes: int, args: tuple, dilation: Any = 1) -> Field | None:
    if args[0].dim() != axes + 2:
        return None
    kernel = _each(args[1], axes)
    stride = _each(_arg(args, 2, []) or kernel, axes)
    settings = zip(seen, kernel, stride, _each(_arg(args, 3, 0), axes), _each(dilation, axes), strict=True)
    return tuple(axis.window(*setting) for axis, *setting in settings)


def _max_pool(seen: Field, positions: Any, axes: int, args: tuple) -> Field | None:
    return _pool(seen, positions, axes, args, _arg(args, 4, 1))


def _batch_norm(seen: Field, positions: Any, axes: int, args: tuple) -> Field | None:
    return None if args[5] else seen  # statistics of the image itself reach over all of it


def _adaptive_pool(seen: Field, positions: Any, axes: int, args: tuple) -> Field | None:
    sizes = [out or n for out, n in zip(_each(args[1], axes), positions, strict=True)]
    if any(n % out for out, n in zip(sizes, positions, strict=True)):
        return None  # windows of different sizes
    return tuple(a.window(n // out, n // out, 0) for a, out, n in zip(seen, sizes, positions, strict=True))


def _reduce(seen: Field, positions: Any, axes: int, args: tuple) -> Field | None:
    if not _arg(args, 2, False):  # keepdim
        return None
    rank = args[0].dim()
    dims = {d % rank for d in args[1] or range(rank)}
    return tuple(
        axis.window(n, n, 0) if rank - axes + i in dims else axis
        for i, (axis, n) in enumerate(zip(seen, positions, strict=True))
    )


def _pad(seen: Field, positions: Any, axes: int, args: tuple) -> Field | None:
    before = [*args[1][0::2], *[0] * axes]  # from the last axis to the first
    return tuple(axis._replace(start=axis.start - before[axes - 1 - i] * axis.jump) for i, axis in enumerate(seen))


def _slice(seen: Field, positions: Any, axes: int, args: tuple) -> Field | None:
    i = _arg(args, 1, 0) % args[0].dim() - (args[0].dim() - axes)
    if i < 0:
        return seen
    first, _, _ = slice(_arg(args, 2, None), None).indices(positions[i])
    step = _arg(args, 4, 1)
    cut = seen[i]._replace(start=seen[i].start + first * seen[i].jump, jump=seen[i].jump * step)
    return (*seen[:i], cut, *seen[i + 1 :])


def _split(seen: Field, positions: Any, axes: int, args: tuple) -> Field | None:
    return seen if _arg(args, 2, 0) % args[0].dim() < args[0].dim() - axes else None


def _transpose(seen: Field, positions: Any, axes: int, args: tuple) -> Field | None:
    return seen if all(d % args[0].dim() < args[0].dim() - axes for d in args[1:3]) else None


def _view(seen: Field, positions: Any, axes: int, args: tuple) -> Field | None:
    return seen if tuple(args[1][-axes:]) == tuple(positions) and len(args[1]) >= axes + 2 else None


_RULES = {
    **dict.fromkeys(("convolution", "_convolution"), _convolve),
    **dict.fromkeys(("avg_pool2d", "avg_pool3d"), _pool),
    **dict.fromkeys(("max_pool2d_with_indices", "max_pool3d_with_indices"), _max_pool),
    **dict.fromkeys(("_adaptive_avg_pool2d", "adaptive_max_pool2d"), _adaptive_pool),
    **dict.fromkeys(("mean", "sum", "amax", "amin"), _reduce),
    **dict.fromkeys(("native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm"), _batch_norm),
    **dict.fromkeys(("split", "split_with_sizes"), _split),
    **dict.fromkeys(("view", "_unsafe_view"), _view),
    "constant_pad_nd": _pad,
    "slice": _slice,
    "transpose": _transpose,
}
