"""Rows of several requests in one call of the network."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import reduce
from queue import Empty, SimpleQueue

from torch import Tensor

from luthier.data.sources import cat_padded

Inputs = tuple[Tensor, ...]
_IDLE_S = 10.0


@dataclass(frozen=True)
class _Asked:
    inputs: Inputs
    answer: Future[Tensor] = field(default_factory=Future)


class Gathered:
    """Calls `forward` for the rows of all threads that ask within some time of the first.

    Each thread waits at most that time, and the call that is under way. Rows beside others are rounded otherwise, and
    those of a shorter text or series are filled up: the answers may differ in the last digits.

    Args:
        forward: `(N, …)` inputs to outputs `(N, K)`.
        wait_s: How long to wait for more rows after the first.
        max_rows: That one call may have.
    """

    def __init__(self, forward: Callable[[Inputs], Tensor], *, wait_s: float, max_rows: int) -> None:
        self.forward, self.wait_s, self.max_rows = forward, wait_s, max_rows
        self._queue: SimpleQueue[_Asked] = SimpleQueue()
        self._lock, self._is_working = threading.Lock(), False

    def __call__(self, inputs: Inputs) -> Tensor:
        """Return the outputs for some rows."""
        asked = _Asked(inputs)
        with self._lock:
            self._queue.put(asked)
            if not self._is_working:
                self._is_working = True
                threading.Thread(target=self._work, name="luthier-gathering", daemon=True).start()
        return asked.answer.result()

    def _work(self) -> None:
        while True:
            try:
                some = [self._queue.get(timeout=_IDLE_S)]
            except Empty:
                with self._lock:  # a thread that waited for ever would keep a model that was replaced
                    if self._queue.empty():
                        self._is_working = False
                        return
                continue
            end = time.monotonic() + self.wait_s
            while sum(len(asked.inputs[0]) for asked in some) < self.max_rows:
                try:
                    some.append(self._queue.get(timeout=max(end - time.monotonic(), 0)))
                except Empty:
                    break
            try:
                inputs = tuple(reduce(cat_padded, parts) for parts in zip(*(one.inputs for one in some), strict=True))
                outputs = self.forward(inputs).split([len(one.inputs[0]) for one in some])
            except Exception:  # of one request: the others are to be answered
                for one in some:
                    self._answer_alone(one)
                continue
            for one, part in zip(some, outputs, strict=True):
                one.answer.set_result(part)

    def _answer_alone(self, asked: _Asked) -> None:
        try:
            asked.answer.set_result(self.forward(asked.inputs))
        except Exception as error:
            asked.answer.set_exception(error)
