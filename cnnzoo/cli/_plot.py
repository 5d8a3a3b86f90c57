"""`cnnzoo plot KIND`."""

from collections.abc import Callable

import click
from torch import nn

from ._common import (
    data_dir_option,
    download_option,
    images_for,
    photo_option,
    pretrained,
    skip_broken_option,
    with_photo_weights,
)

_out = click.option("--out", metavar="FILE", help="The picture; its ending is the format.  [default: KIND.png]")


@click.group()
def plot() -> None:
    """Draw a run, a model or its mistakes (needs the extra plot)."""


@plot.command()
@click.argument("run")
@_out
def curves(run: str, out: str | None) -> None:
    """Loss and accuracy of the run folder RUN, by epoch."""
    _draw("curves", out, lambda plots: plots.curves(run))


@plot.command()
@click.argument("model")
@_out
@data_dir_option
@download_option
@skip_broken_option
def confusion(model: str, out: str | None, data_dir: str | None, download: bool | None, skip_broken: bool) -> None:
    """The confusion matrix of MODEL on its test set."""
    from .. import evaluate

    def figure(plots):
        network = pretrained(model)
        split = images_for(network, "test", data_dir, download, skip_broken)
        m = evaluate.evaluate(network, split)
        return plots.confusion_matrix(m.confusion, split.info.labels, f"{model}: {m.top1:.2f} % of {m.count:,} test images")

    _draw("confusion", out, figure)


@plot.command()
@click.argument("model")
@_out
@data_dir_option
@download_option
@skip_broken_option
@click.option("--count", default=24, show_default=True, help="How many.")
def mistakes(
    model: str, out: str | None, data_dir: str | None, download: bool | None, skip_broken: bool, count: int
) -> None:
    """The test images that MODEL gets wrong with the highest probability."""
    from .. import evaluate, inference

    def figure(plots):
        network = pretrained(model)
        split = images_for(network, "test", data_dir, download, skip_broken)
        logits = evaluate.predict_logits(network, split)
        return plots.mistakes(logits, split, count, temperature=inference.temperature(network))

    _draw("mistakes", out, figure)


@plot.command()
@click.argument("model")
@_out
def filters(model: str, out: str | None) -> None:
    """The kernels of MODEL's first convolution."""
    _draw("filters", out, lambda plots: plots.filters(pretrained(model)))


@plot.command()
@click.argument("model")
@click.argument("image")
@_out
@click.option("--channels", default=7, show_default=True, help="Maps per level.")
@photo_option
def features(model: str, image: str, out: str | None, channels: int, photo: str) -> None:
    """The feature maps of MODEL for IMAGE, level by level."""
    _draw("features", out, lambda plots: plots.feature_maps(_answering(model, image, photo), image, channels, photo))


@plot.command()
@click.argument("model")
@click.argument("image")
@_out
@click.option("--label", type=int, default=None, help="Index of a class.  [default: the model's answer]")
@click.option(
    "--level", default=-1, show_default=True, help="Feature level in the order of cnnzoo info, from 0; -1 is the last."
)
@photo_option
def gradcam(model: str, image: str, out: str | None, label: int | None, level: int, photo: str) -> None:
    """The parts of IMAGE that count for MODEL's answer (Grad-CAM)."""
    _draw("gradcam", out, lambda plots: plots.grad_cam(_answering(model, image, photo), image, label, level, photo))


@plot.command()
@_out
def results(out: str | None) -> None:
    """Accuracy against parameters: the zoo's checkpoints, and what others have published."""
    from .. import registry

    rows = registry.results()
    _draw("results", out, lambda plots: plots.results(rows), lambda plots: plots.results_note(rows))


def _answering(model: str, image: str, photo: str) -> nn.Module:
    """What `cnnzoo predict` answers with: for photos, some models have weights of their own."""
    from ..inference import reader

    network, special, photo_model = with_photo_weights(model, "cpu")
    if photo_model is None or not reader(network, photo)(image).photo:
        return network
    click.echo(f"{special}, the weights for photos, is shown, since the image is treated as one (--photo).", err=True)
    return photo_model


def _draw(kind: str, out: str | None, figure: Callable, note: Callable = lambda plots: "") -> None:
    from .. import canvas, plots

    out = out or f"{kind}.png"
    canvas.check_picture(out)  # before all images of a test set are looked at
    click.echo(plots.save(figure(plots), out, note(plots)))


COMMANDS = (plot,)
