"""Nothing is ever half-written."""

import errno
import json
import os
import shutil
import stat

import pytest
from click.testing import CliRunner
from helpers import run_recipe

import cnnzoo
from cnnzoo import bench, checkpoints, hub, plots, train
from cnnzoo.cli import main
from cnnzoo.errors import CheckpointError, CnnzooError, DataError
from cnnzoo.files import atomic, check_writable, kept_if_used, parse_json, write_json
from cnnzoo.photos import evaluate_photos
from cnnzoo.recipes import override


def test_the_file_appears_whole_and_readable(tmp_path):
    path = tmp_path / "file.json"
    with atomic(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) & 0o044 == 0o044 & ~_umask()
    assert os.listdir(tmp_path) == ["file.json"]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("no"), OSError(errno.ENOSPC, "No space left on device")])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "file.json"
    path.write_text("old")
    with pytest.raises(CnnzooError if isinstance(error, OSError) else type(error)):
        with atomic(path) as temporary:
            temporary.write_text("half")
            raise error
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.json"]


def test_a_full_disk_is_named_with_the_path_and_what_to_do(tmp_path):
    with pytest.raises(CnnzooError) as caught:
        with atomic(tmp_path / "file"):
            raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")
    assert str(tmp_path / "file") in str(caught.value)
    assert "Free some space" in str(caught.value)


def test_a_runtime_error_of_another_kind_passes_through(tmp_path):
    with pytest.raises(RuntimeError, match="shape"):
        with atomic(tmp_path / "file"):
            raise RuntimeError("shape mismatch")


def test_a_folder_that_does_not_exist_is_an_error(tmp_path):
    with pytest.raises(CnnzooError, match="could not be written"):
        write_json(tmp_path / "no" / "file.json", {})


def test_a_really_full_disk_is_survived(tmp_path):
    """/dev/full refuses every write, as a full disk does."""
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    with pytest.raises(CnnzooError, match="No space left"):
        with atomic(tmp_path / "file"):
            with open("/dev/full", "w") as f:
                f.write("x" * 100_000)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "text",
    ["[" * 200_000 + "]" * 200_000, '{"a":' * 500 + "1" + "}" * 500, "9" * 6000, '{"top1": -' + "9" * 4000 + "}", "{"],
    ids=["deep", "less deep", "long", "less long", "cut off"],
)
def test_json_that_nothing_can_compute_with_is_an_error_of_one_kind(text, tmp_path):
    with pytest.raises(ValueError):
        parse_json(text)
    (tmp_path / "metrics.json").write_text(text)
    with pytest.raises(CheckpointError, match="metrics.json cannot be read as JSON"):
        checkpoints.read_json(tmp_path / "metrics.json")


def test_json_of_every_usual_kind_is_read_as_it_is():
    content = dict(a=[1, -2.5, None, True, {"b": ["c", 10**12]}], e={})
    assert parse_json(json.dumps(content)) == content
    assert parse_json(json.dumps(content).encode()) == content


READERS = {
    "curves": ("metrics.jsonl", lambda folder: plots.curves(folder)),
    "a checkpoint's config": ("config.json", lambda folder: cnnzoo.create_model(f"local-dir:{folder}")),
    "a checkpoint's weights": (
        "model.safetensors",
        lambda folder: cnnzoo.create_model(f"local-dir:{folder}", pretrained=True),
    ),
    "numbers": ("metrics.json", lambda folder: hub.verify(folder)),
    "an exported file": ("model.onnx", lambda folder: cnnzoo.load_exported(folder / "model.onnx")),
}


@pytest.mark.timeout(60)  # reading a pipe that nobody writes to never ends
@pytest.mark.parametrize("what", READERS)
def test_a_pipe_in_the_place_of_a_file_is_refused_and_not_waited_for(tmp_path, what):
    name, read = READERS[what]
    folder = tmp_path / "lenet_tiny.fashion_mnist"
    shutil.copytree(checkpoints.folder("lenet_tiny.fashion_mnist"), folder)
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(CnnzooError, match=name):
        read(folder)


def test_an_output_that_cannot_be_written_is_refused_before_the_work(tmp_path, monkeypatch):
    def work(*args, **kwargs):
        raise AssertionError("work was done for nothing")

    for name in ("loops", "scaling", "forms"):
        monkeypatch.setattr(bench, name, work)
    monkeypatch.setattr("cnnzoo.registry.create_model", work)
    (tmp_path / "folder.png").mkdir()
    for line in ("bench train --out", "bench scaling --out", "bench infer --out", "plot confusion lenet_tiny --out",
                 "predict image.png --show", "demo --sheet"):  # fmt: skip
        result = CliRunner().invoke(main, [*line.split(), str(tmp_path / "folder.png")])
        assert result.exit_code == 1 and "is a folder" in result.stderr, (line, result.exception)
    check_writable(tmp_path / "new.png")
    assert os.listdir(tmp_path) == ["folder.png"]


def test_a_new_folder_in_which_another_works_is_left_to_it(tmp_path, monkeypatch):
    new, scanned = tmp_path / "a" / "new", []

    def scandir(path, real=os.scandir):
        scanned.append(os.fspath(path))
        if os.fspath(path) == str(new / "gone"):
            (new / "gone").rmdir()  # the other process is done with it just before ours looks into it
        return real(path)

    with kept_if_used(new):
        for name in ("gone", ".scratch", "empty"):
            (new / name).mkdir()
        monkeypatch.setattr(os, "scandir", scandir)
    monkeypatch.undo()
    assert str(new / "gone") in scanned
    assert [path.name for path in new.iterdir()] == [".scratch"]


def test_a_new_folder_without_a_file_goes_again_and_so_do_those_above_it(tmp_path):
    with kept_if_used(tmp_path / "a" / "b" / "c"):
        (tmp_path / "a" / "b" / "c" / "d").mkdir()
    assert not list(tmp_path.iterdir())


def test_a_path_below_the_home_folder_is_found_and_made_there(tmp_path, monkeypatch, recipe, miniature):
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    for place in (home / "photos" / "cat", elsewhere):
        place.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(elsewhere)
    write_json("~/facts.json", dict(a=1))
    run_recipe(recipe, "~/run", miniature)
    asked = override(recipe, teacher="~/run")
    train.ask(asked, "~/asked", epochs=1, data_dir=miniature[0])
    run_recipe(override(recipe, answers="~/asked"), "~/taught", miniature)
    plots.save(plots.curves("~/run"), "~/curves.png")
    assert hub.build("~/run", "~/out").parent == home / "out"
    cnnzoo.load_exported(cnnzoo.export("~/run", "~/run.onnx"))
    with pytest.raises(DataError, match=f"class folder {home}/photos/cat is empty"):
        evaluate_photos(cnnzoo.create_model("lenet_tiny"), "~/photos")
    assert {"facts.json", "run", "asked", "taught", "curves.png", "out", "run.onnx"} <= set(os.listdir(home))
    assert not os.listdir(elsewhere)
    with pytest.raises(CnnzooError, match="Write the path in full"):
        write_json("~nosuchuser/facts.json", {})
