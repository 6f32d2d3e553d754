"""`.npz` files: arrays `x` and `y` as a table or as images."""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from luthier.core.names import did_you_mean
from luthier.errors import DataError

Array = NDArray[Any]
_CHANNELS = (1, 3, 4)


@dataclass(frozen=True)
class Arrays:
    """What an `.npz` holds: `x` of shape `(N, …)`, `y` of shape `(N,)` or `(N, K)` or None, and notes for the user."""

    x: Array
    y: Array | None
    notes: tuple[str, ...] = ()


def read_npz(path: Path) -> Arrays:
    """Read `x` and `y` of an `.npz`. No pickle in it is loaded.

    Raises:
        DataError: no such file, no `.npz`, no `x`, objects in it, `x` and `y` of different length, no rows.
    """
    if path.is_dir():
        raise DataError(f"{path} is a folder", hint="give an .npz file", code="data-is-folder")
    if not path.exists():
        near = [other.name for other in path.parent.glob("*")] if path.parent.is_dir() else []
        raise DataError(f"there is no file {path}", hint=did_you_mean(path.name, near), code="data-no-file")
    if not path.stat().st_size:
        raise DataError(f"{path} is empty (0 bytes)", hint="write it again", code="data-file-empty")
    try:
        # the file is opened here, since np.load leaves it open where it is no archive
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            if not hasattr(archive, "files"):
                raise DataError(f"{path} holds one array and no names", hint="use numpy.savez(path, x=…, y=…)",
                                code="data-npz-keys")  # fmt: skip
            names = {name.lower(): name for name in archive.files}
            if "x" not in names:
                raise DataError(
                    f"{path} has no x; it holds: {', '.join(archive.files) or 'nothing'}",
                    hint="save it with numpy.savez(path, x=…, y=…)",
                    code="data-npz-keys",
                )
            x, y = archive[names["x"]], archive[names["y"]] if "y" in names else None
    except ValueError as error:
        if "pickle" in str(error):
            raise DataError(
                f"{path} holds Python objects, which only a pickle could bring back",
                hint="save arrays of numbers or text: x.astype(float)",
                code="data-npz-pickle",
            ) from error
        raise _damaged(path, error) from error
    except (OSError, zipfile.BadZipFile, EOFError, KeyError) as error:
        raise _damaged(path, error) from error
    if x.ndim == 0 or not len(x):
        raise DataError(f"x in {path} has no rows", hint="give at least one", code="data-no-rows")
    if x.dtype.kind not in "fiub":
        raise DataError(f"x in {path} holds {x.dtype}", hint="x holds numbers", code="data-not-numeric")
    if y is not None and y.ndim not in (1, 2):
        raise DataError(f"y in {path} has shape {y.shape}", hint="y is (N,) or (N, K)", code="data-npz-shape")
    if y is not None and len(y) != len(x):
        raise DataError(
            f"in {path} x has {len(x)} rows and y {len(y)}", hint="give as many of each", code="data-length-mismatch"
        )
    return Arrays(x, y)


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(f"{path} cannot be read: {error}", hint="write it again", code="data-file-damaged")


def layout(x: Array) -> Literal["table", "images"]:
    """Say what an array of shape `(N, …)` is: two dimensions are a table, three or four images.

    Raises:
        DataError: more dimensions.
    """
    if x.ndim <= 2:
        return "table"
    if x.ndim <= 4:
        return "images"
    raise DataError(
        f"x has shape {x.shape}", hint="give (N, D) numbers, or (N, H, W), (N, C, H, W) or (N, H, W, C) images",
        code="data-npz-shape",
    )  # fmt: skip


def as_frame(x: Array) -> pl.DataFrame:
    """Return a table of shape `(N, D)` with the columns `x0`, `x1`, …."""
    columns = x.reshape(len(x), -1)
    return pl.DataFrame({f"x{i}": np.ascontiguousarray(columns[:, i]) for i in range(columns.shape[1])})


def target_frame(y: Array, names: Sequence[str]) -> pl.DataFrame:
    """Return targets of shape `(N,)` or `(N, K)` as columns.

    Raises:
        DataError: another number of columns than names.
    """
    columns = y.reshape(len(y), -1)
    if columns.shape[1] != len(names):
        raise DataError(
            f"y has {columns.shape[1]} columns, and there are {len(names)} targets", hint="give one a target",
            code="data-npz-shape",
        )  # fmt: skip
    return pl.DataFrame({name: np.ascontiguousarray(columns[:, i]) for i, name in enumerate(names)})


def as_pixels(x: Array) -> Array:
    """Return images as `(N, C, H, W)`, uint8 or float32.

    `(N, H, W)` are grey. Of four dimensions the second is the channels where it is 1, 3 or 4, else the last. A fourth
    channel of bytes is opacity: the image is laid on white. Numbers other than bytes from 0 to 255 become float32.

    Raises:
        DataError: no dimension can be the channels, or a value is NaN or infinite.
    """
    if x.ndim == 3:
        x = x[:, None]
    elif x.ndim == 4 and x.shape[1] not in _CHANNELS and x.shape[3] in _CHANNELS:
        x = x.transpose(0, 3, 1, 2)
    if x.ndim != 4 or x.shape[1] not in _CHANNELS:
        raise DataError(
            f"images have shape {x.shape}, with no dimension of 1, 3 or 4 channels",
            hint="give (N, H, W), (N, C, H, W) or (N, H, W, C)",
            code="data-npz-shape",
        )
    if x.dtype == bool:
        x = x.astype(np.uint8) * np.uint8(255)
    elif x.dtype != np.uint8 and x.dtype.kind in "iu" and x.min() >= 0 and x.max() <= 255:
        x = x.astype(np.uint8)
    elif x.dtype != np.uint8:
        x = x.astype(np.float32)
        bad = np.flatnonzero(~np.isfinite(x).reshape(len(x), -1).all(axis=1))
        if len(bad):
            raise DataError(
                f"{len(bad)} images hold NaN or infinite values, the first in row {bad[0] + 1}",
                hint="leave them out, or replace the values",
                code="data-not-finite",
            )
    if x.shape[1] == 4 and x.dtype == np.uint8:
        opacity = x[:, 3:].astype(np.float32) / 255
        x = np.rint(x[:, :3] * opacity + 255 * (1 - opacity)).astype(np.uint8)
    return np.ascontiguousarray(x)
