"""What is designed for data of many shapes, word for word: a change of the policy shows here, and nowhere by accident.

After a change that is meant, write the texts again and read the difference before it is committed:

    LUTHIER_WRITE_GOLDEN=1 python -m pytest tests/golden
"""

import os
from pathlib import Path

import pytest

import luthier
from luthier.core.version import VERSION
from tests.golden.cases import CASES

HERE = Path(__file__).parent


def text_of(name: str, folder: Path) -> str:
    """Return what `luthier train` says before it trains, and the run file that `luthier design` prints."""
    source, given = CASES[name](folder)
    plan = luthier.design(source.relative_to(folder), threads=1, **given)
    text = f"{plan.words()}\n\n{plan.toml(relative_to=folder)}".replace(VERSION, "VERSION")
    return "\n".join(line.rstrip() for line in text.split("\n")).rstrip() + "\n"


@pytest.mark.parametrize("name", CASES)
def test_the_design_is_the_one_that_is_kept(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text, kept = text_of(name, tmp_path), HERE / f"{name}.txt"
    if os.environ.get("LUTHIER_WRITE_GOLDEN"):
        kept.write_text(text, encoding="utf-8")
    assert text == kept.read_text(encoding="utf-8"), (
        "if it is meant: LUTHIER_WRITE_GOLDEN=1 python -m pytest tests/golden"
    )


def test_no_text_is_kept_of_a_case_that_is_gone() -> None:
    assert {path.stem for path in HERE.glob("*.txt")} == set(CASES)
