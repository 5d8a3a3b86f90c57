"""`cnnzoo bench KIND`."""

import json
from pathlib import Path
from typing import Any

import click

from ..errors import CnnzooError
from ..files import check_writable, user_path, write_json
from ._common import data_dir_option, download_option, json_option, may_download, table

# What is timed from a cold start: the goal, and what follows `cnnzoo train`.
_COLD = {
    "91 %": ["vgg_tiny", "--recipe", "fast", "--epochs", "4", "--warmup-epochs", "1", "--grown-at", "0.65"],
    "94 %": ["vgg_small", "--recipe", "fast"],
}


@click.group()
def bench() -> None:
    """Measure speed on this machine, and whether pretraining helps."""


@bench.command("train")
@click.option("--out", default="bench_train.json", show_default=True, metavar="FILE", help="Where the numbers go.")
@click.option(
    "--seeds", type=click.IntRange(0), default=3, show_default=True, help="Whole runs for each goal; 0 leaves them out."
)
@data_dir_option
@download_option
@json_option
def train_(out: str, seeds: int, data_dir: str | None, download: bool | None, as_json: bool) -> None:
    """Time our training loop beside a textbook's, each option for speed, and whole runs up to an accuracy."""
    from .. import bench, data

    check_writable(out)  # before the minutes that it takes to measure
    split = data.load_split(split="train", data_dir=data_dir, download=may_download(data_dir, download))
    found = dict(bench.machine(), loops=bench.loops(split), switches=bench.switches())
    found["cold_starts"] = (
        bench.cold_starts(data_dir or data.default_data_dir(), _COLD, tuple(range(seeds))) if seeds else []
    )
    _show("train", found, out, as_json)


@bench.command("scaling")
@click.option("--out", default="bench_scaling.json", show_default=True, metavar="FILE", help="Where the numbers go.")
@json_option
def scaling(out: str, as_json: bool) -> None:
    """Time an epoch with more data, more processes and larger models, on synthetic images."""
    from .. import bench

    check_writable(out)  # before the minutes that it takes to measure
    found = dict(bench.machine(), rows=bench.scaling())
    _show("scaling", found, out, as_json)


@bench.command("infer")
@click.argument("models", nargs=-1)
@click.option("--form", "wanted", multiple=True, metavar="FORM", help="May be given again.  [default: not compiled ones]")
@click.option("--threads", type=click.IntRange(1), multiple=True, help="May be given again.  [default: 1 and 2]")
@click.option("--batch", "batches", type=click.IntRange(1), multiple=True, help="Images per call; may be given again.")
@click.option("--files", metavar="FOLDER", help="Where exported files are kept and found again.")
@click.option("--out", default="bench_infer.json", show_default=True, metavar="FILE", help="Where the numbers go.")
@click.option("--picture", metavar="FILE", help="A picture of accuracy against speed.")
@data_dir_option
@download_option
@json_option
def infer(
    models: tuple[str, ...],
    wanted: tuple[str, ...],
    threads: tuple[int, ...],
    batches: tuple[int, ...],
    files: str | None,
    out: str,
    picture: str | None,
    data_dir: str | None,
    download: bool | None,
    as_json: bool,
) -> None:
    """Time MODELS in several forms (eager, exported, ...), those of others too, on the same images.

    A model is a pretrained one of the zoo, or timm:NAME, which is untrained. Without MODELS some of each are timed, and
    MLPerf Tiny's ResNet-8 (timm:resnet8_mlperf). The forms are eager, channels_last, inference_form, onnx, "onnx int8", and
    where --form asks for them compile, torch_export, aoti, "torch_export bf16" and "aoti bf16".
    """
    from .. import bench

    check_writable(out)  # before the minutes that it takes to measure
    if picture:
        from .. import canvas

        canvas.check_picture(picture)
        if wanted and not {"onnx", "onnx int8"} & set(wanted):
            raise click.UsageError("--picture shows the forms onnx and onnx int8. Add one of them: --form onnx.")
    given = dict(names=models, wanted=wanted, threads=threads, batches=batches)
    where = dict(data_dir=data_dir, download=may_download(data_dir, download), files=files)
    rows = bench.forms(**{k: v for k, v in given.items() if v}, **where)
    found = dict(bench.machine(), rows=rows, cold_start=bench.cold_start())
    _show("infer", found, out, as_json)
    if picture:
        bench.draw(found, picture)


@bench.command("peers")
@click.argument("runs", nargs=-1, required=True)
@click.option("--infer", "timed", metavar="FILE", help="What bench infer wrote: draw its picture anew.")
@click.option("--picture", metavar="FILE", help="Where that picture goes.")
@json_option
def peers(runs: tuple[str, ...], timed: str | None, picture: str | None, as_json: bool) -> None:
    """Keep what RUNS of other models reached, for the tables and the picture of bench infer.

    RUNS are folders that cnnzoo train timm:NAME made. Their numbers are kept, not their weights.
    """
    from .. import bench, checkpoints

    if (timed is None) != (picture is None):
        raise click.UsageError("--infer and --picture go together: give both, or neither.")
    if picture:
        from .. import canvas

        canvas.check_picture(picture)  # before anything is kept
    found = checkpoints.read_json(user_path(timed)) if timed else None
    if found is not None and not all({"form", "threads"} <= set(row) for row in found.get("rows") or [{}]):
        raise CnnzooError(f"{timed} has no rows of bench infer. Pass the file that cnnzoo bench infer wrote.")
    rows = bench.keep(bench.collect(runs))
    if found and picture:
        bench.draw(found, picture)
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    cells = [[r["model"], f"{r['top1']:.2f}", str(r["epochs"]), f"{r['minutes']:.0f}", r["hardware"]] for r in rows]
    table(["model", "test top-1", "epochs", "minutes", "hardware"], cells)


@bench.command("transfer")
@click.argument("model", default="nin_tiny")
@click.option("--out", default="bench_transfer.json", show_default=True, metavar="FILE", help="Where the numbers go.")
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True, help="Runs of each kind.")
@json_option
def transfer(model: str, out: str, seeds: int, as_json: bool) -> None:
    """Does pretraining help: MODEL fine-tuned, probed and from scratch, on few digits (needs the extra transfer)."""
    from .. import bench

    check_writable(out)
    _show("transfer", dict(bench.machine(), rows=bench.transfer(model, seeds)), out, as_json)


def _show(kind: str, found: dict[str, Any], out: str, as_json: bool) -> None:
    from .. import bench

    write_json(Path(out), found)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    click.echo(bench.where(found))
    for caption, header, cells in bench.TABLES[kind](found):
        click.echo(f"\n{caption}:\n")
        table(header, cells)
    click.echo(f"\nWritten to {out}.")


COMMANDS = (bench,)
