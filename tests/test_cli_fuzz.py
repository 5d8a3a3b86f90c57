"""Every command, with arguments that nobody would type: an exit code of ours, few lines, no traceback, no stray file."""

import contextlib
import os
import random
import shutil
import socket
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from helpers import HUB_NAME
from hypothesis import HealthCheck, Phase, given, settings, strategies as st
from PIL import Image

from cnnzoo import bench, checkpoints, train
from cnnzoo.cli import _common, main
from cnnzoo.errors import CnnzooError
from cnnzoo.exporting import _formats
from cnnzoo.recipes import Recipe

LONG = "n" * 300  # bytes; no file system of today takes more than 255
# What an operating system has, beside files, at a place that is named; `place` makes what is not there anyway.
SYSTEM = [
    f"{LONG}.png", f"{LONG}/x.png", "text.txt/x.png", "~nosuchuser/x.png", "pipe.png", "pipes", "device.png", "socket.png",
    "pictures", "loop.png", "dangling.png", "name\udcff.png", "odd\udcff", "/dev/null", "/proc/self/mem", "no\nline/x.png",
]  # fmt: skip
WORDS = SYSTEM + [
    "", " ", "-1", "0", "1", "nan", "1e999", "9" * 400, "no/such", LONG, ".", "a\nb", "\udcff", "é" * 130, "lenet_tiny",
    f"{HUB_NAME}", "lenet_tiny.nope", "local-dir:copy", "local-dir:bad", "local-dir:", "hf-hub:a/b", "nowhere:x", "a/b",
    "copy", "bad", "run0", "image.png", "text.txt", "empty", "made.png", "made.pt2", "made.onnx", "test", "folder", "int8",
    "cpu", "cuda", "--", "--nope",
]  # fmt: skip
# Where commands write when nothing is named; their help says so.
DEFAULTS = (
    "cnnzoo_demo.png", "hub_configs", "runs", "curves.png", "filters.png", "gradcam.png", "features.png",
    "results.png", "confusion.png", "mistakes.png",
)  # fmt: skip
# A line for each command that does not fail by itself, or not before it has looked at all that it names.
BRIEF = "--epochs 1 --warmup-epochs 0 --image-size 28 --batch-size 4 --amp no --dataset folder --data-dir pictures"
USUAL = {
    "demo": "--model lenet_tiny", "list": "lenet_tiny", "info": "lenet_tiny", "summary": "lenet_tiny",
    "eval": "run0 --data-dir pictures", "predict": "image.png --model copy",
    "train": f"lenet_tiny --out new {BRIEF}", "ask": f"lenet_tiny --out new {BRIEF} --teacher run0 --views 1",
    "reproduce": f"{HUB_NAME} --data-dir no/such", "build": "run0", "measure": "copy --data-dir no/such", "verify": "copy",
    "twin": "copy twin", "push": "copy a/b", "pull": "a/b", "publish": "--root configs", "plot curves": "run0",
    "plot confusion": "run0 --data-dir pictures", "plot mistakes": "run0 --data-dir pictures", "plot filters": "copy",
    "plot features": "copy image.png", "plot gradcam": "copy image.png", "plot results": "",
    "bench train": "--data-dir no/such", "bench scaling": "", "bench infer": "lenet_tiny", "bench transfer": "lenet_tiny",
    "bench peers": "run0",
    "export": "copy made.pt2", "app": "--space text.txt",
}  # fmt: skip
# What would take long if it were allowed to succeed; of two values of an option click takes the last.
CHEAP = {
    "train": BRIEF, "ask": "--data-dir no/such", "reproduce": "--data-dir no/such", "export": "--format nope",
    "app": "--space text.txt",
}  # fmt: skip


def leaves(group: click.Group, before: tuple[str, ...] = ()):
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from leaves(command, (*before, name))
        else:
            yield " ".join((*before, name)), command


COMMANDS = dict(leaves(main))


def arguments_of(name: str) -> list[click.Argument]:
    return [p for p in COMMANDS[name].params if isinstance(p, click.Argument)]


def options_of(name: str) -> list[click.Option]:
    return [p for p in COMMANDS[name].params if isinstance(p, click.Option) and p.name != "help"]


@st.composite
def command_lines(draw):
    """A command with its arguments and any of its options, each of any value."""
    name = draw(st.sampled_from(sorted(COMMANDS)))
    word = st.sampled_from(WORDS) | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
    line = name.split()
    for option in draw(st.lists(st.sampled_from(options_of(name)), max_size=4)) if options_of(name) else ():
        line.append(draw(st.sampled_from([*option.opts, *option.secondary_opts])))
        if not option.is_flag:
            line.append(draw(word))
    line += CHEAP.get(name, "").split()
    return line + [draw(word) for a in arguments_of(name) for _ in range(draw(st.integers(1, 2)) if a.nargs < 0 else 1)]


def swapped(name: str) -> list[list[str]]:
    """The usual line of a command with one of its words at a time, or one more option, being each thing of the system's."""
    words, count = USUAL[name].split(), len(arguments_of(name))
    lines = []
    for word in SYSTEM:
        word = word.replace(".png", ".pt2") if name == "export" else word
        lines += [[*words[:i], word, *words[i + 1 :]] for i in range(min(count, len(words)))]
        lines += [[*words[:i], f"local-dir:{word}", *words[i + 1 :]] for i in range(min(count, 1))]
        texts = [o for o in options_of(name) if not o.is_flag and isinstance(o.type, click.types.StringParamType)]
        lines += [[*words, option.opts[0], word] for option in texts]
    return [[*name.split(), *line] for line in lines]


def usual(name: str) -> list[str]:
    return [*name.split(), *USUAL[name].split()]


# -- where it happens ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run of one epoch on ten pictures, and the pictures."""
    work = tmp_path_factory.mktemp("finished")
    for name in ("cat", "dog"):
        os.makedirs(work / "pictures" / name)
        for i in range(5):
            Image.effect_noise((28, 28), 50).save(work / "pictures" / name / f"{i}.png")
    recipe = Recipe(model="lenet_tiny", dataset="folder", epochs=1, warmup_epochs=0, image_size=28, batch_size=8, amp="no")
    train.train(recipe, work / "run0", data_dir=work / "pictures", device="cpu")
    return work


def too_long(*args, **kwargs):
    raise CnnzooError("This takes seconds or minutes, and is tested elsewhere.")


@pytest.fixture
def place(tmp_path, monkeypatch, no_network, brisk, quick, finished):
    """A folder with things to name; no network, no data set, no benchmark, no tracing of models."""
    monkeypatch.setenv("CNNZOO_DATA_DIR", str(tmp_path / "no"))
    for measured in ("loops", "switches", "scaling", "forms", "cold_starts", "transfer"):
        monkeypatch.setattr(bench, measured, too_long)
    monkeypatch.setitem(_formats.FORMATS, "torch_export", too_long)
    work = tmp_path / "work"
    shutil.copytree(finished, work)
    monkeypatch.chdir(work)
    shutil.copytree(checkpoints.folder(HUB_NAME), "copy")
    shutil.copytree(checkpoints.folder(HUB_NAME), "bad")
    shutil.copytree(checkpoints.folder(HUB_NAME), f"configs/{HUB_NAME}")
    Path("bad/model.safetensors").write_bytes(b"nonsense")
    Path("bad/metrics.json").write_text("[" * 10_000)
    Path("text.txt").write_text("no image")
    Path("empty").touch()
    Image.effect_noise((28, 28), 50).save("image.png")
    shutil.copy("image.png", "name\udcff.png")
    shutil.copytree("pictures", "odd\udcff/odd\udcff")
    shutil.copytree("pictures", "pipes")
    os.mkfifo("pipes/cat/pipe.png")
    for suffix in ("png", "pt2"):
        os.mkfifo(f"pipe.{suffix}")
        os.symlink(f"loop.{suffix}", f"loop.{suffix}")
        os.symlink("not/there", f"dangling.{suffix}")
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind(f"socket.{suffix}")
        with contextlib.suppress(PermissionError):  # not every user may make a device; then it is a name of nothing
            os.mknod(f"device.{suffix}", 0o020600, os.makedev(1, 3))
    return work


def assert_ends_well(work: Path, line: list[str]) -> None:
    before = {name: os.lstat(work / name).st_mode for name in os.listdir(work)}, set(os.listdir(work.parent))
    result = CliRunner().invoke(main, line, prog_name="cnnzoo")
    told = (line, result.exit_code, result.stderr, result.exc_info)
    assert result.exit_code in (0, 1, 2, 130, 143), told
    assert result.exception is None or isinstance(result.exception, SystemExit), told
    assert "Traceback" not in result.output, told
    assert len(result.stderr.splitlines()) <= (12 if line[0] == "train" else 6), told  # which first shows its recipe
    if result.exit_code in (1, 2):
        assert result.stderr.splitlines() and result.stderr.splitlines()[-1].startswith("Error: "), told
        assert len(result.stderr) < 2000, told
    assert set(os.listdir(work.parent)) == before[1], told
    after = {name: os.lstat(work / name).st_mode for name in os.listdir(work)}
    assert after.items() >= before[0].items(), told  # a pipe is a pipe still, and a folder a folder
    for name in set(after) - set(before[0]):
        assert name in DEFAULTS or any(name == Path(word).parts[0] for word in line if Path(word).parts), (name, told)
        shutil.rmtree(work / name) if (work / name).is_dir() else (work / name).unlink()


SHARED = dict(
    deadline=None,
    phases=[Phase.explicit, Phase.generate],  # to make an example smaller takes as long as to find it
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


# -- the tests -----------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(300)  # for one that waits at a pipe
@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_ends_well_with_the_usual_words_and_with_things_of_the_systems_in_their_place(place, name):
    lines = random.Random(0).sample(swapped(name), 14)
    for line in [usual(name), *lines]:
        assert_ends_well(place, line)


@pytest.mark.parametrize("wrong", [ValueError("raw"), OSError("what no handler of ours saw"), RecursionError()], ids=repr)
def test_what_a_command_lets_through_is_seen(place, monkeypatch, wrong):
    """The check can fail: for every command, since its usual line gets as far as to the command itself."""

    def fails(*args, **kwargs):
        raise wrong

    monkeypatch.setattr(_common, "system_errors", contextlib.nullcontext)
    for name, command in COMMANDS.items():
        monkeypatch.setattr(command, "callback", fails)
        with pytest.raises(AssertionError):
            assert_ends_well(place, usual(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_ends_well_with_each_thing_of_the_systems_in_each_place(place, name):
    for line in swapped(name):
        assert_ends_well(place, line)


@settings(max_examples=25, derandomize=True, **SHARED)
@given(line=command_lines())
def test_a_few_odd_command_lines_end_well(place, line):
    assert_ends_well(place, line)


@pytest.mark.slow
@settings(max_examples=1500, **SHARED)
@given(line=command_lines())
def test_many_odd_command_lines_end_well(place, line):
    assert_ends_well(place, line)
