"""The `cnnzoo` command: parses arguments, prints results, and nothing else.

Exit codes: 0 good, 1 failed (one line says why), 2 wrong use.
"""

import dataclasses
import json
import os
import typing
from collections.abc import Callable, Sequence
from typing import Any

import click
from tqdm import tqdm

from . import __version__
from .errors import CnnzooError
from .recipes import RECIPES, Recipe, get_recipe

_data_dir = click.option(
    "--data-dir", metavar="DIR", help="Folder that holds FashionMNIST/raw.  [default: $CNNZOO_DATA_DIR, else the cache]"
)
_download = click.option(
    "--download/--no-download", default=None, help="Fetch missing data.  [default: only into the cache]"
)
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_device = click.option("--device", default="cpu", show_default=True, help="A torch device, such as cpu, cuda or mps.")


class _Group(click.Group):
    """Turns the errors that users cause into one line and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except CnnzooError as e:
            raise click.ClickException(str(e)) from e


@click.group(cls=_Group, context_settings=dict(help_option_names=["-h", "--help"]))
@click.version_option(__version__, prog_name="cnnzoo")
def main() -> None:
    """The classic CNNs for small grayscale images, pretrained on Fashion-MNIST."""


@main.command()
@click.option("--model", default="resnext_small", show_default=True, help="A pretrained model.")
@click.option("--sheet", default="cnnzoo_demo.png", show_default=True, help="Where the contact sheet goes.")
@_json
def demo(model: str, sheet: str, as_json: bool) -> None:
    """Classify ten garments that cnnzoo draws itself; no network, no data set."""
    from . import drawings, evaluate, registry
    from .files import atomic

    network = registry.create_model(model, pretrained=True)
    garments = drawings.garments()
    answers = [best[0] for best in evaluate.predict(network, list(garments.values()))]
    rows = [
        dict(drawing=drawn, label=label, probability=round(p, 4), right=label == drawn)
        for drawn, (label, p) in zip(garments, answers, strict=True)
    ]
    captions = [(image, f"{r['label']} {r['probability']:.0%}", r["right"]) for image, r in zip(garments.values(), rows)]
    with atomic(sheet) as temporary:
        drawings.contact_sheet(captions).save(temporary, format="PNG")
    if as_json:
        click.echo(json.dumps(dict(model=model, sheet=sheet, drawings=rows), indent=2))
        return
    click.echo("Ten garments, drawn by cnnzoo itself: drawings, not photographs, and none of the data set's images.\n")
    _table(
        ["drawing", "label", "probability", ""],
        [[r["drawing"], r["label"], f"{r['probability']:.1%}", "" if r["right"] else "wrong"] for r in rows],
    )
    click.echo(f"\n{model} names {sum(r['right'] for r in rows)} of {len(rows)} drawings right. Contact sheet: {sheet}")


@main.command("list")
@click.argument("pattern", default="*")
@click.option("--pretrained", is_flag=True, help="Only models with weights.")
@click.option("--supports", multiple=True, metavar="CAPABILITY", help="Only models that can this, say dynamic_size.")
@_json
def list_(pattern: str, pretrained: bool, supports: tuple[str, ...], as_json: bool) -> None:
    """List models, with a wildcard PATTERN such as 'resnext*'."""
    from . import registry

    trained = registry.list_pretrained()
    names = registry.list_models(pattern, supports=supports)
    if pretrained:
        names = [n for n in names if any(t.split(".", 1)[0] == n for t in trained)]
    if not names:
        raise CnnzooError(f"No model fits {pattern!r} and the options. cnnzoo list shows all of them.")
    rows = [registry.info(name) for name in tqdm(names, desc="counting", leave=False, disable=None)]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    cells = [
        [
            r["name"], f"{r['params']:,}", f"{r['macs'] / 1e6:,.1f}", "x".join(map(str, r["input_size"])),
            ", ".join(f"{tag} {top1:.2f} %" for tag, top1 in r["checkpoints"].items()),
        ]
        for r in rows
    ]  # fmt: skip
    _table(["model", "parameters", "M MACs", "input", "pretrained, test top-1"], cells)


@main.command()
@click.argument("model")
@_json
def info(model: str, as_json: bool) -> None:
    """Show what is known of MODEL."""
    from . import registry

    facts = registry.info(model)
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    levels = "  ".join(f"{f['channels']} at 1/{f['reduction']}" for f in facts["features"])
    trained = ", ".join(f"{tag} ({top1:.2f} % test top-1)" for tag, top1 in facts["checkpoints"].items())
    shown = [
        ("model", f"{facts['name']} ({facts['family']})"),
        ("parameters", f"{facts['params']:,}"),
        ("MACs", f"{facts['macs']:,}"),
        ("input", "x".join(map(str, facts["input_size"]))),
        ("classes", str(facts["num_classes"])),
        ("features", levels),
        ("pretrained", trained or "no"),
        ("supports", ", ".join(facts["supports"])),
    ]
    for key, value in shown:
        click.echo(f"{key:<11} {value}")


@main.command("summary")
@click.argument("model")
@click.option("--depth", default=2, show_default=True, help="Levels of nested modules to list.")
@_json
def summary_(model: str, depth: int, as_json: bool) -> None:
    """Show the layers of MODEL: shapes, parameters, multiply-accumulates, receptive fields."""
    from . import registry, summary

    network = registry.create_model(model, device="meta")  # shapes need no numbers
    found = summary.summarize(network, network.pretrained_cfg["input_size"], depth=depth)
    click.echo(json.dumps(dataclasses.asdict(found), indent=2) if as_json else found)


@main.command("eval")
@click.argument("model")
@click.option("--dataset", default=None, help="What to measure on.  [default: what MODEL was trained on]")
@click.option("--split", default="test", show_default=True, help="test, train, fit or holdout.")
@click.option("--tta", is_flag=True, help="Average over each image and its mirror image.")
@_device
@_data_dir
@_download
@_json
def eval_(
    model: str, dataset: str | None, split: str, tta: bool, device: str, data_dir: str | None, download: bool | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Measure a pretrained MODEL on the real data set."""
    from . import data, evaluate, registry

    network = _to_device(registry.create_model(model, pretrained=True), device)
    images = data.load_split(
        dataset or _dataset_of(network), split, data_dir=data_dir, download=_may_download(data_dir, download)
    )
    m = evaluate.evaluate(network, images, tta=tta)
    if as_json:
        click.echo(json.dumps(dict(model=model, split=split, tta=tta, **dataclasses.asdict(m)), indent=2))
        return
    _table(["class", "top-1"], [[label, f"{v:.1f} %"] for label, v in zip(images.info.labels, m.per_class, strict=True)])
    click.echo(f"\ncross-entropy {m.loss:.4f}, expected calibration error {m.ece:.2f} %{', flip TTA' if tta else ''}")
    click.echo(f"{model}: {m.top1:.2f} % top-1 on {m.count:,} {split} images of {images.info.title}")


@main.command()
@click.argument("images", nargs=-1, required=True)
@click.option("--model", default="resnext_small", show_default=True, help="A pretrained model.")
@click.option("--topk", default=3, show_default=True, help="Answers per image.")
@_device
@_json
def predict(images: tuple[str, ...], model: str, topk: int, device: str, as_json: bool) -> None:
    """Name what IMAGES show: files of any size and mode; light on black is what the model knows."""
    from . import evaluate, registry

    network = _to_device(registry.create_model(model, pretrained=True), device)
    answers = evaluate.predict(network, list(images), topk=topk)
    if as_json:
        found = [
            dict(image=image, answers=[dict(label=label, probability=round(p, 4)) for label, p in best])
            for image, best in zip(images, answers, strict=True)
        ]
        click.echo(json.dumps(found, indent=2))
        return
    rows = [[image, *(f"{label} {p:.1%}" for label, p in best)] for image, best in zip(images, answers, strict=True)]
    _table(["image", "first", "second", "third", *(f"{i}th" for i in range(4, topk + 1))][: topk + 1], rows)


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
@click.option("--out", required=True, metavar="DIR", help="Run folder.")
@click.option("--holdout", is_flag=True, help="Leave out the last 5,000 training images and measure on them: for choices.")
@click.option("--resume", is_flag=True, help="Go on with the run in --out.")
@click.option("--device", default=None, help="cpu, or leave it out for the accelerator there is.")
@_data_dir
@_download
@_recipe_options
def train_(model, recipe, out, holdout, resume, device, data_dir, download, **fields) -> None:
    """Train MODEL by a recipe and measure it once."""
    from . import train

    chosen = get_recipe(recipe, model, **{k: v for k, v in fields.items() if v is not None})
    try:
        metrics = train.train(
            chosen, out, data_dir=data_dir, download=_may_download(data_dir, download),
            holdout=holdout, resume=resume, device=device,
        )  # fmt: skip
    except KeyboardInterrupt:
        raise click.ClickException(f"stopped; {out} holds the last completed epoch. Go on with it: --resume.") from None
    if metrics:  # on the main process
        click.echo(f"{metrics['model']}: {metrics['top1']:.2f} % top-1 on {metrics['split']}, weights in {out}")


@main.command()
@click.argument("runs", nargs=-1, required=True)
@click.option("--holdout", "holdout_run", required=True, metavar="DIR", help="Run folder of the same recipe with --holdout.")
@click.option("--out", default="hub_configs", show_default=True, metavar="DIR", help="Where the checkpoint folder goes.")
def build(runs: tuple[str, ...], holdout_run: str, out: str) -> None:
    """Make a checkpoint folder, a Hub repository as published, from finished RUNS (one per seed)."""
    from . import hub

    click.echo(hub.build(runs, holdout_run, out))


def _may_download(data_dir: str | None, asked: bool | None) -> bool:
    """What was asked for; else yes for the cache, no for a folder that the user named."""
    if asked is not None:
        return asked
    return data_dir is None and "CNNZOO_DATA_DIR" not in os.environ


def _dataset_of(network: Any) -> str:
    tag = (getattr(network, "pretrained_cfg", None) or {}).get("tag")
    if not tag:
        raise CnnzooError("The model's checkpoint does not say what it was trained on. Name the data set: --dataset.")
    return tag


def _to_device(network: Any, device: str) -> Any:
    import torch

    try:
        return network.to(torch.device(device))
    except (RuntimeError, AssertionError) as e:
        raise CnnzooError(f"device={device!r} cannot be used here ({str(e).splitlines()[0]}). Pass --device cpu.") from e


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints aligned columns: numbers to the right, words to the left."""
    widths = [max(len(line[i]) for line in [header, *rows]) for i in range(len(header))]
    numeric = [bool(rows) and all(row[i][:1].isdigit() for row in rows) for i in range(len(header))]
    for line in [header, ["-" * w for w in widths], *rows]:
        cells = [cell.rjust(w) if right else cell.ljust(w) for cell, w, right in zip(line, widths, numeric, strict=True)]
        click.echo("  ".join(cells).rstrip())
