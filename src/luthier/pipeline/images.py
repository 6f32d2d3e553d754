"""Images, in folders and in arrays: read, split, then their statistics from training images."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from luthier.core.schema import ImageInput, Schema
from luthier.core.settings import DataSettings
from luthier.data.augment import ImageSource
from luthier.data.images import choose_input, decode_all, file_hashes, image_statistics, read_image_folder
from luthier.data.split import Split, split_rows
from luthier.data.targets import encode_targets, read_targets
from luthier.errors import DataError, SettingError
from luthier.pipeline.parts import Part, Prepared, fractions, refuse, split_words
from luthier.serving.inputs import check_pixels, target_names


def prepare_folder(settings: DataSettings, path: Path, augment: tuple[str, ...], schema: Schema | None) -> Prepared:
    """Read a folder of images, one folder a class, and split it.

    Raises:
        DataError: the data cannot be read, split or trained on.
        SettingError: a setting that does not go with this kind of data.
    """
    refuse(settings, ("kind", "group", "time", "weight", "labels", "delimiter", "encoding"), "a folder of images")
    if settings.target:
        raise SettingError(
            "target would be ignored: in a folder of images the class is the name of its folder",
            hint="leave target out",
            code="setting-ignored",
        )
    folders = {"train": read_image_folder(path)}
    for part, other in (("valid", settings.valid), ("test", settings.test)):
        if other is not None:
            folders[part] = read_image_folder(Path(other), min_classes=1)
    train = folders["train"]
    notes = [f"{path.name}: {len(train.paths):,} images of {len(set(train.labels))} classes", *train.notes]
    frames = {part: pl.DataFrame({"class": list(folder.labels)}) for part, folder in folders.items()}
    split = split_images(settings, frames["train"], ["class"], file_hashes(train.paths))
    if schema is not None and schema.image is not None:
        channels, height, width = schema.image.channels, schema.image.height, schema.image.width
    else:
        channels, height, width = choose_input([train.paths[i] for i in split.train])
        if settings.image_size is not None:
            height = width = settings.image_size
    pixels: dict[str, NDArray[Any]] = {}
    paths: dict[str, list[str]] = {}
    for part, folder in folders.items():
        decoded, errors = decode_all(
            folder.paths,
            channels=channels,
            height=height,
            width=width,
            on_error="keep" if settings.skip_unreadable else "raise",
        )
        notes += [f"left out: {error.message}" for _, error in errors]
        bad = np.array([place for place, _ in errors], dtype=np.int64)
        good = np.setdiff1d(np.arange(len(folder.paths)), bad)
        if part == "train":
            split = Split(*(np.setdiff1d(rows, bad) for rows in (split.train, split.valid, split.test)))
        else:
            decoded, frames[part] = decoded[good], frames[part][good]
            folder = replace(folder, paths=tuple(folder.paths[i] for i in good))
        pixels[part], paths[part] = decoded, list(map(str, folder.paths))
    notes.append(f"every image is read as {channels} x {height} x {width}")
    return prepare_images(settings, pixels, frames, ["class"], split, augment, schema, notes, paths)


def split_images(settings: DataSettings, frame: pl.DataFrame, names: list[str], hashes: NDArray[np.uint64]) -> Split:
    """Split by the images' hashes, ranked within classes."""
    valid, test = fractions(settings)
    everything = np.arange(frame.height, dtype=np.int64)
    if not valid and not test:
        none = np.arange(0, dtype=np.int64)
        return Split(everything, none, none)
    task, targets = read_targets(frame, names, everything, task=settings.task)
    strata = None
    if task in ("binary", "multiclass"):
        strata = encode_targets(frame, Schema(task=task, targets=targets)).reshape(-1).astype(np.int64)
    return split_rows(hashes, strata=strata, valid=valid, test=test)


def prepare_images(
    settings: DataSettings,
    pixels: dict[str, NDArray[Any]],
    frames: dict[str, pl.DataFrame],
    names: list[str],
    split: Split,
    augment: tuple[str, ...],
    schema: Schema | None,
    notes: list[str],
    paths: Mapping[str, list[str]] | None = None,
) -> Prepared:
    """Return the parts; pixels and frames of `train` are split, those of `valid` and `test` are files of their own."""
    if schema is None:
        everything = np.arange(frames["train"].height, dtype=np.int64)
        task, _ = read_targets(frames["train"], names, everything, task=settings.task)
        task, targets = read_targets(frames["train"], names, split.train, task=task)
        means, stds = image_statistics(pixels["train"], split.train)
        channels, height, width = pixels["train"].shape[1:]
        image = ImageInput(
            channels=channels,
            height=height,
            width=width,
            means=tuple(means),
            stds=tuple(stds),
            value_scale=255.0 if pixels["train"].dtype == np.uint8 else 1.0,
        )
        schema = Schema(task=task, targets=targets, image=image, num_rows=len(split.train))
    if target_names(schema) != names or schema.image is None:
        raise DataError(
            f"the model was trained on other data (targets {target_names(schema)})",
            hint="start from a model of the same kind of data",
            code="data-other-kind",
        )
    for part, found in pixels.items():
        check_pixels(found, schema.image, f"the {part} images")
    whole = torch.from_numpy(pixels["train"])
    parts = {}
    for part, rows in (("train", split.train), ("valid", split.valid), ("test", split.test)):
        if part != "train" and part in pixels:
            tensor, frame, origin = torch.from_numpy(pixels[part]), frames[part], part
            rows = np.arange(frame.height, dtype=np.int64)
        else:
            tensor = whole if len(rows) == len(whole) else whole[torch.from_numpy(rows)]
            frame, origin = frames["train"][rows], "train"
        if len(rows):
            target = torch.from_numpy(encode_targets(frame, schema))
            kinds = augment if part == "train" else ()
            named = tuple(paths[origin][row] for row in rows) if paths else ()
            file = Path(str(settings.source if origin == "train" else getattr(settings, origin))).name
            parts[part] = Part(rows, ImageSource(tensor, target, schema.image, augment=kinds), named, file)
    notes.append(split_words(parts, settings))
    return Prepared(schema, parts, notes)
