"""The command in several processes: killed, stopped and failing, it ends in the right bits or says which and why."""

import hashlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.faults.disk import fill, small_disk

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
    _, said = process.communicate(timeout=600)
    return process.returncode, said


def ends_well(process: "subprocess.Popen[str]") -> str:
    """Return what a command said whose status is 0."""
    status, said = ended(process)
    assert status == 0, said
    return said


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
        ends_well(process)
    assert digest(runs[0]) == digest(runs[1])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.csv", "one", "two"]


def test_what_is_wrong_is_said_once(tmp_path: Path) -> None:
    status, said = ended(start("train", table(tmp_path, 60), "-t", "z", "--processes", 2))
    assert status == 2
    assert said.count("luthier: ") == 1
    assert "'z'" in said
    status, said = ended(start("train", "-", "-t", "y", "--processes", 2))
    assert (status, said.count("luthier: ")) == (2, 1)


def processes_of(launcher: "subprocess.Popen[str]", count: int, before: list[int]) -> list[int]:
    """Wait until the processes after those `before` have started; return them."""
    end = time.monotonic() + 60
    while launcher.poll() is None and time.monotonic() < end:
        found = children(launcher)
        if len(found) == count and not set(found) & set(before):
            return found
        time.sleep(0.01)
    raise AssertionError(f"no processes were started: {launcher.communicate()[1]}")


def newest(run: Path) -> str:
    return max((path.name for path in run.glob("checkpoints/*.safetensors")), default="")


LONG = [*SETTINGS, "--epochs", "300", "--patience", "none"]


@pytest.fixture(scope="module")
def long_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a table, and a run of one process that was never stopped."""
    place = tmp_path_factory.mktemp("long")
    ends_well(start("train", table(place), "-t", "y", "--run", place / "whole", *LONG))
    return place


@pytest.mark.slow
@pytest.mark.parametrize(("count", "kills"), [(2, 25), (3, 25)])
def test_killed_processes_are_started_again_and_the_bits_are_the_same(long_run: Path, count: int, kills: int) -> None:
    source, whole, run = long_run / "d.csv", long_run / "whole", long_run / f"run-{count}"
    draw, reached, found = random.Random(count), set(), list[int]()
    process = start("train", source, "-t", "y", "--run", run, *LONG, "--processes", count, "--restarts", kills)
    for _ in range(kills):
        found = processes_of(process, count, found)
        before = newest(run)
        if draw.random() < 0.5:  # half of them may come before the first update of their life
            time.sleep(draw.uniform(0, 6))
        else:
            end = time.monotonic() + 60
            while newest(run) == before and time.monotonic() < end:
                time.sleep(0.01)
            time.sleep(draw.uniform(0, 1.5))  # in an update, in a checkpoint
        os.kill(draw.choice(found), signal.SIGKILL)
        reached.add(newest(run))
    said = ends_well(process)
    assert said.count("was ended by SIGKILL; all start again") == kills
    assert len(reached) > kills / 3  # not all came before the first update
    assert digest(run) == digest(whole)


@pytest.mark.slow
def test_a_killed_run_goes_on_with_the_processes_that_are_left(tmp_path: Path) -> None:
    """From 2 to 1 and back to 2, again and again; each time one of them is killed at a random moment."""
    source, whole, run = table(tmp_path), tmp_path / "whole", tmp_path / "run"
    more = ["train", source, "-t", "y", *SETTINGS, "--epochs", 60, "--patience", "none"]
    ends_well(start(*more, "--run", whole))
    draw = random.Random(0)
    for life in range(8):
        count = 2 - life % 2
        process = start(*more, "--run", run, "--continue", "--processes", count)
        found = processes_of(process, count, []) if count > 1 else [process.pid]
        time.sleep(draw.uniform(2, 8))
        assert process.poll() is None
        os.kill(draw.choice(found), signal.SIGKILL)
        assert ended(process)[0] != 0
    ends_well(start(*more, "--run", run, "--continue", "--processes", 2))
    assert digest(run) == digest(whole)


def test_a_process_killed_before_its_first_checkpoint_is_started_again(tmp_path: Path) -> None:
    source, whole, run = table(tmp_path, 600), tmp_path / "whole", tmp_path / "run"
    more = [*SETTINGS, "--epochs", 3]
    ends_well(start("train", source, "-t", "y", "--run", whole, *more))
    process = start("train", source, "-t", "y", "--run", run, *more, "--processes", 2, "--restarts", 2)
    found = processes_of(process, 2, [])
    os.kill(found[1], signal.SIGKILL)  # while it imports
    found = processes_of(process, 2, found)
    end = time.monotonic() + 60
    while not (run / "run.toml").exists() and time.monotonic() < end:
        time.sleep(0.001)
    os.kill(found[0], signal.SIGKILL)
    said = ends_well(process)
    assert said.count("was ended by SIGKILL; all start again") == 2
    assert digest(run) == digest(whole)


def test_a_process_that_is_stopped_for_a_while_is_waited_for(tmp_path: Path) -> None:
    source, whole, run = table(tmp_path), tmp_path / "whole", tmp_path / "run"
    more = [*SETTINGS, "--epochs", 10, "--patience", "none"]
    ends_well(start("train", source, "-t", "y", "--run", whole, *more))
    process = start("train", source, "-t", "y", "--run", run, *more, "--processes", 2)
    wait_for_steps(run, process)
    for stopped in children(process):
        os.kill(stopped, signal.SIGSTOP)
        time.sleep(3)
        os.kill(stopped, signal.SIGCONT)
    assert process.poll() is None
    ends_well(process)
    assert digest(run) == digest(whole)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_hangs_is_named_and_can_be_started_again(tmp_path: Path, rank: int) -> None:
    source, whole, run = table(tmp_path), tmp_path / "whole", tmp_path / "run"
    more = [*SETTINGS, "--epochs", 30, "--patience", "none"]
    ends_well(start("train", source, "-t", "y", "--run", whole, *more))
    command = ["train", source, "-t", "y", "--run", run, *more, "--processes", 2, "--restarts", 1]
    process = start(*command, LUTHIER_PROCESS_TIMEOUT_S="3")
    wait_for_steps(run, process)
    os.kill(children(process)[rank], signal.SIGSTOP)
    said = ends_well(process)
    assert f"process {rank} did not end after process {1 - rank}; all start again" in said
    assert rank == 0 or f"process 1 on {socket.gethostname()} has not answered for 3 s" in said
    assert digest(run) == digest(whole)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_all_after_the_same_update(tmp_path: Path, number: signal.Signals) -> None:
    source, whole, run = table(tmp_path), tmp_path / "whole", tmp_path / "run"
    more = [*SETTINGS, "--epochs", 30, "--patience", "none"]
    ends_well(start("train", source, "-t", "y", "--run", whole, *more))
    process = start("train", source, "-t", "y", "--run", run, *more, "--processes", 2)
    wait_for_steps(run, process)
    process.send_signal(number)
    status, said = ended(process)
    assert status == 128 + number, said
    ends_well(start("resume", run, "--processes", 3, "--quiet"))
    assert digest(run) == digest(whole)


@pytest.mark.slow
@pytest.mark.parametrize("answer", ["continue", "stop"])
def test_a_full_disk_is_told_once_and_the_run_goes_on(tmp_path: Path, answer: str) -> None:
    source, whole = table(tmp_path), tmp_path / "whole"
    more = [*SETTINGS, "--epochs", 30, "--patience", "none", "--on-write-error", answer]
    ends_well(start("train", source, "-t", "y", "--run", whole, *more))
    with small_disk(tmp_path / "small", "4m") as disk:
        run, filler = disk / "run", disk / "filler"
        process = start("train", source, "-t", "y", "--run", run, *more, "--processes", 2)
        wait_for_steps(run, process)
        fill(filler)
        if answer == "continue":
            time.sleep(1)
            filler.unlink()
            said = ends_well(process)
            assert "NO CHECKPOINT was written" in said
        else:
            status, said = ended(process)
            assert status == 2, said
            assert said.count("luthier: ") == 1
            assert f"luthier: cannot write {run}/" in said
            assert "No space left on device" in said
            assert not list(run.rglob("*.part"))
            filler.unlink()
            ends_well(start("resume", run, "--processes", 3, "--quiet"))
        assert digest(run) == digest(whole)


@pytest.mark.slow
def test_torchrun_trains_together_and_goes_on(tmp_path: Path) -> None:
    source, whole, run = table(tmp_path, 600), tmp_path / "whole", tmp_path / "run"
    more = ["train", source, "-t", "y", *SETTINGS, "--epochs", 3]
    ends_well(start(*more, "--run", whole))
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
