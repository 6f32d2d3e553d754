"""The Open Inference Protocol by the real client of Triton, over a real socket; the description by its own schema."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn

import luthier
from luthier.http.app import App
from tests.http.conftest import Client, rows

Bundle = Callable[[str], Path]
triton = pytest.importorskip("tritonclient.http")


@pytest.fixture(scope="module")
def address(bundle: Bundle) -> Iterator[str]:
    """A server on a free port, in a thread."""
    app = App([str(bundle(kind)) for kind in ("words", "whole", "photos")])
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    host, port = server.servers[0].sockets[0].getsockname()[:2]
    yield f"{host}:{port}"
    server.should_exit = True
    thread.join()


def inputs(client: Any, model: str, given: list[dict[str, Any]], *, binary: bool) -> list[Any]:
    found = []
    for tensor in client.get_model_metadata(model)["inputs"]:
        kind = object if tensor["datatype"] == "BYTES" else np.float64
        values = np.array([row[tensor["name"]] for row in given], dtype=kind)
        made = triton.InferInput(tensor["name"], [len(given)], tensor["datatype"])
        made.set_data_from_numpy(values, binary_data=binary)
        found.append(made)
    return found


@pytest.mark.parametrize("binary", [True, False])
def test_a_table_is_answered_as_by_predict(address: str, bundle: Bundle, binary: bool) -> None:
    with triton.InferenceServerClient(address) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("whole")
        answer = client.infer("whole", inputs(client, "whole", rows(5), binary=binary), request_id="r7")
        some = client.infer(
            "words",
            inputs(client, "words", rows(2), binary=binary),
            outputs=[triton.InferRequestedOutput("prediction")],
        )
        version = client.get_model_metadata("words")["versions"][0]
        assert client.get_model_metadata("words", model_version=version)["platform"] == "luthier"
    model = luthier.load(bundle("whole"))
    assert answer.get_response()["id"] == "r7"
    assert np.array_equal(answer.as_numpy("prediction"), model.predict(rows(5)))
    assert np.array_equal(answer.as_numpy("probability_2"), model.predict_proba(rows(5))[:, 1])
    assert [one["name"] for one in some.get_response()["outputs"]] == ["prediction"]
    assert list(some.as_numpy("prediction")) == luthier.load(bundle("words")).predict(rows(2)).tolist()


def test_images_are_answered_as_by_predict(address: str, bundle: Bundle) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (4, 3, 16, 16)).astype(np.uint8)
    with triton.InferenceServerClient(address) as client:
        tensor = triton.InferInput("pixels", pixels.shape, "UINT8")
        tensor.set_data_from_numpy(pixels)
        answer = client.infer("photos", [tensor])
    model = luthier.load(bundle("photos"))
    assert list(answer.as_numpy("prediction")) == model.predict(pixels).tolist()
    assert np.array_equal(answer.as_numpy("probability_dark"), model.predict_proba(pixels)[:, 0])


@pytest.mark.parametrize(
    ("body", "header", "said"),
    [
        (b"{", "", "not an inference request"),
        (b'{"inputs": []}', "", "'size' is missing"),
        (b'{"inputs": []}', "99", "does not suit the body"),
        (b'{"inputs": [{"name": "size", "shape": [2], "datatype": "FP64", "data": [1]}]}', "", "of shape [2]"),
        (b'{"inputs": [{"name": "size", "shape": [1], "datatype": "X", "data": [1]}]}', "", "type 'X'"),
        (b'{"inputs": [{"name": "size", "shape": [-1], "datatype": "INT8", "data": [{}]}]}', "", "cannot be read"),
        (b'{"inputs": [], "outputs": [{"name": "o"}]}', "", "no output 'o'"),
        (
            b'{"inputs": [{"name": "s", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": 6}}]}'
            b"\xff\0\0\0ab",
            "99",
            "cannot be read as BYTES",
        ),
    ],
)
def test_a_bad_request_is_refused(bundle: Bundle, body: bytes, header: str, said: str) -> None:
    client = Client(App([str(bundle("words"))]))
    header = str(len(body) - 6) if header and len(body) > 60 else header
    headers = {"inference-header-content-length": header} if header else {}
    answer = client("POST", "/v2/models/words/infer", content=body, headers=headers)
    assert answer.status_code == 400, answer.text
    assert said in answer.json()["error"]
