"""Folders of images in a store of rows: each image decoded once, piece by piece, into records that hold its pixels."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from luthier.core.machine import free_memory
from luthier.core.order import order
from luthier.core.plain import to_plain
from luthier.core.schema import ImageInput, Schema
from luthier.core.settings import NO_IMAGE_ROWS, DataSettings
from luthier.data.images import LARGEST_SIDE, decode_all, file_hashes, list_images, unreadable_images
from luthier.data.room import SHARE
from luthier.data.targets import encode_targets, unseen_words
from luthier.errors import DataError, SettingError
from luthier.pipeline.images import (
    find_images,
    input_shape,
    learn_image,
    learn_schema,
    names_content,
    split_images,
    with_own_scale,
)
from luthier.pipeline.parts import PARTS, Part, Prepared, refuse, refuse_same_file, split_words, warn
from luthier.store.rows import (
    MOST_BYTES as MOST_BYTES,
)
from luthier.store.rows import RowStore, RowWriter, StoredPart, describe_files, open_rows, refuse_taken

_PIECE_BYTES = 1 << 26  # pixels that are held at a time


def convert_images(settings: DataSettings, output: Path) -> RowStore:
    """Decode a folder of images into a store, in the order in which a run in memory has them, or shuffled if large.

    Raises:
        DataError: the folder cannot be read, split or trained on, or an image cannot be read.
        SettingError: a setting that does not go with this kind of data.
        RunError: the store's folder is taken, or cannot be written.
    """
    refuse(settings, NO_IMAGE_ROWS, "to be a store of rows")
    refuse_same_file(settings)
    refuse_taken(output)
    found = find_images(settings, Path(settings.source))
    frames, notes, paths = found.frames(), found.notes, found.paths
    train = found.folders["train"].paths
    split = split_images(found.settings, frames["train"], ["class"], file_hashes(train))
    channels, height, width = input_shape(found.settings, [train[row] for row in split.train])
    nothing = ImageInput(
        channels=channels, height=height, width=width, means=(0.0,) * channels, stds=(1.0,) * channels,
        decoder=settings.decoder,
    )  # fmt: skip
    schema = learn_schema(found.settings, frames["train"], ["class"], split.train, nothing)
    rows, firsts = {"train": split.train, "valid": split.valid, "test": split.test}, dict.fromkeys(PARTS, 0)
    for part, frame in list(frames.items())[1:]:
        rows[part] = np.arange(frame.height, dtype=np.int64)
        firsts[part] = len(train) + (len(frames["valid"]) if part == "test" and "valid" in frames else 0)
    count = sum(map(len, rows.values()))
    store = RowStore(output, settings, schema, {"train": StoredPart(0, count)}, {}, len(paths), notes, by_windows=True)
    store.by_windows = count * store.kind.itemsize > MOST_BYTES
    if store.by_windows:
        rows = {part: some[order(len(some), 0, 0).numpy()] for part, some in rows.items()}
    places = {path: place for place, path in enumerate(dict.fromkeys(paths))}  # a file may be in two parts
    writer, at_once = RowWriter(store), max(1, _PIECE_BYTES // store.kind.itemsize)
    with writer.opened():
        store.parts, errors, end = {}, [], 0
        for part, some in rows.items():
            first = end
            for start in range(0, len(some), at_once):
                numbers = some[start : start + at_once] + firsts[part]
                pixels, odd = decode_all(
                    [paths[number] for number in numbers], channels=channels, height=height, width=width,
                    decoder=settings.decoder, on_error="keep",
                )  # fmt: skip
                errors += [(int(numbers[place]), error) for place, error in odd]
                good = np.delete(np.arange(len(numbers)), [place for place, _ in odd])
                records = np.zeros(len(good), dtype=store.kind)
                records["row"], records["pixels"] = numbers[good], pixels[good]
                writer.write(end, records)
                end += len(good)
            if end > first:
                store.parts[part] = StoredPart(first, end - first)
        errors.sort(key=lambda pair: pair[0])
        if errors and not settings.skip_unreadable:
            raise unreadable_images(errors, len(paths))
        notes += [f"left out: {error.message}" for _, error in errors]
        notes.append(f"every image is read as {channels} x {height} x {width}")
        bad = [number for number, _ in errors]
        store.schema = learn_schema(found.settings, frames["train"], ["class"], np.setdiff1d(split.train, bad), nothing)
        writer.truncate(end)
        records = np.memmap(writer.rows.path, store.kind, mode="r+", shape=(end,))
        for part, stored in store.parts.items():
            own = records[stored.first : stored.first + stored.count]
            targets = encode_targets(
                frames.get(part, frames["train"])[own["row"] - firsts[part]], store.schema, unseen=stored.unseen
            )
            own["target"] = targets
            if stored.unseen:
                warn(notes, unseen_words(stored.unseen, store.schema, f"the {part} data"))
            if store.schema.task == "multiclass":
                stored.lowest = int(targets.min())
            if part == "test":
                names = tuple(str(paths[number]) for number in own["row"])
                stored.content = names_content(names, torch.from_numpy(targets))
            if part == "train":
                image = learn_image(found.settings, own["pixels"], np.arange(len(own)))
                store.schema = replace(store.schema, image=image)
            own["row"] = [places[paths[number]] for number in own["row"]]
        notes.append(split_words({part: stored.count for part, stored in store.parts.items()}, found.settings))
        store.files = describe_files(places)
        writer.finish()
    return open_rows(output)


def stored_images(settings: DataSettings) -> Iterable[Path]:
    """Return the files that a store of a folder is made of, as they lie there now."""
    return find_images(settings, Path(settings.source)).paths


def prepare_image_rows(
    store: RowStore, settings: DataSettings, schema: Schema | None, augment: tuple[str, ...]
) -> Prepared:
    """Return a store of images as data ready for training.

    Raises:
        SettingError: it is to start from a bundle whose Schema is another.
    """
    assert store.schema.image is not None
    own = replace(store.schema, image=with_own_scale(store.schema.image, settings))
    if schema is not None and to_plain(schema) != to_plain(own):
        raise SettingError(
            f"{store.name} was encoded by another Schema than that of {settings.start}",
            hint="train on the folder itself, or without start=",
            code="setting-ignored",
        )
    parts, files = {}, list(store.files)
    for name in store.parts:
        source = store.source(name)
        source.image, source.augment = own.image, augment if name == "train" else ()
        numbers, place = source.records["row"], store.settings.source
        rows = np.array(numbers)
        if (folder := getattr(store.settings, name, None)) is not None:
            rows, place = np.arange(len(rows), dtype=np.int64), folder
        names = tuple(files[number] for number in numbers)
        stored = store.parts[name]
        parts[name] = Part(rows, source, names, place, stored.unseen, content=stored.content)
    return Prepared(own, parts, list(store.notes))


def pixel_bytes(folder: Path, image_size: int | None, *, least: int) -> float:
    """Return how many bytes the decoded images of a folder take; 0 where that is few, or the folder holds none."""
    try:
        paths = list_images(folder)
        most = 3 * len(paths) * (image_size or LARGEST_SIDE) ** 2
        if most < least or most <= SHARE * free_memory():
            return 0.0
        channels, height, width = input_shape(DataSettings(source=str(folder), image_size=image_size), paths)
    except DataError:  # reading says so
        return 0.0
    return float(len(paths) * channels * height * width)
