"""What the commands share: options, one line per user error, tables, models by name."""

import contextlib
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import click
from torch import nn

from .. import data
from ..datasets import trained_on
from ..errors import CnnzooError, on_one_line, system_errors
from ..process import INTERRUPTED, interruptible

data_dir_option = click.option(
    "--data-dir",
    metavar="DIR",
    help="Folder with the data, for example with FashionMNIST/raw.  [default: $CNNZOO_DATA_DIR, else the cache]",
)
download_option = click.option(
    "--download/--no-download", default=None, help="Fetch missing data.  [default: only into the cache]"
)
skip_broken_option = click.option(
    "--skip-broken", is_flag=True, help="Leave out pictures that cannot be read, with a warning."
)
photo_option = click.option(
    "--photo",
    type=click.Choice(data.PHOTO),
    default="auto",
    show_default=True,
    help="For models of Fashion-MNIST. auto: what is not 28x28 on black is a photo; its garment is put on black. "
    "makers: the same, by the steps of the data set's makers. never: images are used unchanged.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
device_option = click.option("--device", default="cpu", show_default=True, help="A torch device, such as cpu, cuda or mps.")


class Stopped(click.ClickException):
    """Ctrl-C ended the command."""

    exit_code = INTERRUPTED


class Group(click.Group):
    """Turns what users and systems do wrong into one line and exit code 1; Ctrl-C is one line and exit code 130."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        usual, warnings.formatwarning = warnings.formatwarning, _plain
        try:
            return super().__call__(*args, **kwargs)
        finally:
            warnings.formatwarning = usual

    def main(self, *args: Any, **kwargs: Any) -> Any:
        try:
            with contextlib.suppress(AttributeError, ValueError):  # a stream of somebody else's
                sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be text
            return super().main(*args, **kwargs)
        except OSError:  # standard error itself refuses the line
            sys.exit(1)
        finally:
            _let_go_of_streams()

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with system_errors(), interruptible():
                result = super().invoke(ctx)
                sys.stdout.flush()  # while a full disk can still be told
                return result
        except CnnzooError as e:
            raise click.ClickException(on_one_line(str(e))) from e
        except click.ClickException as e:  # of wrong use: a name that was given may have a line break
            e.message = on_one_line(e.message)
            raise
        except KeyboardInterrupt:
            raise Stopped("stopped by Ctrl-C.") from None


def _plain(message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None) -> str:
    """A warning as people at a command line need it: without the place in the code that it comes from."""
    return f"Warning: {on_one_line(str(message))}\n"


def _let_go_of_streams() -> None:
    """Drops what a stream could not write, which Python would try again at its end and then exit with 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def may_download(data_dir: str | None, asked: bool | None) -> bool:
    """What was asked for; else yes for the cache, no for a folder that the user named."""
    if asked is not None:
        return asked
    return data_dir is None and data.named_data_dir() is None


def chosen_dataset(named: str | None, usual: str, data_dir: str | None, download: bool) -> str:
    """The data set that is meant: the one that was named, else what lies in the folder that was given, else `usual`."""
    return named or (data.dataset_in(data_dir, usual, download) if data_dir else usual)


def pretrained(model: str, device: str = "cpu") -> nn.Module:
    """The model with its weights, on a device; `model` is whatever `resolve` takes."""
    from .. import registry

    return registry.on_device(registry.create_model(model, pretrained=True), device)


def with_photo_weights(model: str, device: str) -> tuple[nn.Module, str | None, nn.Module | None]:
    """The model, and what answers for photos in its place: its name and itself, or None twice."""
    from .. import registry

    special = registry.photo_weights(model)
    return pretrained(model, device), special, pretrained(special, device) if special else None


def images_for(
    network: nn.Module,
    split: str,
    data_dir: str | None,
    download: bool | None,
    skip_broken: bool,
    dataset: str | None = None,
) -> data.Split:
    """A split of `dataset`, or of what the model was trained on, or of a folder of pictures, with the model's classes."""
    from .. import evaluate

    cfg = getattr(network, "pretrained_cfg", None) or {}
    download = may_download(data_dir, download)
    dataset = chosen_dataset(dataset, trained_on(cfg.get("tag") or ""), data_dir, download)
    if not dataset:
        raise CnnzooError("The model's checkpoint does not say what it was trained on. Name the data set: --dataset.")
    size = data.reading_size(dataset, (network.in_chans, *cfg["input_size"][1:]))
    found = data.load_split(dataset, split, data_dir=data_dir, download=download, image_size=size, skip_broken=skip_broken)
    return evaluate.as_trained(network, found)


def accuracy(row: dict[str, Any]) -> str:
    """The accuracy of the weights that ship, and the mean of seeds where there are several; a row as `registry.info` has."""
    spread = f", mean of {row['n']} seeds {row['top1_mean']:.2f} ± {row['top1_std']:.2f}" if row["n"] > 1 else ""
    return f"{row['top1']:.2f} %{spread}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints aligned columns: numbers to the right, words to the left."""
    widths = [max(len(line[i]) for line in [header, *rows]) for i in range(len(header))]
    numeric = [bool(rows) and all(row[i][:1].isdigit() or row[i] == "-" for row in rows) for i in range(len(header))]
    for line in [header, ["-" * w for w in widths], *rows]:
        cells = [cell.rjust(w) if right else cell.ljust(w) for cell, w, right in zip(line, widths, numeric, strict=True)]
        click.echo("  ".join(cells).rstrip())
