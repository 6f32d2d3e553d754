"""Signs of life between processes: a connection that is cut says nothing, so that only silence tells of it."""

import os
import socket
import stat
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from luthier.errors import SettingError

EVERY_S = 0.5  # between looks at whether another process has failed
_VARIABLE, _SILENCE_S = "LUTHIER_PROCESS_TIMEOUT_S", 60.0
_SIGNS = 6  # that a process gives within this time
_TELLING_S, _HEARING_S = 5.0, 2.0


class Signs:
    """What the processes of a group say to each other by their store: that they live, and which has failed.

    A thread of its own talks with the store, which can block for as long as the network is cut. All others watch
    process 0, and process 0 watches all others.

    Attributes:
        call: What the processes do together now, counted: a failure is one call's.
        limit_s: Seconds after which a silent process counts as lost.

    Raises:
        SettingError: LUTHIER_PROCESS_TIMEOUT_S is no number above 0.
    """

    def __init__(self, rank: int, size: int, store: Any) -> None:
        self.call, self.limit_s = 0, _limit_s()
        self._rank, self._store = rank, store
        self._failure: tuple[int, str] | None = None
        self._error: Exception | None = None  # of the store
        self._words: tuple[int, str] | None = None  # that are to be told
        self._watched = range(1, size) if rank == 0 else range(1)
        self._seen: dict[int, tuple[str, int]] = {}  # by process: its newest sign, and the looks since it came
        self._rounds, self._rounds_seen, self._looks = 0, 0, 0
        self._given, self._next = 0, 0.0
        self._wake, self._is_ended = threading.Event(), False
        self._give_sign()  # here and not in the thread: the group is made after it, so that all find one
        self._thread = threading.Thread(target=self._talk, name="luthier-signs", daemon=True)

    def start(self) -> None:
        """Start to talk: all processes have been here."""
        self._thread.start()

    def end(self) -> None:
        """Say no more, and look no more."""
        self._is_ended = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(1.0)  # it can hang where the network is cut

    def tell(self, words: str) -> None:
        """Tell the others that this process has failed in this call."""
        self._words = (self.call, words)
        self._wait_for(lambda: self._words is None, _TELLING_S)

    def look(self) -> str | None:
        """Return words about a process that has failed or is silent; to be called every `EVERY_S` while waiting.

        Looks are counted in place of seconds: a process that was stopped itself has heard nothing and must not judge.
        """
        if not self._thread.is_alive():
            return f"another process has ended, or the store by which they met: {self._error}"
        self._looks = 0 if self._rounds != self._rounds_seen else self._looks + 1
        self._rounds_seen = self._rounds
        if self._looks * EVERY_S >= self.limit_s:
            if self._rank == 0:
                return f"the store by which the processes met has not answered for {self.limit_s:g} s"
            return self._silent(0)
        return self._failure[1] if self._failure is not None and self._failure[0] == self.call else None

    def failure(self) -> str | None:
        """Return words about a process that has failed, which may come a moment after its connection is closed."""
        self._wait_for(lambda: self._failure is not None and self._failure[0] == self.call, _HEARING_S)
        return self._failure[1] if self._failure is not None and self._failure[0] == self.call else None

    def _wait_for(self, is_so: Callable[[], bool], seconds: float) -> None:
        end = time.monotonic() + seconds
        while not is_so() and self._thread.is_alive() and time.monotonic() < end:
            self._wake.set()
            time.sleep(0.02)

    def _talk(self) -> None:
        try:
            while not self._is_ended:
                self._wake.clear()
                call, words = self.call, self._words
                if words is not None:
                    self._store.set(f"failed-{words[0]}", words[1])
                    self._words = None
                if time.monotonic() >= self._next:
                    self._give_sign()
                    self._look_at_signs(call)
                if self._store.check([f"failed-{call}"]):
                    self._failure = call, self._store.get(f"failed-{call}").decode(errors="replace")
                self._rounds += 1
                self._wake.wait(EVERY_S)
        except Exception as error:
            self._error = error

    def _give_sign(self) -> None:
        self._given, self._next = self._given + 1, time.monotonic() + self.limit_s / _SIGNS
        self._store.set(f"lives-{self._rank}", f"{self._given} {socket.gethostname()}")

    def _look_at_signs(self, call: int) -> None:
        for rank in self._watched:
            sign, looks = self._store.get(f"lives-{rank}").decode(errors="replace"), 0
            if rank in self._seen and self._seen[rank][0] == sign:
                looks = self._seen[rank][1] + 1
            self._seen[rank] = sign, looks
            if looks >= _SIGNS:
                self._store.set(f"failed-{call}", self._silent(rank))

    def _silent(self, rank: int) -> str:
        host = self._seen[rank][0].partition(" ")[2] if rank in self._seen else ""
        who = f"process {rank}{host and f' on {host}'}"
        return f"{who} has not answered for {self.limit_s:g} s: check the process, its machine and the network"


def _limit_s() -> float:
    given = os.environ.get(_VARIABLE) or _SILENCE_S
    with suppress(ValueError):
        if 0 < float(given) < float("inf"):
            return float(given)
    raise SettingError(f"{_VARIABLE} is {given!r}", hint="give seconds, such as 60", code="setting-processes")


def open_sockets() -> dict[int, int]:
    """Return this process's sockets: numbers of files by what stays theirs alone. Windows does not list them."""
    found = {}
    with suppress(OSError):
        for name in os.listdir("/dev/fd"):
            with suppress(OSError):
                facts = os.fstat(int(name))
                if stat.S_ISSOCK(facts.st_mode):
                    found[facts.st_ino] = int(name)
    return found


def shut(sockets: set[int]) -> None:
    """Shut connections down: whoever waits for them is told, which a cut line does not do for hours."""
    for inode, number in open_sockets().items():
        if inode in sockets:
            with suppress(OSError), socket.socket(fileno=os.dup(number)) as line:
                line.getpeername()  # it raises for one that listens, of which gloo takes an end for a fault
                line.shutdown(socket.SHUT_RDWR)
