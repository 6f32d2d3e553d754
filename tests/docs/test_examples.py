"""The examples run, are short, and print what they say; figures depend on the processor, words do not."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
MOST = 60  # lines


def words(text: str) -> list[str]:
    return [" ".join(re.sub(r"[\d.]+", "", line).split()) for line in text.splitlines() if line.strip()]


def run(source: str, place: Path, name: str) -> None:
    exec(compile(source, name, "exec"), {"__name__": "__main__", "__file__": str(place / name)})


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(EXAMPLES / "penguins.csv", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_a_script_prints_what_it_says(script: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = script.read_text()
    said = source.split('"""')[1].partition("Prints:\n")[2]
    assert said
    assert len(source.splitlines()) < MOST
    run(source, place, script.name)
    assert words(capsys.readouterr().out) == words(said)
    assert [path.name for path in place.iterdir()] == ["penguins.csv"]  # nothing else is left behind


@pytest.mark.parametrize("notebook", sorted(EXAMPLES.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_prints_what_it_shows(notebook: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cells: list[dict[str, Any]] = json.loads(notebook.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert sum(len(cell["source"]) for cell in cells) < MOST
    run("\n".join("".join(cell["source"]) for cell in code), place, notebook.name)
    outputs = [output for cell in code for output in cell["outputs"] if output.get("name") == "stdout"]
    assert words(capsys.readouterr().out) == words("".join("".join(output["text"]) for output in outputs))
