"""A multilayer perceptron over numbers and categories. Plain PyTorch: copy this file wherever you like.

Source of the embeddings of numbers: Gorishniy et al. 2022, "On Embeddings for Numerical Features in Tabular Deep
Learning", section 3.3 (periodic activations, then a linear layer and ReLU for each number).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
}


class NumberEmbedding(nn.Module):
    """Waves of learnt frequencies over each number, then a linear layer and ReLU of its own: `(N, D)` to `(N, D E)`.

    Args:
        num_numbers: D.
        size: Features of each number, E.
        num_waves: Frequencies of each number.
        frequency: Standard deviation of the frequencies at first. High ones tell apart what differs little.
    """

    def __init__(self, num_numbers: int, size: int, num_waves: int, frequency: float) -> None:
        super().__init__()
        self.frequencies = nn.Parameter(torch.randn(num_numbers, num_waves) * frequency)
        self.weight = nn.Parameter(torch.randn(num_numbers, 2 * num_waves, size) * (2 * num_waves) ** -0.5)
        self.bias = nn.Parameter(torch.zeros(num_numbers, size))

    def forward(self, numbers: Tensor) -> Tensor:
        """Map numbers `(N, D)` to features `(N, D E)`."""
        angles = 2 * math.pi * self.frequencies * numbers[:, :, None]  # (N, D, waves)
        waves = torch.cat([angles.sin(), angles.cos()], dim=2)
        return torch.relu(torch.einsum("ndw,dwe->nde", waves, self.weight) + self.bias).flatten(1)


class MLP(nn.Module):
    """Linear layers with normalisation, activation and dropout, over numbers and embedded categories.

    Args:
        num_numbers: Numbers a row, D.
        num_outputs: Outputs a row, K.
        category_sizes: For each category column its number of codes; code 0 stands for missing and unseen.
        embedding_sizes: For each category column the width of its embedding.
        number_size: Features that each number becomes beside itself, E; 0 for none.
        number_frequency: Of the waves that these are made of.
        widths: Units of each hidden layer.
        activation: A key of `ACTIVATIONS`.
        dropout: Share of hidden units dropped in training, in [0, 1).
        batch_norm: Normalise each hidden layer over the batch.
    """

    def __init__(
        self,
        num_numbers: int,
        num_outputs: int,
        category_sizes: Sequence[int] = (),
        embedding_sizes: Sequence[int] = (),
        number_size: int = 0,
        number_frequency: float = 5.0,
        widths: Sequence[int] = (128, 128),
        activation: str = "relu",
        dropout: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList(
            nn.Embedding(size, width) for size, width in zip(category_sizes, embedding_sizes, strict=True)
        )
        for embedding in self.embeddings:
            assert isinstance(embedding, nn.Embedding)
            nn.init.normal_(embedding.weight, std=embedding.embedding_dim**-0.5)
            with torch.no_grad():
                embedding.weight[0] = 0.0  # unseen: no opinion, until a row of training says otherwise
        has_waves = bool(num_numbers and number_size)
        self.waves = NumberEmbedding(num_numbers, number_size, 24, number_frequency) if has_waves else None
        layers: list[nn.Module] = []
        width_in = num_numbers + sum(embedding_sizes) + (num_numbers * number_size if has_waves else 0)
        for width in widths:
            layers.append(nn.Linear(width_in, width, bias=not batch_norm))
            if batch_norm:
                layers.append(nn.BatchNorm1d(width))
            layers.append(ACTIVATIONS[activation]())
            if dropout:
                layers.append(nn.Dropout(dropout))
            width_in = width
        self.hidden = nn.Sequential(*layers)
        self.head = nn.Linear(width_in, num_outputs)

    def forward(self, numbers: Tensor, categories: Tensor) -> Tensor:
        """Map numbers `(N, D)`, float, and category codes `(N, C)`, int64, to outputs `(N, K)`."""
        embedded = [embedding(categories[:, i]) for i, embedding in enumerate(self.embeddings)]
        waves = [] if self.waves is None else [self.waves(numbers)]
        logits: Tensor = self.head(self.hidden(torch.cat([numbers, *waves, *embedded], dim=1)))
        return logits
