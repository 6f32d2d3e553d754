"""Images from files: found, decoded, resized. One decoder decides: Pillow."""

import hashlib
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from luthier.core.names import did_you_mean
from luthier.errors import DataError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
_GREY = ("1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "F")
_SAMPLE = 500  # headers that are looked at to choose a size


@dataclass(frozen=True)
class ImageFolder:
    """Images with the names of their class folders, sorted by path."""

    root: Path
    paths: tuple[Path, ...]
    labels: tuple[str, ...]
    notes: tuple[str, ...] = ()


def read_image_folder(root: Path) -> ImageFolder:
    """Find the images of a folder with one folder a class.

    Raises:
        DataError: no folder, no class folders, a class without images, one class only.
    """
    if not root.is_dir():
        raise _no_file(root)
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not folders:
        loose = len(_images_below(root))
        raise DataError(
            f"{root} has no class folders" + (f"; {loose} images lie directly in it" if loose else " and no images"),
            hint=f"make one folder a class: {root}/cat/1.jpg, {root}/dog/1.jpg",
            code="data-no-images",
        )
    found = {folder: _images_below(folder) for folder in folders}
    empty = [folder.name for folder, paths in found.items() if not paths]
    if empty:
        raise DataError(
            f"class folder {empty[0]!r} of {root} holds no images"
            + (f", and {len(empty) - 1} more" * (len(empty) > 1)),
            hint=f"remove it, or fill it; images end in {', '.join(IMAGE_SUFFIXES[:6])} …",
            code="data-no-images",
        )
    if len(folders) == 1:
        raise DataError(
            f"{root} has one class folder only, {folders[0].name!r}",
            hint="give a folder a class, at least two",
            code="data-one-class",
        )
    pairs = [(path, folder.name) for folder, paths in found.items() for path in paths]
    others = sum(path.is_file() and not path.name.startswith(".") for path in root.rglob("*")) - len(pairs)
    notes = (f"{others:,} other files are passed over",) if others > 0 else ()
    return ImageFolder(root, tuple(path for path, _ in pairs), tuple(name for _, name in pairs), notes)


def list_images(path: Path) -> tuple[Path, ...]:
    """Return an image, or all images below a folder, sorted by path.

    Raises:
        DataError: no such file, or no image in the folder.
    """
    if path.is_file():
        return (path,)
    if not path.is_dir():
        raise _no_file(path)
    found = _images_below(path)
    if not found:
        raise DataError(
            f"{path} holds no images", hint=f"images end in {', '.join(IMAGE_SUFFIXES[:6])} …", code="data-no-images"
        )
    return tuple(found)


def _images_below(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def _no_file(path: Path) -> DataError:
    near = [other.name for other in path.parent.glob("*")] if path.parent.is_dir() else []
    return DataError(f"there is no {path}", hint=did_you_mean(path.name, near), code="data-no-file")


def choose_input(paths: Sequence[Path], *, limit: int = 128) -> tuple[int, int, int]:
    """Return channels, height and width that suit the images, from the headers of up to 500 of them.

    One channel where all are grey, else three. The one size that all have, or the median one, scaled down to `limit`.
    Files whose header cannot be read are passed over; `decode` names them.
    """
    step = max(1, len(paths) // _SAMPLE)
    modes, sizes = set(), []
    for path in paths[::step]:
        try:
            with warnings.catch_warnings(action="ignore"), Image.open(path) as image:
                turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
                modes.add(image.mode)
                sizes.append(image.size if turned else image.size[::-1])
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            continue
    if not sizes:
        return 3, limit, limit
    height, width = (int(size) for size in np.median(np.array(sizes), axis=0))
    scale = min(1.0, limit / max(height, width))
    channels = 1 if all(mode in _GREY for mode in modes) else 3
    return channels, max(8, round(height * scale)), max(8, round(width * scale))


def decode(path: Path, *, channels: int, height: int, width: int) -> NDArray[np.uint8]:
    """Read one image as uint8 of shape `(channels, height, width)`.

    Turned as its EXIF says; transparency laid on white; 16-bit grey divided by 257; resized with Pillow's bilinear
    filter, which averages over what it shrinks.

    Raises:
        DataError: the file is empty, cut short, no image, or too large to be one in earnest.
    """
    try:
        if not path.stat().st_size:
            raise ValueError("it is empty (0 bytes)")
        with warnings.catch_warnings(action="ignore"), Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith("I") or image.mode == "F":
                grey = np.asarray(image, dtype=np.float64)
                top = 257.0 if grey.max(initial=0) > 255 else 1.0
                image = Image.fromarray(np.clip(np.rint(grey / top), 0, 255).astype(np.uint8))
            if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            image = image.convert("L" if channels == 1 else "RGB")
            if image.size != (width, height):
                image = image.resize((width, height), Image.Resampling.BILINEAR)
            pixels = np.asarray(image, dtype=np.uint8)
    except (OSError, ValueError, SyntaxError, MemoryError, Image.DecompressionBombError) as error:
        raise DataError(
            f"image {path} cannot be read: {error}",
            hint="remove it or put back a whole copy; --skip-unreadable leaves such images out of training",
            code="data-image-unreadable",
        ) from error
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def decode_all(
    paths: Sequence[Path],
    *,
    channels: int,
    height: int,
    width: int,
    on_error: Literal["raise", "keep"] = "raise",
    workers: int = 2,
) -> tuple[NDArray[np.uint8], list[tuple[int, DataError]]]:
    """Read images as uint8 of shape `(N, channels, height, width)`, in order, on a few threads.

    Returns:
        The pixels (zeros where an image cannot be read), and for each of those its place and the error.

    Raises:
        DataError: with `on_error="raise"`, an image cannot be read; all are counted.
    """
    pixels = np.zeros((len(paths), channels, height, width), dtype=np.uint8)
    errors: list[tuple[int, DataError]] = []

    def read(i: int) -> None:
        try:
            pixels[i] = decode(paths[i], channels=channels, height=height, width=width)
        except DataError as error:
            errors.append((i, error))

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(read, range(len(paths))))
    errors.sort(key=lambda pair: pair[0])
    if errors and on_error == "raise":
        first = errors[0][1]
        more = f" ({len(errors) - 1} more cannot be read either)" if len(errors) > 1 else ""
        raise DataError(first.message + more, hint=first.hint, code="data-image-unreadable")
    return pixels, errors


def pixel_hashes(pixels: NDArray[Any]) -> NDArray[np.uint64]:
    """Return a 64-bit hash of each image, uint64 `(N,)`: blake2b with 8 bytes of its pixels. Equal images share it."""
    digests = b"".join(hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=8).digest() for image in pixels)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def image_statistics(pixels: NDArray[Any], rows: NDArray[np.int64]) -> tuple[list[float], list[float]]:
    """Return each channel's mean and standard deviation over some images: of value / 255 for bytes, else of the value.

    A standard deviation of 0 is given as 1.
    """
    scale = 255.0 if pixels.dtype == np.uint8 else 1.0
    total = squares = np.zeros(pixels.shape[1])
    for start in range(0, len(rows), 1024):
        part = pixels[rows[start : start + 1024]].astype(np.float64) / scale
        total = total + part.sum(axis=(0, 2, 3))
        squares = squares + np.square(part).sum(axis=(0, 2, 3))
    count = len(rows) * pixels.shape[2] * pixels.shape[3]
    means = total / count
    stds = np.sqrt(np.maximum(squares / count - means**2, 0))
    return means.tolist(), np.where(stds > 1e-12, stds, 1.0).tolist()
