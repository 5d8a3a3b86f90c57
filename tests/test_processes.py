"""Two real processes train as one does: the same data in the same order, the same gradient, one of them writes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cnnzoo import data

SCRIPT = Path(__file__).parent / "train_miniature.py"
# No batch norm, whose statistics are per process on a CPU; no momentum or decay, so that weights are the sum of gradients.
ARGS = ["train", "lenet_relu_d2l", "--recipe", "textbook", "--data", "miniature", "--epochs", "2", "--batch-size", "32"]
ARGS += ["--flip", "--shift", "2", "--cutout", "4", "--device", "cpu"]


def launch(processes: int, out: Path, *args: str) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [*(launcher if processes > 1 else [sys.executable]), str(SCRIPT), *ARGS, "--out", str(out), *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("weights in") == 1, done.stdout  # one process speaks


@pytest.mark.slow
@pytest.mark.parametrize("extra", ["", "--mixup 0.4 --cutmix 1", "--accumulate 2 --holdout"])
def test_two_processes_end_with_the_weights_and_numbers_of_one(tmp_path, extra):
    launch(1, tmp_path / "one", *extra.split())
    launch(2, tmp_path / "two", *extra.split())
    one, two = (load_file(tmp_path / n / "model.safetensors") for n in ("one", "two"))
    for name in one:  # 20 updates at rate 0.1: half of 1e-5 per gradient at most
        torch.testing.assert_close(two[name], one[name], rtol=0, atol=1e-5)
    logs = [[json.loads(line) for line in (tmp_path / n / "metrics.jsonl").read_text().splitlines()] for n in ("one", "two")]
    assert [line["epoch"] for line in logs[1]] == [1, 2]
    for a, b in zip(*logs, strict=True):
        assert b["train_top1"] == pytest.approx(a["train_top1"], abs=0.4)  # one image in 320
        assert b["train_loss"] == pytest.approx(a["train_loss"], abs=1e-4)
    metrics = [json.loads((tmp_path / n / "metrics.json").read_text()) for n in ("one", "two")]
    count = 8 if "--holdout" in extra else 13
    assert sum(map(sum, metrics[1]["confusion"])) == count  # each image once, although two do not divide 13
    assert metrics[1]["loss"] == pytest.approx(metrics[0]["loss"], abs=1e-4)
    assert sorted(p.name for p in (tmp_path / "one").iterdir()) == sorted(p.name for p in (tmp_path / "two").iterdir())


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("mix", [{}, dict(mixup=0.2), dict(mixup=0.2, cutmix=1.0)], ids=str)
def test_the_processes_parts_are_the_batch_that_one_process_gets(tiny_split, world, mix):
    augment = data.Augment(flip=True, shift=2, cutout=6, erase=0.5, **mix)
    whole = list(data.epoch_batches(tiny_split, 8, augment, seed=3, epoch=1))
    parts = [list(data.epoch_batches(tiny_split, 8, augment, seed=3, epoch=1, rank=r, world=world)) for r in range(world)]
    assert len(whole) == 5
    for step, (images, labels) in enumerate(whole):
        for rank in range(world):
            assert torch.equal(parts[rank][step][0], images[rank::world])
            assert torch.equal(parts[rank][step][1], labels[rank::world])


def test_leaving_out_batches_changes_none_of_the_others(tiny_split):
    augment = data.Augment(flip=True, shift=2, cutout=6, erase=0.5, mixup=0.2)
    whole = list(data.epoch_batches(tiny_split, 8, augment, seed=3, epoch=1))
    rest = list(data.epoch_batches(tiny_split, 8, augment, seed=3, epoch=1, start=3))
    assert len(rest) == 2
    for (a, x), (b, y) in zip(whole[3:], rest, strict=True):
        assert torch.equal(a, b) and torch.equal(x, y)
