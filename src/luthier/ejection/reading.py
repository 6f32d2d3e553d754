"""The function of `data.py` that reads a table: a CSV or Parquet file, or arrays of numbers."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from luthier.data.commas import Commas, pattern_of
from luthier.data.csvtext import UTF8_WITH_STRAYS
from luthier.data.textfile import TextLayout
from luthier.ejection.tables import TableData, TableFile, used
from luthier.ejection.text import indented, literal


def csv_reading(data: TableData, layout: TextLayout, *, is_regular: bool) -> str:
    """Return the function that reads a text table.

    Args:
        data: What was read.
        layout: How it is written.
        is_regular: Whether polars alone reads it as the run did; else Python's reader does.
    """
    content = data.files["train"].content
    has_commas = any(b"," in file.content or file.content[:2] == b"\x1f\x8b" for file in data.files.values())
    delimiter, encoding = layout.delimiter, layout.encoding
    text = 'content.decode("utf-8-sig")' if encoding == "utf-8" else f"content.decode({literal(encoding)})"
    if encoding == UTF8_WITH_STRAYS:
        text = 'with_strays(content.decode("utf-8-sig", "surrogateescape"))'
    body = []
    if content[:2] == b"\x1f\x8b":
        body.append("content = zlib.decompress(content, 31)  # gzip")
    body.append(f"text = {text}")
    if layout.start:
        body.append(f"text = text[{layout.start}:]  # from the names of the columns on")
    if is_regular:
        reader = f"pl.read_csv(io.StringIO(text), separator={literal(delimiter)}, infer_schema=False)"
        body += ['text = text.strip("\\r\\n")', f"frame = {reader}", 'frame.columns = FACTS["names"]']
    else:
        escape = ', escapechar="\\\\"' if layout.escapes else ""
        cut, end = ("[:-1]", " + 1") if layout.has_end else ("", "")
        body += [
            'names = FACTS["names"]',
            f"records = csv.reader(io.StringIO(text, newline=None), delimiter={literal(delimiter)}{escape})",
            f"records = [record{cut} for record in records if len(record) == len(names){end}]",
        ]
        first = int(layout.has_names) + int(layout.has_units)
        if layout.has_repeats:  # the first of them names the columns
            body += [
                "lowered = [name.lower() for name in names]",
                'is_row = [[cell.strip(" \\t\\ufeff").lower() for cell in record] != lowered for record in records]',
                "records = [record for record, is_data in zip(records, is_row) if is_data]",
            ]
            first = int(layout.has_units)
        rows = f"records[{first}:]" if first else "records"
        body.append(f'frame = pl.DataFrame({rows}, schema=dict.fromkeys(names, pl.String()), orient="row")')
    commas = file_commas(data.files.values())
    if commas is not None and (has_commas or commas.is_known):
        kinds: dict[str, list[str]] = {}
        for name in dict.fromkeys(used(data)):
            if name not in commas.as_written:
                kinds.setdefault(pattern_of(commas, name), []).append(name)
        body.append("# a number with a comma before the decimals, perhaps with points between thousands")
        for pattern, names in kinds.items():
            body += [
                f"cells = pl.col({literal(names)})",
                'points = cells.str.replace_all(".", "", literal=True).str.replace(",", ".", literal=True)',
                f"comma = {literal(pattern)}",
                "frame = frame.with_columns(pl.when(cells.str.contains(comma)).then(points).otherwise(cells))",
            ]
    body.append("return frame")
    return f'''
def table(content):
    """Return the cells as text."""
{indented(chr(10).join(body), 4)}
'''


def file_commas(files: Iterable[TableFile]) -> Commas | None:
    """Return how commas and points are read in all of the files."""
    found = [file.commas for file in files if file.commas is not None]
    if not found:
        return None
    points = dict.fromkeys(name for commas in found for name in commas.points)
    return replace(found[0], is_known=any(commas.is_known for commas in found), points=tuple(points))


def parquet_reading(data: TableData, raw: pl.DataFrame) -> str:
    """Return the function that reads a Parquet file, with the casts that the columns in use need."""
    casts = []
    for name in dict.fromkeys(used(data)):
        before, after = raw[name].dtype, data.files["train"].frame[name].dtype
        if before == after:
            continue
        column = f"pl.col({literal(name)})"
        if isinstance(before, pl.List | pl.Array):
            column += ".arr.to_list()" if isinstance(before, pl.Array) else ""
            column += ".cast(pl.List(pl.String))" if before.inner in (pl.Float32, pl.Float16) else ""
            casts.append(f"{column}.cast(pl.List(pl.Float64)),")
        elif before == pl.Float32:
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
    if data.series:
        body = [
            "arrays = np.load(io.BytesIO(content))",
            f"x, y = arrays[{literal(x)}], arrays[{literal(y)}].reshape(len(arrays[{literal(y)}]), -1)",
            *(["x = x[:, None]"] if np.asarray(arrays[x]).ndim == 2 else []),
            'columns = {f"x{i}": x[:, i].astype(np.float64).tolist() for i in range(x.shape[1])}',
            f"columns |= {{name: y[:, i].copy() for i, name in enumerate({literal(targets)})}}",
            "return pl.DataFrame(columns)"
            + (
                ".with_columns(pl.col(pl.Float32).cast(pl.String).cast(pl.Float64))"
                if np.asarray(arrays[y]).dtype == np.float32
                else ""
            ),
        ]
        return f'def table(content):\n    """Return the arrays as columns."""\n{indented(chr(10).join(body), 4)}\n'
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
