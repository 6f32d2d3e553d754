"""Fixed convolutions over series and one trained linear layer. Plain PyTorch: copy this file wherever you like.

Sources: Dempster et al. 2021, "MiniRocket: A Very Fast (Almost) Deterministic Transform for Time Series
Classification", for the kernels, their dilations and the share of steps above a threshold; Dempster et al. 2020,
"ROCKET", for the rest.
"""

import math
from itertools import combinations

import torch
from torch import Tensor, nn
from torch.nn import functional

SIZE, TWOS = 9, 3
NUM_KERNELS = math.comb(SIZE, TWOS)
SOFTNESS = 0.1  # of a kernel's deviation: so near a threshold a step counts in part, and rounding flips no answer


class RunningNorm(nn.Module):
    """Standardise features `(N, F)` by the mean and deviation of all rows seen in training so far."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("variance", torch.ones(size))

    count: Tensor
    mean: Tensor
    variance: Tensor

    @torch.no_grad()
    def update(self, features: Tensor) -> None:
        """Take rows into mean and variance.

        Source: Chan et al. 1983, "Algorithms for Computing the Sample Variance", equation 2.1.
        """
        self.count += len(features)
        share = len(features) / self.count
        shift = features.mean(dim=0) - self.mean
        variance = features.var(dim=0, correction=0)
        self.variance.copy_(torch.lerp(self.variance, variance, share) + share * (1 - share) * shift**2)
        self.mean += share * shift

    def forward(self, features: Tensor) -> Tensor:
        """Standardise, within ±5; what hardly varies stays near 0."""
        if self.training:
            self.update(features)
        standardised: Tensor = (features - self.mean) / (self.variance.sqrt() + 0.01)
        return standardised.clamp(-5, 5)


class Kernels(nn.Module):
    """84 fixed kernels of 9 steps at one dilation; of what each gives, how much lies above thresholds.

    A kernel has three weights of 2 and six of -1, over the sum of some channels drawn at random.

    Args:
        channels: Values a step, C.
        dilation: Steps between two weights of a kernel.
        stride: Steps between two places of a kernel.
        num_thresholds: Thresholds of each kernel.
    """

    def __init__(self, channels: int, dilation: int, stride: int, num_thresholds: int) -> None:
        super().__init__()
        self.dilation, self.stride = dilation, stride
        kernels = torch.full((NUM_KERNELS, SIZE), -1.0)
        kernels.scatter_(1, torch.tensor(list(combinations(range(SIZE), TWOS))), 2.0)
        most = min(channels, SIZE)  # of k channels at most, few are likelier than many
        sizes = ((most + 1) ** torch.rand(NUM_KERNELS, 1)).floor().clamp(max=most)
        chosen = torch.rand(NUM_KERNELS, channels).argsort(dim=1).argsort(dim=1) < sizes
        self.register_buffer("weight", kernels[:, None] * (chosen / sizes.sqrt())[:, :, None])  # (84, C, 9)
        self.register_buffer("thresholds", torch.zeros(NUM_KERNELS, num_thresholds))

    weight: Tensor
    thresholds: Tensor

    def convolve(self, values: Tensor) -> Tensor:
        """Map values `(N, C, L)` to `(N, 84, L / stride)`, rounded up."""
        reach = SIZE // 2 * self.dilation
        return functional.conv1d(values, self.weight, padding=reach, dilation=self.dilation, stride=self.stride)

    @torch.no_grad()
    def draw(self, values: Tensor, lengths: Tensor) -> None:
        """Scale the kernels by their deviations; let the thresholds be what they give at steps drawn at random."""
        found, lengths = self.convolve(values), -(-lengths // self.stride)
        inside = (torch.arange(found.shape[2], device=found.device) < lengths[:, None]).to(found)
        deviations = ((found**2 * inside[:, None]).sum(dim=(0, 2)) / inside.sum()).sqrt()  # the mean is about 0
        scales = 1 / (SOFTNESS * deviations + 0.001)
        self.weight *= scales[:, None, None]
        rows = torch.randint(len(found), self.thresholds.shape, device=found.device)
        steps = (torch.rand(self.thresholds.shape, device=found.device) * lengths[rows]).long()
        kernels = torch.arange(NUM_KERNELS, device=found.device)[:, None]
        self.thresholds.copy_(found[rows, kernels, steps] * scales[:, None])

    def forward(self, values: Tensor, lengths: Tensor) -> Tensor:
        """Map values `(N, C, L)`, 0 after a row's end, and lengths `(N,)` to features in [-1, 1], `(N, F)`."""
        found, lengths = self.convolve(values), -(-lengths // self.stride)
        inside = torch.arange(found.shape[2], device=found.device) < lengths[:, None]
        shares = (inside / lengths[:, None]).to(found)[:, :, None]  # (N, L, 1): the mean over a row's own steps
        above = [(found - at[:, None]).clamp(-1, 1) @ shares for at in self.thresholds.unbind(dim=1)]
        return torch.cat(above, dim=1)[:, :, 0]


class RocketNet(nn.Module):
    """Fixed kernels of many dilations, how much of each lies above thresholds, then a trained linear layer.

    Beside these features stand the mean and the logarithm of the deviation of each channel. The first batch of
    training sets the thresholds; until then they are 0. How long the neighbours in a batch are changes no row's output
    but by rounding.

    Args:
        channels: Values a step, C.
        num_outputs: Outputs a series, K.
        max_steps: Steps of the longest series of training; the widest kernels reach as far.
        num_dilations: Dilations, of which short series have fewer.
        num_thresholds: Thresholds of each kernel over all its dilations.
        level_gain: What the mean and deviation of a channel count for, beside a feature of a kernel.
        max_places: Places along the longest series at which a kernel is evaluated.
    """

    def __init__(
        self,
        channels: int,
        num_outputs: int,
        max_steps: int,
        num_dilations: int = 15,
        num_thresholds: int = 30,
        level_gain: float = 10.0,
        max_places: int = 512,
    ) -> None:
        super().__init__()
        self.level_gain = level_gain
        longest = max((max_steps - 1) / (SIZE - 1), 1)
        dilations = sorted({int(longest ** (i / max(num_dilations - 1, 1))) for i in range(num_dilations)})
        stride = math.ceil(max_steps / max_places)
        counts = [max(1, (num_thresholds + i) // len(dilations)) for i in range(len(dilations))]
        self.kernels = nn.ModuleList(
            Kernels(channels, dilation, stride, count) for dilation, count in zip(dilations, counts, strict=True)
        )
        self.norm = RunningNorm(NUM_KERNELS * sum(counts))
        self.level_norm = RunningNorm(2 * channels)
        self.head = nn.Linear(NUM_KERNELS * sum(counts) + 2 * channels, num_outputs)

    def forward(self, values: Tensor, lengths: Tensor) -> Tensor:
        """Map values `(N, C, L)` and lengths `(N,)`, int64, to outputs `(N, K)`."""
        longest = values.shape[2] if torch.compiler.is_exporting() else max(int(lengths.max()), 1)
        inside = (torch.arange(longest, device=values.device) < lengths[:, None])[:, None]  # (N, 1, L)
        values = torch.where(inside, values[:, :, :longest], 0.0)
        lengths = lengths.clamp(min=1)
        if self.training and self.norm.count == 0:
            for kernels in self.kernels:
                assert isinstance(kernels, Kernels)
                kernels.draw(values, lengths)
        features = torch.cat([kernels(values, lengths) for kernels in self.kernels], dim=1)
        means = values.sum(dim=2) / lengths[:, None]
        squares = ((values - means[:, :, None]) ** 2 * inside).sum(dim=2) / lengths[:, None]
        levels = torch.cat([means, (squares + 1e-6).log() / 2], dim=1)
        logits: Tensor = self.head(torch.cat([self.norm(features), self.level_gain * self.level_norm(levels)], dim=1))
        return logits
