"""Images in memory as a source: augmented by addressed draws, normalised, a batch at a time."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from luthier.core.batch import Batch
from luthier.core.order import draws as draw_table
from luthier.core.schema import ImageInput

NUM_DRAWS = {"flip": 1, "shift": 2, "erase": 4}


def normalise(pixels: Tensor, image: ImageInput) -> Tensor:
    """Return `(pixel / value_scale - mean) / std` per channel, float32, for pixels `(N, C, H, W)`."""
    means, stds = torch.tensor(image.means), torch.tensor(image.stds)
    scale = 1 / (stds * image.value_scale)
    return pixels.float() * scale.view(-1, 1, 1) - (means / stds).view(-1, 1, 1)


def augment(pixels: Tensor, draws: Tensor, kinds: Sequence[str], *, fill: float = 0.0) -> Tensor:
    """Change images by draws; the same draws make the same changes in any batch.

    Args:
        pixels: `(N, C, H, W)`.
        draws: Uniform in [0, 1), `(N, k)`, with k the sum of `NUM_DRAWS` over `kinds`.
        kinds: `flip`: left and right change places where the draw is below one half. `shift`: each image moves by up
            to a 14th of its side each way. `erase`: half of them lose a rectangle, 3/10 to 1/2 of each side.
        fill: What moves in, and what is left of an erased rectangle.
    """
    n, _, height, width = pixels.shape
    place = 0
    for kind in kinds:
        some = draws[:, place : place + NUM_DRAWS[kind]]
        place += NUM_DRAWS[kind]
        if kind == "flip":
            pixels = torch.where(some[:, 0].view(n, 1, 1, 1) < 0.5, pixels.flip(3), pixels)
        elif kind == "shift":
            pixels = _shift(pixels, some, fill)
        else:
            pixels = _erase(pixels, some, fill, height, width)
    return pixels


def _shift(pixels: Tensor, draws: Tensor, fill: float) -> Tensor:
    n, channels, height, width = pixels.shape
    reach_y, reach_x = max(1, round(height / 14)), max(1, round(width / 14))
    padded = torch.nn.functional.pad(pixels, (reach_x, reach_x, reach_y, reach_y), value=fill)
    down = (draws[:, 0] * (2 * reach_y + 1)).long()  # (N,), 0 to 2 reach
    right = (draws[:, 1] * (2 * reach_x + 1)).long()
    rows = down.view(n, 1) + torch.arange(height)  # (N, H)
    columns = right.view(n, 1) + torch.arange(width)  # (N, W)
    wide = padded.shape[3]
    flat = (rows.view(n, height, 1) * wide + columns.view(n, 1, width)).view(n, 1, -1)  # (N, 1, H W)
    moved = padded.reshape(n, channels, -1).gather(2, flat.expand(n, channels, -1))
    return moved.view(n, channels, height, width)


def _erase(pixels: Tensor, draws: Tensor, fill: float, height: int, width: int) -> Tensor:
    side = 0.3 + 0.2 * draws[:, 1]
    high, wide = (side * height).long().view(-1, 1, 1), (side * width).long().view(-1, 1, 1)
    top = (draws[:, 2].view(-1, 1, 1) * (height - high)).long()
    left = (draws[:, 3].view(-1, 1, 1) * (width - wide)).long()
    y, x = torch.arange(height).view(1, -1, 1), torch.arange(width).view(1, 1, -1)
    inside = (y >= top) & (y < top + high) & (x >= left) & (x < left + wide) & (draws[:, 0].view(-1, 1, 1) < 0.5)
    return pixels.masked_fill(inside.unsqueeze(1), fill)


class ImageSource:
    """Images in memory, `(N, C, H, W)`: augmented where asked for, normalised a batch at a time."""

    def __init__(
        self,
        pixels: Tensor,
        targets: Tensor,
        image: ImageInput,
        *,
        weights: Tensor | None = None,
        augment: tuple[str, ...] = (),
        channels_last: bool = False,
    ) -> None:
        self.pixels, self.targets, self.image, self.weights = pixels, targets, image, weights
        self.augment, self.channels_last = augment, channels_last

    def __len__(self) -> int:
        return len(self.pixels)

    def batches(self, chunks: Sequence[Tensor], seed: int, epoch: int) -> Iterator[Batch]:
        """Yield one batch for each tensor of image numbers; what is drawn depends on (seed, epoch, number) alone."""
        table = None
        if self.augment:
            table = draw_table(len(self), sum(NUM_DRAWS[kind] for kind in self.augment), seed, epoch)
        for indices in chunks:
            pixels = self.pixels[indices]
            if table is not None:
                pixels = augment(pixels, table[indices], self.augment)
            images = normalise(pixels, self.image)
            if self.channels_last:
                images = images.contiguous(memory_format=torch.channels_last)
            weights = None if self.weights is None else self.weights[indices]
            yield Batch((images,), self.targets[indices], weights, indices)
