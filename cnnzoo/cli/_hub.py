"""Commands that make checkpoint folders, and exchange them with the Hugging Face Hub.

The Hub's client logs in (`hf auth login`, or HF_TOKEN) and draws the progress bars. There is no option for a token: it would
stay in the shell's history.
"""

import json

import click

from ..datasets import DATASETS
from ..files import user_path
from ._common import data_dir_option, device_option, download_option, json_option, may_download, skip_broken_option

_private = click.option(
    "--private/--public",
    default=True,
    show_default=True,
    help="Who can see the repository. One that exists must already be of that kind.",
)


@click.command()
@click.argument("runs", nargs=-1, required=True)
@click.option(
    "--holdout",
    "holdout_run",
    metavar="DIR",
    help="Run folder of the same recipe with --holdout; without it probabilities stay uncalibrated, and the card says so.",
)
@click.option("--out", default="hub_configs", show_default=True, metavar="DIR", help="Where the checkpoint folder goes.")
@click.option(
    "--variant",
    default="",
    metavar="NAME",
    help="For another recipe than the usual one: the folder is called ARCH.NAME_DATASET.",
)
@data_dir_option
@download_option
@skip_broken_option
def build(
    runs: tuple[str, ...], holdout_run: str | None, out: str, variant: str, data_dir: str | None, download: bool | None,
    skip_broken: bool,
) -> None:  # fmt: skip
    """Make a checkpoint folder from finished RUNS.

    Give one run for each seed. The folder is a Hub repository as it is published; the model is measured too.
    """
    from .. import hub

    with hub.placed_in(out) as scratch:  # so that no folder stays that could not be measured
        made = hub.build(runs, scratch, holdout_run=holdout_run, variant=variant)
        dataset = made.name.rpartition(".")[2].removeprefix(f"{variant}_")
        if data_dir or dataset in DATASETS:  # else nothing says where the pictures are
            fetch = may_download(data_dir, download)
            hub.measure(made, data_dir=data_dir, download=fetch, skip_broken=skip_broken)
    click.echo(user_path(out) / made.name)


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="MODELS...")
@device_option
@data_dir_option
@download_option
@skip_broken_option
@click.option(
    "--photos",
    metavar="DIR",
    help="Also measure on photos: a folder with a folder of photos for each class. They are treated as predict treats them.",
)
@click.option(
    "--holdout",
    "holdout_run",
    metavar="DIR",
    help="Run folder of the checkpoint's recipe with --holdout: its temperature calibrates the probabilities.",
)
def measure(
    models: tuple[str, ...], device: str, data_dir: str | None, download: bool | None, skip_broken: bool,
    photos: str | None, holdout_run: str | None,
) -> None:  # fmt: skip
    """Add missing measurements to MODELS.

    These are the confusion matrix, the calibration error at the checkpoint's temperature, and the accuracy on altered
    images: shifted, noisy, blurred and pale.
    MODELS are checkpoint folders, names of checkpoints, or run folders.
    """
    from .. import hub

    for model in models:
        where = dict(data_dir=data_dir, download=may_download(data_dir, download), skip_broken=skip_broken)
        added = hub.measure(model, **where, device=device, photos=photos, holdout_run=holdout_run)
        click.echo(f"{model}: {'added ' + ', '.join(added) if added else 'lacks nothing'}")


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="MODELS...")
@json_option
def verify(models: tuple[str, ...], as_json: bool) -> None:
    """Check that the files of MODELS agree.

    These are hashes, card, config, and the logits that a new process computes.
    MODELS are checkpoint folders, names of checkpoints, or run folders.
    """
    from .. import hub

    found = []
    for model in models:
        metrics = hub.verify(model)
        found.append(dict(model=model, good=True, top1=metrics.get("top1"), sha256=metrics["sha256"]))
        if not as_json:
            click.echo(f"{model}: good, {_accuracy(metrics)}")
    if as_json:
        click.echo(json.dumps(found, indent=2))


def _accuracy(metrics: dict) -> str:
    return f"{metrics['top1']:.2f} % top-1" if "top1" in metrics else "accuracy not measured"


@click.command()
@click.argument("model")
@click.argument("out")
def twin(model: str, out: str) -> None:
    """Make the 3-channel twin of a gray MODEL in OUT.

    It is for transformers' pipeline, where every image is RGB. MODEL is a checkpoint folder, the name of a checkpoint, or a
    run folder.
    """
    from .. import hub

    click.echo(hub.twin(model, out))


@click.command()
@click.argument("model")
@click.argument("repo")
@_private
@click.option("--revision", metavar="BRANCH", help="The branch to push to.  [default: main]")
def push(model: str, repo: str, private: bool, revision: str | None) -> None:
    """Publish MODEL as the Hub's REPO (ORG/NAME).

    It is verified first, and sent in one commit. MODEL is a checkpoint folder, the name of a checkpoint, or a run folder.
    """
    from .. import hub

    commit = hub.push(model, repo, private=private, revision=revision)
    click.echo(f"{repo} is at {commit}")


@click.command()
@click.argument("repo")
@click.option("--revision", metavar="REV", help="A branch, a tag or a full commit.  [default: main]")
@click.option("--cache-dir", metavar="DIR", help="Where downloads are kept.  [default: the Hub client's cache]")
def pull(repo: str, revision: str | None, cache_dir: str | None) -> None:
    """Load the Hub's REPO (ORG/NAME) and verify it. It is fetched into the cache."""
    from .. import hub

    pulled = hub.pull(repo, revision=revision, cache_dir=cache_dir)
    params = sum(p.numel() for p in pulled.model.parameters())
    click.echo(f"{repo} is at {pulled.commit}: {params:,} parameters, {len(pulled.labels)} classes")


@click.command()
@click.option("--root", metavar="DIR", help="Folder of checkpoint folders.  [default: the zoo's own]")
@click.option("--org", default="cnnzoo", show_default=True, help="Whose repositories.")
@click.option("--really", is_flag=True, help="Do it; without this option only what would change is printed.")
@json_option
def publish(root: str | None, org: str, really: bool, as_json: bool) -> None:
    """Push every checkpoint folder, if you say --really.

    Each goes to a public repository of its name. Without --really only what would change is printed.
    """
    from .. import hub

    found = []
    for place, change in hub.publish(root, org=org, really=really):
        found.append({"repository": place, "published": really, "commit" if really else "change": change})
        if not as_json:
            click.echo(f"{place}: {change}")
    if as_json:
        click.echo(json.dumps(found, indent=2))


COMMANDS = (build, measure, verify, twin, push, pull, publish)
