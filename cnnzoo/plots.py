"""Pictures of runs, models and mistakes. Each function returns a matplotlib figure; `save` writes it.

Needs the extra `plot`.
"""

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .canvas import BLUE, GREEN, LIGHT, RED, WIDTH, Figure, frame, literal, panels, save as save, tiles as _tiles
from .checkpoints import LOG, METRICS
from .data import Split
from .errors import CheckpointError, InputError, system_errors
from .files import parse_json, read_bytes, user_path
from .frontier import results as results, results_note as results_note
from .inference import (
    checked,
    class_activation,
    class_count,
    class_labels,
    evaluation_copy,
    reader,
    runnable,
    temperature,
    with_levels,
)
from .predict import predict

# Imported after canvas, which says what to install where matplotlib is missing.
# isort: split
from matplotlib.cm import ScalarMappable
from matplotlib.patches import Rectangle

_CAPTION = 20  # characters of a file's name above an image
_MOST = 32  # pictures in a row, or rows of them: more could not be told apart, and would take minutes to draw
# What a line of metrics.jsonl may hold: name, legend, colour, style. The first two are losses.
_CURVES = (
    ("train_loss", "training", BLUE, "-"),
    ("holdout_loss", "validation", RED, "--"),
    ("train_top1", "training", BLUE, "-"),
    ("holdout_top1", "validation", RED, "--"),
)


@system_errors()
def curves(run: str | Path) -> Figure:
    """Loss and accuracy of a run by epoch, in two panels; a finished run's result is in the title.

    Args:
        run: A run folder, or its metrics.jsonl. Validation is the holdout, which only runs with `--holdout` measure.

    Raises:
        CheckpointError: There is no epoch to draw.
    """
    path = user_path(run)
    path = path / LOG if path.is_dir() else path
    try:
        lines = [parse_json(line) for line in read_bytes(path).decode().splitlines() if line.strip()]
        epochs = [line["epoch"] for line in lines]
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError) as e:
        raise CheckpointError(f"{path} is not a log of a run ({e}). Name a run folder, made by cnnzoo train.") from e
    if not epochs:
        raise CheckpointError(f"{path} has no completed epoch yet. Wait for the first one.")
    figure, both = panels(4, 2)
    figure.suptitle(literal(_outcome(path.parent, len(epochs))))
    for key, name, colour, style in _CURVES:
        values = [line.get(key) for line in lines]
        if None not in values:
            loss = key.endswith("loss")
            last = f"{values[-1]:.3f}" if loss else f"{values[-1]:.2f} %"
            marker = "o" if len(epochs) == 1 else ""
            axes = both[0 if loss else 1]
            axes.plot(epochs, values, style, color=colour, marker=marker, linewidth=2, label=f"{name}, at the end {last}")
    for axes, what in zip(both, ("loss (cross-entropy, nats)", "accuracy (top-1), %"), strict=True):
        axes.set(xlabel="epoch", ylabel=what)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    both[0].set_ylim(bottom=0)
    return figure


def _outcome(folder: Path, epochs: int) -> str:
    """The title of a run's curves: its model, and once it is finished what it measured."""
    try:
        m = parse_json((folder / METRICS).read_text(encoding="utf-8"))
        where = "the test set" if m.get("split", "test") == "test" else f"the {m['split']}"
        return f"{m['model']}, {m['epochs']} epochs: {m['top1']:.2f} % accuracy on {where}"
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError):  # there is none before the end
        return f"{folder.resolve().name}: {epochs} epochs, not finished"


def confusion_matrix(confusion: Any, labels: tuple[str, ...], title: str = "") -> Figure:
    """How often the images of each class get each label, in percent of the class; colour shows the errors, not the diagonal.

    Args:
        confusion: Counts `(K, K)`, row the true class, column the answer, as in `evaluate.Metrics`.
        labels: Names of the K classes.
        title: Above the picture.
    """
    counts = torch.as_tensor(confusion, dtype=torch.double)
    if counts.shape != (len(labels), len(labels)):
        raise InputError(
            f"Counts of shape {tuple(counts.shape)} were given for {len(labels)} labels. Pass a row and a column for each "
            "label."
        )
    share = 100 * counts / counts.sum(1, keepdim=True).clamp(min=1)
    errors = share.clone().fill_diagonal_(0)
    figure, axes = panels(7.4)
    picture = axes.imshow(errors.numpy(), cmap="Blues", vmin=0, vmax=max(1.0, errors.max().item()))
    for i, row in enumerate(share.tolist()):
        axes.add_patch(Rectangle((i - 0.5, i - 0.5), 1, 1, facecolor="#E4E4E4", edgecolor="white"))
        for j, value in enumerate(row):
            paint = "black" if i == j else _readable(picture.to_rgba(errors[i, j].item()))
            axes.text(
                j, i, "0" if value == 0 else f"{value:.1f}", ha="center", va="center", fontsize=9,
                color=LIGHT if value == 0 and i != j else paint, fontweight="bold" if i == j else "normal",
            )  # fmt: skip
    names = [literal(label) for label in labels]
    axes.set_xticks(range(len(labels)), names, rotation=40, ha="right")
    axes.set_yticks(range(len(labels)), names)
    axes.set(xlabel="answer", ylabel="true class", title=literal(title))
    figure.colorbar(picture, ax=axes, shrink=0.7, label="errors, % of the true class (gray: right answers)")
    return figure


def _readable(colour: tuple[float, ...]) -> str:
    """Black or white, whichever stands out more on a colour (relative luminance of WCAG 2)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
    return "black" if 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] > 0.179 else "white"


def filters(model: nn.Module, title: str = "") -> Figure:
    """The kernels of a model's first convolution, one tile each, each scaled to its own largest weight.

    Raises:
        InputError: The model has no weights, or no 2d convolution.
        CheckpointError: The weights are not finite.
    """
    first = next((m for m in runnable(model).modules() if isinstance(m, nn.Conv2d)), None)
    if first is None:
        raise InputError(f"{type(model).__name__} has no 2d convolution to show. Pass a convolutional network.")
    kernels = checked(first.weight.detach().float().cpu()).mean(1)  # (C_out, C_in, k, k) -> (C_out, k, k)
    kernels = kernels / kernels.abs().amax((1, 2), keepdim=True).clamp(min=1e-12)
    columns = min(8, len(kernels))
    size = f"{len(kernels)} kernels of {kernels.shape[1]}x{kernels.shape[2]}"
    figure, tiles = _tiles(len(kernels), columns, title or f"First convolution: {size}")
    for axes, kernel in zip(tiles, kernels, strict=True):
        picture = axes.imshow(kernel.numpy(), cmap="RdBu_r", vmin=-1, vmax=1)
    bar = figure.colorbar(picture, ax=tiles, aspect=15, ticks=(-1, 0, 1))
    bar.set_label("weight / largest\nweight of the kernel", fontsize=8)
    return figure


def feature_maps(model: nn.Module, image: Any, channels: int = 7, photo: str = "auto") -> Figure:
    """What the levels of a model make of one image: per level the `channels` maps that vary most, each scaled to itself.

    Args:
        model: A timm model with `forward_intermediates`.
        image: See `data.open_image`.
        channels: Maps per level.
        photo: What to do with the image, as in `predict`.

    Raises:
        InputError: The model is no classifier with weights and levels, `channels` is out of range, or the image cannot be
            read.
        CheckpointError: The maps are not finite.
    """
    if not 1 <= channels <= _MOST:
        raise InputError(f"channels={channels} was given; allowed is 1 to {_MOST}. Pass channels=7, for example.")
    model = with_levels(model)
    x = _input(model, image, photo)
    with torch.inference_mode():
        levels = evaluation_copy(model).forward_intermediates(x, intermediates_only=True)
    figure, tiles = _tiles(
        len(levels) * (channels + 1), channels + 1, "Feature maps: the most varied channels of each level"
    )
    for i, maps in enumerate(levels):
        row = tiles[i * (channels + 1) : (i + 1) * (channels + 1)]
        maps = checked(maps)[0].float().cpu()  # (1, C, H, W) -> (C, H, W)
        most = maps.flatten(1).std(1).argsort(descending=True)[:channels].tolist()
        if i == 0:
            row[0].imshow(_pixels(x), cmap="gray")
            row[0].set_title("input", fontsize=8)
        reduction = round(x.shape[-1] / maps.shape[-1])
        size = f"{maps.shape[0]} channels\nof {maps.shape[1]}x{maps.shape[2]}"
        row[0].set_ylabel(f"{'full size' if reduction == 1 else f'1/{reduction} of the size'}\n{size}", fontsize=8)
        for axes, c in zip(row[1:], most):
            axes.imshow(maps[c].numpy(), cmap="viridis")
            axes.set_title(f"channel {c}", fontsize=8)
        for axes in row[1 + len(most) :]:
            axes.remove()
    bar = figure.colorbar(ScalarMappable(cmap="viridis"), ax=figure.axes, aspect=30, ticks=(0, 1))
    bar.ax.set_yticklabels(("lowest\nof the map", "highest\nof the map"), fontsize=8)
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

    Raises:
        InputError: The model is no classifier with weights and levels, there is no such class or level, or the image cannot
            be read.
        CheckpointError: The model's outputs are not finite.
    """
    model = with_levels(model)
    x = _input(model, image, photo)
    cam, logits = (t.cpu() for t in class_activation(model, x, label, level))
    label = logits.argmax().item() if label is None else label
    name, probability = class_labels(model)[label], (logits / temperature(model)).softmax(0)[label].item()
    figure, tiles = _tiles(3, 3, f"Evidence for {name} ({probability:.1%})", caption=0.25)
    pixels = _pixels(x)
    for axes, what in zip(tiles, ("image", "evidence", "both"), strict=True):
        if what != "evidence":
            axes.imshow(pixels, cmap="gray")
        if what != "image":  # over the image it hides as much as it says, and leaves the rest as it is
            clear = 0.75 * cam.numpy() if what == "both" else None
            heat = axes.imshow(cam.numpy(), cmap="YlOrRd", alpha=clear, vmin=0, vmax=1)
        axes.set_title(what, fontsize=10)
        frame(axes)
    figure.colorbar(heat, ax=tiles, shrink=0.8, label="share of the largest")
    return figure


def mistakes(logits: Tensor, split: Split, count: int = 24, title: str = "", temperature: float = 1.0) -> Figure:
    """The images that a model got wrong with the highest probability: its answer, the label, and which image it is.

    Args:
        logits: `(N, K)`, of `evaluate.predict_logits` on `split`, which has the model's classes in the model's order.
        split: The images.
        count: How many to show.
        title: Above the picture.
        temperature: Of the model, from `inference.temperature`: with it the probabilities are those of `predict`.

    Raises:
        InputError: `count` is out of range, there are not as many logits as images, or there is no mistake.
    """
    if not 1 <= count <= 6 * _MOST:
        raise InputError(f"count={count} was given; allowed is 1 to {6 * _MOST}. Pass count=24, for example.")
    if len(logits) != len(split):
        raise InputError(f"{len(logits)} outputs were given for {len(split)} images. Pass predict_logits(model, split).")
    confidence, guess = (logits / temperature).softmax(1).max(1)
    wrong = (guess != split.labels.cpu()).nonzero().flatten()
    if not len(wrong):
        raise InputError(f"The model got all {len(split)} images right: there is no mistake to show. Pass a larger split.")
    worst = wrong[confidence[wrong].argsort(descending=True)][:count].tolist()
    figure, tiles = _tiles(len(worst), 6, title or f"The surest of {len(wrong)} mistakes in {len(split):,}", caption=0.7)
    names = split.info.labels
    for axes, i in zip(tiles, worst, strict=True):
        axes.imshow(split.images[i].permute(1, 2, 0).cpu().squeeze(2).numpy(), cmap="gray")  # (C, H, W) -> (H, W[, C])
        label, answer = names[split.labels[i]], names[guess[i]]
        which = _short(split.names[i]) if split.names else f"image {i}"
        axes.set_title(literal(f"{answer} {confidence[i]:.0%}\nlabelled {label}\n{which}"), fontsize=8)
    return figure


def _short(name: str) -> str:
    """A file's name without its folders, cut so that it fits above an image."""
    name = Path(name).name
    return name if len(name) <= _CAPTION else "…" + name[1 - _CAPTION :]


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
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    figure.suptitle("Treated as a photo of a garment" if read.photo else "Taken as it is")
    top, bottom = figure.subfigures(1, 2, width_ratios=(2, 1))
    for axes, (name, picture) in zip(top.subplots(1, len(pictures), squeeze=False)[0], pictures.items(), strict=True):
        axes.imshow(np.asarray(picture), cmap="gray", vmin=0, vmax=255)
        axes.set_title(f"{name}\n{picture.width}x{picture.height}", fontsize=9)
        axes.set(xticks=[], yticks=[])
        frame(axes)
    axes = bottom.subplots()
    names, values = zip(*((literal(name), value) for name, value in reversed(best)))
    bars = axes.barh(names, [100 * v for v in values], color=[BLUE] * (len(values) - 1) + [GREEN])
    axes.bar_label(bars, [f"{v:.1%}" for v in values], padding=3, fontsize=9)
    axes.set(xlim=(0, 150), xticks=(0, 50, 100), xlabel="probability, %", title=literal(f"Answer: {best[0][0]}"))
    if best.warnings:
        figure.supxlabel("\n".join(textwrap.fill(w, 110) for w in best.warnings), fontsize=8, color=RED)
    return figure


# -- shared --------------------------------------------------------------------------------------------------------------


def _input(model: nn.Module, image: Any, photo: str) -> Tensor:
    """One image as the model takes it, `(1, C, H, W)`."""
    return reader(model, photo)(image).pixels[None].to(next(model.parameters()))


def _pixels(x: Tensor) -> np.ndarray:
    """`(1, C, H, W)` to something that imshow takes, scaled to its own range."""
    values = x.detach()[0].permute(1, 2, 0).squeeze(2).float().cpu()  # (H, W) or (H, W, 3)
    return ((values - values.min()) / (values.max() - values.min()).clamp(min=1e-12)).numpy()
