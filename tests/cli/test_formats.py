"""Findings for programs: GitHub's annotations, SARIF, exit status, and a baseline of known ones."""

import json
from pathlib import Path

import pytest

from luthier.cli.formats import github, place_of, sarif
from luthier.cli.main import _run
from luthier.core.finding import Finding

PROGRAM = """
import torch
from torch import nn

def other():
    return None

def build():
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    net = nn.Sequential(nn.Linear(4, 3), nn.Softmax(dim=1))
    return {"module": net, "train": (x, (x.sum(1) > 0).long()), "criterion": nn.CrossEntropyLoss(),
            "optimizer": torch.optim.SGD(net.parameters(), 0.1)}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("program.py").write_text(PROGRAM)
    return tmp_path


def test_annotations_and_sarif_name_the_function(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["check", "program.py:build", "--output-format", "github"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("::error file=program.py,line=8,title=check-double-softmax::") for line in lines)
    assert _run(["check", "program.py:build", "--output-format", "sarif"]) == 1
    document = json.loads(capsys.readouterr().out)
    (run,) = document["runs"]
    results = {result["ruleId"]: result for result in run["results"]}
    place = results["check-double-softmax"]["locations"][0]["physicalLocation"]
    assert place == {"artifactLocation": {"uri": "program.py"}, "region": {"startLine": 8}}
    rules = run["tool"]["driver"]["rules"]
    assert all(rules[result["ruleIndex"]]["id"] == name for name, result in results.items())
    assert _run(["check", "program.py:build", "--output-format", "json"]) == 1
    assert {row["code"] for row in json.loads(capsys.readouterr().out)} == set(results)


def test_the_status_follows_fail_on_and_a_baseline(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["check", "program.py:build"]
    assert _run([*command, "--fail-on", "never"]) == 0
    assert _run([*command, "--ignore", "check-double-softmax"]) == 0
    assert _run([*command, "--write-baseline", "known.json"]) == 0
    assert _run([*command, "--baseline", "known.json", "--fail-on", "warning"]) == 0
    known = json.loads(Path("known.json").read_text())
    known["known"] = [item for item in known["known"] if item["code"] != "check-double-softmax"]
    Path("known.json").write_text(json.dumps(known))
    assert _run([*command, "--baseline", "known.json"]) == 1
    for text in ("{", "[]", '{"known": [3]}'):
        Path("known.json").write_text(text)
        assert _run([*command, "--baseline", "known.json"]) == 2
        assert "is no baseline" in capsys.readouterr().err
    assert _run([*command, "--baseline", "none.json"]) == 2


def test_warnings_fail_where_asked(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [Finding(code="check-dropout", severity="warning", what="much")]
    monkeypatch.setattr("luthier.pipeline.check.check_source", lambda *_, **__: found)
    assert [_run(["check", "a.csv", "--fail-on", word]) for word in ("error", "warning", "never")] == [0, 1, 0]


def test_places_and_hostile_text(here: Path) -> None:
    assert place_of("program.py:build") == ("program.py", 8)
    assert place_of("program.py:nothing") == ("program.py", 1)
    assert place_of("none.py:build") == ("none.py", 1)
    assert place_of("people.csv") == ("people.csv", 1)
    finding = Finding(code="check-dropout", severity="note", what="a\n::error::b\x1b[2J % c", where="x,y:z")
    (line,) = github([finding], "a,b:c.csv")
    assert line.startswith("::notice file=a%2Cb%3Ac.csv,line=1,title=check-dropout::a%0A::error::b")
    assert "\x1b" not in line
    assert "\n" not in line
    assert sarif([], "a.csv")["runs"][0]["results"] == []
