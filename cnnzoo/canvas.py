"""What pictures are drawn on: figures, their colours, and how they are written. Needs the extra `plot`.

Colours are Okabe and Ito's, which colour-blind people can tell apart; lines and markers differ in style too.
"""

from pathlib import Path
from typing import Any

from .errors import CnnzooError
from .files import atomic, check_writable, user_path

try:
    from matplotlib.figure import Figure
except ImportError as e:
    raise CnnzooError('Plots need matplotlib, which is not installed. Type: pip install "cnnzoo[plot]"') from e

BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
DARK, LIGHT = "#444444", "#999999"  # what others did, and frames
WIDTH = 8  # inches; at 100 dots each about the width of a README


def save(figure: Figure, path: str | Path, note: str = "") -> Path:
    """Writes a figure; the ending of `path` says in which format (png, svg, pdf). A png keeps `note` as its Description.

    Raises:
        CnnzooError: The ending is none that matplotlib knows, or the file cannot be written; nothing is left of it.
    """
    kind = _format_of(path)
    path = user_path(path)
    with atomic(path) as temporary:
        figure.savefig(temporary, format=kind, dpi=100, metadata=dict(Description=note) if kind == "png" else None)
    return path


def check_picture(path: str | Path) -> None:
    """Sees that `save` could write a picture at `path`, before what takes long is done for it.

    Raises:
        CnnzooError: As `save`.
    """
    _format_of(path)
    check_writable(path)


def _format_of(path: str | Path) -> str:
    kinds = Figure().canvas.get_supported_filetypes()
    kind = Path(path).suffix.removeprefix(".").lower()
    if kind not in kinds:
        raise CnnzooError(f"{path} was given as a picture's name; allowed endings are {', '.join(sorted(kinds))}. Use .png.")
    return kind


def literal(text: str) -> str:
    """A text that matplotlib draws as it is, and not what is between dollars as mathematics."""
    return text.replace("$", r"\$")


def panels(height: float, columns: int = 1, **layout: Any) -> tuple[Figure, Any]:
    """A figure of `height` inches with panels side by side: one, or an array of `columns`."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots(1, columns, **layout)


def tiles(count: int, columns: int, title: str, caption: float = 0.0) -> tuple[Figure, list]:
    """A grid of square panels without axes, row by row; `caption` is the room above each, in inches."""
    rows = -(-count // columns)
    figure = Figure(figsize=(WIDTH, rows * (WIDTH / (columns + 0.8) + caption) + 0.5), layout="constrained")
    figure.suptitle(literal(title))
    grid = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    for axes in grid[count:]:
        axes.remove()
    for axes in grid[:count]:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    return figure, grid[:count]


def frame(axes: Any) -> None:
    """A thin frame, so that a white picture has edges on white paper."""
    axes.spines[:].set(visible=True, color=LIGHT, linewidth=1)
