"""A residual 1-d convolutional network over series. Plain PyTorch: copy this file wherever you like.

Source: Ismail Fawaz et al. 2020, "InceptionTime: Finding AlexNet for Time Series Classification", section 3; one
network in place of five.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class MaskedNorm(nn.BatchNorm1d):
    """Batch norm of `(N, C, L)` whose statistics are those of real steps alone."""

    def forward(self, values: Tensor, inside: Tensor | None = None) -> Tensor:
        """Normalise; `inside`, bool `(N, L)`, says which steps are real, and the others become 0. None: all are."""
        steps = values.transpose(1, 2)  # (N, L, C)
        if inside is not None and torch.compiler.is_exporting():  # which has no tensor as long as a row is
            return torch.where(inside[:, None], super().forward(values), 0.0)
        real = steps.reshape(-1, steps.shape[2]) if inside is None else steps[inside]  # (S, C)
        training = self.training
        if len(real) < 2:  # a single step has no variance
            self.training = False
        if inside is None:
            normed = super().forward(values)
        else:
            flat = super().forward(real)
            normed = flat.new_zeros(steps.shape).masked_scatter(inside[:, :, None], flat).transpose(1, 2)
        self.training = training
        return normed


class InceptionBlock(nn.Module):
    """Convolutions of several lengths and a max-pool side by side, normalised: `(N, C, L)` to `(N, F, L)`."""

    def __init__(self, channels: int, width: int, kernel_sizes: Sequence[int]) -> None:
        super().__init__()
        self.squeeze = nn.Conv1d(channels, width, 1, bias=False) if channels > 1 else nn.Identity()
        inner = width if channels > 1 else channels
        self.convolutions = nn.ModuleList(
            nn.Conv1d(inner, width, size, padding=size // 2, bias=False) for size in kernel_sizes
        )
        self.pool = nn.MaxPool1d(3, stride=1, padding=1)
        self.pooled = nn.Conv1d(channels, width, 1, bias=False)
        self.size = width * (len(kernel_sizes) + 1)
        self.norm = MaskedNorm(self.size)

    def forward(self, values: Tensor, inside: Tensor | None) -> Tensor:
        """Map values, 0 after a row's end, to features, likewise."""
        squeezed = self.squeeze(values)
        if inside is not None:  # no step after the end is a maximum
            values = values.masked_fill(~inside[:, None], torch.finfo(values.dtype).min)
        pooled = self.pool(values)
        if inside is not None:
            pooled = pooled * inside[:, None]
        found = [convolution(squeezed) for convolution in self.convolutions] + [self.pooled(pooled)]
        features: Tensor = self.norm(torch.cat(found, dim=1), inside)
        return features


class Shortcut(nn.Module):
    """A convolution of one step, normalised: `(N, C, L)` to `(N, F, L)`."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(channels, size, 1, bias=False)
        self.norm = MaskedNorm(size)

    def forward(self, values: Tensor, inside: Tensor | None) -> Tensor:
        """Map values, 0 after a row's end, to what is added, likewise."""
        added: Tensor = self.norm(self.convolution(values), inside)
        return added


class InceptionNet(nn.Module):
    """Inception blocks with a shortcut over every three, then the mean over a row's steps and a linear layer.

    How long the neighbours in a batch are changes no row's output but by rounding: nothing is read after a row's end.

    Args:
        channels: Values a step, C.
        num_outputs: Outputs a series, K.
        width: Filters of each convolution of a block.
        depth: Blocks.
        kernel_sizes: Steps that the convolutions of a block see, odd numbers.
        stride: Steps that a first convolution moves on by, so that long series take less time; 1 for none.
        dropout: Share of features dropped before the last layer in training, in [0, 1).
    """

    def __init__(
        self,
        channels: int,
        num_outputs: int,
        width: int = 32,
        depth: int = 6,
        kernel_sizes: Sequence[int] = (9, 19, 39),
        stride: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if any(size % 2 == 0 for size in kernel_sizes):
            raise ValueError(f"kernel_sizes are {list(kernel_sizes)}, and all must be odd")
        self.stride = stride
        self.stem: nn.Module | None = None
        if stride > 1:
            size = 4 * stride + 1
            self.stem = nn.Conv1d(channels, 4 * width, size, stride=stride, padding=size // 2, bias=False)
            channels = 4 * width
            self.stem_norm = MaskedNorm(channels)
        blocks, shortcuts = [], []
        start = channels
        for place in range(depth):
            blocks.append(InceptionBlock(channels, width, kernel_sizes))
            channels = blocks[-1].size
            if place % 3 == 2:
                shortcuts.append(Shortcut(start, channels))
                start = channels
        self.blocks, self.shortcuts = nn.ModuleList(blocks), nn.ModuleList(shortcuts)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(channels, num_outputs)

    def forward(self, values: Tensor, lengths: Tensor) -> Tensor:
        """Map values `(N, C, L)` and lengths `(N,)`, int64, to outputs `(N, K)`."""
        is_exporting = torch.compiler.is_exporting()  # then nothing depends on the data but by tensors
        longest = values.shape[2] if is_exporting else max(int(lengths.max()), 1)
        real = torch.arange(longest, device=values.device) < lengths[:, None]  # (N, L)
        values = torch.where(real[:, None], values[:, :, :longest], 0.0)
        if self.stem is not None:
            values, lengths = self.stem(values), -(-lengths // self.stride)
            real = torch.arange(values.shape[2], device=values.device) < lengths[:, None]
        inside = None if not is_exporting and bool(real.all()) else real
        if self.stem is not None:
            values = torch.relu(self.stem_norm(values, inside))
        start = values
        for place, block in enumerate(self.blocks):
            found = block(values, inside)
            if place % 3 == 2:
                values = start = torch.relu(found + self.shortcuts[place // 3](start, inside))
            else:
                values = torch.relu(found)
        mean = values.sum(dim=2) / lengths.clamp(min=1)[:, None]
        logits: Tensor = self.head(self.dropout(mean))
        return logits
