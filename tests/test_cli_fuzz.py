"""Every command, with arguments that nobody would type: an exit code of ours, few lines, no traceback, no stray file."""

import os
import shutil
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from helpers import HUB_NAME
from hypothesis import HealthCheck, Phase, given, settings, strategies as st
from PIL import Image

from cnnzoo import checkpoints
from cnnzoo.cli import main

LONG = "n" * 300
WORDS = [
    "", " ", "-1", "0", "1", "nan", "1e999", "9" * 400, "no/such", LONG, f"{LONG}/x", "~nosuchuser/x", "/dev/null", ".",
    "a\nb", "\udcff", "é" * 130, "lenet_tiny", f"{HUB_NAME}", "lenet_tiny.nope", "local-dir:copy", "local-dir:bad",
    "local-dir:", "hf-hub:a/b", "nowhere:x", "a/b", "copy", "bad", "pictures", "image.png", "text.txt", "empty",
    "made.png", "made.pt2",
    "made.onnx", "test", "folder", "int8", "cpu", "cuda", "--", "--nope",
]  # fmt: skip
# Where commands write when nothing is named; their help says so.
DEFAULTS = (
    "cnnzoo_demo.png", "hub_configs", "runs", "curves.png", "filters.png", "gradcam.png", "features.png",
    "results.png",
)  # fmt: skip
# What would take minutes if it were allowed to succeed; of two values of an option click takes the last.
CHEAP = {
    "train": ["--epochs", "1", "--warmup-epochs", "0", "--image-size", "28", "--no-compile", "--data-dir", "pictures"],
    "ask": ["--data-dir", "no/such"],
    "reproduce": ["--data-dir", "no/such"],
    "bench train": ["--data-dir", "no/such"],
    "bench scaling": ["--nope"],
    "bench infer": ["--nope"],
    "export": ["--format", "nope"],
    "app": ["--space", "text.txt"],
}


def leaves(group: click.Group, before: tuple[str, ...] = ()):
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from leaves(command, (*before, name))
        else:
            yield (*before, name), command


COMMANDS = dict(leaves(main))


@st.composite
def command_lines(draw):
    """A command with its arguments and any of its options, each of any value."""
    names = draw(st.sampled_from(sorted(COMMANDS)))
    word = st.sampled_from(WORDS) | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
    line = list(names)
    options = [p for p in COMMANDS[names].params if isinstance(p, click.Option) and p.name != "help"]
    for option in draw(st.lists(st.sampled_from(options), max_size=4)) if options else ():
        line.append(draw(st.sampled_from([*option.opts, *option.secondary_opts])))
        if not option.is_flag:
            line.append(draw(word))
    line += CHEAP.get(" ".join(names), [])
    arguments = [p for p in COMMANDS[names].params if isinstance(p, click.Argument)]
    return line + [draw(word) for a in arguments for _ in range(draw(st.integers(1, 2)) if a.nargs < 0 else 1)]


@pytest.fixture
def place(tmp_path, monkeypatch, no_network, brisk, quick):
    """A folder with things to name; no network, no data set."""
    monkeypatch.setenv("CNNZOO_DATA_DIR", str(tmp_path / "no"))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    shutil.copytree(checkpoints.folder(HUB_NAME), "copy")
    shutil.copytree(checkpoints.folder(HUB_NAME), "bad")
    Path("bad/model.safetensors").write_bytes(b"nonsense")
    Path("bad/metrics.json").write_text("[" * 10_000)
    Path("text.txt").write_text("no image")
    Path("empty").touch()
    for name in ("cat", "dog"):
        os.makedirs(f"pictures/{name}")
        for i in range(5):
            Image.effect_noise((28, 28), 50).save(f"pictures/{name}/{i}.png")
    Image.effect_noise((28, 28), 50).save("image.png")
    return work


def assert_ends_well(work: Path, line: list[str]) -> None:
    before = set(os.listdir(work)), set(os.listdir(work.parent))
    result = CliRunner().invoke(main, line, prog_name="cnnzoo")
    told = (line, result.exit_code, result.stderr, result.exc_info)
    assert result.exit_code in (0, 1, 2, 130, 143), told
    assert result.exception is None or isinstance(result.exception, SystemExit), told
    assert "Traceback" not in result.output, told
    assert len(result.stderr.splitlines()) <= 6, told
    assert set(os.listdir(work.parent)) == before[1], told
    for name in set(os.listdir(work)) - before[0]:
        assert name in DEFAULTS or any(name == Path(word).parts[0] for word in line if Path(word).parts), (name, told)
        shutil.rmtree(work / name) if (work / name).is_dir() else (work / name).unlink()


SHARED = dict(
    deadline=None,
    phases=[Phase.explicit, Phase.generate],  # to make an example smaller takes as long as to find it
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@settings(max_examples=25, derandomize=True, **SHARED)
@given(line=command_lines())
def test_a_few_odd_command_lines_end_well(place, line):
    assert_ends_well(place, line)


@pytest.mark.slow
@settings(max_examples=1500, **SHARED)
@given(line=command_lines())
def test_many_odd_command_lines_end_well(place, line):
    assert_ends_well(place, line)
