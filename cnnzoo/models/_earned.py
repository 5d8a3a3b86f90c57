"""Labels and temperature, which belong to the weights that earned them and go when those do."""

import torch
from torch import Tensor, nn

_TOLERANCE = 0.01  # of each parameter's norm; another number format changes it by less, another training by more


class Earned(nn.Module):
    """A module that knows the names of its classes and its calibration as long as it has the weights they were set for.

    Attributes:
        labels: Names of the classes, by index. Empty for a model that is untrained, has a new classifier, has loaded other
            weights, or was trained on; set them again if they are still right.
        temperature: What logits are divided by before they are taken for probabilities; 1 where the weights are not those
            that it was found for. `forward` gives logits as they are.
    """

    __jit_unused_properties__ = ["labels", "temperature"]
    _earned_labels: tuple[tuple[str, ...], Tensor] | None = None
    _earned_temperature: tuple[float, Tensor] | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        return self._earned_labels[0] if self._is_still(self._earned_labels) else ()

    @labels.setter
    def labels(self, names: tuple[str, ...]) -> None:
        self._earned_labels = (tuple(names), self._norms())

    @property
    def temperature(self) -> float:
        return self._earned_temperature[0] if self._is_still(self._earned_temperature) else 1.0

    @temperature.setter
    def temperature(self, value: float) -> None:
        self._earned_temperature = (value, self._norms())

    def _is_still(self, earned: tuple | None) -> bool:
        if earned is None:
            return False
        norms = self._norms()
        return norms.shape == earned[1].shape and torch.allclose(norms, earned[1], rtol=_TOLERANCE, atol=1e-6)

    @torch.no_grad()
    def _norms(self) -> Tensor:
        """The norm of each parameter, `(number of parameters,)`: tells one training from another at little cost."""
        weights = [p.detach() for p in self.parameters()]
        if not weights or any(p.is_meta for p in weights):
            return torch.zeros(len(weights))
        return torch.stack(torch._foreach_norm([p.float() for p in weights])).cpu()
