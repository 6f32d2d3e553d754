"""Numbers, categories, text, series and images in one network, one branch a kind. Plain PyTorch: copy this file, and
that of `TabM`, wherever you like.

Sources of the default reading of text: Joulin et al. 2016, "Bag of Tricks for Efficient Text Classification", section 2
(the mean of word embeddings, and hashed n-grams); Bojanowski et al. 2017, "Enriching Word Vectors with Subword
Information", section 3.2 (n-grams of characters within words).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from luthier.networks.families.tabm import TabM

STRENGTH = 3.0  # n-grams learn so many times as fast as other weights
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
        is_exporting = torch.compiler.is_exporting()  # else what no row of the batch has need not be read
        longest = tokens.shape[1] if is_exporting else max(int(length.max()), 1)
        known, embedded = known[:, :longest, None], self.embedding(tokens[:, :longest])  # (N, T, E)
        if self.training and self.token_dropout:
            kept = torch.rand(embedded.shape[:2], device=tokens.device) >= self.token_dropout
            embedded = embedded * kept[:, :, None]
        mean: Tensor = embedded.sum(dim=1) / length.clamp(min=1)[:, None]
        if self.reader is None:
            return mean
        if isinstance(self.reader, nn.Conv1d):
            read = torch.relu(self.reader(embedded.transpose(1, 2))).transpose(1, 2)
        elif is_exporting:  # an export puts there what reads rows without packing
            read, _ = self.reader(embedded, length.clamp(min=1))
        else:
            packed = pack_padded_sequence(embedded, length.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False)
            read, _ = pad_packed_sequence(self.reader(packed)[0], batch_first=True, total_length=longest)
        lowest = torch.finfo(read.dtype).min
        most = read.masked_fill(~known, lowest).amax(dim=1)
        return torch.cat([mean, most.masked_fill(length[:, None] == 0, 0.0)], dim=1)


class NGrams(nn.Module):
    """What hashed n-grams say: of one to five characters within words, with the spaces around them, and of one or two
    tokens. The numbers of those that a text has are added, and divided by the root of how many there are.

    Args:
        buckets: Rows of numbers; n-grams whose hashes meet share one. Row 0 is of none.
        num_outputs: Numbers a row, K.
        strength: They learn so many times as fast as other weights.
    """

    def __init__(self, buckets: int, num_outputs: int, strength: float = STRENGTH) -> None:
        super().__init__()
        self.strength = strength
        self.weight = nn.Parameter(torch.zeros(buckets, num_outputs))

    def forward(self, characters: Tensor, tokens: Tensor) -> Tensor:
        """Map characters `(N, L)` and tokens `(N, T)`, integers filled up with 0, to outputs `(N, K)`."""
        with torch.no_grad():
            found = self.places(characters.long(), range(1, 6), base=1_000_003, apart=ord(" "))
            found += self.places(tokens, range(1, 3), base=998_244_353)
            places = torch.cat(found, dim=1)  # (N, G)
            if torch.compiler.is_exporting():  # by order: a table of all buckets a row is slow elsewhere
                places = places.sort(dim=1).values
                is_there = (places != nn.functional.pad(places[:, :-1], (1, 0))) & (places != 0)
            else:
                is_there = torch.cat([self.are_new(part) for part in places.split(16)])  # in the cache
            shares = self.strength * is_there / is_there.sum(dim=1, keepdim=True).clamp(min=1).sqrt()
        said = self.weight.index_select(0, places.flatten())  # on the CPU a tenth of an EmbeddingBag's time
        return torch.bmm(shares[:, None].to(said), said.view(*places.shape, self.weight.shape[1]))[:, 0]

    def places(self, codes: Tensor, sizes: range, base: int, apart: int = 0) -> list[Tensor]:
        """Return the bucket of each n-gram of codes `(N, L)`, `(N, L - n + 1)` for each n: 0 for what is none.

        Args:
            codes: From 1 to 2^21; 0 after the end of a row.
            sizes: Which n.
            base: Of the polynomial that is the hash.
            apart: A code that does not stand inside an n-gram, but at its ends.
        """
        if not torch.compiler.is_exporting():
            codes = codes[:, : max(int((codes != 0).sum(dim=1).max()), sizes.stop)]
        hashes, is_apart = codes, torch.zeros_like(codes, dtype=torch.bool)
        found = []
        for n in range(1, min(sizes.stop, codes.shape[1] + 1)):
            if n > 1:
                hashes = (hashes[:, :-1] * base + codes[:, n - 1 :]) & 0x7FFFFFFF  # no product leaves 64 bits
                is_apart = is_apart[:, :-1]
            if n > 2:
                is_apart = is_apart | (codes[:, n - 2 : -1] == apart)
            if n in sizes:
                is_none = is_apart | (codes[:, n - 1 :] == 0)
                found.append((hashes % (len(self.weight) - 1) + 1).masked_fill(is_none, 0))
        return found

    def are_new(self, places: Tensor) -> Tensor:
        """Return which places `(N, G)` are counted: of equal ones in a row one, and none that is 0."""
        order = torch.arange(places.shape[1], dtype=torch.int32, device=places.device).expand_as(places)
        kept = order.new_empty(len(places), len(self.weight)).scatter_(1, places, order)
        return (kept.gather(1, places) == order) & (places != 0)


class SeriesReader(nn.Module):
    """Series to features of a fixed size; how long the neighbours in a batch are changes nothing.

    Args:
        channels: C.
        size: Filters of each layer; twice as many features come out.
    """

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(channels, size, 7, padding=3)
        self.second = nn.Conv1d(size, size, 5, padding=2)
        self.size = 2 * size

    def forward(self, values: Tensor, lengths: Tensor) -> Tensor:
        """Map values `(N, C, L)` and lengths `(N,)`, int64, to features `(N, F)`."""
        longest = values.shape[2] if torch.compiler.is_exporting() else max(int(lengths.max()), 1)
        inside = torch.arange(longest, device=lengths.device) < lengths[:, None]  # (N, L)
        read = torch.where(inside[:, None], values[:, :, :longest], 0.0)
        read = torch.where(inside[:, None], torch.relu(self.first(read)), 0.0)
        read = torch.where(inside[:, None], torch.relu(self.second(read)), 0.0)  # not below 0, so 0 is no maximum
        mean = read.sum(dim=2) / lengths.clamp(min=1)[:, None]
        return torch.cat([mean, read.amax(dim=2)], dim=1)


class ImageReader(nn.Sequential):
    """Images `(N, C, H, W)` to features `(N, F)`: convolutions, all but the first halving the sides, then the mean.

    Args:
        channels: C.
        widths: Filters of each layer; the last are the features.
        stride: Of the first convolution.
    """

    def __init__(self, channels: int, widths: Sequence[int], stride: int) -> None:
        layers: list[nn.Module] = []
        for place, width in enumerate(widths):
            layers += [
                nn.Conv2d(channels, width, 3, stride=stride if place == 0 else 2, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            ]
            channels = width
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.size = channels


class Mixed(nn.Module):
    """Numbers as they are, embedded categories, read texts, series and images, side by side; then linear layers. What a
    `TabM` says of the table alone is added.

    In training a share of the rows is answered by the table alone: texts are soon learnt by heart, and what they seem
    to explain, the table would not learn.

    Args:
        num_numbers: Numbers a row, D.
        num_outputs: Outputs a row, K.
        vocabulary_sizes: For each column of text the tokens known, M of them; none without text.
        category_sizes: For each category column its number of codes; code 0 stands for missing and unseen.
        embedding_sizes: For each category column the width of its embedding.
        token_size: Numbers a token.
        reader: How a text is read: `mean`, `conv`, `lstm` or `gru`.
        token_dropout: Share of tokens passed over in training, in [0, 1).
        ngram_buckets: Rows of numbers for the hashed n-grams of each column of text, 0 without any; they are added to
            the outputs.
        ngram_strength: The n-grams learn so many times as fast as other weights.
        series_channels: Channels of the series, 0 without any.
        image_channels: Channels of the image, 0 without any.
        image_stride: Of the first convolution over the image.
        widths: Units of each hidden layer; none for text alone is often best.
        activation: A key of `ACTIVATIONS`.
        dropout: Share of features and hidden units dropped in training, in [0, 1).
        members: Of the table's own part. 0: there is none.
        ranks: Which of the numbers are ranks, for the table's part.
        curve_size: Features of each rank and category there.
        table_alone: Share of rows that the table answers alone in training, in [0, 1).
        task: What the members' mean is a mean of; see `TabM`.
    """

    def __init__(
        self,
        num_numbers: int,
        num_outputs: int,
        vocabulary_sizes: Sequence[int] = (),
        category_sizes: Sequence[int] = (),
        embedding_sizes: Sequence[int] = (),
        token_size: int = 64,
        reader: str = "mean",
        token_dropout: float = 0.3,
        ngram_buckets: int = 0,
        ngram_strength: float = STRENGTH,
        series_channels: int = 0,
        image_channels: int = 0,
        image_stride: int = 2,
        widths: Sequence[int] = (),
        activation: str = "relu",
        dropout: float = 0.5,
        members: int = 0,
        ranks: Sequence[int] = (),
        curve_size: int = 16,
        table_alone: float = 0.5,
        task: str = "regression",
    ) -> None:
        super().__init__()
        self.table_alone = table_alone
        self.table = None
        if members:
            columns, ranked = list(category_sizes), list(ranks)
            self.table = TabM(
                num_numbers, num_outputs, columns, ranked, curve_size, members=members, dropout=0.1, task=task
            )
        self.embeddings = nn.ModuleList(
            nn.Embedding(size, width) for size, width in zip(category_sizes, embedding_sizes, strict=True)
        )
        readers = [TextReader(size, token_size, reader, token_dropout) for size in vocabulary_sizes]
        self.readers = nn.ModuleList(readers)
        self.ngrams = nn.ModuleList(
            NGrams(ngram_buckets, num_outputs, ngram_strength) for _ in vocabulary_sizes if ngram_buckets
        )
        width_in = num_numbers + sum(embedding_sizes) + sum(reader.size for reader in readers)
        self.series = SeriesReader(series_channels, 64) if series_channels else None
        width_in += 0 if self.series is None else self.series.size
        self.image = ImageReader(image_channels, (24, 48, 96, 192), image_stride) if image_channels else None
        width_in += 0 if self.image is None else self.image.size
        layers: list[nn.Module] = [nn.Dropout(dropout)]
        for width in widths:
            layers += [nn.Linear(width_in, width), ACTIVATIONS[activation](), nn.Dropout(dropout)]
            width_in = width
        self.hidden = nn.Sequential(*layers)
        self.head = nn.Linear(width_in, num_outputs)

    def forward(self, numbers: Tensor, categories: Tensor, *others: Tensor) -> Tensor:
        """Map a batch to outputs `(N, K)`.

        Args:
            numbers: `(N, D)`.
            categories: Codes `(N, C)`, int64.
            others: Of what there is, in this order: tokens `(N, M, T)`, int64; characters `(N, M, L)`, int32; series
                `(N, C, L)` and their lengths `(N,)`, int64; images `(N, C, H, W)`.
        """
        blocks, said = iter(others), list[Tensor]()
        features = [numbers, *(embedding(categories[:, i]) for i, embedding in enumerate(self.embeddings))]
        if self.readers:
            tokens = next(blocks)
            features += [reader(tokens[:, i]) for i, reader in enumerate(self.readers)]
            if len(others) > 1 + 2 * (self.series is not None) + (self.image is not None):  # else of an older file
                characters = next(blocks)
                said = [ngrams(characters[:, i], tokens[:, i]) for i, ngrams in enumerate(self.ngrams)]
        if self.series is not None:
            features.append(self.series(next(blocks), next(blocks)))
        if self.image is not None:
            features.append(self.image(next(blocks)))
        outputs: Tensor = sum(said, start=self.head(self.hidden(torch.cat(features, dim=1))))
        if self.table is None:
            return outputs
        if self.training and self.table_alone:
            outputs = outputs * (torch.rand(len(outputs), 1, device=outputs.device) >= self.table_alone)
        answered: Tensor = self.table(numbers, categories)
        return answered + outputs
