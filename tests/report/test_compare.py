"""Runs listed and compared: figures beside each other only where the same rows were measured."""

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

import luthier
from luthier.cli.main import _run
from luthier.errors import RunError, SettingError
from luthier.pipeline.compare import compare
from luthier.pipeline.runs import COLUMNS, list_runs
from tests.report.conftest import people


@pytest.fixture
def here(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(place, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


def test_runs_are_listed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = {row["run"]: row for row in list_runs("runs", sort="run")}
    assert list(rows) == ["runs/folds", "runs/numbers", "runs/other", "runs/refit", "runs/two"]
    assert tuple(rows["runs/two"]) == COLUMNS
    kept = luthier.load("runs/two").metrics["test"]["accuracy"]
    two = rows["runs/two"]
    assert (two["data"], two["target"], two["figure"], two["value"]) == ("people.csv", "left", "test accuracy", kept)
    assert {row["state"] for row in rows.values()} == {"finished"}
    (here / "runs" / "two" / "model.safetensors").unlink()
    (here / "runs" / "other" / "record.jsonl").write_text("{\n")
    states = {row["run"]: row["state"] for row in list_runs()}
    assert states["runs/two"] == "stopped"
    assert states["runs/other"] == "damaged"
    assert [row["run"] for row in list_runs(match="DAMAGED")] == ["runs/other"]
    assert list_runs(match="no such text") == []
    values = [row["value"] for row in list_runs(sort="value") if row["figure"] == "test accuracy"]
    assert values == sorted(values, reverse=True)
    assert _run(["runs", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 5
    assert _run(["runs", "nowhere"]) == 2
    with pytest.raises(SettingError, match="by 'size'"):
        list_runs(sort="size")


def test_a_failed_run_is_said(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "a"
    run.mkdir(parents=True)
    (run / "record.jsonl").write_text(json.dumps({"event": "not-finite", "epoch": 0, "step": 3, "what": "NaN"}) + "\n")
    assert [row["state"] for row in list_runs(tmp_path / "runs")] == ["failed"]


def test_a_run_that_trains_is_listed_as_running(tmp_path: Path) -> None:
    states = []

    class Look(luthier.Callback):
        def on_epoch_end(self, run: luthier.View) -> None:
            states.append([row["state"] for row in list_runs(tmp_path)])

        def on_step_end(self, run: luthier.View) -> luthier.Stop | None:
            return luthier.Stop("enough", finished=False) if run.epoch == 1 else None

    people(60).write_csv(tmp_path / "people.csv")
    luthier.train(tmp_path / "people.csv", target="left", run=tmp_path / "a", epochs=3, callbacks=[Look()])
    assert states == [["running"]]
    assert [row["state"] for row in list_runs(tmp_path)] == ["stopped"]


def test_runs_over_the_same_rows_are_compared(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = compare(["runs/two", "runs/other", "runs/folds"])
    assert found.refused == ""
    assert found.differs["recipe.seed"] == ["0", "5", "0"]
    assert found.differs["data.folds"] == [None, None, "2"]
    for i, name in enumerate(("two", "other", "folds")):
        kept = luthier.load(f"runs/{name}").metrics["test"]
        for figure, values in found.figures.items():
            assert values[i] == pytest.approx(kept[figure], abs=1e-9)
    for figure, (first, *_) in found.differences.items():
        assert first[0] == pytest.approx(found.figures[figure][1] - found.figures[figure][0])
        assert first[1] <= first[2]
    assert _run(["compare", "runs/two", "runs/other"]) == 0
    assert "on the same" in capsys.readouterr().out


def test_the_same_rows_read_otherwise_are_the_same(here: Path) -> None:
    luthier.train("people.csv", target="left", run="runs/less", epochs=1, kind={"score": "ignored", "noise": "ignored"})
    found = compare(["runs/two", "runs/less"])
    assert found.refused == ""
    assert found.differs["kind.noise"] == ["number", "ignored"]


@pytest.mark.parametrize("spoilt", ["gone", "damaged", "of another model"])
def test_answers_that_are_not_kept_are_made_again(here: Path, spoilt: str) -> None:
    whole, file = compare(["runs/two", "runs/other"]), Path("runs/two/test.safetensors")
    if spoilt == "gone":
        file.unlink()
    elif spoilt == "damaged":
        file.write_bytes(file.read_bytes()[:-3])
    else:
        file.write_bytes(Path("runs/other/test.safetensors").read_bytes())
    assert compare(["runs/two", "runs/other"]) == whole


def test_other_rows_are_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    people().head(300).write_csv("fewer.csv")
    changed = people().with_columns(left=pl.col("left").str.replace("yes", "maybe"))
    changed.write_csv("changed.csv")
    for name in ("fewer", "changed"):
        luthier.train(f"{name}.csv", target="left", run=f"runs/{name}", epochs=1, kind={"score": "ignored"})
    assert "not measured on the same test rows" in compare(["runs/two", "runs/fewer"]).refused
    assert "different targets or classes" in compare(["runs/two", "runs/changed"]).refused
    assert "different targets or classes" in compare(["runs/two", "runs/numbers"]).refused
    assert _run(["compare", "runs/two", "runs/fewer"]) == 2
    captured = capsys.readouterr()
    assert "rows.train" in captured.out
    assert "[run-not-comparable]" in captured.err
    whole = compare(["runs/two", "runs/other"])
    Path("people.csv").unlink()
    assert compare(["runs/two", "runs/other"]) == whole  # of the answers that each run keeps
    Path("runs/two/test.safetensors").unlink()  # as in runs of before
    found = compare(["runs/two", "runs/other"])
    assert "people.csv" in found.refused
    assert found.figures == {}
    with pytest.raises(RunError):
        compare(["runs/two", "runs/none"])
    with pytest.raises(SettingError):
        compare(["runs/two"])


def test_arrays_are_compared_by_what_they_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).normal(size=(200, 3))
    np.savez("a.npz", x=x, y=x.sum(axis=1))
    np.savez("b.npz", x=x, y=x.sum(axis=1) + 1)
    for name, transform in (("a", None), ("log", "log"), ("b", None)):
        luthier.train(f"{name[0].replace('l', 'a')}.npz", run=name, epochs=1, target_transform=transform)
    assert compare(["a", "log"]).refused == ""
    assert "same test rows" in compare(["a", "b"]).refused


def test_a_loop_that_is_done_is_listed_as_finished(tmp_path: Path) -> None:
    with luthier.run(tmp_path / "runs" / "loop", net=torch.nn.Linear(2, 1), verbose=False) as run:
        for _ in run.epochs(1):
            run.log(loss=torch.ones(()))
    assert [row["state"] for row in list_runs(tmp_path / "runs")] == ["finished"]
