"""Servers of one bundle by other means, for `benchmarks.serving`.

python serving_rivals.py fastapi|litserve BUNDLE PORT WORKERS
"""

import sys
from typing import Any

import numpy as np

import luthier

NAME, BUNDLE, PORT, WORKERS = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])


def answer(model: luthier.Model, row: dict[str, Any]) -> dict[str, Any]:
    """Return what `luthier serve` answers for a row, by one call of the model."""
    assert model.schema is not None
    classes = model.schema.targets[0].classes
    chances = model.predict_proba(row)[0]
    named = {f"probability_{name}": float(value) for name, value in zip(classes, chances, strict=True)}
    return {"prediction": classes[int(np.argmax(chances))], **named}


def fastapi() -> None:
    """A route as its tutorial writes it: typed rows, uvicorn with its fast parts and as many workers."""
    import uvicorn

    uvicorn.run(
        "serving_rivals:make_app", factory=True, port=PORT, workers=WORKERS, log_level="warning", access_log=False
    )


def make_app() -> Any:
    """Return the application of a worker."""
    from fastapi import FastAPI
    from pydantic import BaseModel, create_model

    model = luthier.load(BUNDLE)
    assert model.schema is not None
    kinds = {column.name: float if column.kind == "number" else str for column in model.schema.inputs}
    fields: dict[str, Any] = {name: (kind | None, ...) for name, kind in kinds.items()}
    row: Any = create_model("Row", **fields)

    class Rows(BaseModel):
        rows: list[row]

    app = FastAPI()

    @app.post("/predict")  # type: ignore[untyped-decorator]
    async def predict(given: Rows) -> dict[str, Any]:
        return {"predictions": [answer(model, one.model_dump()) for one in given.rows]}

    return app


if NAME == "litserve":  # here, as its workers import this file anew
    import litserve

    class API(litserve.LitAPI):
        """As its tutorial writes it."""

        def setup(self, device: str) -> None:
            """Load the model in a worker."""
            self.model = luthier.load(BUNDLE)

        def decode_request(self, request: dict[str, Any], **_: Any) -> Any:
            """Return the rows."""
            return request["rows"]

        def predict(self, rows: Any, **_: Any) -> Any:
            """Return an answer for each."""
            return [answer(self.model, row) for row in rows]

        def encode_response(self, output: Any, **_: Any) -> Any:
            """Return the body."""
            return {"predictions": output}


def run_litserve() -> None:
    """LitServe with as many workers, and as many processes that take requests."""
    server = litserve.LitServer(API(), accelerator="cpu", workers_per_device=WORKERS)
    server.run(port=PORT, num_api_servers=WORKERS, log_level="warning", access_log=False, generate_client_file=False)


if __name__ == "__main__":
    {"fastapi": fastapi, "litserve": run_litserve}[NAME]()
