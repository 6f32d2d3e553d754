"""`data.py` and its facts for a run over a table: a CSV or Parquet file, or arrays of numbers."""

from dataclasses import dataclass
from typing import Any

import polars as pl

from luthier.core.recipe import Recipe
from luthier.core.schema import Column, Schema, Target
from luthier.core.settings import DataSettings
from luthier.data.cells import DATE_FORMATS, MISSING, need_column, to_texts
from luthier.data.commas import Commas
from luthier.data.encode import MAX_ABS, boolean_values, text_columns
from luthier.data.series import MAX_ABS as SERIES_MAX_ABS
from luthier.data.targets import encode_targets
from luthier.ejection.images import decode_function, draws_constant, image_functions, jpeg_import
from luthier.ejection.text import block, indented, literal, script


@dataclass(frozen=True)
class TableFile:
    """One file of a table.

    Attributes:
        path: As the project names it.
        sha256: Of its bytes.
        frame: What the run read.
        content: Its bytes.
        commas: How commas and points were read, where a comma may stand before decimals.
    """

    path: str
    sha256: str
    frame: pl.DataFrame
    content: bytes
    commas: Commas | None = None


@dataclass(frozen=True)
class TableData:
    """What `write_tables` needs.

    Attributes:
        schema: Inputs and targets.
        settings: What was asked for.
        recipe: What is done to training images.
        files: Of each part.
        rows: Row numbers of each part; where a row is a step, of one row of each series.
    """

    schema: Schema
    settings: DataSettings
    recipe: Recipe
    files: dict[str, TableFile]
    rows: dict[str, Any]

    @property
    def series(self) -> list[Column]:
        """The columns of series."""
        return [column for column in self.schema.inputs if column.kind == "series"]

    @property
    def image(self) -> Column | None:
        """The column that names images."""
        return next((column for column in self.schema.inputs if column.kind == "image"), None)


def table_facts(data: TableData) -> dict[str, Any]:
    """Return statistics and vocabularies as plain values: what `data.json` holds."""
    facts: dict[str, Any] = {
        "files": {part: [file.path, file.sha256] for part, file in data.files.items()},
        "missing": sorted(MISSING) if _text_dtypes(data) else [],
        "columns": [_column(column, data) for column in data.schema.inputs if column.kind in _PLAIN],
        "texts": [
            {"name": column.name, "tokenizer": column.tokenizer, "max_tokens": column.max_tokens}
            for column in text_columns(data.schema)
        ],
        "targets": [] if data.schema.label_delimiter else [_target(target, data) for target in data.schema.targets],
        "labels": [target.name for target in data.schema.targets] if data.schema.label_delimiter else [],
    }
    if data.series:
        facts["series"] = [
            {
                "name": column.name,
                "parts": list(column.parts),
                "mean": column.means[0],
                "std": column.stds[0],
                "missing": bool(column.missing),
            }
            for column in data.series
        ]
    if data.schema.image is not None:
        facts |= {"means": list(data.schema.image.means), "stds": list(data.schema.image.stds)}
    return facts


_PLAIN = ("number", "boolean", "date", "category")


def _column(column: Column, data: TableData) -> dict[str, Any]:
    facts: dict[str, Any] = {"name": column.name, "kind": column.kind}
    if column.kind == "category":
        return {**facts, "categories": list(column.categories)}
    if column.kind == "boolean":
        facts["values"] = _meanings(column, data)
    if column.kind == "date":
        facts["parts"] = list(column.parts)
        facts["format"] = DATE_FORMATS[column.date_format]
    return {
        **facts,
        "means": list(column.means),
        "stds": list(column.stds),
        "quantiles": list(column.quantiles),
        "missing": bool(column.missing),
    }


def _meanings(column: Column, data: TableData) -> dict[str, float]:
    """Return what each text of a yes/no column means, of all that occur in the rows used."""
    found: dict[str, float] = {}
    for part, file in data.files.items():
        cells = file.frame[column.name][data.rows[part]]
        pairs = zip(to_texts(cells).to_list(), boolean_values(cells).tolist(), strict=True)
        found |= {text: value for text, value in pairs if text is not None and value == value}
    return found


def _target(target: Target, data: TableData) -> dict[str, Any]:
    facts: dict[str, Any] = {"name": target.name}
    if target.kind == "number":
        return {**facts, "mean": target.mean, "std": target.std}
    alone = Schema(task="multiclass" if data.schema.task == "multiclass" else "binary", targets=(target,))
    codes: dict[str, int] = {}
    for part, file in data.files.items():
        rows = data.rows[part]
        values = encode_targets(file.frame, alone, rows).reshape(-1).tolist()
        texts = to_texts(need_column(file.frame, target.name, role="a target")[rows]).to_list()
        codes |= {text: int(value) for text, value in zip(texts, values, strict=True)}
    return {**facts, "codes": dict(sorted(codes.items()))}


def write_tables(data: TableData, reading: str) -> str:
    """Return the text of `data.py`.

    Args:
        data: What was read, and how.
        reading: The function `table(content)`, of `csv_reading`, `parquet_reading` or `npz_reading`.
    """
    names = sorted({file.path.rpartition("/")[2] for file in data.files.values()})
    needed = [name for name in ("csv", "io", "zlib") if f"{name}." in reading]
    return script(
        f"Read the rows of {' and '.join(names)} as the run did, by row numbers and statistics that lie beside.",
        [
            *(f"import {name}" for name in sorted([*needed, "hashlib", "json"])),
            "from pathlib import Path",
            "",
            "import numpy as np",
            "import polars as pl",
            *jpeg_import(data.schema.image),
            "import torch",
            *(["from PIL import Image, ImageOps"] if data.image else []),
            *(["from tokenizers import Tokenizer"] if text_columns(data.schema) else []),
        ],
        [
            "HERE = Path(__file__).resolve().parent",
            'FACTS = json.loads((HERE / "data.json").read_text(encoding="utf-8"))',
            *(['MEANS, STDS, SCALE = FACTS["means"], FACTS["stds"], 255.0'] if data.image else []),
            *draws_constant(data.recipe),
        ],
        [
            _read(data),
            reading,
            _texts(data),
            _numbers(data),
            _dates(data),
            _inputs(data),
            _tokens(data),
            *_series(data),
            *_images(data),
            _targets(data),
        ],
    )


def _read(data: TableData) -> str:
    blocks = data.schema.blocks
    parts, is_steps = tuple(data.files), data.schema.series is not None
    lines, more = [], []
    if "numbers" in blocks:
        lines.append("features, codes = inputs(frame)")
        more += ['"numbers": torch.from_numpy(features)', '"categories": torch.from_numpy(codes)']
    if "tokens" in blocks:
        more.append('"tokens": torch.from_numpy(tokens(frame))')
    if "values" in blocks:
        lines.append(f"values, lengths = series({'steps, ends' if is_steps else 'frame'})")
        more += ['"values": torch.from_numpy(values)', '"lengths": torch.from_numpy(lengths)']
    if "pixels" in blocks:
        more.append('"pixels": torch.from_numpy(pixels(part, frame))')
    more.append('"targets": torch.from_numpy(targets(frame))')
    if data.settings.weight is not None:
        cells = f"frame[{literal(data.settings.weight)}]"
        more.append(f'"weights": torch.from_numpy(numbers({cells}).astype(np.float32))')
    arguments, values, frame = "part, rows", "part, rows[part]", ["frame = table(content)[rows]"]
    if is_steps:
        arguments, values = (
            "part, rows, steps, ends",
            'part, *(rows[f"{part}{kind}"] for kind in ("", "_steps", "_ends"))',
        )
        names = literal([column.name for column in data.series])
        frame = [
            "frame = table(content)",
            f"steps = [np.append(numbers(frame[name]), np.nan)[steps] for name in {names}]",
            "frame = frame[rows]",
        ]
    inner = "".join(f"        {item},\n" for item in more)
    return f'''
def read():
    """Return {" and ".join(parts)}, each a dict of tensors: {", ".join(blocks)}, targets."""
    rows = dict(np.load(HERE / "split.npz"))
    return [tensors({values}) for part in {literal(parts)}]


def tensors({arguments}):
    """Return one part of the data."""
    path, sha256 = FACTS["files"][part]
    content = (HERE / path).read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise SystemExit(f"{{path}} is not the file that the run read")
{indented(chr(10).join([*frame, *lines]), 4)}
    return {{
{inner}    }}
'''


def used(data: TableData) -> list[str]:
    """Return the columns of the file that are read: inputs, targets and the weight."""
    names = [name for column in data.schema.inputs for name in _stands_in(column)]
    names += [data.schema.label_column or ""] if data.schema.label_delimiter else [t.name for t in data.schema.targets]
    return names + ([data.settings.weight] if data.settings.weight else [])


def _stands_in(column: Column) -> tuple[str, ...]:
    """Return the columns of the file that an input column is made of."""
    return column.parts if column.kind == "series" and column.parts else (column.name,)


def _text_dtypes(data: TableData) -> set[Any]:
    """Return the types of the columns that are read as text."""
    frame = data.files["train"].frame
    named = [column.name for column in data.schema.inputs if column.kind in ("category", "boolean", "text", "image")]
    named += [
        target.name for target in data.schema.targets if target.kind != "number" and not data.schema.label_delimiter
    ]
    named += [data.schema.label_column or ""] if data.schema.label_delimiter else []
    return {frame[name].dtype for name in named}


def _texts(data: TableData) -> str | None:
    dtypes = _text_dtypes(data)
    if not dtypes:
        return None
    typed = """
if cells.dtype != pl.String:
    return cells.cast(pl.String)"""
    if any(dtype.is_float() for dtype in dtypes):
        typed = """
if cells.dtype.is_float():  # 3.0 is called 3
    whole = (cells == cells.round(0)) & (cells.abs() < 2**53)
    pairs = zip(cells.to_list(), whole.to_list())
    called = [f"{value:.0f}" if is_whole else str(value) for value, is_whole in pairs]
    return pl.Series([None if text in ("None", "nan", "inf", "-inf") else text for text in called], dtype=pl.String)
if cells.dtype != pl.String:
    return cells.cast(pl.String)"""
    body = block(
        typed if dtypes != {pl.String} else None,
        """
stripped = cells.str.strip_chars()
is_word = stripped.str.to_lowercase().is_in(FACTS["missing"])
return stripped.to_frame("text").select(pl.when(~is_word).then("text")).to_series()""",
    )
    return f'''
def texts(cells):
    """Return the cells as text without spaces around it, null where there is no value."""
{indented(body, 4)}
'''


def _numbers(data: TableData) -> str | None:
    frame = data.files["train"].frame
    named = [column.name for column in data.schema.inputs if column.kind == "number"]
    if data.schema.series is not None or any(column.parts for column in data.series):
        named += [name for column in data.series for name in _stands_in(column)]
    named += [target.name for target in data.schema.targets if target.kind == "number"]
    named += [data.settings.weight] if data.settings.weight else []
    if not named:
        return None
    is_text = any(frame[name].dtype == pl.String for name in named)
    strip = "cells.str.strip_chars()" if is_text else "cells"
    return f'''
def numbers(cells):
    """Return the cells as numbers, NaN where there is none."""
    values = {strip}.cast(pl.Float64, strict=False).fill_null(float("nan")).to_numpy()
    return np.where(np.isfinite(values), values, np.nan)
'''


def _dates(data: TableData) -> str | None:
    dtypes = {data.files["train"].frame[column.name].dtype for column in data.schema.inputs if column.kind == "date"}
    if not dtypes:
        return None
    typed = 'def seconds(cells, pattern):\n    """Return dates as seconds since 1970, NaN where there is none."""\n'
    if pl.String not in dtypes:
        typed += (
            '    values = cells.cast(pl.Datetime("us")).cast(pl.Int64).cast(pl.Float64)\n'
            '    return values.fill_null(float("nan")).to_numpy() / 1e6\n'
        )
    else:
        typed += """    found = cells.str.strip_chars().str.extract_groups(pattern).struct
    names = ("year", "month", "day", "hour", "minute", "second")
    numbers = [found.field(name).cast(pl.Float64).fill_null(float("nan")).to_numpy() for name in names]
    year, month, day, hour, minute, second = numbers
    zone = found.field("zone").str.replace("Z", "+00:00").str.replace(":", "")
    hours, minutes = (zone.str.slice(*at).cast(pl.Float64).fill_null(0.0).to_numpy() for at in ((1, 2), (3, None)))
    offset = hours * 3600 + minutes * 60
    offset = np.where(zone.str.starts_with("-").fill_null(False).to_numpy(), -offset, offset)
    valid = (month >= 1) & (month <= 12) & (day >= 1)
    months = np.where(valid, (year - 1970) * 12 + month - 1, 0).astype(np.int64).astype("datetime64[M]")
    first = months.astype("datetime64[D]")
    valid &= day <= ((months + 1).astype("datetime64[D]") - first).astype(np.float64)
    valid &= ~(hour >= 24) & ~(minute >= 60) & ~(second >= 61)
    time = np.nan_to_num(hour) * 3600 + np.nan_to_num(minute) * 60 + np.nan_to_num(second) - offset
    return np.where(valid, (first.astype(np.float64) + day - 1) * 86400 + time, np.nan)
"""
    return (
        typed
        + '''

def date_parts(seconds, parts):
    """Return the numbers made of dates: the seconds, and places on the circles of year, week and day."""
    days = np.floor(np.nan_to_num(seconds) / 86400)
    months = days.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64)
    turns = {
        "month": (months % 12) / 12,
        "weekday": ((days + 3) % 7) / 7,
        "hour": np.nan_to_num(seconds) / 86400 - days,
    }
    made = []
    for name, _, function in (part.partition("_") for part in parts):
        if name == "seconds":
            made.append(seconds)
        else:
            angle = 2 * np.pi * turns[name]
            made.append(np.where(np.isnan(seconds), np.nan, np.sin(angle) if function == "sin" else np.cos(angle)))
    return made
'''
    )


_WAYS = {
    "boolean": "values = yes_no(cells, column)",
    "date": 'values = seconds(cells, column["format"])',
    "number": "values = numbers(cells)",
}
_CATEGORY = """
if column["kind"] == "category":  # code 0 is for what training rows do not have
    known = column["categories"]
    called = texts(cells).fill_null("")
    codes.append(called.replace_strict(known, range(1, len(known) + 1), default=0, return_dtype=pl.Int64))
    continue"""
_YES_NO = '''
def yes_no(cells, column):
    """Return 1 for yes, 0 for no, NaN for neither."""
    return texts(cells).replace_strict(column["values"], default=float("nan"), return_dtype=pl.Float64).to_numpy()


'''


def _inputs(data: TableData) -> str | None:
    kinds = {column.kind for column in data.schema.inputs if column.kind in _PLAIN}
    if "numbers" not in data.schema.blocks:
        return None
    if not kinds:
        return '''
def inputs(frame):
    """Return no numbers and no category codes: there are other inputs only."""
    return np.zeros((frame.height, 0), dtype=np.float32), np.zeros((frame.height, 0), dtype=np.int64)
'''
    others = [kind for kind in _WAYS if kind in kinds]
    lists = [*(["features"] if others else []), *(["codes"] if "category" in kinds else [])]
    values = []
    for i, kind in enumerate(others):
        last = i == len(others) - 1
        test = "else:" if last else f'{"el" if i else ""}if column["kind"] == "{kind}":'
        values.append(_WAYS[kind] if len(others) == 1 else f"{test}\n    {_WAYS[kind]}")
    parts = "[values]"
    if "date" in kinds:
        parts = 'date_parts(values, column["parts"]) if column["kind"] == "date" else [values]'
    body = block(
        'cells = frame[column["name"]]',
        _CATEGORY if "category" in kinds else None,
        *values,
        f"""
parts = {parts}
gone = np.isnan(values)
for part, mean, std in zip(parts, column["means"], column["stds"]):
    features.append(np.where(gone, 0.0, np.clip((part - mean) / std, {-MAX_ABS}, {MAX_ABS})))
if column["quantiles"]:
    ranks = np.linspace(-1, 1, len(column["quantiles"]))
    features.append(np.where(gone, 0.0, np.interp(values, column["quantiles"], ranks)))
if column["missing"]:
    features.append(gone)"""
        if others
        else None,
    )
    features = "np.stack(features, axis=1)" if others else "np.zeros((frame.height, 0))"
    codes = "np.stack(codes, axis=1)" if "category" in kinds else "np.zeros((frame.height, 0), dtype=np.int64)"
    return f'''{_YES_NO if "boolean" in kinds else ""}
def inputs(frame):
    """Return the numbers, standardised within ±{MAX_ABS:g}, and the category codes."""
    {", ".join(lists)} = {", ".join("[]" for _ in lists)}
    for column in FACTS["columns"]:
{indented(body, 8)}
    return {features}.astype(np.float32), {codes}
'''.replace("\n\n\n\n", "\n\n\n")


def _tokens(data: TableData) -> str | None:
    if not text_columns(data.schema):
        return None
    longest = max(column.max_tokens for column in text_columns(data.schema))
    return f'''
def tokens(frame):
    """Return the numbers of the tokens of each text, filled up with 0: (N, M, T)."""
    blocks = []
    for column in FACTS["texts"]:
        tokenizer = Tokenizer.from_str(column["tokenizer"])
        block = np.zeros((frame.height, {longest}), dtype=np.int64)
        for row, encoded in zip(block, tokenizer.encode_batch(texts(frame[column["name"]]).fill_null("").to_list())):
            ids = encoded.ids[: column["max_tokens"]]
            row[: len(ids)] = ids
        blocks.append(block)
    return np.stack(blocks, axis=1)


'''


def _series(data: TableData) -> list[str]:
    """Return the functions that read the series."""
    if not data.series:
        return []
    is_steps = data.schema.series is not None
    frame = data.files["train"].frame
    functions = []
    if is_steps:
        rows, argument = "np.split(steps[place], ends)", "steps, ends"
    elif data.series[0].parts:
        rows, argument = 'np.stack([numbers(frame[name]) for name in facts["parts"]], axis=1)', "frame"
    else:
        rows, argument = 'lists(frame[facts["name"]])', "frame"
        is_text = frame[data.series[0].name].dtype == pl.String
        functions.append(_LISTS.replace("PARSED", _PARSED if is_text else ""))
    each = "for place in range(len(steps))" if is_steps else 'for facts in FACTS["series"]'
    functions.append(f'''
def series({argument}):
    """Return the series (N, C, L), standardised, 0 where missing and after their ends, and their lengths (N,)."""
    columns = [{rows} {each}]
    lengths = np.max([[np.flatnonzero(~np.isnan(row)).max(initial=-1) + 1 for row in rows] for rows in columns], axis=0)
    longest = max(int(lengths.max(initial=0)), 1)
    channels = []
    for rows, facts in zip(columns, FACTS["series"]):
        raw = np.full((len(rows), longest), np.nan)
        for place, row in zip(raw, rows):
            place[: len(row)] = row[:longest]
        gone = np.isnan(raw)
        scaled = np.clip((raw - facts["mean"]) / facts["std"], {-SERIES_MAX_ABS}, {SERIES_MAX_ABS})
        channels.append(np.where(gone, 0.0, scaled))
        if facts["missing"]:
            channels.append(gone & (np.arange(longest) < lengths[:, None]))
    return np.stack(channels, axis=1).astype(np.float32), lengths
''')
    return functions


_LISTS = '''
def lists(cells):
    """Return the values of each cell, NaN where there is none."""
PARSED    rows = [np.array(row or [], dtype=np.float64) for row in cells.to_list()]
    return [np.where(np.isfinite(row), row, np.nan) for row in rows]
'''
_PARSED = r"""    parts = cells.str.strip_chars("[] \n\t").str.replace_all(r"\s*[,;]\s*|\s+", ",").str.split(",")
    cells = parts.list.eval(pl.element().cast(pl.Float64, strict=False))
"""


def _images(data: TableData) -> list[str]:
    """Return the functions that read the images that a column names."""
    if data.image is None or data.schema.image is None:
        return []
    image = data.schema.image
    return [
        f'''
def pixels(part, frame):
    """Return the images (N, C, H, W); the mean of training images where none is given."""
    blank = np.round(SCALE * np.array(MEANS)).astype(np.uint8)[:, None, None]
    images = np.empty((frame.height, {image.channels}, {image.height}, {image.width}), dtype=np.uint8)
    sha256 = hashlib.sha256()
    for place, name in enumerate(texts(frame[{literal(data.image.name)}])):
        path = None if name is None else HERE / FACTS["roots"][part] / FACTS["found"].get(name, name)
        sha256.update(b"" if path is None else path.read_bytes())
        images[place] = blank if path is None else decode(path)
    if sha256.hexdigest() != FACTS["sha256"][part]:
        raise SystemExit(f"the {{part}} images are not those that the run read")
    return images
''',
        decode_function(image),
        *image_functions(image, data.recipe),
    ]


def _targets(data: TableData) -> str:
    schema = data.schema
    if schema.label_delimiter is not None:
        return f'''
def targets(frame):
    """Return 1 where a row has a label: (N, L)."""
    cells = texts(frame[{literal(schema.label_column or "")}]).fill_null("").to_list()
    given = [{{label.strip() for label in cell.split({literal(schema.label_delimiter)})}} for cell in cells]
    return np.array([[label in labels for label in FACTS["labels"]] for labels in given], dtype=np.float32)
'''
    code = 'texts(frame[target["name"]]).replace_strict(target["codes"], return_dtype=pl.Int64).to_numpy()'
    if schema.task == "multiclass":
        return f'''
def targets(frame):
    """Return the class of each row."""
    (target,) = FACTS["targets"]
    return np.array({code})
'''
    words, each = "1 for yes and 0 for no", code
    if schema.task == "regression":
        words, each = "the standardised targets", '(numbers(frame[target["name"]]) - target["mean"]) / target["std"]'
    return f'''
def targets(frame):
    """Return {words}: (N, {len(schema.targets)})."""
    columns = []
    for target in FACTS["targets"]:
        columns.append({each})
    return np.stack(columns, axis=1).astype(np.float32)
'''
