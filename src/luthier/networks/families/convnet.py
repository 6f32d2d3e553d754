"""A convolutional network for images. Plain PyTorch: copy this file wherever you like."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


def stage(channels_in: int, channels: int, depth: int, pool_first: bool) -> nn.Sequential:
    """Return `depth` 3x3 convolutions with batch norm and ReLU, and a 2x2 max-pool: the last, or after the first one.

    Pooling first leaves a quarter of the pixels to all that follows, as in Keller Jordan's airbench (2024).
    """
    layers: list[nn.Module] = []
    for i in range(depth):
        layers.append(nn.Conv2d(channels_in if i == 0 else channels, channels, 3, padding=1, bias=False))
        if pool_first and i == 0:
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
        layers.append(nn.BatchNorm2d(channels))
        layers.append(nn.ReLU(inplace=True))
    if not pool_first:
        layers.append(nn.MaxPool2d(2, ceil_mode=True))
    return nn.Sequential(*layers)


class ConvNet(nn.Module):
    """A strided stem, stages of convolutions and max-pooling, global pooling (mean, maximum), dropout, a linear head.

    Args:
        channels: Of the image, C.
        num_outputs: Outputs an image, K.
        widths: Channels of the stem and of each stage after it.
        depth: Convolutions a stage.
        stem_stride: By how much the stem shrinks the image.
        pool_first: Shrink a stage's image after its first convolution and not at its end.
        dropout: Share of pooled features dropped in training, in [0, 1).
    """

    def __init__(
        self,
        channels: int,
        num_outputs: int,
        widths: Sequence[int] = (32, 64, 128),
        depth: int = 1,
        stem_stride: int = 1,
        pool_first: bool = False,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        size = 3 if stem_stride == 1 else 2 * stem_stride
        self.stem = nn.Sequential(
            nn.Conv2d(channels, widths[0], size, stride=stem_stride, padding=(size - 1) // 2, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(inplace=True),
        )
        self.stages = nn.Sequential(*(stage(a, b, depth, pool_first) for a, b in pairwise(widths)))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(2 * widths[-1], num_outputs)

    def forward(self, images: Tensor) -> Tensor:
        """Map images `(N, C, H, W)`, float, to outputs `(N, K)`."""
        features = self.stages(self.stem(images))  # (N, C', H', W')
        pooled = torch.cat([features.mean(dim=(2, 3)), features.amax(dim=(2, 3))], dim=1)
        logits: Tensor = self.head(self.dropout(pooled))
        return logits
