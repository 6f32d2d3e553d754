"""Rows of several requests in one call of the network: answers to rounding, a bound on waiting, errors of one alone."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

import luthier
from luthier.http.app import App
from luthier.http.gathering import Gathered
from luthier.http.limits import Limits
from tests.http.conftest import rows


def test_rows_of_many_threads_are_one_call_and_each_gets_its_own() -> None:
    calls: list[int] = []

    def forward(inputs: Any) -> torch.Tensor:
        calls.append(len(inputs[0]))
        return inputs[0].sum(dim=(1, 2), keepdim=True)[:, 0]  # type: ignore[no-any-return]

    gathered = Gathered(forward, wait_s=0.3, max_rows=100)
    blocks = [torch.full((1 + number % 2, 1, 1 + number % 3), float(number)) for number in range(12)]
    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(lambda block: gathered((block,)), blocks))
    assert calls == [18]
    for block, part in zip(blocks, found, strict=True):
        assert torch.equal(part, block.sum(dim=(1, 2), keepdim=True)[:, 0])


def test_waiting_is_bounded_and_a_full_call_waits_for_nobody() -> None:
    gathered = Gathered(lambda inputs: inputs[0], wait_s=0.2, max_rows=4)
    start = time.monotonic()
    gathered((torch.zeros(1, 1),))
    assert 0.15 < time.monotonic() - start < 2
    start = time.monotonic()
    gathered((torch.zeros(4, 1),))
    assert time.monotonic() - start < 0.15


def test_an_error_of_one_is_no_error_of_the_others() -> None:
    def forward(inputs: Any) -> torch.Tensor:
        if (inputs[0] < 0).any():
            raise ValueError("below 0")
        return inputs[0]  # type: ignore[no-any-return]

    gathered = Gathered(forward, wait_s=0.2, max_rows=100)
    with ThreadPoolExecutor(2) as pool:
        good, bad = (pool.submit(gathered, (torch.tensor([[value]]),)) for value in (1.0, -1.0))
        assert good.result().item() == 1
        with pytest.raises(ValueError, match="below 0"):
            bad.result()


@pytest.mark.parametrize("kind", ["text", "series", "photos"])
def test_answers_are_those_of_predict_to_rounding(bundle: Callable[[str], Path], kind: str) -> None:
    path = bundle(kind)
    app = App([str(path)], limits=Limits(gather_s=0.05))
    model = luthier.load(path)
    if kind == "photos":
        files = sorted((path.parent / "photos" / "dark").glob("*.png"))[:8]
        asked: list[dict[str, Any]] = [
            {"content": file.read_bytes(), "headers": {"content-type": "image/png"}} for file in files
        ]
        wanted = [model.predict_proba(file)[0] for file in files]
    else:
        given = [{"s": [0.5] * (1 + i)} if kind == "series" else {"t": "good film " * (1 + i)} for i in range(8)]
        asked = [{"json": {"rows": [row]}} for row in given]
        wanted = [model.predict_proba([row])[0] for row in given]

    async def ask() -> list[Any]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            answers = await asyncio.gather(*(client.post("/predict", **one) for one in asked))
            return [answer.json()["predictions"][0] for answer in answers]

    for row, chances in zip(asyncio.run(ask()), wanted, strict=True):
        found = [value for name, value in row.items() if name.startswith("probability_")]
        assert found == pytest.approx(chances, abs=1e-5)


def test_one_row_of_a_table_does_not_wait(bundle: Callable[[str], Path]) -> None:
    from tests.http.conftest import Client

    client = Client(App([str(bundle("words"))], limits=Limits(gather_s=0.5)))
    start = time.monotonic()
    client.predict(json={"rows": rows(1)})
    assert time.monotonic() - start < 0.4
