"""The optimiser and its learning rates."""

import functools
import importlib.util
import types
import warnings
from typing import Any

import torch
from timm.optim import create_optimizer_v2, get_optimizer_info, list_optimizers, muon
from timm.scheduler import create_scheduler_v2
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

from ..errors import CnnzooError, unknown
from ..recipes import Recipe
from ._precision import fast_bf16

_FEW = 10  # updates of a run that cannot spare the last of them, which `onecycle` makes at next to nothing


def make_optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    """timm's optimiser of that name, without weight decay on biases and norms.

    Raises:
        UnknownNameError: timm has no such optimiser.
        CnnzooError: It cannot be used here, or not with this momentum.
    """
    if recipe.opt not in list_optimizers():
        raise unknown("optimiser", recipe.opt, list_optimizers(), hint="timm.optim.list_optimizers() lists them.")
    takes = get_optimizer_info(recipe.opt)
    if takes.second_order:
        raise _unusable(recipe, "it needs second derivatives, which training does not compute")
    if recipe.opt.startswith("kron") and importlib.util.find_spec("opt_einsum") is None:
        raise _unusable(recipe, "without the package opt_einsum it takes many gigabytes of memory; pip install opt_einsum")
    extra: dict[str, Any] = {}
    if takes.has_momentum:
        if recipe.momentum >= 1:
            raise _unusable(recipe, "its updates would grow without end")
        extra.update(momentum=recipe.momentum)
        if not recipe.momentum and (takes.defaults or {}).get("nesterov"):
            extra.update(nesterov=False)  # which torch refuses without momentum
    adams = not takes.has_momentum and takes.has_betas and takes.num_betas == 2
    if adams and recipe.momentum >= 1:
        raise _unusable(recipe, "its first beta has to be below 1")
    if recipe.layer_decay != 1:
        extra.update(layer_decay=recipe.layer_decay)  # by the model's group_matcher
    arguments = dict(opt=recipe.opt, lr=recipe.lr, weight_decay=recipe.weight_decay, **extra)
    device = next(model.parameters()).device
    try:
        own = _try_out(dict(opt=recipe.opt, lr=recipe.lr), device).get("betas") if adams else None
        if own:  # Adafactor has none
            arguments.update(betas=(recipe.momentum, own[1]))  # the second stays the optimiser's
        optimizer = create_optimizer_v2(model, **arguments)
        _try_out(dict(arguments, layer_decay=None), device)
    except Exception as e:  # of a missing package, a GPU that is not there, a value that it does not take, ...
        raise _unusable(recipe, (str(e).strip() or type(e).__name__).splitlines()[0]) from e
    if not fast_bf16(device.type):
        _in_fp32(optimizer)
    return optimizer


def _try_out(arguments: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """One step on a model of a few weights, since some optimisers say only then what they lack; returns the settings."""
    with torch.random.fork_rng(devices=[]):
        probe = nn.Linear(4, 4).to(device)
    optimizer = create_optimizer_v2(probe, **arguments)
    probe(torch.ones(1, 4, device=device)).sum().backward()
    optimizer.step()
    return optimizer.param_groups[0]


def _unusable(recipe: Recipe, reason: str) -> CnnzooError:
    return CnnzooError(
        f"opt={recipe.opt!r} was given with momentum={recipe.momentum}, and cannot be used here ({reason}). Choose another "
        "one, such as nmuon, sgd or adamw, with a momentum below 1."
    )


def _in_fp32(optimizer: torch.optim.Optimizer) -> None:
    """Has Muon do its Newton-Schulz steps in float32, where bfloat16 is emulated and costs 10 to 20 times as much.

    timm's function for them has an argument for the type, which its optimiser does not pass on. So the function is another
    one while this optimiser makes a step, and only then. Other optimisers do not call it.
    """
    if not isinstance(optimizer, muon.Muon):
        return
    plain = optimizer.step

    def step(self: torch.optim.Optimizer, closure: Any = None) -> Any:
        former = muon.zeropower_via_newtonschulz
        muon.zeropower_via_newtonschulz = functools.partial(former, dtype=torch.float32)
        try:
            return plain(closure)
        finally:
            muon.zeropower_via_newtonschulz = former

    optimizer.step = types.MethodType(step, optimizer)  # a method, since torch's schedulers wrap what is one


class Schedule:
    """Sets the learning rate for an update, given its number alone, so that a resumed run needs no state of it.

    Args:
        recipe: `sched`, `epochs`, `warmup_epochs` and `lr` are used.
        optimizer: Whose learning rates are set.
        updates: Per epoch.
    """

    def __init__(self, recipe: Recipe, optimizer: torch.optim.Optimizer, updates: int) -> None:
        self.stepped = recipe.sched == "onecycle"  # torch's count their own steps, timm's are told
        if self.stepped:
            total, rise = recipe.epochs * updates, min(0.5, recipe.warmup_epochs / recipe.epochs)
            total += total < _FEW
            if abs(rise * total - 1) < 1e-6:  # a warm-up of one update has no length, which torch divides by
                rise = 0.0
            self.scheduler = OneCycleLR(
                optimizer,
                [recipe.lr * group.get("lr_scale", 1.0) for group in optimizer.param_groups],
                total_steps=total,
                pct_start=rise,
                anneal_strategy="linear",
                cycle_momentum=False,
            )
            return
        self.scheduler, _ = create_scheduler_v2(
            optimizer,
            recipe.sched,
            num_epochs=recipe.epochs,
            warmup_epochs=min(recipe.warmup_epochs, recipe.epochs / 2),
            warmup_lr=recipe.lr / 100,
            step_on_epochs=False,
            updates_per_epoch=updates,
        )

    def set(self, update: int) -> None:
        """To be called before `update`, counted from 0 over the whole run."""
        if not self.stepped:
            self.scheduler.step_update(update)
            return
        with warnings.catch_warnings():  # that no update came before: true after resuming, where it catches up
            warnings.simplefilter("ignore")
            while self.scheduler.last_epoch < update:
                self.scheduler.step()
