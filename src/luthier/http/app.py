"""The application: requests to answers, by ASGI. One instance runs in each worker."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import traceback
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from luthier.errors import LuthierError, RequestError, SettingError
from luthier.http.answering import Answering
from luthier.serving.model import load

_log = logging.getLogger("luthier.http")
_JSON = b"application/json"
Scope, Receive, Send = dict[str, Any], Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a request may have.

    Attributes:
        max_body_bytes: Of its body.
        max_rows: Of a table, or images.
        max_pixels: Of an image.
        timeout_s: For its body to come.
    """

    max_body_bytes: int = 16 << 20
    max_rows: int = 10_000
    max_pixels: int = 32_000_000
    timeout_s: float = 30.0


class Served:
    """A model, and the file that it came from."""

    def __init__(self, path: str, limits: Limits) -> None:
        file = Path(path)
        self.path = file / "model.safetensors" if file.is_dir() else file
        self.name = file.name if file.is_dir() else file.stem
        self.limits = limits
        self.read()

    def read(self) -> None:
        """Load the model, anew where it was loaded before."""
        model = load(self.path)
        if model.schema is None:
            raise SettingError(
                f"{self.path} holds a custom module without a Schema, and there are no columns to serve",
                hint="serve a model of luthier.train, or write a server around luthier.load(path, module=…)",
                code="setting-ignored",
            )
        self.version = hashlib.sha256(self.path.read_bytes()).hexdigest()[:12]
        self.answering = Answering(model, max_rows=self.limits.max_rows)


class App:
    """Answers of models over HTTP.

    Args:
        paths: Of bundles, or of runs' folders.
        limits: For each request.
        token: What clients must send as `Authorization: Bearer TOKEN`; None: nothing.
    """

    def __init__(self, paths: list[str], *, limits: Limits | None = None, token: str | None = None) -> None:
        self.limits = limits or Limits()
        served = [Served(path, self.limits) for path in paths]
        self.models = {model.name: model for model in served}
        self.token = None if token is None else token.encode()
        self.is_ready = True
        self._computing = ThreadPoolExecutor(1, "luthier-answers")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._live(receive, send)
            return
        try:
            status, kind, body = await self._answer(scope, receive)
        except RequestError as error:
            status, kind, body = error.status, _JSON, _said(error)
        except LuthierError as error:  # of the data in the body
            status, kind, body = 422, _JSON, _said(error)
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]  # the message might quote the data
            _log.error("%s at %s:%s", type(error).__name__, where.filename, where.lineno)
            status, kind, body = 500, _JSON, b'{"error":"a fault in the server","code":"internal"}'
        headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
        if status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self.is_ready = False
        self._computing.shutdown()
        await send({"type": "lifespan.shutdown.complete"})

    async def _answer(self, scope: Scope, receive: Receive) -> tuple[int, bytes, bytes]:
        path = scope["path"]
        if path == "/health/live":
            return 200, b"text/plain", b"alive\n"
        if path == "/health/ready":
            return (200, b"text/plain", b"ready\n") if self.is_ready else (503, b"text/plain", b"stopping\n")
        self._check_token(scope)
        if path == "/predict" and len(self.models) == 1:
            return await self._predict(next(iter(self.models.values())), scope, receive)
        parts = path.split("/")
        if len(parts) == 4 and parts[1] == "models" and parts[3] == "predict" and parts[2] in self.models:
            return await self._predict(self.models[parts[2]], scope, receive)
        raise RequestError(
            f"there is nothing at {path}", status=404, hint="see /openapi.json", code="request-not-found"
        )

    def _check_token(self, scope: Scope) -> None:
        if self.token is None:
            return
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        if not hmac.compare_digest(given, b"Bearer " + self.token):
            raise RequestError(
                "the request has no valid token",
                status=401,
                hint="send the header Authorization: Bearer TOKEN",
                code="request-not-allowed",
            )

    async def _predict(self, served: Served, scope: Scope, receive: Receive) -> tuple[int, bytes, bytes]:
        if scope["method"] != "POST":
            raise RequestError(
                f"{scope['path']} takes POST, and this was {scope['method']}",
                status=405,
                hint="send the rows as the body of a POST",
                code="request-not-found",
            )
        body = await self._body(scope, receive)
        answering = served.answering
        rows = answering.read_rows(body)
        answers, warnings = answering.answer_row(rows), []
        if answers is None:
            loop = asyncio.get_running_loop()
            answers, warnings = await loop.run_in_executor(self._computing, answering.answer, rows)
        return 200, _JSON, _encode({"predictions": answers, "warnings": warnings})

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        message = await receive()
        body: bytes = message.get("body", b"")
        if not message.get("more_body"):
            if len(body) > self.limits.max_body_bytes:
                raise self._too_large()
            return body
        parts, size = [body], len(body)
        try:
            async with asyncio.timeout(self.limits.timeout_s):
                while message.get("more_body"):
                    if size > self.limits.max_body_bytes:
                        raise self._too_large()
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise RequestError("the client left", status=400, code="request-unreadable")
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
        except TimeoutError:
            raise RequestError(
                f"the body did not come within {self.limits.timeout_s:g} seconds",
                status=408,
                hint="send it faster, or raise --timeout-s",
                code="request-too-slow",
            ) from None
        return b"".join(parts)

    def _too_large(self) -> RequestError:
        return RequestError(
            f"the body has more than {self.limits.max_body_bytes:,} bytes",
            status=413,
            hint="send it in several requests, or raise --max-body-mb",
            code="request-too-large",
        )


def _said(error: LuthierError) -> bytes:
    where = error.where if isinstance(error, RequestError) else {}
    return _encode({"error": error.message, "hint": error.hint, "code": error.code, **where})
