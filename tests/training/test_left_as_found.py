"""A process after a run is as it was: threads, generators, handlers, environment, memory; also after an error."""

import gc
import os
import random
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import luthier

X = torch.randn(96, 4, generator=torch.Generator().manual_seed(0))
Y = (X.sum(1) > 0).long()
TABLE = {"x": [i % 7 for i in range(90)], "z": ["p", "q", "r"] * 30, "y": ["a", "b", "a"] * 30}


def state() -> dict[str, Any]:
    signals = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    return {
        "threads": torch.get_num_threads(),
        "torch": torch.get_rng_state().tolist(),
        "numpy": repr(np.random.get_state()),
        "python": random.getstate(),
        "handlers": [signal.getsignal(number) for number in signals],
        "environment": dict(os.environ),
        "grad": torch.is_grad_enabled(),
        "running": {thread.name for thread in threading.enumerate()},
        "folder": Path.cwd(),
        "dtype": torch.get_default_dtype(),
    }


def fitted(module: nn.Module | None = None, **more: Any) -> Any:
    settings: dict[str, Any] = {"criterion": "cross-entropy", "optimizer": "Adam", "epochs": 2, "seed": 0, **more}
    return luthier.fit(module or nn.Linear(4, 2), (X, Y), (X[:9], Y[:9]), **settings)


@pytest.mark.parametrize("threads", [None, 1])
def test_a_run_leaves_the_process_as_it_was(threads: int | None, tmp_path: Path) -> None:
    module = nn.Linear(4, 2)
    before = state()
    fitted(module, threads=threads, run=tmp_path / "run")
    assert state() == before
    luthier.train(TABLE, target="y", epochs=1, seed=0, threads=threads)
    assert state() == before


def fails(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    raise ZeroDivisionError("so")


def test_an_error_leaves_it_too(tmp_path: Path) -> None:
    module = nn.Linear(4, 2)
    before = state()
    with pytest.raises(ZeroDivisionError):
        fitted(module, criterion=fails, threads=1, run=tmp_path / "run")
    assert state() == before


def memory() -> float:
    """Megabytes that are resident."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="what is open is read from /proc")
def test_fifty_runs_leak_nothing(tmp_path: Path) -> None:
    def run(number: int) -> None:
        fitted(run=tmp_path / str(number), epochs=1)
        luthier.fit(
            nn.Linear(4, 2), DataLoader(TensorDataset(X, Y), batch_size=32, shuffle=True), criterion="cross-entropy",
            optimizer="SGD", lr=0.1, epochs=1, metrics=["accuracy"],
        )  # fmt: skip

    def held() -> tuple[int, int, int]:
        gc.collect()
        tensors = sum(1 for item in gc.get_objects() if type(item) is torch.Tensor or issubclass(type(item), nn.Module))
        return len(os.listdir("/proc/self/fd")), threading.active_count(), tensors

    for number in range(5):
        run(number)
    before, start = held(), memory()
    for number in range(5, 30):
        run(number)
    assert held() == before
    assert memory() < start + 25


def test_training_in_python_writes_no_file_and_says_what_the_command_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    result = luthier.train(TABLE, target="y", epochs=2, verbose=True)
    said = capsys.readouterr().out
    assert "90 rows (train" in said
    assert "target 'y': binary, 2 classes" in said
    assert "valid loss" in said
    assert f"kept: the weights of epoch {result.best_epoch + 1}" in said  # type: ignore[operator]
    luthier.train(TABLE, target="y", epochs=2, verbose=False)
    luthier.train(TABLE, target="y", epochs=2)  # no terminal
    assert capsys.readouterr().out == ""
    assert list(tmp_path.iterdir()) == []
    assert result.folder is None
    luthier.train(TABLE, target="y", epochs=2, run=True)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["in-memory"]


def test_a_result_and_a_model_say_what_they_are_and_do_what_a_model_does(tmp_path: Path) -> None:
    result = luthier.train(TABLE, target="y", epochs=2)
    assert "binary: x, z -> y" in repr(result.model)
    assert "kept: the weights of epoch" in repr(result)
    result.save(tmp_path / "m.safetensors")
    again = luthier.load(tmp_path / "m.safetensors")
    assert (again.predict(TABLE) == result.predict(TABLE)).all()
    assert (again.predict_proba(TABLE) == result.predict_proba(TABLE)).all()
    assert result.evaluate(TABLE)["rows"] == 90


def test_rows_may_come_in_any_form() -> None:
    model = luthier.train(TABLE, target="y", epochs=2).model
    rows: dict[str, Any] = {name: list(values)[:4] for name, values in TABLE.items()}  # type: ignore[call-overload]
    frame = pd.DataFrame(rows)
    expected = model.predict(frame).tolist()
    for source in (rows, pl.DataFrame(rows), pa.table(rows), frame.to_dict("records"), pl.DataFrame(rows).lazy()):
        assert model.predict(source).tolist() == expected
    for i, row in enumerate(frame.to_dict("records")):
        assert model.predict(row).tolist() == [expected[i]]
        assert model.predict(frame.iloc[i]).tolist() == [expected[i]]
