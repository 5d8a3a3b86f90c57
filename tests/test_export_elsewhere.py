"""Exported files away from cnnzoo: in an environment that has only the library that runs them, and in a C++ program."""

import functools
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement

import cnnzoo
from cnnzoo import checkpoints
from cnnzoo.datasets import FASHION_MNIST
from cnnzoo.drawings import garments
from cnnzoo.exporting import cpp

pytestmark = pytest.mark.xdist_group("elsewhere")

README = Path(__file__).parent.parent / "README.md"
NAME = "lenet_tiny.fashion_mnist"


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    """Ten garments, 784 bytes each."""
    path = tmp_path_factory.mktemp("raw") / "images.raw"
    path.write_bytes(b"".join(image.tobytes() for image in garments().values()))
    return path


@functools.cache
def expected() -> np.ndarray:
    """The model's own probabilities of the ten garments, `(10, 10)`."""
    answers = cnnzoo.predict(cnnzoo.create_model(NAME, pretrained=True), list(garments().values()), topk=10)
    return np.array([[dict(answer)[label] for label in FASHION_MNIST.labels] for answer in answers])


# -- with one library alone ----------------------------------------------------------------------------------------------


def needed(package: str, found: dict[str, importlib.metadata.Distribution]) -> dict[str, importlib.metadata.Distribution]:
    """The installed distributions that `package` cannot do without, itself among them."""
    name = re.sub(r"[-_.]+", "-", package).lower()
    if name not in found:
        try:
            found[name] = importlib.metadata.distribution(package)
        except importlib.metadata.PackageNotFoundError:  # not for this platform
            return found
        for requirement in map(Requirement, found[name].requires or []):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                needed(requirement.name, found)
    return found


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Makes a virtual environment that has one package and what that needs, and returns its Python.

    It sees nothing of this environment but links to those distributions: a copy of torch would cost gigabytes.
    """

    @functools.cache
    def make(package: str) -> Path:
        folder = tmp_path_factory.mktemp(package)
        links = folder / "packages"
        links.mkdir()
        for distribution in needed(package, {}).values():
            for name in {file.parts[0] for file in distribution.files}:
                if name not in ("..", "__pycache__") and not name.endswith(".pth") and not (links / name).exists():
                    (links / name).symlink_to(Path(distribution.locate_file(name)).resolve())
        venv.create(folder / "env", with_pip=False, symlinks=True)
        (site,) = (folder / "env").glob("lib/python*/site-packages")
        (site / "packages.pth").write_text(f"{links}\n")
        return folder / "env" / "bin" / "python"

    return make


# What a user would type there; it gets `path` and `raw`, and leaves `probabilities` and `facts`.
ALONE = dict(
    torch_export="""
import torch
images = torch.frombuffer(bytearray(raw), dtype=torch.uint8).view(-1, 1, 28, 28)
inside = {"cnnzoo": ""}
program = torch.export.load(path, extra_files=inside).module()
probabilities, facts = program(images)[1].tolist(), inside["cnnzoo"]
""",
    aoti="""
import torch
images = torch.frombuffer(bytearray(raw), dtype=torch.uint8).view(-1, 1, 28, 28)
program = torch._inductor.aoti_load_package(path)
probabilities, facts = program(images)[1].tolist(), program.get_metadata()["cnnzoo"]
""",
    onnx="""
import numpy, onnxruntime
images = numpy.frombuffer(raw, numpy.uint8).reshape(-1, 1, 28, 28)
session = onnxruntime.InferenceSession(path)
probabilities = session.run(None, {"images": images})[1].tolist()
facts = session.get_modelmeta().custom_metadata_map["cnnzoo"]
""",
)
FRAME = """
import importlib, json, sys
absent = []
for name in ("cnnzoo", "timm", "torchvision", "torch"):
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        absent.append(name)
path, raw = sys.argv[1], open(sys.argv[2], "rb").read()
{code}
print(json.dumps(dict(absent=absent, probabilities=probabilities, facts=json.loads(facts))))
"""


@pytest.mark.slow
@pytest.mark.parametrize("format", ALONE)
def test_a_file_opens_where_only_its_library_is_installed(format, environment, raw, tmp_path):
    path = cnnzoo.export(NAME, tmp_path / ("model.onnx" if format == "onnx" else "model.pt2"), format)
    python = environment("onnxruntime" if format == "onnx" else "torch")
    command = [python, "-I", "-c", FRAME.format(code=ALONE[format]), path, raw]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert found["absent"] == ["cnnzoo", "timm", "torchvision"] + (["torch"] if format == "onnx" else [])
    np.testing.assert_allclose(found["probabilities"], expected(), atol=1e-4)
    facts = found["facts"]
    assert facts["labels"] == list(FASHION_MNIST.labels)
    assert (facts["mean"], facts["std"]) == ([FASHION_MNIST.mean[0]], [FASHION_MNIST.std[0]])
    assert (facts["source"], facts["source_sha256"]) == (NAME, checkpoints.metrics(NAME)["sha256"])


# -- in C++ --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")
def test_the_readmes_c_plus_plus_program_answers_like_python(raw, tmp_path):
    (block,) = re.findall(r"```bash\n([^`]*g\+\+[^`]*)```", README.read_text(encoding="utf-8"))
    shutil.copy(raw, tmp_path / "images.raw")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    script = f'set -e\ncnnzoo() {{ python -m cnnzoo "$@"; }}\n{block}'
    run = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env={**os.environ, "PATH": path}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    lines = [line.split("\t") for line in run.stdout.splitlines() if line.count("\t") == 3]
    assert [(int(number), int(index), label) for number, index, _, label in lines] == [
        (i, c, FASHION_MNIST.labels[c]) for i, c in enumerate(expected().argmax(1))
    ]
    assert [float(probability) for *_, probability, _ in lines] == pytest.approx(list(expected().max(1)), abs=1e-4)

    for content, words in ((b"", "0 bytes"), (bytes(785), "785 bytes, a multiple of 784")):
        (tmp_path / "images.raw").write_bytes(content)
        run = subprocess.run(["./classify", "lenet_tiny.pt2", "images.raw"], cwd=tmp_path, capture_output=True, text=True)
        assert run.returncode == 1 and words in run.stderr and run.stderr.count("\n") == 1


def test_the_compiler_is_told_where_the_installed_torch_is():
    import torch

    arguments = cpp.arguments("program.cpp")
    assert "program.cpp" in arguments and cpp.EXAMPLE.is_file()
    folders = [Path(a.removeprefix("-I")) for a in arguments if a.startswith("-I")]
    assert any((folder / "torch/csrc/inductor/aoti_package/model_package_loader.h").is_file() for folder in folders)
    assert f"-Wl,-rpath,{Path(torch.__file__).parent / 'lib'}" in arguments
