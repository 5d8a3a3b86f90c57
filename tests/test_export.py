"""Exported files do what the model does, in a fresh process; what cannot be exported or opened is refused."""

import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from contract_models import need_numbers
from helpers import MODELS, each, fill, images, is_large, native_size
from hub_helpers import fault
from torch import nn

import cnnzoo
from cnnzoo import checkpoints
from cnnzoo.cli import main
from cnnzoo.datasets import FASHION_MNIST
from cnnzoo.drawings import garments
from cnnzoo.errors import CheckpointError, CnnzooError, ExportError, InputError, UnknownNameError
from cnnzoo.exporting import _export, _formats, _seal, _verify
from cnnzoo.folding import fold

NATIVE_28 = [name for name in MODELS if native_size(name) == (1, 28, 28)]
LARGER = [name for name in MODELS if native_size(name) != (1, 28, 28)]


@pytest.fixture(scope="module")
def drawings() -> np.ndarray:
    """Ten garments, uint8 `(10, 28, 28)`."""
    return np.stack([np.asarray(image) for image in garments().values()])


@pytest.fixture(scope="module")
def expected(drawings) -> list[tuple[str, float]]:
    model = cnnzoo.create_model("lenet_tiny", pretrained=True)
    return [best[0] for best in cnnzoo.predict(model, list(drawings))]


@pytest.fixture(scope="module", params=["torch_export", "onnx", pytest.param("aoti", marks=pytest.mark.slow)])
def file(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / f"model{_formats.SUFFIXES[request.param]}"
    return cnnzoo.export("lenet_tiny", path, request.param)


def test_an_exported_file_answers_like_the_model(file, drawings, expected):
    labels, probabilities = cnnzoo.load_exported(file)(drawings)
    assert labels == [label for label, _ in expected]
    assert probabilities.max(1) == pytest.approx([p for _, p in expected], abs=1e-4)


@pytest.mark.parametrize("batch", [1, 2, 17, 300])
def test_the_size_of_the_batch_is_free(file, drawings, batch):
    exported = cnnzoo.load_exported(file)
    images = np.resize(drawings, (batch, 28, 28))
    whole = exported.predict(images)[1]
    assert whole.shape == (batch, 10)
    np.testing.assert_allclose(whole[-1:], exported.predict(images[-1])[1], atol=1e-5)


def test_labels_and_source_travel_in_the_file(file):
    exported = cnnzoo.load_exported(file)
    assert exported.labels == FASHION_MNIST.labels
    assert exported.facts["source"] == "lenet_tiny.fashion_mnist"
    assert exported.facts["source_sha256"] == checkpoints.metrics("lenet_tiny.fashion_mnist")["sha256"]
    assert (exported.facts["mean"], exported.facts["std"]) == ([0.286], [0.353])


@pytest.mark.parametrize("name", ["lenet_tiny", "resnet_tiny"])
def test_the_ending_says_the_format_and_the_axes_of_an_onnx_file_have_names(name, tmp_path):
    onnx = pytest.importorskip("onnx")
    graph = onnx.load(cnnzoo.export(name, tmp_path / "mine.onnx")).graph
    shapes = [[d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in (*graph.input, *graph.output)]
    size = ["height", "width"] if name == "resnet_tiny" else [28, 28]
    assert shapes == [["batch", 1, *size], ["batch", 10], ["batch", 10]]


def test_arrays_that_are_read_only_or_not_contiguous_are_taken(file, drawings):
    exported = cnnzoo.load_exported(file)
    wanted = exported.predict(drawings)[1]
    locked = drawings.copy()
    locked.setflags(write=False)
    strided = np.stack([drawings, drawings], axis=3)[..., 0]
    for array in (locked, strided, drawings[:, None]):
        np.testing.assert_array_equal(exported.predict(array)[1], wanted)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((0, 28, 28), np.uint8), "B from 1 to 4096"),
        (np.zeros((4097, 28, 28), np.uint8), "B from 1 to 4096"),
        (np.zeros((2, 28, 28), np.float32), "uint8"),
        (np.zeros((2, 3, 28, 28), np.uint8), r"takes \(B, 1, 28, 28\)"),
        (np.zeros(28, np.uint8), r"\(28,\)"),
        ([["x"]], "uint8"),
    ],
)
def test_arrays_that_no_file_takes_are_refused(file, array, words):
    with pytest.raises(InputError, match=words):
        cnnzoo.load_exported(file).predict(array)


@pytest.mark.slow
def test_models_of_any_size_take_any_size_after_export(tmp_path):
    path = cnnzoo.export("resnet_tiny", tmp_path / "model.pt2")
    model = cnnzoo.create_model("resnet_tiny", pretrained=True).eval()
    exported = cnnzoo.load_exported(path)
    for height, width in ((28, 28), (40, 31), (64, 96)):
        x = torch.randint(0, 256, (3, 1, height, width), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
        with torch.inference_mode():
            wanted = model((x.float() / 255 - 0.286) / 0.353)
        np.testing.assert_allclose(exported.run(x.numpy())[0], wanted.numpy(), atol=1e-4)


@pytest.mark.slow
def test_without_preprocessing_a_file_takes_what_the_model_takes(tmp_path):
    path = cnnzoo.export("lenet_tiny", tmp_path / "model.pt2", preprocess=False)
    exported = cnnzoo.load_exported(path)
    x = torch.randn(4, 1, 28, 28)
    model = cnnzoo.create_model("lenet_tiny", pretrained=True).eval()
    with torch.inference_mode():
        np.testing.assert_allclose(exported.run(x.numpy())[0], model(x).numpy(), atol=1e-4)
    assert exported.predict(x.numpy())[1].sum(1) == pytest.approx(1)
    with pytest.raises(InputError, match="float32"):
        exported.predict(np.zeros((1, 1, 28, 28), np.uint8))


# -- folding -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", each(MODELS))
def test_folding_batch_norms_changes_no_output(name):
    need_numbers(name)
    model = fill(cnnzoo.create_model(name)).eval()
    x = torch.randn(2, *native_size(name), generator=torch.Generator().manual_seed(0))
    before = sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    with torch.inference_mode():
        wanted = model(x)
        folded = fold(model, x[:1])
        torch.testing.assert_close(folded(x), wanted, rtol=1e-3, atol=1e-4 * wanted.abs().max().item())
    after = sum(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    if not name.startswith(("densenet", "preact", "wide")):  # which normalise before they convolve
        assert after == 0
    assert after < before or before == 0


def test_a_norm_that_turns_a_sign_is_not_merged_through_a_pooling():
    model = fill(cnnzoo.create_model("vgg_tiny")).eval()
    x = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.stem[1].bn.weight[3] = -1.0  # of the pooled layer: the largest becomes the least
        wanted = model(x)
        folded = fold(model, x[:1])
        torch.testing.assert_close(folded(x), wanted, rtol=1e-3, atol=1e-4 * wanted.abs().max().item())
    assert [n for n, m in folded.named_modules() if isinstance(m, nn.BatchNorm2d)] == ["stem.1.bn"]


# -- the matrix ----------------------------------------------------------------------------------------------------------


def warmed(name):
    """A model whose batch norms have seen images, so that its logits are of a trained model's size, which the absolute
    tolerance of `export` is meant for."""
    model = fill(cnnzoo.create_model(name))
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0  # the statistics of these images alone
    with torch.no_grad():
        model.train()(images(name, 32))
    return model.eval()


@pytest.fixture
def compared_here(monkeypatch):
    """Has `export` compare in this process. The fresh one takes longer to start than everything else together."""

    def run(command, **options):
        _verify.main([str(argument) for argument in command[3:]])
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(_verify, "subprocess", SimpleNamespace(run=run))


@pytest.mark.slow
@pytest.mark.parametrize("name", NATIVE_28)
def test_every_model_of_28_pixels_exports(name, tmp_path, compared_here):
    cnnzoo.export(warmed(name), tmp_path / "model.pt2")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NATIVE_28 if name.endswith("_tiny")])
def test_a_model_of_every_family_becomes_onnx(name, tmp_path, compared_here):
    cnnzoo.export(warmed(name), tmp_path / "model.onnx", "onnx")


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGER)
def test_the_textbooks_networks_export_at_their_size(name, tmp_path, compared_here):
    """The large ones are traced on the meta device: up to 129 million parameters would make the suite heavy."""
    if not is_large(name):
        cnnzoo.export(fill(cnnzoo.create_model(name)).eval(), tmp_path / "model.pt2")
        return
    model = cnnzoo.create_model(name, device="meta").eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    x = torch.empty(2, *native_size(name), device="meta")
    program = torch.export.export(model, (x,), dynamic_shapes=({0: batch},), strict=False)
    assert program.module()(torch.empty(5, *native_size(name), device="meta")).shape == (5, 10)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnext_tiny", "densenet_tiny", "googlenet_tiny", "preact_resnet_tiny"])
def test_a_spread_of_families_becomes_native_code(name, tmp_path):
    cnnzoo.export(warmed(name), tmp_path / "model.pt2", "aoti")


# -- small types ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("kind", [dict(dtype="bf16"), dict(format="onnx", quantize="int8")], ids=str)
def test_small_types_keep_the_accuracy(kind, tmp_path, fashion_mnist_dir):
    """`export` itself refuses a file that loses more than 0.1 (bf16) or 0.3 points (int8)."""
    path = tmp_path / ("model.onnx" if "format" in kind else "model.pt2")
    cnnzoo.export("lenet_tiny", path, **kind, data_dir=fashion_mnist_dir)
    assert cnnzoo.load_exported(path).facts["dtype"] in ("bf16", "int8")


# -- bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "kwargs", "error", "words"),
    [
        ("model.pt2", dict(format="onxx"), UnknownNameError, "onnx"),
        ("model.pt2", dict(dtype="half"), UnknownNameError, "bf16, fp32"),
        ("model.pt2", dict(quantize="int4"), UnknownNameError, "int8"),
        ("model.onnx", dict(format="aoti"), CnnzooError, "end in .pt2"),
        ("model.bin", {}, CnnzooError, "must end in .pt2 or .onnx. For example, write model.onnx"),
        ("model", {}, CnnzooError, "must end in .pt2 or .onnx"),
        ("model.pt2", dict(quantize="int8"), CnnzooError, 'format="onnx"'),
        ("no/such/folder/model.pt2", {}, CnnzooError, "could not be written"),
        ("model.pt2", dict(device="tpu"), CnnzooError, "'torch_export' is cpu or cuda"),
        ("model.onnx", dict(format="onnx", device="cuda"), CnnzooError, "'onnx' is cpu. Pass"),
        ("model.pt2", dict(format="compile"), CnnzooError, r"cnnzoo.compiled\("),
    ],
)
def test_bad_input_is_named_and_leaves_no_file(tmp_path, path, kwargs, error, words):
    with pytest.raises(error, match=words):
        cnnzoo.export("lenet_tiny", tmp_path / path, **kwargs)
    assert not list(tmp_path.rglob("*"))


def test_a_path_that_is_a_folder_is_named(tmp_path):
    (tmp_path / "model.pt2").mkdir()
    with pytest.raises(CnnzooError, match="model.pt2 is a folder; .* Write .*model.pt2/model.pt2"):
        cnnzoo.export("lenet_tiny", tmp_path / "model.pt2")
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt2"]


def test_a_gpu_that_is_not_there_is_no_device(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(CnnzooError, match="Pass device='cpu'"):
        cnnzoo.export("lenet_tiny", tmp_path / "model.pt2", device="cuda")


def test_what_is_no_model_of_timm_is_refused(tmp_path):
    with pytest.raises(InputError, match="A Linear was given"):
        cnnzoo.export(nn.Linear(784, 10), tmp_path / "model.pt2")
    assert not list(tmp_path.iterdir())


def headless():
    return cnnzoo.create_model("lenet_tiny", num_classes=0)


def with_nan():
    model = cnnzoo.create_model("lenet_tiny")
    with torch.no_grad():
        model.get_classifier().bias[3] = torch.nan
    return model


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: cnnzoo.create_model("lenet_tiny", device="meta"), "meta device.* no weights"),
        (lambda: cnnzoo.create_model("resnet_tiny", features_only=True), "features"),
        (headless, "without classes"),
        (with_nan, "not finite"),
    ],
    ids=["meta", "features_only", "headless", "nan"],
)
def test_models_that_no_file_can_answer_for_are_refused(tmp_path, make, words):
    with pytest.raises(CnnzooError, match=words):
        cnnzoo.export(make(), tmp_path / "model.pt2")
    assert not list(tmp_path.iterdir())


def test_several_threads_may_export_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(_export, "compare", lambda *_: None)  # a fresh process for each, which other tests have
    model = cnnzoo.create_model("lenet_tiny", pretrained=True)
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda i: cnnzoo.export(model, tmp_path / f"{i}.pt2"), range(4)))
    x = np.zeros((1, 28, 28), np.uint8)
    answers = [cnnzoo.load_exported(path).predict(x)[1] for path in paths]
    assert all(np.array_equal(answer, answers[0]) for answer in answers)


def test_a_model_that_was_trained_on_names_no_source():
    model = cnnzoo.create_model("lenet_tiny", pretrained=True)
    assert _export._facts(model)["source"] == "lenet_tiny.fashion_mnist"
    with torch.no_grad():
        model.get_classifier().bias += 1
    assert _export._facts(model)["source"] is _export._facts(model)["source_sha256"] is None


def test_a_file_that_does_something_else_is_not_kept(tmp_path, monkeypatch):
    def wrong(pipeline, example, path, facts, calibration, real=_formats.torch_export):
        with torch.no_grad():
            pipeline.model.head.fc.bias += 0.01
        real(pipeline, example, path, facts, calibration)

    monkeypatch.setitem(_formats.FORMATS, "torch_export", wrong)
    with pytest.raises(ExportError, match="differ from the model's by 0.01"):
        cnnzoo.export("lenet_tiny", tmp_path / "model.pt2")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named_with_the_extra(package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(CnnzooError, match=r"cnnzoo\[export\]"):
        cnnzoo.export("lenet_tiny", tmp_path / "model.onnx", "onnx")
    assert not list(tmp_path.iterdir())


def test_a_missing_compiler_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(CnnzooError, match=r"g\+\+ is not on the PATH.* apt install g\+\+"):
        cnnzoo.export("lenet_tiny", tmp_path / "model.pt2", "aoti")


def test_a_missing_runtime_is_named_with_the_extra(tmp_path, monkeypatch):
    (tmp_path / "model.onnx").write_bytes(_seal.sealed(b"", ".onnx"))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(CnnzooError, match=r"onnxruntime.*cnnzoo\[export\]"):
        cnnzoo.load_exported(tmp_path / "model.onnx")


@fault("an exported file with a flipped bit, or cut, or of somebody else", "`CheckpointError`; it is not opened")
def test_half_a_file_and_an_altered_one_are_refused(file, tmp_path):
    content = file.read_bytes()
    path = tmp_path / file.name
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="damaged"):
        cnnzoo.load_exported(path)
    places = torch.randint(0, len(content), (40,), generator=torch.Generator().manual_seed(0)).tolist()
    places += [0, len(content) - 1]
    for place in places:
        for bit in (1, 128):
            path.write_bytes(content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :])
            with pytest.raises(CheckpointError, match="damaged"):
                cnnzoo.load_exported(path)
    for altered in (content + b"\0", content[1:], content[:-1], b""):
        path.write_bytes(altered)
        with pytest.raises(CheckpointError, match="damaged"):
            cnnzoo.load_exported(path)


def test_files_that_others_exported_are_refused(tmp_path):
    program = torch.export.export(nn.Linear(2, 2), (torch.zeros(1, 2),))
    torch.export.save(program, tmp_path / "model.pt2")
    with pytest.raises(CheckpointError, match="not a file of cnnzoo export"):
        cnnzoo.load_exported(tmp_path / "model.pt2")


@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_foreign_and_damaged_files_are_refused(suffix, tmp_path):
    path = tmp_path / f"model{suffix}"
    with pytest.raises(CheckpointError, match="not a file"):
        cnnzoo.load_exported(path)
    for content in (b"", b"nonsense", b"PK\x05\x06" + bytes(18)):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="damaged"):
            cnnzoo.load_exported(path)


def test_the_command_writes_a_file(tmp_path):
    path = tmp_path / "model.pt2"
    result = CliRunner().invoke(main, ["export", "lenet_tiny", str(path)])
    assert (result.exit_code, result.output) == (0, f"{path}\n"), result.exception
    assert cnnzoo.load_exported(path).facts["architecture"] == "lenet_tiny"
    assert CliRunner().invoke(main, ["export", "lenet_tiny", str(tmp_path / "x.bin")]).exit_code == 1
