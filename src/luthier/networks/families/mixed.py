"""Numbers, categories and text in one network, one branch a kind. Plain PyTorch: copy this file wherever you like.

Source of the default reading of text, the mean of word embeddings: Joulin et al. 2016, "Bag of Tricks for Efficient
Text Classification", section 2.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh}


class TextReader(nn.Module):
    """Token numbers to features of a fixed size; how long the neighbours in a batch are changes nothing.

    Args:
        vocabulary_size: Tokens known, V; token 0 fills rows up.
        size: Numbers a token, E.
        reader: `mean` of the embeddings alone; or beside it the maximum over a `conv` of three tokens, an `lstm` or a
            `gru` in both directions.
        token_dropout: Share of tokens passed over in training, in [0, 1).
    """

    def __init__(self, vocabulary_size: int, size: int, reader: str, token_dropout: float) -> None:
        super().__init__()
        self.token_dropout = token_dropout
        self.embedding = nn.Embedding(vocabulary_size, size, padding_idx=0)
        nn.init.normal_(self.embedding.weight, std=0.1)
        with torch.no_grad():
            self.embedding.weight[0] = 0.0
        self.reader: nn.Module | None = None
        if reader == "conv":
            self.reader = nn.Conv1d(size, size, 3, padding=1)
        elif reader in ("lstm", "gru"):
            recurrent = nn.LSTM if reader == "lstm" else nn.GRU
            self.reader = recurrent(size, size // 2, bidirectional=True, batch_first=True)
        elif reader != "mean":
            raise ValueError(f"reader is {reader!r}, of mean, conv, lstm and gru")
        self.size = size if self.reader is None else 2 * size

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens `(N, T)`, int64, to features `(N, F)`."""
        known = tokens != 0
        length = known.sum(dim=1)  # (N,)
        longest = max(int(length.max()), 1)  # what no row of the batch has need not be read
        known, embedded = known[:, :longest, None], self.embedding(tokens[:, :longest])  # (N, T, E)
        if self.training and self.token_dropout:
            kept = torch.rand(embedded.shape[:2], device=tokens.device) >= self.token_dropout
            embedded = embedded * kept[:, :, None]
        mean: Tensor = embedded.sum(dim=1) / length.clamp(min=1)[:, None]
        if self.reader is None:
            return mean
        if isinstance(self.reader, nn.Conv1d):
            read = torch.relu(self.reader(embedded.transpose(1, 2))).transpose(1, 2)
        else:
            packed = pack_padded_sequence(embedded, length.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False)
            read, _ = pad_packed_sequence(self.reader(packed)[0], batch_first=True, total_length=longest)
        lowest = torch.finfo(read.dtype).min
        most = read.masked_fill(~known, lowest).amax(dim=1)
        return torch.cat([mean, most.masked_fill(length[:, None] == 0, 0.0)], dim=1)


class Mixed(nn.Module):
    """Numbers as they are, embedded categories and read texts, side by side; then linear layers.

    Args:
        num_numbers: Numbers a row, D.
        num_outputs: Outputs a row, K.
        vocabulary_sizes: For each column of text the tokens known, M of them.
        category_sizes: For each category column its number of codes; code 0 stands for missing and unseen.
        embedding_sizes: For each category column the width of its embedding.
        token_size: Numbers a token.
        reader: How a text is read: `mean`, `conv`, `lstm` or `gru`.
        token_dropout: Share of tokens passed over in training, in [0, 1).
        widths: Units of each hidden layer; none for text alone is often best.
        activation: A key of `ACTIVATIONS`.
        dropout: Share of features and hidden units dropped in training, in [0, 1).
    """

    def __init__(
        self,
        num_numbers: int,
        num_outputs: int,
        vocabulary_sizes: Sequence[int],
        category_sizes: Sequence[int] = (),
        embedding_sizes: Sequence[int] = (),
        token_size: int = 64,
        reader: str = "mean",
        token_dropout: float = 0.3,
        widths: Sequence[int] = (),
        activation: str = "relu",
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList(
            nn.Embedding(size, width) for size, width in zip(category_sizes, embedding_sizes, strict=True)
        )
        readers = [TextReader(size, token_size, reader, token_dropout) for size in vocabulary_sizes]
        self.readers = nn.ModuleList(readers)
        width_in = num_numbers + sum(embedding_sizes) + sum(reader.size for reader in readers)
        layers: list[nn.Module] = [nn.Dropout(dropout)]
        for width in widths:
            layers += [nn.Linear(width_in, width), ACTIVATIONS[activation](), nn.Dropout(dropout)]
            width_in = width
        self.hidden = nn.Sequential(*layers)
        self.head = nn.Linear(width_in, num_outputs)

    def forward(self, numbers: Tensor, categories: Tensor, tokens: Tensor) -> Tensor:
        """Map numbers `(N, D)`, category codes `(N, C)`, int64, and tokens `(N, M, T)`, int64, to outputs `(N, K)`."""
        embedded = [embedding(categories[:, i]) for i, embedding in enumerate(self.embeddings)]
        texts = [reader(tokens[:, i]) for i, reader in enumerate(self.readers)]
        logits: Tensor = self.head(self.hidden(torch.cat([numbers, *embedded, *texts], dim=1)))
        return logits
