"""From a source to a Schema and three parts of data: the reader of its kind, found by what the source is."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from luthier.core.schema import Schema
from luthier.core.settings import DataSettings
from luthier.data.arrays import as_frame, as_pixels, layout, read_npz, series_frame, target_frame
from luthier.data.files import check_options, is_table_folder, source_lines
from luthier.data.images import pixel_hashes
from luthier.data.tables import table_from
from luthier.errors import DataError, SettingError
from luthier.pipeline.images import prepare_folder, prepare_images, split_images
from luthier.pipeline.parts import ONLY_TABLES, Prepared, refuse
from luthier.pipeline.rows import prepare_rows
from luthier.pipeline.tables import prepare_number_arrays, prepare_table, read_options, read_source
from luthier.store.rows import is_row_store

_NAMES = {"train": "the data", "valid": "the validation data", "test": "the test data"}  # of rows that lie in no file


def prepare(
    settings: DataSettings,
    handed: Mapping[str, Any] | None = None,
    *,
    augment: tuple[str, ...] = (),
    schema: Schema | None = None,
) -> Prepared:
    """Read, split, and take the Schema from the training rows.

    Args:
        settings: Which data, and how to split it.
        handed: Frames, dicts of columns or lists of dicts in place of files: `train` of `settings.source`, and beside
            it `valid` and `test` where they are rows of their own.
        augment: What to do to training images.
        schema: That of a bundle, to be kept where training starts from its weights.

    Raises:
        DataError: the data cannot be read, split or trained on.
        SettingError: a setting that does not go with this kind of data.
    """
    if handed:
        tables = {part: table_from(rows, _NAMES[part]) for part, rows in handed.items()}
        return prepare_table(settings, tables.pop("train"), schema, augment=augment, others=tables)
    source = settings.source
    path = Path(source_lines(source)[0])
    if is_row_store(path):
        return prepare_rows(settings, schema, augment)
    if path.is_dir() and not is_table_folder(path):
        return prepare_folder(settings, path, augment, schema)
    if path.suffix.lower() == ".npz":
        return _prepare_npz(settings, path, augment, schema)
    check_options(source, read_options(settings))
    if schema is None:
        table = read_source(source, settings)
    else:
        texts = [column.name for column in schema.columns if column.kind in ("category", "text")]
        table = read_source(source, settings, schema.decimal, schema.points, as_text=texts)
    return prepare_table(settings, table, schema, augment=augment, root=path if path.is_dir() else path.parent)


def _prepare_npz(settings: DataSettings, path: Path, augment: tuple[str, ...], schema: Schema | None) -> Prepared:
    refuse(settings, ("delimiter", "encoding", "decimal", "labels", "sheet", "query"), "an .npz file")
    if settings.target and settings.target != ("y",):
        raise SettingError(
            f"target is {', '.join(settings.target)}, and in an .npz file it is y", hint="leave target out",
            code="setting-ignored",
        )  # fmt: skip
    arrays = {"train": read_npz(path)}
    for part, file in (("valid", settings.valid), ("test", settings.test)):
        if file is not None:
            arrays[part] = read_npz(Path(file))
    for part, found in arrays.items():
        if found.y is None:
            raise DataError(
                f"{settings.source if part == 'train' else getattr(settings, part)} has no y to train on",
                hint="save it with numpy.savez(path, x=…, y=…)",
                code="data-target-missing",
            )
    train = arrays["train"]
    assert train.y is not None
    names = ["y"] if train.y.ndim == 1 or train.y.shape[1] == 1 else [f"y{i}" for i in range(train.y.shape[1])]
    notes = [f"{path.name}: x of shape {train.x.shape}, {train.x.dtype}", *train.notes]
    frames = {part: target_frame(found.y, names) for part, found in arrays.items() if found.y is not None}
    kind = settings.arrays or layout(train.x)
    if kind != "images":
        refuse(settings, ("series", "order", "channel"), "arrays")
        notes.append(f"x is taken as {kind}; to override this, pass arrays=")
        named = replace(settings, target=tuple(names), valid=None, test=None)
        make = as_frame if kind == "table" else series_frame
        return prepare_number_arrays(
            named, settings, {p: make(a.x).hstack(frames[p]) for p, a in arrays.items()}, notes, schema
        )
    refuse(settings, (*ONLY_TABLES, "image_size", "decoder", "skip_unreadable"), "arrays of images")
    scale = None if schema is None or schema.image is None else schema.image.value_scale
    pixels = {part: as_pixels(found.x, value_scale=scale) for part, found in arrays.items()}
    split = split_images(settings, frames["train"], names, pixel_hashes(pixels["train"]))
    return prepare_images(settings, pixels, frames, names, split, augment, schema, notes)
