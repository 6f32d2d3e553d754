"""The application: requests to answers, by ASGI. One instance runs in each worker."""

from __future__ import annotations

import asyncio
import base64
import gc
import hmac
import logging
import signal
import time
import traceback
from binascii import Error as NotBase64
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeAlias

from luthier.core.version import VERSION
from luthier.errors import LuthierError, RequestError
from luthier.http import inference, metrics
from luthier.http.answering import Answering, Row
from luthier.http.bodies import read_files
from luthier.http.limits import IDLE_S, Limits
from luthier.http.openapi import describe
from luthier.http.page import page
from luthier.http.refusals import Answer, busy, encode, refusal, too_large, too_slow
from luthier.http.served import Served, find_names

_log = logging.getLogger("luthier.http")
_HEALTH = ("/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready")
_THREADS = 16  # that read rows while those of others are gathered
_SMALL = 1 << 16  # bytes: a larger body is taken apart in the thread that computes
_LOOKS_S = 1.0  # between two looks at the files of the models
_AS_JSON = (b"", b"application/json", b"application/x-www-form-urlencoded")  # the last is what curl sends
_ROUTE = "/models/{name}/predict"
_TEXT, _HTML = b"text/plain; charset=utf-8", b"text/html; charset=utf-8"
Scope: TypeAlias = Mapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Any]]
Send: TypeAlias = Callable[[Any], Awaitable[None]]


class App:
    """Answers of models over HTTP.

    Args:
        paths: Of bundles, or of runs' folders.
        limits: For each request.
        token: What clients must send as `Authorization: Bearer TOKEN`, or as the password of a browser; None: nothing.
        logs_requests: Log a line for each request: method, route, status, bytes and time, none of the data.
        network: For a network from your own file, that file and class, as `luthier.load` takes it.
    """

    def __init__(
        self,
        paths: Sequence[str],
        *,
        limits: Limits | None = None,
        token: str | None = None,
        logs_requests: bool = False,
        network: str | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self.models = {name: Served(path, name, self.limits, network) for name, path in find_names(paths).items()}
        self.token = None if token is None else token.encode()
        self.logs_requests = logs_requests
        self.is_ready, self.is_closing = True, False
        self.stopped_by: int | None = None
        self.waiting = 0
        self._lone = {f"/models/{name}/predict".encode(): served for name, served in self.models.items()}
        if len(self.models) == 1:
            self._lone[b"/predict"] = next(iter(self.models.values()))
        threads = 1 if self.limits.gather_s is None else _THREADS
        self._computing = ThreadPoolExecutor(threads, "luthier-answers")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._live(receive, send)
            return
        start, route = time.perf_counter(), "none"
        try:
            route, handler, arguments = self._route(scope)
            answer = await handler(scope, receive, *arguments)
        except RequestError as error:
            answer = refusal(error)
        except LuthierError as error:  # of the data in the body
            answer = Answer(encode({"error": error.message, "hint": error.hint, "code": error.code}), status=422)
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]  # the message might quote the data
            _log.error("%s at %s:%s", type(error).__name__, where.filename, where.lineno)
            answer = Answer(encode({"error": "a fault in the server", "code": "internal"}), status=500)
        headers = answer.all_headers()
        if self.is_closing:
            headers.append((b"connection", b"close"))
        body = b"" if scope["method"] == "HEAD" else answer.body
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        self._count(scope["method"], route, answer, start)

    def answer_now(self, path: bytes, headers: Mapping[bytes, bytes], body: bytes) -> Answer | None:
        """Return the answer to one plain row that was POSTed; None where a call must be made, also for what is refused.

        Args:
            path: As it was sent.
            headers: Their names in lower case.
            body: The whole of it.
        """
        served = self._lone.get(path)
        if served is None or self.is_closing or len(body) > min(_SMALL, self.limits.max_body_bytes):
            return None
        start = time.perf_counter()
        try:
            self._check_token(headers)
            if b"content-encoding" in headers or not _is_json(headers):
                return None
            answering = served.answering
            found = answering.answer_row(answering.read_rows(body))
        except Exception:  # what it is, is said when the call is made
            return None
        if found is None:
            return None
        answer = self._written(served, answering, *found)
        self._count("POST", "/predict" if path == b"/predict" else _ROUTE, answer, start)
        return answer

    def _count(self, method: str, route: str, answer: Answer, start: float) -> None:
        seconds, size = time.perf_counter() - start, len(answer.body)
        metrics.count_request(route, answer.status, seconds)
        if self.logs_requests:
            _log.info("%s %s %d, %d bytes, %.1f ms", method, route, answer.status, size, 1000 * seconds)

    async def _live(self, receive: Receive, send: Send) -> None:
        """Look after the files of the models until the server stops."""
        await receive()
        gc.collect()
        gc.freeze()  # what is there stays: to look through it all takes a quarter of a second, for which clients wait
        looking = asyncio.create_task(self._look_at_files())
        self._stop_in_order()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        looking.cancel()
        with suppress(asyncio.CancelledError):
            await looking
        self._computing.shutdown()
        await send({"type": "lifespan.shutdown.complete"})

    def _stop_in_order(self) -> None:
        """Let SIGTERM and Ctrl-C stop uvicorn only when no client is left that has sent, or may be sending, a request.

        uvicorn itself closes connections that seem idle while a client may be sending the next request on them.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            stop = signal.getsignal(number)
            server = getattr(stop, "__self__", None)
            if callable(stop) and hasattr(server, "server_state"):

                def heard(number: int, frame: Any, stop: Any = stop, server: Any = server) -> None:
                    first, self.stopped_by = self.stopped_by, self.stopped_by or number
                    if first is None:
                        self.is_ready = False
                        loop.call_soon_threadsafe(lambda: loop.create_task(self._stop(server, stop, number)))
                    elif first == number == signal.SIGINT:  # a second Ctrl-C; other signals may come to a whole group
                        stop(number, frame)

                signal.signal(number, heard)

    async def _stop(self, server: Any, stop: Any, number: int) -> None:
        await asyncio.sleep(self.limits.notice_s)  # for load balancers to see that it is not ready
        for listener in server.servers:
            listener.close()
        self.is_closing = True
        end = time.monotonic() + IDLE_S
        while server.server_state.connections and time.monotonic() < end:
            await asyncio.sleep(0.01)
        stop(number, None)

    async def _look_at_files(self) -> None:
        """Read a model anew when its file has changed; the one before answers meanwhile, and if it cannot be read."""
        while True:
            await asyncio.sleep(_LOOKS_S)
            for served in self.models.values():
                if served.has_changed():
                    try:
                        await asyncio.to_thread(served.read)
                        _log.warning("%s was read again: version %s", served.path, served.version)
                    except (LuthierError, OSError) as error:
                        _log.error(
                            "%s has changed and cannot be read, so the old model continues to answer: %s",
                            served.path,
                            error,
                        )

    def _route(self, scope: Scope) -> tuple[str, Callable[..., Awaitable[Answer]], tuple[Any, ...]]:
        """Return what answers a request: the route's name, the function, and its arguments."""
        method, path = scope["method"], scope["path"]
        handler: Callable[..., Awaitable[Answer]]
        arguments: tuple[Any, ...]
        parts = path.strip("/").split("/")
        if path not in _HEALTH:
            self._check_token(dict(scope["headers"]))
        match parts:
            case ["health" | "v2", *rest] if path in _HEALTH:
                wanted, route, handler, arguments = "GET", path, self._health, (rest[-1] == "ready",)
            case [("" | "openapi.json" | "metrics" | "models" | "v2") as name]:
                wanted, route, handler, arguments = "GET", f"/{name}", self._about, (name,)
            case ["predict"]:
                if len(self.models) > 1:
                    raise _unknown(f"there are {len(self.models)} models: {', '.join(self.models)}", self._hint())
                wanted, route, handler, arguments = "POST", "/predict", self._predict, tuple(self.models.values())
            case ["models", name, "predict"]:
                wanted, route, handler = "POST", _ROUTE, self._predict
                arguments = (self._model(name),)
            case ["v2", "models", name, *rest] if rest[:1] != ["versions"] or len(rest) > 1:
                served = self._model(name)
                if rest[:1] == ["versions"] and rest[1] != served.version:
                    raise _unknown(f"{name} has the version {served.version}, not {rest[1]}", self._hint())
                wanted, route, handler, arguments = self._protocol(
                    served, rest[2:] if rest[:1] == ["versions"] else rest
                )
            case _:
                raise _unknown(f"there is nothing at {path}", self._hint())
        if method != wanted and (method, wanted) != ("HEAD", "GET"):
            raise RequestError(
                f"{path} takes {wanted}, and this was {method}",
                status=405,
                hint=self._hint(),
                code="request-not-found",
                allow=wanted,
            )
        return route, handler, arguments

    def _protocol(self, served: Served, rest: list[str]) -> tuple[str, str, Any, tuple[Any, ...]]:
        """Return what answers in the Open Inference Protocol: method, route, function, arguments."""
        if rest == ["infer"]:
            return "POST", "/v2/models/{name}/infer", self._infer, (served,)
        if rest in ([], ["ready"]):
            return "GET", "/v2/models/{name}", self._metadata, (served, rest)
        raise _unknown(f"there is nothing at {'/'.join(rest)} of a model", self._hint())

    def _model(self, name: str) -> Served:
        if name not in self.models:
            raise _unknown(f"there is no model {name!r}", self._hint())
        return self.models[name]

    def _hint(self) -> str:
        paths = ["/predict"] if len(self.models) == 1 else [f"/models/{name}/predict" for name in self.models]
        return f"POST rows to {' or '.join(paths)}; /openapi.json describes all"

    def _check_token(self, headers: Mapping[bytes, bytes]) -> None:
        if self.token is None:
            return
        given = headers.get(b"authorization", b"")
        kind, _, value = given.partition(b" ")
        if kind.lower() == b"basic":  # what a browser asks a user for
            with suppress(NotBase64):
                value = base64.b64decode(value, validate=True).partition(b":")[2]
        if not hmac.compare_digest(value, self.token):
            raise RequestError(
                "the request has no valid token",
                status=401,
                hint="send the header Authorization: Bearer TOKEN",
                code="request-not-allowed",
            )

    async def _health(self, scope: Scope, receive: Receive, of_ready: bool) -> Answer:
        if of_ready and not self.is_ready:
            return Answer(b"stopping\n", _TEXT, 503)
        return Answer(b"ready\n" if of_ready else b"alive\n", _TEXT)

    async def _about(self, scope: Scope, receive: Receive, name: str) -> Answer:
        models = list(self.models.values())
        if name == "metrics":
            return Answer(*metrics.written())
        if name == "openapi.json":
            return Answer(encode(describe(models, has_token=self.token is not None)))
        if name == "models":
            return Answer(encode({"models": [served.facts() for served in models]}))
        if name == "v2":
            return Answer(encode({"name": "luthier", "version": VERSION, "extensions": ["binary_tensor_data"]}))
        text, policy = page(models)
        safe = ((b"content-security-policy", policy), (b"x-content-type-options", b"nosniff"))
        return Answer(text, _HTML, headers=safe)

    async def _predict(self, scope: Scope, receive: Receive, served: Served) -> Answer:
        headers = dict(scope["headers"])
        body = await self._body(headers, receive)
        answering = served.answering
        if not _is_json(headers):
            files = read_files(headers[b"content-type"].decode("latin-1"), body, answering.schema)
            found = await self._compute(lambda: answering.answer_files(files))
        elif len(body) > _SMALL:
            found = await self._compute(lambda: answering.answer(answering.read_rows(body)))
        else:
            rows = answering.read_rows(body)
            found = answering.answer_row(rows) or await self._compute(lambda: answering.answer(rows))
        return self._written(served, answering, *found)

    def _written(self, served: Served, answering: Answering, answers: list[Row], warnings: list[str]) -> Answer:
        metrics.count_rows(served.name, len(answers), len(warnings))
        return Answer(encode({"predictions": answers, "warnings": warnings}), headers=answering.headers)

    async def _infer(self, scope: Scope, receive: Receive, served: Served) -> Answer:
        headers = dict(scope["headers"])
        body = await self._body(headers, receive)
        length, answering = headers.get(b"inference-header-content-length", b""), served.answering

        def work() -> tuple[bytes, int, int]:
            request = inference.read_request(body, length, answering)
            answers, warnings = answering.answer(request.source)
            written = encode(inference.write_answers(request, answers, warnings, served.name, answering))
            return written, len(answers), len(warnings)

        written, rows, warned = await self._compute(work)
        metrics.count_rows(served.name, rows, warned)
        return Answer(written, headers=answering.headers)

    async def _metadata(self, scope: Scope, receive: Receive, served: Served, rest: list[str]) -> Answer:
        facts = {"name": served.name, "ready": True} if rest else inference.metadata(served)
        return Answer(encode(facts))

    async def _compute(self, work: Callable[[], Any]) -> Any:
        """Return what `work` gives, in a thread that computes; refuse where too many wait."""
        if self.waiting >= self.limits.max_waiting:
            raise busy(f"{self.waiting} requests wait already")
        self.waiting += 1
        try:
            async with asyncio.timeout(self.limits.timeout_s):
                return await asyncio.get_running_loop().run_in_executor(self._computing, work)
        except TimeoutError:
            raise busy(f"no answer was found within {self.limits.timeout_s:g} seconds") from None
        finally:
            self.waiting -= 1

    async def _body(self, headers: Mapping[bytes, bytes], receive: Receive) -> bytes:
        """Return the body of a request.

        Raises:
            RequestError: it is too large, too slow, cut short, or compressed.
        """
        most = self.limits.max_body_bytes
        if headers.get(b"content-encoding", b"identity") != b"identity":
            raise RequestError("the body is compressed", status=415, hint="send it as it is", code="request-unreadable")
        said = headers.get(b"content-length", b"")
        if said.isdigit() and int(said) > most:
            raise too_large(most)
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self.limits.timeout_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise RequestError("the body is cut short", status=400, code="request-unreadable")
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > most:
                        raise too_large(most)
                    if not message.get("more_body"):
                        return parts[0] if len(parts) == 1 else b"".join(parts)
        except TimeoutError:
            raise too_slow(self.limits.timeout_s) from None


def _is_json(headers: Mapping[bytes, bytes]) -> bool:
    kind = headers.get(b"content-type", b"application/json")
    return kind == b"application/json" or kind.partition(b";")[0].strip().lower() in _AS_JSON


def _unknown(message: str, hint: str) -> RequestError:
    return RequestError(message, status=404, hint=hint, code="request-not-found")
