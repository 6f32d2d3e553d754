import numpy as np
import pytest
import torch
from torch import Tensor

from luthier.core.order import draws, order
from luthier.core.schema import ImageInput
from luthier.data.augment import ImageSource, normalise
from luthier.data.sources import Source
from luthier.errors import DataError, SettingError
from luthier.plain.images import NUM_DRAWS, augment

KINDS = ("flip", "shift", "erase")


def pixels_of(n: int, channels: int, height: int, width: int, *, floats: bool = False) -> Tensor:
    made = torch.randint(0, 256, (n, channels, height, width), generator=torch.Generator().manual_seed(0))
    return made.float() / 255 if floats else made.to(torch.uint8)


def image_of(pixels: Tensor) -> ImageInput:
    channels, height, width = pixels.shape[1:]
    means, stds = (0.5, 0.25, 0.1)[:channels], (0.3, 0.2, 0.1)[:channels]
    scale = 1.0 if pixels.is_floating_point() else 255.0
    return ImageInput(channels=channels, height=height, width=width, means=means, stds=stds, value_scale=scale)


@pytest.mark.parametrize("kinds", [("flip",), ("shift",), ("erase",), KINDS, KINDS[::-1]])
@pytest.mark.parametrize("floats", [False, True])
def test_an_image_changes_alike_in_any_batch(kinds: tuple[str, ...], floats: bool) -> None:
    pixels = pixels_of(33, 3, 17, 23, floats=floats)
    before, table = pixels.clone(), draws(33, sum(NUM_DRAWS[kind] for kind in kinds), seed=1, epoch=2)
    whole = augment(pixels, table, kinds, fill=torch.tensor([1.0, 2.0, 3.0]))
    rows = [augment(pixels[i : i + 1], table[i : i + 1], kinds, fill=torch.tensor([1.0, 2.0, 3.0])) for i in range(33)]
    assert torch.equal(whole, torch.cat(rows))
    shuffled = order(33, 0, 0)
    assert torch.equal(
        augment(pixels[shuffled], table[shuffled], kinds, fill=torch.tensor([1.0, 2.0, 3.0])), whole[shuffled]
    )
    assert whole.dtype == pixels.dtype
    assert torch.equal(pixels, before)
    assert not torch.equal(whole, pixels)


def test_flip_and_shift_equal_the_loop_you_would_write() -> None:
    pixels = pixels_of(40, 2, 28, 42)
    table = draws(40, 3, seed=0, epoch=0)
    got = augment(pixels, table, ("flip", "shift"))
    seen = set()
    for i in range(40):
        image = pixels[i].flip(2) if table[i, 0] < 0.5 else pixels[i]
        down, right = int(table[i, 1] * 5), int(table[i, 2] * 7)  # 28 / 14 = 2 and 42 / 14 = 3 pixels each way
        padded = torch.from_numpy(np.pad(image.numpy(), ((0, 0), (2, 2), (3, 3)), mode="reflect"))
        assert torch.equal(got[i], padded[:, down : down + 28, right : right + 42]), i
        seen.add((down, right))
    assert {down for down, _ in seen} == set(range(5))
    assert {right for _, right in seen} == set(range(7))


def test_erase_fills_a_tenth_to_a_quarter_of_half_the_images() -> None:
    pixels = torch.full((1000, 3, 40, 60), 9, dtype=torch.uint8)
    got = augment(pixels, draws(1000, 4, seed=0, epoch=0), ("erase",), fill=torch.tensor([1.0, 2.0, 3.0]))
    assert sorted(set(got.unique().tolist())) == [1, 2, 3, 9]
    shares = (got[:, 0] == 1).double().mean(dim=(1, 2))
    erased = shares[shares > 0]
    assert len(erased) / 1000 == pytest.approx(0.5, abs=0.08)  # 5 standard deviations
    assert erased.min() > 0.09  # whole pixels: the sides are rounded
    assert erased.max() < 0.26
    corners = torch.tensor([[0.0, 0.5, 0.0, 0.0], [0.0, 0.5, 1 - 2**-24, 1 - 2**-24]])
    got = augment(pixels[:2], corners, ("erase",))[:, 0]
    assert got[0, 0, 0] == got[1, 39, 59] == 0  # any place may be erased


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (2, 3)])
def test_tiny_images_come_through(height: int, width: int) -> None:
    pixels = pixels_of(64, 1, height, width)
    assert augment(pixels, draws(64, 7, 0, 0), KINDS).shape == pixels.shape
    extreme = torch.tensor([[0.0] * 7, [1 - 2**-24] * 7])
    assert augment(pixels[:2], extreme, KINDS).shape == (2, 1, height, width)


def test_an_unknown_kind_is_named() -> None:
    pixels = pixels_of(1, 1, 4, 4)
    source = ImageSource(pixels, torch.zeros(1), image_of(pixels), augment=("flop",))
    with pytest.raises(SettingError, match="flop") as error:
        next(source.batches([torch.zeros(1, dtype=torch.int64)], 0, 0))
    assert "'flip'" in error.value.hint


@pytest.mark.parametrize("floats", [False, True])
def test_normalise(floats: bool) -> None:
    pixels = pixels_of(5, 3, 6, 7, floats=floats)
    image = image_of(pixels)
    before, got = pixels.clone(), normalise(pixels, image)
    means, stds = (torch.tensor(v, dtype=torch.float64).view(-1, 1, 1) for v in (image.means, image.stds))
    torch.testing.assert_close(got.double(), (pixels.double() / image.value_scale - means) / stds, rtol=1e-5, atol=1e-5)
    assert got.dtype == torch.float32
    assert torch.equal(pixels, before)


def test_a_source_gives_the_same_image_whatever_the_batches() -> None:
    pixels, targets = pixels_of(20, 3, 8, 8), torch.arange(20)
    source = ImageSource(pixels, targets, image_of(pixels), weights=torch.rand(20), augment=KINDS)
    assert isinstance(source, Source)
    assert len(source) == 20

    def epoch(size: int, number: int) -> Tensor:
        batches = list(source.batches(torch.arange(20).split(size), 3, number))
        assert torch.equal(torch.cat([batch.targets for batch in batches]), targets)
        assert all(batch.weights is not None and batch.indices is not None for batch in batches)
        return torch.cat([batch.inputs[0] for batch in batches])  # type: ignore[index]

    assert torch.equal(epoch(20, 0), epoch(3, 0))
    assert not torch.equal(epoch(20, 0), epoch(20, 1))
    indices = order(20, 3, 0)
    (batch,) = source.batches([indices], 3, 0)
    assert torch.equal(batch.inputs[0], epoch(20, 0)[indices])  # type: ignore[index]


def test_channels_last_changes_the_layout_and_no_bit() -> None:
    pixels = pixels_of(6, 3, 8, 8)
    plain, last = (
        next(ImageSource(pixels, torch.zeros(6), image_of(pixels), channels_last=it).batches([torch.arange(6)], 0, 0))
        for it in (False, True)
    )
    assert torch.equal(plain.inputs[0], last.inputs[0])  # type: ignore[index]
    assert plain.inputs[0].is_contiguous()  # type: ignore[index]
    assert last.inputs[0].is_contiguous(memory_format=torch.channels_last)  # type: ignore[index]
    assert torch.equal(plain.inputs[0], normalise(pixels, image_of(pixels)))  # type: ignore[index]


def test_a_source_that_does_not_fit_is_refused() -> None:
    pixels = pixels_of(4, 3, 8, 8)
    image = image_of(pixels)
    cases: list[tuple[Tensor, Tensor, Tensor | None, str]] = [
        (pixels[:, :, :5], torch.zeros(4), None, "data-image-shape"),
        (pixels, torch.zeros(3), None, "data-length-mismatch"),
        (pixels, torch.zeros(4), torch.ones(5), "data-length-mismatch"),
        (pixels[:0], torch.zeros(0), None, "data-no-samples"),
    ]
    for given, targets, weights, code in cases:
        with pytest.raises(DataError) as error:
            ImageSource(given, targets, image, weights=weights)
        assert error.value.code == code
