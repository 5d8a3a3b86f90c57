"""What the benchmarks found, as tables: aligned on the screen, in Markdown in the README."""

import statistics
from typing import Any, NamedTuple

from .. import checkpoints
from ..metrics import taught_by
from . import _peers


class Table(NamedTuple):
    """A caption, the names of the columns, and a list of cells per row."""

    caption: str
    header: list[str]
    cells: list[list[str]]


def train_tables(found: dict[str, Any]) -> list[Table]:
    """Of what `cnnzoo bench train` wrote."""
    plain = min(r["seconds"] for r in found["loops"] if "times" not in r)
    loops = [
        [r["loop"], f"{r['warm_up']:.1f}", f"{r['seconds']:.1f}", f"{r.get('times', plain / r['seconds']):.1f}"]
        for r in found["loops"]
    ]
    switches = [[r["switch"], f"{r['images_per_s']:,}", f"{r['times']:.2f}"] for r in found["switches"]]
    made = [
        Table(
            "One epoch of lenet_d2l, 60,000 images at batch 128, in fp32 except where it says bf16",
            ["loop", "warm-up, seconds", "epoch, seconds", "times"],
            loops,
        ),
        Table("Training resnext_small at batch 128", ["switch", "images/s", "times"], switches),
    ]
    if not found["cold_starts"]:
        return made
    runs = len(found["cold_starts"][0]["seconds"])
    rows = [
        [r["name"], _spread(r["seconds"], 0), _spread(r["top1"], 2), _spread(r["top1_tta"], 2), r["command"]]
        for r in found["cold_starts"]
    ]
    header = ["goal", "seconds", "test top-1", "with flip TTA", "command"]
    return [
        *made,
        Table(f"From a cold start, imports and the reading of data and test set included ({_seeds(runs)})", header, rows),
    ]


def scaling_tables(found: dict[str, Any]) -> list[Table]:
    """Of what `cnnzoo bench scaling` wrote."""
    rows = [
        [
            r["axis"], r["model"], f"{r['images']:,}", str(r["processes"]), f"{r['seconds']:.1f}", f"{r['images_per_s']:,}",
            f"{r['gmacs_per_s']:.0f}", f"{r['peak_mb']:,}",
        ]
        for r in found["rows"]
    ]  # fmt: skip
    header = ["growing", "model", "images", "processes", "seconds", "images/s", "G MACs/s", "peak MB"]
    return [Table("One epoch of the recipe standard, on whole synthetic images", header, rows)]


def infer_tables(found: dict[str, Any]) -> list[Table]:
    """Of what `cnnzoo bench infer` wrote: all forms for each number of threads, ours held against each peer, and what the
    inference form gains. How accurate a model is, and how long it was trained, is from its checkpoint, or from the run of a
    peer that was kept.
    """
    rows = found["rows"]
    kinds = list(dict.fromkeys(r["form"] for r in rows))
    trained = _trained(rows)
    tables = []
    for threads in dict.fromkeys(r["threads"] for r in rows):
        cells = []
        for model in dict.fromkeys(r["model"] for r in rows if r["threads"] == threads):
            own = {r["form"]: r for r in rows if (r["model"], r["threads"]) == (model, threads)}
            first, (top1, how) = next(iter(own.values())), trained[model]
            cost = [f"{first['params'] / 1e6:.2f} M", f"{first['macs'] / 1e6:.1f} M", _percent(top1), how]
            cells.append([model, *cost, *(_speeds(own[kind]) if kind in own else "-" for kind in kinds)])
        caption = f"Images a second, one by one / in the best batch, raw 1x28x28 pixels to probabilities, threads: {threads}"
        tables.append(Table(caption, ["model", "parameters", "MACs", "test top-1", "trained for", *kinds], cells))
    tables += [table for table in (_duels(rows, trained), _gains(rows)) if table]
    if cold := found.get("cold_start"):
        cells = [[f"{cold['predict_s']:.2f}", f"{cold['import_timm_s']:.2f}", f"{cold['times']:.2f}"]]
        header = ["cnnzoo predict photo.png, seconds", "python -c 'import timm', seconds", "times"]
        tables.append(Table("From typing to answer, each in a fresh process", header, cells))
    return tables


def _trained(rows: list[dict[str, Any]]) -> dict[str, tuple[float | None, str]]:
    """By model: its test top-1 in fp32, None where it was not measured, and what it was trained for, in words."""
    found = {r["model"]: (r["top1"], _length(r)) for r in _peers.trained()}
    for row in rows:
        name = row["model"]
        if not _peers.is_peer(name):
            arch, _, tag = name.partition(".")
            card = checkpoints.metrics(f"{arch}.{tag or next(iter(checkpoints.pretrained_cfgs(arch)))}")
            found.setdefault(name, (card["top1"], _length(card)))
    return {row["model"]: found.get(row["model"], (None, "-")) for row in rows}


def _length(m: dict[str, Any]) -> str:
    length = f"{m['epochs']} epoch{'s' * (m['epochs'] > 1)}, {m['minutes']:.0f} min, {m['hardware'].rpartition(', ')[2]}"
    return length + taught_by(m)


def _percent(top1: float | None) -> str:
    return "not measured" if top1 is None else f"{top1:.2f}"


def best_speed(row: dict[str, Any]) -> int:
    """Images a second in the best batch; 0 for a form that there is not here."""
    return max(row.get("images_per_s", {}).values(), default=0)


def _speeds(row: dict[str, Any]) -> str:
    if "failed" in row:
        return row["failed"]
    speeds = {int(batch): speed for batch, speed in row["images_per_s"].items()}  # JSON's keys are texts
    return f"{speeds.get(1, 0):,} / {max(speeds.values()):,}"


def _duels(rows: list[dict[str, Any]], trained: dict[str, tuple[float | None, str]]) -> Table | None:
    """For each peer in its best form: the most accurate of ours in a form that is twice as fast, with that form's top-1."""
    threads = max(r["threads"] for r in rows)
    rows = [r for r in rows if r["threads"] == threads and best_speed(r)]
    ours = [r for r in rows if not _peers.is_peer(r["model"])]
    peers = list(dict.fromkeys(r["model"] for r in rows if _peers.is_peer(r["model"])))
    if not ours or not peers:
        return None
    cells = []
    for name in peers:
        theirs, top1 = max((r for r in rows if r["model"] == name), key=best_speed), trained[name][0]
        fast = [r for r in ours if best_speed(r) >= 2 * best_speed(theirs)]
        best = max(fast, key=lambda r: (r["top1"], best_speed(r))) if fast else max(ours, key=best_speed)
        if not fast:
            answer = "no: none is twice as fast"
        elif top1 is None:
            answer = "cannot be said: not measured"
        else:
            answer = "yes" if best["top1"] >= top1 else "no: less accurate"
        sides = [[m, _percent(p), f"{best_speed(r):,} ({r['form']})"] for m, p, r in (
            (name, top1, theirs), (best["model"], best["top1"], best)
        )]  # fmt: skip
        cells.append([*sides[0], *sides[1], f"{best_speed(best) / best_speed(theirs):.1f}", answer])
    header = ["peer", "its top-1", "images/s", "ours", "its top-1", "images/s", "times", "as accurate and twice as fast"]
    caption = (
        "Each peer in its fastest form, and the most accurate model here in a form that is at least twice as fast (else the "
        f"fastest), threads: {threads}"
    )
    return Table(caption, header, cells)


def _gains(rows: list[dict[str, Any]]) -> Table | None:
    speed = {(r["model"], r["threads"], r["form"]): r["images_per_s"] for r in rows if "failed" not in r}
    pairs = [(m, t) for m, t, form in speed if form == "eager" and (m, t, "inference_form") in speed]
    if not pairs:
        return None
    batches = list(speed[(*pairs[0], "eager")])
    cells = []
    for model, threads in pairs:
        plain, fast = speed[model, threads, "eager"], speed[model, threads, "inference_form"]
        gained = [f"{plain[b]:,} -> {fast[b]:,} ({fast[b] / plain[b]:.1f})" for b in batches]
        cells.append([model, str(threads), *gained])
    header = ["model", "threads", *(f"batch {b}" for b in batches)]
    return Table("Images a second, eager -> inference form (times)", header, cells)


def transfer_tables(found: dict[str, Any]) -> list[Table]:
    """Of what `cnnzoo bench transfer` wrote."""
    rows = found["rows"]
    methods = list(dict.fromkeys(r["method"] for r in rows))
    cells: dict[tuple[str, int], dict[str, str]] = {}
    for r in rows:
        cells.setdefault((r["dataset"], r["labelled"]), {})[r["method"]] = _spread(r["top1"], 1)
    return [
        Table(
            f"Test top-1 in percent of {rows[0]['model']} ({_seeds(len(rows[0]['top1']))})",
            ["data set", "labelled images per class", *methods],
            [[name, str(count), *(found[m] for m in methods)] for (name, count), found in cells.items()],
        )
    ]


TABLES = dict(train=train_tables, scaling=scaling_tables, infer=infer_tables, transfer=transfer_tables)


def where(found: dict[str, Any]) -> str:
    """The machine and the versions of a measurement, in words."""
    packages = ("python", "torch", "torchvision", "timm", "onnxruntime")
    return f"{found['hardware']}; " + ", ".join(f"{name} {found[name]}" for name in packages if name in found)


def markdown(kind: str, found: dict[str, Any]) -> str:
    """What `cnnzoo bench KIND` wrote, for the README, with machine, versions and command above it."""
    parts = [f"{where(found)}, by `{found['command']}`."]
    for caption, header, cells in TABLES[kind](found):
        lines = [header, ["---"] * len(header), *cells]
        parts.append(f"{caption}:\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join(parts)


def _spread(values: list[float], digits: int) -> str:
    std = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{std}"


def _seeds(runs: int) -> str:
    return "one run" if runs == 1 else f"mean ± standard deviation of {runs} seeds"
