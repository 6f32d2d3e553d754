"""Images in memory as a source: augmented by addressed draws, normalised, a batch at a time."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from luthier.core.batch import Batch, describe
from luthier.core.names import did_you_mean
from luthier.core.order import draws as epoch_draws
from luthier.core.schema import ImageInput
from luthier.data.sources import cat_padded
from luthier.errors import DataError, SettingError

NUM_DRAWS = {"flip": 1, "shift": 2, "erase": 4}


def normalise(pixels: Tensor, image: ImageInput) -> Tensor:
    """Return pixels as the network takes them: `(pixel / value_scale - mean) / std`, float32 `(N, C, H, W)`.

    Args:
        pixels: uint8 or float, `(N, C, H, W)`; left as they are.
        image: Its means and stds are folded into one multiplication and one addition a pixel. (`torch.addcmul`, which
            does both at once, takes three times as long with one factor a channel.)
    """
    scale = [1 / (image.value_scale * std) for std in image.stds]
    shift = [-mean / std for mean, std in zip(image.means, image.stds, strict=True)]
    return torch.mul(pixels.float(), _per_channel(scale, pixels)).add_(_per_channel(shift, pixels))


def augment(pixels: Tensor, draws: Tensor, kinds: Sequence[str], *, fill: Tensor | float = 0.0) -> Tensor:
    """Return changed images. A row of draws says all: the same one changes an image alike in any batch.

    `flip` swaps left and right of half of the images. `shift` moves each by up to a 14th of its sides (at least one
    pixel) each way; what comes in is the image mirrored at its edge. `erase` fills, in half of them, a rectangle of
    10 to 25 % of the area, with the proportions of the image.

    Args:
        pixels: uint8 or float, `(N, C, H, W)`; left as they are.
        draws: Uniform in [0, 1), `(N, k)`, k the sum of `NUM_DRAWS` over `kinds`, in their order.
        kinds: Done in this order.
        fill: What an erased rectangle holds: one value, or one a channel `(C,)`.

    Raises:
        SettingError: an unknown kind.
    """
    taken = draws.split([_num_draws(kind) for kind in kinds], dim=1) if kinds else ()
    for kind, columns in zip(kinds, taken, strict=True):
        if kind == "flip":
            pixels = torch.where(columns[:, :, None, None] < 0.5, pixels.flip(3), pixels)
        elif kind == "shift":
            pixels = _shift(pixels, columns)
        else:
            pixels = _erase(pixels, columns, fill)
    return pixels


def _num_draws(kind: str) -> int:
    if kind not in NUM_DRAWS:
        raise SettingError(f"augment is {kind!r}", hint=did_you_mean(kind, NUM_DRAWS), code="setting-out-of-range")
    return NUM_DRAWS[kind]


def _shift(pixels: Tensor, draws: Tensor) -> Tensor:
    n, channels, height, width = pixels.shape
    rows, columns = _moved(draws[:, :1], height), _moved(draws[:, 1:], width)  # (N, H), (N, W)
    places = (rows[:, :, None] * width + columns[:, None, :]).reshape(n, 1, -1)  # (N, 1, H W)
    return pixels.reshape(n, channels, -1).gather(2, places.expand(-1, channels, -1)).view_as(pixels)


def _moved(draws: Tensor, size: int) -> Tensor:
    """Return where each of `size` pixels comes from, `(N, size)`, int64, mirrored at the edge, for draws `(N, 1)`."""
    reach = max(1, round(size / 14))
    places = torch.arange(size, device=draws.device) + (draws * (2 * reach + 1)).long() - reach
    return (size - 1 - (size - 1 - places.abs()).abs()).clamp(min=0)  # the clamp is for images of one pixel


def _erase(pixels: Tensor, draws: Tensor, fill: Tensor | float) -> Tensor:
    height, width = pixels.shape[2:]
    side = (0.1 + 0.15 * draws[:, 1:2]).sqrt()  # (N, 1), of each side of the image
    rows = _span(draws[:, 2:3], side, height)
    columns = _span(draws[:, 3:4], side, width)
    inside = rows[:, None, :, None] & columns[:, None, None, :] & (draws[:, :1, None, None] < 0.5)  # (N, 1, H, W)
    return torch.where(inside, torch.as_tensor(fill, device=pixels.device).to(pixels.dtype).view(-1, 1, 1), pixels)


def _span(draws: Tensor, side: Tensor, size: int) -> Tensor:
    """Return which of `size` rows or columns a rectangle covers, bool `(N, size)`."""
    length = (side * size).round().clamp(min=1)
    first = (draws * (size - length + 1)).floor()
    places = torch.arange(size, device=draws.device)
    return (places >= first) & (places < first + length)


def _per_channel(values: Sequence[float], pixels: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=pixels.device).view(-1, 1, 1)


class ImageSource:
    """Images in memory, indexed a batch at a time: augmented where asked for, then normalised.

    Args:
        pixels: uint8 or float32, `(M, C, H, W)`, as `image` says.
        targets: As the criterion takes them, `(N, …)`.
        image: Size and statistics.
        others: Inputs that stand before the images, as they are, each `(N, …)`.
        weights: One a sample, `(N,)`, or None.
        augment: Kinds of `NUM_DRAWS`, in the order in which they are done.
        channels_last: Give the inputs in that memory format.
        rows: Which of the pixels are these samples, int64 `(N,)`; None for all. Parts of one source share its pixels.

    Raises:
        DataError: another size than `image` says, unequal lengths, or no image.
    """

    def __init__(
        self,
        pixels: Tensor,
        targets: Tensor,
        image: ImageInput,
        *,
        others: tuple[Tensor, ...] = (),
        weights: Tensor | None = None,
        augment: tuple[str, ...] = (),
        channels_last: bool = False,
        rows: Tensor | None = None,
    ) -> None:
        self.pixels, self.targets, self.image, self.weights = pixels, targets, image, weights
        self.rows = rows
        self.others = others
        self.augment, self.channels_last = augment, channels_last
        self.name_of: Callable[[int], str] | None = None  # what the user calls an image
        self.class_names: Sequence[str] = ()  # and each class
        self._check()

    def __len__(self) -> int:
        return self.targets.shape[0]

    def batches(self, chunks: Sequence[Tensor], seed: int, epoch: int) -> Iterator[Batch]:
        """Yield one batch for each tensor of sample numbers, in order; draws depend on (seed, epoch, number) alone."""
        kinds = self.augment
        table = epoch_draws(len(self), sum(map(_num_draws, kinds)), seed, epoch) if kinds else None
        fill = torch.tensor(self.image.means) * self.image.value_scale  # about 0 for the network
        fill = fill if self.pixels.is_floating_point() else fill.round()
        for indices in chunks:
            pixels = self.taken(indices)
            if table is not None:
                pixels = augment(pixels, table[indices], kinds, fill=fill)
            images = normalise(pixels, self.image)
            if self.channels_last:
                images = images.contiguous(memory_format=torch.channels_last)
            weights = None if self.weights is None else self.weights[indices]
            others = tuple(value[indices] for value in self.others)
            yield Batch((*others, images), self.targets[indices], weights, indices)

    def subset(self, rows: Tensor, *, augment: tuple[str, ...] = ()) -> "ImageSource":
        """Return some of the samples, `(N,)`, int64, over the same pixels."""
        weights = None if self.weights is None else self.weights[rows]
        made = ImageSource(
            self.pixels, self.targets[rows], self.image, others=tuple(value[rows] for value in self.others),
            weights=weights, augment=augment, channels_last=self.channels_last,
            rows=rows if self.rows is None else self.rows[rows],
        )  # fmt: skip
        made.class_names = self.class_names
        return made

    def joined(self, other: "ImageSource") -> "ImageSource":
        """Return the samples of both, changed as those of this source are."""
        if self.rows is not None and other.rows is not None and self.pixels is other.pixels:
            pixels, rows = self.pixels, torch.cat([self.rows, other.rows])
        else:
            pixels, rows = torch.cat([part.taken(torch.arange(len(part))) for part in (self, other)]), None
        weights = None if self.weights is None or other.weights is None else torch.cat([self.weights, other.weights])
        made = ImageSource(
            pixels, torch.cat([self.targets, other.targets]), self.image,
            others=tuple(cat_padded(*pair) for pair in zip(self.others, other.others, strict=True)), weights=weights,
            augment=self.augment, channels_last=self.channels_last, rows=rows,
        )  # fmt: skip
        made.class_names = self.class_names
        return made

    def taken(self, indices: Tensor) -> Tensor:
        """Return the pixels of samples, as they were read."""
        return self.pixels.index_select(0, indices if self.rows is None else self.rows[indices])

    def _check(self) -> None:
        size = (self.image.channels, self.image.height, self.image.width)
        if self.pixels.shape[1:] != size:
            raise DataError(
                f"the images are {describe(self.pixels)}, and the network takes (N, {', '.join(map(str, size))})",
                hint="resize them, or train anew with this size",
                code="data-image-shape",
            )
        count = len(self.pixels) if self.rows is None else len(self.rows)
        for name, value in (("targets", self.targets), ("weights", self.weights)):
            if value is not None and len(value) != count:
                raise DataError(
                    f"the {name} are {describe(value)}, and the images {describe(self.pixels)}",
                    hint="give as many: the first dimension counts the samples",
                    code="data-length-mismatch",
                )
        if not count:
            raise DataError("the data holds no image", hint="give at least one", code="data-no-samples")
