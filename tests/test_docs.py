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
from helpers import HUB_NAME
from loopback_hub import YOU

import cnnzoo
from cnnzoo import bench, checkpoints
from cnnzoo.datasets import FASHION_MNIST
from cnnzoo.hub._card import uncertainty

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
PACKAGE_MARKS = ("<!-- works with: generated -->", "<!-- end of works with -->")
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


def results_table() -> str:
    header = (
        "checkpoint", "parameters", "MACs", "test top-1, these weights", "with flip TTA", "mean of n seeds",
        "calibration error", "epochs", "minutes",
    )  # fmt: skip
    rows = [f"| {' | '.join(header)} |", "|---|" + "---:|" * (len(header) - 1)]
    for r in cnnzoo.results():
        spread = "" if r["top1_std"] is None else f" ± {r['top1_std']:.2f}"
        cells = (
            f"`{r['checkpoint']}`", f"{r['params']:,}", f"{r['macs'] / 1e6:.1f} M",
            f"{r['top1']:.2f}", f"{r['top1_tta']:.2f}", f"{r['top1_mean']:.2f}{spread} (n = {r['n']})",
            f"{r['ece']:.1f}, calibrated {r['ece_calibrated']:.1f}", f"{r['epochs']}", f"{r['minutes']:.0f}",
        )  # fmt: skip
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


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
    [(MARKS, results_table), (FAULT_MARKS, fault_table), (PACKAGE_MARKS, package_table)]
    + [(marks, functools.partial(speed_table, kind)) for kind, marks in SPEED_MARKS.items()],
    ids=["results", "faults", "packages", *SPEED_MARKS],
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
    assert "0.22 points" in said and "0.31: closer than 0.6 is" in said
    for text in (README, *(checkpoints.folder(name) / "README.md" for name in checkpoints.names())):
        assert said in " ".join(text.read_text(encoding="utf-8").split()), text


def test_the_changelog_knows_this_version():
    assert f"## {cnnzoo.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
