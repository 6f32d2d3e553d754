"""The process in front, over workers of a test."""

import asyncio
import time
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from luthier.http.awake import Awake
from luthier.http.front import Front
from luthier.http.limits import Limits
from luthier.http.workers import Request, Upstream, Worker

_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


def test_a_worker_whose_connections_are_all_lost_counts_once(tmp_path: Path) -> None:
    async def run() -> tuple[bytes | None, Request]:
        front = Front({}, 2, limits=Limits(), folder=tmp_path, grace_s=1)
        front.loop = asyncio.get_running_loop()
        front.begun = front.loop.create_future()
        open_ones: list[asyncio.StreamWriter] = []
        its_own: list[asyncio.StreamWriter] = []
        upstreams: list[Upstream] = []
        ours, theirs = Pipe()

        async def die(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            its_own.append(writer)
            if await reader.read(1):
                dying.close()
                (tmp_path / "dying").unlink()
                for one in its_own:
                    one.close()

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            open_ones.append(writer)
            if await reader.read(1):
                writer.write(_ANSWER)

        dying = await asyncio.start_unix_server(die, tmp_path / "dying")
        living = await asyncio.start_unix_server(answer, tmp_path / "living")
        for name in ("dying", "living"):
            process: Any = SimpleNamespace(is_alive=lambda: True)
            worker = Worker(process, ours, tmp_path / name, is_up=True, was_up=True)
            front.workers.append(worker)
            for _ in range(6):
                worker.put(await worker.connect(front._lost))
            upstreams.extend(worker.idle)
        answered = front.loop.create_future()
        request = Request(b"x", lambda _, found: answered.set_result(found))
        front.ask(request)
        found = await asyncio.wait_for(answered, 10)
        for task in front.tasks:
            task.cancel()
        for transport in [*(one.transport for one in upstreams), *(one.transport for one in open_ones)]:
            transport.abort()
        living.close()
        ours.close()
        theirs.close()
        await asyncio.sleep(0.1)  # until the transports are closed
        return found, request

    found, request = asyncio.run(run())
    assert found == _ANSWER
    assert len(request.tried) == 1


def test_a_loop_stays_awake_for_a_moment_where_one_client_asks_alone(monkeypatch: Any) -> None:
    monkeypatch.setattr("luthier.http.awake._PROCESSORS", 2)

    async def run(clients: int, pause_s: float) -> tuple[bool, bool]:
        awake, some = Awake(), [object() for _ in range(clients)]
        for i in range(100):
            awake.heard(some[i % clients])
            time.sleep(pause_s)
        was_on = awake.is_on
        await asyncio.sleep(0.1)
        return was_on, awake.is_on

    assert asyncio.run(run(1, 0)) == (True, False)
    assert asyncio.run(run(2, 0)) == (False, False)
    assert asyncio.run(run(1, 0.001)) == (False, False)
