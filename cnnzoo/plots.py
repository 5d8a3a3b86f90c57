"""Pictures of runs, models and mistakes. Each function returns a matplotlib figure; `save` writes it.

Needs the extra `plot`. Colours are Okabe and Ito's, which colour-blind people can tell apart, and lines differ in style too.
"""

import hashlib
import json
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import published
from .data import Split
from .errors import CheckpointError, CnnzooError, InputError, system_errors
from .files import atomic, parse_json
from .inference import class_count, class_labels, evaluation_copy, reader, temperature
from .predict import predict

try:
    from matplotlib.figure import Figure
except ImportError as e:
    raise CnnzooError('Plots need matplotlib, which is not installed. Type: pip install "cnnzoo[plot]"') from e

_BLUE, _ORANGE, _GREEN, _RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
# A family's colour and marker; no two have the same of either. The colours are Okabe and Ito's, then Tol's muted ones.
_HUES = (
    _BLUE, _RED, _GREEN, "#CC79A7", _ORANGE, "#56B4E9", "#000000",
    "#882255", "#999933", "#332288", "#661100", "#888888", "#44AA99", "#DDCC77",
)  # fmt: skip
_FAMILIES = tuple(zip(_HUES, "osD^vPX<>phd8*", strict=True))
_TEXTBOOK = "textbook networks"
_PROTOCOLS = {published.LAST: ("o", "#444444"), published.BEST: ("s", "#AAAAAA"), published.LEAKY: ("x", "#AAAAAA")}
_MOST = 32  # pictures in a row, or rows of them: more could not be told apart, and would take minutes to draw
_WIDTH = 8  # inches; at 100 dots each about the width of a README
# What a line of metrics.jsonl may hold: name, legend, colour, style, factor.
_CURVES = (
    ("train_loss", "training loss", _BLUE, "-", 1.0),
    ("holdout_loss", "validation loss", _RED, "--", 1.0),
    ("train_top1", "training accuracy", _ORANGE, ":", 0.01),
    ("holdout_top1", "validation accuracy", _GREEN, "-.", 0.01),
)


def save(figure: Figure, path: str | Path, note: str = "") -> Path:
    """Writes a figure; the ending of `path` says in which format (png, svg, pdf). A png keeps `note` as its Description.

    Raises:
        CnnzooError: The ending is none that matplotlib knows, or the file cannot be written; nothing is left of it.
    """
    path = Path(path)
    kinds = figure.canvas.get_supported_filetypes()
    kind = path.suffix.removeprefix(".").lower()
    if kind not in kinds:
        raise CnnzooError(f"{path} was given as a picture's name; allowed endings are {', '.join(sorted(kinds))}. Use .png.")
    with atomic(path) as temporary:
        figure.savefig(temporary, format=kind, dpi=100, metadata=dict(Description=note) if kind == "png" else None)
    return path


@system_errors()
def curves(run: str | Path) -> Figure:
    """Loss and accuracy of a run by epoch, in one panel as the textbook draws them.

    Args:
        run: A run folder, or its metrics.jsonl. Validation is the holdout, which only runs with `--holdout` measure.

    Raises:
        CheckpointError: There is no epoch to draw.
    """
    path = Path(run)
    path = path / "metrics.jsonl" if path.is_dir() else path
    try:
        lines = [parse_json(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        epochs = [line["epoch"] for line in lines]
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError) as e:
        raise CheckpointError(f"{path} is no log of a run ({e}). Name a run folder, made by cnnzoo train.") from e
    if not epochs:
        raise CheckpointError(f"{path} has no completed epoch yet. Wait for the first one.")
    figure, axes = _panel(0.5 * _WIDTH)
    top = 0.0
    for key, name, colour, style, factor in _CURVES:
        values = [line.get(key) for line in lines]
        if None not in values:
            scaled = [v * factor for v in values]
            top = max(top, *scaled)
            last = f"{values[-1]:.2f} %" if key.endswith("top1") else f"{values[-1]:.3f}"
            marker = "o" if len(epochs) == 1 else ""
            axes.plot(epochs, scaled, style, color=colour, marker=marker, linewidth=2, label=f"{name}: {last}")
    axes.set(xlabel="epoch", ylabel="loss (nats), accuracy (share)", ylim=(0, 1.05 * max(1.0, top)))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, title="at the last epoch")
    return figure


def confusion_matrix(confusion: Any, labels: tuple[str, ...], title: str = "") -> Figure:
    """How often each class was called what, in percent of the class; colour shows the errors, not the diagonal.

    Args:
        confusion: Counts `(K, K)`, row the true class, column the answer, as in `evaluate.Metrics`.
        labels: Names of the K classes.
        title: Above the picture.
    """
    counts = torch.as_tensor(confusion, dtype=torch.double)
    if counts.shape != (len(labels), len(labels)):
        raise InputError(
            f"Counts of shape {tuple(counts.shape)} were given for {len(labels)} labels. Pass a square, one row per label."
        )
    share = 100 * counts / counts.sum(1, keepdim=True).clamp(min=1)
    errors = share.clone().fill_diagonal_(0)
    figure, axes = _panel(0.92 * _WIDTH)
    picture = axes.imshow(errors.numpy(), cmap="Blues", vmin=0, vmax=max(1.0, errors.max().item()))
    for i, row in enumerate(share.tolist()):
        for j, value in enumerate(row):
            strong = i != j and errors[i, j] > 0.6 * errors.max()
            axes.text(
                j, i, "·" if value == 0 else f"{value:.1f}", ha="center", va="center", fontsize=9,
                color="white" if strong else "black", fontweight="bold" if i == j else "normal",
            )  # fmt: skip
    axes.set_xticks(range(len(labels)), labels, rotation=40, ha="right")
    axes.set_yticks(range(len(labels)), labels)
    axes.set(xlabel="answer", ylabel="true class", title=title)
    figure.colorbar(picture, ax=axes, shrink=0.7, label="errors, % of the true class")
    return figure


def results(rows: list[dict[str, Any]], others: tuple[published.Published, ...] = published.PUBLISHED) -> Figure:
    """Accuracy against parameters, of checkpoints by family and of what others have published.

    Args:
        rows: As `cnnzoo.results()` gives them, of one data set; a bar is the standard deviation over seeds. Variants are
            left out: a point for each model, by its usual recipe. The textbook's networks are a series of their own.
        others: On the same data set.

    Raises:
        InputError: There is no checkpoint to draw.
    """
    rows = _usual(rows)
    if not rows:
        raise InputError("No checkpoint was given, one at least is needed. Pass cnnzoo.results().")
    figure, axes = _panel(0.75 * _WIDTH)
    for protocol, name in published.PROTOCOLS.items():
        points = [p for p in others if p.protocol == protocol]
        marker, colour = _PROTOCOLS[protocol]
        axes.plot(
            [p.params for p in points], [p.top1 for p in points], marker, color=colour, markerfacecolor="none", label=name
        )
    last = [p for p in others if p.protocol == published.LAST]
    for p in last:
        if not any(q.top1 >= p.top1 and q.params <= p.params for q in last if q != p):  # the best of their size
            place = dict(xytext=(0, 7), textcoords="offset points", ha="center")
            axes.annotate(p.name.split(",")[0], (p.params, p.top1), fontsize=8, color=_PROTOCOLS[published.LAST][1], **place)
    for series, (colour, marker) in zip(sorted({_series(r) for r in rows}), _FAMILIES):
        own = sorted((r for r in rows if _series(r) == series), key=lambda r: r["params"])
        line = "" if series == _TEXTBOOK else "-"  # joins the sizes of a family
        axes.errorbar(
            [r["params"] for r in own], [r["top1_mean"] for r in own], [r["top1_std"] or 0 for r in own], fmt=marker,
            linestyle=line, linewidth=1, color=colour, markeredgecolor="black", markersize=7, label=series,
        )  # fmt: skip
    axes.set(xscale="log", xlabel="parameters", ylabel="test top-1, % (spaced by the logarithm of the error)")
    axes.set_yscale("function", functions=(lambda a: -np.log(np.maximum(100 - a, 0.1)), lambda v: 100 - np.exp(-v)))
    axes.margins(x=0.1, y=0.08)
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    figure.suptitle("Fashion-MNIST: cnnzoo's families (filled) and published results (outlined)")
    handles, names = axes.get_legend_handles_labels()
    theirs = len(published.PROTOCOLS)
    axes.legend(handles[:theirs], names[:theirs], fontsize=8, loc="lower right")
    figure.legend(handles[theirs:], names[theirs:], fontsize=8, loc="outside lower center", ncols=6, frameon=False)
    return figure


def _usual(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [r for r in rows if r["tag"] == r["recipe"]["dataset"]]


def _series(row: dict[str, Any]) -> str:
    return _TEXTBOOK if row["model"].endswith("_d2l") else row["family"]


def results_note(rows: list[dict[str, Any]]) -> str:
    """What tells a picture of these results from one of others: a hash of all that `results` draws."""
    keys = ("checkpoint", "family", "params", "top1_mean", "top1_std")
    drawn = [[{k: r[k] for k in keys} for r in _usual(rows)], published.PUBLISHED]
    return "sha256 of the data: " + hashlib.sha256(json.dumps(drawn).encode()).hexdigest()


def filters(model: nn.Module, title: str = "") -> Figure:
    """The kernels of a model's first convolution, one tile each, each scaled to its own largest weight.

    Raises:
        InputError: The model has no 2d convolution.
    """
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    if first is None:
        raise InputError(f"{type(model).__name__} has no 2d convolution to show. Pass a convolutional network.")
    kernels = first.weight.detach().float().cpu().mean(1)  # (C_out, C_in, k, k) -> (C_out, k, k)
    kernels = kernels / kernels.abs().amax((1, 2), keepdim=True).clamp(min=1e-12)
    columns = min(8, len(kernels))
    size = f"{len(kernels)} kernels of {kernels.shape[1]}x{kernels.shape[2]}"
    figure, tiles = _tiles(len(kernels), columns, title or f"First convolution: {size}")
    for axes, kernel in zip(tiles, kernels, strict=True):
        picture = axes.imshow(kernel.numpy(), cmap="RdBu_r", vmin=-1, vmax=1)
    figure.colorbar(picture, ax=tiles, shrink=0.8, label="weight, share of the largest")
    return figure


def feature_maps(model: nn.Module, image: Any, channels: int = 7, photo: str = "auto") -> Figure:
    """What the levels of a model make of one image: per level the `channels` maps that vary most, each scaled to itself.

    Args:
        model: A timm model with `forward_intermediates`.
        image: See `data.open_image`.
        channels: Maps per level.
        photo: What to do with the image, as in `predict`.
    """
    if not 1 <= channels <= _MOST:
        raise InputError(f"channels={channels} was given, allowed is 1 to {_MOST}. Pass channels=7, say.")
    x = _input(model, image, photo)
    with torch.inference_mode():
        levels = evaluation_copy(model).forward_intermediates(x, intermediates_only=True)
    figure, tiles = _tiles(len(levels) * (channels + 1), channels + 1, "What each level sees (most varied channels)")
    for i, maps in enumerate(levels):
        row = tiles[i * (channels + 1) : (i + 1) * (channels + 1)]
        maps = maps[0].float().cpu()  # (1, C, H, W) -> (C, H, W)
        most = maps.flatten(1).std(1).argsort(descending=True)[:channels].tolist()
        row[0].imshow(_pixels(x), cmap="gray")
        row[0].set_ylabel(f"level {i}\n{maps.shape[0]} x {maps.shape[1]}x{maps.shape[2]}", fontsize=9)
        for axes, c in zip(row[1:], most):
            axes.imshow(maps[c].numpy(), cmap="viridis")
            axes.set_title(f"channel {c}", fontsize=8)
        for axes in row[1 + len(most) :]:
            axes.remove()
    return figure


def grad_cam(
    model: nn.Module, image: Any, label: int | None = None, level: int = -1, photo: str = "auto"
) -> Figure:  # fmt: skip
    """Where in an image the evidence for a class lies (Selvaraju et al., 2017, arXiv:1610.02391), and its probability as
    `predict` gives it.

    Args:
        model: A timm model with `feature_info`.
        image: See `data.open_image`.
        label: Index of the class; the model's own answer if None.
        level: Which entry of `feature_info` to look at, the last by default; earlier ones are finer and less telling.
        photo: What to do with the image, as in `predict`.
    """
    x = _input(model, image, photo)
    cam, logits = (t.cpu() for t in class_activation(model, x, label, level))
    label = logits.argmax().item() if label is None else label
    name, probability = class_labels(model)[label], (logits / temperature(model)).softmax(0)[label].item()
    figure, tiles = _tiles(3, 3, f"Evidence for {name} ({probability:.1%})")
    pixels = _pixels(x)
    tiles[0].imshow(pixels, cmap="gray")
    tiles[0].set_title("image", fontsize=10)
    heat = tiles[1].imshow(cam.numpy(), cmap="viridis", vmin=0, vmax=1)
    tiles[1].set_title("evidence", fontsize=10)
    tiles[2].imshow(pixels, cmap="gray")
    tiles[2].imshow(cam.numpy(), cmap="viridis", alpha=0.55, vmin=0, vmax=1)
    tiles[2].set_title("both", fontsize=10)
    figure.colorbar(heat, ax=tiles, shrink=0.8, label="share of the largest")
    return figure


def class_activation(model: nn.Module, x: Tensor, label: int | None = None, level: int = -1) -> tuple[Tensor, Tensor]:
    """The map of `grad_cam` for one normalised image `(1, C, H, W)`: `(H, W)` in [0, 1], and the logits `(K,)`.

    Raises:
        InputError: There is no such class or level.
    """
    levels = [f["module"] for f in model.feature_info]
    if label is not None and not 0 <= label < model.num_classes:
        raise InputError(f"label={label} was given; the model has {model.num_classes} classes, from 0.")
    if not -len(levels) <= level < len(levels):
        raise InputError(f"level={level} was given; there are {len(levels)} levels. Pass 0 to {len(levels) - 1}, or -1.")
    kept: list[Tensor] = []
    form = evaluation_copy(model)
    handle = form.get_submodule(levels[level]).register_forward_hook(lambda module, args, out: kept.append(out))
    try:
        with torch.enable_grad():
            logits = form(x)[0]
    finally:
        handle.remove()
    (slope,) = torch.autograd.grad(logits.max() if label is None else logits[label], kept[0])
    cam = (slope.mean((2, 3), keepdim=True) * kept[0]).sum(1, keepdim=True).relu()  # (1, C, h, w) -> (1, 1, h, w)
    cam = F.interpolate(cam, x.shape[2:], mode="bilinear")[0, 0].detach()
    return cam / cam.max().clamp(min=1e-12), logits.detach()


def mistakes(logits: Tensor, split: Split, count: int = 24, title: str = "", temperature: float = 1.0) -> Figure:
    """The images that a model got wrong with the least doubt, with its answer and the label.

    Args:
        logits: `(N, K)`, of `evaluate.predict_logits` on `split`.
        split: The images.
        count: How many to show.
        title: Above the picture.
        temperature: Of the model, from `inference.temperature`: with it the probabilities are those of `predict`.
    """
    if not 1 <= count <= 6 * _MOST:
        raise InputError(f"count={count} was given, allowed is 1 to {6 * _MOST}. Pass count=24, say.")
    if len(logits) != len(split):
        raise InputError(f"{len(logits)} outputs were given for {len(split)} images. Pass predict_logits(model, split).")
    confidence, guess = (logits / temperature).softmax(1).max(1)
    wrong = (guess != split.labels.cpu()).nonzero().flatten()
    if not len(wrong):
        raise InputError(f"The model got all {len(split)} images right: there is no mistake to show. Pass a larger split.")
    worst = wrong[confidence[wrong].argsort(descending=True)][:count].tolist()
    figure, tiles = _tiles(len(worst), 6, title or f"The surest of {len(wrong)} mistakes in {len(split):,}", caption=0.55)
    names = split.info.labels
    for axes, i in zip(tiles, worst, strict=True):
        axes.imshow(split.images[i].permute(1, 2, 0).cpu().squeeze(2).numpy(), cmap="gray")  # (C, H, W) -> (H, W[, C])
        label, answer = names[split.labels[i]], names[guess[i]]
        axes.set_title(f"{answer} {confidence[i]:.0%}\nlabelled {label}", fontsize=8)
    return figure


def answer(
    model: nn.Module, image: Any, photo: str = "auto", shown: int = 5, photo_model: nn.Module | None = None
) -> Figure:
    """What `predict` does with an image: the steps that make a photo the model's input, and the answer, framed.

    Args:
        model: A classifier.
        image: See `data.open_image`.
        photo: What to do with it, see `inference.reader`.
        shown: How many answers, the most probable first.
        photo_model: What answers for photos, see `predict`.
    """
    read = reader(model, photo)(image)
    best = predict(model, image, topk=min(shown, class_count(model)), photo=photo, photo_model=photo_model)
    pictures = read.steps
    figure = Figure(figsize=(_WIDTH, 3.4), layout="constrained")
    figure.suptitle("Treated as a photo of a garment" if read.photo else "Taken as it is")
    top, bottom = figure.subfigures(1, 2, width_ratios=(2, 1))
    for axes, (name, picture) in zip(top.subplots(1, len(pictures), squeeze=False)[0], pictures.items(), strict=True):
        axes.imshow(np.asarray(picture), cmap="gray", vmin=0, vmax=255)
        axes.set_title(f"{name}\n{picture.width}x{picture.height}", fontsize=9)
        axes.set(xticks=[], yticks=[])
    axes = bottom.subplots()
    names, values = zip(*reversed(best))
    bars = axes.barh(names, [100 * v for v in values], color=[_BLUE] * (len(values) - 1) + [_GREEN])
    axes.bar_label(bars, [f"{v:.1%}" for v in values], padding=3, fontsize=9)
    axes.set(xlim=(0, 150), xticks=(0, 50, 100), xlabel="probability, %", title=f"Answer: {best[0][0]}")
    if best.warnings:
        figure.supxlabel("\n".join(textwrap.fill(w, 110) for w in best.warnings), fontsize=8, color=_RED)
    return figure


# -- shared --------------------------------------------------------------------------------------------------------------


def _input(model: nn.Module, image: Any, photo: str) -> Tensor:
    """One image as the model takes it, `(1, C, H, W)`."""
    return reader(model, photo)(image).pixels[None].to(next(model.parameters()))


def _pixels(x: Tensor) -> np.ndarray:
    """`(1, C, H, W)` to something that imshow takes, scaled to its own range."""
    values = x.detach()[0].permute(1, 2, 0).squeeze(2).float().cpu()  # (H, W) or (H, W, 3)
    return ((values - values.min()) / (values.max() - values.min()).clamp(min=1e-12)).numpy()


def _panel(height: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    return figure, figure.add_subplot()


def _tiles(count: int, columns: int, title: str, caption: float = 0.0) -> tuple[Figure, list]:
    """A grid of square panels without axes, row by row; `caption` is the room above each, in inches."""
    rows = -(-count // columns)
    figure = Figure(figsize=(_WIDTH, rows * (_WIDTH / (columns + 0.8) + caption) + 0.5), layout="constrained")
    figure.suptitle(title)
    grid = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    for axes in grid[count:]:
        axes.remove()
    for axes in grid[:count]:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    return figure, grid[:count]
