"""The command in several processes: killed, stopped and failing, it ends in the right bits or says which and why."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SETTINGS = ["--shards", "4", "--seed", "0", "--threads", "1", "--checkpoint-every-steps", "5", "--quiet"]


def table(place: Path, rows: int = 3000) -> Path:
    g = random.Random(1)
    lines = ["a,b,c,y"]
    for _ in range(rows):
        a, b, c = g.gauss(0, 1), g.gauss(0, 1), g.choice("xyz")
        lines.append(f"{a:.4f},{b:.4f},{c},{'yes' if a + b * (c == 'x') + g.gauss(0, 0.5) > 0 else 'no'}")
    path = place / "d.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def start(*arguments: Any, **env: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "luthier", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src"), **env},
    )


def ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    _, said = process.communicate(timeout=300)
    return process.returncode, said


def wait_for_steps(run: Path, process: "subprocess.Popen[str]") -> None:
    """Wait until a few checkpoints are written."""
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        if len(list(run.glob("checkpoints/*"))) > 1:
            return
        time.sleep(0.02)


def children(of: "subprocess.Popen[str]") -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(of.pid)], capture_output=True, text=True, check=False)
    return [int(line) for line in found.stdout.split()]


def digest(run: Path) -> str:
    return hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()


def test_two_processes_write_the_file_of_one(tmp_path: Path) -> None:
    source = table(tmp_path, 600)
    runs = [tmp_path / "one", tmp_path / "two"]
    for run, count in zip(runs, (1, 2), strict=True):
        process = start("train", source, "-t", "y", "--run", run, *SETTINGS, "--epochs", 3, "--processes", count)
        status, said = ended(process)
        assert status == 0, said
    assert digest(runs[0]) == digest(runs[1])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.csv", "one", "two"]


def test_what_is_wrong_is_said_once(tmp_path: Path) -> None:
    status, said = ended(start("train", table(tmp_path, 60), "-t", "z", "--processes", 2))
    assert status == 2
    assert said.count("luthier: ") == 1
    assert "'z'" in said
    status, said = ended(start("train", "-", "-t", "y", "--processes", 2))
    assert (status, said.count("luthier: ")) == (2, 1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_a_killed_process_is_started_again_and_the_bits_are_the_same(tmp_path: Path, seed: int) -> None:
    source, whole, run = table(tmp_path), tmp_path / "whole", tmp_path / "run"
    more = [*SETTINGS, "--epochs", 30, "--patience", "none"]
    assert ended(start("train", source, "-t", "y", "--run", whole, *more))[0] == 0
    process = start("train", source, "-t", "y", "--run", run, *more, "--processes", 2 + seed % 2, "--restarts", 3)
    wait_for_steps(run, process)
    time.sleep(random.Random(seed).uniform(0, 2))
    os.kill(random.Random(seed).choice(children(process)), signal.SIGKILL)
    status, said = ended(process)
    assert status == 0, said
    assert "was ended by SIGKILL; all start again" in said
    assert digest(run) == digest(whole)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_all_after_the_same_update(tmp_path: Path, number: signal.Signals) -> None:
    source, whole, run = table(tmp_path), tmp_path / "whole", tmp_path / "run"
    more = [*SETTINGS, "--epochs", 30, "--patience", "none"]
    assert ended(start("train", source, "-t", "y", "--run", whole, *more))[0] == 0
    process = start("train", source, "-t", "y", "--run", run, *more, "--processes", 2)
    wait_for_steps(run, process)
    process.send_signal(number)
    status, said = ended(process)
    assert status == 128 + number, said
    status, said = ended(start("resume", run, "--processes", 3, "--quiet"))
    assert status == 0, said
    assert digest(run) == digest(whole)


@pytest.mark.slow
def test_torchrun_trains_together_and_goes_on(tmp_path: Path) -> None:
    source, whole, run = table(tmp_path, 600), tmp_path / "whole", tmp_path / "run"
    more = ["train", source, "-t", "y", *SETTINGS, "--epochs", 3]
    assert ended(start(*more, "--run", whole))[0] == 0
    for _ in range(2):  # the second time there is nothing left to train
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "--"]
        done = subprocess.run(
            [*command, "luthier", *map(str, more), "--run", str(run), "--continue"],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")},
        )
        assert done.returncode == 0, done.stderr
        assert digest(run) == digest(whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.csv", "run", "whole"]
