"""Perceptrons that share their layers, and curves over numbers. Plain PyTorch: copy this file wherever you like.

Sources: Gorishniy et al. 2025, "TabM: Advancing Tabular Deep Learning with Parameter-Efficient Ensembling", sections
3.3 and 3.4 (TabM-mini); Gorishniy et al. 2022, "On Embeddings for Numerical Features in Tabular Deep Learning", section
3.2 (piecewise-linear encoding).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class PiecewiseLinear(nn.Module):
    """A piecewise-linear curve over each of D numbers in [-1, 1], for each of its E features: `(N, D)` to `(N, D E)`.

    At first the curves are lines; beyond -1 and 1 they are flat.

    Args:
        num_numbers: D.
        size: E.
        num_pieces: Pieces of equal length between -1 and 1.
    """

    def __init__(self, num_numbers: int, size: int, num_pieces: int) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.empty(num_numbers, size).uniform_(-1, 1))
        self.slope = nn.Parameter(torch.empty(num_numbers, size).uniform_(-1, 1))
        self.rise = nn.Parameter(torch.zeros(num_numbers, num_pieces, size))

    def forward(self, numbers: Tensor) -> Tensor:
        """Map numbers `(N, D)` to features `(N, D E)`."""
        numbers = numbers.clamp(-1, 1)
        pieces = self.rise.shape[1]
        place = (numbers + 1) * (pieces / 2)
        starts = torch.arange(pieces, dtype=numbers.dtype, device=numbers.device)
        shares = (place[:, :, None] - starts).clamp(0, 1)  # (N, D, pieces): how much of each lies below
        curves = torch.einsum("ndp,dpe->nde", shares, self.rise)
        return (self.offset + self.slope * numbers[:, :, None] + curves).flatten(1)


class Heads(nn.Module):
    """A linear layer for each member: `(N, M, H)` to `(N, M, K)`."""

    def __init__(self, members: int, width: int, num_outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(members, width, num_outputs).uniform_(-(width**-0.5), width**-0.5))
        self.bias = nn.Parameter(torch.zeros(members, num_outputs))

    def forward(self, hidden: Tensor) -> Tensor:
        """Map what each member holds to its outputs."""
        return torch.einsum("nmh,mhk->nmk", hidden, self.weight) + self.bias


class TabM(nn.Module):
    """Perceptrons that share their hidden layers; each scales the features by factors and has a head of its own.

    In training each row is answered by one member, in turn, so that the loss is an estimate of the mean of the members'
    losses. In evaluation the members' answers are averaged.

    Args:
        num_numbers: Numbers a row, D.
        num_outputs: Outputs a row, K.
        category_sizes: For each category column its number of codes; code 0 stands for missing and unseen.
        ranks: Which of the numbers are ranks in [-1, 1]; they become curves. The others enter as they are.
        token_size: Features of each rank and category, E.
        num_pieces: Pieces of the curves.
        members: How many perceptrons.
        widths: Units of each hidden layer.
        dropout: Share of hidden units dropped in training, in [0, 1).
        task: What is averaged: `regression`, the outputs; `multiclass`, the probabilities of softmax; `binary` and
            `multilabel`, those of the sigmoid. The last two are given as logits.
    """

    def __init__(
        self,
        num_numbers: int,
        num_outputs: int,
        category_sizes: Sequence[int] = (),
        ranks: Sequence[int] = (),
        token_size: int = 16,
        num_pieces: int = 32,
        members: int = 8,
        widths: Sequence[int] = (128, 128),
        dropout: float = 0.0,
        task: str = "regression",
    ) -> None:
        super().__init__()
        self.task = task
        if {*ranks} - {*range(num_numbers)} or len({*ranks}) < len(ranks):
            raise ValueError(f"ranks is {list(ranks)}, and there are {num_numbers} numbers, counted from 0")
        plain = sorted({*range(num_numbers)} - {*ranks})
        self.plain, self.ranked = plain, list(ranks)
        self.curves = PiecewiseLinear(len(ranks), token_size, num_pieces) if ranks else None
        self.embeddings = nn.ModuleList(nn.Embedding(size, token_size) for size in category_sizes)
        for embedding in self.embeddings:
            assert isinstance(embedding, nn.Embedding)
            nn.init.uniform_(embedding.weight, -1, 1)
            with torch.no_grad():
                embedding.weight[0] = 0.0  # unseen: no opinion, until a row of training says otherwise
        tokens = torch.randn(members, len(ranks) + len(category_sizes)).repeat_interleave(token_size, dim=1)
        scale = torch.empty(members, len(plain) + tokens.shape[1])
        scale[:, : len(plain)] = torch.randn(members, len(plain))
        scale[:, len(plain) :] = tokens
        # a factor for each feature, at first the same for all of a token
        self.scale = nn.Parameter(scale)
        layers: list[nn.Module] = []
        width_in = self.scale.shape[1]
        for width in widths:
            layers += [nn.Linear(width_in, width), nn.ReLU(), nn.Dropout(dropout)]
            width_in = width
        self.hidden = nn.Sequential(*layers)
        self.head = Heads(members, width_in, num_outputs)

    def forward(self, numbers: Tensor, categories: Tensor) -> Tensor:
        """Map numbers `(N, D)`, float, and category codes `(N, C)`, int64, to outputs `(N, K)`."""
        embedded = [embedding(categories[:, i]) for i, embedding in enumerate(self.embeddings)]
        curves = [] if self.curves is None else [self.curves(numbers[:, self.ranked])]
        features = torch.cat([numbers[:, self.plain], *curves, *embedded], dim=1)
        if not self.training:
            hidden = torch.stack([self.hidden(features * scale) for scale in self.scale], dim=1)
            return self.average(self.head(hidden))
        members = len(self.scale)
        turn = (torch.arange(len(features)) + torch.randint(members, ())) % members
        whose = functional.one_hot(turn, members).to(features)  # (N, M)
        hidden = self.hidden(features * (whose @ self.scale))
        outputs: Tensor = self.head(hidden[:, None].expand(-1, members, -1))
        return (whose[:, :, None] * outputs).sum(dim=1)

    def average(self, outputs: Tensor) -> Tensor:
        """Return the mean of the members' outputs `(N, M, K)`, or the logits of their mean probabilities."""
        if self.task == "regression":
            return outputs.mean(dim=1)
        if self.task == "multiclass":
            return outputs.log_softmax(dim=2).logsumexp(dim=1) - math.log(outputs.shape[1])
        yes, no = functional.logsigmoid(outputs), functional.logsigmoid(-outputs)
        return yes.logsumexp(dim=1) - no.logsumexp(dim=1)
