"""A recurrent network over series. Plain PyTorch: copy this file wherever you like.

Source: Hochreiter and Schmidhuber 1997, "Long Short-Term Memory"; Cho et al. 2014 for the GRU; Schuster and Paliwal
1997 for both directions.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

CELLS: dict[str, Callable[..., nn.RNNBase]] = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
POOLINGS = ("last", "mean", "max", "all")


class RecurrentNet(nn.Module):
    """An RNN, LSTM or GRU over the steps of a series, its states pooled, then a linear layer.

    How long the neighbours in a batch are changes no row's output but by rounding: rows are packed.

    Args:
        channels: Values a step, C.
        num_outputs: Outputs a series, K.
        cell: `rnn`, `lstm` or `gru`.
        hidden_size: Units of each layer and direction, H.
        num_layers: Layers.
        bidirectional: Whether a second reading goes from the end to the start.
        pooling: What of the states goes on: the `last` of each direction, their `mean` or `max` over the steps, or
            `all` of these.
        dropout: Share of states dropped between layers and before the last layer in training, in [0, 1).
    """

    def __init__(
        self,
        channels: int,
        num_outputs: int,
        cell: str = "gru",
        hidden_size: int = 64,
        num_layers: int = 2,
        bidirectional: bool = True,
        pooling: str = "all",
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        if cell not in CELLS or pooling not in POOLINGS:
            known = f"cell is one of {', '.join(CELLS)}, pooling one of {', '.join(POOLINGS)}"
            raise ValueError(f"cell is {cell!r} and pooling {pooling!r}: {known}")
        self.pooling = pooling
        self.recurrent = CELLS[cell](
            channels,
            hidden_size,
            num_layers,
            batch_first=True,
            bidirectional=bidirectional,
            dropout=dropout if num_layers > 1 else 0.0,
        )
        self.dropout = nn.Dropout(dropout)
        size = hidden_size * (1 + bidirectional)
        self.head = nn.Linear(size * (3 if pooling == "all" else 1), num_outputs)

    def forward(self, values: Tensor, lengths: Tensor) -> Tensor:
        """Map values `(N, C, L)` and lengths `(N,)`, int64, to outputs `(N, K)`."""
        longest = values.shape[2] if torch.compiler.is_exporting() else max(int(lengths.max()), 1)
        inside = torch.arange(longest, device=values.device) < lengths[:, None]  # (N, L)
        steps = torch.where(inside[:, None], values[:, :, :longest], 0.0).transpose(1, 2)  # (N, L, C)
        if torch.compiler.is_exporting():  # an export puts there what reads rows without packing
            states, last = self.recurrent(steps, lengths.clamp(min=1))
        else:
            packed = pack_padded_sequence(steps, lengths.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False)
            states, final = self.recurrent(packed)
            states, _ = pad_packed_sequence(states, batch_first=True, total_length=longest)  # (N, L, F)
            last = final[0] if isinstance(final, tuple) else final  # (layers and directions, N, H)
        pooled = {
            "last": torch.cat([last[-2], last[-1]], dim=1) if self.recurrent.bidirectional else last[-1],
            "mean": states.sum(dim=1) / lengths.clamp(min=1)[:, None],
            "max": states.masked_fill(~inside[:, :, None], torch.finfo(states.dtype).min).amax(dim=1),
        }
        chosen = list(pooled.values()) if self.pooling == "all" else [pooled[self.pooling]]
        features = torch.cat(chosen, dim=1) * (lengths > 0)[:, None]
        logits: Tensor = self.head(self.dropout(features))
        return logits
