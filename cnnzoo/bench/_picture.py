"""Accuracy against speed, as a picture."""

from math import ceil
from pathlib import Path
from typing import Any

from ..errors import InputError
from . import _peers
from ._tables import best_speed

_KINDS = ("onnx", "onnx int8")
_HEIGHT = 5.5  # inches
_LINE = 11  # height of a name, in points


def draw(found: dict[str, Any], path: str | Path) -> Path:
    """Draws what `cnnzoo bench infer` wrote: accuracy against images a second, of ONNX files in fp32 (outlined) and int8
    (filled), in the best batch and with the most threads. A peer's accuracy is that of its run that was kept, in fp32, for
    both; one without is below a line at the lower edge, for its speed.

    Raises:
        InputError: No ONNX file was timed.
        CnnzooError: `path` cannot be written.
    """
    from .. import canvas  # which says what to install where matplotlib is missing

    rows = found["rows"]
    threads = max(r["threads"] for r in rows)
    peers = {r["model"]: r["top1"] for r in _peers.trained()}
    rows = [dict(r, top1=peers.get(r["model"], r["top1"])) for r in rows if r["form"] in _KINDS and r["threads"] == threads]
    if not rows:
        raise InputError("No row of an ONNX file was given; at least one is needed. Time the form onnx too.")
    known = [r["top1"] for r in rows if r["top1"] is not None]
    low, high = min(known, default=0), max(known, default=0)
    floor = low - max(0.5, 0.3 * (high - low))  # where models stand whose accuracy nobody measured
    figure, axes = canvas.panels(_HEIGHT)
    first = {r["model"]: (best_speed(r), r["top1"] or floor) for r in reversed(rows)}  # where each model's line begins
    for name in first:
        own = [r for r in rows if r["model"] == name]
        colour = canvas.DARK if _peers.is_peer(name) else canvas.BLUE
        points = [(best_speed(r), r["top1"] or floor) for r in own]
        axes.plot(*zip(*points), "-", color=colour, linewidth=1, zorder=1)
        for point, r in zip(points, own):
            fill = "white" if r["form"] == "onnx" else colour
            axes.plot(*point, "o" if r["top1"] else "^", color=colour, markerfacecolor=fill, zorder=2)
    axes.plot([], [], "o", color=canvas.BLUE, markerfacecolor="white", label="ONNX, fp32")
    axes.plot([], [], "o", color=canvas.BLUE, label="ONNX, int8")
    if any(r["top1"] is not None and _peers.is_peer(r["model"]) for r in rows):
        axes.plot([], [], "o", color=canvas.DARK, label="others, int8 at the accuracy of fp32")
    if any(r["top1"] is None for r in rows):
        axes.plot([], [], "^", color=canvas.DARK, label="others, accuracy not measured: below the line")
        line = (floor + low) / 2
        axes.axhline(line, color=canvas.DARK, linewidth=0.8, linestyle="--", zorder=0)
        axes.set_yticks(range(ceil(line), ceil(high) + 1))
    axes.margins(x=0.2, y=0.25)
    _name(axes, first, {r["model"] for r in rows if r["top1"] is None})
    axes.set(xscale="log", xlabel=f"images a second, {found['hardware'].split(',')[0]}, threads: {threads}")
    axes.set(ylabel="test top-1, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="upper right", frameon=False)
    return canvas.save(figure, path)


def _name(axes: Any, points: dict[str, tuple[float, float]], unknown: set[str]) -> None:
    """Writes the names of models at their points: above, or, where others are close, on the left of all of these, one below
    another, with lines to the points."""
    from .. import canvas

    low, high = axes.get_ylim()
    percent = 72 * 0.85 * _HEIGHT / (high - low)  # in points; the rest of the height has the labels of the axis
    crowd = {
        name: (x, y)
        for name, (x, y) in points.items()
        if any(0.75 < x / other_x < 1.33 and 0 < other_y - y < 0.3 for other_x, other_y in points.values())
    }
    height = float("inf")
    for name, (x, y) in sorted(points.items(), key=lambda item: -item[1][1]):
        colour = canvas.DARK if _peers.is_peer(name) else canvas.BLUE
        place: dict[str, Any] = dict(xytext=(0, 8), ha="center")
        if name in unknown:
            place = dict(xytext=(-2, -8), rotation=-20, ha="left", va="top", rotation_mode="anchor")
        elif name in crowd:
            left = min(other_x for other_x, _ in crowd.values() if 0.5 < x / other_x < 2)
            height = min(y, height - _LINE / percent)
            line = dict(arrowstyle="-", color=colour, linewidth=0.5, shrinkA=0)
            place = dict(xytext=(0.92 * left, height), textcoords="data", ha="right", va="center", arrowprops=line)
        offset = dict(textcoords="offset points") | place
        axes.annotate(name.rpartition(":")[2], (x, y), fontsize=8, color=colour, zorder=3, **offset)
