"""Images from files: found, decoded, resized. One decoder decides, Pillow by default."""

import glob
import hashlib
import os
import stat
import warnings
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from luthier.core.names import check_name, near_file
from luthier.core.schema import Decoder, ImageInput
from luthier.data.cells import to_texts
from luthier.data.room import room_for
from luthier.errors import DataError, MissingPackageError
from luthier.plain.images import ORIENTATION, decoded

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".jfif", ".jp2", ".ppm", ".pgm", ".pbm",
)  # fmt: skip
# What Pillow may open files as: it has others that start programs (EPS) or hold no pixels.
_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "JPEG2000", "PPM")
_MOST_BYTES = 1 << 30  # of a file
_GREY = ("1", "L", "LA", "La", "I", "F")  # and I;16 in its byte orders
LARGEST_SIDE = 128  # height or width that images are read at
_NUM_HEADERS = 500
_SPAN = 32  # images a task: small ones decode in less time than a task costs
_SUBSETS = {
    "train": "train", "training": "train", "valid": "valid", "validation": "valid", "val": "valid", "dev": "valid",
    "test": "test", "testing": "test",
}  # fmt: skip


@dataclass(frozen=True)
class ImageFolder:
    """Images and their classes, sorted by class, then by path.

    Attributes:
        root: The folder that holds one folder a class.
        paths: The files, below `root`.
        labels: The class of each file: the name of its folder in `root`.
        notes: What was left out, in words for the user.
    """

    root: Path
    paths: tuple[Path, ...]
    labels: tuple[str, ...]
    notes: tuple[str, ...] = ()


def part_folders(root: Path) -> dict[str, Path]:
    """Return the folders of `train`, `valid` and `test` in `root`, where it holds these and no classes; else nothing.

    Raises:
        DataError: two of them are the same part, as `val` and `valid`.
    """
    if not root.is_dir():
        return {}
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    parts = [_SUBSETS.get(folder.name.lower()) for folder in folders]
    if len(folders) < 2 or None in parts or "train" not in parts:
        return {}
    if len(set(parts)) < len(parts):
        raise DataError(
            f"{root} holds {', '.join(folder.name for folder in folders)}: two of them are the same part",
            hint="have one folder a part: train, valid and test",
            code="data-image-parts",
        )
    return {str(part): folder for part, folder in zip(parts, folders, strict=True)}


def read_image_folder(root: Path, *, min_classes: int = 2) -> ImageFolder:
    """Find the images of a folder with one folder a class; a class may have folders of its own.

    Hidden files and folders are not seen; files with another suffix than `IMAGE_SUFFIXES` are counted in a note.

    Args:
        root: The folder.
        min_classes: 2 to train; 1 where a part of the classes is enough, as in a folder to evaluate on.

    Raises:
        DataError: no such folder, no class folders, a class without images, fewer classes than `min_classes`, or
            `root` holds train, valid and test in place of classes.
    """
    if not root.is_dir():
        raise _no_folder(root)
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    loose, others = _files_below(root, recursive=False)
    if not folders:
        lies = f"{len(loose)} images lie directly in it" if loose else "it holds no images either"
        raise DataError(
            f"{root} has no class folders; {lies}",
            hint=f"make one folder a class: {root / 'cat' / '1.jpg'}, {root / 'dog' / '1.jpg'}",
            code="data-no-images",
        )
    if len(folders) > 1 and all(folder.name.lower() in _SUBSETS for folder in folders):
        raise DataError(
            f"{root} holds {', '.join(folder.name for folder in folders)}: parts of the data, not classes",
            hint="give one of them; to train, have one called train",
            code="data-image-parts",
        )
    paths: list[Path] = []
    labels: list[str] = []
    for folder in folders:
        check_name(folder.name, "the class folder")
        found, passed_over = _files_below(folder)
        if not found:
            raise DataError(
                f"class folder {folder.name!r} of {root} holds no images",
                hint=f"fill it or remove it; images end in {_suffixes()}",
                code="data-no-images",
            )
        paths += found
        labels += [folder.name] * len(found)
        others += passed_over
    if len(folders) < min_classes:
        raise DataError(
            f"{root} has one class folder only, {folders[0].name!r}",
            hint="give one folder a class, and at least two",
            code="data-one-class",
        )
    notes = [f"{len(loose):,} images lie beside the class folders and are left out"] if loose else []
    notes += [f"{others:,} files that are not images are left out"] if others else []
    return ImageFolder(root, tuple(paths), tuple(labels), tuple(notes))


def image_columns(frame: pl.DataFrame) -> list[str]:
    """Return the columns of a table whose cells name image files: text that ends as such a file does, in nearly all."""
    found = []
    for name, kind in frame.schema.items():
        if kind not in (pl.String, pl.Enum):
            continue
        some = frame[name].drop_nulls()[:1000].unique().cast(pl.String).to_list()
        if not any(cell.strip().lower().endswith(IMAGE_SUFFIXES) for cell in some):
            continue
        cells = to_texts(frame[name]).drop_nulls()
        suffix = cells.str.to_lowercase().str.extract(r"(\.[a-z0-9]+)$")
        if len(cells) and (suffix.is_in(IMAGE_SUFFIXES).mean() or 0) > 0.95:  # type: ignore[operator]  # a number
            found.append(name)
    return found


def image_paths(cells: pl.Series, root: Path) -> list[Path | None]:
    """Return the files that cells name, below `root` or absolute; None where a cell is empty.

    A cell may leave out the suffix of an image, write it or the name in another case, and have backslashes between
    folders, where one file alone is meant so.
    """
    listed: dict[Path, dict[str, list[str]]] = {}
    return [None if cell is None else _image_path(cell, root, listed) for cell in to_texts(cells).to_list()]


def _image_path(cell: str, root: Path, listed: dict[Path, dict[str, list[str]]]) -> Path:
    """Return the file that a cell names: as it stands where it is there, or where no other is meant.

    Args:
        cell: A path.
        root: The folder below which it is.
        listed: Of each folder looked at, the files by name in lower case, with and without suffix; filled here.
    """
    path = root / cell
    if path.is_file():
        return path
    meant = root / cell.replace("\\", "/").removeprefix("/")
    folder = meant.parent
    if folder not in listed:
        found: dict[str, list[str]] = {}
        for name in sorted(os.listdir(folder)) if folder.is_dir() else ():
            for key in {name.lower(), *([Path(name).stem.lower()] if name.lower().endswith(IMAGE_SUFFIXES) else [])}:
                found.setdefault(key, []).append(name)
        listed[folder] = found
    names = listed[folder].get(meant.name.lower(), [])
    exact = [name for name in names if meant.name in (name, Path(name).stem)] or names
    return folder / exact[0] if len(exact) == 1 else path


def is_unlabelled(path: Path, classes: Collection[str]) -> bool:
    """Return whether a folder holds images, but in no folder of one of `classes`."""
    folders = {item.name for item in path.iterdir() if item.is_dir()} if path.is_dir() else set(classes)
    return not folders & set(classes) and bool(_files_below(path)[0])


def list_images(path: Path) -> tuple[Path, ...]:
    """Return an image file itself, or all images below a folder, sorted by path.

    Raises:
        DataError: there is no such path, or no image in the folder.
    """
    if path.is_file():
        return (path,)
    if not path.is_dir():
        raise _no_folder(path)
    found, _ = _files_below(path)
    if not found:
        raise DataError(f"{path} holds no images", hint=f"images end in {_suffixes()}", code="data-no-images")
    return tuple(found)


def _files_below(folder: Path, *, recursive: bool = True) -> tuple[list[Path], int]:
    """Return the images in a folder, sorted, and the number of other files; nothing that is hidden."""
    images: list[Path] = []
    others = 0
    for place, folders, files in os.walk(folder, onerror=_refuse_folder):
        folders[:] = [name for name in folders if recursive and not name.startswith(".")]
        seen = [name for name in files if not name.startswith(".")]
        named = [Path(place, name) for name in seen if name.lower().endswith(IMAGE_SUFFIXES)]
        images += named
        others += len(seen) - len(named)
    return sorted(images), others


def _refuse_folder(error: OSError) -> None:
    raise DataError(
        f"the folder {error.filename} cannot be read: {error.strerror}",
        hint="change its permissions, or move it",
        code="data-image-unreadable",
    ) from error


def _suffixes() -> str:
    return ", ".join(IMAGE_SUFFIXES)


def _no_folder(path: Path) -> DataError:
    if path.exists():
        return DataError(f"{path} is not a folder", hint="give a folder of images", code="data-not-folder")
    return DataError(f"there is no file or folder {path}", hint=near_file(path), code="data-no-file")


def choose_input(paths: Sequence[Path]) -> tuple[int, int, int]:
    """Return the channels, height and width to read images as, from the headers of up to 500, evenly spread.

    One channel where all are grey, else 3. The size that all have, or the median height and width; where that is above
    128 pixels, scaled down to it with its proportions.

    Raises:
        DataError: none of the headers can be read; the first is named.
    """
    chosen = [paths[i] for i in np.linspace(0, len(paths) - 1, min(len(paths), _NUM_HEADERS)).round().astype(int)]
    is_grey = True
    sizes: list[tuple[int, int]] = []
    errors: list[DataError] = []
    with _quiet_pillow():
        for path in chosen:
            try:
                with _opened(path) as file, Image.open(file, formats=_formats()) as image:
                    is_grey &= image.mode in _GREY or image.mode.startswith("I;16")
                    # getexif() of a PNG without the chunk would read the whole file; Pillow turns a TIFF's size itself.
                    is_turned = "exif" in image.info and image.getexif().get(ORIENTATION, 1) >= 5
                    sizes.append(image.size if is_turned else image.size[::-1])
            except Exception as error:  # any file can be broken in any way; see `_decode`
                errors.append(_unreadable(path, error))
    if not sizes:
        raise errors[0]
    height, width = np.median(np.array(sizes), axis=0).tolist()
    scale = min(1.0, LARGEST_SIDE / max(height, width))
    return (1 if is_grey else 3), max(1, round(height * scale)), max(1, round(width * scale))


def decode(path: Path, *, channels: int, height: int, width: int, decoder: Decoder = "pillow") -> NDArray[np.uint8]:
    """Read one image as uint8 of shape `(channels, height, width)`; of several frames the first.

    How, `luthier.plain.images.decoded` says.

    Args:
        path: The file.
        channels: 1 for grey, 3 for red, green and blue.
        height: In pixels.
        width: In pixels.
        decoder: `simplejpeg` reads plain JPEGs by libjpeg-turbo, and leaves all others to Pillow.

    Raises:
        MissingPackageError: simplejpeg is asked for and not installed.
        DataError: the file is missing, empty, cut short or no image, holds numbers of unknown scale (floats), or is
            larger than `PIL.Image.MAX_IMAGE_PIXELS`.
    """
    codec = None if decoder == "pillow" else _simplejpeg()
    with _quiet_pillow():
        return _decode(path, channels, height, width, codec)


def decode_all(
    paths: Sequence[Path | None],
    *,
    channels: int,
    height: int,
    width: int,
    decoder: Decoder = "pillow",
    on_error: Literal["raise", "keep"] = "raise",
    workers: int = 2,
) -> tuple[NDArray[np.uint8], list[tuple[int, DataError]]]:
    """Read images as `decode` does, in order, on `workers` threads.

    Returns:
        The pixels, uint8 `(N, channels, height, width)`, in memory or in a file as `room_for` says, zeros where there
        is no image or it cannot be read; and for each of the latter its place, counted from 0, and the error.

    Raises:
        DataError: with `on_error="raise"`, some image cannot be read. All are tried first; they are counted, and the
            first is named. Or there is no room for them.
    """
    pixels = room_for((len(paths), channels, height, width))
    codec = None if decoder == "pillow" else _simplejpeg()

    def read(start: int) -> list[tuple[int, DataError]]:
        errors: list[tuple[int, DataError]] = []
        for i in range(start, min(start + _SPAN, len(paths))):
            path = paths[i]
            try:
                if path is not None:
                    pixels[i] = _decode(path, channels, height, width, codec)
            except DataError as error:
                errors.append((i, error))
        return errors

    # Python's warning filters belong to the process: set here, once, and not in the threads.
    with _quiet_pillow(), ThreadPoolExecutor(workers) as pool:
        errors = [pair for found in pool.map(read, range(0, len(paths), _SPAN)) for pair in found]
    if errors and on_error == "raise":
        raise unreadable_images(errors, sum(path is not None for path in paths))
    return pixels, errors


def unreadable_images(errors: Sequence[tuple[int, DataError]], given: int) -> DataError:
    """Return the error that counts the images of `given` that cannot be read, and names the first."""
    first = errors[0][1]
    count = f"{len(errors):,} of {given:,} images cannot be read; the first: " if len(errors) > 1 else ""
    made = DataError(count + first.message, hint=first.hint, code="data-image-unreadable")
    made.__cause__ = first
    return made


def decode_column(
    paths: Sequence[Path | None], image: ImageInput, *, on_error: Literal["raise", "keep"] = "raise"
) -> tuple[NDArray[np.uint8], list[tuple[int, DataError]]]:
    """Read the images that a column names, as `decode_all`; where a cell names none, the mean of training images.

    Raises:
        DataError: with `on_error="raise"`, some image cannot be read.
    """
    pixels, errors = decode_all(
        paths,
        channels=image.channels,
        height=image.height,
        width=image.width,
        decoder=image.decoder,
        on_error=on_error,
    )
    pixels[[i for i, path in enumerate(paths) if path is None]] = blank_image(image)
    return pixels, errors


def blank_image(image: ImageInput) -> NDArray[np.uint8]:
    """Return the mean of training images, uint8 `(C, 1, 1)`: what stands for an image that is not given."""
    return np.round(255 * np.array(image.means)).astype(np.uint8)[:, None, None]


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    """Keep Pillow's warnings from the user, but for the one on images too large to be honest: that is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


@cache
def _formats() -> tuple[str, ...]:
    Image.init()  # Pillow knows a format once its plugin is loaded
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _opened(path: Path) -> BinaryIO:
    """Open a plain file; another might never end.

    Raises:
        OSError: it is a pipe, a device or a folder, or is too large.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise OSError("it is not an ordinary file")
    if found.st_size > _MOST_BYTES:
        raise OSError(f"it has {found.st_size:,} bytes, more than an image has")
    return path.open("rb")


def _decode(path: Path, channels: int, height: int, width: int, codec: Any) -> NDArray[np.uint8]:
    try:
        with _opened(path) as file:
            content = file.read()
        pixels: NDArray[np.uint8] = decoded(content, channels, height, width, _formats(), codec)
    except Exception as error:  # broken files raise anything: struct.error, zlib.error, IndexError, …
        raise _unreadable(path, error) from error
    return pixels


def _simplejpeg() -> Any:
    try:
        import simplejpeg
    except ImportError as error:
        raise MissingPackageError(
            "this needs the package simplejpeg to read images, and it is not installed",
            hint="pip install 'luthier[jpeg]'; a model trained with it needs it, as another decoder gives other pixels",
            code="missing-package",
        ) from error
    return simplejpeg


def _unreadable(path: Path, error: Exception) -> DataError:
    why = str(error) or type(error).__name__
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        why = f"it has more pixels than are safe to decode: {error}"
    elif isinstance(error, UnidentifiedImageError):
        why = "it is not an image in a supported format" if path.stat().st_size else "it is empty (0 bytes)"
    elif isinstance(error, OSError) and error.strerror:
        why = error.strerror
    near = f"{_near_image(path)}; " if isinstance(error, FileNotFoundError) else ""
    return DataError(
        f"image {path} cannot be read: {why}",
        hint=f"{near}replace or remove it, or pass skip_unreadable=True to train without such images",
        code="data-image-unreadable",
    )


def _near_image(path: Path) -> str:
    """Return which file was probably meant: one in a folder beside it, or of a near name."""
    inside = next(path.parent.glob(f"*/{glob.escape(path.stem)}*"), None)
    if inside is not None:
        return f"there is {inside.relative_to(path.parent)}: write the folder too"
    return near_file(path)


def pixel_hashes(pixels: NDArray[Any]) -> NDArray[np.uint64]:
    """Return a 64-bit hash of each image of `(N, …)`, uint64 `(N,)`; equal images have equal hashes.

    It is blake2b with 8 bytes of digest, little-endian, of the type and shape of one image (`"uint8 (1, 28, 28)"`) and
    then its values, row by row.
    """
    start = hashlib.blake2b(f"{pixels.dtype} {pixels.shape[1:]}".encode(), digest_size=8)
    hashes = np.empty(len(pixels), dtype=np.uint64)
    for i, image in enumerate(pixels):
        digest = start.copy()
        digest.update(np.ascontiguousarray(image).data)
        hashes[i] = int.from_bytes(digest.digest(), "little")
    return hashes


def image_statistics(pixels: NDArray[Any], rows: NDArray[np.int64]) -> tuple[list[float], list[float]]:
    """Return the mean and standard deviation of each channel over some images; the latter is 1 where it would be 0.

    Args:
        pixels: `(N, C, H, W)`. Of uint8, value / 255 is meant; of floats, the value.
        rows: The training rows, int64, at least one. Summed in float64, in two passes, a few images at a time.
    """
    scale = 255.0 if pixels.dtype == np.uint8 else 1.0
    count = len(rows) * pixels.shape[2] * pixels.shape[3]
    parts = np.array_split(rows, max(1, count * pixels.shape[1] // 2**22))
    means = sum(pixels[part].sum(axis=(0, 2, 3), dtype=np.float64) for part in parts) / count
    squares = sum(
        np.square(pixels[part] - means[:, None, None], dtype=np.float64).sum(axis=(0, 2, 3)) for part in parts
    )
    stds = np.sqrt(squares / count)
    stds[stds <= 1e-13 * np.abs(means)] = scale  # 0, or the rounding of equal values
    return (means / scale).tolist(), (stds / scale).tolist()


def _content(path: Path) -> bytes:
    try:
        with _opened(path) as file:
            return file.read()
    except OSError:
        return os.fsencode(path)


def file_hashes(paths: Sequence[Path]) -> NDArray[np.uint64]:
    """Return a 64-bit hash of each file, uint64 `(N,)`: blake2b with 8 bytes of its content. Copies share it.

    Of a file that cannot be read it is that of its name: it is for whoever decodes it to say so, or to leave it out.
    """
    digests = b"".join(hashlib.blake2b(_content(path), digest_size=8).digest() for path in paths)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)
