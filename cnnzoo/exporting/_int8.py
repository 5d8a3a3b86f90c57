"""An ONNX file's arithmetic in 8 bits, so arranged that ONNX Runtime stays in them."""

import contextlib
import logging
from pathlib import Path
from typing import Any

from torch import Tensor

from ._equalize import equalize, user

# Relu is among them, or each residual sum goes to fp32 and back: with it resnext_small is 2.3 times as fast as in fp32, else
# 1.8 times. Signed activations lose all of that on x86. Preprocessing and softmax stay in fp32; they cost nothing there.
_OPERATORS = ["Conv", "Gemm", "Add", "Relu", "MaxPool"]
_GRAY = 1  # channel of an image, of which ONNX Runtime's 8-bit convolution is slower than that in fp32


def int8(proto: Any, calibration: Tensor, scratch: Path) -> Any:
    """Static quantisation by ONNX Runtime: int8 weights per channel, uint8 activations, ranges from real images.

    Args:
        proto: The model in fp32; see `arranged` and `equalize` for what changes in it.
        calibration: uint8 images `(N, C, H, W)`.
        scratch: A file to write.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Images(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter(calibration.split(64))

        def get_next(self) -> dict | None:
            batch = next(self.batches, None)
            return None if batch is None else {"images": batch.numpy()}

    slow = arranged(proto)
    equalize(proto, calibration)
    with quiet("root"):
        quantize_static(
            proto, str(scratch), Images(), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, op_types_to_quantize=_OPERATORS,
            nodes_to_exclude=slow,
            reduce_range=True,  # weights of 7 bits: with 8, sums of products overflow on processors that lack VNNI
        )  # fmt: skip
    return onnx.load(str(scratch))


def arranged(proto: Any) -> list[str]:
    """Puts max pooling and ReLU, which may change places, into the order that is fast in 8 bits, in place.

    A ReLU directly behind a convolution is part of it, and a pooling behind the two is in 8 bits too. ReLU comes last behind
    the first convolution of gray images, which stays in fp32: ONNX Runtime gathers the windows of an 8-bit convolution
    pixel by pixel, of one channel byte by byte. The pooling is faster in fp32 then, and a ReLU behind it
    keeps it there.

    Returns:
        Names of the nodes that are to stay in fp32.
    """
    first = _first_of_gray(proto)
    slow = _followers(proto, first) if first is not None else []
    for node in list(proto.graph.node):
        behind = user(proto, node)
        if behind is None:
            continue
        early = {"MaxPool"} if node in slow else {"Relu"}
        if {node.op_type, behind.op_type} == {"MaxPool", "Relu"} and node.op_type not in early:
            _exchange(proto, node, behind)
    return [node.name for node in slow]


def _first_of_gray(proto: Any) -> Any:
    weights = {weight.name: weight.dims for weight in proto.graph.initializer}
    conv = next((node for node in proto.graph.node if node.op_type == "Conv"), None)
    if conv is None or conv.input[1] not in weights or weights[conv.input[1]][1] != _GRAY:  # dims (out, in, h, w)
        return None
    return conv


def _followers(proto: Any, conv: Any) -> list[Any]:
    """The convolution, and ReLU and max pooling behind it in any order."""
    nodes = [conv]
    while (behind := user(proto, nodes[-1])) is not None and behind.op_type in ("Relu", "MaxPool"):
        nodes.append(behind)
    return nodes


def _exchange(proto: Any, first: Any, second: Any) -> None:
    """Makes each of two successive nodes of one input the other; the tensors keep their places and names."""
    one, other = list(first.attribute), list(second.attribute)
    for what in ("op_type", "name"):
        former = getattr(first, what)
        setattr(first, what, getattr(second, what))
        setattr(second, what, former)
    for node, attributes in ((first, other), (second, one)):
        del node.attribute[:]
        node.attribute.extend(attributes)
    between = [value for value in proto.graph.value_info if value.name == first.output[0]]
    for value in between:  # its shape was the other's
        proto.graph.value_info.remove(value)


@contextlib.contextmanager
def quiet(name: str):
    """Inside the block, nothing below an error is logged by `name`."""
    logger = logging.getLogger(name)
    former = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(former)
