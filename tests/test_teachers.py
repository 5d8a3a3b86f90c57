"""Teachers: they say what their models say, students learn from them, and a holdout stays unseen by both."""

import dataclasses
import json

import pytest
import safetensors.torch
import torch
from helpers import run_recipe as run, weights_of as weights

import cnnzoo
from cnnzoo import checkpoints, datasets, hub, train
from cnnzoo.errors import CheckpointError, CnnzooError, UnknownNameError
from cnnzoo.metrics import taught_by
from cnnzoo.recipes import override
from cnnzoo.train import _answers, _parts


def test_the_loss_with_teachers_is_the_weighted_sum_of_both(recipe):
    teacher = torch.nn.Linear(4, 3)
    loss = _parts.Loss(override(recipe, label_smoothing=0.0, distill=0.25, distill_temperature=3.0), [teacher])
    logits, labels, images = torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1]), torch.randn(5, 4)
    said, answered = (teacher(images) / 3).softmax(1), (logits / 3).log_softmax(1)
    distance = (said * (said.log() - answered)).sum(1).mean()
    expected = 0.75 * torch.nn.functional.cross_entropy(logits, labels) + 0.25 * 9 * distance
    torch.testing.assert_close(loss(logits, labels, images), expected)
    assert not any(p.requires_grad for p in loss.parameters())


def test_teachers_say_what_their_models_say_and_have_no_batch_norm_left_to_compute(recipe):
    info = datasets.get_dataset_info("fashion_mnist")
    (teacher,) = _parts.load_teachers(override(recipe, teacher="resnet_tiny"), info, holdout=False)
    model, images = cnnzoo.create_model("resnet_tiny", pretrained=True), torch.randn(4, *info.image_size)
    with torch.no_grad():
        torch.testing.assert_close(teacher(images), model.eval()(images), rtol=1e-3, atol=1e-3)
    kinds = [type(module) for module in teacher.modules()]
    assert torch.nn.Conv2d in kinds and not any(issubclass(kind, torch.nn.BatchNorm2d) for kind in kinds)


def test_a_teacher_gets_images_with_its_own_mean_and_std(recipe):
    info = datasets.get_dataset_info("fashion_mnist")
    pixels = torch.rand(4, *info.image_size)
    (plain,) = _parts.load_teachers(override(recipe, teacher="resnet_tiny"), info, holdout=False)
    dim = dataclasses.replace(info, mean=(0.1,), std=(0.2,))
    (adapted,) = _parts.load_teachers(override(recipe, teacher="resnet_tiny"), dim, holdout=False)
    with torch.no_grad():
        torch.testing.assert_close(adapted((pixels - 0.1) / 0.2), plain((pixels - info.mean[0]) / info.std[0]))


def test_a_student_learns_from_a_run_and_from_a_checkpoint(recipe, tmp_path, miniature):
    run(recipe, tmp_path / "teacher", miniature)
    both = override(recipe, teacher=f"{tmp_path / 'teacher'}, resnet_tiny", distill=1.0)
    run(both, tmp_path / "student", miniature)
    run(override(both, distill=0.0), tmp_path / "alone", miniature)
    student, alone = weights(tmp_path / "student"), weights(tmp_path / "alone")
    assert not torch.equal(student["head.fc.weight"], alone["head.fc.weight"])


def test_a_teacher_that_knows_the_holdout_may_not_teach_a_run_that_measures_on_it(recipe, tmp_path, miniature):
    run(recipe, tmp_path / "knows", miniature)
    with pytest.raises(CheckpointError, match="trained with --holdout"):
        run(override(recipe, teacher=str(tmp_path / "knows")), tmp_path / "run", miniature, holdout=True)
    run(recipe, tmp_path / "does_not", miniature, holdout=True)
    of_other_data = "resnet_tiny"
    teachers = f"{tmp_path / 'does_not'}, {of_other_data}"
    run(override(recipe, teacher=teachers), tmp_path / "run", miniature, holdout=True)


def test_a_student_and_its_run_on_the_holdout_have_teachers_of_one_kind(recipe, tmp_path, miniature):
    runs = {"other": override(recipe, model="resnet_tiny"), "same": recipe}
    for name, chosen in runs.items():
        run(chosen, tmp_path / name, miniature, holdout=True)
        taught = override(recipe, teacher=str(tmp_path / name))
        run(taught, tmp_path / f"by_{name}", miniature, holdout=True)
    metrics = run(override(recipe, teacher=recipe.model), tmp_path / "run", miniature)
    assert metrics["teachers"] == [recipe.model]
    folder = hub.build(tmp_path / "run", tmp_path, holdout_run=tmp_path / "by_same")
    assert f"{recipe.epochs} epochs, taught by `{recipe.model}`" in (folder / "README.md").read_text()
    with pytest.raises(CheckpointError, match="another recipe"):
        hub.build(tmp_path / "run", tmp_path, holdout_run=tmp_path / "by_other")


def test_answers_asked_before_teach_what_the_teacher_itself_would(recipe, tmp_path, miniature, capsys):
    """The teacher is asked about two epochs; a third repeats the first."""
    mixed = override(recipe, epochs=2, cutmix=1.0, mix_prob=0.5, distill=1.0, ema_decay=0.0, lr=0.01)
    train.ask(override(mixed, teacher="resnet_tiny"), tmp_path / "answers", epochs=2, data_dir=miniature[0])
    assert capsys.readouterr().err.endswith("asked about 2 of 2 epochs of images\n")
    live = run(override(mixed, teacher="resnet_tiny"), tmp_path / "live", miniature)
    kept = override(mixed, answers=str(tmp_path / "answers"))
    metrics = run(kept, tmp_path / "kept", miniature)
    assert metrics["teachers"] == live["teachers"] == ["resnet_tiny"]
    one, other, alone = weights(tmp_path / "live"), weights(tmp_path / "kept"), None
    run(override(mixed, distill=0.0), tmp_path / "alone", miniature)
    alone = weights(tmp_path / "alone")
    name = "head.fc.weight"
    assert (one[name] - other[name]).abs().max() < 0.05 * (one[name] - alone[name]).abs().max()
    longer = run(override(kept, epochs=3), tmp_path / "longer", miniature)
    assert longer["epochs"] == 3
    asked = checkpoints.read_json(tmp_path / "answers" / "answers.json")["command"]
    card = (hub.build(tmp_path / "kept", tmp_path) / "README.md").read_text()
    assert f"and before them the answers of the teacher by `{asked}`" in card


def test_each_seed_takes_all_epochs_that_were_asked_about_in_an_order_of_its_own():
    answers = _answers.Answers(torch.zeros(12, 1, 1), seed=3, teachers=[], command="", sha256="")
    orders = {seed: [answers.epoch(epoch, seed) for epoch in range(24)] for seed in range(5)}
    assert orders[3] == 2 * list(range(12))  # as the teachers were asked
    for order in orders.values():
        assert sorted(order[:12]) == sorted(order[12:]) == list(range(12))
    assert len({tuple(order) for order in orders.values()}) == 5 and orders[0][:12] != orders[0][12:]


def test_the_answers_that_a_student_of_another_seed_gets_are_about_its_images(recipe, tmp_path, miniature, monkeypatch):
    chosen = override(recipe, epochs=3, batch_size=4, cutmix=1.0, mix_prob=0.5)
    train.ask(override(chosen, teacher="resnet_tiny", seed=7), tmp_path / "answers", epochs=3, data_dir=miniature[0])
    teacher = cnnzoo.create_model("resnet_tiny", pretrained=True).eval()
    seen, forward = [], _parts.Loss.forward
    monkeypatch.setattr(_parts.Loss, "forward", lambda self, *a: seen.append(a[2:]) or forward(self, *a))
    orders = []
    for seed in (7, 1):
        seen.clear()
        run(override(chosen, answers=str(tmp_path / "answers"), seed=seed), tmp_path / str(seed), miniature)
        for images, answers in seen:
            torch.testing.assert_close(answers.exp(), teacher(images).softmax(1), atol=0.05, rtol=0)
        orders.append([float(images.sum()) for images, _ in seen])
    assert sorted(orders[0]) == sorted(orders[1]) and orders[0] != orders[1]


def test_asking_goes_on_where_it_was_stopped(recipe, tmp_path, miniature, monkeypatch):
    chosen = override(recipe, teacher="resnet_tiny", batch_size=4, cutmix=1.0, mix_prob=0.5)
    train.ask(chosen, tmp_path / "whole", epochs=3, data_dir=miniature[0], resume=True)  # there is nothing to go on with

    def stop(text):
        if " 2 of 3 " in text:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(_answers, "say", stop)
        train.ask(chosen, tmp_path / "parts", epochs=3, data_dir=miniature[0])
    part = tmp_path / "parts" / "answers.part.safetensors"
    content = part.read_bytes()
    for other in (override(chosen, teacher="lenet_tiny"), override(chosen, shift=2)):
        with pytest.raises(CheckpointError, match="answers of other teachers, or about other images"):
            train.ask(other, tmp_path / "parts", epochs=3, data_dir=miniature[0], resume=True)
    part.write_bytes(content[:-1])
    with pytest.raises(CheckpointError, match="part.safetensors is damaged"):
        train.ask(chosen, tmp_path / "parts", epochs=3, data_dir=miniature[0], resume=True)
    part.write_bytes(content)
    told = []
    monkeypatch.setattr(_answers, "say", told.append)
    train.ask(chosen, tmp_path / "parts", epochs=3, data_dir=miniature[0], resume=True)
    assert told == ["asked about 3 of 3 epochs of images"] and not part.exists()
    whole, parts = (checkpoints.read_json(tmp_path / name / "answers.json") for name in ("whole", "parts"))
    assert whole == parts  # the sha256 of the answers is in it


def test_teachers_answer_in_mixed_precision_as_in_full(recipe, tmp_path, miniature):
    for amp in ("bf16", "no"):  # which are one where the machine has no fast bfloat16
        train.ask(override(recipe, teacher="resnet_tiny", amp=amp), tmp_path / amp, epochs=1, data_dir=miniature[0])
    half, full = (safetensors.torch.load_file(tmp_path / amp / "answers.safetensors")["answers"] for amp in ("bf16", "no"))
    torch.testing.assert_close(half.float().exp(), full.float().exp(), atol=0.05, rtol=0)


def test_answers_about_other_images_or_damaged_ones_are_refused(recipe, tmp_path, miniature):
    folder = tmp_path / "answers"
    train.ask(override(recipe, teacher="resnet_tiny"), folder, epochs=1, data_dir=miniature[0])
    kept = override(recipe, answers=str(folder))
    with pytest.raises(CheckpointError, match="shift: 1 there, 2 here"):
        run(override(kept, shift=2), tmp_path / "run", miniature)
    with pytest.raises(CheckpointError, match="data: "):
        run(kept, tmp_path / "run", miniature, holdout=True)
    with pytest.raises(CnnzooError, match="a teacher, dual=0 and at least one epoch are needed"):
        train.ask(recipe, folder, epochs=1, data_dir=miniature[0])
    content = bytearray((folder / "answers.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "answers.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="sha256"):
        run(kept, tmp_path / "run", miniature)
    assert not (tmp_path / "run").exists()


def test_teachers_see_whole_images_while_the_student_sees_them_smaller(recipe, tmp_path, miniature, monkeypatch):
    """So one that takes images of one size only may teach, and answers asked before teach what it would."""
    sizes, forward = [], _parts.Loss.forward
    monkeypatch.setattr(_parts.Loss, "forward", lambda self, *a: sizes.append(tuple(a[2].shape[2:])) or forward(self, *a))
    growing = override(recipe, model="nin_tiny", start_size=16, grown_at=1.0, distill=1.0)
    run(growing, tmp_path / "alone", miniature)
    assert set(sizes) == {(16, 16), (20, 20), (28, 28)}
    sizes.clear()
    taught = override(growing, teacher="lenet_tiny")
    run(taught, tmp_path / "live", miniature)
    assert set(sizes) == {(28, 28)}
    train.ask(taught, tmp_path / "answers", epochs=recipe.epochs, data_dir=miniature[0])
    run(override(growing, answers=str(tmp_path / "answers")), tmp_path / "kept", miniature)
    losses = [
        json.loads((tmp_path / name / "metrics.jsonl").read_text().split("\n")[0])["train_loss"] for name in ("live", "kept")
    ]
    assert losses[1] == pytest.approx(losses[0], rel=0.01)


def test_a_teacher_of_another_image_size_is_refused(recipe, tmp_path, miniature):
    larger = override(recipe, model="nin_tiny", image_size=32, teacher="lenet_tiny")
    with pytest.raises(CheckpointError, match="28x28 pixels only, and this training has 32x32. Add --image-size 28"):
        run(larger, tmp_path / "run", miniature)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("teachers", "words"),
    [([], ""), (["a"], ", taught by `a`"), (["b", "a", "b"], ", taught by `b` (2 runs) and `a`")],
)
def test_teachers_are_named_once_with_their_number(teachers, words):
    assert taught_by(dict(teachers=teachers), quote="`") == words and taught_by({}) == ""


def test_an_unknown_teacher_is_refused(recipe, tmp_path, miniature):
    with pytest.raises(UnknownNameError, match="resnet_tiny"):
        run(override(recipe, teacher="resnet_tinny"), tmp_path / "run", miniature)
    assert not (tmp_path / "run").exists()


def test_a_run_does_not_go_on_with_other_answers_than_it_began_with(recipe, tmp_path, miniature):
    folder = tmp_path / "answers"
    train.ask(override(recipe, teacher="resnet_tiny"), folder, epochs=1, data_dir=miniature[0])
    kept = override(recipe, answers=str(folder), epochs=1)
    run(kept, tmp_path / "run", miniature)
    (tmp_path / "run" / "metrics.json").unlink()  # as if it had been stopped
    train.ask(override(recipe, teacher="lenet_tiny"), folder, epochs=1, data_dir=miniature[0])
    with pytest.raises(CheckpointError, match="holds other answers than when the run"):
        run(kept, tmp_path / "run", miniature, resume=True)
