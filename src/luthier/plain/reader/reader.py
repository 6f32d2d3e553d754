"""Read rows as the model beside this file does, and answer with it: NumPy and ONNX Runtime are all it needs.

    python reader.py rows.csv            # answers as CSV, on standard output

    from reader import Reader
    Reader("model.onnx").predict([{"age": 41, "city": "Bonn"}])

Pillow is needed for image files alone. Luthier wrote this file, and it imports nothing of Luthier.
"""

import csv
import json
import math
import re
import sys
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np

Facts = Mapping[str, Any]
Arrays = dict[str, Any]

NO_DATE = np.iinfo(np.int64).min  # as NumPy's NaT
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
INFINITE = ("inf", "+inf", "-inf", "infinity", "-infinity")
WORD_KINDS = {"Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "Pc"}  # of Unicode


class Reader:
    """A model.onnx that Luthier wrote.

    Attributes:
        facts: What the file says of itself: columns, outputs, classes, the proof.
        session: Of ONNX Runtime.
    """

    def __init__(self, path: str | Path = "model.onnx") -> None:
        import onnxruntime

        self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        self.facts: Facts = json.loads(self.session.get_modelmeta().custom_metadata_map["luthier"])

    def predict(self, rows: Sequence[Mapping[str, Any]]) -> Arrays:
        """Return the answers to rows, each a dict of cells by column, as arrays by the outputs' names."""
        names = list(self.facts["outputs"])
        return dict(zip(names, self.session.run(names, inputs_of(rows, self.facts)), strict=True))


def inputs_of(rows: Sequence[Mapping[str, Any]], facts: Facts) -> Arrays:
    """Return the inputs of the graph, by name, for rows, each a dict of cells by column."""
    found: Arrays = {}
    steps = []
    for column in facts["columns"]:
        parts = column.get("parts")
        if column["kind"] == "series" and parts and not any(column["name"] in row for row in rows):
            cells = [[cell_of(row, part) for part in parts] for row in rows]
        else:
            cells = [cell_of(row, column["name"]) for row in rows]
        found |= READERS[column["kind"]](cells, column)
        steps += [column["inputs"][0]["name"]] if column["kind"] == "series" else []
    longest = max((found[name].shape[1] for name in steps), default=0)
    for name in steps:  # the shorter ones end in NaN
        found[name] = np.pad(found[name], ((0, 0), (0, longest - found[name].shape[1])), constant_values=np.nan)
    return found


def codes_of(given: Sequence[Any], facts: Facts) -> list[Any]:
    """Return the inputs, in order, for a program of torch (pt2), which takes no texts: they are looked up."""
    columns = [column for column in facts.get("columns", ()) for _ in column["inputs"]]
    found = list(given)
    for place, column in enumerate(columns):
        if "lookup" in column:
            other, kind = (0, np.int64) if column["kind"] == "category" else (math.nan, np.float64)
            numbers = [column["lookup"].get(text, other) for text in np.ravel(given[place])]
            found[place] = np.array([math.nan if number is None else number for number in numbers], kind).reshape(-1, 1)
    return found


def cell_of(row: Mapping[str, Any], name: str) -> Any:
    """Return a cell of a row."""
    if name not in row:
        raise KeyError(f"a row lacks the column {name!r}; it has {', '.join(map(repr, row))}")
    return row[name]


def is_missing(cell: Any, column: Facts) -> bool:
    """Whether a cell holds no value."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return True
    return isinstance(cell, str) and cell.strip().lower() in column["missing_words"]


def text_of(cell: Any) -> str:
    """Return a value as the text that stands for it: 3 for 3.0, true for True."""
    if isinstance(cell, bool | np.bool_):
        return "true" if cell else "false"
    if isinstance(cell, float | np.floating) and float(cell).is_integer() and abs(float(cell)) < 2**53:
        return str(int(cell))
    return str(cell).strip()


def read_texts(cells: Sequence[Any], column: Facts) -> Arrays:
    """Return categories, or yes and no, as the texts that the graph looks up."""
    words = ["" if is_missing(cell, column) else text_of(cell) for cell in cells]
    known = set(column["categories"])
    if column["kind"] == "boolean":
        words = [word.lower() for word in words]
    else:  # 3.0, where training rows have 3
        words = [word if word in known or not NUMBER.fullmatch(word) else text_of(float(word)) for word in words]
    return {column["inputs"][0]["name"]: np.array(words, dtype=object).reshape(-1, 1)}


def read_numbers(cells: Sequence[Any], column: Facts) -> Arrays:
    """Return numbers, NaN where there is none."""
    numbers = [number_of(cell, column) for cell in cells]
    return {column["inputs"][0]["name"]: np.array(numbers, dtype=np.float64).reshape(-1, 1)}


def number_of(cell: Any, column: Facts) -> float:
    """Return the number in a cell, which may be text in the form that training rows had."""
    if is_missing(cell, column):
        return math.nan
    if not isinstance(cell, str):
        return float(cell)
    text = cell.strip()
    text = text.replace(",", ".") if column.get("decimal_comma") and "." not in text else text
    if "pattern" in column and (found := re.fullmatch(column["pattern"][1:-1], text)):
        part = {"scale": "", "sign2": "", **found.groupdict()}
        body = re.sub(column["thousands"], "", part["body"]) if column["thousands"] else part["body"]
        sign = f"{part['sign'] or ''}{part['sign2'] or ''}"
        signs = [bool(part["open"]), bool(sign), part["close"] == "-"]
        if signs[0] == (part["close"] == ")") and sum(signs) <= 1:
            scale: float = column["scales"].get((part["scale"] or "").lower(), 1.0)
            number = float(body.replace(column["decimal"], ".")) * scale
            return -number if signs[0] or signs[2] or sign == "-" else number
    if not NUMBER.fullmatch(text) and text.lower() not in INFINITE:
        raise ValueError(f"column {column['name']!r} takes numbers, and this is {cell!r}")
    return float(text)


def read_dates(cells: Sequence[Any], column: Facts) -> Arrays:
    """Return dates as microseconds since 1970."""
    times = [NO_DATE if is_missing(cell, column) else microseconds(cell, column) for cell in cells]
    return {column["inputs"][0]["name"]: np.array(times, dtype=np.int64).reshape(-1, 1)}


def microseconds(cell: Any, column: Facts) -> int:
    """Return a date as microseconds since 1970, UTC; text is read in the formats of the column."""
    if isinstance(cell, np.datetime64):
        return int(cell.astype("datetime64[us]").astype(np.int64))
    if isinstance(cell, datetime):
        gap = (cell if cell.tzinfo else cell.replace(tzinfo=UTC)) - datetime(1970, 1, 1, tzinfo=UTC)
        return (gap.days * 86400 + gap.seconds) * 10**6 + gap.microseconds
    if isinstance(cell, date):
        return (cell - date(1970, 1, 1)).days * 86400 * 10**6
    for pattern in column["patterns"]:
        if found := re.fullmatch(pattern[1:-1], text_of(cell)):
            seconds = seconds_of({name: part for name, part in found.groupdict().items() if part}, column)
            if seconds is not None:
                return round(seconds * 10**6)
    raise ValueError(f"column {column['name']!r} takes dates like {column['format']}, and this is {cell!r}")


def seconds_of(part: Mapping[str, str], column: Facts) -> float | None:
    """Return the seconds since 1970 of the parts of a date, or None where there is no such day."""
    year = int(part.get("year", 1970))
    if "year2" in part:
        year = int(part["year2"]) + (2000 if int(part["year2"]) < 30 else 1900)
    name = part.get("month", "1")
    month = int(name) if name.isdigit() else column.get("months", {}).get(name.lower(), 0)
    month = 3 * int(part["quarter"]) - 2 if "quarter" in part else month
    try:
        day = date(year, month, int(part.get("day", 1))).toordinal()
        if "week" in part:
            day = date.fromisocalendar(year, 1, 1).toordinal() + 7 * (int(part["week"]) - 1)
            day += int(part.get("weekday", 1)) - 1
    except ValueError:
        return None
    day += int(part["yearday"]) - 1 if "yearday" in part else 0
    hour, minute = int(part.get("hour", 0)), int(part.get("minute", 0))
    second = float(part.get("second", "0").replace(",", "."))
    half = part.get("half", " ")[0].lower()
    hour = hour + 12 if half == "p" and hour < 12 else 0 if half == "a" and hour == 12 else hour
    if hour >= 24 or minute >= 60 or second >= 61:
        return None
    zone = re.search(r"([+-])([0-9]{2}):?([0-9]{2})?", column["zones"].get(part.get("zone", ""), part.get("zone", "")))
    offset = int(zone[2]) * 3600 + int(zone[3] or 0) * 60 if zone else 0
    offset = -offset if zone and zone[1] == "-" else offset
    return (day - date(1970, 1, 1).toordinal()) * 86400 + hour * 3600 + minute * 60 + second - offset


def read_series(cells: Sequence[Any], column: Facts) -> Arrays:
    """Return series, lists or text such as `[1, 2.5]`, one a row; NaN where a step has no value and after the end."""
    rows = []
    for cell in cells:
        steps = [] if cell is None else cell
        if isinstance(cell, str):
            steps = [] if is_missing(cell, column) else re.split(r"\s*[,;]\s*|\s+", cell.strip("[](){} \n\t"))
        rows.append([number_of(step, column) for step in steps if not (isinstance(cell, str) and step == "")])
    found = np.full((len(rows), max([len(row) for row in rows] + [1])), np.nan)
    for place, row in zip(found, rows, strict=True):
        place[: len(row)] = row
    return {column["inputs"][0]["name"]: found}


def read_text(cells: Sequence[Any], column: Facts) -> Arrays:
    """Return texts as numbers of tokens, and as characters."""
    texts = ["" if is_missing(cell, column) else str(cell).strip() for cell in cells]
    tokens, *characters = column["inputs"]
    found = {tokens["name"]: np.zeros((len(texts), tokens["shape"][1]), dtype=np.int64)}
    for row, text in zip(found[tokens["name"]], texts, strict=True):
        known = [column["vocabulary"].get(word, 1) for word in words_of(text, column)][: column["max_tokens"]]
        row[: len(known)] = known
    for given in characters:
        found[given["name"]] = np.zeros((len(texts), given["shape"][1]), dtype=np.int32)
        for row, text in zip(found[given["name"]], texts, strict=True):
            words = unicodedata.normalize("NFKC", text).lower().split()
            read = f" {' '.join(words)} "[: column["max_characters"] if words else 0]
            row[: len(read)] = [ord(char) for char in read]
    return found


def words_of(text: str, column: Facts) -> list[str]:
    """Return the tokens of a text: words, and what stands between words and spaces; or its characters."""
    text = "".join(char.lower() for char in unicodedata.normalize("NFKC", text))
    if column["is_spaceless"]:
        return [char for char in text if not char.isspace()]
    found: list[str] = []
    before = " "
    for char in text:
        is_word = unicodedata.category(char) in WORD_KINDS or char in "\u200c\u200d"
        kind = " " if char.isspace() else "w" if is_word else "."
        if kind != " " and kind == before:
            found[-1] += char
        elif kind != " ":
            found.append(char)
        before = kind
    return found


def read_images(cells: Sequence[Any], column: Facts) -> Arrays:
    """Return images, files or arrays, all of one size, as `(N, H, W, C)`."""
    given = column["inputs"][0]
    is_bytes = given["type"] == "uint8"
    images = [pixels_of(cell, column) if is_bytes else np.asarray(cell, np.float32) for cell in cells]
    if len({image.shape for image in images}) > 1:
        raise ValueError("the images of one call have different sizes: give those of each size by themselves")
    none = np.zeros((0, column["height"], column["width"], given["shape"][3]), np.uint8 if is_bytes else np.float32)
    return {given["name"]: np.stack(images) if images else none}


def pixels_of(cell: Any, column: Facts) -> Any:
    """Return an image, a file or an array `(H, W)` or `(H, W, C)` of bytes, as `(H, W, C)`."""
    channels = column["inputs"][0]["shape"][3]
    if isinstance(cell, str | Path):
        from PIL import Image, ImageOps

        with Image.open(cell) as opened:
            opened.draft(None, (max(column["height"], column["width"]),) * 2)  # a large JPEG is read smaller
            image: Any = ImageOps.exif_transpose(opened)
            if image.mode in ("I", "F") or image.mode.startswith("I;16"):
                values = np.asarray(image).astype(np.uint32)
                image = Image.fromarray(((values + 128) // 257).astype(np.uint8))
            if image.has_transparency_data:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            cell = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    return np.asarray(cell, dtype=np.uint8).reshape(*np.shape(cell)[:2], channels)


READERS: dict[str, Callable[[Sequence[Any], Facts], Arrays]] = {
    "number": read_numbers, "boolean": read_texts, "category": read_texts, "date": read_dates, "series": read_series,
    "text": read_text, "image": read_images,
}  # fmt: skip


def main(path: str) -> None:
    """Print the answers to the rows of a CSV."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    reader = Reader(Path(__file__).with_name("model.onnx"))
    answers = reader.predict(rows)
    out = csv.writer(sys.stdout)
    out.writerow([column for name in answers for column in reader.facts["outputs"][name]["columns"]])
    for i in range(len(rows)):
        out.writerow([cell for found in answers.values() for cell in np.ravel(found[i]).tolist()])


if __name__ == "__main__":
    main(sys.argv[1])
