"""From pixels to probabilities as one module, with batch norms folded into the convolutions before them."""

import copy

import torch
from torch import Tensor, nn

from .. import data, inference
from ..errors import InputError
from ..folding import fold


class Pipeline(nn.Module):
    """A model with its preprocessing.

    Args:
        model: In evaluation mode.
        mean, std: Per channel.
        input_size: Channels, height, width that the model is made for.
        dtype: Of the arithmetic.
        preprocess: Take uint8 images and give (logits, probabilities); otherwise normalised ones, and logits alone.
        temperature: What logits are divided by before they are taken for probabilities.

    Shape: `(B, C, H, W)` to `(B, K)`, fp32.
    """

    def __init__(
        self,
        model: nn.Module,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        input_size: tuple[int, int, int],
        dtype: torch.dtype,
        preprocess: bool,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        self.model = model
        self.input_size, self.dtype, self.preprocess = input_size, dtype, preprocess
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))
        self.temperature = temperature

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        if not self.preprocess:
            return self.model(images.to(self.dtype)).float()
        x = (images.float() / 255 - self.mean) / self.std
        logits = self.model(x.to(self.dtype)).float()
        return logits, (logits / self.temperature).softmax(1)


def make_pipeline(model: nn.Module, dtype: torch.dtype, preprocess: bool) -> Pipeline:
    """The pipeline of a copy of `model`, on the CPU, folded.

    Raises:
        InputError: It is no timm model, so nothing says what images it takes.
    """
    images = data.images_of(model)
    size = images["input_size"]
    try:
        plain = copy.deepcopy(model).cpu().float().eval().requires_grad_(False)
    except RuntimeError as e:  # torch's own pruning keeps weights that are computed in each pass
        raise InputError(
            f"The {type(model).__name__} cannot be copied ({str(e).splitlines()[0]}). If it was pruned, make that final: "
            "torch.nn.utils.prune.remove(layer, 'weight')."
        ) from e
    folded = fold(plain, torch.zeros(1, *size)).to(dtype)
    return Pipeline(folded, images["mean"], images["std"], size, dtype, preprocess, inference.temperature(model)).eval()
