"""`.npz` files: arrays `x` and `y`, as a table or as images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from luthier.core.names import near_file
from luthier.data.frames import plain_frame
from luthier.errors import DataError

Array = NDArray[Any]
_CHANNELS = (1, 3, 4)
_SAVE = "save it with numpy.savez(path, x=…, y=…)"


@dataclass(frozen=True)
class Arrays:
    """What an `.npz` holds.

    Attributes:
        x: The inputs, `(N, …)`, numbers or booleans.
        y: The targets, `(N,)` or `(N, K)`, numbers, booleans or text; None where there are none.
        notes: What was left out, or taken one of two ways, in words for the user.
    """

    x: Array
    y: Array | None
    notes: tuple[str, ...] = ()


def read_npz(path: Path) -> Arrays:
    """Read `x` and `y` (or `X` and `Y`) of an `.npz`. No pickle in it is loaded.

    Raises:
        DataError: no such file, no whole `.npz`, no `x`, Python objects, `x` without rows or not of numbers, `y` of
            another length or of more than two dimensions.
    """
    found, others = _load(path)
    x, y = found["x"], found.get("y")
    if x.dtype.kind not in "fiub":
        raise DataError(
            f"x in {path} holds {x.dtype}, which no network takes",
            hint="convert it to numbers; for text and dates give a CSV or Parquet file",
            code="data-not-numeric",
        )
    if x.ndim == 0 or not x.size:
        raise DataError(f"x in {path} has shape {x.shape}: no rows", hint="give at least one", code="data-no-rows")
    if y is not None and (y.ndim not in (1, 2) or y.dtype.kind not in "fiubUS"):
        raise DataError(
            f"y in {path} has shape {y.shape} and type {y.dtype}",
            hint="give numbers or text of shape (N,), or (N, K) for K targets",
            code="data-npz-shape",
        )
    if y is not None and len(y) != len(x):
        raise DataError(
            f"in {path} x has {len(x)} rows and y has {len(y)}",
            hint="give as many of each: the first dimension counts the rows",
            code="data-length-mismatch",
        )
    notes = [f"{', '.join(others)} in {path.name}: left out, only x and y are read"] if others else []
    if x.ndim == 4 and x.shape[1] in _CHANNELS and x.shape[3] in _CHANNELS:
        notes.append(f"x of shape {x.shape} is taken as (N, C, H, W), channels first")
    return Arrays(x, y, tuple(notes))


def _load(path: Path) -> tuple[dict[str, Array], list[str]]:
    """Return the arrays called x and y, and the names of the others."""
    if path.is_dir():
        raise DataError(f"{path} is a folder", hint="give an .npz file", code="data-is-folder")
    if not path.exists():
        raise DataError(f"there is no file {path}", hint=near_file(path), code="data-no-file")
    if not path.stat().st_size:
        raise DataError(f"{path} is empty: 0 bytes", hint=_SAVE, code="data-file-empty")
    with path.open("rb") as file:
        magic = file.read(6)
    if magic == b"\x93NUMPY":
        raise DataError(f"{path} holds a single array (.npy) without a name", hint=_SAVE, code="data-npz-keys")
    if magic[:2] != b"PK":
        raise DataError(f"{path} is not an .npz file (a zip of arrays)", hint=_SAVE, code="data-file-damaged")
    key = ""
    try:
        # Opened here: np.load leaves a file open that it cannot make sense of.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            keys = {name: [key for key in archive.files if key.lower() == name] for name in ("x", "y")}
            if not keys["x"] or max(map(len, keys.values())) > 1:
                raise DataError(
                    f"{path} has no array x, or two; it holds: {', '.join(archive.files) or 'nothing'}",
                    hint=f"{_SAVE}, each name once",
                    code="data-npz-keys",
                )
            arrays: dict[str, Array] = {}
            for name, (key, *_) in ((name, same) for name, same in keys.items() if same):
                array = archive[key]
                # torch and polars take numbers in the machine's own byte order alone
                arrays[name] = array.astype(array.dtype.newbyteorder("="), copy=False)
            return arrays, [name for name in archive.files if name.lower() not in arrays]
    except DataError:
        raise
    except Exception as error:  # a damaged file raises anything: BadZipFile, zlib.error, EOFError, MemoryError, …
        if "allow_pickle" in str(error):
            raise DataError(
                f"{key} in {path} holds Python objects, which only a pickle brings back; a pickle can run any code",
                hint="save numbers or text: numpy.savez(path, x=x.astype(float), y=y.astype(str))",
                code="data-npz-pickle",
            ) from error
        raise DataError(
            f"{path} is damaged or cut short: {error or type(error).__name__}",
            hint="copy or write the file again",
            code="data-file-damaged",
        ) from error


def layout(x: Array) -> Literal["table", "images", "series"]:
    """Say what `x` is: `(N,)` and `(N, D)` are a table; `(N, C, H, W)` and `(N, H, W, C)` are images.

    `(N, H, W)` are grey images where they are bytes or booleans, or as high as wide; else they are series, `(N, C, L)`.

    Raises:
        DataError: no dimension, or more than four.
    """
    if x.ndim in (1, 2):
        return "table"
    if x.ndim == 3:
        is_image = x.dtype.kind in "b" or x.dtype == np.uint8 or x.shape[1] == x.shape[2]
        return "images" if is_image else "series"
    if x.ndim == 4:
        return "images"
    raise _shape_error(x)


def as_pixels(x: Array, *, value_scale: float | None = None) -> Array:
    """Return images as `(N, C, H, W)`, C-contiguous, uint8 or float32.

    `(N, H, W)` are grey. Of four dimensions the second is the channels where it is 1, 3 or 4, else the last where that
    is. Of bytes with four channels the last is opacity: they are laid on white. Booleans become 0 and 255; integers
    that all lie in 0 to 255 become uint8; other numbers become float32 and are not scaled. Nothing is written to `x`.

    Args:
        x: Numbers or booleans.
        value_scale: That of the `ImageInput`, where there is one: with 1.0 (trained on floats) integers of more than
            8 bits become float32 whatever their values, so that a dark image is taken like its neighbours.

    Raises:
        DataError: no dimension can be the channels, text, or a value that is NaN, infinite or beyond float32.
    """
    if x.dtype.kind not in "fiub":
        raise DataError(f"the images hold {x.dtype}", hint="give numbers", code="data-not-numeric")
    if x.ndim == 3:
        x = x[:, None]
    elif x.ndim == 4 and x.shape[1] not in _CHANNELS and x.shape[3] in _CHANNELS:
        x = x.transpose(0, 3, 1, 2)
    if x.ndim != 4 or x.shape[1] not in _CHANNELS or not x.size:
        raise _shape_error(x)
    if x.dtype == np.bool_:
        x = x.astype(np.uint8) * np.uint8(255)
    elif x.dtype.kind in "iu" and x.dtype != np.uint8 and value_scale != 1.0 and x.min() >= 0 and x.max() <= 255:
        x = x.astype(np.uint8)
    if x.dtype != np.uint8:
        with np.errstate(over="ignore"):
            x = x.astype(np.float32, copy=False)
        bad = np.flatnonzero(~np.isfinite(x).all(axis=(1, 2, 3)))
        if len(bad):
            raise DataError(
                f"{len(bad):,} images hold NaN, infinite or too large values, the first in row {bad[0] + 1}",
                hint="leave these rows out, or replace the values",
                code="data-not-finite",
            )
    elif x.shape[1] == 4:
        opacity = x[:, 3:].astype(np.uint32)
        x = ((x[:, :3] * opacity + 255 * (255 - opacity) + 127) // 255).astype(np.uint8)
    return np.ascontiguousarray(x)


def as_frame(x: Array) -> pl.DataFrame:
    """Return a table `(N,)` or `(N, D)` with the columns `x0`, `x1`, …, in the types of `frames.plain_frame`."""
    columns = x.reshape(len(x), -1)
    return _frame(columns, [f"x{i}" for i in range(columns.shape[1])])


def series_frame(x: Array) -> pl.DataFrame:
    """Return series `(N, C, L)`, or `(N, L)` of one channel, with a column of lists for each channel: `x0`, `x1`, ….

    NaN is a step that is missing, or at the end of a row, not there.

    Raises:
        DataError: another number of dimensions.
    """
    if x.ndim == 2:
        x = x[:, None]
    if x.ndim != 3:
        raise DataError(
            f"x has shape {x.shape}, and series are (N, C, L): rows, channels, steps",
            hint="give that shape, filled up with NaN where rows are shorter; or (N, L) for one channel",
            code="data-npz-shape",
        )
    return pl.DataFrame({
        f"x{i}": pl.Series(np.ascontiguousarray(x[:, i], dtype=np.float64)).arr.to_list() for i in range(x.shape[1])
    })  # fmt: skip


def target_frame(y: Array, names: Sequence[str]) -> pl.DataFrame:
    """Return targets `(N,)` or `(N, K)` as columns, in the types of `frames.plain_frame`.

    Raises:
        DataError: another number of columns than names.
    """
    columns = y.reshape(len(y), -1)
    if columns.shape[1] != len(names):
        raise DataError(
            f"y has shape {y.shape}, and there {'is 1 target' if len(names) == 1 else f'are {len(names)} targets'}",
            hint=f"give y one column a target: {', '.join(names)}",
            code="data-npz-shape",
        )
    return _frame(columns, names)


def _frame(columns: Array, names: Sequence[str]) -> pl.DataFrame:
    if columns.dtype.kind == "S":
        columns = np.char.decode(columns, "utf-8", "replace")
    elif columns.dtype in (np.float16, np.longdouble):
        columns = columns.astype(np.float32 if columns.dtype == np.float16 else np.float64)
    frame = pl.DataFrame({name: np.ascontiguousarray(columns[:, i]) for i, name in enumerate(names)})
    return plain_frame(frame)[0]


def _shape_error(x: Array) -> DataError:
    return DataError(
        f"x has shape {x.shape}, which is neither a table, images nor series",
        hint="give (N, D) numbers; images as (N, H, W), (N, C, H, W) or (N, H, W, C) with 1, 3 or 4 channels; "
        "or series as (N, C, L)",
        code="data-npz-shape",
    )
