"""A store of rows: the run of a table in memory where it is small, read by windows where not; whole or not there."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

import luthier
from luthier.cli.main import _run
from luthier.core.order import Spans, Windows
from luthier.data import pieces
from luthier.data.feeds import AddressedFeed, Share
from luthier.errors import DataError, LuthierError, RunError, SettingError
from luthier.pipeline import rows as conversion
from luthier.pipeline.rows import write_rows
from luthier.store import rows as stores
from luthier.store.rows import ROWS_DESCRIPTION, ROWS_FILE, open_rows
from tests.processes.kit import workers
from tests.training.test_resume import CopyAt

N = 3000
Write = Callable[[pl.DataFrame, Path], Path]


def table(n: int = N, seed: int = 0) -> pl.DataFrame:
    g = np.random.default_rng(seed)
    x, gone = g.normal(size=n), g.random(n) < 0.1
    days = np.datetime64("2020-01-01") + g.integers(0, 900, n).astype("timedelta64[D]")
    return pl.DataFrame(
        {
            "row": np.arange(n) + 7,
            "x": x,
            "lacking": pl.Series(np.where(gone, np.nan, g.normal(size=n))).fill_nan(None),
            "few": g.integers(0, 5, n),
            "word": g.choice(["red", "green", "blue"], n),
            "day": pl.Series(days).cast(pl.Date),
            "digits": pl.Series(days).cast(pl.Date).dt.strftime("%Y%m%d").cast(pl.Int64),
            "written": pl.Series(days).cast(pl.Date).dt.strftime("%d.%m.%Y"),
            "short": g.normal(size=n).astype(np.float32),
            "shop": [f"shop {i}" for i in g.integers(0, 300, n)],
            "weight": g.random(n) + 0.5,
            "y": np.where(x + g.normal(size=n) > 0, "yes", "no"),
            "z": np.exp(x + g.normal(size=n)),
            "when": g.permutation(n),
        }
    )


def parts(frame: pl.DataFrame, place: Path) -> Path:
    folder = place / "table"
    folder.mkdir()
    for number, part in enumerate(frame.iter_slices(1100)):
        part.write_parquet(folder / f"part-{number}.parquet")
    return folder


def csvs(frame: pl.DataFrame, place: Path) -> Path:
    folder = place / "table"
    folder.mkdir()
    for number, part in enumerate(frame.iter_slices(1500)):
        part.write_csv(folder / f"part-{number}.csv")
    return folder


def one(frame: pl.DataFrame, place: Path) -> Path:
    frame.write_parquet(place / "table.parquet")
    return place / "table.parquet"


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "_MOST", 500)
    monkeypatch.setattr(pieces, "_LEAST", 500)


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch, small_pieces: None) -> None:
    """A store of a few kilobytes goes by windows, of 64 blocks of 64 rows."""
    monkeypatch.setattr(conversion, "MOST_BYTES", 1000)
    monkeypatch.setattr(stores, "_BLOCK_BYTES", 1)
    monkeypatch.setattr(stores, "_BUCKET_BYTES", 1 << 14)


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch, windows: None) -> None:
    """And 3,000 rows are more than a permutation holds, and than statistics are taken from."""
    monkeypatch.setattr(conversion, "MOST_PERMUTED", 1000)
    monkeypatch.setattr(conversion, "_SAMPLE", 800)


def figures(result: Any) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in result.record.epochs]


SETTINGS: list[tuple[Write, dict[str, Any]]] = [
    (parts, {"target": "y"}),
    (csvs, {"target": "y"}),
    (one, {"target": "z"}),
    (csvs, {"target": "z", "weight": "weight"}),
    (parts, {"target": "few", "task": "multiclass"}),
    (parts, {"target": "y", "group": "shop"}),
    (one, {"target": "y", "time": "when", "kind": {"few": "category"}, "test_fraction": 0.0}),
    (one, {"target": ["x", "z"]}),
]


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize(("write", "settings"), SETTINGS)
def test_a_store_gives_the_run_of_the_table_in_memory(write: Write, settings: dict[str, Any], tmp_path: Path) -> None:
    source = write(table(), tmp_path)
    store = write_rows(source, tmp_path / "s.rows", **settings)
    training: dict[str, Any] = {"seed": 0, "epochs": 2, "verbose": False}
    in_memory = luthier.train(source, **settings, **training)
    from_store = luthier.train(tmp_path / "s.rows", **training)
    assert from_store.model.schema == in_memory.model.schema == store.schema
    assert figures(from_store) == figures(in_memory)
    assert from_store.test == in_memory.test
    for name, value in in_memory.module.state_dict().items():
        assert torch.equal(from_store.module.state_dict()[name], value), name


@pytest.mark.usefixtures("windows")
@pytest.mark.parametrize(("write", "settings"), SETTINGS[:4])
def test_shuffled_rows_are_those_of_the_table(write: Write, settings: dict[str, Any], tmp_path: Path) -> None:
    source = write(table(), tmp_path)
    store = write_rows(source, tmp_path / "s.rows", **settings)
    assert store.by_windows
    plan = luthier.design(source, **settings)
    assert plan.schema == store.schema
    for name, part in plan.prepared.parts.items():
        records = store.source(name).records
        assert not (np.diff(records["row"]) > 0).all()
        records = records[np.argsort(records["row"])]
        assert (records["row"] == part.rows).all()
        batch = part.source.batches([torch.arange(len(part.rows))], 0, 0)
        (numbers, categories), targets = next((tuple(found.inputs), found.targets) for found in batch)
        assert (records["numbers"] == numbers.numpy()).all()
        assert (records["categories"] == categories.numpy()).all()
        assert (records["target"] == targets.numpy()).all()


@pytest.mark.usefixtures("large")
def test_a_large_table_is_split_by_thresholds_and_learnt_from_a_sample(tmp_path: Path) -> None:
    frame = table()
    frame[17, "few"] = 99  # a class of one row
    store = write_rows(parts(frame, tmp_path), tmp_path / "s.rows", target="few", task="multiclass")
    (target,) = store.schema.targets
    train = store.source("train")
    again = frame[np.sort(train.records["row"])]["few"].cast(pl.String).value_counts()
    assert dict(zip(target.classes, target.counts, strict=True)) == dict(again.iter_rows())
    whole = luthier.design(frame, target="few", task="multiclass")
    hashed = np.sort(np.concatenate([store.source(name).records["row"] for name in store.parts]))
    assert (hashed == np.arange(N)).all()
    both = np.intersect1d(train.records["row"], whole.prepared.parts["train"].rows)
    assert len(both) > 0.95 * len(train)  # by ranks the borders lie a little elsewhere
    assert [column.kind for column in store.schema.columns] == [column.kind for column in whole.schema.columns]


@pytest.mark.usefixtures("windows")
def test_an_epoch_by_windows_sees_each_row_once_and_a_resume_is_a_seek(tmp_path: Path) -> None:
    write_rows(one(table(), tmp_path), tmp_path / "s.rows", target="y")
    source = open_rows(tmp_path / "s.rows").source("train")
    feed = AddressedFeed(source, batch_size=50, seed=3, shuffle=True)
    whole = list(feed.batches(1))
    numbers = torch.cat([batch.indices for batch in whole if batch.indices is not None])
    assert torch.equal(numbers.sort().values, torch.arange(len(source)))
    assert not torch.equal(numbers, torch.cat([b.indices for b in feed.batches(2) if b.indices is not None]))
    for late, batch in zip(feed.batches(1, start=30), whole[30:], strict=True):
        assert torch.equal(late.original()[0], batch.original()[0])
        assert torch.equal(late.targets, batch.targets)
    halves = [list(feed.batches(1, share=Share(rows=lambda n, i=i: (n * i // 2, n * (i + 1) // 2)))) for i in (0, 1)]  # type: ignore[misc]
    for first, second, batch in zip(*halves, whole, strict=True):
        assert torch.equal(torch.cat([first.original()[0], second.original()[0]]), batch.original()[0])
        assert first.whole == len(batch)
    valid = AddressedFeed(source, batch_size=50, seed=3, shuffle=False)
    assert torch.equal(
        torch.cat([b.original()[0] for b in valid.batches(0)]), source.batch(torch.arange(len(source))).original()[0]
    )


@pytest.mark.parametrize("n", [1, 63, 64, 65, 64 * 64, 64 * 64 + 1, 10_000])
def test_windows_are_a_permutation(n: int) -> None:
    windows = Windows(n, 64, seed=1, epoch=2)
    rows = torch.cat([windows.rows(number) for number in range(len(windows))])
    assert torch.equal(rows.sort().values, torch.arange(n))
    spans = Spans(windows, [(start, min(start + 70, n)) for start in range(0, n, 70)])
    assert torch.equal(torch.cat(list(spans)), rows)


def test_shuffled_sorted_data_mixes_classes_as_a_permutation_does(tmp_path: Path, monkeypatch: Any) -> None:
    """Of a table sorted by class, the share of a class in a batch by windows spreads as in a draw from all rows."""
    n = 1 << 17
    frame = pl.DataFrame({"x": np.arange(n, dtype=np.float64), "y": np.arange(n) < n // 2})
    monkeypatch.setattr(conversion, "MOST_BYTES", 1000)
    write_rows(one(frame, tmp_path), tmp_path / "s.rows", target="y")
    feed = AddressedFeed(open_rows(tmp_path / "s.rows").source("train"), batch_size=1000, seed=0, shuffle=True)
    shares = torch.stack([batch.targets.mean() for batch in feed.batches(0)][:-1])
    assert float(shares.std()) == pytest.approx(0.5 / 1000**0.5, rel=0.35)


@pytest.mark.usefixtures("windows")
def test_a_run_over_a_store_is_resumed_exactly(tmp_path: Path) -> None:
    write_rows(one(table(), tmp_path), tmp_path / "s.rows", target="y")
    settings: dict[str, Any] = {"seed": 0, "epochs": 3, "checkpoint_every_steps": 7, "batch_size": 64, "verbose": False}
    whole = luthier.train(
        tmp_path / "s.rows", run=tmp_path / "run", callbacks=[CopyAt(40, tmp_path / "cut")], **settings
    )
    again = luthier.resume(tmp_path / "cut", verbose=False)
    assert figures(again) == figures(whole)
    for name, value in whole.module.state_dict().items():
        assert torch.equal(again.module.state_dict()[name], value), name


@pytest.mark.usefixtures("windows")
def test_a_run_over_windows_can_train_once_more_on_all_rows(tmp_path: Path) -> None:
    write_rows(one(table(), tmp_path), tmp_path / "s.rows", target="y")
    result = luthier.train(tmp_path / "s.rows", seed=0, epochs=1, refit=True, run=tmp_path / "run", verbose=False)
    assert any("2,550 training and validation rows" in note for note in result.notes)
    with pytest.raises(RunError, match="its rows are in a store"):
        luthier.eject(tmp_path / "run", tmp_path / "project")


def train_on(store: str, run: str | None) -> list[Any]:
    result = luthier.train(store, run=run, seed=0, epochs=2, shards=4, batch_size=64, check=False, verbose=False)
    return [figures(result), [float(value.double().sum()) for value in result.module.state_dict().values()]]


def train_beyond_memory(source: str) -> list[Any]:
    vars(conversion).update(_SMALL=0, free_memory=lambda: 1e6)
    result = luthier.train(source, target="y", seed=0, epochs=1, shards=2, check=False, verbose=False)
    return [figures(result), len(result.record.epochs)]


@pytest.mark.usefixtures("windows")
def test_several_processes_give_the_bits_of_one(tmp_path: Path) -> None:
    write_rows(one(table(), tmp_path), tmp_path / "s.rows", target="y")
    alone = json.loads(json.dumps(train_on(str(tmp_path / "s.rows"), None)))
    with workers(2) as group:
        for found in group.run("tests.pipeline.test_rows:train_on", str(tmp_path / "s.rows"), str(tmp_path / "run")):
            assert found == alone
        (tmp_path / "large").mkdir()
        source = one(table(), tmp_path / "large")
        first, second = group.run("tests.pipeline.test_rows:train_beyond_memory", str(source))
        assert first == second
        assert [path.name for path in (tmp_path / "large").iterdir() if path.is_dir()] == ["table.rows"]


def test_a_finished_run_is_reported_evaluated_and_ejected(tmp_path: Path) -> None:
    source = one(table(), tmp_path)
    write_rows(source, tmp_path / "s.rows", target="y")
    luthier.train(tmp_path / "s.rows", run=tmp_path / "run", seed=0, epochs=2, refit=True, verbose=False)
    assert _run(["report", str(tmp_path / "run"), "-o", str(tmp_path / "r.html"), "-q"]) == 0
    assert "shop" in (tmp_path / "r.html").read_text()
    assert luthier.load(tmp_path / "run").evaluate(source)["rows"] == N
    assert "train.py" in luthier.eject(tmp_path / "run", tmp_path / "project")
    ran = subprocess.run([sys.executable, "train.py"], cwd=tmp_path / "project", capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_a_table_that_memory_does_not_hold_becomes_a_store_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    source = parts(table(), tmp_path)
    in_memory = luthier.train(source, target="y", seed=0, epochs=1, verbose=False)
    monkeypatch.setattr(conversion, "_SMALL", 0)
    monkeypatch.setattr(conversion, "free_memory", lambda: 1e6)
    result = luthier.train(source, target="y", seed=0, epochs=1, run=tmp_path / "run", verbose=False)
    (line,) = [record.message for record in caplog.records if "encoded once" in record.message]
    assert "table takes about 0.0 GiB" in line
    assert (tmp_path / "table.rows" / ROWS_DESCRIPTION).is_file()
    assert figures(result) == figures(in_memory)
    written = (tmp_path / "table.rows" / ROWS_FILE).stat().st_mtime_ns
    luthier.train(source, target="y", seed=0, epochs=1, verbose=False)
    assert (tmp_path / "table.rows" / ROWS_FILE).stat().st_mtime_ns == written
    luthier.train(source, target="z", seed=0, epochs=1, verbose=False)
    assert open_rows(tmp_path / "table-2.rows").settings.target == ("z",)
    monkeypatch.setattr(conversion, "free_memory", lambda: 1e12)
    assert figures(luthier.resume(tmp_path / "run", verbose=False)) == figures(in_memory)


def test_what_a_store_does_not_hold_is_refused_by_name(tmp_path: Path) -> None:
    frame = table().with_columns(
        text=pl.Series([f"the {a} thing number {i} is not so good as that" for i, a in enumerate(table()["word"])]),
    )
    frame.write_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"column 'text' of t\.parquet holds text") as refused:
        write_rows(tmp_path / "t.parquet", tmp_path / "s.rows", target="y", kind={"text": "text"})
    assert refused.value.code == "data-rows-kind"
    assert not (tmp_path / "s.rows").exists()
    with pytest.raises(SettingError, match="folds would be ignored"):
        write_rows(tmp_path / "t.parquet", tmp_path / "s.rows", target="y", folds=5)


def test_settings_that_a_store_was_made_without_are_refused(tmp_path: Path) -> None:
    write_rows(one(table(), tmp_path), tmp_path / "s.rows", target="y", valid_fraction=0.2)
    for given in ({"target": "z"}, {"valid_fraction": 0.3}, {"kind": {"few": "category"}}, {"group": "shop"}):
        with pytest.raises(SettingError, match=f"{next(iter(given))} would be ignored: s.rows was made with"):
            luthier.design(tmp_path / "s.rows", **given)
    luthier.design(tmp_path / "s.rows", target="y", valid_fraction=0.2, kind={"few": "number"})


def test_wrong_calls_are_refused_before_the_rows_are_read(tmp_path: Path) -> None:
    source = one(table(), tmp_path)
    for given, code in (
        ({"target": "Y"}, "data-column-missing"),
        ({}, "data-target-missing"),
        ({"target": "y", "kind": {"fewer": "number"}}, "data-column-missing"),
        ({"target": "y", "weight": "no"}, "data-column-missing"),
        ({"target": "y", "tagret": "z"}, "setting-unknown"),
    ):
        with pytest.raises(LuthierError) as refused:
            write_rows(source, tmp_path / "s.rows", **given)
        assert refused.value.code == code
    with pytest.raises(DataError) as refused:
        write_rows(tmp_path / "no.parquet", tmp_path / "s.rows", target="y")
    assert refused.value.code == "data-no-file"


def test_a_changed_source_is_said(tmp_path: Path) -> None:
    source = parts(table(), tmp_path)
    write_rows(source, tmp_path / "s.rows", target="y")
    file = source / "part-1.parquet"
    content = file.read_bytes()
    file.write_bytes(content)  # the same again, at another time
    luthier.design(tmp_path / "s.rows")
    file.write_bytes(content[:-8] + bytes(8))
    with pytest.raises(DataError, match=r"part-1.parquet has changed since s.rows was made of it") as refused:
        luthier.design(tmp_path / "s.rows")
    assert refused.value.code == "data-rows-changed"
    file.write_bytes(content)
    shutil.copy(file, source / "part-9.parquet")
    with pytest.raises(DataError, match=r"part-9.parquet is new in table"):
        luthier.design(tmp_path / "s.rows")
    shutil.rmtree(source)
    luthier.design(tmp_path / "s.rows")  # a source that is gone is not missed


@pytest.mark.parametrize("by_windows", [False, True])
def test_a_damaged_store_is_said(by_windows: bool, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if by_windows:
        request.getfixturevalue("windows")
    write_rows(one(table(), tmp_path), tmp_path / "s.rows", target="y")
    file = tmp_path / "s.rows" / ROWS_FILE
    content = bytearray(file.read_bytes())
    content[5000] ^= 1
    file.write_bytes(content)
    with pytest.raises(LuthierError, match=r"s.rows is damaged: the block at row \d+ of rows.bin") as refused:
        luthier.train(tmp_path / "s.rows", epochs=1, verbose=False)
    assert refused.value.code == "data-rows-damaged"
    file.write_bytes(content[:-1])
    with pytest.raises(DataError, match=r"rows.bin has [\d,]+ bytes"):
        luthier.design(tmp_path / "s.rows")
    described = tmp_path / "s.rows" / ROWS_DESCRIPTION
    text = described.read_text()
    for damaged in (text.replace("yes", "yet"), text[:-20], "[]", '{"sha256": 1}'):
        described.write_text(damaged)
        with pytest.raises(DataError) as refused:
            luthier.design(tmp_path / "s.rows")
        assert refused.value.code == "data-rows-damaged"


def test_files_of_other_columns_are_refused(tmp_path: Path) -> None:
    source = parts(table(), tmp_path)
    table(100).drop("few").write_parquet(source / "part-9.parquet")
    with pytest.raises(DataError, match=r"part-9\.parquet has other columns") as refused:
        write_rows(source, tmp_path / "s.rows", target="y")
    assert refused.value.code == "data-files-differ"
    table(100).with_columns(few=pl.lit("a")).write_parquet(source / "part-9.parquet")
    with pytest.raises(DataError, match=r"column 'few' holds numbers in .*part-0.parquet and text in"):
        write_rows(source, tmp_path / "s.rows", target="y")
    assert not (tmp_path / "s.rows").exists()


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = one(table(), tmp_path)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(RunError, match=r"cannot write .*s\.rows: No space left on device") as refused:
        write_rows(source, tmp_path / "s.rows", target="y")
    assert refused.value.code == "run-cannot-write"
    assert not (tmp_path / "s.rows").exists()


def test_another_folder_is_not_overwritten(tmp_path: Path) -> None:
    source = one(table(), tmp_path)
    write_rows(source, tmp_path / "s.rows", target="y")
    with pytest.raises(RunError, match=r"s.rows is there already"):
        write_rows(source, tmp_path / "s.rows", target="y")


def test_a_conversion_that_is_killed_is_not_taken_for_whole(tmp_path: Path) -> None:
    source = parts(table(20_000), tmp_path)
    command = [sys.executable, "-m", "luthier", "rows", str(source), "-t", "y", "-o", str(tmp_path / "s.rows"), "-q"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while process.poll() is None and not list((tmp_path / "s.rows").glob(".rows.bin.*")):
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert not (tmp_path / "s.rows" / ROWS_DESCRIPTION).exists()
    with pytest.raises(LuthierError):
        luthier.design(tmp_path / "s.rows")
    assert subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0
    assert sorted(path.name for path in (tmp_path / "s.rows").iterdir()) == [ROWS_FILE, ROWS_DESCRIPTION]
    write_rows(source, tmp_path / "again.rows", target="y")
    assert (tmp_path / "again.rows" / ROWS_FILE).read_bytes() == (tmp_path / "s.rows" / ROWS_FILE).read_bytes()


def test_frames_that_come_one_by_one_are_encoded_as_the_table_is(tmp_path: Path) -> None:
    whole = write_rows(one(table(), tmp_path), tmp_path / "whole.rows", target="y")
    pieces = write_rows(table().iter_slices(700), tmp_path / "pieces.rows", target="y")
    assert pieces.schema == whole.schema
    assert (tmp_path / "whole.rows" / ROWS_FILE).read_bytes() == (tmp_path / "pieces.rows" / ROWS_FILE).read_bytes()
    luthier.design(tmp_path / "pieces.rows")


def test_the_command_says_what_it_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = one(table(), tmp_path)
    assert _run(["rows", str(source), "-t", "y", "-o", str(tmp_path / "s.rows")]) == 0
    said = capsys.readouterr().out
    assert "train 2,100, valid 450, test 450 rows of" in said
    assert "luthier train" in said
    assert _run(["rows", str(source), "-t", "y", "-o", str(tmp_path / "s.rows")]) == 2
