"""Workers of `luthier serve`: uvicorn's, on one socket, which restarts one that dies and stops all in order."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from luthier.errors import MissingPackageError, RunError, SettingError
from luthier.http.app import App, Limits


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
        report: Called with the address when the socket is bound.

    Raises:
        BundleError: a model cannot be loaded.
        RunError: the address is taken.
    """
    try:
        import uvicorn
        from uvicorn.supervisors import Multiprocess
    except ImportError as error:
        raise MissingPackageError(
            f"luthier serve needs the package {error.name}, which is not installed",
            hint="pip install 'luthier[serve]'",
            code="missing-package",
        ) from error
    make = partial(App, list(models), limits=limits, token=token)
    make()  # what is wrong with a model is said here, once
    config = uvicorn.Config(
        make if workers > 1 else make(),
        factory=workers > 1,
        host=host,
        port=port,
        workers=workers,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=30,
    )
    try:
        sockets = [config.bind_socket()]
    except SystemExit as error:
        raise RunError(
            f"{host}:{port} cannot be bound: another program may listen there",
            hint="choose another port=, or 0 for a free one",
            code="run-cannot-write",
        ) from error
    if report is not None:
        report("http://{}:{}".format(*sockets[0].getsockname()[:2]))
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
    if workers > 1:
        Multiprocess(config, sockets=sockets).run()
    else:
        uvicorn.Server(config).run(sockets=sockets)
