"""Images, in folders and in arrays: read, split, then their statistics from training images."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from luthier.core.schema import ImageInput, Schema
from luthier.core.settings import DataSettings
from luthier.data.augment import ImageSource
from luthier.data.images import (
    ImageFolder,
    blank_image,
    choose_input,
    decode_all,
    decode_column,
    file_hashes,
    image_paths,
    image_statistics,
    is_unlabelled,
    part_folders,
    read_image_folder,
)
from luthier.data.room import without
from luthier.data.split import Split, split_rows
from luthier.data.targets import encode_targets, read_targets, unseen_words, with_types
from luthier.errors import DataError, SettingError
from luthier.pipeline.parts import ONLY_TABLES, Part, Prepared, fractions, refuse, split_words, warn
from luthier.serving.inputs import check_pixels, target_names
from luthier.training.folder import hash_source


@dataclass
class FoundImages:
    """The images of a folder, not yet decoded.

    Attributes:
        settings: Of the folder, with those of its parts.
        folders: `train`, which is split, and `valid` and `test` where they are folders of their own.
        notes: What was found, in words for the user.
    """

    settings: DataSettings
    folders: dict[str, ImageFolder]
    notes: list[str]

    @property
    def paths(self) -> list[Path]:
        """All files, the training folder's first."""
        return [path for folder in self.folders.values() for path in folder.paths]

    def frames(self) -> dict[str, pl.DataFrame]:
        """Return the class of each image."""
        return {part: pl.DataFrame({"class": list(folder.labels)}) for part, folder in self.folders.items()}


def find_images(settings: DataSettings, path: Path) -> FoundImages:
    """Find the images of a folder, one folder a class, and of its parts.

    Raises:
        DataError: there are none, or they do not lie so.
        SettingError: a setting that does not go with this kind of data.
    """
    others = ("labels", "delimiter", "encoding", "decimal", "arrays", "sheet", "query")
    refuse(settings, (*ONLY_TABLES, *others), "a folder of images")
    if settings.target:
        raise SettingError(
            f"target would be ignored: {path} holds no tables, and the class of an image is the name of its folder",
            hint="leave target out",
            code="setting-ignored",
        )
    inside = part_folders(path)
    where = {"train": inside.get("train", path)}
    for part, other in (("valid", settings.valid), ("test", settings.test)):
        if other is not None or part in inside:
            where[part] = inside[part] if other is None else Path(other)
    train = read_image_folder(where["train"])
    notes = [f"{path.name}: {len(train.paths):,} images of {len(set(train.labels))} classes", *train.notes]
    for part in ("valid", "test"):
        if getattr(settings, part) is None and part in where and is_unlabelled(where[part], set(train.labels)):
            warn(
                notes,
                f"{where[part]} has no folders of the classes that {where['train'].name} has, so it is left out"
                + ("; there are no test rows" if part == "test" else "; a part of the training images takes its place"),
            )
            del where[part]
            settings = replace(settings, test_fraction=0.0) if part == "test" else settings
    given: dict[str, Any] = {part: str(place) for part, place in where.items() if part != "train"}
    settings = replace(settings, source=str(where["train"]), **given)
    folders = {"train": train} | {
        part: read_image_folder(place, min_classes=1) for part, place in where.items() if part != "train"
    }
    return FoundImages(settings, folders, notes)


def input_shape(settings: DataSettings, paths: Sequence[Path]) -> tuple[int, int, int]:
    """Return the channels, height and width that images are read as: found, or of the size that was asked for."""
    channels, height, width = choose_input(paths)
    side = settings.image_size
    return (channels, height, width) if side is None else (channels, side, side)


def prepare_folder(settings: DataSettings, path: Path, augment: tuple[str, ...], schema: Schema | None) -> Prepared:
    """Read a folder of images, one folder a class, and split it.

    Raises:
        DataError: the data cannot be read, split or trained on.
        SettingError: a setting that does not go with this kind of data.
    """
    found = find_images(settings, path)
    settings, folders, notes, frames = found.settings, found.folders, found.notes, found.frames()
    train = folders["train"]
    split = split_images(settings, frames["train"], ["class"], file_hashes(train.paths))
    decoder = settings.decoder if schema is None or schema.image is None else schema.image.decoder
    if schema is not None and schema.image is not None:
        channels, height, width = schema.image.channels, schema.image.height, schema.image.width
    else:
        channels, height, width = input_shape(settings, [train.paths[i] for i in split.train])
    pixels: dict[str, NDArray[Any]] = {}
    paths: dict[str, list[str]] = {}
    for part, folder in folders.items():
        decoded, errors = decode_all(
            folder.paths,
            channels=channels,
            height=height,
            width=width,
            decoder=decoder,
            on_error="keep" if settings.skip_unreadable else "raise",
        )
        notes += [f"left out: {error.message}" for _, error in errors]
        bad = np.array([place for place, _ in errors], dtype=np.int64)
        good = np.setdiff1d(np.arange(len(folder.paths)), bad)
        if part == "train":
            some, valid, test = (np.setdiff1d(rows, bad) for rows in (split.train, split.valid, split.test))
            split = Split(some, valid, test, split.folds)
        else:
            decoded, frames[part] = without(decoded, bad), frames[part][good]
            folder = replace(folder, paths=tuple(folder.paths[i] for i in good))
        pixels[part], paths[part] = decoded, list(map(str, folder.paths))
    notes.append(f"every image is read as {channels} x {height} x {width}")
    return prepare_images(settings, pixels, frames, ["class"], split, augment, schema, notes, paths)


def with_file_hashes(frame: pl.DataFrame, name: str, root: Path) -> pl.DataFrame:
    """Return the table with a hash of each file in place of its name: copies of an image are equal rows."""
    paths = image_paths(frame[name], root)
    there = {path: None for path in paths if path is not None and path.is_file()}
    hashes = dict(zip(there, map(str, file_hashes(list(there)).tolist()), strict=True))
    made = [cell if path is None else hashes.get(path, cell) for path, cell in zip(paths, frame[name], strict=True)]
    return frame.with_columns(pl.Series(name, made, dtype=pl.String))


def read_column(
    paths: Mapping[str, list[Path | None]], settings: DataSettings, schema: Schema | None, notes: list[str]
) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[np.int64]], ImageInput]:
    """Read the images that a column of a table names.

    Args:
        paths: Of each part, the file of each row, or None.
        settings: `image_size`, and whether to leave out what cannot be read.
        schema: That of a bundle, whose image is kept.
        notes: Gets what was left out.

    Returns:
        Of each part the images of the rows that are kept, the places of those that are not, and how an image becomes
        the network's input, from training rows.

    Raises:
        DataError: an image cannot be read, or training rows name none.
    """
    named = [path for path in paths["train"] if path is not None]
    if not named:
        raise DataError("no training row names an image", hint="leave the column out", code="data-no-images")
    if schema is not None and schema.image is not None:
        image = schema.image
    else:
        channels, height, width = input_shape(settings, named)
        nothing = (0.0,) * channels
        image = ImageInput(
            channels=channels, height=height, width=width, means=nothing, stds=(1.0,) * channels,
            decoder=settings.decoder,
        )  # fmt: skip
    on_error: Literal["keep", "raise"] = "keep" if settings.skip_unreadable else "raise"
    pixels: dict[str, NDArray[Any]] = {}
    bad: dict[str, NDArray[np.int64]] = {}
    for part, files in paths.items():
        found, errors = decode_column(files, image, on_error=on_error)
        notes += [f"left out: {error.message}" for _, error in errors]
        bad[part] = np.array([place for place, _ in errors], dtype=np.int64)
        pixels[part] = without(found, bad[part])
    given = {part: [path for i, path in enumerate(paths[part]) if i not in set(bad[part].tolist())] for part in paths}
    if schema is None or schema.image is None:
        rows = np.array([i for i, path in enumerate(given["train"]) if path is not None], dtype=np.int64)
        means, stds = image_statistics(pixels["train"], rows)
        image = with_own_scale(replace(image, means=tuple(means), stds=tuple(stds)), settings)
    for part, files in given.items():
        pixels[part][[i for i, path in enumerate(files) if path is None]] = blank_image(image)
    notes.append(f"every image is read as {image.channels} x {image.height} x {image.width}")
    return pixels, bad, image


def with_own_scale(image: ImageInput, settings: DataSettings) -> ImageInput:
    """Return the image input with the means and deviations that the user said, one for all channels or one each.

    Of three for a grey image their mean is taken.

    Raises:
        SettingError: their number is another.
    """
    if settings.image_means is None or settings.image_stds is None:
        return image
    given = {"image_means": settings.image_means, "image_stds": settings.image_stds}
    for name, values in given.items():
        if len(values) not in (1, image.channels) and (image.channels, len(values)) != (1, 3):
            raise SettingError(
                f"{name} has {len(values)} values, and the images have {image.channels} channels",
                hint="give one for all, or one a channel",
                code="setting-out-of-range",
            )
    each = [values if len(values) == image.channels else (sum(values) / len(values),) for values in given.values()]
    means, stds = (values * image.channels if len(values) == 1 else values for values in each)
    return replace(image, means=means, stds=stds)


def split_images(settings: DataSettings, frame: pl.DataFrame, names: list[str], hashes: NDArray[np.uint64]) -> Split:
    """Split by the images' hashes, ranked within classes."""
    valid, test = fractions(settings)
    everything = np.arange(frame.height, dtype=np.int64)
    if not valid and not test and settings.folds is None:
        none = np.arange(0, dtype=np.int64)
        return Split(everything, none, none)
    task, targets = read_targets(frame, names, everything, task=settings.task)
    strata = None
    if task in ("binary", "multiclass"):
        strata = encode_targets(frame, Schema(task=task, targets=targets)).reshape(-1).astype(np.int64)
    return split_rows(hashes, strata=strata, valid=valid, test=test, folds=settings.folds)


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
        image = learn_image(settings, pixels["train"], split.train)
        schema = learn_schema(settings, frames["train"], names, split.train, image)
    if target_names(schema) != names or schema.image is None:
        raise DataError(
            f"the model was trained on other data (targets {target_names(schema)})",
            hint="start from a model of the same data and targets",
            code="data-other-kind",
        )
    for part, found in pixels.items():
        check_pixels(found, schema.image, f"the {part} images")
    whole = torch.from_numpy(pixels["train"])
    parts = {}
    for part, rows in (("train", split.train), ("valid", split.valid), ("test", split.test)):
        some = None
        if part != "train" and part in pixels:
            tensor, frame, origin = torch.from_numpy(pixels[part]), frames[part], part
            rows = np.arange(frame.height, dtype=np.int64)
        else:
            tensor, some, frame, origin = whole, torch.from_numpy(rows), frames["train"][rows], "train"
        if len(rows):
            unseen: dict[str, int] = {}
            target = torch.from_numpy(encode_targets(frame, schema, unseen=unseen))
            if unseen:
                warn(notes, unseen_words(unseen, schema, f"the {part} data"))
            kinds = augment if part == "train" else ()
            named = tuple(paths[origin][row] for row in rows) if paths else ()
            file = str(settings.source if origin == "train" else getattr(settings, origin))
            source = ImageSource(tensor, target, schema.image, augment=kinds, rows=some)
            content = "" if part != "test" else names_content(named, target) if named else hash_source(source)
            parts[part] = Part(rows, source, named, file, unseen, content=content)
    notes.append(split_words({part: len(found.rows) for part, found in parts.items()}, settings))
    return Prepared(schema, parts, notes, folds=None if split.folds is None else split.folds[split.train])


def learn_image(settings: DataSettings, pixels: NDArray[Any], rows: NDArray[np.int64]) -> ImageInput:
    """Return how pixels `(N, C, H, W)` become the network's input, from some of them, unless the user said it."""
    means, stds = image_statistics(pixels, rows)
    channels, height, width = pixels.shape[1:]
    image = ImageInput(
        channels=channels,
        height=height,
        width=width,
        means=tuple(means),
        stds=tuple(stds),
        value_scale=255.0 if pixels.dtype == np.uint8 else 1.0,
        decoder=settings.decoder,
    )
    return with_own_scale(image, settings)


def learn_schema(
    settings: DataSettings, frame: pl.DataFrame, names: list[str], train: NDArray[np.int64], image: ImageInput
) -> Schema:
    """Return the Schema of images, whose targets are learnt from training rows."""
    everything = np.arange(frame.height, dtype=np.int64)
    task, _ = read_targets(frame, names, everything, task=settings.task)
    task, targets = read_targets(
        frame, names, train, task=task, positive=settings.positive, transform=settings.target_transform
    )
    targets = with_types(targets, frame, is_text=False, pandas={})
    return Schema(task=task, targets=targets, image=image, num_rows=len(train))


def names_content(names: tuple[str, ...], targets: torch.Tensor) -> str:
    """Return a hash of what images are: their names within their folder, as a run reads the pixels in its own size.

    So a folder that is named otherwise, or was moved with its run, holds the same images.
    """
    paths = [os.path.abspath(name) for name in names]
    root = os.path.commonpath(paths)
    inside = tuple(os.path.relpath(path, root) for path in paths)
    return hashlib.sha256(repr((inside, targets.tolist())).encode()).hexdigest()
