"""What an image is to a network: decoded, changed for training, normalised.

This file imports nothing of Luthier: `eject` copies out of it what a run used.
"""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn.functional import interpolate

ORIENTATION = 0x0112  # the EXIF tag; 5 to 8 lay the image on its side
NUM_DRAWS = {"flip": 1, "shift": 2, "erase": 4}
"""Random numbers that each change of training images takes."""


def decoded(content: bytes, channels: int, height: int, width: int, formats: Any = None, codec: Any = None) -> Any:
    """Return an image file's content as uint8 of shape `(channels, height, width)`; of several frames the first.

    It is turned as its EXIF orientation says, laid on white where it is transparent, 16-bit grey is divided by 257,
    and resized, whatever its proportions, with Pillow's bilinear filter, which averages over what it shrinks. A JPEG
    comes out of its codec at the least of its scales (1/1, 1/2, 1/4, 1/8) that is no smaller than wanted.

    Args:
        content: Of the file.
        channels: 1 for grey, 3 for red, green and blue.
        height: In pixels.
        width: In pixels.
        formats: What Pillow may open it as; None for all.
        codec: The module `simplejpeg`, by which plain JPEGs are read; None for Pillow.
    """
    if codec is not None and (found := jpeg_decoded(content, channels, height, width, codec)) is not None:
        return found
    with Image.open(io.BytesIO(content), formats=formats) as opened:
        opened.draft(None, (max(height, width),) * 2)  # a large JPEG comes out of its codec smaller, and sooner
        image = ImageOps.exif_transpose(opened)
        if image.mode in ("I", "F") or image.mode.startswith("I;16"):
            image = eight_bits(image)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert("L" if channels == 1 else "RGB")
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        pixels = np.asarray(image)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def jpeg_decoded(content: bytes, channels: int, height: int, width: int, codec: Any) -> Any:
    """Return a JPEG as `decoded` does; None for what is no JPEG, lies on its side, has four colours, or is damaged."""
    if not content.startswith(b"\xff\xd8\xff"):
        return None
    if b"Exif\0" in content[:65536] and Image.open(io.BytesIO(content)).getexif().get(ORIENTATION, 1) != 1:
        return None
    try:
        if codec.decode_jpeg_header(content)[2] in ("CMYK", "YCCK"):
            return None
        pixels = codec.decode_jpeg(content, "GRAY" if channels == 1 else "RGB", min_height=height, min_width=width)
    except ValueError:
        return None
    if pixels.shape[:2] == (height, width):
        return pixels.transpose(2, 0, 1)
    # Pillow's filter, but for 1 of 255 in one number of a thousand, in a third of its time
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    return interpolate(image, (height, width), mode="bilinear", antialias=True)[0].numpy()


def eight_bits(image: Any) -> Any:
    """Return grey of 16 bits, value / 257 rounded. Never by the image's own range: dark images stay dark."""
    values = np.asarray(image)
    low, high = values.min(), values.max()
    if image.mode == "F" or low < 0 or high > 65535:
        raise ValueError(f"it holds numbers from {low:g} to {high:g}; save it with 8 or 16 bits a pixel")
    return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))


def normalise(pixels: Tensor, means: Sequence[float], stds: Sequence[float], value_scale: float) -> Tensor:
    """Return images `(N, C, H, W)` as `(pixel / value_scale - mean) / std`, float32, by one product and one sum."""
    # (torch.addcmul, which does both at once, takes three times as long with one factor a channel)
    scale = [1 / (value_scale * std) for std in stds]
    shift = [-mean / std for mean, std in zip(means, stds, strict=True)]
    return torch.mul(pixels.float(), by_channel(scale, pixels)).add_(by_channel(shift, pixels))


def by_channel(values: Sequence[float], pixels: Tensor) -> Tensor:
    """Return one number a channel, `(C, 1, 1)`."""
    return torch.tensor(values, dtype=torch.float32, device=pixels.device).view(-1, 1, 1)


def filling(means: Sequence[float], value_scale: float, pixels: Tensor) -> Tensor:
    """Return what an erased rectangle holds, one value a channel: about 0 for the network."""
    fill = torch.tensor(means) * value_scale
    return fill if pixels.is_floating_point() else fill.round()


def augment(pixels: Tensor, draws: Tensor, kinds: Sequence[str], fill: Any = 0.0) -> Tensor:
    """Return changed images; their rows of random numbers say how.

    Args:
        pixels: uint8 or float, `(N, C, H, W)`; left as they are.
        draws: Uniform in [0, 1), `(N, k)`, k the sum of `NUM_DRAWS` over `kinds`, in their order.
        kinds: Done in this order.
        fill: What an erased rectangle holds: one value, or one a channel `(C,)`.
    """
    start = 0
    for kind in kinds:
        taken = draws[:, start : start + NUM_DRAWS[kind]]
        if kind == "flip":
            pixels = flip(pixels, taken)
        elif kind == "shift":
            pixels = shift(pixels, taken)
        elif kind == "erase":
            pixels = erase(pixels, taken, fill)
        start += NUM_DRAWS[kind]
    return pixels


def flip(pixels: Tensor, draws: Tensor) -> Tensor:
    """Swap left and right of half of the images."""
    return torch.where(draws[:, :, None, None] < 0.5, pixels.flip(3), pixels)


def shift(pixels: Tensor, draws: Tensor) -> Tensor:
    """Move each image by up to a 14th of its sides, mirrored at its edge."""
    n, channels, height, width = pixels.shape
    rows, columns = moved(draws[:, :1], height), moved(draws[:, 1:], width)  # (N, H), (N, W)
    places = (rows[:, :, None] * width + columns[:, None, :]).reshape(n, 1, -1)  # (N, 1, H W)
    return pixels.reshape(n, channels, -1).gather(2, places.expand(-1, channels, -1)).view_as(pixels)


def moved(draws: Tensor, size: int) -> Tensor:
    """Return where each of `size` pixels comes from, `(N, size)`, for draws `(N, 1)`."""
    reach = max(1, round(size / 14))
    places = torch.arange(size, device=draws.device) + (draws * (2 * reach + 1)).long() - reach
    return (size - 1 - (size - 1 - places.abs()).abs()).clamp(min=0)  # the clamp is for images of one pixel


def erase(pixels: Tensor, draws: Tensor, fill: Any) -> Tensor:
    """Fill a rectangle of 10 to 25 % of the area in half of the images, with the proportions of the image."""
    height, width = pixels.shape[2:]
    side = (0.1 + 0.15 * draws[:, 1:2]).sqrt()  # (N, 1), of each side of the image
    rows, columns = span(draws[:, 2:3], side, height), span(draws[:, 3:4], side, width)
    inside = rows[:, None, :, None] & columns[:, None, None, :] & (draws[:, :1, None, None] < 0.5)  # (N, 1, H, W)
    return torch.where(inside, torch.as_tensor(fill, device=pixels.device).to(pixels.dtype).view(-1, 1, 1), pixels)


def span(draws: Tensor, side: Tensor, size: int) -> Tensor:
    """Return which of `size` rows or columns a rectangle covers, bool `(N, size)`."""
    length = (side * size).round().clamp(min=1)
    first = (draws * (size - length + 1)).floor()
    places = torch.arange(size, device=draws.device)
    return (places >= first) & (places < first + length)
