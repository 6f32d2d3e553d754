"""`luthier export`: proven on the run's test rows; a planted difference writes nothing and ends with status 1."""

import json
from pathlib import Path

import pytest
from torch import Tensor

from luthier.serving.exporting import proof, whole
from tests.cli.conftest import Command


@pytest.fixture(autouse=True)
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "SIZES", (0, 1, 7, 120))


def test_a_difference_writes_nothing(
    command: Command, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = whole.Whole.answers

    def off(self: whole.Whole, outputs: Tensor) -> tuple[Tensor, ...]:
        decided, likely = answers(self, outputs)
        return decided, likely + 3e-5

    monkeypatch.setattr(whole.Whole, "answers", off)
    for output in ("folder", "model.pt2"):
        status, out, err = command("export", models / "table", "-o", output)
        assert (status, out) == (1, "")
        assert "they differ by 3" in err
        assert "[export-differs]" in err
        assert "Traceback" not in err
        assert not list(tmp_path.iterdir())


def test_the_command_proves_on_the_test_rows(command: Command, models: Path, tmp_path: Path) -> None:
    status, out, err = command("export", models / "table", "-o", "made", "--json")
    assert status == 0, err
    said = json.loads(out)
    assert said["rows"] == {"given": 52, "drawn": 128}
    assert said["greatest"] <= said["tolerance"]
    files = {"README.md", "index.html", "model.json", "model.onnx", "reader.js", "reader.py"}
    assert {path.name for path in (tmp_path / "made").iterdir()} == files == set(said["files"])
    card = (tmp_path / "made" / "README.md").read_text()
    assert card.startswith(
        "---\nlibrary_name: luthier\ntags: [luthier, onnx]\npipeline_tag: tabular-classification\n---"
    )
    assert "| bill\\_length\\_mm | number |" in card
    assert f"{52 + 128:,} rows" in card
    status, out, err = command("export", models / "table", "-o", "made")
    assert (status, "[run-folder-taken]" in err) == (2, True)
    status, out, err = command("export", models / "table", "-o", "model.pt2", "--quiet")
    assert (status, out) == (0, "")


def test_the_command_proves_on_images_of_the_test(
    command: Command, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(models)
    status, out, err = command("export", models / "image", "-o", "../image.onnx", "--json")
    assert status == 0, err
    assert json.loads(out)["rows"]["given"] > 0
