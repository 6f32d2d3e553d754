"""Nothing from outside comes into ejected code but as a literal."""

import ast
import json
import math
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

import luthier
from luthier.ejection.text import identifier, keywords, literal, script, words
from luthier.errors import RunError

EVIL = ['"', "'", '"""', "\\", '\\"""', "{", "}", "{1/0}", "\n", "\r\n", "\0", "\x1b[2J", "\u2028", "\u202e", "\ud800"]
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(EVIL),
    lambda inner: st.lists(inner) | st.tuples(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(PLAIN)
def test_a_literal_is_one_line_that_gives_the_value_back(value: Any) -> None:
    text = literal(value)
    assert text.isprintable()
    assert repr(eval(text)) == repr(value)


@given(st.text() | st.sampled_from(EVIL))
def test_words_stay_within_a_docstring_and_a_comment(text: str) -> None:
    said = words(text)
    code = script(f"Of {said}.", [f"x = 1  # {said}"], [], [])
    assert [type(node).__name__ for node in ast.parse(code).body] == ["Expr", "Assign"]


def test_what_is_no_plain_value_and_no_name_is_refused() -> None:
    assert literal([math.inf, -math.inf]) == '[float("inf"), float("-inf")]'
    assert keywords({"lr": 0.1}) == ["lr=0.1"]
    with pytest.raises(TypeError, match="object is no plain value"):
        literal(object())
    for name in ("lr=1, x", "class", ""):
        with pytest.raises(RunError, match="run-cannot-eject"):
            identifier(name)


@pytest.mark.parametrize(
    "evil", ['"""+{open("evil","w")}+"""', 'a"\\', "'); open('evil', 'w'); ('", "x\nopen('evil','w')"]
)
def test_names_and_reasons_run_nothing(evil: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = tmp_path / f"d {evil.translate({ord('/'): None, 10: None})}.csv"  # a line break parts the names of files
    source.write_text("x,y\n" + "".join(f"{i % 7},{'ab'[i % 2]}\n" for i in range(60)))
    run = tmp_path / f"run {evil.replace('/', '')}"
    luthier.train(source, target="y", run=run, epochs=1)
    rows = [json.loads(line) for line in (run / "record.jsonl").read_text().splitlines()]
    for row in rows:
        if row["event"] == "end":
            row["reason"] = evil
        if row["event"] == "start":
            row["torch"] = evil
        if row["event"] == "epoch":
            row[evil] = 0.5
    (run / "record.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    luthier.eject(run, "out")
    for name in ("train.py", "data.py", "network.py"):
        ast.parse((tmp_path / "out" / name).read_text())
        assert len((tmp_path / "out" / name).read_text().splitlines()) < 250
    assert not (tmp_path / "evil").exists()


def test_a_setting_whose_name_is_code_is_refused(tmp_path: Path) -> None:
    table = {"x": [i % 7 for i in range(60)], "y": ["a", "b"] * 30}
    csv = tmp_path / "d.csv"
    csv.write_text("x,y\n" + "".join(f"{x},{y}\n" for x, y in zip(*table.values(), strict=True)))
    run = tmp_path / "run"
    luthier.train(csv, target="y", run=run, epochs=1)
    document = tomllib.loads((run / "run.toml").read_text())
    document["recipe"]["optimizer_args"] = {"eps=1e-8); print(": 1}
    (run / "run.toml").write_text(tomli_w.dumps(document))
    with pytest.raises(luthier.errors.LuthierError):
        luthier.eject(run, tmp_path / "out")
    shutil.rmtree(run)
