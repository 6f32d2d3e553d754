"""A small residual network for images. Plain PyTorch: copy this file wherever you like.

Source: He et al. 2016, "Deep Residual Learning for Image Recognition", section 4.2 (the form for small images).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; the second batch norm starts at zero, so the block starts as identity."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.norm2.weight)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride=stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, features: Tensor) -> Tensor:
        """Map features `(N, C, H, W)` to `(N, C', H / stride, W / stride)`."""
        inner = torch.relu(self.norm1(self.conv1(features)))
        return torch.relu(self.norm2(self.conv2(inner)) + self.shortcut(features))


class ResNet(nn.Module):
    """A stem, stages of residual blocks that halve the image, global mean pooling, dropout, a linear head.

    Args:
        channels: Of the image, C.
        num_outputs: Outputs an image, K.
        widths: Channels of each stage; the stem has those of the first.
        blocks: Residual blocks a stage.
        stem_stride: By how much the stem shrinks the image.
        dropout: Share of pooled features dropped in training, in [0, 1).
    """

    def __init__(
        self,
        channels: int,
        num_outputs: int,
        widths: Sequence[int] = (32, 64, 128),
        blocks: int = 1,
        stem_stride: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        size = 3 if stem_stride == 1 else 2 * stem_stride
        self.stem = nn.Sequential(
            nn.Conv2d(channels, widths[0], size, stride=stem_stride, padding=(size - 1) // 2, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(inplace=True),
        )
        stages: list[nn.Module] = []
        before = widths[0]
        for i, width in enumerate(widths):
            for j in range(blocks):
                stages.append(ResidualBlock(before, width, stride=2 if i > 0 and j == 0 else 1))
                before = width
        self.stages = nn.Sequential(*stages)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(before, num_outputs)

    def forward(self, images: Tensor) -> Tensor:
        """Map images `(N, C, H, W)`, float, to outputs `(N, K)`."""
        features = self.stages(self.stem(images))
        logits: Tensor = self.head(self.dropout(features.mean(dim=(2, 3))))
        return logits
