"""Several processes of one command on this machine: started, watched, and started again where one was killed."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from luthier.cli.output import say
from luthier.cli.signals import stop_signals

GROUP = "LUTHIER_GROUP"
_WORKER = "LUTHIER_STUDY_WORKER"
_GRACE_S = 20.0  # for the others to end by themselves where one has failed
_OWN = ("--processes", "--restarts")


def run_folder_file() -> Path | None:
    """Return where the first process says which folder its run has; None where no launcher asks."""
    return Path(f"{os.environ[GROUP]}.run") if GROUP in os.environ else None


def launch(arguments: Sequence[str], processes: int, restarts: int) -> int:
    """Run the command in so many processes that train together; return its exit status.

    Args:
        arguments: Of the command line; those that are for this function are left out.
        processes: At least 2.
        restarts: How often they are started again, from the newest checkpoint, where one was ended by a signal.
    """
    rest = _without(arguments, _OWN)
    folder = _value_of(rest, "--run")
    is_new = folder is None or not Path(folder).exists()  # else the first start finds out whether it is another run's
    with tempfile.TemporaryDirectory(prefix="luthier-", dir=_memory()) as place:
        for life in range(restarts + 1):
            meeting = Path(place) / f"life-{life}"
            status, killed = _Life(rest, processes, meeting).wait()
            told = Path(f"{meeting}.run")
            found = told.read_text(encoding="utf-8") if told.is_file() else folder if is_new else None
            if killed is None:
                return status
            if life == restarts:
                say(killed, is_error=True)
                return status
            if rest[0] == "train":
                rest = _going_on(rest, found, is_new=is_new)
            say(f"{killed}; all start again from the newest checkpoint ({life + 1} of {restarts})", is_error=True)
    return status


def _memory() -> str | None:
    """Return a folder in memory, where there is one: the processes meet there, also while the disk is full."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _going_on(arguments: list[str], folder: str | None, *, is_new: bool) -> list[str]:
    """Return the arguments by which a killed `luthier train` goes on, or starts anew where it has no checkpoint."""
    if folder is None:
        return arguments
    if any(Path(folder).glob("**/checkpoints/*.safetensors")):
        return ["resume", folder, *(flag for flag in ("--quiet", "-q", "--json") if flag in arguments)]
    if is_new and not Path(folder, "split.safetensors").exists():  # nothing is begun, and is planned anew
        Path(folder, "run.toml").unlink(missing_ok=True)
    return [*_without(arguments, ("--run",)), "--run", folder, "--continue"]


def _without(arguments: Sequence[str], options: Sequence[str]) -> list[str]:
    """Return the arguments without some options and their values."""
    rest: list[str] = []
    skipped = False
    for argument in arguments:
        if skipped:
            skipped = False
        elif argument in options:
            skipped = True
        elif not argument.startswith(tuple(f"{name}=" for name in options)):
            rest.append(argument)
    return rest


def _value_of(arguments: Sequence[str], option: str) -> str | None:
    """Return the value that an option is given, the last one where there are several."""
    found = None
    for argument, after in zip(arguments, [*arguments[1:], ""], strict=True):
        if argument == option:
            found = after
        elif argument.startswith(f"{option}="):
            found = argument.removeprefix(f"{option}=")
    return found


class _Life:
    """The processes from one start to their end."""

    def __init__(self, arguments: Sequence[str], count: int, meeting: Path) -> None:
        self.asked = 0  # signals that came to this process
        env = {**os.environ, GROUP: str(meeting), "WORLD_SIZE": str(count)}
        env.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
        # each in a session of its own: a Ctrl-C at the terminal comes to the launcher alone, which hands it on once
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-m", "luthier", *arguments],
                env={**env, "RANK": str(rank)},
                stdin=subprocess.DEVNULL,
                stdout=None if rank == 0 else subprocess.DEVNULL,
                stderr=None if rank == 0 else subprocess.DEVNULL,
                start_new_session=True,
            )
            for rank in range(count)
        ]

    def wait(self) -> tuple[int, str | None]:
        """Wait for all; return the exit status, and which process a signal ended that did not come to this one."""
        before = {number: signal.signal(number, self._heard) for number in (signal.SIGINT, *stop_signals())}
        lost: str | None = None
        since: float | None = None
        try:
            while None in (codes := [process.poll() for process in self.processes]):
                time.sleep(0.05)
                failed = [(rank, code) for rank, code in enumerate(codes) if code]
                lost = lost or next((_by_signal(rank, code) for rank, code in failed if code < 0), None)
                if failed and since is None:
                    since = time.monotonic()
                if since is not None and time.monotonic() - since > _GRACE_S:
                    hangs = [rank for rank, code in enumerate(codes) if code is None]
                    lost = lost or (f"process {hangs[0]} did not end after process {failed[0][0]}" if hangs else None)
                    for rank in hangs:
                        self.processes[rank].kill()
        finally:
            for process in self.processes:
                if process.poll() is None:
                    process.kill()
                    process.wait()
            for number, handler in before.items():
                signal.signal(number, handler)
        ended = [process.returncode for process in self.processes]
        lost = lost or next((_by_signal(rank, code) for rank, code in enumerate(ended) if code < 0), None)
        status = ended[0] if ended[0] >= 0 else 128 - ended[0]
        return status or max(map(abs, ended)), None if self.asked else lost

    def _heard(self, number: int, frame: FrameType | None) -> None:
        """Hand a signal on: the first to process 0, which has all stop after the same update; another to all."""
        self.asked += 1
        for process in self.processes[: 1 if self.asked == 1 else None]:
            if process.poll() is None:
                process.send_signal(number)


def _by_signal(rank: int, code: int) -> str:
    return f"process {rank} was ended by {signal.Signals(-code).name}"


@contextmanager
def helpers(arguments: Sequence[str], count: int) -> Iterator[None]:
    """Run the command in so many more processes meanwhile, which do trials of the same study; stop them at the end."""
    if not count or _WORKER in os.environ:
        yield
        return
    environment = {**os.environ, _WORKER: "1"}
    command = [sys.executable, "-m", "luthier", *arguments, "--quiet"]
    started = [
        subprocess.Popen(command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL)
        for _ in range(count)
    ]
    try:
        yield
        for process in started:
            process.wait()
    finally:
        for process in started:
            if process.poll() is None:
                process.terminate()
                process.wait()


def is_worker() -> bool:
    """Whether this process was started to do trials of another's study."""
    return _WORKER in os.environ
