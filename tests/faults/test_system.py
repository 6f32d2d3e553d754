"""What the system refuses: one message, its status, no traceback, nothing left half-written."""

import contextlib
import os
import resource
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest

import luthier
from luthier.cli.main import _run
from luthier.errors import RunError
from luthier.serving.files import write_answers
from luthier.training.callbacks import View

RUN = shlex.join([sys.executable, "-c", "from luthier.cli.main import run; run()"])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("system")
    (place / "d.csv").write_text("x,y\n" + "".join(f"{i * 37 % 101},{'ab'[i % 2]}\n" for i in range(40_000)))
    (place / "small.csv").write_text("x,y\n" + "".join(f"{i * 37 % 101},{'ab'[i % 2]}\n" for i in range(200)))
    luthier.train(place / "small.csv", target="y", run=place / "run", epochs=1)
    return place


def shell(line: str, place: Path) -> tuple[list[int], str, str]:
    """Run a line of bash, in which `luthier` is the command; return the statuses of its parts and what they said."""
    script = f'luthier() {{ {RUN} "$@"; }}; {line}; echo "${{PIPESTATUS[@]}}" >&3'
    read, write = os.pipe()
    done = subprocess.run(
        ["bash", "-c", script.replace(">&3", f">&{write}")],
        cwd=place, capture_output=True, text=True, check=False, pass_fds=[write],
    )  # fmt: skip
    os.close(write)
    with os.fdopen(read) as file:
        return [int(number) for number in file.read().split()], done.stdout, done.stderr


LONG = "n" * 5000
REFUSED = [
    f"train {LONG}.csv --target y", f"train small.csv --target y --run {LONG}", f"predict run {LONG}.csv",
    f"predict {LONG} small.csv", f"predict run small.csv -o {LONG}.csv", f"eject run {LONG}", f"resume {LONG}",
    f"summary run --svg {LONG}.svg", f"check {LONG}", f"train {LONG}.toml",
]  # fmt: skip
FULL = [
    "predict run small.csv > /dev/full", "evaluate run small.csv > /dev/full", "predict gone small.csv",
    "train small.csv --target y --epochs 1 --run full > /dev/full",
]  # fmt: skip


def check_refused(status: int, err: str, before: set[str], place: Path) -> None:
    assert status == 2
    assert "Traceback" not in err
    assert "Exception ignored" not in err
    assert any(line.startswith("luthier: ") for line in err.splitlines())
    assert not {path.name for path in place.iterdir()} - before


@pytest.mark.parametrize("line", REFUSED, ids=lambda line: line.replace(LONG, "LONG"))
def test_one_message_and_status_2(line: str, place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = {path.name for path in place.iterdir()}
    with contextlib.chdir(place):
        status = _run(line.split())
    out, err = capfd.readouterr()
    check_refused(status, err, before, place)
    assert out == ""


@pytest.mark.parametrize("line", FULL)
def test_an_output_that_takes_nothing_is_one_message_and_status_2(line: str, place: Path) -> None:
    before = {path.name for path in place.iterdir()}
    statuses, _, err = shell(f"luthier {line}", place)
    check_refused(statuses[0], err, before, place)
    assert ("standard output: No space left" in err) == (">" in line)


@pytest.mark.parametrize(
    ("closed", "line"),
    [
        ("closed", "train closed/a/d.csv --target y"), ("closed", "predict closed/a/run small.csv"),
        ("closed", "resume closed/a/run"), ("run/run.toml", "resume run"), ("run/checkpoints", "resume run"),
        ("run/record.jsonl", "resume run"), ("run/split.safetensors", "resume run"),
        ("run/model.safetensors", "predict run small.csv"), ("small.csv", "predict run small.csv"),
        ("book.xlsx", "predict run book.xlsx"),
    ],
)  # fmt: skip
def test_what_may_not_be_read_is_neither_damaged_nor_gone(closed: str, line: str, place: Path) -> None:
    path, before = place / closed, 0o755
    if path.exists():
        before = path.stat().st_mode
    elif path.suffix:
        path.touch()
    else:
        path.mkdir()
    path.chmod(0)
    try:
        if os.access(path, os.R_OK):
            pytest.skip("root may read everything")
        statuses, _, err = shell(f"luthier {line}", place)
    finally:
        path.chmod(before)
    assert statuses == [2]
    assert "Permission denied" in err
    assert "\n  check the permissions" in err
    assert err.count("[") == 1  # one message


def test_a_run_that_has_not_begun_leaves_no_folder(place: Path, tmp_path: Path) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        luthier.train(place / "small.csv", target="y", run=tmp_path / "a", report=stop)
    assert not list(tmp_path.iterdir())

    class Halt(luthier.Callback):
        def on_epoch_end(self, run: View) -> None:
            stop()

    with pytest.raises(KeyboardInterrupt) as caught:
        luthier.train(place / "small.csv", target="y", run=tmp_path / "a", callbacks=[Halt()])
    assert caught.value.__notes__ == [f"the run is saved; continue it with: luthier resume {tmp_path / 'a'}"]


def test_a_disk_too_full_for_a_checkpoint_is_said_once_and_leaves_nothing(
    place: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, before[1]))
        with pytest.raises(RunError, match=r"step-0000000000.*File too large") as caught:
            luthier.train(place / "small.csv", target="y", run=tmp_path / "a")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert "free disk space" in caught.value.hint
    assert "CHECKPOINT" not in caplog.text
    assert not list(tmp_path.iterdir())


def test_a_reader_that_leaves(place: Path) -> None:
    statuses, out, err = shell("luthier predict run d.csv | head -1", place)
    assert (statuses, err) == ([141, 0], "")
    assert out.startswith("prediction,")
    statuses, _, err = shell("luthier train small.csv --target y --epochs 3 --run left | head -1", place)
    assert statuses == [141, 0]
    assert not (place / "left").exists()
    assert "the program that read the output has ended" in err
    assert "Traceback" not in err
    assert not list(place.rglob("*.part"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_packages_are_imported_is_heeded(number: signal.Signals, place: Path) -> None:
    command = [sys.executable, "-c", "from luthier.cli.main import run; run()", "train", "d.csv", "--target", "y"]
    for i, wait in enumerate((0.2, 0.5, 0.8, 1.1)):
        process = subprocess.Popen(
            [*command, "--epochs", "100000", "--patience", "none", "--run", f"early {number} {i}"], cwd=place,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
            preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # below nohup a SIGHUP would be ignored
        )  # fmt: skip
        try:
            time.sleep(wait)
            process.send_signal(number)
            err = process.communicate(timeout=300)[1]
        finally:
            process.kill()
        assert process.returncode in (128 + number, -number), err  # the latter before Python reads the command
        assert "fault in Luthier" not in err


@pytest.mark.parametrize("kind", ["BaseException", "SystemError"])
def test_a_signal_that_compiled_code_turns_into_an_error_of_its_own_is_heeded(kind: str) -> None:
    # polars is written in Rust: a signal while it first asks for NumPy becomes a panic.
    code = f"""
import os, signal
from luthier.cli import main

def panics(*given, **named):
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except KeyboardInterrupt as error:
        raise {kind}("failed to get NumPy's table") from error

main.cli.main = panics
main.run()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert done.stderr.startswith("luthier: stopped by SIGTERM")


@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "a.jsonl"])
@pytest.mark.parametrize("what", ["a full disk", "Ctrl-C"])
def test_answers_that_cannot_be_written_leave_nothing(what: str, name: str, tmp_path: Path) -> None:
    def frames() -> Iterator[pl.DataFrame]:
        for i in range(40):
            if what == "Ctrl-C" and i == 20:
                os.kill(os.getpid(), signal.SIGINT)
            yield pl.DataFrame({"a": [j * 0.37 + i for j in range(20_000)]})

    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        if what == "a full disk":
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
        with pytest.raises((RunError, KeyboardInterrupt)) as caught:
            write_answers(frames(), str(tmp_path / name))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert what == "Ctrl-C" or "File too large [run-cannot-write]" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_left_of_an_answer_is_taken_away(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    names = [
        f".a[1].csv.{dead.pid}.part",
        f".a1.csv.{dead.pid}.part",
        ".a[1].csv.x.part",
        f".a[1].csv.{os.getppid()}.part",
    ]
    for name in names:
        (tmp_path / name).touch()
    write_answers([pl.DataFrame({"a": [1]})], str(tmp_path / "a[1].csv"))
    assert {path.name for path in tmp_path.iterdir()} == {"a[1].csv", *names[1:]}


REFUSED_SETTINGS: dict[str, Callable[[Path], object]] = {
    "--device meta": lambda place: luthier.load(place / "run", device="meta"),
    "batch size": lambda place: luthier.train(place / "small.csv", target="y", batch_size=2**63),
    "epochs": lambda place: luthier.train(place / "small.csv", target="y", epochs=10**5000),
    "hex": lambda place: luthier.train(place / "small.csv", target="y", encoding="hex"),
    "rot13": lambda place: luthier.train(place / "small.csv", target="y", encoding="rot13"),
}


@pytest.mark.parametrize("what", REFUSED_SETTINGS)
def test_odd_settings_are_refused(what: str, place: Path) -> None:
    with pytest.raises(luthier.LuthierError):
        REFUSED_SETTINGS[what](place)
