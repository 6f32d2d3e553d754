"""What a web framework costs: a route that reads a small JSON body and sends one, in one worker of uvicorn.

    python -m benchmarks.frameworks [--rounds 3] [--seconds 3]

Bare ASGI, Starlette, and FastAPI with a pydantic model where it is installed, in turns, by wrk on 16 connections.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import timeit
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.serving import ask, load

ROW = {"prediction": "yes", "probability_yes": 0.123}
BODY = json.dumps({"rows": [{"a": 1.5, "b": "x", "c": 3, "d": "yes", "e": 2.25}]}).encode()


def make(name: str) -> Any:
    """Return the application by one way."""
    import msgspec

    answer = msgspec.json.encode({"predictions": [ROW]})
    if name == "starlette":
        from starlette.applications import Starlette
        from starlette.responses import Response
        from starlette.routing import Route

        async def predict(request: Any) -> Any:
            msgspec.json.decode(await request.body())
            return Response(answer, media_type="application/json")

        return Starlette(routes=[Route("/predict", predict, methods=["POST"])])
    if name == "fastapi":
        from fastapi import FastAPI
        from pydantic import BaseModel

        app = FastAPI()

        class Rows(BaseModel):
            rows: list[dict[str, Any]]

        @app.post("/predict")  # type: ignore[untyped-decorator]
        async def predict_typed(rows: Rows) -> dict[str, Any]:
            return {"predictions": [ROW]}

        return app

    async def bare(scope: Any, receive: Any, send: Any) -> None:
        msgspec.json.decode((await receive())["body"])
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    return bare


def main() -> None:
    """Measure and print; or, with `--serve`, be the server."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--serve", nargs=2, metavar=("NAME", "PORT"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        import uvicorn

        uvicorn.run(make(given.serve[0]), port=int(given.serve[1]), log_level="error", access_log=False, lifespan="off")
        return
    names = ["bare", "starlette", *(["fastapi"] if find_spec("fastapi") else [])]
    rates: dict[str, list[float]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(given.rounds):
            for name in names:
                with socket.create_server(("127.0.0.1", 0)) as free:
                    port = free.getsockname()[1]
                command = [sys.executable, "-m", "benchmarks.frameworks", "--serve", name, str(port)]
                server = subprocess.Popen(command, start_new_session=True, env=dict(os.environ))
                for _ in range(200):
                    with suppress(OSError):
                        ask(port, "/predict", BODY)
                        break
                    time.sleep(0.1)
                found = load(port, "/predict", BODY, 16, given.seconds, server.pid, Path(folder))
                rates[name].append(found["rate"])
                server.terminate()
                server.wait()
    for name, found_rates in rates.items():
        print(f"{name:10} {', '.join(f'{rate:,.0f}' for rate in found_rates)} requests a second")
    import msgspec

    typed = msgspec.json.Decoder(dict[str, list[dict[str, bool | int | float | str | None]]]).decode
    for name, read in (("msgspec, typed", typed), ("json", json.loads)):
        times = timeit.repeat(lambda read=read: read(BODY), number=20_000, repeat=5)
        print(f"{name:15} {1e6 * min(times) / 20_000:.2f} µs a body")


if __name__ == "__main__":
    main()
