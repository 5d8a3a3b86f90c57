"""The training loop: what a run leaves behind, that it resumes, and how it fails."""

import errno
import importlib.util
import io
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import TINY, run_recipe as run, weights_of as weights

import cnnzoo
from cnnzoo import checkpoints, data, evaluate, hub
from cnnzoo.errors import CheckpointError, CnnzooError, TrainingError, UnknownNameError
from cnnzoo.files import write_json
from cnnzoo.recipes import Recipe, override
from cnnzoo.train import _loop, _optimizer, _progress


def test_a_run_leaves_its_recipe_environment_metrics_checkpoint_and_weights(recipe, tmp_path, miniature):
    metrics = run(recipe, tmp_path / "run", miniature)
    names = {p.name for p in (tmp_path / "run").iterdir()}
    assert names == {
        "recipe.json", "environment.json", "metrics.jsonl", "metrics.json", "checkpoint.pt", "checkpoint.previous.pt",
        "model.safetensors", "curves.png", ".lock",
    }  # fmt: skip
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert all(math.isfinite(line["train_loss"]) for line in lines)
    written = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert written == json.loads(json.dumps(metrics))
    assert sum(map(sum, written["confusion"])) == 12
    assert metrics["split"] == "test"
    assert Recipe(**{k: v for k, v in json.loads((tmp_path / "run" / "recipe.json").read_text()).items() if k != "holdout"})


def test_the_weights_saved_are_the_ones_measured(recipe, tmp_path, miniature):
    metrics = run(recipe, tmp_path / "run", miniature)
    model = cnnzoo.create_model("lenet_tiny")
    model.load_state_dict(weights(tmp_path / "run"))
    split = data.load_split("miniature", "test", data_dir=miniature[0])
    assert evaluate.evaluate(model, split).top1 == metrics["top1"]
    assert evaluate.evaluate(model, split).loss == metrics["loss"]


def test_a_step_leaves_nothing_behind_for_accelerators_that_are_not_there(recipe, tmp_path, miniature):
    """`torch.manual_seed` notes its calls for devices that have not been started, and keeps each."""
    if torch.cuda.is_initialized():
        pytest.skip("CUDA has been started here, so nothing is noted for later")
    run(recipe, tmp_path / "run", miniature)
    before = len(torch.cuda._queued_calls)
    run(override(recipe, epochs=9), tmp_path / "longer", miniature)
    assert len(torch.cuda._queued_calls) - before < 9  # some for the run, none for its 45 steps


def test_training_learns(recipe, tmp_path, miniature):
    """Forty images by heart: the loss falls well below that of guessing."""
    plain = override(recipe, epochs=40, label_smoothing=0.0, flip=False, shift=0, cutout=0, lr=0.05, weight_decay=0.0)
    run(plain, tmp_path / "run", miniature)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["train_loss"] < 0.3 < math.log(10)
    assert lines[-1]["train_top1"] > 95


def test_the_published_run_reads_the_test_set_once_and_only_after_training(recipe, tmp_path, miniature, monkeypatch):
    seen = []
    monkeypatch.setattr(
        evaluate, "predict_logits", lambda m, s, real=evaluate.predict_logits, **k: seen.append(len(s)) or real(m, s, **k)
    )
    run(recipe, tmp_path / "run", miniature)
    assert seen == [12, 12]  # plain and with flip, both after the last epoch
    seen.clear()
    run(recipe, tmp_path / "choosing", miniature, holdout=True)
    assert set(seen) == {8}  # the holdout, never the test images


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(recipe, tmp_path, miniature):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(override(recipe, seed=seed), tmp_path / name, miniature)
    a, b, c = (weights(tmp_path / name) for name in "abc")
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not all(torch.equal(a[k], c[k]) for k in a)


def test_a_resumed_run_ends_with_the_same_weights_as_an_uninterrupted_one(recipe, tmp_path, miniature, monkeypatch):
    run(recipe, tmp_path / "whole", miniature)
    epochs = []

    def stop_after_two(*args, real=_loop._run_epoch):
        if len(epochs) == 2:
            raise KeyboardInterrupt
        epochs.append(1)
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(_loop, "_run_epoch", stop_after_two)
        with pytest.raises(KeyboardInterrupt):
            run(recipe, tmp_path / "cut", miniature)
    run(recipe, tmp_path / "cut", miniature, resume=True)
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(whole[k], cut[k]) for k in whole)
    assert len((tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()) == 3


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_without_a_terminal_each_epoch_is_a_line_and_with_one_there_is_a_bar(
    recipe, tmp_path, miniature, monkeypatch, capsys
):
    run(recipe, tmp_path / "quiet", miniature, holdout=True)
    said = capsys.readouterr().err.splitlines()
    log = [json.loads(line) for line in (tmp_path / "quiet" / "metrics.jsonl").read_text().splitlines()]
    assert len(said) == len(log) == 3
    for text, line in zip(said, log, strict=True):
        known = f"epoch {line['epoch']} of 3: loss {line['train_loss']:.3f}, accuracy {line['train_top1']:.2f} %, "
        assert text.startswith(known + f"holdout {line['holdout_top1']:.2f} %, ")
        assert re.search(r", [\d.]+ s, [\d.]+ s left$", text)
    assert said[-1].endswith(", 0.0 s left")
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    run(recipe, tmp_path / "shown", miniature)
    assert "lenet_tiny: 100%" in terminal.getvalue() and "epoch 1 of 3" not in terminal.getvalue()


def test_a_program_without_a_console_trains_silently(recipe, tmp_path, miniature, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", None)
    assert 0 <= run(recipe, tmp_path / "run", miniature)["top1"] <= 100
    assert capsys.readouterr().out == ""


def test_the_time_left_grows_with_the_images_that_are_to_come(recipe, capsys):
    growing = override(recipe, epochs=2, start_size=14, grown_at=0.5)  # 14x14, then 28x28, which has four times the pixels
    line = dict(epoch=1, train_loss=1.0, train_top1=50.0, seconds=30.0)
    with _progress.Progress(growing, 5, 0, (28, 28), shown=True) as progress:
        progress.epoch_done(line, 30.0)
    assert capsys.readouterr().err == "epoch 1 of 2: loss 1.000, accuracy 50.00 %, 30 s, 2 min left\n"


def test_that_nobody_can_read_the_lines_ends_no_run(monkeypatch):
    closed, full = io.StringIO(), open("/dev/full", "w")
    closed.close()
    for stream in (closed, full):
        monkeypatch.setattr(sys, "stderr", stream)
        _progress.say("epoch 1")
    with pytest.raises(OSError):
        full.close()  # so it had really been written to


def test_a_run_is_not_overwritten(recipe, tmp_path, miniature):
    run(recipe, tmp_path / "run", miniature)
    with pytest.raises(CheckpointError, match="--resume"):
        run(recipe, tmp_path / "run", miniature)


def test_another_recipe_cannot_resume_a_run(recipe, tmp_path, miniature):
    run(recipe, tmp_path / "run", miniature)
    with pytest.raises(CheckpointError, match="lr: 0.15 then, 0.3 now"):
        run(override(recipe, lr=0.3), tmp_path / "run", miniature, resume=True)
    with pytest.raises(CheckpointError, match="holdout: False then, True now"):
        run(recipe, tmp_path / "run", miniature, resume=True, holdout=True)


def test_a_run_from_before_the_recipe_had_a_field_is_of_the_same_recipe(recipe, tmp_path, miniature):
    run(recipe, tmp_path / "old", miniature)
    run(override(recipe, seed=1), tmp_path / "new", miniature)
    run(override(recipe, seed=2, size_step=4), tmp_path / "stepped", miniature)
    path = tmp_path / "old" / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    del state["recipe"]["size_step"]
    torch.save(state, path)
    write_json(tmp_path / "old" / "recipe.json", state["recipe"])
    run(recipe, tmp_path / "old", miniature, resume=True)
    write_json(tmp_path / "old" / "recipe.json", state["recipe"])
    folder = hub.build([tmp_path / "old", tmp_path / "new"], tmp_path)
    assert cnnzoo.checkpoints.read_json(folder / "metrics.json")["seeds"] == [0, 1]
    with pytest.raises(CheckpointError, match="has another recipe"):
        hub.build([tmp_path / "old", tmp_path / "stepped"], tmp_path)
    state["recipe"]["size_step"] = 4
    torch.save(state, path)
    with pytest.raises(CheckpointError, match="size_step: 4 then, 0 now"):
        run(recipe, tmp_path / "old", miniature, resume=True)
    torch.save(dict(state, recipe=dict(state["recipe"], size_step=0, from_the_future=1)), path)
    with pytest.raises(CheckpointError, match=r"\(from_the_future: 1 then, None now\)"):
        run(recipe, tmp_path / "old", miniature, resume=True)


def test_a_checkpoint_of_something_else_is_refused(recipe, tmp_path, miniature):
    run(recipe, tmp_path / "run", miniature)
    path = tmp_path / "run" / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    for wrong in (dict(state, model={}), {k: v for k, v in state.items() if k != "epoch"}, dict(state, recipe=7), [1]):
        torch.save(wrong, path)
        with pytest.raises(CheckpointError, match="damaged, or not written by"):
            run(recipe, tmp_path / "run", miniature, resume=True)


@pytest.mark.parametrize(("opt", "group"), [("sgd", dict(momentum=0.7)), ("adamw", dict(betas=(0.7, 0.999)))])
def test_momentum_reaches_the_optimiser(recipe, opt, group):
    optimizer = _optimizer.make_optimizer(override(recipe, opt=opt, momentum=0.7), torch.nn.Linear(2, 2))
    assert {k: optimizer.param_groups[0][k] for k in group} == group


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a checkpoint", b"{}"])
def test_a_damaged_checkpoint_is_refused(recipe, tmp_path, miniature, content):
    run(recipe, tmp_path / "run", miniature)
    (tmp_path / "run" / "checkpoint.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        run(recipe, tmp_path / "run", miniature, resume=True)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(recipe, tmp_path, miniature):
    with pytest.raises(TrainingError, match=r"not finite at step \d+"):
        run(override(recipe, lr=1e3, weight_decay=10.0, epochs=40, warmup_epochs=0), tmp_path / "run", miniature)
    assert (tmp_path / "run" / "checkpoint.pt").is_file()
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_a_full_disk_leaves_the_last_good_checkpoint(recipe, tmp_path, miniature, monkeypatch):
    saves = []

    def full(state, path, real=torch.save):
        saves.append(1)
        if len(saves) == 3:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        real(state, path)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(CnnzooError, match="No space left"):
        run(recipe, tmp_path / "run", miniature)
    assert [p.name for p in (tmp_path / "run").glob(".*")] == [".lock"]
    assert torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["epoch"] == 1


def test_a_folder_that_cannot_be_made_is_an_error(recipe, tmp_path, miniature):
    (tmp_path / "file").write_text("")
    with pytest.raises(CnnzooError, match="run folder"):
        run(recipe, tmp_path / "file" / "run", miniature)


def test_images_grow_from_start_size_and_are_whole_from_grown_at_on(recipe):
    grown = override(recipe, epochs=10, start_size=16)
    later = [override(grown, grown_at=0.75).size_at(epoch, (28, 28)) for epoch in range(10)]
    assert [s == (28, 28) for s in later] == [False] * 8 + [True] * 2
    sizes = [grown.size_at(epoch, (28, 28)) for epoch in range(10)]
    assert sizes[0] == (16, 16)
    assert sizes == sorted(sizes)
    assert [s == (28, 28) for s in sizes] == [False] * 6 + [True] * 4
    assert override(recipe, start_size=0).size_at(0, (28, 28)) == (28, 28)
    assert grown.size_at(0, (32, 64)) == (16, 32)


def test_images_that_grow_in_steps_have_each_size_equally_long(recipe):
    stepped = override(recipe, epochs=12, start_size=16, size_step=4, grown_at=0.75)
    heights = [stepped.size_at(epoch, (28, 28))[0] for epoch in range(12)]
    assert heights == [16] * 3 + [20] * 3 + [24] * 3 + [28] * 3
    assert override(stepped, size_step=5).size_at(8, (28, 28)) == (26, 26)  # whole in the end, though 12 is no multiple of 5
    assert override(stepped, size_step=5).size_at(9, (28, 28)) == (28, 28)


def test_a_run_with_growing_images_trains_on_them(recipe, tmp_path, miniature, monkeypatch):
    shapes = []
    batches = data.epoch_batches

    def noted(*args, **kwargs):
        for images, labels in batches(*args, **kwargs):
            shapes.append(tuple(images.shape))
            yield images, labels

    monkeypatch.setattr(data, "epoch_batches", noted)
    run(override(recipe, model="resnext_tiny", start_size=20), tmp_path / "run", miniature)
    assert shapes == [(8, 1, 20, 20)] * 5 + [(8, 1, 24, 24)] * 5 + [(8, 1, 28, 28)] * 5


def test_a_batch_larger_than_the_data_becomes_one_that_goes_into_it(recipe, tmp_path, miniature, capsys):
    for holdout in (False, True):  # so that both can be compared
        out = tmp_path / f"run-{holdout}"
        run(override(recipe, batch_size=64, epochs=1), out, miniature, holdout=holdout)
        assert "Batches have 8 images, not 64: without the holdout there are 32 to train on." in capsys.readouterr().err
        assert checkpoints.read_json(out / "recipe.json")["batch_size"] == 8
    with pytest.raises(CnnzooError, match="batch_size=64 was given for 32 images, 1 processes and accumulate=33"):
        run(override(recipe, batch_size=64, accumulate=33), tmp_path / "other", miniature)


@pytest.mark.slow
def test_ctrl_c_leaves_a_checkpoint_that_resumes(tmp_path):
    out = tmp_path / "run"
    script = str(Path(__file__).parent / "train_miniature.py")
    command = [sys.executable, script, "train", "lenet_tiny", "--data", "miniature", "--out", str(out), "--epochs", "3"]
    command += ["--warmup-epochs", "1", "--batch-size", "32", "--device", "cpu"]
    environment = dict(os.environ, CTRL_C_AT="15")  # the middle of the second epoch of ten updates
    stopped = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert stopped.returncode == 130, stopped.stderr
    assert "--resume" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 1
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "% top-1 on test" in done.stdout
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 3


def test_an_unknown_model_is_refused_before_anything_is_written(tmp_path, miniature):
    with pytest.raises(UnknownNameError, match="lenet_tiny"):
        run(Recipe(model="lenet_tinny", **TINY), tmp_path / "run", miniature)
    assert not os.path.exists(tmp_path / "run" / "checkpoint.pt")


# -- watching ------------------------------------------------------------------------------------------------------------


def test_tensorboard_gets_every_epoch(recipe, tmp_path, miniature):
    run(recipe, tmp_path / "run", miniature, track="tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folders = {path.parent for path in (tmp_path / "run").rglob("events.out.tfevents.*")}  # the recipe has one of its own
    logs = [EventAccumulator(str(folder)).Reload() for folder in folders]
    log = next(log for log in logs if "train_loss" in log.Tags()["scalars"])
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [(e.step, e.value) for e in log.Scalars("train_loss")] == [
        (line["epoch"], pytest.approx(line["train_loss"])) for line in lines
    ]


def test_an_unknown_or_missing_tracker_is_refused(recipe, tmp_path, miniature):
    with pytest.raises(UnknownNameError, match="tensorboard"):
        run(recipe, tmp_path / "run", miniature, track="tensorbord")
    if importlib.util.find_spec("wandb") is None:
        with pytest.raises(CnnzooError, match="pip install wandb"):
            run(recipe, tmp_path / "run", miniature, track="wandb")
    assert not (tmp_path / "run").exists()
