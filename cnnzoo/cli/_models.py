"""Commands about models and what they say of images."""

import contextlib
import dataclasses
import json
from pathlib import Path

import click
from torch import nn

from .. import data, inference
from ..errors import CnnzooError, InputError
from ..files import atomic, check_writable
from ..progress import progress
from ._common import (
    accuracy,
    data_dir_option,
    device_option,
    download_option,
    images_for,
    json_option,
    photo_option,
    pretrained,
    skip_broken_option,
    table,
    with_photo_weights,
)  # fmt: skip

_LOOKED_AT = 20  # pictures of a folder, to see whether they are photos


@click.command()
@click.option("--model", default="resnext_small", show_default=True, help="A pretrained model.")
@click.option("--sheet", default="cnnzoo_demo.png", show_default=True, help="Where the contact sheet goes.")
@json_option
def demo(model: str, sheet: str, as_json: bool) -> None:
    """Classify ten drawings of garments. Needs no network and no data set."""
    from .. import drawings
    from ..predict import predict as classify

    if Path(sheet).suffix.lower() != ".png":
        raise CnnzooError(f"{sheet} was given for the contact sheet, which is a PNG file. Use a name that ends in .png.")
    check_writable(sheet)
    network = pretrained(model)
    garments = drawings.garments()
    answers = [best[0] for best in classify(network, list(garments.values()))]
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
    table(
        ["drawing", "label", "probability", ""],
        [[r["drawing"], r["label"], f"{r['probability']:.1%}", "" if r["right"] else "wrong"] for r in rows],
    )
    click.echo(f"\n{model} names {sum(r['right'] for r in rows)} of {len(rows)} drawings right. Contact sheet: {sheet}")


@click.command("list")
@click.argument("pattern", default="*")
@click.option("--pretrained", "with_weights", is_flag=True, help="List the checkpoints and their measurements.")
@click.option("--supports", multiple=True, metavar="CAPABILITY", help="Only models that support this, such as dynamic_size.")
@json_option
def list_(pattern: str, with_weights: bool, supports: tuple[str, ...], as_json: bool) -> None:
    """List models, with a wildcard PATTERN such as 'resnext*'."""
    from .. import registry

    names = registry.list_models(pattern, pretrained=with_weights, supports=supports)
    if not names:
        inside = f"*{pattern.strip('*')}*"
        more = f" {inside!r} does." if registry.list_models(inside, pretrained=with_weights, supports=supports) else ""
        raise CnnzooError(f"No model matches {pattern!r} and the options.{more} cnnzoo list shows all of them.")
    if with_weights:
        _list_results(registry.results(names), as_json)
        return
    rows = [registry.info(name) for name in progress(names, "counting")]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    cells = [
        [
            r["name"], f"{r['params']:,}", f"{r['macs'] / 1e6:,.1f}", "x".join(map(str, r["input_size"])),
            "; ".join(f"{tag} {accuracy(found)}" for tag, found in r["checkpoints"].items()),
        ]
        for r in rows
    ]  # fmt: skip
    table(["model", "parameters", "M MACs", "input", "weights, their test top-1"], cells)


def _list_results(rows: list[dict], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return

    def number(value: float | None, digits: int) -> str:
        return "-" if value is None else f"{value:.{digits}f}"

    cells = [
        [
            r["checkpoint"], f"{r['params']:,}", number(r["macs"] / 1e6, 1), number(r["top1"], 2),
            number(r["top1_tta"], 2), number(r["top1_mean"], 2), number(r["top1_std"], 2), str(r["n"]), number(r["ece"], 1),
            number(r["ece_calibrated"], 1), str(r["epochs"]), number(r["minutes"], 0), number(r["images_per_s"], 0),
        ]
        for r in rows
    ]  # fmt: skip
    header = (
        "checkpoint",
        "parameters",
        "M MACs",
        "top-1",
        "TTA",
        "mean",
        "std",
        "n",
        "ECE",
        "calibrated",
        "epochs",
        "min",
        "train-img/s",
    )
    table(header, cells)
    if elsewhere := [r["checkpoint"] for r in rows if not r["bundled"]]:
        click.echo(f"\nOn the Hub only, loaded from there when they are first used: {', '.join(elsewhere)}")


@click.command()
@click.argument("model")
@json_option
def info(model: str, as_json: bool) -> None:
    """Show size, cost, classes and accuracy of MODEL."""
    from .. import registry

    facts = registry.info(model)
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    levels = "  ".join(f"{f['channels']} at 1/{f['reduction']}" for f in facts["features"])
    trained = "; ".join(
        f"{tag}, test top-1 {accuracy(found)}" + (", on the Hub only" if not found["bundled"] else "")
        for tag, found in facts["checkpoints"].items()
    )
    names = f": {', '.join(facts['labels'])}" if facts["labels"] else ""
    shown = [
        ("model", f"{facts['name']} ({facts['family']})"),
        ("parameters", f"{facts['params']:,}"),
        ("MACs", f"{facts['macs']:,}"),
        ("input", "x".join(map(str, facts["input_size"]))),
        ("classes", f"{facts['num_classes']}{names}"),
        ("features", levels),
        ("pretrained", trained or _untrained(facts)),
        ("supports", "not tried" if facts["supports"] is None else ", ".join(facts["supports"])),
    ]
    for key, value in shown:
        click.echo(f"{key:<11} {value}")


def _untrained(facts: dict) -> str:
    """What to show of a model that has no checkpoint: where it is one of the zoo's, why, and how to train it."""
    from .. import checkpoints

    if facts["training_command"] is None:
        return "no"
    why = "no, too large for the package" if facts["name"] in checkpoints.TOO_LARGE else "not yet"
    return f"{why}; to train it, type: {facts['training_command']}"


@click.command("summary")
@click.argument("model")
@click.option("--depth", type=int, help="Levels of nested modules to list.  [default: as many as go into 40 lines]")
@json_option
def summary_(model: str, depth: int | None, as_json: bool) -> None:
    """Show the layers of MODEL. With shapes, parameters, multiply-accumulates and receptive fields."""
    from .. import registry, summary

    network = registry.create_model(model, device="meta")  # shapes need no numbers
    found = summary.summarize(network, network.pretrained_cfg["input_size"], depth="auto" if depth is None else depth)
    click.echo(json.dumps(dataclasses.asdict(found), indent=2) if as_json else found)


@click.command("eval")
@click.argument("model")
@click.option("--dataset", default=None, help="What to measure on.  [default: what MODEL was trained on]")
@click.option("--split", default="test", show_default=True, help="test, train, fit or holdout.")
@click.option("--tta", is_flag=True, help="Average over each image and its mirror image.")
@click.option(
    "--photo",
    type=click.Choice(data.PHOTO),
    default="never",
    show_default=True,
    help="With --dataset folder: measure on all of its pictures (if it has test/, on those in there), treated as photos, by "
    "the weights that predict uses for photos.",
)
@device_option
@data_dir_option
@download_option
@skip_broken_option
@json_option
def eval_(
    model: str, dataset: str | None, split: str, tta: bool, photo: str, device: str, data_dir: str | None,
    download: bool | None, skip_broken: bool, as_json: bool,
) -> None:  # fmt: skip
    """Measure the accuracy of a pretrained MODEL."""
    from .. import evaluate, registry

    if photo != "never":
        if dataset != "folder" or data_dir is None:
            raise click.UsageError("--photo measures on a folder of pictures: give --dataset folder --data-dir FOLDER.")
        if tta or split != "test":
            raise click.UsageError("--photo measures as predict answers: leave out --tta and --split, or --photo.")
        _eval_photos(model, data_dir, photo, device, skip_broken, as_json)
        return
    network = pretrained(model, device)
    images = images_for(network, split, data_dir, download, skip_broken, dataset)
    m = evaluate.evaluate(network, images, tta=tta)
    if as_json:
        shown = dict(model=model, split=split, tta=tta, labels=images.info.labels)
        click.echo(json.dumps(shown | dataclasses.asdict(m), indent=2))
        return
    seen = [sum(row) for row in m.confusion]
    table(
        ["class", "top-1"],
        [[label, f"{v:.1f} %"] for label, v, n in zip(images.info.labels, m.per_class, seen, strict=True) if n],
    )
    click.echo(f"\ncross-entropy {m.loss:.4f}, expected calibration error {m.ece:.2f} %{', flip TTA' if tta else ''}")
    arch, tag = (network.pretrained_cfg or {}).get("architecture"), (network.pretrained_cfg or {}).get("tag")
    if model in (arch, f"{arch}.{tag}") and tag in (known := registry.info(arch)["checkpoints"]):
        click.echo(f"accuracy on the model card (test set): {accuracy(known[tag])}")
    click.echo(f"{model}: {m.top1:.2f} % top-1 on {m.count:,} {split} images of {images.info.title}")
    if images.info.name == "folder" and _are_photos(network, data_dir or data.default_data_dir()):
        click.echo(
            "The pictures were only scaled. They are not in the model's format, which is a light garment on black at 28x28 "
            "pixels. To measure them as predict answers, add: --dataset folder --photo auto",
            err=True,
        )


def _are_photos(network: nn.Module, data_dir: str | Path) -> bool:
    """Whether the model is one of Fashion-MNIST, and one of the first pictures in a folder is not in its format."""
    read = inference.reader(network)
    for path, _ in data.labelled_files(data_dir)[:_LOOKED_AT]:
        with contextlib.suppress(InputError):  # broken, or nothing is on it
            if read(path).photo:
                return True
    return False


def _eval_photos(model: str, data_dir: str, photo: str, device: str, skip_broken: bool, as_json: bool) -> None:
    from .. import photos

    network, special, for_photos = with_photo_weights(model, device)
    found = photos.evaluate_photos(network, data_dir, photo, photo_model=for_photos, skip_broken=skip_broken)
    m = found.metrics
    if as_json:
        labels = inference.class_labels(network)
        shown = dict(model=model, photo=photo, photo_weights=special, labels=labels, warned=found.warned)
        shown |= dict(warned_top1=found.warned_top1, other_top1=found.other_top1)
        click.echo(json.dumps(shown | dataclasses.asdict(m), indent=2))
        return
    seen = [sum(row) for row in m.confusion]
    rows = zip(inference.class_labels(network), seen, m.per_class, strict=True)
    table(["class", "photos", "top-1"], [[label, str(n), f"{v:.1f} %"] for label, n, v in rows if n])
    for kind, count, top1 in (
        ("with a warning", found.warned, found.warned_top1), ("without", m.count - found.warned, found.other_top1)
    ):  # fmt: skip
        if count:
            click.echo(f"{'' if kind == 'without' else chr(10)}{kind}: {top1:.2f} % of {count}")
    by = f", with {special}, the weights for photos" if special else ""
    click.echo(f"{model}: {m.top1:.2f} % top-1 on {m.count:,} photos in {data_dir}{by}")


@click.command()
@click.argument("images", nargs=-1, required=True)
@click.option("--model", default="resnext_small", show_default=True, help="A pretrained model.")
@click.option("--topk", type=int, help="Answers per image.  [default: 3, or all classes of a model that has fewer]")
@photo_option
@skip_broken_option
@click.option("--show", metavar="FILE", help="Draw the steps and the answer of the first one (needs the extra plot).")
@device_option
@json_option
def predict(
    images: tuple[str, ...], model: str, topk: int | None, photo: str, skip_broken: bool, show: str | None, device: str,
    as_json: bool,
) -> None:  # fmt: skip
    """Name what IMAGES show.

    They are photos of garments, or files of 28x28 pixels, light on black, which is what the model knows.
    """
    from .. import registry
    from ..predict import predict as classify

    if images[0] in registry.list_models() + registry.list_pretrained() and not Path(images[0]).exists():
        raise click.UsageError(f"{images[0]} is a model, and no file. Write --model {images[0]}, and the images.")
    if show:
        from .. import canvas

        canvas.check_picture(show)  # before the images are looked at
    network, special, for_photos = with_photo_weights(model, device)
    topk = min(3, network.num_classes) if topk is None else topk
    found = classify(network, list(images), topk=topk, photo=photo, photo_model=for_photos, skip_broken=skip_broken)
    answered = [(image, best) for image, best in zip(images, found, strict=True) if best is not None]
    if show:
        from .. import plots

        plots.save(plots.answer(network, answered[0][0], photo, photo_model=for_photos), show)
    if as_json:
        shown = [
            dict(
                image=image,
                answers=[dict(label=label, probability=round(p, 4)) for label, p in best],
                photo=best.photo,
                warnings=list(best.warnings),
            )
            for image, best in answered
        ]
        click.echo(json.dumps(shown, indent=2))
        return
    rows = [[image, *(f"{label} {p:.1%}" for label, p in best)] for image, best in answered]
    table(["image", *map(str, range(1, topk + 1))], rows)
    photos = sum(best.photo for _, best in answered)
    if photos:
        by = f" Answered by {special}, the weights for photos." if special else ""
        click.echo(f"\n{photos} of {len(answered)} treated as a photo: not 28x28 on black (--photo never: as they are).{by}")
    for image, best in answered:
        for warning in best.warnings:
            click.echo(f"{image}: {warning}")


COMMANDS = (demo, list_, info, summary_, eval_, predict)
