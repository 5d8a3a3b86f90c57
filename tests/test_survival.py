"""Runs that are killed, told to stop, or find their files damaged: nothing is lost but the time since the last epoch."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers import run_recipe as run, weights_of

from cnnzoo.errors import CheckpointError
from cnnzoo.recipes import Recipe, override
from cnnzoo.train import _loop, _saving

RECIPE = Recipe(
    model="lenet_tiny", dataset="miniature", epochs=3, batch_size=8, warmup_epochs=1, amp="no", ema_decay=0.9, drop_rate=0.2,
    mixup=0.2, erase=0.5, mix_prob=0.5, dual=0.1, randaugment=1, photo=0.5,
)  # fmt: skip
SCRIPT = Path(__file__).parent / "train_miniature.py"
COMMAND = [sys.executable, str(SCRIPT), "train", "lenet_tiny", "--data", "miniature", "--epochs", "12", "--batch-size", "8"]
COMMAND += ["--warmup-epochs", "1", "--amp", "no", "--drop-rate", "0.2", "--device", "cpu"]


def assert_same_weights(a: Path, b: Path) -> None:
    one, other = weights_of(a), weights_of(b)
    assert all(torch.equal(one[k], other[k]) for k in one)


def assert_same_log(a: Path, b: Path) -> None:
    def lines(out: Path) -> list[dict]:
        found = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        return [{k: v for k, v in line.items() if k != "seconds"} for line in found]

    assert lines(a) == lines(b)


@pytest.mark.parametrize("updates", [1, 4, 5, 6, 12])
def test_a_run_told_to_stop_says_how_to_go_on_and_goes_on_from_that_very_update(
    tmp_path, miniature, monkeypatch, capsys, updates
):
    run(RECIPE, tmp_path / "whole", miniature)
    done = []

    def counted(state, *args, real=_loop._update):
        done.append(1)
        if len(done) == updates:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(state, *args)

    with monkeypatch.context() as patch:
        patch.setattr(_loop, "_update", counted)
        with pytest.raises(SystemExit) as stopped:
            run(RECIPE, tmp_path / "cut", miniature)
    assert stopped.value.code == 143
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"in epoch {(updates - 1) // 5 + 1} of 3; {tmp_path / 'cut'} holds" in said and "--resume" in said
    assert len(done) == updates
    state = torch.load(tmp_path / "cut" / "checkpoint.pt", weights_only=True)
    assert state["epoch"] * 5 + state["step"] == updates
    run(RECIPE, tmp_path / "cut", miniature, resume=True)
    assert_same_weights(tmp_path / "whole", tmp_path / "cut")
    assert_same_log(tmp_path / "whole", tmp_path / "cut")


def test_the_time_of_an_epoch_that_was_interrupted_counts(tmp_path, miniature, monkeypatch):
    """A clock that only updates move: each takes a second."""
    clock = [0.0]

    def ticking(*args, real=_loop._update):
        clock[0] += 1
        if clock[0] == 8:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*args)

    monkeypatch.setattr(_loop, "_update", ticking)
    monkeypatch.setattr(_loop.time, "perf_counter", lambda: clock[0])
    with pytest.raises(SystemExit):
        run(RECIPE, tmp_path / "cut", miniature)
    metrics = run(RECIPE, tmp_path / "cut", miniature, resume=True)
    lines = [json.loads(line) for line in (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()]
    assert [line["seconds"] for line in lines] == [5, 5, 5]
    assert torch.load(tmp_path / "cut" / "checkpoint.pt", weights_only=True)["seconds"] == 15
    assert metrics["minutes"] == 0.25


def test_a_run_told_to_stop_before_its_first_update_stops_after_it(tmp_path, miniature):
    def told(*_):
        assert (tmp_path / "cut" / "checkpoint.pt").exists()
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit) as stopped:
        run(RECIPE, tmp_path / "cut", miniature, on_start=told)
    assert stopped.value.code == 143
    assert torch.load(tmp_path / "cut" / "checkpoint.pt", weights_only=True)["step"] == 1
    run(RECIPE, tmp_path / "whole", miniature)
    run(RECIPE, tmp_path / "cut", miniature, resume=True)
    assert_same_weights(tmp_path / "whole", tmp_path / "cut")


def test_the_former_handler_of_sigterm_comes_back(tmp_path, miniature):
    before = signal.getsignal(signal.SIGTERM)
    run(override(RECIPE, epochs=1), tmp_path / "run", miniature)
    assert signal.getsignal(signal.SIGTERM) == before


class PowerCut(BaseException):
    """What no code of ours catches."""


@pytest.mark.parametrize("function", ["fsync", "link", "replace", "unlink"])
@pytest.mark.parametrize("call", [1, 2, 3])
def test_a_power_cut_while_saving_leaves_a_whole_checkpoint(tmp_path, monkeypatch, function, call):
    identity = dict(model="x")
    keys = dict.fromkeys(_saving._KEYS - {"recipe", "history"})
    for epoch in (1, 2):
        _saving.save_state(tmp_path, dict(keys, recipe=identity, history=[], epoch=epoch))
    calls = []
    owner = Path if function == "unlink" else os
    real = getattr(owner, function)

    def cut(*args, **kwargs):
        calls.append(1)
        if len(calls) == call:
            raise PowerCut
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, function, cut)
        try:
            _saving.save_state(tmp_path, dict(keys, recipe=identity, history=[], epoch=3))
        except PowerCut:
            pass
    assert _saving.load_state(tmp_path, identity, dict(classes=[], images=[], sha256=""))["epoch"] in (2, 3)


def test_a_damaged_checkpoint_names_the_whole_one_before_it(tmp_path, miniature):
    out = tmp_path / "run"
    run(RECIPE, out, miniature)
    good = (out / "checkpoint.pt").read_bytes()
    for content in (b"", good[: len(good) // 2], b"not a checkpoint"):
        (out / "checkpoint.pt").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"damaged.*mv .*checkpoint\.previous\.pt .*checkpoint\.pt, then --resume"):
            run(RECIPE, out, miniature, resume=True)
    assert torch.load(out / "checkpoint.previous.pt", weights_only=True)["epoch"] == 2
    run(RECIPE, tmp_path / "whole", miniature)
    os.replace(out / "checkpoint.previous.pt", out / "checkpoint.pt")
    run(RECIPE, out, miniature, resume=True)
    assert_same_weights(tmp_path / "whole", out)


def start(*args: str) -> subprocess.Popen:
    return subprocess.Popen([*COMMAND, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(path: Path, process: subprocess.Popen, seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.01)


@pytest.mark.slow
def test_a_run_killed_at_random_points_ends_with_the_very_weights_of_an_uninterrupted_one(tmp_path):
    whole = start("--out", str(tmp_path / "whole"))
    assert whole.wait(timeout=600) == 0, whole.communicate()
    chance = random.Random(0)
    out = tmp_path / "cut"
    for _ in range(4):
        process = start("--out", str(out), "--resume")
        wait_for(out / "checkpoint.pt", process)
        time.sleep(chance.uniform(0, 1.5))
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=600)
    last = start("--out", str(out), "--resume")
    _, err = last.communicate(timeout=600)
    assert last.returncode == 0, err
    assert_same_weights(tmp_path / "whole", out)
    assert_same_log(tmp_path / "whole", out)


@pytest.mark.slow
def test_sigterm_saves_and_exits_143(tmp_path):
    out = tmp_path / "run"
    process = start("--out", str(out), "--epochs", "2000")
    wait_for(out / "metrics.jsonl", process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 143, err
    assert "Traceback" not in err and "--resume" in err.splitlines()[-1]
    state = torch.load(out / "checkpoint.pt", weights_only=True)
    assert state["epoch"] + state["step"] > 0
