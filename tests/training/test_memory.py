"""`micro_batch_size="auto"`: as many samples at a time as fit, and the update of the whole batch."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import luthier
from luthier.errors import TrainingError
from luthier.training import memory

X = torch.randn(600, 8, generator=torch.Generator().manual_seed(0))
Y = X[:, :3].argmax(1)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3))


def fit(net: nn.Module, size: Any, **more: Any) -> luthier.Result:
    settings: dict[str, Any] = {"criterion": "cross-entropy", "optimizer": "SGD", "lr": 0.1, "epochs": 3, "seed": 0}
    return luthier.fit(net, (X, Y), batch_size=256, micro_batch_size=size, verbose=False, **{**settings, **more})


@pytest.fixture
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda device: 300_000.0)


def test_plenty_of_memory_is_the_run_without(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, auto = network(), network()
    fit(plain, None)
    fit(auto, "auto")
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), auto.parameters(), strict=True))


def test_little_memory_is_the_run_with_the_number_found(little: None, caplog: pytest.LogCaptureFixture) -> None:
    auto = network()
    fit(auto, "auto")
    (said,) = (line for line in caplog.messages if line.startswith("micro_batch_size"))
    found = int(said.split()[1])
    assert 1 < found < 256
    plain = network()
    fit(plain, found)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), auto.parameters(), strict=True))


def test_a_resumed_run_keeps_the_number(little: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, stopped = network(), network()
    fit(whole, "auto")

    class Stopping(luthier.Callback):
        def on_step_end(self, run: luthier.View) -> luthier.Stop | None:
            return luthier.Stop("here", finished=False) if run.global_step == 4 else None

    fit(stopped, "auto", run=tmp_path / "run", callbacks=[Stopping()])
    monkeypatch.setattr(memory, "free_memory", lambda device: 1e12)
    again = network()
    assert fit(again, "auto", run=tmp_path / "run").is_done
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))


def test_not_one_sample_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda device: 1000.0)
    with pytest.raises(TrainingError, match="a sample takes"):
        fit(network(), "auto")


PROGRAM = """
import resource, sys, torch, luthier
from torch import nn
torch.manual_seed(0)
x = torch.randn(20_000, 8)
net = nn.Sequential(nn.Linear(8, 2048), nn.Tanh(), nn.Linear(2048, 2048), nn.Tanh(), nn.Linear(2048, 1))
luthier.fit(net, (x[:64], x[:64, :1]), criterion="mse", optimizer="SGD", lr=0.01, epochs=1, verbose=False)
now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + (500 << 20), now + (500 << 20)))
size = None if sys.argv[1] == "none" else "auto"
luthier.fit(net, (x, x[:, :1]), criterion="mse", optimizer="SGD", lr=0.01, epochs=1, batch_size=20_000,
            micro_batch_size=size, verbose=False, check=False)
print("done")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of the address space are Linux's")
def test_a_batch_that_does_not_fit_under_a_limit_is_trained_in_parts() -> None:
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    for size, is_done in (("none", False), ("auto", True)):
        done = subprocess.run([sys.executable, "-c", PROGRAM, size], capture_output=True, text=True, env=env)
        assert ("done" in done.stdout) == is_done, done.stderr
        assert is_done or "does not have enough memory" in done.stderr
