"""An 8-bit ONNX file stays in 8 bits where that is fast."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

import cnnzoo
from cnnzoo import data, datasets
from cnnzoo.errors import ExportError
from cnnzoo.exporting import _equalize, _export, _int8, _pipeline, _verify, load_exported

FP32 = {"Conv", "MaxPool", "Relu", "Add", "Gemm", "FusedGemm"}  # an optimised graph has these only where 8 bits were left
IMAGES = torch.randint(0, 256, (32, 1, 28, 28), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def exported(name: str, folder: Path) -> Path:
    return cnnzoo.export(cnnzoo.create_model(name).eval(), folder / f"{name}.onnx")


def optimised(proto: onnx.ModelProto, folder: Path) -> list[str]:
    """The operators that ONNX Runtime runs, in order."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node]


@pytest.mark.parametrize(
    ("name", "in_fp32"), [("lenet_tiny", ["Conv", "MaxPool"]), ("vgg_tiny", ["Conv"]), ("resnet_tiny", ["Conv"])]
)
def test_only_the_first_convolution_of_gray_images_and_its_pooling_are_in_fp32(name, in_fp32, tmp_path):
    proto = onnx.load(exported(name, tmp_path))
    quantised = _int8.int8(proto, IMAGES, tmp_path / "scratch.onnx")
    assert [kind for kind in optimised(quantised, tmp_path) if kind in FP32 - {"Relu"}] == in_fp32


def test_another_order_of_pooling_and_activation_is_the_same_network(tmp_path):
    for name in ("lenet_tiny", "vgg_tiny"):
        path = exported(name, tmp_path)
        proto = onnx.load(path)
        before = [node.op_type for node in proto.graph.node]
        _int8.arranged(proto)
        assert [node.op_type for node in proto.graph.node] != before
        session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
        logits = session.run(None, {"images": IMAGES.numpy()})[0]
        np.testing.assert_allclose(logits, load_exported(path).run(IMAGES.numpy())[0], atol=1e-5)


@pytest.mark.parametrize("name", ["lenet_tiny", "repvgg_tiny", "resnext_tiny", "mobilenet_tiny", "densenet_tiny"])
def test_channels_of_equal_weight_give_the_same_answers(name, tmp_path):
    path = exported(name, tmp_path)
    proto = onnx.load(path)
    _equalize.equalize(proto, IMAGES)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    logits = session.run(None, {"images": IMAGES.numpy()})[0]
    before = {weight.name: weight.raw_data for weight in onnx.load(path).graph.initializer}
    assert any(before[weight.name] != weight.raw_data for weight in proto.graph.initializer)
    np.testing.assert_allclose(logits, load_exported(path).run(IMAGES.numpy())[0], atol=1e-5)


def test_a_network_without_such_channels_is_quantised_as_it_is(tmp_path):
    path = exported("convnext28_tiny", tmp_path)
    proto = onnx.load(path)
    _equalize.equalize(proto, IMAGES)
    assert proto.SerializeToString() == onnx.load(path).SerializeToString()
    assert _int8.int8(proto, IMAGES, tmp_path / "scratch.onnx").graph.node


def error_in_8_bits(model, images, folder):
    torch.onnx.export(model, (images,), folder / "model.onnx", input_names=["images"], dynamo=True, verbose=False)
    quantised = _int8.int8(onnx.load(folder / "model.onnx"), images, folder / "scratch.onnx")
    session = onnxruntime.InferenceSession(quantised.SerializeToString(), providers=["CPUExecutionProvider"])
    logits = session.run(None, {"images": images.numpy()})[0]
    return np.square(logits - model(images).detach().numpy()).mean() ** 0.5


def test_channels_of_very_different_sizes_are_as_exact_in_8_bits_as_equal_ones(tmp_path, monkeypatch):
    torch.manual_seed(0)
    first, second = torch.nn.Conv2d(1, 16, 3), torch.nn.Conv2d(16, 10, 3)
    model = torch.nn.Sequential(first, torch.nn.ReLU(), second, torch.nn.Flatten()).eval()
    images = torch.rand(64, 1, 5, 5)
    equal = error_in_8_bits(model, images, tmp_path)
    sizes = torch.logspace(-1, 1, 16)
    with torch.no_grad():  # each channel says as much as before
        first.weight.mul_(sizes.view(-1, 1, 1, 1))
        first.bias.mul_(sizes)
        second.weight.div_(sizes.view(1, -1, 1, 1))
    assert error_in_8_bits(model, images, tmp_path) < 1.5 * equal
    monkeypatch.setattr(_int8, "equalize", lambda proto, calibration: None)
    assert error_in_8_bits(model, images, tmp_path) > 3 * equal


@pytest.mark.parametrize(("name", "side"), [("resnet_tiny", 28), ("regnetx32_d2l", 96)])
def test_images_to_calibrate_on_and_to_check_with_have_the_size_that_the_model_is_for(name, side):
    pipeline = _pipeline.make_pipeline(cnnzoo.create_model(name).eval(), torch.float32, True)
    images = _verify.sized(IMAGES, pipeline)
    assert images.dtype == torch.uint8 and images.shape == (32, 1, side, side)
    assert (images is IMAGES) == (side == 28)


def test_pictures_to_check_with_have_the_colours_and_details_that_the_model_sees(tmp_path):
    for label, colour in dict(red=(255, 0, 0), blue=(0, 0, 255)).items():
        for i in range(10):
            (tmp_path / label).mkdir(exist_ok=True)
            Image.new("RGB", (64, 64), colour).save(tmp_path / label / f"{i}.png")
    model = cnnzoo.create_model("resnet_tiny", in_chans=3, num_classes=2).eval()
    model.pretrained_cfg["input_size"] = (3, 48, 48)
    pipeline = _pipeline.make_pipeline(model, torch.float32, True)
    split = _export._images(pipeline, "train", dict(dataset="folder", data_dir=tmp_path, skip_broken=False))
    assert split.images.shape == (16, 3, 48, 48)
    assert split.images[:, 1].max() == 0 and split.images[:, 0].max() == 255


def test_a_file_may_be_better_than_its_model_but_not_worse_by_more_than_one_of_a_few_images(tmp_path):
    one, other = (cnnzoo.create_model("lenet_tiny").eval() for _ in range(2))
    made, theirs = (cnnzoo.export(m, tmp_path / f"{name}.onnx") for m, name in ((one, "one"), (other, "other")))
    answers = [cnnzoo.load_exported(path).run(IMAGES.numpy())[0].argmax(1) for path in (made, theirs)]
    differ = (answers[0] != answers[1]).nonzero()[0]
    neither = next(c for c in range(10) if c not in np.concatenate(answers))
    info = datasets.get_dataset_info("fashion_mnist")

    def compare(labels):
        _verify.compare(made, other, True, data.Split(IMAGES, torch.from_numpy(labels), info), "int8", tmp_path)

    def model_is_right_alone(count):
        labels = np.full(len(IMAGES), neither)
        labels[differ[:count]] = answers[1][differ[:count]]
        return labels

    compare(answers[0])
    compare(model_is_right_alone(1))
    with pytest.raises(ExportError, match="on 32 test images is 6.25 points below the model's; allowed is 3.12"):
        compare(model_is_right_alone(2))
