"""`cnnzoo bench KIND`."""

import json
import statistics
from pathlib import Path

import click

from ..files import write_json
from ._common import data_dir_option, download_option, json_option, may_download, table

# What is timed from a cold start: the goal, and what follows `cnnzoo train`.
_COLD = {
    "91 %": ["vgg_tiny", "--recipe", "fast", "--epochs", "5", "--warmup-epochs", "1"],
    "94 %": ["vgg_small", "--recipe", "fast"],
}


@click.group()
def bench() -> None:
    """Measure speed on this machine."""


@bench.command("train")
@click.option("--out", default="bench_train.json", show_default=True, metavar="FILE", help="Where the numbers go.")
@click.option("--seeds", default=3, show_default=True, help="Runs per cold start; 0 leaves them out.")
@data_dir_option
@download_option
@json_option
def train_(out: str, seeds: int, data_dir: str | None, download: bool | None, as_json: bool) -> None:
    """Our loop against a textbook's, what each switch gains, and the time to an accuracy from a cold start."""
    from .. import bench, data

    split = data.load_split(split="train", data_dir=data_dir, download=may_download(data_dir, download))
    found = dict(bench.machine(), loops=bench.loops(split), switches=bench.switches())
    found["cold_starts"] = (
        bench.cold_starts(data_dir or data.default_data_dir(), _COLD, tuple(range(seeds))) if seeds else []
    )
    write_json(Path(out), found)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    click.echo(f"{found['hardware']}, torch {found['torch']}\n\nOne epoch of lenet_d2l, 60,000 images at batch 128, fp32:\n")
    table(
        ["loop", "seconds", "times"],
        [[r["loop"], f"{r['seconds']:.1f}", f"{r.get('times', 1):.1f}"] for r in found["loops"]],
    )
    click.echo("\nTraining resnext_small, batch 128:\n")
    table(
        ["switch", "images/s", "times"],
        [[r["switch"], f"{r['images_per_s']:,}", f"{r['times']:.2f}"] for r in found["switches"]],
    )
    if seeds:
        click.echo(f"\nFrom a cold start, the mean of {seeds} seeds:\n")
        table(
            ["goal", "seconds", "test top-1", "with flip TTA", "command"],
            [
                [
                    r["name"],
                    *(_spread(r[k], digits) for k, digits in (("seconds", 0), ("top1", 2), ("top1_tta", 2))),
                    r["command"],
                ]
                for r in found["cold_starts"]
            ],
        )
    click.echo(f"\nWritten to {out}.")


@bench.command("scaling")
@click.option("--out", default="bench_scaling.json", show_default=True, metavar="FILE", help="Where the numbers go.")
@json_option
def scaling(out: str, as_json: bool) -> None:
    """What an epoch costs as the data, the processes and the model grow, on synthetic images."""
    from .. import bench

    found = dict(bench.machine(), rows=bench.scaling())
    write_json(Path(out), found)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    click.echo(f"{found['hardware']}, torch {found['torch']}; one epoch of the recipe standard, synthetic images\n")
    rows = [
        [r["axis"], r["model"], f"{r['images']:,}", str(r["processes"]), f"{r['seconds']:.1f}"]
        + [f"{r['images_per_s']:,}", f"{r['gmacs_per_s']:.0f}", f"{r['peak_mb']:,}"]
        for r in found["rows"]
    ]
    table(["growing", "model", "images", "processes", "seconds", "images/s", "G MACs/s", "peak MB"], rows)
    click.echo(f"\nWritten to {out}.")


@bench.command("infer")
@click.argument("model", default="resnext_small")
@click.option("--out", default="bench_infer.json", show_default=True, metavar="FILE", help="Where the numbers go.")
@click.option("--threads", type=click.IntRange(1), help="Of every form and rival.  [default: torch's]")
@data_dir_option
@json_option
def infer(model: str, out: str, threads: int | None, data_dir: str | None, as_json: bool) -> None:
    """MODEL in every form (eager, compiled, exported), against other libraries' models on the same images."""
    import torch

    from .. import bench

    if threads:
        torch.set_num_threads(threads)
    found = dict(bench.machine(), rows=bench.forms(model, data_dir=data_dir))
    write_json(Path(out), found)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    click.echo(f"{bench.where(found)}; raw 1x28x28 pixels to probabilities\n")
    table(*bench.forms_table(found["rows"]))
    click.echo(f"\nWritten to {out}.")


def _spread(values: list[float], digits: int) -> str:
    std = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{std}"


COMMANDS = (bench,)
