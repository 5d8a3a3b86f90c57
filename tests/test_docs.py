"""The README is true: its blocks run, its table is generated."""

import functools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import test_ecosystem
import test_export
import test_hub_faults
import test_hub_strangers
import test_system
import test_weights_gate
from helpers import HUB_NAME, hub_only
from loopback_hub import YOU
from timm.models import get_pretrained_cfg

import cnnzoo
from cnnzoo import bench, checkpoints, models, published
from cnnzoo.bench._tables import best_speed
from cnnzoo.datasets import FASHION_MNIST
from cnnzoo.hub._card import uncertainty
from cnnzoo.registry import PHOTO_TAG

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
# The recipe for one's own pictures is run as a whole, by test_own_pictures.py.
PYTHON = [body for language, body in BLOCKS if language == "python" and "mine.onnx" not in body]
# Installing is what .ci/run does before and after this suite, with these very commands.
SHELL = [
    line
    for language, body in BLOCKS
    if language == "bash" and "g++" not in body and "mine.onnx" not in body  # test_export_elsewhere.py runs the former whole
    for line in body.splitlines()
    if line and not line.startswith(("#", "pip install"))
]
# Whatever reads the data set reads a few random images instead, so that no command needs the real ones or a network.
PYTHON_WITH_DATA = [sys.executable, str(Path(__file__).parent / "few_images.py")]
MARKS = ("<!-- results: generated -->", "<!-- end of results -->")
SPEED_MARKS = {  # of the runs that were kept: `cnnzoo bench KIND --out tests/bench_KIND.json` makes what stands between them
    kind: (f"<!-- bench {kind}: generated -->", f"<!-- end of bench {kind} -->")
    for kind in bench.TABLES
    if (ROOT / "tests" / f"bench_{kind}.json").is_file()
}
RECOMMENDED_MARKS = ("<!-- recommended: generated -->", "<!-- end of recommended -->")
BOOK_MARKS = ("<!-- book: generated -->", "<!-- end of book -->")
PACKAGE_MARKS = ("<!-- works with: generated -->", "<!-- end of works with -->")
PHOTO_MARKS = ("<!-- photos: generated -->", "<!-- end of photos -->")
FAULT_MARKS = ("<!-- faults: generated -->", "<!-- end of faults -->")


def serve_the_readmes_model(request) -> None:
    request.getfixturevalue("server").put("you/my_model", checkpoints.folder(HUB_NAME), private=True)


def test_every_block_has_a_language_that_is_tested():
    assert {language for language, _ in BLOCKS} <= {"python", "bash", "text"}
    assert PYTHON and SHELL


@pytest.mark.slow
@pytest.mark.parametrize("code", PYTHON, ids=range(len(PYTHON)))
def test_every_python_block_runs(code, tmp_path, request):
    environment = dict(os.environ)
    if "hub.pull" in code:
        environment["HF_TOKEN"] = YOU
        serve_the_readmes_model(request)
    (tmp_path / "block.py").write_text(code)  # a file, since torch.jit and worker processes look for sources
    subprocess.run([*PYTHON_WITH_DATA, "block.py"], cwd=tmp_path, env=environment, check=True)


@pytest.mark.slow
@pytest.mark.parametrize("line", SHELL)
def test_every_shell_command_runs(line, tmp_path, request):
    words = line.split("#")[0].split()
    assert words[0] == "cnnzoo", f"this test does not know how to run {line!r}"
    environment = dict(os.environ)
    if words[1] == "train":  # the whole run takes minutes; its first epoch shows that the command works
        words += ["--epochs", "1", "--warmup-epochs", "0"]
    if words[1] in ("verify", "push", "pull"):
        shutil.copytree(checkpoints.folder(HUB_NAME), tmp_path / HUB_NAME)
        environment["HF_TOKEN"] = YOU
        serve_the_readmes_model(request)
    if "photo.png" in words:
        from PIL import Image

        Image.effect_noise((50, 60), 40).save(tmp_path / "photo.png")
    subprocess.run([*PYTHON_WITH_DATA, "-m", *words], cwd=tmp_path, env=environment, check=True)


# What README recommends, and for whom; that each is the best at it, a test says.
RECOMMENDED = {
    "lenet_tiny.fashion_mnist": "the fewest multiplications above 93 %",
    "lenet_small.fashion_mnist": "the fastest above 94 %",
    "mobilenet_tiny.fashion_mnist": "the best below 100,000 parameters",
    "resnet_small.fashion_mnist": "the architecture that most tools know",
    "resnext_small.fashion_mnist": "the best below 300,000 parameters (equal to `mobilenet_small` within the uncertainty, "
    "at half the cost)",
    "repvgg_base.fashion_mnist": "the most accurate",
}


def markdown(header: tuple[str, ...], rows: list[tuple[str, ...]], words: int = 1) -> str:
    """A table whose first columns, `words` of them, are words and whose others are numbers."""
    rule = "|" + "---|" * words + "---:|" * (len(header) - words)
    return "\n".join([f"| {' | '.join(header)} |", rule, *(f"| {' | '.join(row)} |" for row in rows)])


def mean(r: dict) -> str:
    spread = "" if r["top1_std"] is None else f" ± {r['top1_std']:.2f}"
    return f"{r['top1_mean']:.2f}{spread} (n = {r['n']})"


RESULTS_HEADER = (
    "checkpoint", "parameters", "MACs", "accuracy, %", "with flip TTA", "mean of n runs", "calibration error",
    "calibrated", "epochs", "minutes",
)  # fmt: skip


def calibrated(r: dict) -> str:
    return "-" if r["ece_calibrated"] is None else f"{r['ece_calibrated']:.1f}"


def results_table() -> str:
    """The modern checkpoints, those for photos, and the textbook's, each group as a table of its own."""
    groups = {"": [], "For photos, trained on images that were altered as photos are:": [], "The textbook's networks:": []}
    modern, photos, book = groups.values()
    for r in cnnzoo.results():
        cells = (
            f"`{r['checkpoint']}`", f"{r['params']:,}", f"{r['macs'] / 1e6:.1f} M", f"{r['top1']:.2f}",
            f"{r['top1_tta']:.2f}", mean(r), f"{r['ece']:.1f}", calibrated(r),
            f"{r['epochs']}{'*' if r['teachers'] else ''}", f"{r['minutes']:.0f}",
        )  # fmt: skip
        (book if r["model"].endswith("_d2l") else photos if r["tag"] == PHOTO_TAG else modern).append(cells)
    return "\n".join(f"{caption}\n\n{markdown(RESULTS_HEADER, rows)}\n" for caption, rows in groups.items() if rows)


SPOILED = ("contrast 0.5", "noise 0.1", "blur 1")


def photos_table() -> str:
    """The checkpoints for photos, each below the usual one of its model."""
    found = {name: checkpoints.metrics(name) for name in checkpoints.names()}
    special = [name for name in found if name.endswith(f".{PHOTO_TAG}")]
    rows = [
        (f"`{n}`", *(f"{v:.1f}" for v in (m["top1"], *(m["robustness"][s] for s in SPOILED), m["photos"]["top1"])))
        for name in special
        for n in (name.replace(PHOTO_TAG, FASHION_MNIST.name), name)
        for m in [found[n]]
    ]
    return markdown(("checkpoint", "clean", "half the contrast", "noise of 0.1", "blurred by 1 pixel", "photos"), rows)


def timed_rows() -> list[dict]:
    """The rows of the kept run of `cnnzoo bench infer`."""
    return json.loads((Path(__file__).parent / "bench_infer.json").read_text(encoding="utf-8"))["rows"]


def fastest_forms() -> dict[str, dict]:
    """Of each model of the zoo that was timed: the fastest row, on the most threads."""
    rows = timed_rows()
    most = max(r["threads"] for r in rows)
    ours = [r for r in rows if r["threads"] == most and r["model"] in models.entrypoints() and best_speed(r)]
    return {r["model"]: r for r in sorted(ours, key=best_speed)}


def speed_of(model: str) -> str:
    found = fastest_forms().get(model)
    return f"{best_speed(found):,}" if found else "not timed"


def recommended_table() -> str:
    found = {r["checkpoint"]: r for r in cnnzoo.results()}
    rows = [
        (
            f"`{name.partition('.')[0]}`", why, f"{found[name]['params']:,}", f"{found[name]['macs'] / 1e6:.1f} M",
            f"{found[name]['top1']:.2f}", mean(found[name]), speed_of(name.partition(".")[0]),
        )
        for name, why in RECOMMENDED.items()
    ]  # fmt: skip
    header = ("model", "what it is best for", "parameters", "MACs", "accuracy, %", "mean of n runs", "images/s (int8)")
    return markdown(header, rows, words=2)


def book_table() -> str:
    """The textbook's networks for gray images: what the book prints, ours by its recipe, and the best of the family here."""
    found = {r["checkpoint"]: r for r in cnnzoo.results()}
    rows = []
    for model, section in published.TEXTBOOK.items():
        if get_pretrained_cfg(model).input_size[0] != 1:
            continue
        ours = found.get(f"{model}.textbook_fashion_mnist")
        modern = [r for r in found.values() if r["family"] == family(model) and r["tag"] == "fashion_mnist"]
        best = max(modern, key=lambda r: r["top1"], default=None)
        rows.append((
            section.place, f"`{model}`", f"{section.printed or 'not found'}{section.training and f' ({section.training})'}",
            f"{ours['top1']:.2f}" if ours else "too large" if model in checkpoints.TOO_LARGE else "no weights yet",
            f"`{best['model']}` {best['top1']:.2f}" if best else "-",
        ))  # fmt: skip
    header = ("section", "the book's model", "the book prints, %", "ours by its recipe, %", "best of its family here, %")
    return markdown(header, rows, words=2)


def family(model: str) -> str:
    return models.entrypoints()[model].__module__.rpartition(".")[2]


def fault_table() -> str:
    """What the tests of faults prove, a row for each of those that has one."""
    modules = (test_hub_faults, test_hub_strangers, test_weights_gate, test_export, test_system)
    tests = [t for module in modules for t in vars(module).values() if callable(t)]
    rows = [t.fault_row for t in tests if hasattr(t, "fault_row")]
    return "\n".join(
        ["| what goes wrong | how it ends |", "|---|---|", *(f"| {fault} | {outcome} |" for fault, outcome in rows)]
    )


def package_table() -> str:
    """What the tests run of other people's packages, and the version that was noted when they ran."""
    versions = json.loads(test_ecosystem.VERSIONS.read_text(encoding="utf-8"))
    found: dict[str, list[str]] = {}
    for test in vars(test_ecosystem).values():
        if hasattr(test, "package_row"):
            found.setdefault(test.package_row[0], []).append(test.package_row[1])
    rows = [f"| {name} | {versions.get(name, 'not run')} | {'; '.join(what)} |" for name, what in sorted(found.items())]
    return "\n".join(["| package | version run | what was run |", "|---|---|---|", *rows])


def speed_table(kind: str) -> str:
    """The tables of the benchmark's last run that was kept."""
    found = (Path(__file__).parent / f"bench_{kind}.json").read_text(encoding="utf-8")
    return f"\n{bench.markdown(kind, json.loads(found))}\n"


@pytest.mark.parametrize(
    ("marks", "table"),
    [(MARKS, results_table), (RECOMMENDED_MARKS, recommended_table), (BOOK_MARKS, book_table)]
    + [(PHOTO_MARKS, photos_table), (FAULT_MARKS, fault_table), (PACKAGE_MARKS, package_table)]
    + [(marks, functools.partial(speed_table, kind)) for kind, marks in SPEED_MARKS.items()],
    ids=["results", "recommended", "book", "photos", "faults", "packages", *SPEED_MARKS],
)
def test_the_tables_are_what_checkpoints_tests_and_measurements_say(request, marks, table):
    text = README.read_text(encoding="utf-8")
    start, end = text.index(marks[0]) + len(marks[0]), text.index(marks[1])
    fresh = f"\n{table()}\n"
    if request.config.getoption("--accept"):
        README.write_text(text[:start] + fresh + text[end:], encoding="utf-8")
        return
    assert text[start:end] == fresh, "The README's table is stale: pytest tests/test_docs.py --accept writes it anew."


def test_every_test_of_a_fault_has_its_row():
    for module in (test_hub_faults, test_hub_strangers):
        tests = [t for name, t in vars(module).items() if name.startswith("test_")]
        assert tests and all(hasattr(t, "fault_row") for t in tests)


def test_the_readme_names_every_checkpoint_that_ships():
    assert all(f"`{name}`" in README.read_text(encoding="utf-8") for name in checkpoints.names())


def test_readme_and_cards_say_alike_which_differences_mean_something():
    """At 95 % of 10,000 images one run's standard error is 0.22 points, that of the difference of two 0.31."""
    said = " ".join(uncertainty(95.0, FASHION_MNIST).split())
    assert "0.22 points" in said and "0.31 points" in said and "less than 0.6 points apart" in said
    for text in (README, *(checkpoints.folder(name) / "README.md" for name in checkpoints.names())):
        assert said in " ".join(text.read_text(encoding="utf-8").split()), text


def test_the_readme_says_how_large_the_weights_in_the_wheel_are_and_which_are_on_the_hub_only():
    sizes = {name: (checkpoints.folder(name) / checkpoints.WEIGHTS).stat().st_size / 1e6 for name in checkpoints.names()}
    said = " ".join(README.read_text(encoding="utf-8").split())
    in_wheel = sum(size for name, size in sizes.items() if name not in hub_only())
    assert f"in the installation, {in_wheel:.0f} MB together" in said
    assert set(re.findall(r"`([\w.]+)` \(\d+ MB\)", said)) == hub_only()
    assert all(f"`{name}` ({sizes[name]:.0f} MB)" in said for name in hub_only())


def test_the_first_screen_is_short():
    lines = README.read_text(encoding="utf-8").partition("<details>")[0].splitlines()
    assert len(lines) <= 60


def test_every_link_within_the_readme_leads_somewhere():
    text = README.read_text(encoding="utf-8")
    outside = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    titles = [re.sub(r"[^\w -]", "", t.lower()).replace(" ", "-") for t in re.findall(r"^#+ (.+)$", outside, re.MULTILINE)]
    targets = re.findall(r"\]\(([^)#]*)#?([^)]*)\)", outside)
    assert targets
    for path, title in targets:
        assert path.startswith("https://") or not path or (ROOT / path).is_file(), path
        assert path or title in titles, title


def test_the_page_on_the_package_index_needs_no_file_beside_it():
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 cannot read TOML")
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    page = README.read_text(encoding="utf-8")
    for rule in tool["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]:
        assert re.search(rule["pattern"], page)
        page = re.sub(rule["pattern"], rule["replacement"], page)
    targets = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", page, flags=re.DOTALL))
    assert all(target.startswith(("https://", "#")) for target in targets)
    assert "![" in page and "pip install cnnzoo\n" in page and 'pip install "cnnzoo[app]"' in page


def test_the_readme_has_a_line_for_every_public_function():
    table = README.read_text(encoding="utf-8").partition("## API at a glance")[2].partition("\n## ")[0]
    rows = "".join(line for line in table.splitlines() if line.startswith("|"))
    for name in (*cnnzoo.__all__, *cnnzoo._MODULES):
        assert f"cnnzoo.{name}" in rows, name


def test_the_readme_has_a_row_for_every_extra():
    declared = (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("[project.optional-dependencies]")[2]
    extras = re.findall(r"^(\w+) = \[", declared.partition("\n[")[0], re.MULTILINE)
    table = README.read_text(encoding="utf-8").partition("## Extras")[2].partition("\n## ")[0]
    assert extras and all(f"\n| `{extra}` |" in table for extra in extras)


@pytest.mark.slow
def test_the_first_example_prints_what_the_readme_says(tmp_path):
    code, said = re.search(
        r"```python\n(.*?)```\n\n```text\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL
    ).groups()
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert run.stdout == said


def test_the_changelog_knows_this_version():
    assert f"## {cnnzoo.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
