"""Read the rows as the run did, by row numbers and statistics that lie beside.

This is no module of the library. `eject` writes it as `data.py` of a project: it sets the constants, copies what it
imports from `cells` and `images`, and leaves out what this data never reaches.
"""

import csv
import hashlib
import io
import json
import re  # noqa: F401
import unicodedata  # noqa: F401
import zlib
from collections.abc import Sequence  # noqa: F401
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import simplejpeg
import torch
from cells import (  # type: ignore[import-not-found]
    cell_numbers,
    cell_texts,
    character_codes,
    date_parts,
    features_of,
    flag_values,
    read_lists,
    scale_rows,
    standardised,
    step_values,
    to_seconds,
    with_strays,
)
from images import NUM_DRAWS, augment, decoded, filling, normalise  # type: ignore[import-not-found]  # noqa: F401
from PIL import Image, ImageOps  # noqa: F401
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn.functional import interpolate  # noqa: F401

HERE = Path(__file__).resolve().parent
FACTS: Any = json.loads((HERE / "data.json").read_text(encoding="utf-8"))
MEANS, STDS, SCALE = FACTS["pixels"]
SOURCE = "csv"  # csv, parquet, npz; or images: a folder, or arrays
PARTS = ("train", "valid")
BLOCKS = ("numbers", "categories")
TASK = "regression"
ENCODING = "utf-8"
START = 0  # characters before the names of the columns
DELIMITER = ","
ESCAPE: str | None = None
IS_GZIP = False
IS_REGULAR = True  # polars alone reads the text as the run did
HAS_END = False  # each line ends in a delimiter
HAS_REPEATS = False  # the line of names may stand again between rows
NUM_HEADERS = 0  # lines before the first row
HAS_COMMAS = False
HAS_CASTS = False
CASTS: dict[str, Any] = {}  # what columns are cast to, one after the other
INPUTS = "x"  # what the arrays are called
ANSWERS = "y"
IS_SERIES = False
HAS_FLOATS = False  # of 32 bits or fewer
IS_BY_ROW = False  # each row of the table is a step of a series
IS_LABELS = False  # a cell of labels
DELIMITER_OF_LABELS = " "
WEIGHT = ""
HAS_CODEC = False  # simplejpeg reads what it can
SHAPE = (3, 32, 32)  # of an image: channels, height, width
LONGEST = 0  # tokens of a text
MOST = 0  # characters of a text
SERIES_MAX_ABS = 20.0  # standardised values stop here
DTYPE: Any = np.uint8
HAS_OPACITY = False

Rows = dict[str, Tensor]


def read() -> list[Rows]:
    """Return each part of the data as tensors by name."""
    if SOURCE == "folder":
        return [of_folder(part) for part in PARTS]
    rows = dict(np.load(HERE / "split.npz"))
    if SOURCE == "arrays":
        return [of_arrays(part, rows[part]) for part in PARTS]
    if IS_BY_ROW:
        return [of_table(part, *(rows[f"{part}{kind}"] for kind in ("", "_steps", "_ends"))) for part in PARTS]
    return [of_table(part, rows[part]) for part in PARTS]


def content_of(part: str) -> bytes:
    """Return the bytes of a part's file."""
    path, sha256 = FACTS["files"][part]
    content: bytes = (HERE / path).read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise SystemExit(f"{path} is not the file that the run read")
    return content


def of_table(part: str, rows: Any, steps: Any = None, ends: Any = None) -> Rows:
    """Return one part of the data: some rows of its table."""
    frame = table(content_of(part))
    if IS_BY_ROW:
        lines = [steps_of(frame[facts["name"]])[steps] for facts in FACTS["series"]]
        columns = [np.split(line, ends) for line in lines]
    frame = frame[rows]
    made = {}
    if "numbers" in BLOCKS:
        made["numbers"], made["categories"] = inputs(frame)
    if "tokens" in BLOCKS:
        made["tokens"] = tokens(frame)
    if "characters" in BLOCKS:
        made["characters"] = characters(frame)
    if "values" in BLOCKS:
        if not IS_BY_ROW:
            columns = [lists(frame, facts) for facts in FACTS["series"]]
        made["values"], made["lengths"] = series(columns)
    if "pixels" in BLOCKS:
        made["pixels"] = pixels(part, frame)
    made["targets"] = targets(frame)
    if WEIGHT:
        made["weights"] = numbers(frame[WEIGHT]).astype(np.float32)
    return {name: torch.from_numpy(value) for name, value in made.items()}


def table(content: bytes) -> pl.DataFrame:
    """Return the cells of a file."""
    if SOURCE == "parquet":
        frame = pl.read_parquet(content)
        if HAS_CASTS:
            for name, kinds in CASTS.items():
                cells = frame[name]
                if cells.dtype == pl.Duration:
                    cells = cells.dt.total_nanoseconds().cast(pl.Float64) / 1e9
                for kind in kinds:
                    cells = cells.cast(kind)
                frame = frame.with_columns(cells)
        return frame
    if SOURCE == "npz":
        return array_table(np.load(io.BytesIO(content)))
    if IS_GZIP:
        content = zlib.decompress(content, 31)
    if ENCODING == "utf-8":
        text = content.decode("utf-8-sig")
    elif ENCODING == "utf-8 with strays":
        text = with_strays(content.decode("utf-8-sig", "surrogateescape"))
    else:
        text = content.decode(ENCODING)
    if START:
        text = text[START:]  # from the names of the columns on
    if IS_REGULAR:
        frame = pl.read_csv(io.StringIO(text.strip("\r\n")), separator=DELIMITER, infer_schema=False)
        frame.columns = FACTS["names"]
    else:
        names = FACTS["names"]
        records = list(csv.reader(io.StringIO(text, newline=None), delimiter=DELIMITER, escapechar=ESCAPE))
        if HAS_END:
            records = [record[:-1] for record in records]
        records = [record for record in records if len(record) == len(names)]
        if HAS_REPEATS:  # the first of them names the columns
            lowered = [name.lower() for name in names]
            is_row = [[cell.strip(" \t\ufeff").lower() for cell in record] != lowered for record in records]
            records = [record for record, is_data in zip(records, is_row, strict=True) if is_data]
        frame = pl.DataFrame(records[NUM_HEADERS:], schema=dict.fromkeys(names, pl.String()), orient="row")
    if HAS_COMMAS:
        # a number with a comma before the decimals, perhaps with points between thousands
        for comma, names in FACTS["commas"].items():
            written = pl.col(names)
            points = written.str.replace_all(".", "", literal=True).str.replace(",", ".", literal=True)
            frame = frame.with_columns(pl.when(written.str.contains(comma)).then(points).otherwise(written))
    return frame


def array_table(arrays: Any) -> pl.DataFrame:
    """Return arrays as the columns of a table."""
    x, y = arrays[INPUTS], arrays[ANSWERS]
    y = y.reshape(len(y), -1)
    if HAS_FLOATS:
        x, y = (part.astype(np.float32) if part.dtype == np.float16 else part for part in (x, y))
    if IS_SERIES:
        if x.ndim == 2:
            x = x[:, None]
        columns = {f"x{i}": x[:, i].astype(np.float64).tolist() for i in range(x.shape[1])}
    else:
        x = x.reshape(len(x), -1)
        columns = {f"x{i}": x[:, i].copy() for i in range(x.shape[1])}
    frame = pl.DataFrame(columns | {name: y[:, i].copy() for i, name in enumerate(FACTS["answers"])})
    if HAS_FLOATS:
        frame = frame.with_columns(pl.col(pl.Float32).cast(pl.String).cast(pl.Float64))  # 0.1 stays 0.1
    return frame


def texts(cells: pl.Series) -> Any:
    """Return the cells as text without spaces around it, null where there is no value."""
    return cell_texts(cells, FACTS["missing"])


def numbers(cells: pl.Series, written: Any = None) -> Any:
    """Return the cells as numbers, NaN where there is none."""
    return cell_numbers(cells, FACTS["no_number"], written)[0]


def steps_of(cells: pl.Series) -> Any:
    """Return the cells as the steps of series, NaN where there is none, and a last one that is missing."""
    return np.append(step_values(cells, FACTS["no_number"])[0], np.nan)


def inputs(frame: pl.DataFrame) -> tuple[Any, Any]:
    """Return the numbers, standardised, and the category codes."""
    features: list[Any] = []
    codes: list[Any] = []
    for column in FACTS["columns"]:
        cells = frame[column["name"]]
        if column["kind"] == "category":  # code 0 is for what training rows do not have
            known = column["categories"]
            called = texts(cells).fill_null("")
            codes.append(called.replace_strict(known, range(1, len(known) + 1), default=0, return_dtype=pl.Int64))
            continue
        if column["kind"] == "boolean":
            values, unread = cell_numbers(cells, FACTS["no_number"])
            gone = np.isnan(values) & ~unread
            values = flag_values(texts(cells), values, gone, *column["words"])
        elif column["kind"] == "date":
            values = to_seconds(cells, *column["patterns"])
        else:
            values = numbers(cells, column["written"])
        parts = date_parts(values, column["parts"]) if column["kind"] == "date" else [values]
        scale = (column[name] for name in ("means", "stds", "quantiles", "span", "missing"))
        features += features_of(values, parts, *scale)
    made = np.stack(features, axis=1) if features else np.zeros((frame.height, 0))
    return made.astype(np.float32), np.stack(codes, axis=1) if codes else np.zeros((frame.height, 0), dtype=np.int64)


def tokens(frame: pl.DataFrame) -> Any:
    """Return the numbers of the tokens of each text, filled up with 0: (N, M, T)."""
    blocks = []
    for column in FACTS["texts"]:
        tokenizer = Tokenizer.from_str(column["tokenizer"])
        block = np.zeros((frame.height, LONGEST), dtype=np.int64)
        cells = texts(frame[column["name"]]).fill_null("").to_list()
        for row, encoded in zip(block, tokenizer.encode_batch(cells), strict=True):
            ids = encoded.ids[: column["max_tokens"]]
            row[: len(ids)] = ids
        blocks.append(block)
    return np.stack(blocks, axis=1)


def characters(frame: pl.DataFrame) -> Any:
    """Return the numbers of the characters of each text, filled up with 0: (N, M, L)."""
    cells = [(texts(frame[column["name"]]), column["max_characters"]) for column in FACTS["texts"]]
    return np.stack([character_codes(*column, MOST) for column in cells], axis=1)


def lists(frame: pl.DataFrame, facts: Any) -> Any:
    """Return the series of each row, NaN where there is no value."""
    if facts["parts"]:
        return np.stack([numbers(frame[name]) for name in facts["parts"]], axis=1)
    cells = frame[facts["name"]]
    if cells.dtype == pl.String:
        cells = read_lists(cells)
    rows = [np.array(row or [], dtype=np.float64) for row in cells.to_list()]
    return [np.where(np.isfinite(row), row, np.nan) for row in rows]


def series(columns: list[Any]) -> tuple[Any, Any]:
    """Return series (N, C, L), standardised, 0 where missing and after their ends, and their lengths (N,)."""
    lengths = np.max([[np.flatnonzero(~np.isnan(row)).max(initial=-1) + 1 for row in rows] for rows in columns], axis=0)
    longest = max(int(lengths.max(initial=0)), 1)
    channels = []
    for rows, facts in zip(columns, FACTS["series"], strict=True):
        raw = np.full((len(rows), longest), np.nan)
        for place, row in zip(raw, rows, strict=True):
            place[: len(row)] = row[:longest]
        gone = np.isnan(raw)
        inside = np.arange(longest) < lengths[:, None]
        if len(facts["means"]) == 2:  # of its level and its spread: each is scaled by its own
            scaled, levels = scale_rows(raw)
            levels = np.clip((levels - facts["means"]) / facts["stds"], -SERIES_MAX_ABS, SERIES_MAX_ABS)
            parts = [scaled, *(inside * level[:, None] for level in levels.T)]
        else:
            parts = [np.where(gone, 0.0, (raw - facts["means"][0]) / facts["stds"][0])]
        channels += [np.clip(part, -SERIES_MAX_ABS, SERIES_MAX_ABS) for part in parts]
        if facts["missing"]:
            channels.append(gone & inside)
    return np.stack(channels, axis=1).astype(np.float32), lengths


def pixels(part: str, frame: pl.DataFrame) -> Any:
    """Return the images (N, C, H, W); the mean of training images where none is given."""
    blank = np.round(255 * np.array(MEANS)).astype(np.uint8)[:, None, None]
    images = np.empty((frame.height, *SHAPE), dtype=np.uint8)
    sha256 = hashlib.sha256()
    for place, name in enumerate(texts(frame[FACTS["image"]])):
        content = b""
        if name is not None:
            content = (HERE / FACTS["roots"][part] / FACTS["found"].get(name, name)).read_bytes()
        sha256.update(content)
        images[place] = decode(content) if content else blank
    if sha256.hexdigest() != FACTS["sha256"][part]:
        raise SystemExit(f"the {part} images are not those that the run read")
    return images


def decode(content: bytes) -> Any:
    """Return the pixels of one image file."""
    return decoded(content, *SHAPE, codec=simplejpeg) if HAS_CODEC else decoded(content, *SHAPE)


def targets(frame: pl.DataFrame) -> Any:
    """Return what is to be predicted."""
    if IS_LABELS:
        cells = texts(frame[FACTS["label_column"]]).fill_null("").to_list()
        given = [{label.strip() for label in cell.split(DELIMITER_OF_LABELS)} for cell in cells]
        return np.array([[label in labels for label in FACTS["labels"]] for labels in given], dtype=np.float32)
    columns = []
    for target in FACTS["targets"]:
        if TASK == "regression":
            values = numbers(frame[target["name"]], target["written"])
            columns.append(standardised(values, **target["scale"]))
        else:
            called = cell_texts(frame[target["name"]], target["missing"])
            columns.append(called.replace_strict(target["codes"], return_dtype=pl.Int64).to_numpy())
    return np.array(columns[0]) if TASK == "multiclass" else np.stack(columns, axis=1).astype(np.float32)


def of_folder(part: str) -> Rows:
    """Return one part of the data: images in a folder a class."""
    paths = [HERE / path for path in FACTS["images"][part]]
    sha256 = hashlib.sha256()
    for path in paths:
        sha256.update(path.read_bytes())
    if sha256.hexdigest() != FACTS["sha256"][part]:
        raise SystemExit(f"the {part} images are not those that the run read")
    labels = [FACTS["classes"].index(path.relative_to(HERE / FACTS["roots"][part]).parts[0]) for path in paths]
    images = np.stack([decode(path.read_bytes()) for path in paths])
    answers = torch.tensor(labels, dtype=torch.float32).view(-1, 1) if TASK == "binary" else torch.tensor(labels)
    return {"pixels": torch.from_numpy(images), "targets": answers}


def of_arrays(part: str, rows: Any) -> Rows:
    """Return one part of the data: images in an array, and what is to be predicted in another."""
    arrays = np.load(io.BytesIO(content_of(part)))
    x, y = arrays[INPUTS][rows], arrays[ANSWERS][rows]
    if x.ndim == 3:
        x = x[:, None]
    elif x.shape[1] not in (1, 3, 4):
        x = x.transpose(0, 3, 1, 2)
    if x.dtype == np.bool_:
        x = x * np.uint8(255)
    x = x.astype(DTYPE)
    if HAS_OPACITY:
        opacity = x[:, 3:].astype(np.uint32)  # on white
        x = ((x[:, :3] * opacity + 255 * (255 - opacity) + 127) // 255).astype(np.uint8)
    if TASK == "regression":
        y = y.astype(str).astype(np.float64).reshape(len(y), -1)  # a float32 0.1 is taken as 0.1
        columns = [standardised(values, **target) for values, target in zip(y.T, FACTS["targets"], strict=True)]
        answers = torch.from_numpy(np.stack(columns, axis=1).astype(np.float32))
    elif TASK == "multilabel":
        answers = torch.from_numpy(y.astype(np.float32))
    else:
        codes = [FACTS["codes"][str(value)] for value in y.reshape(-1).tolist()]
        answers = torch.tensor(codes, dtype=torch.float32).view(-1, 1) if TASK == "binary" else torch.tensor(codes)
    return {"pixels": torch.from_numpy(np.ascontiguousarray(x)), "targets": answers}
