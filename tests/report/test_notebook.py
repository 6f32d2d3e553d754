"""A notebook, run from its first cell to its last: curves that grow in one output, tables, charts, and no warning."""

import os
import re
from pathlib import Path
from typing import Any

import pytest

import luthier
from tests.report.conftest import people

CELLS = [
    "import luthier, torch, polars as pl\nresult = luthier.train('people.csv', target='left', epochs=3)",
    "result",
    "result.plot()",
    "row = {'age': 61.0, 'city': '<b>', 'noise': 0.1, 'score': 2.0, 'seen': '2024-01-01'}\n"
    "result.model.explain(row, 'people.csv')",
    "result.record",
    "x = torch.randn(64, 2)\n"
    "_ = luthier.fit(torch.nn.Linear(2, 1), (x, x[:, :1]), (x, x[:, :1]), criterion='mse', optimizer='SGD', lr=0.1)",
    "_ = luthier.fit(torch.nn.Linear(2, 1), (x, x[:, :1]), criterion='mse', optimizer='SGD', lr=0.1, verbose=False)",
]


def run_notebook(folder: Path) -> tuple[list[list[Any]], str]:
    """Return the outputs of each cell, and the page that nbconvert makes."""
    nbformat = pytest.importorskip("nbformat")
    exporters = pytest.importorskip("nbconvert.exporters")
    preprocessors = pytest.importorskip("nbconvert.preprocessors")
    pytest.importorskip("ipykernel")
    people().write_csv(folder / "people.csv")
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    preprocessors.ExecutePreprocessor(timeout=120, kernel_name="python3").preprocess(
        book, {"metadata": {"path": str(folder)}}
    )
    return [cell.outputs for cell in book.cells], str(exporters.HTMLExporter().from_notebook_node(book)[0])


@pytest.mark.slow  # ten seconds: a kernel starts and imports torch
@pytest.mark.filterwarnings("default")
def test_a_notebook_shows_what_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(luthier.__file__).parents[1])]))
    outputs, page = run_notebook(tmp_path)
    (tmp_path / "page.html").write_text(page)
    said = [output.get("text", "") for cell in outputs for output in cell if output.get("name") == "stderr"]
    assert [text for text in said if "idget" in text or "Traceback" in text] == []
    shown = [[output.data.get("text/html", "") for output in cell if "data" in output] for cell in outputs]
    for place in (0, 5):
        (curves,) = shown[place]  # one output, that was drawn anew
        assert curves.count("<svg") >= 1
        assert re.search(r"epoch (3/3|10/10)", curves)
    assert "95 % interval" in shown[1][0]
    assert shown[2][0].count("<svg") >= 4
    assert "probability of" in shown[3][0]
    assert "<b></td>" not in shown[3][0]
    assert "<table>" in shown[4][0]
    assert outputs[6] == []
