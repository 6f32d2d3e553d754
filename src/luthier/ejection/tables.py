"""`data.py` and its facts for a run over a table: a CSV or Parquet file, or arrays of numbers."""

from dataclasses import dataclass
from typing import Any

import polars as pl

from luthier.core.recipe import Recipe
from luthier.core.schema import Column, Schema, Target
from luthier.core.settings import DataSettings
from luthier.data.cells import missing_words, need_column, to_texts
from luthier.data.commas import Commas
from luthier.data.encode import saturation, text_columns
from luthier.data.formats import patterns, writing
from luthier.data.series import MAX_ABS as SERIES_MAX_ABS
from luthier.data.targets import encode_targets
from luthier.ejection.images import decode_function, draws_constant, image_functions, jpeg_import
from luthier.ejection.shake import source_of
from luthier.ejection.text import block, indented, literal, script, words
from luthier.plain import cells as plain


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
        "missing": list(missing_words(data.settings.missing or None)),
        "no_number": list(missing_words(data.settings.missing or None, of_numbers=True)),
        "columns": [_column(column) for column in data.schema.inputs if column.kind in _PLAIN],
        "texts": [
            {
                "name": column.name,
                "tokenizer": column.tokenizer,
                "max_tokens": column.max_tokens,
                "max_characters": column.max_characters,
            }
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
                "means": list(column.means),
                "stds": list(column.stds),
                "missing": bool(column.missing),
            }
            for column in data.series
        ]
    if data.schema.image is not None:
        facts |= {"means": list(data.schema.image.means), "stds": list(data.schema.image.stds)}
    return facts


_PLAIN = ("number", "boolean", "date", "category")


def _column(column: Column) -> dict[str, Any]:
    facts: dict[str, Any] = {"name": column.name, "kind": column.kind}
    if column.kind == "category":
        return {**facts, "categories": list(column.categories)}
    if column.kind == "boolean":
        facts["words"] = list(column.categories)
    if column.kind == "date":
        facts |= {"parts": list(column.parts), "patterns": list(patterns(column.date_format))}
    if column.kind == "number":
        facts["written"] = _written(column)
    return {
        **facts,
        "means": list(column.means),
        "stds": list(column.stds),
        "quantiles": list(column.quantiles),
        "span": list(saturation(column) or ()),
        "missing": bool(column.missing),
    }


def _written(column: Column | Target) -> list[str] | None:
    """Return how numbers are written where that is not plain."""
    return list(writing(column.number_format)) if column.number_format else None


def _target(target: Target, data: TableData) -> dict[str, Any]:
    facts: dict[str, Any] = {"name": target.name}
    if target.kind == "number":
        scale = {"transform": target.transform, "unit": target.unit, "mean": target.mean, "std": target.std}
        return {**facts, "written": _written(target), "scale": scale}
    alone = Schema(task="multiclass" if data.schema.task == "multiclass" else "binary", targets=(target,))
    codes: dict[str, int] = {}
    for part, file in data.files.items():
        rows = data.rows[part]
        values = encode_targets(file.frame, alone, rows).reshape(-1).tolist()
        cells = need_column(file.frame, target.name, role="a target")[rows]
        texts = to_texts(cells, target.missing_words).to_list()
        codes |= {text: int(value) for text, value in zip(texts, values, strict=True)}
    return {**facts, "missing": list(missing_words(target.missing_words)), "codes": dict(sorted(codes.items()))}


def write_tables(data: TableData, reading: str) -> str:
    """Return the text of `data.py`.

    Args:
        data: What was read, and how.
        reading: The function `table(content)`, of `csv_reading`, `parquet_reading` or `npz_reading`.
    """
    names = " and ".join(map(words, sorted({file.path.rpartition("/")[2] for file in data.files.values()})))
    borrowed = [*_borrowed(data), *(["with_strays"] if "with_strays(" in reading else [])]
    needed = [name for name in ("csv", "io", "zlib") if f"{name}." in reading]
    needed += ["re"] if "with_strays" in borrowed else []
    needed += ["unicodedata"] if "character_codes" in borrowed else []
    return script(
        f"Read the rows of {names} as the run did, by row numbers and statistics that lie beside.",
        [
            *(f"import {name}" for name in sorted([*needed, "hashlib", "json"])),
            "from pathlib import Path",
            *(["from typing import Any"] if borrowed else []),
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
            _steps(data),
            _inputs(data),
            _tokens(data),
            _characters(data),
            *_series(data),
            *_images(data),
            _targets(data),
            source_of(plain, borrowed) or None,
        ],
    )


def _borrowed(data: TableData) -> list[str]:
    """Return the functions that the project takes from `luthier.plain`."""
    kinds = {column.kind for column in data.schema.inputs if column.kind in _PLAIN}
    names = ["cell_texts"] if _texts(data) else []
    names += ["cell_numbers"] if _numbers(data) else []
    names += ["step_values"] if data.schema.series is not None else []
    names += ["scale_rows"] if any("scale_rows" in text for text in _series(data)) else []
    names += ["read_lists"] if any("read_lists" in text for text in _series(data)) else []
    names += ["character_codes"] if "characters" in data.schema.blocks else []
    names += ["features_of"] if kinds - {"category"} else []
    names += ["standardised"] if data.schema.task == "regression" else []
    names += ["to_seconds", "date_parts"] if "date" in kinds else []
    return names + (["flag_values"] if "boolean" in kinds else [])


def _read(data: TableData) -> str:
    blocks = data.schema.blocks
    parts, is_steps = tuple(data.files), data.schema.series is not None
    lines, more = [], []
    if "numbers" in blocks:
        lines.append("features, codes = inputs(frame)")
        more += ['"numbers": torch.from_numpy(features)', '"categories": torch.from_numpy(codes)']
    if "tokens" in blocks:
        more.append('"tokens": torch.from_numpy(tokens(frame))')
    if "characters" in blocks:
        more.append('"characters": torch.from_numpy(characters(frame))')
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
            f"steps = [steps_of(frame[name])[steps] for name in {names}]",
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


def _texts(data: TableData) -> str | None:
    kinds = {column.kind for column in data.schema.inputs}
    has_classes = any(target.kind != "number" for target in data.schema.targets)
    if not (kinds & {"category", "boolean", "text", "image"} or has_classes):
        return None
    return '''
def texts(cells):
    """Return the cells as text without spaces around it, null where there is no value."""
    return cell_texts(cells, FACTS["missing"])
'''


def _numbers(data: TableData) -> str | None:
    kinds = {column.kind for column in data.schema.inputs}
    has_steps = any(column.parts for column in data.series)
    is_regression = any(target.kind == "number" for target in data.schema.targets)
    if not (kinds & {"number", "boolean"} or has_steps or is_regression or data.settings.weight):
        return None
    return '''
def numbers(cells, written=None):
    """Return the cells as numbers, NaN where there is none."""
    return cell_numbers(cells, FACTS["no_number"], written)[0]
'''


def _steps(data: TableData) -> str | None:
    if data.schema.series is None:
        return None
    return '''
def steps_of(cells):
    """Return the cells as the steps of series, NaN where there is none, and a last one that is missing."""
    return np.append(step_values(cells, FACTS["no_number"])[0], np.nan)
'''


_WAYS = {
    "boolean": """values, unread = cell_numbers(cells, FACTS["no_number"])
gone = np.isnan(values) & ~unread
values = flag_values(texts(cells), values, gone, *column["words"])""",
    "date": 'values = to_seconds(cells, *column["patterns"])',
    "number": 'values = numbers(cells, column["written"])',
}
_CATEGORY = """
if column["kind"] == "category":  # code 0 is for what training rows do not have
    known = column["categories"]
    called = texts(cells).fill_null("")
    codes.append(called.replace_strict(known, range(1, len(known) + 1), default=0, return_dtype=pl.Int64))
    continue"""


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
        test = "else:" if i == len(others) - 1 else f'{"el" if i else ""}if column["kind"] == "{kind}":'
        values.append(_WAYS[kind] if len(others) == 1 else f"{test}\n{indented(_WAYS[kind], 4)}")
    parts = "[values]"
    if "date" in kinds:
        parts = 'date_parts(values, column["parts"]) if column["kind"] == "date" else [values]'
    body = block(
        'cells = frame[column["name"]]',
        _CATEGORY if "category" in kinds else None,
        *values,
        f"""
parts = {parts}
scale = (column[name] for name in ("means", "stds", "quantiles", "span", "missing"))
features += features_of(values, parts, *scale)"""
        if others
        else None,
    )
    features = "np.stack(features, axis=1)" if others else "np.zeros((frame.height, 0))"
    codes = "np.stack(codes, axis=1)" if "category" in kinds else "np.zeros((frame.height, 0), dtype=np.int64)"
    return f'''
def inputs(frame):
    """Return the numbers, standardised within ±{plain.MAX_ABS:g}, and the category codes."""
    {", ".join(lists)} = {", ".join("[]" for _ in lists)}
    for column in FACTS["columns"]:
{indented(body, 8)}
    return {features}.astype(np.float32), {codes}
'''


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


def _characters(data: TableData) -> str | None:
    if "characters" not in data.schema.blocks:
        return None
    most = max(column.max_characters for column in text_columns(data.schema))
    return f'''
def characters(frame):
    """Return the numbers of the characters of each text, filled up with 0: (N, M, L)."""
    cells = [(texts(frame[column["name"]]), column["max_characters"]) for column in FACTS["texts"]]
    return np.stack([character_codes(*column, {most}) for column in cells], axis=1)


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
        functions.append(_LISTS.replace("PARSED", "    cells = read_lists(cells)\n" if is_text else ""))
    by_row = {len(column.means) == 2 for column in data.series}
    if by_row == {False}:
        scaling = _OF_ALL
    elif by_row == {True}:
        scaling = _BY_ROW
    else:
        scaling = f'if len(facts["means"]) == 2:\n{indented(_BY_ROW, 4)}\nelse:\n{indented(_OF_ALL, 4)}'
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
        inside = np.arange(longest) < lengths[:, None]
{indented(scaling, 8)}
        channels += [np.clip(part, {-SERIES_MAX_ABS}, {SERIES_MAX_ABS}) for part in parts]
        if facts["missing"]:
            channels.append(gone & inside)
    return np.stack(channels, axis=1).astype(np.float32), lengths
''')
    return functions


_OF_ALL = """parts = [np.where(gone, 0.0, (raw - facts["means"][0]) / facts["stds"][0])]"""
_BY_ROW = f"""scaled, levels = scale_rows(raw)
levels = np.clip((levels - facts["means"]) / facts["stds"], {-SERIES_MAX_ABS}, {SERIES_MAX_ABS})
parts = [scaled, *(inside * level[:, None] for level in levels.T)]"""
_LISTS = '''
def lists(cells):
    """Return the values of each cell, NaN where there is none."""
PARSED    rows = [np.array(row or [], dtype=np.float64) for row in cells.to_list()]
    return [np.where(np.isfinite(row), row, np.nan) for row in rows]
'''


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
    called = 'called = cell_texts(frame[target["name"]], target["missing"])'
    code = 'called.replace_strict(target["codes"], return_dtype=pl.Int64).to_numpy()'
    if schema.task == "multiclass":
        return f'''
def targets(frame):
    """Return the class of each row."""
    (target,) = FACTS["targets"]
    {called}
    return np.array({code})
'''
    words, each = "1 for yes and 0 for no", f"        {called}\n        columns.append({code})"
    if schema.task == "regression":
        words = "the standardised targets"
        each = """        values = numbers(frame[target["name"]], target["written"])
        columns.append(standardised(values, **target["scale"]))"""
    return f'''
def targets(frame):
    """Return {words}: (N, {len(schema.targets)})."""
    columns = []
    for target in FACTS["targets"]:
{each}
    return np.stack(columns, axis=1).astype(np.float32)
'''
