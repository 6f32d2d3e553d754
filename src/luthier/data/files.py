"""Sources of tables: files of every format, several of them, folders, standard input, a database; each as a Table."""

import glob
import gzip
import json
import os
import re
import reprlib
import shutil
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any
from urllib.parse import unquote

import polars as pl

from luthier.core.names import did_you_mean, near_file
from luthier.data.csvtext import name_columns
from luthier.data.images import IMAGE_SUFFIXES
from luthier.data.tables import Table, iter_tables, read_table, table_from
from luthier.data.textfile import AS_FOUND, ReadOptions, empty_file, open_file, refuse_binary
from luthier.errors import DataError, MissingPackageError, SettingError

STDIN = "-"
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+]*://")
_PASSWORD = re.compile(r"(://[^/@:]*):[^/@]*@")
_SQLITE = "sqlite:///"
_REMOTE = ("http", "https", "ftp", "sftp", "file", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "hdfs", "hf")
_PLAIN = ("csv", "tsv", "parquet", "pq")  # read by `read_table`, which looks into the file
_EXCEL = ("xlsx", "xlsm", "xlsb", "xls", "ods")


def as_source(given: Any) -> str | None:
    """Return a path, a URL or a list of paths as one text, a path a line; None for what is none of these."""
    if isinstance(given, str | os.PathLike):
        return os.fspath(given)
    if isinstance(given, list | tuple) and given and all(isinstance(item, str | os.PathLike) for item in given):
        return "\n".join(map(os.fspath, given))
    return None


def source_lines(source: str) -> list[str]:
    """Return the paths that a source is made of; one that is there may have a line break in its name."""
    return [source] if os.path.lexists(source) else source.split("\n")


def is_database(source: str) -> bool:
    """Return whether a source is the URL of a database."""
    return _URL.match(source) is not None


def without_password(source: str) -> str:
    """Return a source as it may be printed and kept."""
    return _PASSWORD.sub(r"\1@", source) if is_database(source) else source


def source_name(source: str) -> str:
    """Return what to call a source in messages: a file's name, the first of several."""
    first, *others = source_lines(without_password(source))
    if first == STDIN:
        return "standard input"
    return Path(first).name.replace("\n", "\\n") + (f" and {len(others)} more" if others else "")


def with_paths(source: str, moved: Callable[[str], str]) -> str:
    """Return a source with each path in it changed."""
    if source.startswith(_SQLITE):
        return _SQLITE + moved(_sqlite_file(source))
    if source == STDIN or is_database(source):
        return source
    return "\n".join(map(moved, [source] if os.path.lexists(moved(source)) else source_lines(source)))


def is_table_folder(path: Path) -> bool:
    """Return whether a folder holds files of tables, and no images."""
    if not path.is_dir():
        return False
    names = [name.lower() for _, name in _names_below(path)]
    return not any(name.endswith(IMAGE_SUFFIXES) for name in names) and any(map(file_format, names))


def is_one_file(source: str) -> bool:
    """Return whether a source is a text table or a Parquet file: of those that can be read piece by piece."""
    path = Path(source)
    return not (source == STDIN or is_database(source) or len(source_lines(source)) > 1 or path.is_dir()) and (
        path.is_file() or not glob.has_magic(source)
    ) and file_format(path.name) in (*_PLAIN, "")  # fmt: skip


def source_files(source: str) -> list[Path]:
    """Return the files that a source is made of, in order; none of a database or standard input.

    Raises:
        DataError: a pattern that fits no file, or a folder with files of several formats.
    """
    if source == STDIN or is_database(source):
        return []
    files: list[Path] = []
    for line in source_lines(source):
        path = Path(line)
        if is_table_folder(path):
            files += _folder_files(path)
        elif glob.has_magic(line) and not path.exists():
            found = sorted(Path(name) for name in glob.glob(line, recursive=True) if os.path.isfile(name))
            if not found:
                raise DataError(f"no file matches {line}", hint=near_file(path), code="data-no-file")
            files += found
        else:
            files.append(path)
    return files


def check_options(source: str, options: ReadOptions) -> None:
    """Refuse options that the source would ignore, a database without a query, and files on other machines.

    Raises:
        SettingError: one of the first.
        DataError: the last.
    """
    _refuse_remote(source)
    if is_database(source) and options.query is None:
        raise SettingError(
            f"{without_password(source)} is a database, and no query is given",
            hint="give query=, such as 'SELECT * FROM customers'",
            code="setting-missing",
        )
    if not is_database(source) and options.query is not None:
        raise SettingError(
            f"query would be ignored: {source_name(source)} is not a database",
            hint="leave it out, or give a URL such as postgresql://user@host/name or sqlite:///file.db",
            code="setting-ignored",
        )
    if options.sheet is not None and not any(file_format(path.name) in _EXCEL for path in source_files(source)):
        raise SettingError(
            f"sheet would be ignored: {source_name(source)} is not a workbook",
            hint="leave it out",
            code="setting-ignored",
        )


def _refuse_remote(source: str) -> None:
    if source.partition("://")[0].lower() in _REMOTE and is_database(source):
        raise DataError(
            f"{without_password(source)} is on another machine, and Luthier reads files of this one",
            hint="download it, and give the file",
            code="data-no-file",
        )


def read_any(
    source: str,
    options: ReadOptions = AS_FOUND,
    *,
    texts: Collection[str] | None = None,
    targets: Collection[str] = (),
    wanted: Collection[str] = (),
) -> Table:
    """Read the table that a source is, whatever it is; the rows of several files one after the other.

    Args:
        source: As `as_source` gives it: a file, a pattern of files, a folder of them, several lines of these, the URL
            of a database, or `-` for standard input.
        options: How text files are read, which sheet of a workbook, and the query to a database.
        texts: As in `read_table`.
        targets: Likewise.
        wanted: Likewise.

    Raises:
        DataError: it cannot be read, or the files differ in their columns.
        MissingPackageError: the format needs a package that is not installed.
    """
    _refuse_remote(source)
    if is_database(source):
        return _query(source, options.query or "")
    if source == STDIN:
        with _spooled() as path:
            return read_table(path, options, texts=texts, targets=targets, wanted=wanted)
    files = source_files(source)

    def read(path: Path, more: Collection[str], options: ReadOptions) -> Table:
        known = None if texts is None else {*texts, *more}
        open_targets = [target for target in targets if target not in more]
        table = _read_file(path, options, texts=known, targets=open_targets, wanted=wanted)
        name = str(path) if len(files) > 1 else table.name
        return replace(table, frame=with_folders(table.frame, path, source), name=name)

    first = read(files[0], (), options)
    if len(files) == 1:
        return first
    options = replace(options, likely_decimal=options.likely_decimal or first.decimal)
    tables = [first, *(read(path, (), options) for path in files[1:])]
    refuse_other_columns(tables)
    mixed = _mixed_columns(tables)
    if mixed and texts is not None and all(table.is_text for table in tables):  # numbers in one file, words in another
        tables = [read(path, mixed, options) for path in files]
        mixed = _mixed_columns(tables)
    if mixed:
        raise kinds_differ(mixed[0], _unlike(tables, mixed[0]))
    frames = [table.frame.select(first.frame.columns) for table in tables]
    notes = dict.fromkeys(note for table in tables for note in table.notes)
    return replace(
        first,
        frame=pl.concat(_alike(frames), how="vertical_relaxed", rechunk=True),
        name=source_name(source),
        notes=(f"{len(files):,} files: {files[0]} to {files[-1].name}", *notes),
        is_ended=True,
        doubts=tuple(dict.fromkeys(doubt for table in tables for doubt in table.doubts)),
    )


def iter_any(
    source: str,
    options: ReadOptions = AS_FOUND,
    *,
    rows: int = 65536,
    texts: Collection[str] | None = None,
    wanted: Collection[str] = (),
    columns: Collection[str] | None = None,
) -> Iterator[Table]:
    """Yield the rows of `read_any` in pieces of at most `rows`; text and Parquet files are not held whole.

    Of Parquet files only `columns` are read, where they are given; all files are then taken to have them.

    Raises:
        DataError: as `read_any` and `iter_tables`.
    """
    if source == STDIN:
        with _spooled() as path:
            yield from iter_tables(path, options, rows=rows, texts=texts, wanted=wanted)
        return
    if is_database(source):
        yield from _slices(read_any(source, options), rows)
        return
    names: Table | None = None
    for path in source_files(source):
        pieces: Iterable[Table]
        if file_format(path.name) in (*_PLAIN, ""):
            pieces = iter_tables(path, options, rows=rows, texts=texts, wanted=wanted, columns=columns)
        else:
            pieces = _slices(_read_file(path, options, texts=texts, targets=(), wanted=wanted), rows)
        for piece in pieces:
            table = replace(piece, frame=with_folders(piece.frame, path, source), name=str(path))
            names = names or table
            refuse_other_columns([names, table])
            yield table


def _slices(table: Table, rows: int) -> Iterator[Table]:
    for start, frame in enumerate(table.frame.iter_slices(rows)):
        yield replace(table, frame=frame, notes=() if start else table.notes)


def _read_file(
    path: Path,
    options: ReadOptions,
    *,
    texts: Collection[str] | None,
    targets: Collection[str],
    wanted: Collection[str],
) -> Table:
    kind = file_format(path.name)
    if kind in (*_PLAIN, ""):
        return read_table(path, options, texts=texts, targets=targets, wanted=wanted)
    with open_file(path) as file:
        if not file.read(1):
            raise empty_file(path.name)
    if kind in _EXCEL:
        return _workbook(path, options.sheet)
    readers: dict[str, Callable[[Path], Any]] = {"json": _json, "jsonl": _json_lines, "ndjson": _json_lines}
    try:
        found = readers.get(kind, _arrow)(path)
        rows = found if isinstance(found, list) else [found]
        if not rows or not all(isinstance(row, dict | pl.DataFrame) for row in rows):
            raise DataError(
                f"{path.name} holds {reprlib.repr(found)}, which is not a table",
                hint="write a list of objects, one for each row",
                code="data-not-a-table",
            )
        return table_from(found, path.name)
    except (pl.exceptions.PolarsError, OSError, EOFError, ValueError, RecursionError) as error:
        raise DataError(
            f"{path.name} is not a complete {kind} file: {_decoding_failed(error)}",
            hint="write or copy the file again",
            code="data-file-damaged",
        ) from error


def _decoding_failed(error: Exception) -> str:
    """Return why, without what concerns the decoder alone."""
    if isinstance(error, RecursionError):
        return "its lists are nested too deeply"
    return str(error).splitlines()[0].partition("; use sys.")[0]


_FORMATS = (*_PLAIN, *_EXCEL, "json", "jsonl", "ndjson", "feather", "arrow", "ipc")


def file_format(name: str) -> str:
    """Return the format that a file's suffix says, "" for none that is known."""
    suffixes = name.lower().removesuffix(".gz").split(".")[1:]
    return suffixes[-1] if suffixes and suffixes[-1] in _FORMATS else ""


def _names_below(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the folder and name of each file below a folder; none that is hidden, or that a program left as a mark."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name[0] not in "._")
        yield from ((place, name) for name in sorted(files) if name[0] not in "._")


def _folder_files(folder: Path) -> list[Path]:
    found = [(place, name) for place, name in _names_below(folder) if file_format(name)]
    formats = sorted({"parquet" if file_format(name) == "pq" else file_format(name) for _, name in found})
    if len(formats) > 1:
        raise DataError(
            f"{folder} holds files of several formats: {', '.join(formats)}",
            hint=f"name those that are one table, such as '{folder}/*.csv'",
            code="data-files-differ",
        )
    return [Path(place, name) for place, name in found]


def with_folders(frame: pl.DataFrame, path: Path, source: str) -> pl.DataFrame:
    """Return a frame with the columns that folders called `name=value` say, as partitioned tables have them."""
    root = next((line for line in source_lines(source) if path != Path(line) and path.is_relative_to(line)), None)
    parts = [] if root is None else [part.partition("=") for part in path.relative_to(root).parts[:-1]]
    made = {name: None if value.startswith("__HIVE_") else unquote(value) for name, equals, value in parts if equals}
    return frame.with_columns(
        pl.lit(value, dtype=pl.String).alias(name) for name, value in made.items() if name not in frame.columns
    )


def refuse_other_columns(tables: Sequence[Table]) -> None:
    """Refuse files of one table that have other columns than the first.

    Raises:
        DataError: one has.
    """
    first = tables[0]
    wanted = dict.fromkeys(first.frame.columns)
    for table in tables[1:]:
        found = dict.fromkeys(table.frame.columns)
        lacking = [name for name in wanted if name not in found]
        more = [name for name in found if name not in wanted]
        if lacking or more:
            said = [f"lacks {', '.join(map(repr, lacking[:5]))}"] if lacking else []
            said += [f"has {', '.join(map(repr, more[:5]))} too"] if more else []
            raise DataError(
                f"{table.name} has other columns than {first.name}: it {' and '.join(said)}",
                hint="give files of one table, with the same columns in any order",
                code="data-files-differ",
            )


def _kind(dtype: pl.DataType) -> str:
    if dtype.is_numeric():
        return "numbers"
    return {pl.String: "text", pl.Boolean: "yes and no"}.get(type(dtype), str(dtype).lower())


def kinds_differ(name: str, kinds: Mapping[str, str]) -> DataError:
    """Return the error for a column that holds one kind of cells in one file and another kind in another."""
    return DataError(
        f"column {name!r} holds {' and '.join(f'{kind} in {where}' for kind, where in kinds.items())}",
        hint="write all files in the same way, or read them yourself and pass a frame",
        code="data-files-differ",
    )


def unlike_kinds(columns: Iterable[tuple[pl.Series, str]]) -> dict[str, str]:
    """Return the kinds of cells that a column has in some files, and a file of each."""
    kinds: dict[str, str] = {}
    for series, where in columns:
        kinds.setdefault(_kind(series.dtype), where)
    return kinds


def _unlike(tables: Sequence[Table], name: str) -> dict[str, str]:
    """Return them for a column of tables; what is empty is of any kind."""
    found = ((table.frame[name], table.name) for table in tables)
    return unlike_kinds((series, where) for series, where in found if series.null_count() < len(series))


def _mixed_columns(tables: Sequence[Table]) -> list[str]:
    return [name for name in tables[0].frame.columns if len(_unlike(tables, name)) > 1]


def _alike(frames: Sequence[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """Yield frames whose columns without any value are of no type, so that they go with any."""
    for frame in frames:
        empty = [name for name in frame.columns if frame[name].null_count() == frame.height]
        yield frame.with_columns(pl.lit(None).alias(name) for name in empty)


@contextmanager
def _spooled() -> Iterator[Path]:
    """Give standard input as a file, which is gone afterwards: on Linux a link to one without a name."""
    with TemporaryDirectory(prefix="luthier-") as folder, TemporaryFile() as nameless:
        path = Path(folder, source_name(STDIN))
        link = Path(f"/proc/self/fd/{nameless.fileno()}")
        if link.exists():
            path.symlink_to(link)
        with nameless if link.exists() else path.open("wb") as file:
            first = sys.stdin.buffer.read(1 << 16)
            refuse_binary(first, path.name, None)
            try:
                file.write(first)
                shutil.copyfileobj(sys.stdin.buffer, file, 1 << 20)
                file.flush()
            except OSError as error:
                raise DataError(
                    f"standard input cannot be kept in {folder}: {error.strerror}",
                    hint="free disk, or say where there is some: TMPDIR=/a/folder",
                    code="data-no-room",
                ) from error
            yield path


def _json(path: Path) -> Any:
    with _opened(path) as file:
        found = json.load(file)
    if not isinstance(found, dict) or not found:
        return found
    if isinstance(found.get("columns"), list) and isinstance(found.get("data"), list):  # "split", by pandas
        return [dict(zip(found["columns"], row, strict=True)) for row in found["data"]]
    lists = [value for value in found.values() if isinstance(value, list)]
    if len(lists) == 1 and lists[0] and all(isinstance(row, dict) for row in lists[0]):
        return lists[0]  # records with words around them
    if all(isinstance(column, dict) for column in found.values()):
        rows = dict.fromkeys(row for column in found.values() for row in column)  # as pandas writes it
        return {name: [column.get(row) for row in rows] for name, column in found.items()}
    return found


def _json_lines(path: Path) -> list[Any]:
    rows = []
    with _opened(path) as file:
        for number, line in enumerate(file, start=1):
            try:
                rows += [json.loads(line)] if line.strip() else []
            except ValueError as error:
                raise DataError(
                    f"line {number} of {path.name} is not JSON: {_decoding_failed(error)}",
                    hint="write one object a line; a file that is one list ends in .json",
                    code="data-file-damaged",
                ) from error
    return rows


def _opened(path: Path) -> Any:
    open_it: Any = gzip.open if path.suffix.lower() == ".gz" else open
    return open_it(path, "rt", encoding="utf-8-sig")


def _arrow(path: Path) -> pl.DataFrame:
    with path.open("rb") as file:
        is_file = file.read(6) == b"ARROW1"
    return pl.read_ipc(path) if is_file else pl.read_ipc_stream(path)


def _workbook(path: Path, sheet: str | None) -> Table:
    """Read a sheet of a workbook: the first row with any cell names the columns. A cell is as its text would be."""
    try:
        import fastexcel
    except ImportError as error:
        raise _missing("excel", f"{path.name} is a workbook, which the package fastexcel reads") from error
    try:
        book = fastexcel.read_excel(path)
        names = book.sheet_names
        chosen = _sheet(names, sheet, path.name)
        text = book.load_sheet(chosen, header_row=None, skip_rows=0, dtypes="string").to_polars()
        some = [cells.is_not_null().cast(pl.Int64) for cells in text]
        counts = pl.DataFrame(some).sum_horizontal() if some else pl.Series([], dtype=pl.Int64)
        filled = (counts > 0).arg_true()
        title = _title_rows([int(counts[row]) for row in filled[:20].to_list()])
        start = int(filled[title]) + 1 if len(filled) else 0
        rows = filled[title + 1 :] - start
        typed = text.clear()
        if len(rows):
            typed = book.load_sheet(chosen, header_row=None, skip_rows=start, schema_sample_rows=None).to_polars()
    except fastexcel.FastExcelError as error:
        raise DataError(
            f"{path.name} is not a workbook that can be read: {str(error).splitlines()[0]}",
            hint="save it again as .xlsx, or as CSV",
            code="data-file-damaged",
        ) from error
    if not len(filled):
        raise DataError(
            f"sheet {chosen!r} of {path.name} is empty", hint=_others(names, chosen), code="data-file-empty"
        )
    header = [str(cell or "") for cell in text.row(start - 1)]
    body = text.slice(start)
    used = [place for place, label in enumerate(header) if label or body.to_series(place).null_count() < body.height]
    labels, notes = name_columns(header[: used[-1] + 1])
    cells = [_exact(body.to_series(place), typed, place).gather(rows) for place in range(len(labels))]
    if title:
        notes = (f"{path.name}: the first {title} row{'s are' if title > 1 else ' is'} passed over as a title", *notes)
    if len(names) > 1:
        notes = (f"{path.name}: sheet {chosen!r} is read; {_others(names, chosen)}", *notes)
    table = table_from(pl.DataFrame(dict(zip(labels, cells, strict=True))), path.name)
    return replace(table, notes=(*notes, *table.notes), is_text=True)


def _title_rows(counts: Sequence[int]) -> int:
    """Return how many of the first rows that are not blank, whose cells are counted, are a title of the table below.

    >>> _title_rows([1, 1, 4, 4, 3]), _title_rows([3, 3]), _title_rows([1, 1, 1])
    (2, 0, 0)
    """
    first = next((row for row, count in enumerate(counts) if count > 1), 0)
    return first if len(counts) - first > 1 else 0


def _exact(text: pl.Series, typed: pl.DataFrame, place: int) -> pl.Series:
    """Return cells as numbers, of which the text keeps fewer digits, where each one is; else as text."""
    if place >= typed.width or typed.height != len(text) or not typed.to_series(place).dtype.is_numeric():
        return text
    numbers = typed.to_series(place).cast(pl.Float64)
    if not text.cast(pl.Float64, strict=False).null_count() == numbers.null_count() == text.null_count():
        return text
    is_whole = bool(((numbers == numbers.round(0)) & (numbers.abs() < 2**53)).all())
    return numbers.cast(pl.Int64) if is_whole else numbers  # a workbook has no whole numbers of their own


def _sheet(names: Sequence[str], wanted: str | None, where: str) -> str:
    if wanted is None or wanted in names:
        return wanted or names[0]
    if wanted.isdecimal() and 1 <= int(wanted) <= len(names):
        return names[int(wanted) - 1]
    raise DataError(f"{where} has no sheet {wanted!r}", hint=did_you_mean(wanted, names), code="data-no-sheet")


def _others(names: Sequence[str], chosen: str) -> str:
    return "choose another with sheet=: " + ", ".join(repr(name) for name in names if name != chosen)


def _query(source: str, query: str) -> Table:
    """Read what a database answers: SQLite by Python itself, others by connectorx."""
    try:
        found = _ask_sqlite(source, query) if source.startswith(_SQLITE) else _ask(source, query)
    except MissingPackageError:
        raise
    except Exception as error:  # drivers raise what they like
        said = (str(error).splitlines() or [type(error).__name__])[0].replace(source, without_password(source))
        raise DataError(
            f"the query to {without_password(source)} failed: {said}",
            hint="look at the query and the URL, such as postgresql://user:password@host:5432/name",
            code="data-database",
        ) from None  # the driver's own message may hold the password
    return table_from(found, "the query's answer")


def _sqlite_file(source: str) -> str:
    return source.removeprefix(_SQLITE)


def _ask_sqlite(source: str, query: str) -> Any:
    import sqlite3

    path = Path(_sqlite_file(source))
    path = path if path.is_file() else Path("/", path)  # sqlite:///data/x.db is also written for /data/x.db
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {_sqlite_file(source)}")
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
    try:
        cursor = connection.execute(query)
        names, _ = name_columns([str(column[0]) for column in cursor.description or ()])
        rows = cursor.fetchall()
    finally:
        connection.close()
    return {name: [row[place] for row in rows] for place, name in enumerate(names)}


def _ask(source: str, query: str) -> pl.DataFrame:
    try:
        import connectorx  # noqa: F401  (polars asks it)
    except ImportError as error:
        raise _missing("sql", "databases are read by the package connectorx") from error
    return pl.read_database_uri(query, source, engine="connectorx")


def _missing(extra: str, what: str) -> MissingPackageError:
    return MissingPackageError(
        f"{what}, and it is not installed", hint=f"pip install 'luthier[{extra}]'", code="missing-package"
    )
