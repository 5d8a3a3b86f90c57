"""Class names and the temperature of the calibration: they are dropped when the weights that they belong to change."""

from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError

_TOLERANCE = 0.01  # of each parameter's norm; another number format changes it by less, another training by more
_ROUNDING = 0.005  # of the norm of the classifier's weights, by which they may differ; bfloat16 rounds each by 0.004


class Earned(nn.Module):
    """A module that knows the names of its classes and its calibration as long as it has the weights they were set for.

    Attributes:
        labels: Names of the classes, by index. Empty for a model that is untrained, has a new classifier, has loaded other
            weights, or was trained on; set them again if they are still right. They stay when layers are merged or batch
            norms are frozen, which changes no answer.
        temperature: What logits are divided by before they are taken for probabilities; 1 where the weights are not those
            that it was found for. `forward` gives logits as they are.

    Raises:
        InputError: They are set to something else: not one text for each class, or no positive number.
    """

    # TorchScript cannot say what a text or nothing is, and no pass needs them.
    __jit_unused_properties__ = ["labels", "temperature"]
    __jit_ignored_attributes__ = ["_earned_labels", "_earned_temperature"]
    _earned_labels: Any = None
    _earned_temperature: Any = None

    @property
    def labels(self) -> tuple[str, ...]:
        return self._earned("_earned_labels", ())

    @labels.setter
    def labels(self, names: Sequence[str]) -> None:
        names, classes = tuple(names), getattr(self, "num_classes", len(names))
        if names and (len(names) != classes or not all(isinstance(name, str) for name in names)):
            raise InputError(
                f"{len(names)} labels were given, {', '.join(map(repr, names))[:60]}; one text for each of the model's "
                f"{classes} classes is needed, or none. Build the model with num_classes={len(names)} for so many."
            )
        self._earned_labels = (names, *self._norms())

    @property
    def temperature(self) -> float:
        return self._earned("_earned_temperature", 1.0)

    @temperature.setter
    def temperature(self, value: float) -> None:
        if isinstance(value, bool) or not isinstance(value, Real) or not 0 < value < float("inf"):
            raise InputError(f"temperature={value!r} was given; a positive number is needed. Pass 1 for none.")
        self._earned_temperature = (value, *self._norms())

    def _earned(self, name: str, otherwise: Any) -> Any:
        """What was set, if the weights are still those."""
        if (earned := getattr(self, name)) is None:
            return otherwise
        value, norms, last = earned
        now, last_now = self._norms()
        # Merging and freezing change how many parameters there are, but not the classifier.
        if last.shape != last_now.shape or (last - last_now).norm() > _ROUNDING * last.norm():
            return otherwise
        if now.shape == norms.shape:
            return value if torch.allclose(now, norms, rtol=_TOLERANCE, atol=1e-6) else otherwise
        if not len(last):
            return otherwise
        setattr(self, name, (value, now, last))  # from here on, these are the weights
        return value

    @torch.no_grad()
    def _norms(self) -> tuple[Tensor, Tensor]:
        """The norms of all parameters, `(number of parameters,)`, and the classifier's weights, `(number of weights,)`: they
        tell one training from another at little cost."""
        last = list(self.get_classifier().parameters()) if hasattr(self, "get_classifier") else []
        weights = torch.zeros(0) if any(p.is_meta for p in last) else torch.cat([torch.zeros(0), *(_flat(p) for p in last)])
        return _norms_of(self.parameters()), weights


def _norms_of(parameters: Iterable[nn.Parameter]) -> Tensor:
    weights = [p.detach() for p in parameters]
    if not weights or any(p.is_meta for p in weights):
        return torch.zeros(len(weights))
    return torch.stack(torch._foreach_norm([p.float() for p in weights])).cpu()


def _flat(p: nn.Parameter) -> Tensor:
    return p.detach().float().cpu().flatten()
