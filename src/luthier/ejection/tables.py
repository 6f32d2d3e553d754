"""`data.py` and its facts for a run over a table: a CSV or Parquet file, or arrays of numbers."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from luthier.core.schema import Column, Schema, Target
from luthier.core.settings import DataSettings
from luthier.data.cells import DATE_FORMATS, MISSING, need_column, to_texts
from luthier.data.encode import MAX_ABS, boolean_values, text_columns
from luthier.data.targets import encode_targets
from luthier.ejection.text import block, indented, literal, script


@dataclass(frozen=True)
class TableFile:
    """One file of a table.

    Attributes:
        path: As the project names it.
        sha256: Of its bytes.
        frame: What the run read.
        content: Its bytes.
    """

    path: str
    sha256: str
    frame: pl.DataFrame
    content: bytes


@dataclass(frozen=True)
class TableData:
    """What `write_tables` needs: the Schema, the settings, and for each part its file and its row numbers."""

    schema: Schema
    settings: DataSettings
    files: dict[str, TableFile]
    rows: dict[str, Any]


def table_facts(data: TableData) -> dict[str, Any]:
    """Return statistics and vocabularies as plain values: what `data.json` holds."""
    return {
        "files": {part: [file.path, file.sha256] for part, file in data.files.items()},
        "missing": sorted(MISSING) if _text_dtypes(data) else [],
        "columns": [_column(column, data) for column in data.schema.inputs if column.kind != "text"],
        "texts": [
            {"name": column.name, "tokenizer": column.tokenizer, "max_tokens": column.max_tokens}
            for column in text_columns(data.schema)
        ],
        "targets": [] if data.schema.label_delimiter else [_target(target, data) for target in data.schema.targets],
        "labels": [target.name for target in data.schema.targets] if data.schema.label_delimiter else [],
    }


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
            "import torch",
            *(["from tokenizers import Tokenizer"] if text_columns(data.schema) else []),
        ],
        [
            "HERE = Path(__file__).resolve().parent",
            'FACTS = json.loads((HERE / "data.json").read_text(encoding="utf-8"))',
        ],
        [
            _read(data),
            reading,
            _texts(data),
            _numbers(data),
            _dates(data),
            _inputs(data),
            _tokens(data),
            _targets(data),
        ],
    )


def _read(data: TableData) -> str:
    weights = ""
    if data.settings.weight is not None:
        cells = f"frame[{literal(data.settings.weight)}]"
        weights = f'\n        "weights": torch.from_numpy(numbers({cells}).astype(np.float32)),'
    if text_columns(data.schema):
        weights += '\n        "tokens": torch.from_numpy(tokens(frame)),'
    parts = tuple(data.files)
    return f'''
def read():
    """Return {" and ".join(parts)}, each a dict of tensors: numbers (N, D), categories (N, C), targets."""
    rows = np.load(HERE / "split.npz")
    return [tensors(part, rows[part]) for part in {literal(parts)}]


def tensors(part, rows):
    """Return one part of the data."""
    path, sha256 = FACTS["files"][part]
    content = (HERE / path).read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise SystemExit(f"{{path}} is not the file that the run read")
    frame = table(content)[rows]
    features, codes = inputs(frame)
    return {{
        "numbers": torch.from_numpy(features),
        "categories": torch.from_numpy(codes),
        "targets": torch.from_numpy(targets(frame)),{weights}
    }}
'''


def _used(data: TableData) -> list[str]:
    names = [column.name for column in data.schema.inputs] + [target.name for target in data.schema.targets]
    if data.schema.label_delimiter:
        names = [column.name for column in data.schema.inputs] + [data.schema.label_column or ""]
    return names + ([data.settings.weight] if data.settings.weight else [])


def _text_dtypes(data: TableData) -> set[Any]:
    """Return the types of the columns that are read as text."""
    frame = data.files["train"].frame
    named = [column.name for column in data.schema.inputs if column.kind in ("category", "boolean", "text")]
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
    named += [target.name for target in data.schema.targets if target.kind == "number"]
    named += [data.settings.weight] if data.settings.weight else []
    if not named:
        return None
    strip = "cells.str.strip_chars()" if frame[named[0]].dtype == pl.String else "cells"
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


def _inputs(data: TableData) -> str:
    kinds = {column.kind for column in data.schema.inputs if column.kind != "text"}
    if not kinds:
        return '''
def inputs(frame):
    """Return no numbers and no category codes: text is all there is."""
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


def csv_reading(data: TableData, *, delimiter: str, encoding: str, is_regular: bool) -> str:
    """Return the function that reads a text table.

    Args:
        data: What was read.
        delimiter: Between the cells.
        encoding: As Python names it.
        is_regular: Whether polars alone reads it as the run did; else Python's reader does.
    """
    content = data.files["train"].content
    text = 'content.decode("utf-8-sig")' if encoding == "utf-8" else f"content.decode({literal(encoding)})"
    body = []
    if content[:2] == b"\x1f\x8b":
        body.append("content = zlib.decompress(content, 31)  # gzip")
    body.append(f"text = {text}")
    if is_regular:
        reader = f"pl.read_csv(io.StringIO(text), separator={literal(delimiter)}, infer_schema=False)"
        body += ['text = text.strip("\\r\\n")', f"frame = {reader}", 'frame.columns = FACTS["names"]', "return frame"]
    else:
        body += [
            'names = FACTS["names"]',
            f"records = csv.reader(io.StringIO(text, newline=None), delimiter={literal(delimiter)})",
            "records = [record for record in records if len(record) == len(names)]",
            'return pl.DataFrame(records[1:], schema=dict.fromkeys(names, pl.String()), orient="row")',
        ]
    return f'''
def table(content):
    """Return the cells as text."""
{indented(chr(10).join(body), 4)}
'''


def parquet_reading(data: TableData, raw: pl.DataFrame) -> str:
    """Return the function that reads a Parquet file, with the casts that the columns in use need."""
    casts = []
    for name in dict.fromkeys(_used(data)):
        before, after = raw[name].dtype, data.files["train"].frame[name].dtype
        if before == after:
            continue
        column = f"pl.col({literal(name)})"
        if before == pl.Float32:
            casts.append(f"{column}.cast(pl.String).cast(pl.Float64),  # 0.1 stays 0.1")
        elif before == pl.Duration:
            casts.append(f"{column}.dt.total_nanoseconds().cast(pl.Float64) / 1e9,")
        else:
            casts.append(f"{column}.cast(pl.{after}),")
    if not casts:
        return 'def table(content):\n    """Return the cells."""\n    return pl.read_parquet(content)\n'
    inner = "\n".join(f"        {cast}" for cast in casts)
    return f'''
def table(content):
    """Return the cells."""
    return pl.read_parquet(content).with_columns(
{inner}
    )
'''


def npz_reading(data: TableData, arrays: Any, x: str, y: str) -> str:
    """Return the function that reads an `.npz` of a table."""
    targets = [target.name for target in data.schema.targets]
    floats = any(np.asarray(arrays[key]).dtype in (np.float32, np.float16) for key in (x, y))
    half = any(np.asarray(arrays[key]).dtype == np.float16 for key in (x, y))
    body = [
        "arrays = np.load(io.BytesIO(content))",
        f"x, y = (arrays[name].reshape(len(arrays[name]), -1) for name in ({literal(x)}, {literal(y)}))",
    ]
    if half:
        body.append("x, y = (part.astype(np.float32) if part.dtype == np.float16 else part for part in (x, y))")
    body += [
        'columns = {f"x{i}": x[:, i].copy() for i in range(x.shape[1])}',
        f"columns |= {{name: y[:, i].copy() for i, name in enumerate({literal(targets)})}}",
    ]
    casts = ".with_columns(pl.col(pl.Float32).cast(pl.String).cast(pl.Float64))" if floats else ""  # 0.1 stays 0.1
    body.append(f"return pl.DataFrame(columns){casts}")
    return f'def table(content):\n    """Return the arrays as columns."""\n{indented(chr(10).join(body), 4)}\n'
