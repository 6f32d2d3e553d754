"""Worker processes behind one that listens: each answers on a socket of its own, over connections that stay open."""

from __future__ import annotations

import asyncio
import multiprocessing
import re
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from luthier.errors import LuthierError, MissingPackageError

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_POLL_S = 0.05
_CONNECTIONS = 512  # to a worker
_AT_ONCE = 4  # that are made at a time
SOCKETS = 16
"""On one address: libuv accepts one connection a socket between two rounds of answers, and the last of 256 clients that
come together would wait for more than a second."""
END = b"\r\n\r\n"


def make_app(models: Sequence[str], **given: Any) -> Any:
    """Make the application, whose packages are loaded only where it answers.

    Raises:
        BundleError: a model cannot be loaded.
        MissingPackageError: a package of `luthier[serve]` is not installed.
    """
    try:
        from luthier.http.app import App
    except ImportError as error:
        raise lacks(error) from error
    return App(models, **given)


def lacks(error: ImportError) -> MissingPackageError:
    """Return the error of a server without one of its packages."""
    return MissingPackageError(
        f"luthier serve needs the package {error.name}, which is not installed",
        hint="pip install 'luthier[serve]'",
        code="missing-package",
    )


def work(settings: dict[str, Any], alive: Connection) -> None:
    """Be a worker: answer until the other end of `alive` is closed, also because its process has ended."""
    import uvicorn

    for number in (signal.SIGINT, signal.SIGTERM):  # they come to the whole group, and the one in front heeds them
        signal.signal(number, signal.SIG_IGN)

    class Server(uvicorn.Server):
        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    try:
        app = settings.pop("app")()
    except LuthierError as error:
        alive.send(error)
        return
    place = settings.pop("uds")
    server = Server(uvicorn.Config(app, **settings))

    def stop() -> None:
        with suppress(EOFError, OSError):
            alive.recv()
        server.should_exit = True

    threading.Thread(target=stop, daemon=True).start()
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(place)
        bound.listen(2048)
        server.run(sockets=[bound.dup() for _ in range(SOCKETS)])


@dataclass(eq=False)
class Request:
    """A request that came whole, as it is sent to a worker.

    Attributes:
        content: Its bytes.
        answered: Called with the bytes of the answer, or None where no worker gave one.
        has_body: Whether its answer has a body, which that to a HEAD has not.
        since: When it came whole, or a worker was asked, in the loop's seconds.
        tries: How often it was lost with a connection.
        tried: The workers that lost it.
    """

    content: bytes
    answered: Callable[[Request, bytes | None], None]
    has_body: bool = True
    since: float = 0.0
    tries: int = 0
    tried: set[Worker] = field(default_factory=set)


@dataclass(eq=False)
class Worker:
    """One process, and the connections to it."""

    process: Any
    alive: Connection
    path: Path
    idle: list[Upstream] = field(default_factory=list)
    asked: dict[Upstream, Request] = field(default_factory=dict)
    queue: deque[Request] = field(default_factory=deque)  # for which no connection is free
    beginning: int = 0  # connections that are being made
    is_up: bool = False
    was_up: bool = False

    @property
    def load(self) -> int:
        """How many requests it has."""
        return len(self.asked) + len(self.queue)

    @property
    def wants_more(self) -> bool:
        """Whether another connection should be made."""
        return bool(self.queue) and self.beginning < _AT_ONCE and len(self.asked) + self.beginning < _CONNECTIONS

    def put(self, upstream: Upstream) -> None:
        """Take a connection that is free, for the next request in the queue."""
        if self.queue:
            upstream.ask(self.queue.popleft())
        elif not upstream.is_lost:
            self.idle.append(upstream)

    async def connect(self, lost: Callable[[Request, Worker], None]) -> Upstream:
        """Open one more connection."""
        loop = asyncio.get_running_loop()
        return (await loop.create_unix_connection(lambda: Upstream(self, lost), str(self.path)))[1]

    async def wait(self, lost: Callable[[Request, Worker], None]) -> None:
        """Return when it answers, or has ended."""
        while self.process.is_alive():
            with suppress(OSError):
                self.put(await self.connect(lost))
                self.is_up = self.was_up = True
                return
            await asyncio.sleep(_POLL_S)


def start_worker(settings: Mapping[str, Any], path: Path) -> Worker:
    """Start a process that answers at a Unix socket, by uvicorn with these settings."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=work, args=({**settings, "uds": str(path)}, theirs))
    process.start()
    theirs.close()  # so that the pipe ends with the worker
    return Worker(process, ours, path)


class Upstream(asyncio.Protocol):
    """A connection to a worker, for one request at a time."""

    def __init__(self, worker: Worker, lost: Callable[[Request, Worker], None]) -> None:
        self.worker, self.lost = worker, lost
        self.buffer, self.size, self.is_lost = bytearray(), -1, False

    def connection_made(self, transport: Any) -> None:
        """Keep the way to write."""
        self.transport = transport

    def ask(self, request: Request) -> None:
        """Send a request; give it back where the worker died while the connection was made."""
        if self.is_lost:
            self.lost(request, self.worker)
            return
        self.worker.asked[self] = request
        request.since = asyncio.get_running_loop().time()
        self.buffer, self.size = bytearray(), -1
        self.transport.write(request.content)

    def data_received(self, data: bytes) -> None:
        """Gather the answer until it is whole."""
        request = self.worker.asked.get(self)
        if request is None:
            self.transport.abort()
            return
        self.buffer += data
        if self.size < 0 and (end := self.buffer.find(END)) >= 0:
            found = _LENGTH.search(self.buffer, 0, end + 2)
            self.size = end + len(END) + (int(found[1]) if found and request.has_body else 0)
        if 0 <= self.size <= len(self.buffer):
            del self.worker.asked[self]
            request.answered(request, bytes(self.buffer[: self.size]))
            self.worker.put(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Give back the request that was not answered."""
        self.is_lost = True
        if self in self.worker.idle:
            self.worker.idle.remove(self)
        if (request := self.worker.asked.pop(self, None)) is not None:
            self.lost(request, self.worker)
