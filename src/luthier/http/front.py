"""The process in front of the workers: it reads requests whole, and asks another worker where one dies over its answer.

An answer changes nothing in a worker, so a request may be asked again. The client sees none of it.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import httptools

from luthier.errors import RequestError
from luthier.http.awake import Awake
from luthier.http.limits import HEADERS_S, IDLE_S, Limits
from luthier.http.refusals import Answer, busy, refusal, too_slow
from luthier.http.workers import END, Request, Worker, start_worker

_log = logging.getLogger("luthier.http")
_HOPS = (
    b"connection",
    b"keep-alive",
    b"transfer-encoding",
    b"content-length",
    b"expect",
    b"upgrade",
    b"te",
    b"trailer",
)
_READY = (b"/health/ready", b"/v2/health/ready")
_HEAD_BYTES = 1 << 16
_KEPT_S = 75.0  # that a connection may be silent between two requests
_MOST_WORKERS = 3  # that may die over it
_TRIES = 8
_AHEAD = 16  # requests that one client may send before the first is answered
_LOOK_S = 0.5
_HUNG_S = 10.0
_AGAIN_S = 1.0  # before a worker is started in place of one that never answered
_STOPPING = Answer(b"stopping\n", b"text/plain; charset=utf-8", 503)
_NOT_READ = Answer(b"the head of the request is not HTTP, or too large\n", b"text/plain; charset=utf-8", 400)


class Front:
    """Listens for clients, keeps workers, and hands requests to the one that has the fewest.

    Args:
        settings: Of uvicorn in each worker.
        count: Of workers.
        limits: For each request.
        folder: For the sockets of workers.
        grace_s: That requests under way may take when it stops.
    """

    def __init__(
        self, settings: Mapping[str, Any], count: int, *, limits: Limits, folder: Path, grace_s: float
    ) -> None:
        self.settings, self.count, self.limits, self.folder, self.grace_s = settings, count, limits, folder, grace_s
        self.workers: list[Worker] = []
        self.waiting: list[Request] = []  # while no worker is there
        self.clients: set[_Client] = set()
        self.is_ready, self.is_closing, self.started = True, False, 0
        self.tasks: set[asyncio.Task[None]] = set()
        self.awake = Awake()

    async def run(self, sockets: Sequence[socket.socket], begun: Callable[[], None]) -> None:
        """Answer until SIGTERM or Ctrl-C, and then what clients have sent; `begun` is called when a worker is there.

        Raises:
            LuthierError: the first worker cannot load a model.
        """
        self.loop, self.stop, self.force = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            self.loop.add_signal_handler(number, self._hear, number)
        self.begun, is_told = self.loop.create_future(), self.loop.create_task(self.stop.wait())
        for _ in range(self.count):
            self._start()
        try:
            await asyncio.wait((self.begun, is_told), return_when=asyncio.FIRST_COMPLETED)
            if self.begun.done():
                self.begun.result()
                begun()
        except BaseException:
            await self._end()
            raise
        listening = [await self.loop.create_server(lambda: _Client(self), sock=one, backlog=2048) for one in sockets]
        looking = self.loop.create_task(self._look())
        await is_told
        ways = (self.loop.create_task(self._drain(listening)), self.loop.create_task(self.force.wait()))
        await asyncio.wait(ways, timeout=self.limits.notice_s + self.grace_s, return_when=asyncio.FIRST_COMPLETED)
        for task in (*ways, looking):
            task.cancel()
        for client in self.clients:
            client.transport.close()
        await self._end()

    def _hear(self, number: int) -> None:
        if self.stop.is_set() and number == signal.SIGINT:  # a second Ctrl-C; other signals may come to a whole group
            self.force.set()
        self.is_ready = False
        self.stop.set()

    async def _drain(self, listening: Sequence[asyncio.Server]) -> None:
        """Listen no more, and answer what clients have sent, or may be sending."""
        await asyncio.sleep(self.limits.notice_s)  # for load balancers to see that it is not ready
        for one in listening:
            one.close()
        self.is_closing = True
        end = self.loop.time() + IDLE_S
        while any(client.is_busy or self.loop.time() < end for client in self.clients):
            await asyncio.sleep(0.01)

    async def _end(self) -> None:
        """Have the workers end, and wait for it."""
        self.is_closing = True
        for worker in self.workers:
            self.loop.remove_reader(worker.process.sentinel)
            worker.alive.close()
        for worker in self.workers:
            await asyncio.to_thread(worker.process.join, self.grace_s)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()

    def _do(self, task: Any) -> None:
        made = self.loop.create_task(task)
        self.tasks.add(made)
        made.add_done_callback(self.tasks.discard)

    def _start(self) -> None:
        self.started += 1
        worker = start_worker(self.settings, self.folder / f"{self.started}.socket")
        self.workers.append(worker)
        self.loop.add_reader(worker.process.sentinel, self._bury, worker)
        self._do(self._greet(worker))

    async def _greet(self, worker: Worker) -> None:
        await worker.wait(self._lost)
        if worker.is_up:
            if not self.begun.done():
                self.begun.set_result(None)
        elif not worker.was_up and worker.alive.poll():
            with suppress(EOFError):  # it was killed
                error = worker.alive.recv()
                _log.error("%s", error)
                if not self.begun.done():
                    self.begun.set_exception(error)
        waiting, self.waiting = self.waiting, []
        for request in waiting:
            self.ask(request)

    def _bury(self, worker: Worker) -> None:
        """Put another in the place of a worker that has ended."""
        self.loop.remove_reader(worker.process.sentinel)
        worker.process.join()
        self.workers.remove(worker)
        worker.path.unlink(missing_ok=True)
        worker.is_up, is_new = False, not worker.was_up
        while worker.queue:
            self.ask(worker.queue.popleft())
        if not self.is_closing:
            _log.error(
                "worker %d ended with status %s; another is started", worker.process.pid, worker.process.exitcode
            )
            self.loop.call_later(_AGAIN_S if is_new else 0, self._start)

    def ask(self, request: Request) -> None:
        """Hand a request to a worker, at once where one is there."""
        worker = min((one for one in self.workers if one.is_up), key=lambda one: one.load, default=None)
        if worker is None:
            self.waiting.append(request)
            return
        worker.queue.append(request)
        if worker.idle:
            worker.put(worker.idle.pop())
        elif worker.wants_more:
            worker.beginning += 1
            self._do(self._connect(worker))

    async def _connect(self, worker: Worker) -> None:
        """Make connections until no request waits for one."""
        try:
            worker.put(await worker.connect(self._lost))
            while worker.wants_more:
                worker.put(await worker.connect(self._lost))
        except (ConnectionError, FileNotFoundError):  # it has just died
            worker.is_up = False
            worker.process.kill()
        except OSError as error:  # too many open files: the connections that there are answer all
            _log.error("no further connection to worker %d: %s", worker.process.pid, error.strerror)
        finally:
            worker.beginning -= 1

    def _lost(self, request: Request, worker: Worker) -> None:
        request.tries += 1
        request.tried.add(worker)
        if worker.is_up:  # its other connections may be lost too, and are not told of yet
            worker.is_up = False
            self._do(self._greet(worker))
        if len(request.tried) < _MOST_WORKERS and request.tries < _TRIES:
            self.ask(request)
        else:
            request.answered(request, None)

    async def _look(self) -> None:
        """Look at what has waited too long: clients, requests, workers."""
        while True:
            await asyncio.sleep(_LOOK_S)
            now, patience = self.loop.time(), self.limits.timeout_s
            for client in list(self.clients):
                client.look(now)
            late = [request for request in self.waiting if now - request.since > patience]
            self.waiting = [request for request in self.waiting if request not in late]
            for request in late:
                request.answered(request, None)
            for worker in list(self.workers):
                # it says by itself after `patience` that it has too much to do
                if any(now - request.since > patience + _HUNG_S for request in worker.asked.values()):
                    worker.process.kill()


class _Client(asyncio.Protocol):
    """A connection of a client: its requests one after the other."""

    def __init__(self, front: Front) -> None:
        self.front, self.parser = front, httptools.HttpRequestParser(self)
        self.queue: deque[Request | Answer] = deque()  # what is to be answered, or to be said, in order
        self.is_new = self.can_write = True
        self.is_inside = False  # a request that has not come whole
        self.is_waiting = False  # for a worker
        self.is_over = False  # no more is read

    @property
    def is_busy(self) -> bool:
        """Whether it has sent a request, or a part of one, that is not answered."""
        return bool(self.queue) or self.is_inside

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for a request."""
        self.transport, self.since = transport, self.front.loop.time()
        self.front.clients.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self.front.clients.discard(self)
        self.queue.clear()
        self.is_inside = False

    def eof_received(self) -> bool:
        """Keep a connection on which no more comes until all is answered."""
        self.is_over, self.is_inside = True, False
        return bool(self.queue)

    def pause_writing(self) -> None:
        """Send no more answers to a client that does not take them."""
        self.can_write = False

    def resume_writing(self) -> None:
        """Go on with what waited."""
        self.can_write = True
        self._next()

    def look(self, now: float) -> None:
        """Close the connection of a client that has been silent for too long, or sends a body too slowly."""
        silent, patience = now - self.since, self.front.limits.timeout_s
        if self.is_inside and self.has_head:
            if silent > patience:
                self._say(refusal(too_slow(patience)))
        elif silent > (HEADERS_S if self.is_inside or self.is_new else _KEPT_S) and not self.queue:
            self.transport.close()

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        if self.is_over:
            return
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:  # the request itself is answered
            self.is_over = True
        except httptools.HttpParserError:
            if not self.is_over:
                self._say(_NOT_READ)

    def on_message_begin(self) -> None:
        """Begin a request."""
        if self.is_over:
            raise EOFError
        self.is_inside, self.has_head, self.is_new, self.since = True, False, False, self.front.loop.time()
        self.url, self.headers, self.body = b"", [], []  # type: ignore[var-annotated]
        self.head_size = self.size = 0
        self.expects = False

    def on_url(self, url: bytes) -> None:
        """Take a part of the address."""
        self.url += url
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        self._count(len(name) + len(value))
        match name.lower():
            case b"content-length":
                self.size = int(value)
            case b"expect":
                self.expects = value.lower() == b"100-continue"
            case lower if lower not in _HOPS:
                self.headers += (lower, b": ", value, b"\r\n")

    def _count(self, size: int) -> None:
        self.head_size += size
        if self.head_size > _HEAD_BYTES:
            raise ValueError

    def on_headers_complete(self) -> None:
        """Refuse a body that is said to be too large before it comes."""
        self.has_head, self.since = True, self.front.loop.time()
        self._limit()
        self.size = 0
        if self.expects and not self.queue:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self.size += len(body)
        self.body.append(body)
        self._limit()

    def _limit(self) -> None:
        """Have a worker refuse a body that is too large, of which no more is read."""
        if self.size > self.front.limits.max_body_bytes:
            self.body = []
            self.is_over = True
            self.on_message_complete()
            raise ValueError

    def on_message_complete(self) -> None:
        """Have the request answered once those before it are."""
        self.is_inside = False
        self.is_over |= not self.parser.should_keep_alive()
        method = self.parser.get_method()
        head = (method, b" ", self.url, b" HTTP/1.1\r\n", *self.headers, b"content-length: %d\r\n\r\n" % self.size)
        content = b"".join((*head, *self.body))
        self._add(Request(content, self._answered, method != b"HEAD", self.front.loop.time()))
        if len(self.queue) == _AHEAD:
            self.transport.pause_reading()

    def _say(self, answer: Answer) -> None:
        """Say something in turn, and read no more."""
        self.is_over, self.is_inside = True, False
        self._add(answer)

    def _add(self, item: Request | Answer) -> None:
        self.queue.append(item)
        self._next()

    def _next(self) -> None:
        """Begin with the next of the queue, unless one is under way."""
        while self.queue and self.can_write and not self.is_waiting:
            item = self.queue[0]
            if isinstance(item, Answer):
                self._write(item.written())
            elif not self.front.is_ready and item.content.split(b" ", 2)[1] in _READY:
                self._write(_STOPPING.written() if item.has_body else _STOPPING.written().partition(END)[0] + END)
            else:
                self.is_waiting = True
                self.front.ask(item)
                self.front.awake.heard(self)

    def _answered(self, request: Request, answer: bytes | None) -> None:
        """Send an answer on."""
        self.is_waiting = False
        if self.queue:  # else the client is gone
            self._write(_unanswered(request).written() if answer is None else answer)
            self._next()

    def _write(self, answer: bytes) -> None:
        self.queue.popleft()
        end = answer.find(END)
        is_last = b"\r\nconnection: close" in answer[:end]
        if not is_last and not self.queue and (self.is_over or self.front.is_closing):
            is_last, answer = True, answer[:end] + b"\r\nconnection: close" + answer[end:]
        self.transport.write(answer)
        self.front.awake.heard(self)
        self.since = self.front.loop.time()
        if is_last:
            self.queue.clear()
            self.is_over = True
            self.transport.close()
        elif len(self.queue) == _AHEAD - 1:
            self.transport.resume_reading()


def _unanswered(request: Request) -> Answer:
    if not request.tries:
        return refusal(busy("no worker is ready"))
    what = f"{len(request.tried)} workers died over this request"
    return refusal(RequestError(what, status=503, hint="look at the log of the server", code="request-busy"))
