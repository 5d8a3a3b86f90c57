"""How weights are stored: the one place that says in which number formats.

Of a model with more than `LARGE` parameters, kernels and matrices are stored as float16; everything else is stored as it
is. That halves the file. float16 is used and not bfloat16: trained weights lie well within its range (up to 65,504), and it
keeps each number eight times as exactly (11 bits instead of 8). Vectors (biases, and what batch norms hold) stay in fp32,
since they are few and a running variance may exceed that range. The first convolution also stays in fp32: it is small, and
the 3-channel twin of a checkpoint has a third of it, so both have the same numbers in all other layers and no further error.

What is measured is measured with the numbers as they are stored. After loading, a model is in fp32 and has these numbers.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from .checkpoints import read_weights
from .errors import CheckpointError
from .files import atomic

LARGE = 500_000  # parameters; models up to this size are stored as they are


def stored(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Weights in the number formats in which they are stored. Storing them again changes nothing.

    A tensor that is not finite in float16 stays as it is.

    Args:
        state: A state dict of the model.
        model: The model, which may be on the meta device; it is not changed.

    Returns:
        The same names. Tensors whose format does not change are the given ones.
    """
    if sum(p.numel() for p in model.parameters()) <= LARGE:
        return dict(state)
    first = (getattr(model, "pretrained_cfg", None) or {}).get("first_conv") or ()
    full = {f"{name}.weight" for name in ((first,) if isinstance(first, str) else first)}
    return {name: tensor if name in full else _halved(tensor) for name, tensor in state.items()}


def _halved(tensor: Tensor) -> Tensor:
    if tensor.dim() < 2 or not tensor.is_floating_point() or tensor.element_size() <= 2:
        return tensor
    half = tensor.to(torch.float16)
    return half if half.isfinite().all() else tensor


def is_stored(state: Mapping[str, Tensor], model: nn.Module) -> bool:
    """Whether weights are in the number formats in which they are stored; see `stored`."""
    return all(tensor.dtype == state[name].dtype for name, tensor in stored(state, model).items())


def check_stored(path: Path, model: nn.Module, advice: str) -> None:
    """Sees that a file has the number formats in which weights are stored, so that what was measured is what it has.

    Args:
        path: A safetensors file of the model's weights.
        model: The model.
        advice: What to do otherwise.

    Raises:
        CheckpointError: It has others.
    """
    if not is_stored(read_weights(path, model), model):
        raise CheckpointError(
            f"{path} is in full precision. Models of more than {LARGE:,} parameters are stored in half precision, and "
            f"measured so. {advice}"
        )


@torch.no_grad()
def round_as_stored(model: nn.Module) -> None:
    """Gives a model the numbers that it will have after it was stored and loaded again, in place."""
    model.load_state_dict(stored(model.state_dict(), model), strict=True)


def save_weights(model: nn.Module, path: str | Path) -> None:
    """Writes the weights of a model as a safetensors file, in the number formats in which they are stored.

    Raises:
        OSError: The file cannot be written; one that was there before is unchanged.
    """
    # Copies, since safetensors refuses tensors that share memory.
    state = {k: v.detach().cpu().contiguous().clone() for k, v in stored(model.state_dict(), model).items()}
    with atomic(path) as temporary:
        save_file(state, temporary, metadata=dict(format="pt"))
