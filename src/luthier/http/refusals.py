"""What is sent back, and what is said where a request is refused; the process in front of workers loads no more."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus

import msgspec

from luthier.errors import RequestError

encode = msgspec.json.Encoder().encode


@dataclass(frozen=True)
class Answer:
    """What is sent back."""

    body: bytes
    kind: bytes = b"application/json"
    status: int = 200
    headers: tuple[tuple[bytes, bytes], ...] = ()

    def all_headers(self) -> list[tuple[bytes, bytes]]:
        """Return the headers, with the type and the length of the body."""
        return [(b"content-type", self.kind), (b"content-length", b"%d" % len(self.body)), *self.headers]

    def written(self) -> bytes:
        """Return it as it is sent."""
        head = [f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}".encode()]
        return b"\r\n".join([*head, *(name + b": " + value for name, value in self.all_headers()), b"", self.body])


def refusal(error: RequestError) -> Answer:
    """Return the answer that says what is wrong with a request."""
    where = {name: value for name, value in error.where.items() if name != "allow"}
    body = encode({"error": error.message, "hint": error.hint, "code": error.code, **where})
    headers: dict[int, tuple[tuple[bytes, bytes], ...]] = {
        401: ((b"www-authenticate", b'Bearer, Basic realm="luthier"'),),
        405: ((b"allow", str(error.where.get("allow", "")).encode()),),
        503: ((b"retry-after", b"1"),),
        # what is left of the body is not read
        408: ((b"connection", b"close"),),
        413: ((b"connection", b"close"),),
        415: ((b"connection", b"close"),),
    }
    return Answer(body, status=error.status, headers=headers.get(error.status, ()))


def too_slow(seconds: float) -> RequestError:
    """Return the error of a body that comes too slowly."""
    return RequestError(
        f"the body did not arrive within {seconds:g} seconds",
        status=408,
        hint="send it faster, or set a longer timeout for the server",
        code="request-too-slow",
    )


def busy(message: str) -> RequestError:
    """Return the error of a server that has too much to do."""
    return RequestError(message, status=503, hint="try again later", code="request-busy")


def too_large(most: int) -> RequestError:
    """Return the error of a body that is too large."""
    return RequestError(
        f"the body has more than {most:,} bytes",
        status=413,
        hint="send it in several requests, or raise the limit of the server",
        code="request-too-large",
    )
