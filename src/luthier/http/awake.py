"""No sleep between the requests of a client that asks alone: to wake a process takes longer than to answer a row."""

from __future__ import annotations

import asyncio
import os
import time

_AWAKE_S = 0.0005
_ALONE = 16  # in a row
_PROCESSORS = os.cpu_count() or 1


class Awake:
    """Keeps the loop of a process looking for what comes next, where one client asks time after time without a pause.

    The last thing heard keeps it awake for half a millisecond, and only where all before it came as soon; a client that
    asks a hundred times a second costs nothing. Whoever else can run on the processor goes first.
    """

    def __init__(self) -> None:
        self.is_on = False
        self._who: object = None
        self._since, self._in_a_row = 0.0, 0

    def heard(self, who: object) -> None:
        """Take note that something came from, or went to, a client."""
        now = time.perf_counter()
        self._in_a_row = self._in_a_row + 1 if who is self._who and now - self._since < _AWAKE_S else 0
        self._who, self._since = who, now
        if self._in_a_row > _ALONE and not self.is_on and _PROCESSORS > 1:
            self.is_on = True
            asyncio.get_running_loop().call_soon(self._look_again)

    def _look_again(self) -> None:
        self.is_on = time.perf_counter() - self._since < _AWAKE_S
        if self.is_on:
            os.sched_yield()
            asyncio.get_running_loop().call_soon(self._look_again)
