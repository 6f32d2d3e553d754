"""The page of a run: whole, alone in one file, text from outside as text, and every number in its JSON."""

import base64
import json
import os
import pickle
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from sklearn.metrics import brier_score_loss, f1_score, log_loss, roc_auc_score, root_mean_squared_error

import luthier
from luthier.cli.main import _run
from luthier.core.html import shown
from luthier.errors import RunError, SettingError
from luthier.pipeline.report import report
from luthier.pipeline.train import read_split
from tests.report.conftest import EVIL, people, read_page

OURS = {
    "a", "body", "caption", "circle", "code", "details", "div", "figcaption", "figure", "footer", "g", "h1", "h2", "h3",
    "h4", "head", "header", "html", "img", "li", "line", "main", "meta", "nav", "p", "path", "pre", "script", "section",
    "style", "summary", "svg", "table", "tbody", "td", "text", "th", "thead", "title", "tr", "ul",
}  # fmt: skip


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    return place


def numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from numbers(item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


@pytest.mark.parametrize("name", ["two", "numbers", "folds", "refit"])
def test_a_page_is_one_file_that_asks_for_nothing(here: Path, tmp_path: Path, name: str) -> None:
    path = report([f"runs/{name}"], tmp_path / "page.html")
    assert path.stat().st_size < 500_000
    page = read_page(path)
    assert "\nsvg.chart {" in page.text
    assert "\nbody {" in page.text
    assert {tag for tag, _ in page.elements} <= OURS
    for tag, attributes in page.elements:
        assert not any(key.startswith("on") for key in attributes)
        for key in ("src", "href"):
            assert attributes.get(key, "#").startswith(("#", "data:image/")), tag
        if tag == "img":
            assert attributes["alt"]
        if tag == "svg" and attributes.get("class") == "chart":
            assert attributes["role"] == "img"
            assert attributes["aria-label"]
    scripts = [attributes for tag, attributes in page.elements if tag == "script"]
    assert scripts == [{"type": "application/json", "id": "data"}]
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    linked = {attributes["href"][1:] for tag, attributes in page.elements if tag == "a"}
    assert linked <= set(ids)
    assert page.run["state"] == "finished"
    assert "prefers-color-scheme: dark" in page.text
    assert "@media print" in page.text


@pytest.mark.parametrize("name", ["two", "numbers", "folds"])
def test_every_number_stands_in_the_json(here: Path, tmp_path: Path, name: str) -> None:
    page = read_page(report([f"runs/{name}"], tmp_path / "page.html"))
    there = {str(shown(number)) for number in numbers(page.document)}
    there |= {str(shown(number + 1)) for number in numbers(page.document) if isinstance(number, int)}  # epochs, from 1
    assert page.cells
    assert set(page.cells) <= there | {"not a number"}  # null in JSON


def test_the_numbers_are_those_of_evaluate_and_of_scikit_learn(here: Path, tmp_path: Path) -> None:
    rows = read_split(Path("runs/two"))["test"].numpy()
    test, model = people()[rows], luthier.load("runs/two")
    run = read_page(report(["runs/two"], tmp_path / "page.html")).run
    evaluated = json.loads(json.dumps(model.evaluate(test)))
    for name, value in evaluated["intervals"].items():
        assert run["test"]["intervals"][name] == pytest.approx(value, abs=1e-6), name
        assert run["test"][name] == pytest.approx(evaluated[name], abs=1e-6), name
    assert run["test"]["confusion"] == evaluated["confusion"]
    true, chances = test["left"].to_numpy() == "yes", model.predict_proba(test)[:, 1]
    assert run["test"]["auc"] == pytest.approx(roc_auc_score(true, chances), abs=1e-6)
    assert run["test"]["log_loss"] == pytest.approx(log_loss(true, chances), abs=1e-6)
    assert run["test"]["brier"] == pytest.approx(brier_score_loss(true, chances), abs=1e-6)
    assert run["test"]["f1"] == pytest.approx(f1_score(true, chances > 0.5))
    for row in run["slices"]:
        if row["column"] == "city":
            some = test["city"].to_numpy() == row["slice"]
            assert row["rows"] == some.sum()
            assert row["values"]["accuracy"] == pytest.approx((true == (chances > 0.5))[some].mean())
            assert row["values"]["log_loss"] == pytest.approx(log_loss(true[some], chances[some]), abs=1e-6)
    assert {row["slice"] for row in run["slices"] if row["column"] == "city"} == {"Ayr", "Bonn", "Cork"}
    assert sum(row["rows"] for row in run["slices"] if row["column"] == "age") == len(test)
    losses = -np.log(np.where(true, chances, 1 - chances))
    assert [row["loss"] for row in run["rows"]["worst"]] == pytest.approx(np.sort(losses)[::-1][:10].tolist(), abs=1e-5)
    worst = int(losses.argmax())
    assert run["rows"]["worst"][0]["row"] == f"row {rows[worst] + 1} of people.csv"
    assert run["rows"]["worst"][0]["cells"]["city"] == test["city"][worst]


def test_the_record_is_drawn_as_it_is(here: Path, tmp_path: Path) -> None:
    run = read_page(report(["runs/two"], tmp_path / "page.html")).run
    record = luthier.read_record("runs/two/record.jsonl")
    columns = run["trainings"][0]["epochs"]
    for i, row in enumerate(record.epochs):
        assert {name: values[i] for name, values in columns.items()} == {k: v for k, v in row.items() if k != "event"}
    assert run["trainings"][0]["kept"] == next(row["best_epoch"] for row in record if row["event"] == "end")
    assert run["asked"].startswith("luthier.train('people.csv', target='left', epochs=3")
    assert run["parts"] == {part: len(rows) for part, rows in read_split(Path("runs/two")).items()}


def test_the_time_of_reading_and_of_the_checks_is_shown(here: Path, tmp_path: Path) -> None:
    rows = {row["event"]: row for row in luthier.read_record(here / "runs" / "two" / "record.jsonl")}
    page = read_page(report(["runs/two"], tmp_path / "page.html"))
    before = page.run["trainings"][0]["before"]
    assert before == {name: rows[name]["seconds"] for name in ("reading", "checks")}
    assert all(shown(value) in page.cells for value in before.values())
    folds = read_page(report(["runs/folds"], tmp_path / "folds.html")).run["trainings"]
    assert [list(training["before"]) for training in folds] == [["reading", "checks"], []]


def test_numbers_are_measured_in_their_units(here: Path, tmp_path: Path) -> None:
    rows = read_split(Path("runs/numbers"))["test"].numpy()
    test = people()[rows]
    run = read_page(report(["runs/numbers"], tmp_path / "page.html")).run
    predicted = luthier.load("runs/numbers").predict(test)
    error = root_mean_squared_error(test["score"].to_numpy(), predicted)
    assert run["test"]["rmse"] == pytest.approx(error, rel=1e-5)
    assert run["curves"]["points"]["answer"] == pytest.approx(predicted.tolist(), abs=1e-5)
    assert run["curves"]["points"]["true"] == pytest.approx(test["score"].to_list(), abs=1e-5)
    worst = run["rows"]["worst"][0]
    gaps = np.abs(predicted - test["score"].to_numpy())
    assert abs(worst["true score"] - worst["answer score"]) == pytest.approx(gaps.max(), abs=1e-5)


def test_folds_and_a_refit_show_each_training(here: Path, tmp_path: Path) -> None:
    page = read_page(report(["runs/folds", "runs/refit"], tmp_path / "page.html"))
    folds, refit = page.document["runs"]
    assert [training["name"] for training in folds["trainings"]] == ["fold-1", "fold-2"]
    assert [training["name"] for training in refit["trainings"]] == ["", "refit"]
    assert folds["test"]["auc"] > 0.5
    assert folds["network"]["words"].startswith("One of 2 networks")


def hostile(place: Path) -> None:
    n, y = 200, np.random.default_rng(0).integers(0, 2, 200)
    frame = pl.DataFrame(
        {
            "<b>name</b>": [EVIL[(i * 7 + int(y[i]) * 3) % len(EVIL)] for i in range(n)],
            "x\u202e<i>": np.random.default_rng(1).normal(size=n) + y,
            "n" * 10_000: np.arange(n) % 7,
            "<u>t</u>": [["</td><td>no", "<yes>&"][value] for value in y],
        }
    )
    frame.write_csv(place / "evil.csv")


def test_text_from_outside_is_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    hostile(tmp_path)
    result = luthier.train("evil.csv", target="<u>t</u>", run="<b>run</b>", epochs=2, kind={"<b>name</b>": "category"})
    page = read_page(report(["<b>run</b>"], tmp_path / "page.html"))
    assert {tag for tag, _ in page.elements} <= OURS
    assert not {"b", "i", "u", "yes"} & {tag for tag, _ in page.elements}
    assert len([tag for tag, _ in page.elements if tag == "script"]) == 1
    words = "\n".join(page.words)
    for text in ("<script>alert(1)</script>", "<img src=x onerror=alert(2)>", "</td><td>no", "שלום עולם", "&amp;"):
        assert text in words, text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", page.text)
    assert "x" * 1000 not in page.text
    assert "n" * 2500 not in page.text
    for made in (result, result.record, result.model, luthier.design("evil.csv", target="<u>t</u>")):
        shown_in_notebook = made._repr_html_()
        assert "<u>" not in shown_in_notebook
        assert "<yes>" not in shown_in_notebook
        assert len(shown_in_notebook) < 50_000


def test_without_rows_no_cell_is_in_the_file(here: Path, tmp_path: Path) -> None:
    for name in ("two", "numbers"):
        with_rows = read_page(report([f"runs/{name}"], tmp_path / "rows.html"))
        without = read_page(report([f"runs/{name}"], tmp_path / "none.html", rows=False))
        heads = {
            attributes["name"]: attributes["content"] for tag, attributes in without.elements if "name" in attributes
        }
        assert heads["luthier-rows"] == "no"
        assert "holds no values of cells" in without.text
        assert "This file holds values of cells" in with_rows.text
        frame = people()
        for cell in (
            *frame["city"].unique(),
            *(f"{x}" for x in frame["age"] if round(x, 2) != x),
            *map(str, frame["seen"]),
        ):
            assert cell not in without.text, cell
        assert not any(str(value) in without.text for value in frame["score"])
        assert "points" not in without.run["curves"]
        assert "Ayr" in with_rows.text
        assert "rows" not in without.run
        assert without.run["test"]["rows"] == with_rows.run["test"]["rows"]


@pytest.mark.parametrize("target", ["left", "score"])
def test_no_word_of_any_kind_of_column_is_in_a_file_without_rows(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each cell has a mark in it, which the file is searched for; findings, reasons and the query quote cells."""
    monkeypatch.chdir(tmp_path)
    frame = people(300)
    count = frame.height
    marked = frame.with_columns(
        city="zqcity" + pl.col("city"),
        ref=pl.Series([f"zqref{i}" for i in range(count)]),
        same=pl.lit("zqsame"),
        note=pl.Series([f"zqnote{i % 7} the zqword {i % 5} of zqtext" for i in range(count)]),
        gap=pl.Series(["zqgap" if i % 9 else "zqmissing" for i in range(count)]),
        big=pl.Series([770077000 + i for i in range(count)]),
        copy=pl.when(pl.col("left") == "yes").then(pl.lit("zqcopy1")).otherwise(pl.lit("zqcopy2")),
        at=pl.Series([f"{i % 28 + 1:02}/11/1907" for i in range(count)]),
    )
    marked.write_csv("data.csv")
    other = {"left": "score", "score": "left"}[target]
    kinds: dict[str, Any] = {"note": "text", other: "ignored"}
    words = ["luthier", "train", "data.csv", "--missing", "zqmissing"]
    result = luthier.train(
        "data.csv", target=target, run="run", epochs=1, kind=kinds, missing=["zqmissing"], verbose=False,
        asked=" ".join(words),
    )  # fmt: skip
    whole, path = read_page(report(["run"], "whole.html")), report(["run"], "none.html", rows=False)
    assert "zqcity" in whole.text
    result.report("memory.html", rows=False)
    for text in (path.read_text(), Path("memory.html").read_text()):
        svgs = re.findall(r"data:image/svg\+xml;base64,([^\"]+)", text)
        text += "".join(base64.b64decode(svg).decode() for svg in svgs)
        found = set(re.findall(r"zq\w+|(?<![\d.])7700\d{5}(?!\d)|(?<![\d.])1907(?!\d)", text))
        assert found == set()
        assert 'name="luthier-rows" content="no"' in text
    Path("data.csv").unlink()
    assert "zq" not in report(["run"], "gone.html", rows=False).read_text()


def test_an_emptied_record_is_said(here: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = shutil.copytree(here / "runs" / "two", tmp_path / "two")
    (run / "record.jsonl").write_text("")
    report([run], tmp_path / "page.html")
    assert "its record has no epoch" in caplog.text


def test_data_that_is_gone_or_changed_is_said(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(here / "runs" / "two", tmp_path / "runs" / "two")
    monkeypatch.chdir(tmp_path)
    for wanted in ("people.csv", "changed"):
        if wanted == "changed":
            people().reverse().write_csv("people.csv")
        Path("runs/two/measured.json").unlink(missing_ok=True)
        run = read_page(report(["runs/two"], "page.html")).run
        assert wanted in run["unmeasured"]
        assert wanted in caplog.text
        assert "importance" not in run
        assert run["test"]["auc"] == run["figures"]["test"]["auc"]  # of the answers that the run keeps
        assert run["figures"]["test"]["auc"] > 0.5
        assert run["trainings"][0]["num_epochs"] == 3
        assert [column["name"] for column in run["columns"]] == ["age", "city", "noise", "score", "seen"]


def test_what_was_measured_is_kept_until_the_model_changes(here: Path, tmp_path: Path) -> None:
    run = shutil.copytree(here / "runs" / "two", here / "runs" / "kept")
    (run / "measured.json").unlink(missing_ok=True)
    first = read_page(report([run], "first.html"))
    data = Path("people.csv").rename("aside.csv")
    assert read_page(report([run], "second.html")).text == first.text
    assert "unmeasured" in read_page(report([run], "none.html", rows=False)).run  # which nobody asked for before
    aside = json.loads((run / "measured.json").read_text())
    assert (run / "measured.json").stat().st_size < 200_000
    (run / "measured.json").write_text("{")
    assert "unmeasured" in read_page(report([run], "third.html")).run
    (run / "measured.json").write_text(json.dumps({**aside, "model": "another"}))
    assert "unmeasured" in read_page(report([run], "third.html")).run
    data.rename("people.csv")
    assert read_page(report([run], "third.html")).text == first.text


def test_a_run_of_fit_shows_its_record(tmp_path: Path) -> None:
    net = torch.nn.Linear(3, 2)
    x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    result = luthier.fit(
        net,
        (x, (x.sum(1) > 0).long()),
        epochs=2,
        run=tmp_path / "run",
        criterion="cross-entropy",
        optimizer="SGD",
        lr=0.1,
    )
    result.report(tmp_path / "a.html")
    report([tmp_path / "run"], tmp_path / "b.html")
    for name in ("a.html", "b.html"):
        run = read_page(tmp_path / name).run
        assert run["trainings"][0]["epochs"]["train_loss"] == [row["train_loss"] for row in result.record.epochs]
        assert run["state"] == "finished"
    copy = pickle.loads(pickle.dumps(result))
    copy.report(tmp_path / "c.html", rows=False)
    assert not any(finding["what"] for finding in read_page(tmp_path / "c.html").run["trainings"][0]["findings"])


def test_a_result_in_memory_is_measured(tmp_path: Path) -> None:
    frame = people().drop("score")
    result = luthier.train(frame, target="left", epochs=2)
    result.report(tmp_path / "page.html")
    run = read_page(tmp_path / "page.html").run
    assert run["test"]["auc"] == result.test["auc"]
    assert run["rows"]["worst"][0]["cells"]["city"] in ("Ayr", "Bonn", "Cork")


def test_pictures_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name, base in (("dark", 40), ("light", 160)):
        Path("images", name).mkdir(parents=True)
        for i in range(20):
            pixels = (base + rng.integers(0, 60, (12, 12, 3))).astype(np.uint8)
            Image.fromarray(pixels).save(f"images/{name}/{i}.png")
    luthier.train("images", run="run", epochs=1)
    page = read_page(report(["run"], "page.html"))
    pictures = [found for tag, found in page.elements if tag == "img" and found["src"].startswith("data:image/png")]
    assert len(pictures) == sum(map(len, page.run["rows"].values()))
    assert "picture" not in json.dumps(read_page(report(["run"], "none.html", rows=False)).document)


def test_what_cannot_be_reported_is_said(here: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a run's folder"):
        report([tmp_path], tmp_path / "page.html")
    with pytest.raises(SettingError, match="suffix"):
        report(["runs/two"], tmp_path / "page.pdf")
    with pytest.raises(RunError, match="cannot write"):
        report(["runs/two"], tmp_path / "no" / "page.html")
    assert os.listdir(tmp_path) == []


def test_the_command(here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["report", "runs/two", "runs/other", "-o", str(tmp_path / "page.html"), "--no-rows"]) == 0
    assert "page.html" in capsys.readouterr().out
    assert len(read_page(tmp_path / "page.html").document["runs"]) == 2
    assert _run(["report", str(tmp_path), "-o", str(tmp_path / "more.html")]) == 2
    assert "[run-not-found]" in capsys.readouterr().err
    assert not (tmp_path / "more.html").exists()


def test_the_command_that_made_a_run_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    people(150).write_csv("people.csv")
    command = ["train", "people.csv", "-t", "left", "--epochs", "1", "--run", "a run", "-q"]
    assert _run(command) == 0
    run = read_page(report(["a run"], "page.html")).run
    assert run["asked"] == "luthier train people.csv -t left --epochs 1 --run 'a run' -q"
    assert _run(["resume", "a run", "--epochs", "2", "-q"]) == 0
    assert read_page(report(["a run"], "page.html")).run["asked"] == run["asked"]
