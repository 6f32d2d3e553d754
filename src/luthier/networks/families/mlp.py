"""A multilayer perceptron over numbers and categories. Plain PyTorch: copy this file wherever you like."""

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


class MLP(nn.Module):
    """Linear layers with normalisation, activation and dropout, over numbers and embedded categories.

    Args:
        num_numbers: Numbers a row, D.
        num_outputs: Outputs a row, K.
        category_sizes: For each category column its number of codes; code 0 stands for missing and unseen.
        embedding_sizes: For each category column the width of its embedding.
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
        layers: list[nn.Module] = []
        width_in = num_numbers + sum(embedding_sizes)
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
        logits: Tensor = self.head(self.hidden(torch.cat([numbers, *embedded], dim=1)))
        return logits
