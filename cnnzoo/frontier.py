"""The picture of results: accuracy against parameters, ours beside what others have published."""

import hashlib
import json
from typing import Any

import numpy as np

from . import published
from .canvas import BLUE, DARK, GREEN, LIGHT, ORANGE, Figure, panels
from .errors import InputError

_TEXTBOOK = "_d2l"
_PROTOCOLS = {published.LAST: ("o", DARK), published.BEST: ("s", LIGHT), published.LEAKY: ("x", LIGHT)}
# Budget: what ends a model's name, with marker and colour. The textbook's networks have none.
_SIZES = {
    "tiny": ("o", ORANGE), "small": ("s", BLUE), "base": ("D", GREEN), "large": ("^", "#CC79A7"), "textbook": ("v", DARK),
}  # fmt: skip
_LOWEST = 92.0  # percent; below it the left panel would be mostly empty


def results(rows: list[dict[str, Any]], others: tuple[published.Published, ...] = published.PUBLISHED) -> Figure:
    """Left: accuracy against parameters, of our checkpoints and of what others have published, with a line through the best
    of each. Right: our families, a row for each, by size.

    Args:
        rows: As `cnnzoo.results()` gives them, of one data set; a bar is the standard deviation over seeds. Variants are
            left out: a point for each model, by its usual recipe.
        others: On the same data set.

    Raises:
        InputError: There is no checkpoint to draw.
    """
    rows = _usual(rows)
    if not rows:
        raise InputError("No checkpoint was given; at least one is needed. Pass cnnzoo.results().")
    figure, (left, right) = panels(5, 2, width_ratios=(1.35, 1))
    figure.suptitle("Accuracy on the Fashion-MNIST test set", fontsize=11)
    _frontiers(left, rows, others)
    _families(right, rows)
    figure.legend(*left.get_legend_handles_labels(), fontsize=7.5, loc="outside lower center", ncols=3, frameon=False)
    return figure


def _frontiers(axes: Any, rows: list[dict[str, Any]], others: tuple[published.Published, ...]) -> None:
    for protocol, name in published.PROTOCOLS.items():
        points = [(p.params, p.top1) for p in others if p.protocol == protocol]
        marker, colour = _PROTOCOLS[protocol]
        axes.plot(
            *zip(*points, strict=True),
            marker,
            color=colour,
            markerfacecolor="none",
            markersize=5,
            linestyle="none",
            label=name,
        )
    last = [(p.params, p.top1, p.name.split(",")[0]) for p in others if p.protocol == published.LAST]
    ours = [(r["params"], r["top1_mean"], r["model"]) for r in rows]
    axes.plot(*zip(*((x, y) for x, y, _ in ours)), "o", color=BLUE, markersize=4, linestyle="none", label="cnnzoo")
    for points, colour, name in ((last, DARK, "best published"), (ours, BLUE, "best of cnnzoo")):
        axes.plot(*zip(*((x, y) for x, y, _ in _best(points))), "-", color=colour, linewidth=1.5, label=name)
    for i, (x, y, name) in enumerate(_best(last)):
        _label(axes, x, y, name, DARK, (-7, -3) if i == 0 else (-2, 6), "right")
    sized = [[p for p in ours if p[2].endswith(f"_{size}")] for size in _SIZES]
    named = [max(points, key=lambda p: p[1]) for points in sized if points]  # of each budget the best
    for i, (x, y, name) in enumerate(named):
        # Left of the line where nothing is; else below it, between the models of this size and those of the next. The last
        # is nearer, since others' results lie there.
        offset, side = ((-6, -3), "right") if i == 0 else ((7, -10) if i == len(named) - 1 else (-18, -22), "left")
        _label(axes, x, y, name, BLUE, offset, side)
    axes.set(xscale="log", xlabel="parameters", ylabel="top-1, % (spaced by the logarithm of the error)")
    axes.set_yscale("function", functions=(lambda a: -np.log(np.maximum(100 - a, 0.1)), lambda v: 100 - np.exp(-v)))
    shown = [y for _, y, _ in ours] + [p.top1 for p in others]
    axes.set(ylim=(min(_LOWEST, *(y for _, y, _ in ours)) - 0.3, max(shown) + 0.25), xlim=(8e3, 6e7))
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    hidden = sum(p.top1 < axes.get_ylim()[0] or p.params < axes.get_xlim()[0] for p in others)
    left_out = f" ({hidden} lie outside)" if hidden else ""
    axes.set_title(f"Against what others have published{left_out}", fontsize=8.5)


def _label(axes: Any, x: float, y: float, name: str, colour: str, offset: tuple[int, int], side: str) -> None:
    axes.annotate(name, (x, y), xytext=offset, textcoords="offset points", fontsize=7.5, color=colour, ha=side)


def _best(points: list[tuple[int, float, str]]) -> list[tuple[int, float, str]]:
    """The points that no smaller one equals, by size."""
    best: list[tuple[int, float, str]] = []
    for point in sorted(points, key=lambda p: (p[0], -p[1])):
        if not best or point[1] > best[-1][1]:
            best.append(point)
    return best


def _families(axes: Any, rows: list[dict[str, Any]]) -> None:
    """A row for each family, the best on top; in it a marker for each size, so that none covers another's."""
    named = sorted({_row(r) for r in rows}, key=lambda name: max(r["top1_mean"] for r in rows if _row(r) == name))
    for i, name in enumerate(named):
        own = [r["top1_mean"] for r in rows if _row(r) == name]
        axes.plot((min(own), max(own)), (i, i), "-", color="#CCCCCC", linewidth=2, zorder=1)
    for size, (marker, colour) in _SIZES.items():
        own = [r for r in rows if _size(r) == size]
        if own:
            axes.errorbar(
                [r["top1_mean"] for r in own], [named.index(_row(r)) for r in own], xerr=[r["top1_std"] or 0 for r in own],
                fmt=marker, color=colour, markersize=6, linewidth=1.2, capsize=2, label=size,
            )  # fmt: skip
    axes.set_yticks(range(len(named)), named, fontsize=8)
    axes.set(xlabel="top-1, %; bars: std over seeds")
    axes.xaxis.label.set_size(8)
    axes.set_title("By family and size", fontsize=8.5)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, loc="lower right")


def _row(r: dict[str, Any]) -> str:
    return r["model"] if r["model"].endswith(_TEXTBOOK) else r["family"]


def _size(r: dict[str, Any]) -> str:
    return "textbook" if r["model"].endswith(_TEXTBOOK) else r["model"].rpartition("_")[2]


def _usual(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [r for r in rows if r["tag"] == r["recipe"]["dataset"]]


def results_note(rows: list[dict[str, Any]]) -> str:
    """What tells a picture of these results from one of others: a hash of all that `results` draws."""
    keys = ("checkpoint", "family", "params", "top1_mean", "top1_std")
    drawn = [[{k: r[k] for k in keys} for r in _usual(rows)], published.PUBLISHED]
    return "sha256 of the data: " + hashlib.sha256(json.dumps(drawn).encode()).hexdigest()
