"""What layers cost that are no convolutions."""

import pytest
import torch
from torch import nn

from cnnzoo.summary import count


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_recurrent_layers_cost_what_their_matrix_products_cost(kind):
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.read = getattr(nn, kind)(28, 16, batch_first=True)

        def forward(self, x):
            return self.read(x.squeeze(1))[0][:, -1]

    gates = dict(LSTM=4, GRU=3)[kind]
    assert count(Reader(), (1, 28, 28)).macs == 28 * gates * 16 * (28 + 16)


def test_a_matrix_times_a_vector_is_counted():
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(10, 784))

        def forward(self, x):
            return (self.w @ x.flatten())[None]

    assert count(Flat(), (1, 28, 28)).macs == 7840
