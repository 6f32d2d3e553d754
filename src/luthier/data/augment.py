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
from luthier.plain import images as plain
from luthier.plain.images import NUM_DRAWS, augment, filling


def normalise(pixels: Tensor, image: ImageInput) -> Tensor:
    """Return pixels `(N, C, H, W)`, which stay as they are, as the network takes them: float32."""
    return plain.normalise(pixels, image.means, image.stds, image.value_scale)


def _num_draws(kind: str) -> int:
    if kind not in NUM_DRAWS:
        raise SettingError(f"augment is {kind!r}", hint=did_you_mean(kind, NUM_DRAWS), code="setting-out-of-range")
    return NUM_DRAWS[kind]


def draw_table(count: int, kinds: tuple[str, ...], seed: int, epoch: int) -> Tensor | None:
    """Return what an epoch draws for each of `count` samples, `(N, k)`; None where images stay as they are."""
    return epoch_draws(count, sum(map(_num_draws, kinds)), seed, epoch) if kinds else None


def as_given(
    pixels: Tensor, image: ImageInput, kinds: tuple[str, ...], drawn: Tensor | None, *, channels_last: bool
) -> Tensor:
    """Return pixels `(N, C, H, W)` as a network is given them: augmented by what was drawn for each, and normalised."""
    if drawn is not None:
        pixels = augment(pixels, drawn, kinds, fill=filling(image.means, image.value_scale, pixels))
    images = normalise(pixels, image)
    return images.contiguous(memory_format=torch.channels_last) if channels_last else images


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
        table = draw_table(len(self), kinds, seed, epoch)
        for indices in chunks:
            drawn = None if table is None else table[indices]
            images = as_given(self.taken(indices), self.image, kinds, drawn, channels_last=self.channels_last)
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
                hint="resize them, or train a new model with this size",
                code="data-image-shape",
            )
        count = len(self.pixels) if self.rows is None else len(self.rows)
        for name, value in (("targets", self.targets), ("weights", self.weights)):
            if value is not None and len(value) != count:
                raise DataError(
                    f"the {name} are {describe(value)}, and the images {describe(self.pixels)}",
                    hint="give equal numbers: the first dimension counts the samples",
                    code="data-length-mismatch",
                )
        if not count:
            raise DataError("the data holds no image", hint="give at least one", code="data-no-samples")
