"""`cnnzoo train`."""

import dataclasses
import json
import typing
from collections.abc import Callable
from typing import Any

import click
import torch

from ..data import Split
from ..errors import CnnzooError
from ..files import user_path
from ..recipes import BY_SECTION, RECIPES, Recipe, get_recipe, override
from ..resolve import name_of
from ._common import Stopped, chosen_dataset, data_dir_option, download_option, json_option, may_download, skip_broken_option


def _recipe_options(command: Callable) -> Callable:
    """One option per recipe field, in the recipe's order."""
    kinds, texts = typing.get_type_hints(Recipe), Recipe.field_texts()
    recipes = {name: dataclasses.asdict(get_recipe(name, "any")) for name in RECIPES}
    for field in reversed(dataclasses.fields(Recipe)):
        if field.name == "model":
            continue
        flag = field.name.replace("_", "-")
        names = [f"--{flag}/--no-{flag}" if kinds[field.name] is bool else f"--{flag}"]
        names += ["--data"] if field.name == "dataset" else []
        text = texts.get(field.name, "").replace("`", "")
        values = {name: fields[field.name] for name, fields in recipes.items()}
        text += f"  [default: {_defaults(values, field.name in BY_SECTION)}]"
        command = click.option(*names, field.name, type=kinds[field.name], default=None, help=text)(command)
    return command


def _defaults(values: dict[str, Any], by_section: bool) -> str:
    """What a field is by each recipe: that of the recipe `standard`, and where others differ; `by_section` says that
    `textbook` has another value for each section of the book."""

    def shown(value: Any) -> str:
        if isinstance(value, bool):
            return "yes" if value else "no"
        return (value or "none") if isinstance(value, str) else f"{value:g}"

    usual = values["standard"]
    shown_by = {name: shown(value) for name, value in values.items() if value != usual}
    if by_section:
        shown_by["textbook"] = "the section's own"
    return "; ".join([shown(usual), *(f"{value} in {name}" for name, value in shown_by.items())])


def _show_start(recipe: dict[str, Any], split: Split, judge: Split, divided: bool) -> None:
    """What was understood: the pictures, and the recipe with what stands for 0 in it."""
    chans, height, width = split.info.image_size
    side = recipe["image_size"] or height
    if recipe["dataset"] == "folder":
        click.echo(click.wrap_text(_understood(split, judge, side, recipe["holdout"], divided), width=125), err=True)
    size = dict(in_chans=chans, image_size=side if side == width or recipe["image_size"] else (height, width))
    fields = " ".join(f"{k}={v!r}" for k, v in (recipe | size).items())
    click.echo(click.wrap_text(f"Training with {fields}", width=125), err=True)


def _understood(split: Split, judge: Split, side: int, holdout: bool, divided: bool) -> str:
    info, both = split.info, torch.cat([split.labels.cpu(), judge.labels.cpu()])
    numbers = both.bincount(minlength=len(info.labels)).tolist()
    counts = [f"{name} {n:,}" for name, n in zip(info.labels, numbers, strict=True)]
    kinds = ", ".join(counts[:20]) + (", ..." if len(counts) > 20 else "")
    size = f"{info.image_size[0]}x{side}x{side}, {'gray' if info.image_size[0] == 1 else 'colour'}"
    if holdout:
        part = f"{len(judge):,} are the holdout, which is measured on; the test set is left alone"
    else:
        part = f"{len(judge):,}{', a fifth of each class,' if divided else ''} are the test set"
    return (
        f"{info.title}: {len(both):,} pictures of {len(counts)} classes ({kinds}). Each becomes {size}; --image-size and "
        f"--in-chans (1 for gray, 3 for colour) change that. {len(split):,} are trained on; {part}."
    )


def _chosen(model: str, recipe: str, data_dir: str | None, download: bool, fields: dict[str, Any]) -> Recipe:
    """The recipe for MODEL, and for the data set that is meant, with the fields that were typed; the others are None."""
    from .. import registry

    arch = name_of(registry.create_model(model, device="meta"))  # MODEL may be a folder, say
    found = override(get_recipe(recipe, arch, **{k: v for k, v in fields.items() if v is not None}), model=model)
    return override(found, dataset=chosen_dataset(fields["dataset"], found.dataset, data_dir, download))


@click.command("train")
@click.argument("model")
@click.option("--recipe", default="standard", show_default=True, help=f"One of: {', '.join(RECIPES)}.")
@click.option("--out", required=True, metavar="DIR", help="Run folder.")
@click.option("--holdout", is_flag=True, help="Leave out the last 5,000 training images and measure on them: for choices.")
@click.option("--resume", is_flag=True, help="Go on with the run in --out.")
@click.option("--device", default=None, help="cpu; without this option the accelerator that is found is used.")
@click.option("--track", default=None, metavar="TRACKER", help="Also log to tensorboard, trackio or wandb.")
@data_dir_option
@download_option
@skip_broken_option
@_recipe_options
def train_(model, recipe, out, holdout, resume, device, track, skip_broken, data_dir, download, **fields) -> None:
    """Train MODEL by a recipe and measure it once.

    MODEL is a name of the zoo, a folder or repository that has one, or timm:NAME: any model of timm's own, from random
    weights, with the channels and classes of the data.

    If --data-dir holds a folder of pictures for each class (or train and test with such folders), these pictures are the
    data set.
    """
    from .. import data, train

    for field in ("distill", "distill_temperature"):
        if fields[field] is not None and not fields["teacher"] and not fields["answers"]:
            option = f"--{field.replace('_', '-')}"
            raise CnnzooError(f"{option} was given; it needs --teacher or --answers, which say what to learn from. Add one.")
    download = may_download(data_dir, download)
    chosen = _chosen(model, recipe, data_dir, download, fields)

    def show(resolved: dict[str, Any], split: Split, judge: Split) -> None:
        divided = resolved["dataset"] == "folder" and not data.has_test_folder(data_dir)
        _show_start(resolved, split, judge, divided)

    try:
        metrics = train.train(
            chosen, out, data_dir=data_dir, download=download,
            holdout=holdout, resume=resume, device=device, track=track, skip_broken=skip_broken,
            on_start=show,
        )  # fmt: skip
    except KeyboardInterrupt:
        if not (user_path(out) / train.CHECKPOINT).is_file():
            raise
        raise Stopped(f"stopped; {out} holds the last completed epoch. To continue, add --resume.") from None
    if metrics:  # on the main process
        click.echo(f"{metrics['model']}: {metrics['top1']:.2f} % top-1 on {metrics['split']}, weights in {out}")


@click.command()
@click.argument("model")
@click.option("--recipe", default="standard", show_default=True, help=f"One of: {', '.join(RECIPES)}.")
@click.option("--out", required=True, metavar="DIR", help="Folder for the answers; train takes it as --answers.")
@click.option("--views", default=30, show_default=True, help="Epochs of images to ask about; the student repeats them.")
@click.option("--holdout", is_flag=True, help="For students that are trained with --holdout.")
@click.option("--resume", is_flag=True, help="Go on where the teachers were stopped.")
@data_dir_option
@download_option
@skip_broken_option
@_recipe_options
def ask(model, recipe, out, views, holdout, resume, data_dir, download, skip_broken, **fields) -> None:
    """Store a teacher's answers, for any number of students.

    Asks --teacher about the images that MODEL will be trained on by a recipe. Give the options that
    train will get; the student then gets --answers DIR in the place of --teacher.
    """
    from .. import train

    download = may_download(data_dir, download)
    chosen = _chosen(model, recipe, data_dir, download, fields)
    where = dict(data_dir=data_dir, download=download, skip_broken=skip_broken)
    train.ask(chosen, out, epochs=views, holdout=holdout, resume=resume, **where)
    click.echo(f"{out} holds the answers to {views} epochs of images. Train with them: --answers {out}")


@click.command()
@click.argument("name")
@click.option("--out", metavar="DIR", help="Run folder.  [default: runs/reproduce-NAME-SEED]")
@click.option("--seed", type=int, default=None, help="Another seed than the recipe's.")
@click.option("--resume", is_flag=True, help="Go on with the run in --out.")
@click.option("--device", default=None, help="cpu; without this option the accelerator that is found is used.")
@data_dir_option
@download_option
@json_option
@click.pass_context
def reproduce(
    ctx: click.Context, name: str, out: str | None, seed: int | None, resume: bool, device: str | None,
    data_dir: str | None, download: bool | None, as_json: bool,
) -> None:  # fmt: skip
    """Train the checkpoint NAME again by its recipe.

    The test accuracy is compared with its card. Exit code 0: they differ by at most three standard errors of the
    difference. 1: by more.
    """
    from .. import reproduce

    out = out or f"runs/reproduce-{name}-{'own' if seed is None else seed}"
    found = reproduce.reproduce(
        name, out, seed=seed, data_dir=data_dir, download=may_download(data_dir, download), resume=resume, device=device
    )
    if not found:  # not the main process
        return
    if as_json:
        click.echo(json.dumps(dict(dataclasses.asdict(found), good=found.good), indent=2))
    else:
        click.echo(
            f"{found.checkpoint}: {found.card:.2f} % on its card, {found.top1:.2f} % in this run (seed {found.seed}, "
            f"weights in {found.run}).\n{'Reproduced' if found.good else 'NOT reproduced'}: they differ by "
            f"{abs(found.top1 - found.card):.2f} points; allowed are {found.tolerance:.2f} = {reproduce.FORMULA} at "
            f"n = {found.count:,} test images."
        )
        if found.teachers:
            itself = found.checkpoint.split(".")[0] in found.teachers
            click.echo(
                f"It learned from the published weights of {', '.join(found.teachers)}, not from the runs that taught the "
                f"checkpoint, which are not published{'; its own weights are among them' if itself else ''}."
            )
    if not found.good:
        ctx.exit(1)


COMMANDS = (train_, ask, reproduce)
