"""What is printed of a run: lines where they are kept, and a bar over all epochs."""

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import luthier
from luthier.training.progress import Progress

FIT = """
import sys, torch, luthier
x = torch.zeros(8, 2)
given = {"verbose": False} if sys.argv[1:] else {}
luthier.fit(torch.nn.Linear(2, 1), (x, x[:, :1]), criterion="mse", optimizer="SGD", lr=0.1, epochs=2, **given)
"""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def fit(**more: Any) -> luthier.Result:
    x = torch.linspace(-1, 1, 24).reshape(12, 2)
    named: dict[str, Any] = {"optimizer": "SGD", "lr": 0.1, "epochs": 3, "batch_size": 4, "check": False, **more}
    return luthier.fit(torch.nn.Linear(2, 1), (x, x[:, :1]), criterion="mse", **named)


def test_a_file_gets_a_line_an_epoch_and_no_bar(tmp_path: Path) -> None:
    for arguments, lines in ([], 3), (["quiet"], 0):
        with (tmp_path / "log").open("w") as log:
            subprocess.run([sys.executable, "-c", FIT, *arguments], stdout=log, check=True)
        text = (tmp_path / "log").read_text()
        assert len(text.splitlines()) == lines
        assert "\x1b" not in text


def test_a_text_in_memory_gets_lines_only_where_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for verbose, lines in (None, 0), (True, 4), (False, 0):
        stream = io.StringIO()
        monkeypatch.setattr(sys, "stdout", stream)
        fit(verbose=verbose)
        assert len(stream.getvalue().splitlines()) == lines


def test_the_bar_is_over_the_whole_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luthier.training.progress._REDRAW_S", 0.0)
    monkeypatch.setenv("COLUMNS", "100")
    stream = Terminal()
    fit(callbacks=[Progress(stream)])
    text = stream.getvalue()
    assert "epoch 3/3" in text
    assert "batches/s" in text
    assert "left at most" in text
    assert text.count("train loss") == 1


def test_the_words_of_the_bar_count_all_epochs() -> None:
    said = []

    class Look(Progress):
        def on_step_end(self, run: luthier.View) -> None:
            self.started -= 4.0  # as if each batch took 4 s
            said.append(self._words(run))

    fit(callbacks=[Look(quiet=True)])
    assert [line.partition(", ")[0] for line in said[::3]] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    assert said[0].startswith("epoch 1/3, 0.2 batches/s, 32 s left")
    assert "left" not in said[-1]
