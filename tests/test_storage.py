"""Weights as they are stored: large models in half precision, and every number of them measured with the stored weights."""

import math

import pytest
import torch
from helpers import run_recipe, weights_of
from hypothesis import given, strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

import cnnzoo
from cnnzoo import checkpoints, data, evaluate, hub, storage
from cnnzoo.errors import CheckpointError

HALF_MAX, HALF_LEAST_NORMAL = 65504.0, 2.0**-14
LARGE_MODEL = nn.Linear(1000, 501)  # 501,501 parameters


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
def test_a_large_models_kernels_are_rounded_to_eleven_bits_or_kept_where_they_exceed_the_range(values):
    kernel = torch.tensor(values)[None]  # (1, N)
    state = dict(kernel=kernel, vector=kernel[0].clone(), count=torch.tensor(7))
    stored = storage.stored(state, LARGE_MODEL)
    assert stored["vector"] is state["vector"] and stored["count"] is state["count"]
    if kernel.abs().max() >= HALF_MAX + 16:  # rounds to infinity
        assert stored["kernel"] is kernel
        return
    assert stored["kernel"].dtype == torch.float16
    error = (stored["kernel"].double() - kernel.double()).abs()
    assert (error <= torch.where(kernel.abs() < HALF_LEAST_NORMAL, 2.0**-25, kernel.double().abs() * 2.0**-11)).all()
    again = storage.stored(stored, LARGE_MODEL)
    assert all(again[name] is stored[name] for name in state) and storage.is_stored(stored, LARGE_MODEL)
    assert not storage.is_stored(state, LARGE_MODEL)


def test_a_model_of_half_a_million_parameters_is_stored_as_it_is_and_one_of_more_is_not():
    for features, dtype in ((1000, torch.float32), (1001, torch.float16)):
        model = nn.Linear(features, 500, bias=False)
        assert storage.stored(model.state_dict(), model)["weight"].dtype == dtype


def test_the_first_convolution_and_batch_norms_keep_full_precision_so_that_a_twin_has_no_further_error():
    model = cnnzoo.create_model("nin_base")
    stored = storage.stored(model.state_dict(), model)
    assert stored["stem.0.conv.weight"].dtype == torch.float32
    halves = {name for name, tensor in stored.items() if tensor.dtype == torch.float16}
    assert {name for name, tensor in stored.items() if tensor.dim() >= 2} - halves == {"stem.0.conv.weight"}
    assert all(stored[name].dim() >= 2 for name in halves)
    assert sum(stored[name].numel() for name in halves) > 0.98 * sum(p.numel() for p in model.parameters())


def test_every_bundled_checkpoint_is_in_the_formats_of_the_rule_and_in_fp32_once_it_is_loaded():
    for name in checkpoints.names():
        model = cnnzoo.create_model(name, device="meta")
        state = checkpoints.read_weights(checkpoints.folder(name) / checkpoints.WEIGHTS, model)
        assert storage.is_stored(state, model), f"cnnzoo measure {name} stores it so."
    largest = max(checkpoints.names(), key=lambda name: checkpoints.metrics(name)["params"])
    assert {p.dtype for p in cnnzoo.create_model(largest, pretrained=True).parameters()} == {torch.float32}


# -- runs and folders, with a rule for which a small model is large --------------------------------------------------------


@pytest.fixture
def large(monkeypatch):
    """`lenet_tiny` counts as a large model."""
    monkeypatch.setattr(storage, "LARGE", 50_000)


def kernel_of(folder):
    return load_file(folder / checkpoints.WEIGHTS)["head.fc.weight"]


def measured(folder, miniature):
    split = data.load_split("miniature", "test", data_dir=miniature[0])
    return evaluate.evaluate(cnnzoo.create_model(folder, pretrained=True), split)


def test_a_run_measures_the_weights_that_it_stores(recipe, tmp_path, miniature, large):
    metrics = run_recipe(recipe, tmp_path / "run", miniature)
    assert weights_of(tmp_path / "run")["head.fc.weight"].dtype == torch.float16
    found = measured(tmp_path / "run", miniature)
    assert (found.top1, found.confusion, list(found.per_class)) == (
        metrics["top1"], tuple(map(tuple, metrics["confusion"])), list(metrics["per_class"]),
    )  # fmt: skip
    assert math.isclose(found.loss, metrics["loss"], abs_tol=2e-5)


def test_the_folder_of_such_a_run_verifies_exports_and_has_a_twin_with_its_answers(recipe, tmp_path, miniature, large):
    run_recipe(recipe, tmp_path / "run", miniature)
    folder = hub.build(tmp_path / "run", tmp_path / "built")
    assert "stored in half precision" in (folder / "README.md").read_text()
    assert hub.verify(folder)["sha256"] == checkpoints.sha256(tmp_path / "run" / checkpoints.WEIGHTS)
    model = cnnzoo.create_model(folder, pretrained=True).eval()
    wide = cnnzoo.create_model(hub.twin(folder, tmp_path / "rgb"), pretrained=True).eval()
    x = torch.rand(2, 1, 28, 28)
    with torch.inference_mode():
        torch.testing.assert_close(wide(x.expand(-1, 3, -1, -1)), model(x), atol=1e-5, rtol=1e-5)
    cnnzoo.export(folder, tmp_path / "model.pt2")  # compares the file with the model
    again = hub.build(model, tmp_path / "again")
    assert torch.equal(kernel_of(again), kernel_of(folder)) and kernel_of(again).dtype == torch.float16


def test_a_run_of_before_the_rule_is_measured_again_by_resuming_it(recipe, tmp_path, miniature, monkeypatch):
    run_recipe(recipe, tmp_path / "run", miniature)
    monkeypatch.setattr(storage, "LARGE", 50_000)
    with pytest.raises(CheckpointError, match="full precision.* 50,000 parameters .*--resume"):
        hub.build(tmp_path / "run", tmp_path / "built")
    assert not (tmp_path / "built").exists()
    metrics = run_recipe(recipe, tmp_path / "run", miniature, resume=True)
    folder = hub.build(tmp_path / "run", tmp_path / "built")
    assert kernel_of(folder).dtype == torch.float16 and measured(folder, miniature).confusion == metrics["confusion"]


def test_a_folder_in_full_precision_is_neither_verified_nor_measured(recipe, tmp_path, miniature, monkeypatch):
    run_recipe(recipe, tmp_path / "run", miniature)
    folder = hub.build(tmp_path / "run", tmp_path / "built")
    monkeypatch.setattr(storage, "LARGE", 50_000)
    for use in (hub.verify, lambda folder: hub.measure(folder, data_dir=miniature[0])):
        with pytest.raises(CheckpointError, match="full precision.* Build the folder again"):
            use(folder)


def test_a_small_models_folder_keeps_the_bytes_that_it_came_with(recipe, tmp_path, miniature):
    run_recipe(recipe, tmp_path / "run", miniature)
    folder = hub.build(tmp_path / "run", tmp_path / "built")
    state = {k: v.double() if v.is_floating_point() else v for k, v in load_file(folder / checkpoints.WEIGHTS).items()}
    save_file(state, folder / checkpoints.WEIGHTS)
    metrics = checkpoints.read_json(folder / "metrics.json")
    hub._build.write_json(folder / "metrics.json", metrics | dict(sha256=checkpoints.sha256(folder / checkpoints.WEIGHTS)))
    hub.measure(folder, data_dir=miniature[0])
    assert kernel_of(folder).dtype == torch.float64
