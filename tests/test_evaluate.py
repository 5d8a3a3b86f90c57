"""Measuring and predicting."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from helpers import each
from hypothesis import given, strategies as st
from PIL import Image

import cnnzoo
from cnnzoo import checkpoints, data, evaluate
from cnnzoo.cli import main
from cnnzoo.drawings import garments
from cnnzoo.errors import InputError


@pytest.fixture(scope="module")
def model():
    return cnnzoo.create_model("resnext_small", pretrained=True)


def test_accuracy_loss_and_confusion_are_those_of_a_case_worked_by_hand():
    logits = torch.tensor([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0], [2.0, 0.0]])
    labels = torch.tensor([0, 1, 1, 0])
    m = evaluate.measure(logits, labels)
    p = np.exp(2) / (np.exp(2) + 1)
    assert m.top1 == 75.0
    assert m.loss == pytest.approx(-(3 * np.log(p) + np.log(1 - p)) / 4, abs=1e-5)
    assert m.confusion == ((2, 0), (1, 1))
    assert m.per_class == (100.0, 50.0)
    assert m.ece == pytest.approx(100 * abs(p - 0.75), abs=1e-3)


@given(st.integers(1, 200), st.integers(2, 12), st.integers(0, 2**31))
def test_metrics_agree_with_counting_one_by_one(count, classes, seed):
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, classes, generator=g)
    labels = torch.randint(0, classes, (count,), generator=g)
    m = evaluate.measure(logits, labels)
    right = sum(int(row.argmax() == label) for row, label in zip(logits, labels, strict=True))
    assert m.top1 == pytest.approx(100 * right / count, abs=1e-3)
    assert sum(map(sum, m.confusion)) == m.count == count
    assert sum(m.confusion[i][i] for i in range(classes)) == right
    assert 0 <= m.ece <= 100


def test_calibration_error_is_nought_for_perfect_confidence_and_all_for_perfect_error():
    sure = torch.ones(10)
    assert evaluate.calibration_error(sure, torch.ones(10, dtype=torch.bool)) == 0
    assert evaluate.calibration_error(sure, torch.zeros(10, dtype=torch.bool)) == 100


def test_the_temperature_found_is_the_one_that_spoiled_the_logits():
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(20_000, 5, generator=g, dtype=torch.double) * 2
    labels = torch.multinomial(logits.softmax(1), 1, generator=g)[:, 0]
    assert evaluate.fit_temperature(logits * 3, labels) == pytest.approx(3, rel=0.05)


@pytest.mark.parametrize("right", [0.0, 1.0])
def test_answers_that_are_all_right_or_all_wrong_have_no_temperature(right):
    logits = torch.eye(4).repeat(5, 1) * 3
    labels = torch.arange(4).repeat(5) if right else (torch.arange(4).repeat(5) + 1) % 4
    assert evaluate.fit_temperature(logits, labels) is None


def test_a_class_without_images_has_no_accuracy():
    found = evaluate.measure(torch.eye(3)[:2] * 5, torch.tensor([0, 1]))
    assert found.per_class == (100.0, 100.0, None) and found.top1 == 100


def test_the_batch_size_does_not_change_the_outputs(model, tiny_split):
    a = evaluate.predict_logits(model, tiny_split, batch_size=7)
    b = evaluate.predict_logits(model, tiny_split, batch_size=40)
    torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_flip_averaging_gives_an_image_and_its_mirror_the_same_answer(model, tiny_split):
    mirrored = data.Split(tiny_split.images.flip(3), tiny_split.labels, tiny_split.info)
    a = evaluate.predict_logits(model, tiny_split, tta=True)
    b = evaluate.predict_logits(model, mirrored, tta=True)
    torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(a, evaluate.predict_logits(model, tiny_split).log_softmax(1))


def test_measuring_leaves_the_model_in_its_mode_and_its_statistics_alone(tiny_split):
    network = cnnzoo.create_model("lenet_tiny").train()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    evaluate.evaluate(network, tiny_split)
    cnnzoo.predict(network, tiny_split.images[0])
    assert network.training
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())


def test_what_is_no_split_is_refused_with_how_to_make_one(model):
    for stranger in ("test", (1, 2), [torch.zeros(1, 28, 28)]):
        for measured in (evaluate.evaluate, evaluate.predict_logits):
            with pytest.raises(InputError, match=f"A {type(stranger).__name__} was given as a split"):
                measured(model, stranger)


def test_an_empty_split_and_a_batch_of_none_are_refused(model, tiny_split):
    with pytest.raises(InputError, match="at least one"):
        evaluate.predict_logits(model, tiny_split[:0])
    with pytest.raises(InputError, match="batch_size=0 was given"):
        evaluate.evaluate(model, tiny_split, batch_size=0)


def test_images_are_scaled_to_the_size_that_the_model_is_for(tiny_split):
    network = cnnzoo.create_model("regnetx32_d2l")
    own, named = (evaluate.predict_logits(network, tiny_split[:3], image_size=size) for size in (None, (96, 96)))
    assert torch.equal(own, named)


def test_a_model_that_knows_its_classes_gets_images_by_the_mean_and_std_of_its_weights(model, tiny_split):
    foreign = replace(tiny_split, info=replace(tiny_split.info, mean=(0.1,), std=(0.15,)))
    assert evaluate.evaluate(model, foreign) == evaluate.evaluate(model, tiny_split)
    untrained = cnnzoo.create_model("lenet_tiny")
    assert evaluate.evaluate(untrained, foreign) != evaluate.evaluate(untrained, tiny_split)


def test_a_model_of_another_number_of_classes_is_refused(tiny_split):
    with pytest.raises(InputError, match="10 classes, but the model has 5"):
        evaluate.evaluate(cnnzoo.create_model("timm:test_resnet", num_classes=5), tiny_split)


@pytest.mark.data
@pytest.mark.parametrize("name", ["lenet_tiny.fashion_mnist", "lenet_d2l.textbook_fashion_mnist"])
def test_eval_gives_the_number_on_the_card(name, fashion_mnist_dir):
    result = CliRunner().invoke(main, ["eval", name, "--data-dir", str(fashion_mnist_dir), "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)["top1"]
    assert found == pytest.approx(checkpoints.metrics(name)["top1"], abs=0.01)
    card = (checkpoints.folder(name) / "README.md").read_text(encoding="utf-8")
    assert float(re.search(r"top-1 accuracy \| ([\d.]+) %", card)[1]) == pytest.approx(found, abs=0.015)  # two digits


@pytest.mark.data
@pytest.mark.parametrize("name", each(checkpoints.names()))
def test_every_bundled_checkpoint_gives_its_number_to_0_01_and_its_temperature_calibrates(name, fashion_mnist_dir):
    model = cnnzoo.create_model(name, pretrained=True)
    split = cnnzoo.load_split(split="test", data_dir=fashion_mnist_dir)
    logits = evaluate.predict_logits(model, split, image_size=model.pretrained_cfg["input_size"][1:])
    before, after = evaluate.measure(logits, split.labels), evaluate.measure(logits / model.temperature, split.labels)
    metrics = checkpoints.metrics(name)
    assert before.top1 == pytest.approx(metrics["top1"], abs=0.0101)  # one image: machines round differently
    assert before.ece == pytest.approx(metrics["ece"], abs=0.05)
    assert after.top1 == before.top1
    if model.temperature != 1:
        assert after.ece < before.ece and after.loss < before.loss
        assert after.ece == pytest.approx(metrics["ece_calibrated"], abs=0.05)


# -- predict -------------------------------------------------------------------------------------------------------------


def test_one_image_gives_one_answer_and_a_list_a_list(model, tiny_split):
    image = tiny_split.images[0]
    one = cnnzoo.predict(model, image, topk=3)
    assert len(one) == 3
    for other in cnnzoo.predict(model, [image, image], topk=3):
        assert [label for label, _ in other] == [label for label, _ in one]
        assert [p for _, p in other] == pytest.approx([p for _, p in one], abs=1e-5)
    probabilities = [p for _, p in one]
    assert probabilities == sorted(probabilities, reverse=True)
    assert {label for label, _ in cnnzoo.predict(model, image, topk=10)} == set(tiny_split.info.labels)
    assert sum(p for _, p in cnnzoo.predict(model, image, topk=10)) == pytest.approx(1, abs=1e-5)


def test_path_pil_array_and_tensor_of_one_image_get_one_answer(model, tiny_split, tmp_path):
    array = tiny_split.images[0, 0].numpy()
    Image.fromarray(array).save(tmp_path / "image.png")
    sources = [
        str(tmp_path / "image.png"), tmp_path / "image.png", Image.fromarray(array), array, array[None], array[..., None],
        tiny_split.images[0], torch.from_numpy(array), array / 255.0, Image.fromarray(array).convert("RGB"),
    ]  # fmt: skip
    answers = cnnzoo.predict(model, sources, topk=2)
    for answer in answers[1:]:
        assert [label for label, _ in answer] == [label for label, _ in answers[0]]
        assert [p for _, p in answer] == pytest.approx([p for _, p in answers[0]], abs=1e-4)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ([], "empty list"),
        (np.full((28, 28), np.nan), "NaN"),
        (torch.full((1, 28, 28), float("inf")), "NaN or infinite"),
        (np.zeros((28, 28), dtype=np.int64), "uint8"),
        (np.zeros((28, 28)) - 1, "allowed is 0 to 1"),
        (np.zeros((2, 1, 28, 28, 1), dtype=np.uint8), "list"),
        (np.zeros((0, 28), dtype=np.uint8), "no pixels"),
        (np.zeros((5, 28, 28), dtype=np.uint8), "1 or 3"),
        (12, "int"),
        ("no/such/file.png", "no/such/file.png"),
        (Image.new("L", (30_000, 2)), "30000x2"),
        (Image.new("L", (2, 30_000)), "2x30000"),
    ],
)
def test_what_is_no_image_is_refused(model, images, words):
    with pytest.raises(InputError, match=words):
        cnnzoo.predict(model, images)


@pytest.mark.parametrize("size", [(50, 50), (30_000, 2)], ids=["only background", "too elongated"])
def test_of_many_images_the_bad_one_is_named(model, tiny_split, tmp_path, size):
    good, bad = tiny_split.images[0], Image.new("RGB", size, "white")
    bad.save(tmp_path / "bad.png")
    for source, name in ((tmp_path / "bad.png", str(tmp_path / "bad.png")), (bad, "Image 2 of 3")):
        with pytest.raises(InputError, match=f"^{re.escape(name)}: "):
            cnnzoo.predict(model, [good, source, good])
    with pytest.raises(InputError, match="^no/such.png does not exist"):  # which has its path already
        cnnzoo.predict(model, [good, "no/such.png"])
    with pytest.raises(InputError, match="^(The photo|An image)"):
        cnnzoo.predict(model, bad)


@pytest.mark.parametrize("topk", [0, 11, -1])
def test_more_answers_than_classes_are_refused(model, tiny_split, topk):
    with pytest.raises(InputError, match="1 to 10"):
        cnnzoo.predict(model, tiny_split.images[0], topk=topk)


def test_a_model_without_labels_answers_with_class_indices(tiny_split):
    five = cnnzoo.create_model("resnext_small", pretrained=True, num_classes=5)
    assert cnnzoo.predict(five, tiny_split.images[0])[0][0] in set("01234")


@pytest.mark.data
def test_real_images_get_their_own_labels(model, fashion_mnist_dir):
    split = data.load_split("fashion_mnist", "test", data_dir=fashion_mnist_dir)
    answers = cnnzoo.predict(model, list(split.images[:100]))
    right = sum(best[0][0] == split.info.labels[i] for best, i in zip(answers, split.labels[:100].tolist(), strict=True))
    assert right >= 90


# -- calibration ---------------------------------------------------------------------------------------------------------


def test_probabilities_are_those_of_the_checkpoints_temperature():
    model = cnnzoo.create_model("resnext_small", pretrained=True).eval()
    assert model.temperature == checkpoints.metrics("resnext_small.fashion_mnist")["temperature"] != 1
    image = garments()["Shirt"]
    with torch.inference_mode():
        logits = model(cnnzoo.create_transform(model)(image)[None])[0]
    assert cnnzoo.predict(model, image)[0][1] == pytest.approx(
        (logits / model.temperature).softmax(0).max().item(), abs=1e-6
    )


def test_a_model_that_is_not_the_checkpoints_has_no_temperature():
    assert cnnzoo.create_model("resnext_small").temperature == 1
    assert cnnzoo.create_model("resnext_small", pretrained=True, num_classes=5).temperature == 1
    model = cnnzoo.create_model("resnext_small", pretrained=True, in_chans=3)
    assert model.temperature != 1  # the same logits on gray images
    model.reset_classifier(10)
    assert model.temperature == 1


# -- whose classes are whose ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [("A", "B", "a", "b"), ("C", "C++"), ("10", "1.0"), ("A/b", "A")])
def test_each_class_finds_itself_among_labels_that_differ_in_case_or_punctuation(labels, tiny_split):
    for order in (labels, labels[::-1]):
        assert [evaluate.class_index(name, order) for name in labels] == [order.index(name) for name in labels]
    model = cnnzoo.create_model("lenet_tiny", num_classes=len(labels))
    model.labels = labels
    two = replace(tiny_split, labels=tiny_split.labels % 2, info=replace(tiny_split.info, labels=labels[-2:]))
    m = evaluate.evaluate(model, two)
    last = [int(n) for n in two.labels.bincount()]
    assert [sum(row) for row in m.confusion] == [0] * (len(labels) - 2) + last


def test_a_class_in_another_spelling_is_found_unless_several_labels_would_do():
    assert [evaluate.class_index(n, ("Ankle boot", "T-shirt/top")) for n in ("ankle_boot", "tshirt")] == [0, 1]
    assert evaluate.class_index("c", ("C", "C++")) is None


def test_two_classes_that_are_one_to_the_model_are_refused(tiny_split):
    model = cnnzoo.create_model("lenet_tiny", num_classes=2)
    model.labels = ("cat", "dog")
    split = replace(tiny_split, info=replace(tiny_split.info, labels=("cat", "Dog", "dog")))
    with pytest.raises(InputError, match="classes Dog, dog, and all of them mean dog.*Rename the others"):
        evaluate.evaluate(model, split)
