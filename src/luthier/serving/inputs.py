"""What a caller asks about, a piece at a time: tables, images and arrays, as the network's inputs by the Schema."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from luthier.core.schema import ImageInput, Schema
from luthier.data.arrays import as_frame, as_pixels, layout, read_npz, target_frame
from luthier.data.augment import normalise
from luthier.data.encode import encode_inputs
from luthier.data.images import decode_all, list_images, read_image_folder
from luthier.data.tables import ReadOptions, iter_tables, table_from
from luthier.data.targets import encode_targets
from luthier.errors import DataError, LuthierError

ROWS = 16_384  # of a table at a time
IMAGES = 256


@dataclass
class Piece:
    """Some rows: the network's inputs, and what is known beside them.

    Attributes:
        inputs: The module's positional arguments, each `(N, …)`.
        targets: As the criterion takes them, where they were asked for.
        names: Of images, their files.
        errors: Rows that could not be read, by place in this piece, with the reason; their inputs are zeros.
    """

    inputs: tuple[Tensor, ...]
    targets: Tensor | None = None
    names: list[str] | None = None
    errors: dict[int, LuthierError] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.inputs[0])


def pieces(
    source: Any, schema: Schema, *, with_targets: bool = False, options: ReadOptions | None = None
) -> Iterator[Piece]:
    """Yield the rows of `source` in order, a piece at a time.

    Args:
        source: A path (CSV, Parquet, `.npz`, an image, a folder of images), a frame, a dict of columns, a list of
            dicts; for images also an array of pixels.
        schema: From training.
        with_targets: Read the targets too. Rows without one are an error.
        options: How to read a CSV.

    Raises:
        DataError: the source cannot be read, or is not of the kind that the network was trained on.
    """
    path = Path(source) if isinstance(source, str | Path) else None
    if schema.image is not None:
        yield from _images(source, path, schema, schema.image, with_targets)
        return
    if path is not None and path.is_dir():
        raise DataError(
            f"{path} is a folder, and the network was trained on a table",
            hint="give a CSV, Parquet or .npz file",
            code="data-not-a-table",
        )
    if path is not None and path.suffix == ".npz":
        arrays = read_npz(path)
        frame = as_frame(arrays.x)
        if with_targets and arrays.y is not None:
            frame = frame.hstack(target_frame(arrays.y, [target.name for target in schema.targets]))
        tables = iter([table_from(frame, path.name)])
    elif path is not None:
        tables = iter_tables(path, options or ReadOptions(), rows=ROWS)
    else:
        tables = iter([table_from(source)])
    for table in tables:
        yield table_piece(table.frame, schema, with_targets=with_targets, where=table.name)


def table_piece(frame: pl.DataFrame, schema: Schema, *, with_targets: bool, where: str = "the data") -> Piece:
    """Return the rows of a frame as one piece."""
    encoded = encode_inputs(frame, schema, where=where)
    inputs = tuple(torch.from_numpy(block) for block in encoded.values())
    targets = torch.from_numpy(encode_targets(frame, schema)) if with_targets else None
    return Piece(inputs, targets)


def _images(source: Any, path: Path | None, schema: Schema, image: ImageInput, with_targets: bool) -> Iterator[Piece]:
    if path is not None and path.suffix != ".npz":
        yield from _image_files(path, schema, image, with_targets)
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
            targets = encode_targets(target_frame(arrays.y, target_names(schema)), schema)
        source = arrays.x
    if hasattr(source, "numpy"):
        source = source.numpy()
    pixels = as_pixels(np.asarray(source), value_scale=image.value_scale)
    check_pixels(pixels, image, "the images")
    for start in range(0, len(pixels), IMAGES):
        part = torch.from_numpy(np.ascontiguousarray(pixels[start : start + IMAGES]))
        some = None if targets is None else torch.from_numpy(targets[start : start + IMAGES])
        yield Piece((normalise(part, image),), some)


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


def _image_files(path: Path, schema: Schema, image: ImageInput, with_targets: bool) -> Iterator[Piece]:
    targets: np.ndarray[Any, Any] | None = None
    if with_targets:
        folder = read_image_folder(path, min_classes=1)
        paths = folder.paths
        targets = encode_targets(pl.DataFrame({target_names(schema)[0]: list(folder.labels)}), schema)
    else:
        paths = list_images(path)
    for start in range(0, len(paths), IMAGES):
        some = paths[start : start + IMAGES]
        pixels, errors = decode_all(
            some, channels=image.channels, height=image.height, width=image.width,
            on_error="raise" if with_targets else "keep",
        )  # fmt: skip
        base = path if path.is_dir() else path.parent
        yield Piece(
            (normalise(torch.from_numpy(pixels), image),),
            None if targets is None else torch.from_numpy(targets[start : start + IMAGES]),
            [str(name.relative_to(base)) for name in some],
            dict(errors),
        )
