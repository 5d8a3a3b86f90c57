"""Which images an exported file takes, and on which its accuracy is checked: those of the model that it was made of."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn
from torch.nn.utils import prune

import cnnzoo
from cnnzoo import data
from cnnzoo.datasets import FASHION_MNIST
from cnnzoo.drawings import garments
from cnnzoo.errors import CnnzooError, InputError


def test_a_model_of_timms_for_gray_images_exports_and_scales_them_as_predict_does(tmp_path):
    model = timm.create_model("test_resnet", in_chans=1, num_classes=3).eval()
    exported = cnnzoo.load_exported(cnnzoo.export(model, tmp_path / "made.onnx"))
    bicubic = timm.create_model("mobilenetv3_small_050", num_classes=3).eval()
    assert bicubic.pretrained_cfg["interpolation"] == "bicubic"
    wide = np.random.default_rng(0).integers(0, 256, (80, 120, 3), np.uint8)
    for network, file in ((model, exported), (bicubic, None)):
        file = file or cnnzoo.load_exported(cnnzoo.export(network, tmp_path / "other.onnx"))
        picture = Image.fromarray(wide)
        (label, probability), *_ = cnnzoo.predict(network, picture, photo="never")
        labels, found = file(picture)
        assert labels == [label] and found.max() == pytest.approx(probability, abs=1e-5)


@pytest.mark.parametrize("name", ["lenet_tiny", "resnet_tiny"])  # the second takes any size, but does well at one
def test_arrays_of_other_sizes_are_scaled_as_predict_does(name, tmp_path):
    model = cnnzoo.create_model(name, pretrained=True)
    file = cnnzoo.load_exported(cnnzoo.export(name, tmp_path / "made.onnx"))
    large = [np.array(g.resize((90, 60))) for g in garments().values()]
    colour = np.stack([np.stack([x] * 3, 2) for x in large])  # (B, H, W, 3)
    wanted = [best[0] for best in cnnzoo.predict(model, large, photo="never")]
    mixed = [*large[:5], *map(torch.from_numpy, large[5:])]
    for images in (np.stack(large), np.stack(large)[:, None], large, mixed, colour):
        labels, probabilities = file(images)
        assert labels == [label for label, _ in wanted]
        assert probabilities.max(1) == pytest.approx([p for _, p in wanted], abs=1e-4)
    for image in (large[0], large[0][None], colour[0]):
        assert file(image)[0] == labels[:1]
    with pytest.raises(InputError, match=r"\(10, 3, 60, 90\) was given; the file takes"):
        file(colour.transpose(0, 3, 1, 2))
    for side in (27, 28, 60):  # one image with an axis for its one channel
        image = np.full((side, side, 1), 100, np.uint8)
        assert file(image)[0] == [cnnzoo.predict(model, image, photo="never")[0][0]]
    if name == "resnet_tiny":  # whose raw outputs can be had at other sizes
        assert np.abs(file.run(np.stack(large))[1] - probabilities).max() > 0.01
    else:
        with pytest.raises(InputError, match=r"\(10, 1, 60, 90\) was given; the file takes \(B, 1, 28, 28\)"):
            file.run(np.stack(large))


def test_files_for_colours_take_arrays_as_predict_does(tmp_path):
    model = cnnzoo.create_model("lenet_tiny", in_chans=3).eval()
    file = cnnzoo.load_exported(cnnzoo.export(model, tmp_path / "made.onnx"))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 28, 28, 3), np.uint8)
    wanted = [best[0] for best in cnnzoo.predict(model, list(pixels))]
    for images in (pixels, pixels.transpose(0, 3, 1, 2), list(pixels), list(pixels.transpose(0, 3, 1, 2))):
        labels, probabilities = file(images)
        assert labels == [label for label, _ in wanted]
        assert probabilities.max(1) == pytest.approx([p for _, p in wanted], abs=1e-4)
    for image in (pixels[0], pixels[0].transpose(2, 0, 1)):
        assert file(image)[1] == pytest.approx(probabilities[:1], abs=1e-4)
    assert file(pixels[0, :, :, 0])[1].shape == (1, 10) and file(pixels[..., 0])[1].shape == (2, 10)


def test_lists_of_pictures_and_arrays_are_read_as_predict_reads_them(tmp_path):
    file = cnnzoo.load_exported(cnnzoo.export("lenet_tiny", tmp_path / "made.onnx"))
    bag, shirt = garments()["Bag"], np.asarray(garments()["Shirt"])
    palette = bag.convert("RGB").quantize(16)
    labels, _ = file([np.asarray(bag), palette, torch.from_numpy(shirt)])
    assert labels == ["Bag", "Bag", "Shirt"]
    assert file([shirt, shirt[:, :20]])[0][0] == "Shirt"
    with pytest.raises(InputError, match="cannot be made one array"):
        file.run([shirt, shirt[:20]])
    with pytest.raises(InputError, match="nowhere.png does not exist"):
        file([bag, tmp_path / "nowhere.png"])
    with pytest.raises(InputError, match="Image 2 of 2: "):
        file([bag, Image.new("L", (1000, 1))])
    with pytest.raises(InputError, match="An array of type float32"):
        file(torch.rand(2, 1, 28, 28, requires_grad=True))


def test_small_types_of_models_of_other_classes_are_not_checked_on_garments(tmp_path, monkeypatch):
    garment = load_split_of(monkeypatch)
    two = timm.create_model("lenet_tiny", pretrained=True, num_classes=2)
    with pytest.raises(InputError, match="has 10 classes, but the model has 2"):
        cnnzoo.export(two, tmp_path / "two.onnx", quantize="int8")
    assert not list(tmp_path.iterdir()) and garment == ["test"]
    with pytest.raises(CnnzooError, match="ONNX Runtime cannot run such files"):
        cnnzoo.export("lenet_tiny", tmp_path / "made.onnx", dtype="bf16")


def load_split_of(monkeypatch) -> list[str]:
    """Puts drawings in the place of Fashion-MNIST; the splits that are read are noted."""
    read = []

    def split(dataset, part, **_):
        read.append(part)
        images = torch.from_numpy(np.stack([np.asarray(image) for image in garments().values()]))[:, None]
        return data.Split(images, torch.arange(10), FASHION_MNIST)

    monkeypatch.setattr(data, "load_split", split)
    return read


def test_a_pruned_model_is_refused_with_what_to_do(tmp_path):
    model = cnnzoo.create_model("lenet_tiny", pretrained=True)
    prune.l1_unstructured(model.stem[0].conv, "weight", 0.5)
    with pytest.raises(InputError, match="prune.remove"):
        cnnzoo.export(model, tmp_path / "made.pt2")


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile])
def test_of_a_model_in_a_wrapper_the_model_inside_is_exported(wrap, tmp_path):
    model = cnnzoo.create_model("lenet_tiny", pretrained=True).eval()
    facts = [cnnzoo.load_exported(cnnzoo.export(m, tmp_path / "model.pt2")).facts for m in (model, wrap(model))]
    assert facts[0] == facts[1] and facts[0]["source"] == "lenet_tiny.fashion_mnist"


def test_a_small_type_without_preprocessing_is_checked_on_normalised_images(tmp_path, monkeypatch):
    load_split_of(monkeypatch)
    path = cnnzoo.export("lenet_tiny", tmp_path / "model.pt2", dtype="bf16", preprocess=False)
    model = cnnzoo.create_model("lenet_tiny", pretrained=True)
    x = torch.stack([cnnzoo.create_transform(model)(image) for image in garments().values()])
    wanted = [best[0][0] for best in cnnzoo.predict(model, list(garments().values()))]
    assert cnnzoo.load_exported(path)(x.numpy())[0] == wanted


def test_a_small_type_that_is_not_checked_needs_no_images(tmp_path):
    path = cnnzoo.export("lenet_tiny", tmp_path / "model.pt2", dtype="bf16", verify=False, data_dir=tmp_path)
    assert cnnzoo.load_exported(path)(np.zeros((28, 28), np.uint8))[1].shape == (1, 10)
