"""The fault table: every fault ends in a correct resume or a named error, and none loses more than the interval."""

import errno
import logging
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import luthier
from luthier.data.sources import _end_without_parent
from luthier.errors import LuthierError, RunError
from luthier.store.checkpoint import CheckpointWriter, checkpoints, load_checkpoint, read_checkpoint, step_of
from luthier.training.callbacks import Callback, View
from tests.faults.disk import fill, small_disk
from tests.problems import mlp, same_weights, table
from tests.training.test_resume import CopyAt, without_clock

ROOT = Path(__file__).parents[2]


def train(folder: Path, *callbacks: Any, **more: Any) -> tuple[nn.Module, Any]:
    torch.manual_seed(1)
    module = mlp()
    result = luthier.fit(
        module, table(50), table(20, 4), criterion="cross-entropy", optimizer="AdamW", lr=0.02, run=folder,
        callbacks=callbacks, seed=7, batch_size=8, **{"epochs": 4, "checkpoint_every_steps": 3, **more},
    )  # fmt: skip
    return module, result


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Any, Path]:
    """A run never stopped, and a copy of its folder after step 17."""
    place = tmp_path_factory.mktemp("whole")
    module, result = train(place / "run", CopyAt(17, place / "cut"))
    return module, result, place / "cut"


def resumes(cut: Path, whole: tuple[nn.Module, Any, Path]) -> None:
    module, result, _ = whole
    again, continued = train(cut)
    same_weights(again, module)
    assert without_clock(continued.record) == without_clock(result.record)


def command(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_ten_kills_at_random_instants_change_no_bit() -> None:
    out = command("benchmarks.resume", "--small", "--kills", "5")
    assert out.count("5 kills") == 2
    counts = [line.split("; ")[1].split()[:3] for line in out.splitlines() if "kills" in line]
    assert all(equal == finished and int(equal) >= 1 for equal, _, finished in counts), out


def test_kills_during_two_hundred_saves_lose_nothing_that_was_proven(tmp_path: Path) -> None:
    assert "200 kills" in command("tests.faults.saves", str(tmp_path), "200")


def damaged(whole: tuple[nn.Module, Any, Path], to: Path, damage: Callable[[Path], None]) -> Path:
    shutil.copytree(whole[2], to)
    damage(checkpoints(to / "checkpoints")[0])
    return to


def test_a_flipped_byte_anywhere_is_named_and_the_one_before_is_used(whole: Any, tmp_path: Path) -> None:
    folder = damaged(whole, tmp_path / "cut", lambda newest: None)
    newest, before = checkpoints(folder / "checkpoints")
    content, lot = newest.read_bytes(), random.Random(3)
    for place in (lot.randrange(len(content)) for _ in range(100)):
        newest.write_bytes(content[:place] + bytes([content[place] ^ (1 << lot.randrange(8))]) + content[place + 1 :])
        tree = load_checkpoint(folder / "checkpoints")
        assert tree is not None
        assert tree["state"]["global_step"] == step_of(before), place
    resumes(folder, whole)


def test_a_file_cut_short_is_named_and_the_one_before_is_used(
    whole: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    size = checkpoints(whole[2] / "checkpoints")[0].stat().st_size
    for i, length in enumerate((0, 1, 7, 100, size // 2, size - 1)):
        folder = damaged(whole, tmp_path / str(i), partial(os.truncate, length=length))
        tree = load_checkpoint(folder / "checkpoints")
        assert tree is not None
        assert tree["state"]["global_step"] == 12
    assert "step-0000000015" in caplog.text
    resumes(tmp_path / "3", whole)


def test_a_missing_file_loses_one_interval(whole: Any, tmp_path: Path) -> None:
    resumes(damaged(whole, tmp_path / "cut", Path.unlink), whole)


def test_a_damaged_one_does_not_count_as_the_newest(whole: Any, tmp_path: Path) -> None:
    """Else the two that stay would be the damaged one and one more, and the next damage would be the end."""
    folder = damaged(whole, tmp_path / "cut", lambda newest: os.truncate(newest, 50))
    train(folder, Halt(14))
    assert [step_of(path) for path in checkpoints(folder / "checkpoints")] == [14, 12]


class Halt(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, run: View) -> luthier.Stop | None:
        return luthier.Stop("halt", finished=False) if run.global_step >= self.step else None


def test_all_gone_or_damaged_is_an_error_and_nothing_starts_over(whole: Any, tmp_path: Path) -> None:
    folder = damaged(whole, tmp_path / "cut", lambda newest: None)
    for path in checkpoints(folder / "checkpoints"):
        os.truncate(path, 60)
    with pytest.raises(RunError, match="all 2 checkpoints"):
        train(folder)
    shutil.rmtree(folder / "checkpoints")
    with pytest.raises(RunError, match="record and no checkpoint"):
        train(folder)


@pytest.mark.parametrize("harm", ["flipped", "cut", "gone"])
def test_the_record_is_healed_from_the_checkpoint(whole: Any, tmp_path: Path, harm: str) -> None:
    folder = damaged(whole, tmp_path / "cut", lambda newest: None)
    path = folder / "record.jsonl"
    content = path.read_bytes()
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(content[:40] + (b"\xff" + content[41:] if harm == "flipped" else b""))
    resumes(folder, whole)
    rows = luthier.read_record(path)
    assert without_clock(rows) == without_clock(whole[1].record)


# --- a full disk ------------------------------------------------------------------------------------------------------


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "small", "400k") as place:
        yield place


class Fill(Callback):
    """Fill the disk after one step, and make room after another."""

    def __init__(self, file: Path, full: int, free: int) -> None:
        self.file, self.full, self.free = file, full, free

    def on_step_end(self, run: View) -> None:
        if run.global_step == self.full:
            fill(self.file)
        if run.global_step == self.free:
            self.file.unlink()


def test_on_a_full_disk_training_goes_on_and_says_so(whole: Any, tmpfs: Path, caplog: pytest.LogCaptureFixture) -> None:
    module, result = train(tmpfs / "run", Fill(tmpfs / "filler", 10, 16))
    same_weights(module, whole[0])
    assert "NO CHECKPOINT was written at step 12" in caplog.text
    assert without_clock(luthier.read_record(tmpfs / "run" / "record.jsonl")) == without_clock(result.record)
    assert not list((tmpfs / "run").rglob("*.part"))


def test_on_a_full_disk_a_run_never_freed_resumes_from_before(whole: Any, tmpfs: Path) -> None:
    module, _ = train(tmpfs / "run", Fill(tmpfs / "filler", 10, -1))
    same_weights(module, whole[0])
    (tmpfs / "filler").unlink()
    newest = checkpoints(tmpfs / "run" / "checkpoints")[0]
    assert step_of(newest) == 9
    resumes(tmpfs / "run", whole)


def test_on_a_full_disk_a_run_stops_where_it_is_to(whole: Any, tmpfs: Path) -> None:
    with pytest.raises(RunError, match="No space left"):
        train(tmpfs / "run", Fill(tmpfs / "filler", 10, -1), on_write_error="stop")
    (tmpfs / "filler").unlink()
    resumes(tmpfs / "run", whole)


def test_a_row_that_cannot_be_written_comes_with_the_next(
    whole: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write = os.write

    def full(handle: int, content: bytes) -> int:
        if b'"epoch": 1,' in content and b'"epoch": 2,' not in content:
            write(handle, content[:5])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(handle, content)

    monkeypatch.setattr(os, "write", full)
    _, result = train(tmp_path / "run", CopyAt(17, tmp_path / "cut"))
    monkeypatch.undo()
    assert "THE RECORD cannot be written" in caplog.text
    assert without_clock(luthier.read_record(tmp_path / "run" / "record.jsonl")) == without_clock(result.record)
    resumes(tmp_path / "cut", whole)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """In a forked process of another user, as root may write anywhere."""
    folder = tmp_path / "run"
    folder.mkdir(mode=0o555)
    for part in (tmp_path, *tmp_path.parents):
        if part.stat().st_uid == os.getuid() and part.stat().st_mode & 0o055 == 0:
            part.chmod(0o755)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            if os.getuid() == 0:
                os.setuid(65534)
            for call in (lambda: train(folder), lambda: CheckpointWriter(folder / "c").save({}, global_step=1)):
                with pytest.raises(RunError, match="run-cannot-write"):
                    call()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


def test_a_clock_that_jumps_back_changes_nothing(whole: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lot, names = random.Random(2), ("time", "monotonic", "perf_counter")
    for name in names:
        monkeypatch.setattr(time, name, lambda: lot.uniform(-1e6, 1e6))
    module, result = train(tmp_path / "run", CopyAt(17, tmp_path / "cut"), checkpoint_every_steps=None)
    assert checkpoints(tmp_path / "cut" / "checkpoints")  # by time, however odd
    monkeypatch.undo()
    same_weights(module, whole[0])
    again, continued = train(tmp_path / "cut", checkpoint_every_steps=None)
    same_weights(again, whole[0])
    assert without_clock(continued.record) == without_clock(result.record)


# --- several processes, and the background ----------------------------------------------------------------------------


class InAnotherProcess(Callback):
    """Make the same call in a forked process while the run is under way."""

    def __init__(self) -> None:
        self.code = ""

    def on_step_end(self, run: View) -> None:
        if run.global_step != 5 or run.folder is None:
            return
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                train(run.folder)
            except LuthierError as error:
                os.write(write, error.code.encode())
            os._exit(0)
        os.waitpid(child, 0)
        os.close(write)
        self.code = os.read(read, 100).decode()


def test_two_processes_do_not_train_in_one_folder(whole: Any, tmp_path: Path) -> None:
    other = InAnotherProcess()
    module, _ = train(tmp_path / "run", other)
    assert other.code == "run-in-use"
    same_weights(module, whole[0])


def test_a_loading_worker_whose_run_is_killed_as_it_starts_ends() -> None:
    """Else it would wait for work forever, and hold what it has inherited: memory, files, pipes."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        multiprocessing.get_context("fork").Process(target=starts_late, args=(write,)).start()
        os.kill(os.getpid(), signal.SIGKILL)
    os.close(write)
    os.waitpid(child, 0)
    assert os.read(read, 1) == b""
    os.close(read)


def starts_late(write: int) -> None:
    parent = multiprocessing.parent_process()
    while parent is not None and os.getppid() == parent.pid:
        time.sleep(0.001)
    _end_without_parent(0)
    os.write(write, b"x")


def test_a_large_state_is_written_in_the_background(
    whole: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training goes on and moves the weights meanwhile: what is written is a copy of the instant."""
    monkeypatch.setattr("luthier.store.checkpoint.IN_BACKGROUND_BYTES", 0)
    write, seen = CheckpointWriter._write, []

    def slow(self: CheckpointWriter, *arguments: Any) -> None:
        time.sleep(0.05)
        write(self, *arguments)
        seen.append(arguments[-1])

    monkeypatch.setattr(CheckpointWriter, "_write", slow)
    module, _ = train(tmp_path / "run", Keep(tmp_path / "copies"))
    same_weights(module, whole[0])
    assert seen == sorted(seen)
    monkeypatch.undo()
    for copy in sorted((tmp_path / "copies").iterdir())[::3]:
        resumes(copy, whole)


class Keep(Callback):
    """Copy the run's checkpoints and record after each step, as a kill would leave them."""

    def __init__(self, to: Path) -> None:
        self.to = to

    def on_step_end(self, run: View) -> None:
        assert run.folder is not None
        to = self.to / f"{run.global_step:03d}" / "checkpoints"
        to.mkdir(parents=True)
        for path in checkpoints(run.folder / "checkpoints"):
            try:
                shutil.copy(path, to)
            except FileNotFoundError:
                continue
        shutil.copy(run.folder / "record.jsonl", to.parent)


def test_a_failure_in_the_background_is_said(
    whole: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("luthier.store.checkpoint.IN_BACKGROUND_BYTES", 0)
    write = CheckpointWriter._write

    def failing(self: CheckpointWriter, document: Any, tensors: Any, step: int) -> None:
        if step == 9:
            raise RunError("no", code="run-cannot-write")
        write(self, document, tensors, step)

    monkeypatch.setattr(CheckpointWriter, "_write", failing)
    with caplog.at_level(logging.ERROR, "luthier"):
        module, _ = train(tmp_path / "run")
    same_weights(module, whole[0])
    assert "NO CHECKPOINT was written" in caplog.text
    with pytest.raises(RunError, match="no"):
        train(tmp_path / "stopping", on_write_error="stop")


def test_what_a_kill_left_half_written_is_removed(whole: Any, tmp_path: Path) -> None:
    folder = damaged(whole, tmp_path / "cut", lambda newest: None)
    (folder / "checkpoints" / ".step-0000000016.safetensors.99.part").write_bytes(b"half")
    resumes(folder, whole)
    assert not list(folder.rglob("*.part"))


@pytest.mark.usefixtures("unchecked")
def test_a_checkpoint_holds_no_state_after_a_loss_that_is_not_finite(tmp_path: Path) -> None:
    x, y = table(50)
    x[luthier.order(50, 7, 0)[20]] = float("nan")
    with pytest.raises(LuthierError, match="training-loss-not-finite"):
        luthier.fit(
            nn.Linear(6, 3), (x, y), criterion="cross-entropy", optimizer="SGD", lr=0.1, seed=7, batch_size=8,
            run=tmp_path, checkpoint_every_steps=1, epochs=1,
        )  # fmt: skip
    for path in checkpoints(tmp_path / "checkpoints"):
        assert torch.isfinite(read_checkpoint(path)["module"]["state"]["weight"]).all()
