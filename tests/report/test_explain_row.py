"""The command that explains one answer: a row of a file or of values, held against a run's training rows."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import luthier
from luthier.cli.main import _run
from tests.report.conftest import people


def test_the_command_explains_a_row(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path) -> None:
    monkeypatch.chdir(place)
    row = {"age": 61.5, "city": "Cork", "noise": 0.2, "seen": "2024-03-01"}
    pl.DataFrame([row]).write_csv(tmp_path / "row.csv")
    (tmp_path / "row.json").write_text(json.dumps([row]))
    pairs = [f"{name}={value}" for name, value in row.items()]
    answers = []
    for given in (pairs, [str(tmp_path / "row.csv")], [str(tmp_path / "row.json")]):
        assert _run(["explain-row", "runs/two", *given, "--json"]) == 0
        answers.append(json.loads(capsys.readouterr().out))
    assert answers[0] == answers[1] == answers[2]
    found = answers[0]
    assert set(found["columns"]) == set(row)
    assert found["cells"][found["columns"].index("city")] == "Cork"
    loaded = luthier.load("runs/two")
    assert found["of"] == f"probability of {loaded.predict(row)[0]}"
    assert found["answer"] == pytest.approx(loaded.predict_proba(row).max(), abs=1e-6)
    assert sum(found["values"]) == pytest.approx(found["answer"] - found["mean"], abs=1e-6)
    model_file = "runs/two/model.safetensors"
    assert _run(["explain-row", model_file, *pairs]) == 2
    assert "--background" in capsys.readouterr().err
    people(50).write_csv(tmp_path / "others.csv")
    assert _run(["explain-row", model_file, *pairs, "--background", str(tmp_path / "others.csv"), "--of", "no"]) == 0
    assert "probability of no" in capsys.readouterr().out
    assert _run(["explain-row", "runs/two", "age=3", "what"]) == 2
