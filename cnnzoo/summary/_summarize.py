"""Counting a module, and listing it layer by layer.

One pass of one blank image tells it all (`_trace`). A receptive field is the smallest window of the input that holds every
pixel an output position can depend on, padding included: arithmetic on windows (`_fields`), exact or absent.
"""

from collections.abc import Container, Iterator
from dataclasses import dataclass

from torch import nn

from ..errors import InputError
from ._trace import Call, by, pretrained_cfg, trace

_LINES = 40  # of a table that one reads at a glance


@dataclass(frozen=True)
class Count:
    """Size and cost of a model.

    Attributes:
        params: Parameters, buffers not counted.
        macs: Multiply-accumulates of convolutions and matrix products for one image.
    """

    params: int
    macs: int


@dataclass(frozen=True)
class Layer:
    """One line of a summary: a module that ran, with all that is inside it.

    Attributes:
        path: Name within the model, as in `model.get_submodule(path)`.
        type: Class name.
        output_shape: Of one image, such as (C, H, W); None if the module returns no tensor. Of the last call, if it was
            called more than once; `macs` then adds the calls up.
        params, macs: As in `Count`.
        receptive_field: Input pixels an output position depends on, per axis; None where that is not computable or the
            output is no feature map.
    """

    path: str
    type: str
    output_shape: tuple[int, ...] | None
    params: int
    macs: int
    receptive_field: tuple[int, ...] | None


@dataclass(frozen=True)
class Summary:
    """A model in lines and totals; `str()` of it is a table.

    Attributes:
        name: Architecture, or else class name.
        input_size: Of the image that was sent through.
        layers: The modules in the order of their first call, down to the depth asked for.
        stages: The feature levels that a timm model declares, else the children of the model.
        params, macs: Totals; a parameter that modules share counts once.
    """

    name: str
    input_size: tuple[int, ...]
    layers: tuple[Layer, ...]
    stages: tuple[Layer, ...]
    params: int
    macs: int

    def __str__(self) -> str:
        rows = [("module", "type", "output", "parameters", "MACs", "field")]
        for x in self.layers:
            rows.append((x.path, x.type, by(x.output_shape), f"{x.params:,}", f"{x.macs:,}", by(x.receptive_field)))
        rows.append(("total", "", "", f"{self.params:,}", f"{self.macs:,}", ""))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = []
        for row in rows:
            cells = [c.rjust(w) if i in (3, 4) else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
            lines.append("  ".join(cells).rstrip())
        rule = "-" * max(map(len, lines))
        fields = [f"{x.path} {by(x.receptive_field)}" for x in self.stages if x.receptive_field]
        title = f"{self.name}, input {by(self.input_size)}"
        tail = [f"receptive field: {', '.join(fields)}"] if fields else []
        return "\n".join([title, rule, lines[0], rule, *lines[1:-1], rule, lines[-1], *tail])


def count(model: nn.Module, input_size: tuple[int, ...]) -> Count:
    """Counts parameters and multiply-accumulates.

    Args:
        model: Any module; left as it was.
        input_size: Channels, height and width of the image.

    Raises:
        InputError: `model` cannot run on such an image.
    """
    macs = trace(model, input_size).macs
    return Count(_params(model), macs)


def summarize(model: nn.Module, input_size: tuple[int, ...], depth: int | str | None = "auto") -> Summary:
    """Lists what `model` is made of.

    Modules that do nothing (identities, dropout of 0) and modules that are never called have no line.

    Args:
        model: Any module, from timm or not, on any device (on `meta` nothing is computed); left as it was.
        input_size: Channels, height and width of the image.
        depth: Levels of nested modules to list: 1 for the children of the model only, None for all, `"auto"` for as many as
            go into 40 lines, which is all of a small network. A container that is never called itself is no level.

    Returns:
        A `Summary`, which prints as a table.

    Raises:
        InputError: `depth` is none of these, or `model` cannot run on such an image.
    """
    if depth not in (None, "auto") and (not isinstance(depth, int) or isinstance(depth, bool) or depth < 1):
        raise InputError(
            f"depth={depth!r} was given; 1 or more is needed. Pass depth=1 for the coarsest, None for all, or 'auto'."
        )
    root = trace(model, input_size)
    lines: dict[str, Layer] = {}
    for call in root.walk():
        if call.path and not call.idle():
            before = lines[call.path].macs if call.path in lines else 0
            lines[call.path] = _line(call, before)
    levels = {path: _level(path, lines) for path in lines}
    if depth == "auto":
        depths = range(2, max(levels.values(), default=1) + 1)
        depth = max((d for d in depths if sum(level <= d for level in levels.values()) <= _LINES), default=1)
    shown = [x for x in lines.values() if depth is None or levels[x.path] <= depth]
    stages = _levels(model) & lines.keys() or {call.path for call in root.calls} & lines.keys()
    cfg = pretrained_cfg(model)
    return Summary(
        name=cfg.get("architecture") or type(root.module).__name__,
        input_size=tuple(input_size),
        layers=tuple(shown),
        stages=tuple(x for x in lines.values() if x.path in stages),
        params=_params(model),
        macs=root.macs,
    )


def _level(path: str, lines: Container[str]) -> int:
    """How many lines a module is in, its own included."""
    names = path.split(".")
    return sum(".".join(names[:n]) in lines for n in range(1, len(names) + 1))


def layer_summary(model: nn.Module, input_size: tuple[int, ...]) -> list[tuple[str, tuple[int, ...]]]:
    """The textbook's `layer_summary`: class name and output shape of each top-level step, for one image.

    The steps of an `nn.Sequential` are its members. A model with stages has one step per stage, and its head layer by
    layer; if no stage has more than one convolution, as in LeNet, all of it goes layer by layer.

    Args:
        model: Any module; left as it was.
        input_size: Channels, height and width of the image.

    Raises:
        InputError: `model` cannot run on such an image.
    """
    root = trace(model, input_size)
    while len(root.calls) == 1 and isinstance(root.calls[0].module, nn.Sequential):
        root = root.calls[0]  # a model that only wraps a Sequential
    levels = _levels(model)
    steps = list(_steps(root, levels))
    if levels:
        layerwise = max(step.convolutions() for step in steps) <= 1
        steps = [x for s in steps for x in (s.leaves() if layerwise or not s.is_map(len(input_size)) else [s])]
    return [(type(s.module).__name__, s.shape) for s in steps if s.shape is not None and not s.idle()]


def _line(call: Call, more_macs: int) -> Layer:
    seen = None if call.field is None else tuple(axis.size for axis in call.field)
    kind = type(call.module).__name__
    return Layer(call.path, kind, call.shape, _params(call.module), call.macs + more_macs, seen)


def _steps(root: Call, levels: set[str]) -> Iterator[Call]:
    """The calls of `root`; a container of stages is replaced by these."""
    for call in root.calls:
        if sum(level.startswith(f"{call.path}.") for level in levels) > 1:  # one alone lies inside a stage
            yield from _steps(call, levels)
        else:
            yield call


def _params(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _levels(model: nn.Module) -> set[str]:
    """Paths of the modules that a timm model declares as its feature levels."""
    info = getattr(model, "feature_info", None)
    entries = getattr(info, "info", info)  # timm has both lists and FeatureInfo objects
    return {x["module"] for x in entries if x.get("module")} if isinstance(entries, (list, tuple)) else set()
