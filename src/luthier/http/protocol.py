"""What uvicorn lacks: answers to small requests without a task each, and an end to waiting for silent clients."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from luthier.http.limits import HEADERS_S
from luthier.http.refusals import Answer
from luthier.http.workers import END


class Protocol(HttpToolsProtocol):
    """Answers a request that is whole in what came at once by `App.answer_now`, where that can, else as uvicorn does.

    The task, the events and the messages of ASGI cost as much as the answer to a row. It closes a connection whose
    first request has not begun after some seconds: its headers come too slowly.
    """

    _body: bytearray | None = None  # of a request whose answer may be found at once

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait."""
        super().connection_made(transport)
        self._waiting = self.loop.call_later(HEADERS_S, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> Any:
        """Stop waiting."""
        self._waiting.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what came; a request that is not whole with it is uvicorn's."""
        super().data_received(data)
        if self._body is not None and not self.transport.is_closing():
            self._hand_on()

    def on_headers_complete(self) -> None:
        """Keep a request back until its body is there."""
        self._waiting.cancel()
        begun: Any = self.cycle  # which its own type says is always there
        is_free = (begun is None or begun.response_complete) and not self.expect_100_continue
        if is_free and self.parser.should_keep_alive() and not self.parser.should_upgrade():
            self._body = bytearray()
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a part of a body."""
        if self._body is None:
            super().on_body(body)
        else:
            self._body += body

    def on_message_complete(self) -> None:
        """Answer, if that can be done at once."""
        if self._body is None:
            super().on_message_complete()
            return
        method, app = self.parser.get_method(), self.app
        can = method == b"POST" and not self.flow.write_paused
        answer = app.answer_now(self.url, dict(self.headers), bytes(self._body)) if can else None
        if answer is None:
            self._hand_on()
            super().on_message_complete()
            return
        self._body = None
        self._write(answer)
        self.on_response_complete()

    def _write(self, answer: Answer) -> None:
        found = [STATUS_LINE[answer.status]]
        for name, value in (*self.server_state.default_headers, *answer.all_headers()):
            found += [name, b": ", value, b"\r\n"]
        self.transport.write(b"".join([*found, b"\r\n", answer.body]))

    def _hand_on(self) -> None:
        """Let uvicorn have what was kept back."""
        body, self._body = self._body, None
        super().on_headers_complete()
        if body:
            super().on_body(bytes(body))


class WorkerProtocol(Protocol):
    """For requests as the process in front writes them: one at a time, names of headers in lower case, the length last.

    Taking them apart again costs as much as the rest of a small answer.
    """

    _is_inside = False  # a request that uvicorn takes apart

    def on_message_begin(self) -> None:
        """Leave the request to uvicorn until it is whole."""
        self._is_inside = True
        super().on_message_begin()

    def on_message_complete(self) -> None:
        """Be ready for the next."""
        self._is_inside = False
        super().on_message_complete()

    def data_received(self, data: bytes) -> None:
        """Answer a row that was POSTed and came at once."""
        end = -1 if self._is_inside or not data.startswith(b"POST ") else data.find(END)
        if end >= 0:
            first, *lines = data[:end].split(b"\r\n")
            body, app = data[end + len(END) :], self.app
            headers: Any = dict(line.split(b": ", 1) for line in lines)
            if int(headers[b"content-length"]) == len(body):
                self._waiting.cancel()
                self._unset_keepalive_if_required()  # the process in front closes what it no longer needs
                answer = app.answer_now(first.split(b" ", 2)[1], headers, body)
                if answer is not None:
                    self._write(answer)
                    return
        super().data_received(data)
