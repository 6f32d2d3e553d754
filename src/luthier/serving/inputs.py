"""What a caller asks about, a piece at a time: tables, images and arrays, as the network's inputs by the Schema."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
from torch import Tensor

from luthier.core.names import check_name
from luthier.core.schema import ImageInput, Schema
from luthier.data.arrays import as_frame, as_pixels, layout, read_npz, series_frame, target_frame
from luthier.data.augment import normalise
from luthier.data.commas import find_commas, with_decimal_points
from luthier.data.encode import OddCells, encode_inputs
from luthier.data.files import as_source, check_options, is_table_folder, iter_any, read_any, source_lines
from luthier.data.frames import is_pandas
from luthier.data.images import decode_all, decode_column, image_paths, list_images, read_image_folder
from luthier.data.series import first_values, fold_steps, is_lists
from luthier.data.tables import table_from
from luthier.data.targets import encode_targets
from luthier.data.textfile import ReadOptions
from luthier.errors import DataError, LuthierError

_log = logging.getLogger("luthier")
ROWS = 16_384  # of a table at a time
IMAGES = 256


@dataclass
class Piece:
    """Some rows: the network's inputs, and what is known beside them.

    Attributes:
        inputs: The module's positional arguments, each `(N, …)`.
        targets: As the criterion takes them, where they were asked for.
        names: What the rows are called, where they are files or series: a column of that name.
        errors: Rows that could not be read, by place in this piece, with the reason; their images are blank. None
            where no row holds an image file.
    """

    inputs: tuple[Tensor, ...]
    targets: Tensor | None = None
    names: pl.Series | None = None
    errors: dict[int, LuthierError] | None = None

    def __len__(self) -> int:
        return len(self.inputs[0])


def pieces(
    source: Any,
    schema: Schema,
    *,
    with_targets: bool = False,
    options: ReadOptions | None = None,
    unseen: dict[str, int] | None = None,
    warn: Callable[[str], Any] | None = None,
) -> Iterator[Piece]:
    """Yield the rows of `source` in order, a piece at a time.

    Args:
        source: A path (a table of any format, `.npz`, an image, a folder of images), several, the URL of a database, a
            frame, a dict of columns, a list of dicts; for images and series also an array.
        schema: From training.
        with_targets: Read the targets too. Rows without one are an error.
        options: How to read a CSV.
        unseen: Where to count rows by the classes that training rows do not have.
        warn: Called with each line on cells that are not like those of training rows, or were read with a doubt; the
            log gets them without it.

    Raises:
        DataError: the source cannot be read, or is not of the kind that the network was trained on.
    """
    warn = warn or _to_log
    named = as_source(source)
    path = None if named is None else Path(source_lines(named)[0])
    check_name(str(path or ""), "the file")
    as_written = (schema.label_column,) if schema.label_column else ()
    options = replace(
        options or ReadOptions(), as_written=as_written, likely_decimal=schema.decimal, points=schema.points
    )
    if schema.image is not None and not schema.columns:
        yield from _images(source, path, schema, schema.image, with_targets, unseen)
        return
    if path is not None and path.is_dir() and not is_table_folder(path):
        raise DataError(
            f"{path} is a folder, and the network was trained on a table",
            hint="give a CSV, Parquet or .npz file",
            code="data-not-a-table",
        )
    root = Path()
    wanted = {*target_names(schema), *(column.name for column in schema.columns)}
    wanted |= {name for name in (schema.series, schema.order) if name is not None}
    if path is not None and path.suffix.lower() == ".npz":
        arrays = read_npz(path)
        frame = _array_frame(arrays.x, schema)
        if with_targets and arrays.y is not None:
            frame = frame.hstack(target_frame(arrays.y, [target.name for target in schema.targets]))
        tables = iter([table_from(frame, path.name)])
    elif path is not None and schema.series is not None:
        check_options(named or "", options)
        tables = iter([read_any(named or "", options, wanted=wanted)])  # whole: the steps of a series may be anywhere
    elif path is not None:
        check_options(named or "", options)
        tables, root = (
            iter_any(
                named or "",
                options,
                rows=ROWS if schema.image is None else IMAGES,
                wanted=wanted,
                texts={*target_names(schema), *(c.name for c in schema.columns if c.kind not in ("number", "boolean"))},
            ),
            path if path.is_dir() else path.parent,
        )
    elif hasattr(source, "shape") and not hasattr(source, "columns") and not is_pandas(source):
        tables = iter([table_from(_array_frame(np.asarray(source), schema))])
    else:
        tables = iter([table_from(source)])
    odd = OddCells()
    for table in tables:
        frame, names = table.frame, None
        if path is None and schema.decimal == ",":
            commas = find_commas(frame, delimiter=";", likely=",", points=schema.points, as_written=as_written)
            frame = frame if commas is None else with_decimal_points(frame, commas)
        for line in (*table.notes, *table.doubts):
            warn(line)
        if schema.series is not None:
            scalars = target_names(schema) if with_targets else []
            frame = fold_steps(frame, schema.series, schema.order, scalars=scalars, where=table.name)
            names = frame[schema.series]
        for start in range(0, frame.height, ROWS if schema.image is None else IMAGES):
            some = frame[start : start + (ROWS if schema.image is None else IMAGES)]
            piece = table_piece(
                some, schema, with_targets=with_targets, where=table.name, root=root, odd=odd, unseen=unseen
            )
            piece.names = None if names is None else names[start : start + len(piece)]
            yield piece
    for line in odd.lines(schema):
        warn(line)


def _to_log(line: str) -> None:
    _log.warning("%s", line)


def _array_frame(x: np.ndarray[Any, Any], schema: Schema) -> pl.DataFrame:
    """Return an array as the table that the network was trained on: numbers, or series."""
    is_series = any(column.kind == "series" for column in schema.inputs)
    if not is_series and x.ndim > 2 and x[0].size != len(schema.columns):
        raise DataError(
            f"x has shape {x.shape}, and the network was trained on a table",
            hint="give (N, D) numbers",
            code="data-not-a-table",
        )
    return series_frame(x) if is_series else as_frame(x)


def table_piece(
    frame: pl.DataFrame,
    schema: Schema,
    *,
    with_targets: bool,
    where: str = "the data",
    root: Path = Path(),
    odd: OddCells | None = None,
    unseen: dict[str, int] | None = None,
) -> Piece:
    """Return the rows of a frame as one piece; images that a column names lie below `root`."""
    inputs = [torch.from_numpy(block) for block in encode_inputs(frame, schema, where=where, odd=odd).values()]
    targets = torch.from_numpy(encode_targets(frame, schema, unseen=unseen)) if with_targets else None
    if schema.image is None:
        return Piece(tuple(inputs), targets)
    column = next(column.name for column in schema.inputs if column.kind == "image")
    on_error: Literal["keep", "raise"] = "raise" if with_targets else "keep"
    cells = frame[column]
    paths = image_paths(first_values(cells) if is_lists(cells) else cells, root)
    pixels, errors = decode_column(paths, schema.image, on_error=on_error)
    return Piece((*inputs, normalise(torch.from_numpy(pixels), schema.image)), targets, errors=dict(errors))


def _images(
    source: Any,
    path: Path | None,
    schema: Schema,
    image: ImageInput,
    with_targets: bool,
    unseen: dict[str, int] | None,
) -> Iterator[Piece]:
    if path is not None and path.suffix != ".npz":
        yield from _image_files(path, schema, image, with_targets, unseen)
        return
    targets: np.ndarray[Any, Any] | None = None
    if path is not None:
        arrays = read_npz(path)
        if layout(arrays.x) != "images":
            raise DataError(
                f"x in {path.name} has shape {arrays.x.shape}, and the network was trained on images",
                hint=f"give images of {image.channels} x {image.height} x {image.width}",
                code="data-not-images",
            )
        if with_targets:
            if arrays.y is None:
                raise DataError(
                    f"{path.name} has no y to compare with", hint="save it with y=", code="data-target-missing"
                )
            targets = encode_targets(target_frame(arrays.y, target_names(schema)), schema, unseen=unseen)
        source = arrays.x
    if hasattr(source, "numpy"):
        source = source.numpy()
    pixels = as_pixels(np.asarray(source), value_scale=image.value_scale)
    check_pixels(pixels, image, "the images")
    for start in range(0, len(pixels), IMAGES):
        part = torch.from_numpy(np.ascontiguousarray(pixels[start : start + IMAGES]))
        some = None if targets is None else torch.from_numpy(targets[start : start + IMAGES])
        yield Piece((normalise(part, image),), some)


def _text(name: Path) -> str:
    """Return a file's name as text: bytes that are not UTF-8 as escapes."""
    return str(name).encode(errors="backslashreplace").decode()


def target_names(schema: Schema) -> list[str]:
    """Return the columns that the targets stand in."""
    return [schema.label_column] if schema.label_column else [target.name for target in schema.targets]


def check_pixels(pixels: np.ndarray[Any, Any], image: ImageInput, where: str) -> None:
    """Refuse arrays of images of another size, or of another scale, than the network was trained on."""
    if pixels.shape[1:] != (image.channels, image.height, image.width):
        raise DataError(
            f"{where} have shape {pixels.shape[1:]}, and the network takes "
            f"{(image.channels, image.height, image.width)}",
            hint="give arrays of that size; files are resized by themselves",
            code="data-image-shape",
        )
    if (pixels.dtype == np.uint8) != (image.value_scale == 255.0):
        raise DataError(
            f"{where} are {pixels.dtype}, and the network was trained on "
            f"{'bytes (uint8)' if image.value_scale == 255.0 else 'floats'}",
            hint="give the same type as in training",
            code="data-image-type",
        )


def _image_files(
    path: Path, schema: Schema, image: ImageInput, with_targets: bool, unseen: dict[str, int] | None
) -> Iterator[Piece]:
    targets: np.ndarray[Any, Any] | None = None
    if with_targets:
        folder = read_image_folder(path, min_classes=1)
        paths = folder.paths
        classes = pl.DataFrame({target_names(schema)[0]: list(folder.labels)})
        targets = encode_targets(classes, schema, unseen=unseen)
    else:
        paths = list_images(path)
    for start in range(0, len(paths), IMAGES):
        some = paths[start : start + IMAGES]
        pixels, errors = decode_all(
            some, channels=image.channels, height=image.height, width=image.width, decoder=image.decoder,
            on_error="raise" if with_targets else "keep",
        )  # fmt: skip
        base = path if path.is_dir() else path.parent
        yield Piece(
            (normalise(torch.from_numpy(pixels), image),),
            None if targets is None else torch.from_numpy(targets[start : start + IMAGES]),
            pl.Series("image", [_text(name.relative_to(base)) for name in some]),
            dict(errors),
        )
