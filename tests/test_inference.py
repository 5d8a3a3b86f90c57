"""A model in use: never changed by it, with names that its weights earned, and one reader for all images."""

import copy
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import cnnzoo
from cnnzoo import evaluate, plots
from cnnzoo.data import Split
from cnnzoo.datasets import FASHION_MNIST
from cnnzoo.drawings import garments
from cnnzoo.errors import CheckpointError, CnnzooError, InputError
from cnnzoo.inference import evaluation_copy

IMAGE = np.random.default_rng(0).integers(0, 255, (28, 28), dtype=np.uint8)
IMAGE[0] = IMAGE[-1] = 0  # in format


def pretrained() -> nn.Module:
    return cnnzoo.create_model("resnext_small", pretrained=True)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return pretrained()


# -- running it ----------------------------------------------------------------------------------------------------------


def test_eight_threads_get_the_right_answers_from_a_model_in_training_mode_and_leave_it_as_it_was():
    model = pretrained()
    assert model.training
    before = {k: v.clone() for k, v in model.state_dict().items()}
    images = list(garments().values())
    expected = cnnzoo.predict(model.eval(), images, topk=10)
    model.train()
    start = threading.Barrier(8)

    def work(_: int) -> list:
        start.wait()
        return [cnnzoo.predict(model, images, topk=10) for _ in range(5)]

    with ThreadPoolExecutor(8) as pool:
        for answers in pool.map(work, range(8)):
            assert all(answer == expected for answer in answers)
    assert all(m.training for m in model.modules())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_the_evaluation_copy_shares_the_weights_and_nothing_that_is_put_on_it():
    model = pretrained()
    copy = evaluation_copy(model)
    assert model.training and not any(m.training for m in copy.modules())
    assert all(a is b for a, b in zip(model.parameters(), copy.parameters(), strict=True))
    copy.stem.register_forward_hook(lambda *args: None)
    assert not model.stem._forward_hooks


def test_models_of_every_number_format_are_measured_in_it(tiny_split):
    expected = evaluate.predict_logits(pretrained(), tiny_split)
    for dtype, tolerance in ((torch.float64, 1e-3), (torch.bfloat16, 0.5), (torch.float16, 0.1)):
        found = evaluate.predict_logits(pretrained().to(dtype), tiny_split)
        assert (found - expected).abs().max() < tolerance


def test_a_model_wrapped_for_parallel_training_answers_as_the_one_inside(model):
    assert cnnzoo.predict(nn.DataParallel(model), IMAGE) == cnnzoo.predict(model, IMAGE)


# Each looks at a model in its own way; what no answer can come from is refused by all of them in the same words.
LOOKS = dict(
    grad_cam=lambda m: plots.grad_cam(m, IMAGE),
    feature_maps=lambda m: plots.feature_maps(m, IMAGE),
    filters=plots.filters,
    answer=lambda m: plots.answer(m, IMAGE),
    export=lambda m: cnnzoo.export(m, "never.onnx"),
    evaluate=lambda m: evaluate.evaluate(
        m, Split(torch.zeros(2, 1, 28, 28, dtype=torch.uint8), torch.zeros(2).long(), FASHION_MNIST)
    ),
)


def axes_of(figure) -> list:
    return [[np.asarray(picture.get_array()) for picture in axes.images] for axes in figure.axes]


def test_pixels_that_are_not_normalised_yet_are_refused_with_how_to_do_it():
    for model in (cnnzoo.create_model("lenet_tiny"), torch.jit.script(cnnzoo.create_model("resnet_tiny"))):
        with pytest.raises(Exception, match=r"Whole numbers .* cnnzoo.data.normalize\(images, mean, std\)"):
            model(torch.zeros(1, 1, 28, 28, dtype=torch.uint8))


@pytest.mark.parametrize("look", ["grad_cam", "feature_maps", "filters"])
@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda m: nn.DataParallel(nn.DataParallel(m)), torch.compile])
def test_a_wrapped_model_looks_as_the_one_inside(model, look, wrap):
    for found, expected in zip(axes_of(LOOKS[look](wrap(model))), axes_of(LOOKS[look](model)), strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("look", LOOKS)
def test_every_look_refuses_what_has_no_weights_in_the_same_words(look, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="A model on the meta device was given, which has no weights"):
        LOOKS[look](cnnzoo.create_model("lenet_tiny", device="meta"))
    with pytest.raises(InputError, match="A int was given as a model"):
        LOOKS[look](5)
    assert not os.listdir()


@pytest.mark.parametrize("look", LOOKS)
def test_every_look_refuses_weights_that_are_not_finite(look, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spoiled = cnnzoo.create_model("lenet_tiny")
    with torch.no_grad():
        next(spoiled.parameters()).fill_(float("nan"))
    with pytest.raises(CheckpointError, match="not finite"):
        LOOKS[look](spoiled)
    assert not os.listdir()


def test_grad_cam_and_feature_maps_say_what_they_need():
    for look in ("grad_cam", "feature_maps"):
        with pytest.raises(InputError, match="not a classifier"):
            LOOKS[look](cnnzoo.create_model("lenet_tiny", num_classes=0))
        with pytest.raises(InputError, match="no feature levels"):
            LOOKS[look](cnnzoo.create_model("lenet_tiny", features_only=True))


def test_grad_cam_of_a_frozen_model_is_that_of_any_other(model):
    frozen = copy.deepcopy(model).requires_grad_(False)
    for found, expected in zip(axes_of(LOOKS["grad_cam"](frozen)), axes_of(LOOKS["grad_cam"](model)), strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_traced_model_in_training_mode_is_measured_in_evaluation_mode_and_left_as_it_was(tiny_split):
    small = cnnzoo.create_model("resnet_tiny", pretrained=True).eval()
    expected = evaluate.predict_logits(small, tiny_split)
    traced = torch.jit.trace(small, torch.zeros(1, 1, 28, 28)).train()
    torch.testing.assert_close(evaluate.predict_logits(traced, tiny_split), expected, rtol=1e-4, atol=1e-4)
    assert traced.training


NO_CLASSIFIERS = {
    "features_only": (lambda: cnnzoo.create_model("lenet_tiny", features_only=True), "not a classifier"),
    "headless": (lambda: cnnzoo.create_model("lenet_tiny", num_classes=0), "not a classifier"),
    "meta": (lambda: cnnzoo.create_model("lenet_tiny", device="meta"), "meta device"),
    "a number": (lambda: 5, "int was given as a model"),
}


@pytest.mark.parametrize("kind", NO_CLASSIFIERS)
def test_what_is_no_classifier_is_refused(kind):
    make, words = NO_CLASSIFIERS[kind]
    with pytest.raises(InputError, match=words):
        cnnzoo.predict(make(), IMAGE)


def test_a_model_may_be_given_by_its_name(model):
    assert cnnzoo.predict("lenet_tiny.fashion_mnist", IMAGE) == cnnzoo.predict(
        cnnzoo.create_model("lenet_tiny.fashion_mnist", pretrained=True), IMAGE
    )


def test_photos_are_answered_by_the_model_for_photos_and_the_rest_by_the_usual_one(model):
    special = cnnzoo.create_model("lenet_d2l.fashion_mnist", pretrained=True)
    photo = Image.fromarray(np.full((60, 50), 240, np.uint8))
    photo.paste(90, (15, 10, 35, 50))
    usual, of_photo = cnnzoo.predict(model, [IMAGE, photo], 10, photo_model=special)
    assert (usual.photo, of_photo.photo) == (False, True)
    assert usual == cnnzoo.predict(model, IMAGE, 10)
    assert of_photo == cnnzoo.predict(special, photo, 10) != cnnzoo.predict(model, photo, 10)


def test_models_of_other_classes_do_not_answer_together(model):
    with pytest.raises(InputError, match="different classes or channels"):
        cnnzoo.predict(model, IMAGE, photo_model=cnnzoo.create_model("lenet_tiny", num_classes=3))


@pytest.mark.parametrize("topk", [2.5, "1", None, True, 0, 11])
def test_topk_is_a_whole_number_of_classes(model, topk):
    with pytest.raises(InputError, match="1 to 10"):
        cnnzoo.predict(model, IMAGE, topk=topk)


def test_an_array_of_several_images_gets_the_answers_of_a_list_of_them():
    images = [np.asarray(image) for image in garments().values()]
    model, expected = pretrained(), cnnzoo.predict(pretrained(), images)
    batch = np.stack(images)
    for several in (batch[:, None], batch[..., None], torch.from_numpy(batch)[:, None]):
        assert cnnzoo.predict(model, several) == expected
    with pytest.raises(InputError, match="empty"):
        cnnzoo.predict(model, batch[:0, None])


def test_a_model_that_does_not_say_what_images_it_takes_is_refused():
    own = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    for use in (cnnzoo.create_transform, lambda m: cnnzoo.predict(m, IMAGE), lambda m: cnnzoo.export(m, "model.pt2")):
        with pytest.raises(InputError, match="does not say what images it takes.*pretrained_cfg = dict"):
            use(own)
    own.num_classes, own.pretrained_cfg = 10, dict(input_size=(1, 28, 28), mean=(0.286,), std=(0.353,))
    assert len(cnnzoo.predict(own, IMAGE, topk=10)) == 10


def test_nan_never_gives_a_label(tiny_split):
    spoiled = pretrained()
    with torch.no_grad():
        spoiled.stem[0].conv.weight[0] = float("nan")
    for use in (lambda: cnnzoo.predict(spoiled, IMAGE), lambda: evaluate.evaluate(spoiled, tiny_split)):
        with pytest.raises(CheckpointError, match="not finite"):
            use()
    cold = cnnzoo.create_model("timm:test_resnet", num_classes=10, in_chans=1)
    cold.temperature = 0
    with pytest.raises(CheckpointError, match="temperature is 0"):
        cnnzoo.predict(cold, IMAGE)


# -- scripts and classes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnext_small", "lenet_tiny", "convnext28_tiny"])
def test_pretrained_models_are_scripted_too(name):
    model = cnnzoo.create_model(name, pretrained=True).eval()
    x = torch.rand(2, 1, 28, 28)
    with torch.inference_mode():
        torch.testing.assert_close(torch.jit.script(model)(x), model(x))


def test_measuring_on_other_classes_says_so(model, tiny_split):
    other = Split(tiny_split.images, tiny_split.labels, replace_labels(tiny_split, tuple("abcdefghij")))
    with pytest.raises(InputError, match="does not know: a, b.*It knows T-shirt/top"):
        evaluate.evaluate(model, other)


def test_the_same_classes_in_another_order_and_spelling_are_the_same(model, tiny_split):
    names = tuple(reversed([name.lower().replace(" ", "_") for name in tiny_split.info.labels]))
    turned = Split(tiny_split.images, 9 - tiny_split.labels, replace_labels(tiny_split, names))
    assert evaluate.evaluate(model, turned) == evaluate.evaluate(model, tiny_split)


def replace_labels(split: Split, names: tuple[str, ...]):
    from dataclasses import replace

    return replace(split.info, labels=names)


# -- images --------------------------------------------------------------------------------------------------------------


def test_the_camera_orientation_is_obeyed_in_an_open_image_as_in_its_file(model, tmp_path):
    photo = garments()["Ankle boot"].resize((200, 200)).rotate(90)
    exif = photo.getexif()
    exif[0x0112] = 6
    photo.save(tmp_path / "photo.jpg", exif=exif)
    with Image.open(tmp_path / "photo.jpg") as opened:
        assert cnnzoo.predict(model, opened) == cnnzoo.predict(model, tmp_path / "photo.jpg")


def truncated(folder) -> Image.Image:
    path = folder / "cut.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 90, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:9_000])
    return Image.open(path)


def closed(folder) -> Image.Image:
    path = folder / "closed.png"
    Image.new("L", (28, 28)).save(path)
    image = Image.open(path)
    image.close()
    return image


def pipe(folder) -> str:
    os.mkfifo(folder / "pipe.png")
    return str(folder / "pipe.png")


BAD_IMAGES = {
    "a pipe": (pipe, "pipe or a device"),
    "cut off": (truncated, "cannot be read as an image"),
    "closed": (closed, "cannot be read as an image"),
    "bytes": (lambda folder: memoryview(IMAGE), "memoryview was given as an image"),
    "a name too long": (lambda folder: "x" * 300, "cannot be opened"),
    "a null byte": (lambda folder: "a\0b", "cannot be opened"),
    "nobody's home": (lambda folder: "~nosuchuser/photo.png", "cannot be opened"),
    "float beyond 1": (
        lambda folder: Image.fromarray(np.full((28, 28), 2.5, np.float32)),
        "2.5 was given; allowed is 0 to 1",
    ),
    "negative": (lambda folder: Image.fromarray(np.full((28, 28), -5, np.int32)), "-5 .*allowed is 0 to 255"),
    "three or one": (lambda folder: np.zeros((3, 28, 28), np.uint8), "three images, or one image of three channels"),
    "meta": (lambda folder: torch.zeros(28, 28, device="meta"), "meta tensor"),
    "sparse": (lambda folder: torch.zeros(28, 28).to_sparse(), "sparse tensor"),
    "quantised": (lambda folder: torch.quantize_per_tensor(torch.zeros(28, 28), 1.0, 0, torch.quint8), "quantised tensor"),
    "complex": (lambda folder: torch.zeros(28, 28, dtype=torch.complex64), "complex64"),
    "masked": (lambda folder: np.ma.masked_less(IMAGE, 9), "masked"),
}


@pytest.mark.parametrize("kind", BAD_IMAGES)
def test_what_cannot_be_read_is_refused(model, tmp_path, kind):
    make, words = BAD_IMAGES[kind]
    with pytest.raises(InputError, match=words):
        cnnzoo.predict(model, make(tmp_path))


def test_a_tensor_of_bfloat16_is_an_image(model):
    image = torch.from_numpy(IMAGE).float() / 255
    assert cnnzoo.predict(model, image.bfloat16())[0][0] == cnnzoo.predict(model, image)[0][0]


@pytest.mark.parametrize(
    "draw", [lambda m: plots.feature_maps(m, IMAGE, 1_000_000), lambda m: plots.feature_maps(m, IMAGE, 0)]
)
def test_more_pictures_than_can_be_told_apart_are_refused(model, draw):
    with pytest.raises(CnnzooError, match="allowed is 1 to 32"):
        draw(model)


# -- what a model is built with ------------------------------------------------------------------------------------------

BAD_ARGUMENTS = (
    dict(in_chans=-1), dict(in_chans=0), dict(num_classes=1.5), dict(num_classes=-1), dict(num_classes=float("nan")),
    dict(drop_rate=1.5), dict(drop_rate="much"), dict(global_pool="foo"), dict(drop_path_rate=-0.1),
    dict(features_only=True, out_indices=()), dict(features_only=True, out_indices=(0, 0)),
)  # fmt: skip


@pytest.mark.parametrize("given", BAD_ARGUMENTS, ids=str)
def test_what_no_model_can_be_built_with_is_refused(given):
    with pytest.raises(CnnzooError, match="given|global_pool"):
        cnnzoo.create_model("resnet_tiny", device="meta", **given)


@pytest.mark.parametrize("levels", [[1.5], (0, 0), (0, -3), []])
def test_feature_levels_are_whole_numbers_and_none_is_asked_for_twice(levels):
    model = cnnzoo.create_model("resnet_tiny")
    count = len(model.feature_info)
    levels = [-count if i == -3 else i for i in levels]
    with pytest.raises(CnnzooError, match="Feature levels"):
        model.forward_intermediates(torch.zeros(2, 1, 28, 28), levels)
    with pytest.raises(CnnzooError, match="num_classes=-1"):
        model.reset_classifier(-1)
