"""A run folder is of one run, of one recipe, of one data set, and its checkpoint is what was written, to the bit."""

import os
import random
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from helpers import run_recipe as run, weights_of
from PIL import Image

import cnnzoo
from cnnzoo import train
from cnnzoo.errors import CheckpointError, CnnzooError, TrainingError
from cnnzoo.recipes import Recipe, override
from cnnzoo.train import _loop, _saving

# -- damage --------------------------------------------------------------------------------------------------------------


def same(a, b) -> bool:
    """Whether two states hold the same numbers."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return a == b


def test_no_flipped_bit_changes_what_is_resumed(recipe, tmp_path, miniature):
    run(recipe, tmp_path / "run", miniature)
    path = tmp_path / "run" / "checkpoint.pt"
    whole = path.read_bytes()
    identity = train.Run.identity.fget(type("R", (), dict(recipe=recipe, holdout=False)))
    good = torch.load(path, weights_only=True)
    chance, refused = random.Random(0), 0
    for _ in range(60):
        place, bit = chance.randrange(len(whole)), chance.randrange(8)
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
        try:
            state = _saving.load_state(path.parent, identity, good["data"])
        except CheckpointError as e:
            refused += 1
            assert f"{path} is damaged" in str(e) and "checkpoint.previous.pt" in str(e)
        else:
            assert same(state, good)  # a bit that nobody reads, such as of a date in the archive
    assert refused > 30


IMPOSSIBLE = dict(
    epoch=[-1, 1.5, 10**9], step=[-1, 10**9], tally=[torch.zeros(1), torch.full((3,), torch.nan)],
    seconds=[-1.0, float("nan")], history=["a", [], [{}], [1]],
)  # fmt: skip


@pytest.mark.parametrize(("field", "value"), [(k, v) for k, values in IMPOSSIBLE.items() for v in values], ids=str)
def test_a_whole_checkpoint_that_cannot_be_true_is_refused(recipe, tmp_path, miniature, field, value):
    run(recipe, tmp_path / "run", miniature)
    path = tmp_path / "run" / "checkpoint.pt"
    torch.save(dict(torch.load(path, weights_only=True), **{field: value}), path)
    with pytest.raises(CheckpointError, match="checkpoint.pt is damaged"):
        run(recipe, tmp_path / "run", miniature, resume=True)


def test_a_whole_checkpoint_with_weights_that_are_not_finite_is_refused(recipe, tmp_path, miniature):
    run(recipe, tmp_path / "run", miniature)
    path = tmp_path / "run" / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    next(iter(state["model"].values())).fill_(float("nan"))
    torch.save(state, path)
    with pytest.raises(CheckpointError, match="checkpoint.pt is damaged"):
        run(recipe, tmp_path / "run", miniature, resume=True)


@pytest.mark.parametrize("name", ["model.safetensors", "metrics.json", "curves.png", "checkpoint.previous.pt"])
def test_what_is_in_the_place_of_a_file_is_seen_before_training(recipe, tmp_path, miniature, name, monkeypatch):
    (tmp_path / "run" / name).mkdir(parents=True)
    monkeypatch.setattr(_loop, "_run_epochs", lambda *args: pytest.fail("it was trained for nothing"))
    with pytest.raises(CnnzooError, match=f"{name} is a folder; only a file can be replaced"):
        run(recipe, tmp_path / "run", miniature)


def test_a_previous_checkpoint_that_is_damaged_too_is_not_recommended(recipe, tmp_path, miniature):
    run(recipe, tmp_path / "run", miniature)
    for name in ("checkpoint.pt", "checkpoint.previous.pt"):
        (tmp_path / "run" / name).write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match="Delete it to start again"):
        run(recipe, tmp_path / "run", miniature, resume=True)


def test_what_a_killed_run_left_half_written_is_removed_and_nothing_else(recipe, tmp_path, miniature):
    out = tmp_path / "run"
    out.mkdir()
    left = [".checkpoint.pt.abc123.tmp", ".metrics.jsonl.x.tmp", ".model.safetensors.0.tmp"]
    mine = [".notes.tmp", "checkpoint.pt.tmp", ".checkpoint.pt.swp"]
    for name in left + mine:
        (out / name).write_text("x")
    run(override(recipe, epochs=1), out, miniature)
    found = {p.name for p in out.iterdir()}
    assert not found & set(left)
    assert set(mine) <= found


# -- one owner -----------------------------------------------------------------------------------------------------------


def test_a_second_run_into_a_folder_in_use_is_refused_and_told_whose_it_is(recipe, tmp_path, miniature, monkeypatch):
    inside, go_on = threading.Event(), threading.Event()

    def wait(*args, real=_loop._run_epoch):
        inside.set()
        assert go_on.wait(60)
        return real(*args)

    monkeypatch.setattr(_loop, "_run_epoch", wait)
    first = threading.Thread(target=run, args=(recipe, tmp_path / "run", miniature))
    first.start()
    whose = rf"is in use by a run that has not ended \(process {os.getpid()} on .* since 20"
    try:
        assert inside.wait(60)
        for resume in (False, True):
            with pytest.raises(CnnzooError, match=whose):
                run(recipe, tmp_path / "run", miniature, resume=resume)
    finally:
        go_on.set()
        first.join()
    assert (tmp_path / "run" / "metrics.json").is_file()
    run(recipe, tmp_path / "run", miniature, resume=True)  # it is free again


def test_the_folder_of_a_killed_run_is_free(tmp_path):
    code = (
        "import os, signal, sys; from cnnzoo.train._saving import _locked; from pathlib import Path\n"
        "with _locked(Path(sys.argv[1])): os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / "run")], capture_output=True)
    assert killed.returncode == -9
    assert "process" in (tmp_path / "run" / ".lock").read_text()
    with _saving._locked(tmp_path / "run"):
        pass


# -- the same data -------------------------------------------------------------------------------------------------------

FOLDER = Recipe(model="lenet_tiny", dataset="folder", epochs=1, batch_size=4, warmup_epochs=0, amp="no")


def pictures(root: Path, classes: str = "ab", count: int = 6) -> Path:
    """A folder of gray pictures per class, each of a gray of its own."""
    for k, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(count):
            Image.new("L", (28, 28), 20 * k + i + 1).save(root / name / f"{i}.png")
    return root


def swapped(root: Path) -> None:
    (root / "a").rename(root / "c")
    (root / "b").rename(root / "a")
    (root / "c").rename(root / "b")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (swapped, "as many images, but not the same ones"),
        (lambda root: (root / "a" / "3.png").unlink(), "10 and 2 images to train and to measure on then, 9 and 2 now"),
        (lambda root: pictures(root, "c"), "new classes: c"),
        (lambda root: shutil.move(root / "a", root / "d"), "new classes: d; classes that are gone: a"),
    ],
    ids=["swapped", "deleted", "added", "renamed"],
)
def test_other_data_cannot_resume_a_run(tmp_path, change, message):
    root = pictures(tmp_path / "pictures")
    train.train(FOLDER, tmp_path / "run", data_dir=root, device="cpu")
    train.train(FOLDER, tmp_path / "run", data_dir=root, device="cpu", resume=True)
    change(root)
    with pytest.raises(CheckpointError, match=f"belongs to other data .*{message}"):
        train.train(FOLDER, tmp_path / "run", data_dir=root, device="cpu", resume=True)


def test_a_run_from_before_the_data_were_noted_goes_on(recipe, tmp_path, miniature):
    run(recipe, tmp_path / "run", miniature)
    before = weights_of(tmp_path / "run")
    path = tmp_path / "run" / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    del state["data"]
    torch.save(state, path)
    run(recipe, tmp_path / "run", miniature, resume=True)
    assert same(weights_of(tmp_path / "run"), before)


# -- divergence ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("holdout", [False, True])
def test_weights_spoiled_by_the_last_update_are_neither_measured_nor_kept(recipe, tmp_path, miniature, monkeypatch, holdout):
    """No loss is computed after the last update of an epoch, so no loss shows what it did."""
    last = dict(left=(4 if holdout else 5) * recipe.epochs)

    def spoil(state, *args, real=_loop._update):
        loss = real(state, *args)
        last["left"] -= 1
        if not last["left"]:
            next(state.model.parameters()).data.fill_(float("nan"))
        return loss

    monkeypatch.setattr(_loop, "_update", spoil)
    with pytest.raises(TrainingError, match=r"no longer finite \(epoch 3\)"):
        run(recipe, tmp_path / "run", miniature, holdout=holdout)
    assert not (tmp_path / "run" / "model.safetensors").exists()
    assert torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["epoch"] == 2
    monkeypatch.undo()


def test_finite_weights_with_answers_that_are_not_leave_no_weights_behind(recipe, tmp_path, miniature, monkeypatch):
    from cnnzoo import evaluate

    monkeypatch.setattr(evaluate, "predict_logits", lambda model, split, **_: torch.full((len(split), 10), float("inf")))
    with pytest.raises(TrainingError, match="answers are not finite"):
        run(recipe, tmp_path / "run", miniature)
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_a_folder_whose_name_is_not_text_is_refused_as_a_model(recipe, tmp_path, miniature):
    run(recipe, tmp_path / "run", miniature)
    odd = os.fsdecode(os.fsencode(tmp_path / "odd") + b"\xff")
    os.rename(tmp_path / "run", odd)
    for given in (odd, Path(odd), f"local-dir:{odd}"):
        with pytest.raises(CheckpointError, match="not text in UTF-8. Rename the folder"):
            cnnzoo.create_model(given, pretrained=True)
