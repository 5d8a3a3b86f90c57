"""Accuracy against speed, as a picture."""

import itertools
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from . import _peers
from ._tables import best_speed

_KINDS = ("onnx", "onnx int8")
_HEIGHT = 5.5  # inches
_MARKER = 4  # half the width of a marker, in pixels
_DISTANCES = (7, 18, 30, 42, 54, 70, 90)  # of a name from its point, in points
_DIRECTIONS = ((0, 1), (1, 1), (-1, 1), (-1, 0), (0, -1), (-1, -1), (1, -1), (1, 0))  # right, up


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
    rows = [r for r in rows if r["form"] in _KINDS and r["threads"] == threads and "failed" not in r]
    rows = [dict(r, top1=peers.get(r["model"], r["top1"])) for r in rows]
    if not rows:
        raise InputError("No row of an ONNX file was given; at least one is needed. Time the form onnx too.")
    known = [r["top1"] for r in rows if r["top1"] is not None]
    low, high = min(known, default=0), max(known, default=0)
    floor = low - max(0.5, 0.3 * (high - low))  # where models stand whose accuracy nobody measured
    figure, axes = canvas.panels(_HEIGHT)
    lines: dict[str, list[tuple[float, float]]] = {}
    for name in dict.fromkeys(r["model"] for r in rows):
        own = [r for r in rows if r["model"] == name]
        colour = canvas.DARK if _peers.is_peer(name) else canvas.BLUE
        points = lines[name] = [(best_speed(r), r["top1"] or floor) for r in own]
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
    axes.set(xscale="log", xlabel=f"images a second, {found['hardware'].split(',')[0]}, threads: {threads}")
    axes.set(ylabel="test top-1, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="upper right", frameon=False)
    _name(axes, lines)
    return canvas.save(figure, path)


def _name(axes: Any, lines: dict[str, list[tuple[float, float]]]) -> None:
    """Writes the names of models where their lines begin: each at the nearest of several places where it hides no other
    name, no line and no legend, or above where there is none such; with a line to its point where that is far away."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text
    from matplotlib.transforms import Bbox

    sheet = FigureCanvasAgg(axes.figure)
    sheet.draw()  # which fixes the limits, and where the legend is
    taken = [axes.get_legend().get_window_extent()]
    for first, *_, last in ((p[0], *p, p[-1]) for p in map(axes.transData.transform, lines.values())):
        steps = np.linspace(first, last, 2 + int(np.abs(last - first).max() / _MARKER))
        taken += [Bbox([step - _MARKER, step + _MARKER]) for step in steps]

    def box_of(text: Text) -> Bbox:
        text.update_positions(sheet.get_renderer())
        return Text.get_window_extent(text)  # an annotation's own has its line too

    def free(box: Bbox) -> bool:
        inside = axes.bbox.contains(*box.min) and axes.bbox.contains(*box.max)
        return inside and not any(box.overlaps(other) for other in taken)

    for name, (point, *_) in sorted(lines.items(), key=lambda item: -item[1][0][1]):
        places = itertools.product(_DISTANCES, _DIRECTIONS)
        texts = (_written(axes, name, point, *place) for place in (*places, (_DISTANCES[0], _DIRECTIONS[0])))
        text = next(texts)
        while not free(box := box_of(text)) and (other := next(texts, None)):
            text.remove()
            text = other
        taken.append(box)


def _written(axes: Any, name: str, point: tuple[float, float], distance: int, direction: tuple[int, int]) -> Any:
    """The name of a model, so many points from its marker."""
    from .. import canvas

    right, up = direction
    colour = canvas.DARK if _peers.is_peer(name) else canvas.BLUE
    line = dict(arrowstyle="-", color=colour, linewidth=0.5, shrinkA=0) if distance > _DISTANCES[0] else None
    sides = dict(ha=("center", "left", "right")[right], va=("center", "bottom", "top")[up])
    place = dict(xytext=(right * distance, up * distance), textcoords="offset points")
    looks = dict(fontsize=8, color=colour, zorder=3, arrowprops=line)
    return axes.annotate(name.rpartition(":")[2], point, **looks, **place, **sides)
