"""An 8-bit ONNX file stays in 8 bits where that is fast."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import cnnzoo
from cnnzoo.exporting import _int8, load_exported

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
