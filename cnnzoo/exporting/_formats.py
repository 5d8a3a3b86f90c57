"""Writers of the formats.

Each takes a pipeline, an example batch, the file, the facts that travel inside, and images to calibrate on.
"""

import contextlib
import copy
import io
import json
import os
import shutil
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import registry
from ..errors import CnnzooError
from ..inference import fast_copy
from ._int8 import int8, quiet
from ._pipeline import Pipeline

FACTS = "cnnzoo"
_AXES = ("batch", "channels", "height", "width")
_MAX_BATCH = 4096
_MAX_SIDE = 1024  # of images, where the model takes any size
_EXTRA = 'Type: pip install "cnnzoo[export]"'


def limits(pipeline: Pipeline) -> list[tuple[int, int]]:
    """Least and most images, channels, rows and columns that a file of the pipeline takes."""
    model = pipeline.model
    channels, height, width = pipeline.input_size
    rows, columns = (height, height), (width, width)
    if not getattr(model, "fixed_size", True):
        # From two pixels of the last feature map up: tracing would take a single one for a constant.
        rows, columns = ((2 * n, _MAX_SIDE) for n in model.min_size)
    return [(1, _MAX_BATCH), (channels, channels), rows, columns]


def _program(pipeline: Pipeline, example: Tensor) -> torch.export.ExportedProgram:
    dims = {}
    for axis, (name, (least, most)) in enumerate(zip(_AXES, limits(pipeline))):
        if least < most:
            dims[axis] = torch.export.Dim(name, min=least, max=most)
    if 2 in dims:  # traced at a size of its own per axis, so that the two are not taken for one
        h, w = max(example.shape[2], dims[2].min) + 4, max(example.shape[3], dims[3].min) + 8
        example = nn.functional.pad(example, (0, w - example.shape[3], 0, h - example.shape[2]))
    with torch.no_grad():
        return torch.export.export(pipeline, (example,), dynamic_shapes={"images": dims}, strict=False)


def torch_export(pipeline: Pipeline, example: Tensor, path: Path, facts: dict[str, Any], _: Tensor | None) -> None:
    """A .pt2 file that `torch.export.load` opens."""
    torch.export.save(_program(pipeline, example), path, extra_files={FACTS: json.dumps(facts)})


def aoti(pipeline: Pipeline, example: Tensor, path: Path, facts: dict[str, Any], _: Tensor | None) -> None:
    """A .pt2 file of native code that `torch._inductor.aoti_load_package` opens, from C++ too."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise CnnzooError(f'format="aoti" needs a C++ compiler, and {compiler} is not on the PATH. Type: apt install g++')
    # The labels once more, a line each, for programs that read no JSON: example.cpp.
    inside = {FACTS: json.dumps(facts), "labels": "\n".join(facts["labels"])}
    # Not "freezing": it gains nothing here, and with channels-last weights its code was wrong.
    configs = {"aot_inductor.metadata": inside}
    torch._inductor.aoti_compile_and_package(_program(pipeline, example), package_path=str(path), inductor_configs=configs)


def onnx(pipeline: Pipeline, example: Tensor, path: Path, facts: dict[str, Any], calibration: Tensor | None) -> None:
    """An .onnx file; 8-bit where there are images to calibrate on."""
    try:
        import onnx as onnx_package
        import onnxruntime  # noqa: F401  opens the file again
        import onnxscript  # noqa: F401  writes it
    except ImportError as e:
        raise CnnzooError(f'format="onnx" needs {e.name}, which is not installed. {_EXTRA}') from e
    names = ["logits", "probabilities"] if pipeline.preprocess else ["logits"]
    program = _program(pipeline, example)
    # The program's own symbols have names such as s34; people read these in the file.
    free = {axis: name for axis, (name, (least, most)) in enumerate(zip(_AXES, limits(pipeline))) if least < most}
    how = dict(dynamo=True, input_names=["images"], output_names=names, dynamic_shapes={"images": free}, verbose=False)
    with contextlib.redirect_stdout(io.StringIO()), quiet("torch.onnx"):
        written = torch.onnx.export(program, **how)
    proto = written.model_proto
    if calibration is not None:
        proto = int8(proto, calibration, path.with_suffix(".int8.onnx"))
    proto.metadata_props.append(onnx_package.StringStringEntryProto(key=FACTS, value=json.dumps(facts)))
    onnx_package.save(proto, str(path))


FORMATS: dict[str, Callable[[Pipeline, Tensor, Path, dict[str, Any], Tensor | None], None]] = {
    "torch_export": torch_export,
    "aoti": aoti,
    "onnx": onnx,
}
SUFFIXES = dict(torch_export=".pt2", aoti=".pt2", onnx=".onnx")


def format_of(path: Path) -> str:
    """The first format whose files end as `path` does.

    Raises:
        CnnzooError: There is none.
    """
    for format, suffix in SUFFIXES.items():
        if path.suffix == suffix:
            return format
    allowed = " or ".join(dict.fromkeys(SUFFIXES.values()))
    raise CnnzooError(
        f"{path} was given as the file to write, whose name must end in {allowed}. For example, write model.onnx."
    )


def compiled(model: nn.Module | str | os.PathLike, example: Tensor) -> Callable[[Tensor], Any]:
    """The inference form of a model through torch.compile, warm for batches like `example`; with CUDA graphs on a GPU.

    Args:
        model: A model or pipeline, of which a copy is made (see `inference_form`), on the device of `example`; or a
            pretrained model's name or folder.
        example: Images `(B, C, H, W)` as the model takes them, on the device to run on.

    Returns:
        What maps such images to the model's outputs.

    Raises:
        UnknownNameError, CheckpointError, HubError: For a name, as `registry.create_model`.
    """
    if isinstance(model, (str, os.PathLike)):
        model = registry.create_model(model, pretrained=True)
    if any(t.device != example.device for t in chain(model.parameters(), model.buffers())):
        model = copy.deepcopy(model).to(example.device)
    model = fast_copy(model, example[:1])
    # CUDA graphs take the launches, most of a small network's time there, out of each call. On a CPU there are none.
    forward = torch.compile(model, mode="reduce-overhead" if example.device.type == "cuda" else None)

    def call(images: Tensor) -> Any:
        with torch.inference_mode():
            return forward(images)

    for _ in range(3):  # compiles, then records and replays the graph
        call(example)
    return call
