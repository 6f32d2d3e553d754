"""What is refused, with which status, and what is said; tokens, health, figures, a changed file."""

import asyncio
import json
import logging
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

import luthier
from luthier.errors import BundleError, SettingError
from luthier.http import app as application
from luthier.http.app import App
from luthier.http.limits import Limits
from luthier.http.served import find_names
from tests.http.conftest import Client, rows

Bundle = Callable[[str], Path]


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in rows(1)[0].items() if key != name}


@pytest.mark.parametrize(
    ("body", "status", "said", "where"),
    [
        (b"{", 400, "not JSON", {}),
        (b"\xff{}", 400, "not JSON", {}),
        (b"[" * 100_000, 400, "not JSON", {}),
        (b"{}", 422, "no list of rows", {}),
        (b'{"rows": 3}', 422, "no list of rows", {}),
        (b'{"rows": []}', 422, "there are no rows", {}),
        (b'{"rows": [3]}', 422, "row 1 is not an object", {"row": 1}),
        ({"rows": [rows(1)[0], without("city")]}, 422, "row 2 lacks the column 'city'", {"row": 2, "column": "city"}),
        ({"rows": [{**rows(1)[0], "city": [1]}]}, 422, "column 'city' is a list", {"row": 1, "column": "city"}),
        ({"rows": rows(4)}, 413, "more than 3 rows", {}),
        (b" " * 3000, 413, "more than 2,000 bytes", {}),
    ],
)
def test_a_bad_body_is_refused_by_row_and_column(
    bundle: Bundle, body: Any, status: int, said: str, where: dict[str, Any]
) -> None:
    client = Client(App([str(bundle("words"))], limits=Limits(max_rows=3, max_body_bytes=2000)))
    given = {"content": body} if isinstance(body, bytes) else {"json": body}
    if body == b"[" * 100_000:
        client = Client(App([str(bundle("words"))]))
    answer = client("POST", "/predict", **given)
    found = answer.json()
    assert (answer.status_code, {key: found[key] for key in ("row", "column") if key in found}) == (status, where)
    assert said in found["error"]
    assert found["hint"]
    assert luthier.explain(found["code"])


def test_columns_of_no_use_cost_nothing(client: Client) -> None:
    given = [{**row, f"extra {number}-{place}": 1} for number in range(40) for place, row in enumerate(rows(80))]
    start = time.perf_counter()
    assert len(client.predict(json={"rows": given})["predictions"]) == 3200  # a table of 3,200 columns takes minutes
    assert time.perf_counter() - start < 20


@pytest.mark.parametrize(
    ("kind", "content", "status", "said"),
    [
        ("text/csv", b"size,city\n1,2\n", 422, "lacks 2 columns"),
        ("text/csv", b"", 422, "00000.csv"),
        ("application/x-parquet", b"PAR1 no", 422, "00000.parquet"),
        ("image/png", b"x", 415, "the model takes a table"),
        ("application/zip", b"x", 415, "application/zip"),
        ("multipart/form-data", b"x", 400, "form cannot be read"),
        ("multipart/form-data; boundary=a", b"--a--\r\n", 415, "the form has 0 files"),
    ],
)
def test_a_bad_file_is_refused(client: Client, kind: str, content: bytes, status: int, said: str) -> None:
    answer = client("POST", "/predict", content=content, headers={"content-type": kind})
    assert answer.status_code == status, answer.text
    assert said in answer.json()["error"]
    assert "/tmp" not in answer.text


def test_too_many_rows_of_a_file_and_too_many_pixels_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    client = Client(App([str(bundle("words"))], limits=Limits(max_rows=3)))
    text = "size,city,day,paid\n" + "1,Bonn,2024-01-01,yes\n" * 4
    assert client("POST", "/predict", content=text, headers={"content-type": "text/csv"}).status_code == 413
    Image.fromarray(np.zeros((200, 200, 3), dtype=np.uint8)).save(path := tmp_path / "large.png")
    client = Client(App([str(bundle("photos"))], limits=Limits(max_pixels=30_000)))
    answer = client("POST", "/predict", content=path.read_bytes(), headers={"content-type": "image/png"})
    assert answer.status_code == 413
    assert "200 x 200 pixels, and 30,000 are allowed" in answer.json()["error"]


@pytest.mark.parametrize(
    ("method", "path", "status", "said"),
    [
        ("GET", "/predict", 405, "takes POST"),
        ("POST", "/health", 404, "nothing at /health"),
        ("POST", "/models/none/predict", 404, "no model 'none'"),
        ("DELETE", "/", 405, "takes GET"),
        ("GET", "/v2/models/words/versions/9", 404, "has the version"),
        ("GET", "/v2/models/words/else", 404, "nothing"),
    ],
)
def test_a_wrong_address_or_method_is_refused(client: Client, method: str, path: str, status: int, said: str) -> None:
    answer = client(method, path)
    assert answer.status_code == status
    assert said in answer.json()["error"]


def test_a_compressed_body_is_refused(client: Client) -> None:
    answer = client("POST", "/predict", content=b"x", headers={"content-encoding": "gzip"})
    assert answer.status_code == 415


def test_a_slow_or_cut_body_is_refused(bundle: Bundle) -> None:
    app = App([str(bundle("words"))], limits=Limits(timeout_s=0.05))
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def ask(*messages: Any) -> int:
        waiting = iter(messages)

        async def receive() -> Any:
            found = next(waiting, None)
            return found if found is not None else await asyncio.sleep(60)

        sent.clear()
        scope = {"type": "http", "method": "POST", "path": "/predict", "headers": []}
        await app(scope, receive, send)
        return int(sent[0]["status"])

    part = {"type": "http.request", "body": b"{", "more_body": True}
    assert asyncio.run(ask(part)) == 408
    assert asyncio.run(ask(part, {"type": "http.disconnect"})) == 400


def test_a_token_is_asked_for_but_by_health(bundle: Bundle) -> None:
    client = Client(App([str(bundle("words"))], token="s3cret"))
    for path in ("/", "/openapi.json", "/metrics", "/models"):
        refused = client("GET", path)
        assert (refused.status_code, refused.headers["www-authenticate"][:6]) == (401, "Bearer")
        assert client("GET", path, headers={"authorization": "Bearer s3cret"}).status_code == 200
        assert client("GET", path, auth=("anyone", "s3cret")).status_code == 200
    for wrong in ("", "Bearer", "Bearer s3cret ", "Bearer S3cret", "Basic !!", "s3cret"):
        assert client("POST", "/predict", headers={"authorization": wrong}).status_code == 401
    assert client("GET", "/health/ready").status_code == 200


def test_figures_are_read_by_a_parser_of_prometheus(client: Client) -> None:
    def figures() -> dict[tuple[str, str], float]:
        families = text_string_to_metric_families(client("GET", "/metrics").text)
        found = [sample for family in families for sample in family.samples]
        return {(one.name, json.dumps(one.labels, sort_keys=True)): one.value for one in found}

    before = figures()
    client.predict(json={"rows": rows(3)})
    client("POST", "/predict", content=b"{")
    after = figures()

    def gained(name: str, **labels: str) -> float:
        key = name, json.dumps(labels, sort_keys=True)
        return after[key] - before.get(key, 0)

    assert gained("luthier_requests_total", route="/predict", status="200") == 1
    assert gained("luthier_requests_total", route="/predict", status="400") == 1
    assert gained("luthier_rows_total", model="words") == 3
    assert gained("luthier_request_seconds_count", route="/predict") == 2


def test_the_log_has_a_line_a_request_and_none_of_its_data(bundle: Bundle, caplog: Any) -> None:
    client = Client(App([str(bundle("words"))], logs_requests=True))
    with caplog.at_level(logging.INFO, logger="luthier.http"):
        client("POST", "/predict?who=me", json={"rows": [{**rows(1)[0], "city": "secret"}]}, headers={"x-a": "secret"})
        client("GET", "/secret")
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0].startswith("POST /predict 200, ")
    assert lines[1].startswith("GET none 404, ")
    assert "secret" not in caplog.text


def test_a_fault_is_logged_without_the_data(client: Client, monkeypatch: Any, caplog: Any) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr("luthier.http.answering.Answering.answer", fail)
    answer = client("POST", "/predict", json={"rows": rows(2)})
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert "RuntimeError at" in caplog.text
    assert "secret" not in caplog.text + answer.text


def test_too_many_waiting_requests_are_refused(bundle: Bundle) -> None:
    app = App([str(bundle("words"))], limits=Limits(max_waiting=2))

    async def ask() -> list[int]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            asked = (client.post("/predict", json={"rows": rows(2)}) for _ in range(8))
            return [answer.status_code for answer in await asyncio.gather(*asked)]

    statuses = asyncio.run(ask())
    assert sorted(set(statuses)) == [200, 503]
    assert statuses.count(200) >= 2


def test_a_changed_file_is_read_and_a_broken_one_is_not(
    bundle: Bundle, tmp_path: Path, monkeypatch: Any, caplog: Any
) -> None:
    monkeypatch.setattr(application, "_LOOKS_S", 0.02)
    path = tmp_path / "model.safetensors"
    shutil.copy(bundle("words"), path)
    app = App([str(path)])
    served = app.models[tmp_path.name]

    async def change(version: str, source: Path | None) -> None:
        beside = tmp_path / "beside"
        beside.write_bytes(b"broken" if source is None else source.read_bytes())
        beside.replace(path)
        for _ in range(500):
            await asyncio.sleep(0.02)
            if served.version != version or (source is None and "cannot be read" in caplog.text):
                return

    async def live() -> list[str]:
        events: asyncio.Queue[Any] = asyncio.Queue()
        await events.put({"type": "lifespan.startup"})
        done: asyncio.Queue[Any] = asyncio.Queue()
        living = asyncio.create_task(app({"type": "lifespan"}, events.get, done.put))
        await done.get()
        first = served.version
        await change(first, bundle("number"))
        second = served.version
        await change(second, None)
        third = served.version
        await events.put({"type": "lifespan.shutdown"})
        await living
        return [first, second, third]

    first, second, third = asyncio.run(live())
    assert first != second == third
    assert served.answering.schema.task == "regression"


def test_models_that_cannot_be_served_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BundleError):
        App([str(tmp_path / "none.safetensors")])
    with pytest.raises(SettingError, match="both called 'words'"):
        find_names([str(bundle("words")), str(bundle("words"))])


def test_serving_imports_no_training() -> None:
    code = "import sys, luthier.http.app; print([n for n in sys.modules if 'training' in n or 'pipeline' in n])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "luthier" not in said
