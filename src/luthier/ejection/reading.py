"""How the file of a table is read: the settings of `data.py` for a CSV or Parquet file, or arrays of numbers."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from luthier.data.commas import Commas, pattern_of
from luthier.data.csvtext import UTF8_WITH_STRAYS
from luthier.data.textfile import TextLayout
from luthier.ejection.shake import Assigned
from luthier.ejection.tables import TableData, TableFile, used
from luthier.ejection.text import literal


def csv_reading(data: TableData, layout: TextLayout, *, is_regular: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings and the facts for reading a text table.

    Args:
        data: What was read.
        layout: How it is written.
        is_regular: Whether polars alone reads it as the run did; else Python's reader does.
    """
    files = data.files.values()
    is_gzip = data.files["train"].content[:2] == b"\x1f\x8b"
    has_commas = any(b"," in file.content or file.content[:2] == b"\x1f\x8b" for file in files)
    commas, kinds = file_commas(files), dict[str, list[str]]()
    if commas is not None and (has_commas or commas.is_known):
        for name in dict.fromkeys(used(data)):
            if name not in commas.as_written:
                kinds.setdefault(pattern_of(commas, name), []).append(name)
    headers = int(layout.has_units) + int(layout.has_names and not layout.has_repeats)
    settings = {
        "SOURCE": "csv",
        "ENCODING": "utf-8 with strays" if layout.encoding == UTF8_WITH_STRAYS else layout.encoding,
        "START": layout.start,
        "DELIMITER": layout.delimiter,
        "ESCAPE": "\\" if layout.escapes else None,
        "IS_GZIP": is_gzip,
        "IS_REGULAR": is_regular,
        "HAS_END": layout.has_end,
        "HAS_REPEATS": layout.has_repeats,
        "NUM_HEADERS": headers,
        "HAS_COMMAS": bool(kinds),
    }
    return settings, {"names": data.files["train"].frame.columns, "commas": kinds}


def file_commas(files: Iterable[TableFile]) -> Commas | None:
    """Return how commas and points are read in all of the files."""
    found = [file.commas for file in files if file.commas is not None]
    if not found:
        return None
    points = dict.fromkeys(name for commas in found for name in commas.points)
    return replace(found[0], is_known=any(commas.is_known for commas in found), points=tuple(points))


def parquet_reading(data: TableData, raw: pl.DataFrame) -> dict[str, Any]:
    """Return the settings for reading a Parquet file: the casts that the columns in use need."""
    casts = []
    for name in dict.fromkeys(used(data)):
        before, after = raw[name].dtype, data.files["train"].frame[name].dtype
        if before == after:
            continue
        if isinstance(before, pl.List | pl.Array):
            kinds = ["List(pl.String)"] if before.inner in (pl.Float32, pl.Float16) else []  # 0.1 stays 0.1
            kinds = [*(["List(pl.Float32)"] if isinstance(before, pl.Array) and kinds else []), *kinds]
            kinds.append("List(pl.Float64)")
        elif before == pl.Float32:
            kinds = ["String", "Float64"]
        else:
            kinds = [] if before == pl.Duration else [str(after)]
        casts.append(f"{literal(name)}: [{', '.join(f'pl.{kind}' for kind in kinds)}]")
    lines = "\n".join(f"    {cast}," for cast in casts)
    return {"SOURCE": "parquet", "HAS_CASTS": bool(casts), "CASTS": Assigned(f"{{\n{lines}\n}}")}


def npz_reading(data: TableData, arrays: Any, x: str, y: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings and the facts for reading an `.npz` of a table."""
    settings = {
        "SOURCE": "npz",
        "INPUTS": x,
        "ANSWERS": y,
        "IS_SERIES": bool(data.series),
        "HAS_FLOATS": any(np.asarray(arrays[key]).dtype in (np.float32, np.float16) for key in (x, y)),
    }
    return settings, {"answers": [target.name for target in data.schema.targets]}
