"""Optimisers and their learning rates: what a recipe asks for, and what timm's optimisers are by themselves."""

import json
import math

import pytest
import torch
from helpers import run_recipe as run

import cnnzoo
from cnnzoo.errors import CnnzooError
from cnnzoo.recipes import Recipe, override
from cnnzoo.train import _optimizer


@pytest.mark.parametrize("opt", ["sgd", "adamw", "muon", "lamb"])
def test_timms_optimisers_train(recipe, opt, tmp_path, miniature):
    run(override(recipe, opt=opt, lr=0.01), tmp_path / "run", miniature)
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert math.isfinite(line["train_loss"])


@pytest.mark.parametrize(("opt", "second"), [("adamw", 0.999), ("lion", 0.99), ("adopt", 0.9999), ("novograd", 0.98)])
def test_an_optimiser_keeps_its_own_second_beta(recipe, opt, second):
    optimizer = _optimizer.make_optimizer(override(recipe, opt=opt, momentum=0.8), torch.nn.Linear(2, 2))
    assert tuple(optimizer.param_groups[0]["betas"]) == (0.8, second)


def test_an_optimiser_without_momentum_gets_none(recipe):
    assert (
        _optimizer.make_optimizer(override(recipe, opt="adafactor"), torch.nn.Linear(2, 2)).param_groups[0]["beta1"] is None
    )


def test_a_run_of_one_update_makes_it_at_a_rate_that_counts(recipe):
    for sched in ("onecycle", "cosine", "constant"):
        (rate,) = rates(override(recipe, sched=sched, epochs=1, warmup_epochs=0.0, lr=0.1), updates=1)
        assert rate >= 0.05


@pytest.mark.parametrize("sched", ["cosine", "constant"])
def test_a_warm_up_takes_half_of_a_short_run_at_most(recipe, sched):
    found = rates(override(recipe, sched=sched, epochs=2, warmup_epochs=5, lr=0.1))
    assert max(found) == pytest.approx(0.1, rel=0.15) and found.index(max(found)) <= 11


@pytest.mark.parametrize(("fast", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_muon_computes_in_float32_where_bfloat16_is_slow(recipe, fast, dtype, monkeypatch):
    from timm.optim import muon

    used = []

    def noted(g, *args, real=muon.zeropower_via_newtonschulz, **kwargs):
        used.append((out := real(g, *args, **kwargs)).dtype)
        return out

    monkeypatch.setattr(muon, "zeropower_via_newtonschulz", noted)
    monkeypatch.setattr(_optimizer, "fast_bf16", lambda kind: fast)
    model = torch.nn.Linear(8, 8)
    optimizer = _optimizer.make_optimizer(override(recipe, opt="nmuon", sched="onecycle"), model)
    used.clear()  # of being tried out
    _optimizer.Schedule(recipe, optimizer, 5).set(0)
    model(torch.ones(2, 8)).sum().backward()
    optimizer.step()
    assert used == [dtype]
    assert muon.zeropower_via_newtonschulz is noted  # as it was, for every other user of timm


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (dict(opt="adamw", momentum=1.0), "first beta"),
        (dict(opt="lamb", momentum=1.0), "first beta"),
        (dict(opt="adahessian"), "second derivatives"),
        (dict(opt="fusedsgd"), "CUDA"),
        (dict(opt="bnbadam8bit"), "CUDA|bitsandbytes"),
        (dict(opt="kron"), "opt_einsum"),
    ],
)
def test_an_optimiser_that_cannot_be_used_here_is_refused_in_one_line(recipe, fields, reason, monkeypatch):
    if torch.cuda.is_available() and "CUDA" in reason:
        pytest.skip("there is a GPU, so the optimiser may work")
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    model = torch.nn.Linear(2, 2)
    before = torch.random.get_rng_state()
    with pytest.raises(CnnzooError, match=rf"opt='{fields['opt']}'.*({reason}).*Choose another") as refused:
        _optimizer.make_optimizer(override(recipe, **fields), model)
    assert "\n" not in str(refused.value)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("epochs", "updates", "warmup"), [(1, 2, 1.0), (2, 1, 1.0), (10, 1, 1.0), (1, 1, 0.0), (4, 1, 0.25)]
)
def test_the_shortest_runs_have_a_schedule(recipe, epochs, updates, warmup):
    for sched in ("onecycle", "cosine", "constant"):
        found = rates(override(recipe, sched=sched, epochs=epochs, warmup_epochs=warmup, lr=0.1), updates)
        assert len(found) == epochs * updates
        assert all(0 <= rate <= 0.1 + 1e-9 for rate in found)


def rates(recipe: Recipe, updates: int = 10) -> list[float]:
    """The learning rate of every update of a run."""
    optimizer = _optimizer.make_optimizer(recipe, torch.nn.Linear(2, 2))
    schedule = _optimizer.Schedule(recipe, optimizer, updates)
    found = []
    for update in range(recipe.epochs * updates):
        schedule.set(update)
        found.append(optimizer.param_groups[0]["lr"])
    return found


@pytest.mark.parametrize("sched", ["cosine", "onecycle"])
def test_a_schedule_rises_in_the_warm_up_then_falls_to_nothing(recipe, sched):
    found = rates(override(recipe, sched=sched, epochs=10, warmup_epochs=2, lr=0.1))
    top = found.index(max(found))
    assert max(found) == pytest.approx(0.1, rel=0.1)
    assert 18 <= top <= 21
    assert found[: top + 1] == sorted(found[: top + 1])
    assert found[top:] == sorted(found[top:], reverse=True)
    assert found[0] < 0.01 and found[-1] < 0.002


@pytest.mark.parametrize("sched", ["cosine", "onecycle", "constant"])
def test_a_schedule_that_starts_in_the_middle_goes_on_as_if_it_had_not(recipe, sched):
    recipe = override(recipe, sched=sched, epochs=4, warmup_epochs=1)
    optimizer = _optimizer.make_optimizer(recipe, torch.nn.Linear(2, 2))
    schedule = _optimizer.Schedule(recipe, optimizer, 10)
    schedule.set(25)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(rates(recipe)[25])


@pytest.mark.parametrize("sched", ["cosine", "onecycle"])
def test_layer_decay_lowers_the_rate_from_the_head_down(recipe, sched):
    recipe = override(recipe, layer_decay=0.5, sched=sched, warmup_epochs=0)
    model = cnnzoo.create_model("resnet_tiny")
    optimizer = _optimizer.make_optimizer(recipe, model)
    _optimizer.Schedule(recipe, optimizer, 5).set(0)
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    names = ("stem.0.conv.weight", "stages.0.0.conv1.weight", "head.fc.weight")
    found = [rate[id(dict(model.named_parameters())[n])] for n in names if n in dict(model.named_parameters())]
    assert len(found) >= 2
    assert found[-1] == max(rate.values())
    assert all(low <= high / 2 for low, high in zip(found, found[1:]))
