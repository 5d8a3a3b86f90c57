"""The `cnnzoo` command: parses arguments, prints results, and nothing else.

Exit codes: 0 good, 1 failed (one line says why), 2 wrong use.
"""

import dataclasses
import typing
from collections.abc import Callable

import click

from . import __version__
from .recipes import RECIPES, Recipe, get_recipe

_data_dir = click.option(
    "--data-dir", type=click.Path(file_okay=False), help="Folder that holds FashionMNIST/raw  [default: CNNZOO_DATA_DIR or the cache]"
)
_download = click.option("--download/--no-download", default=None, help="Fetch missing data  [default: only into the cache]")


@click.group(context_settings=dict(help_option_names=["-h", "--help"]))
@click.version_option(__version__, prog_name="cnnzoo")
def main() -> None:
    """The classic CNNs for small grayscale images."""


def _recipe_options(command: Callable) -> Callable:
    """One option per recipe field, in the recipe's order."""
    kinds = typing.get_type_hints(Recipe)
    for field in reversed(dataclasses.fields(Recipe)):
        if field.name == "model":
            continue
        flag = field.name.replace("_", "-")
        name = f"--{flag}/--no-{flag}" if kinds[field.name] is bool else f"--{flag}"
        command = click.option(name, field.name, type=kinds[field.name], default=None, help="Overrides the recipe.")(command)
    return command


@main.command("train")
@click.argument("model")
@click.option("--recipe", default="standard", show_default=True, help=f"One of: {', '.join(RECIPES)}.")
@click.option("--out", required=True, type=click.Path(file_okay=False), help="Run folder.")
@click.option("--holdout", is_flag=True, help="Leave out the last 5,000 training images and measure on them: for choices.")
@click.option("--resume", is_flag=True, help="Go on with the run in --out.")
@click.option("--device", default=None, help="cpu, or leave it out for the accelerator there is.")
@_data_dir
@_download
@_recipe_options
def train_(model, recipe, out, holdout, resume, device, data_dir, download, **fields) -> None:
    """Train MODEL by a recipe and measure it once."""
    from . import train

    given = {k: v for k, v in fields.items() if v is not None}
    chosen = get_recipe(recipe, model, **given)
    metrics = train.train(
        chosen, out, data_dir=data_dir, download=bool(download), holdout=holdout, resume=resume, device=device
    )
    click.echo(f"{metrics['model']}: {metrics['top1']:.2f} % top-1 on {metrics['split']}, weights in {out}")
