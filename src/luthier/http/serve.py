"""The server: one process that answers, or one in front of several that do."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from luthier.errors import RunError, SettingError
from luthier.http.limits import Limits
from luthier.http.workers import SOCKETS, lacks, make_app

_GRACE_S = 30
_OPEN_S = 10**9  # for connections within the server
_STDERR = {"class": "logging.StreamHandler", "formatter": "plain", "stream": "ext://sys.stderr"}
_LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "%(asctime)s %(process)d %(levelname)s %(message)s"}},
    "handlers": {"stderr": _STDERR},
    "loggers": {
        "uvicorn": {"handlers": ["stderr"], "level": "WARNING", "propagate": False},
        "luthier.http": {"handlers": ["stderr"], "level": "INFO", "propagate": False},
    },
}


def read_token(file: str | None) -> str | None:
    """Return the token that clients must send: from a file, or the variable LUTHIER_TOKEN; None for none.

    Raises:
        SettingError: there is no such file, or it is empty.
    """
    if file is None:
        return os.environ.get("LUTHIER_TOKEN") or None
    path = Path(file)
    token = path.read_text(encoding="utf-8").strip() if path.is_file() else ""
    if not token:
        raise SettingError(f"{file} holds no token", hint="write it into the file, on one line", code="setting-token")
    return token


def serve(
    models: Sequence[str],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    workers: int = 1,
    limits: Limits | None = None,
    token: str | None = None,
    logs_requests: bool = False,
    network: str | None = None,
    report: Callable[[str], Any] | None = None,
) -> None:
    """Answer over HTTP until SIGTERM or Ctrl-C; requests that were accepted are answered before it ends.

    Args:
        models: Bundles, or folders of runs.
        host: The address to listen at.
        port: The port; 0 is a free one.
        workers: Processes. One that dies is started anew.
        limits: For each request.
        token: What clients must send as `Authorization: Bearer TOKEN`.
        logs_requests: Log a line for each request, without the data.
        network: For a network from your own file, that file and class; each worker runs its code.
        report: Called with the address once the server answers.

    Raises:
        BundleError: a model cannot be loaded.
        RunError: the address is taken.
        SettingError: several workers on Windows.
    """
    if workers > 1 and sys.platform == "win32":
        raise SettingError(
            f"workers is {workers}, and several workers need Unix sockets and signals, which Windows lacks",
            hint="use workers=1",
            code="setting-processes",
        )
    # in memory where there is such a place: a full disk would kill the workers, whose figures are mapped files
    shared = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = tempfile.TemporaryDirectory(prefix="luthier-metrics-", dir=shared)
    if workers > 1:  # before the library is imported, here and in each worker
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder.name
    make = partial(make_app, list(models), limits=limits, token=token, logs_requests=logs_requests, network=network)
    app = make() if workers == 1 else None  # what is wrong with a model is said here, once
    try:
        import uvicorn

        from luthier.http.front import Front
        from luthier.http.protocol import Protocol, WorkerProtocol
    except ImportError as error:
        raise lacks(error) from error
    settings: dict[str, Any] = {
        "log_config": _LOGGING, "access_log": False, "http": Protocol, "server_header": False, "proxy_headers": False,
        "timeout_graceful_shutdown": _GRACE_S, "ws": "none",
    }  # fmt: skip
    try:
        bound = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise RunError(
            f"{host}:{port} is an address that the server cannot listen at: {error.strerror or error}",
            hint="choose another port=, or 0 for a free one",
            code="run-address",
        ) from error
    address = bound.getsockname()
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
    sockets = [bound.dup() for _ in range(SOCKETS)]
    bound.close()  # so that nobody listens once these are closed
    shown = f"http://{f'[{address[0]}]' if ':' in address[0] else address[0]}:{address[1]}"

    def begun() -> None:
        if report is not None:
            report(shown)

    with folder, suppress(KeyboardInterrupt):  # which ends a server that has stopped in order
        if app is not None:
            begun()
            uvicorn.Server(uvicorn.Config(app, **settings)).run(sockets=sockets)
            return
        of_worker = {**settings, "app": make, "http": WorkerProtocol, "timeout_keep_alive": _OPEN_S}
        front = Front(of_worker, workers, limits=limits or Limits(), folder=Path(folder.name), grace_s=_GRACE_S)
        with asyncio.Runner(loop_factory=uvicorn.Config(make, **settings).get_loop_factory()) as runner:
            runner.run(front.run(sockets, begun))
