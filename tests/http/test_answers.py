"""Answers over HTTP are those of `Model.predict` on the same rows, to the bit, in whatever body the rows come."""

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import luthier
from luthier.errors import BundleError
from luthier.http.app import App
from tests.http.conftest import TARGETS, Client, rows

Bundle = Callable[[str], Path]


def expected(model: luthier.Model, given: Any) -> list[dict[str, Any]]:
    """Return what the model says by its public calls, as columns of an answer."""
    assert model.schema is not None
    answers, targets = model.predict(given), model.schema.targets
    found: dict[str, Any] = {}
    if model.task == "regression":
        names = ["prediction"] if len(targets) == 1 else [f"prediction_{target.name}" for target in targets]
        found = dict(zip(names, answers.reshape(len(answers), -1).T.tolist(), strict=True))
        if model.answering.level is not None:
            ends = model.predict_interval(given)
            found |= {"prediction_low": ends[:, 0].tolist(), "prediction_high": ends[:, 1].tolist()}
    else:
        chances = model.predict_proba(given)
        if model.task == "multilabel":
            found |= {f"prediction_{target.name}": answers[:, i].tolist() for i, target in enumerate(targets)}
            names = [f"probability_{target.name}" for target in targets]
        else:
            found["prediction"] = answers.tolist()
            names = [f"probability_{name}" for name in targets[0].classes]
        if model.answering.least_probability is not None:
            which = model.predict_interval(given)
            found["prediction_set"] = ["|".join(np.array(targets[0].classes)[row]) for row in which]
        found |= dict(zip(names, chances.T.tolist(), strict=True))
    return [dict(zip(found, values, strict=True)) for values in zip(*found.values(), strict=True)]


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("kind", TARGETS)
def test_rows_of_json_get_the_answers_of_predict(bundle: Bundle, kind: str, count: int) -> None:
    path = bundle(kind)
    given = rows(count)
    answer = Client(App([str(path)])).predict(json={"rows": given})
    model = luthier.load(path)
    # a dict is one row, and a list a batch: one row of either is computed alike
    assert answer["predictions"] == expected(model, given[0] if count == 1 and _is_dict(model) else given)
    assert answer["warnings"] == []


def _is_dict(model: luthier.Model) -> bool:
    return model.answering.level is None


@pytest.mark.parametrize("kind", ["csv", "parquet", "form"])
def test_files_get_the_answers_of_rows(client: Client, bundle: Bundle, kind: str) -> None:
    frame = pl.DataFrame(rows(7))
    if kind == "parquet":
        frame.write_parquet(kept := io.BytesIO())
        given: dict[str, Any] = {"content": kept.getvalue(), "headers": {"content-type": "application/x-parquet"}}
    elif kind == "csv":
        given = {"content": frame.write_csv().encode(), "headers": {"content-type": "text/csv; charset=utf-8"}}
    else:
        given = {"files": {"file": ("mine.csv", frame.write_csv().encode())}}
    assert client.predict(**given)["predictions"] == expected(luthier.load(bundle("words")), frame)


def test_images_get_the_answers_of_their_folder(bundle: Bundle) -> None:
    path = bundle("photos")
    client, folder = Client(App([str(path)])), path.parent / "photos" / "light"
    files = sorted(folder.glob("*.png"))[:3]
    form = [("file", (file.name, file.read_bytes())) for file in files]
    found = client.predict(files=form)["predictions"]
    alone = client.predict(content=files[0].read_bytes(), headers={"content-type": "image/png"})["predictions"]
    model = luthier.load(path)
    assert alone == [{**expected(model, files[0])[0], "error": None}]
    assert [row["prediction"] for row in found] == [model.predict(file)[0] for file in files]
    answer = client.predict(files=[*form, ("file", ("x.png", b"no image"))])
    broken = answer["predictions"]
    assert [row["prediction"] for row in broken[:3]] == [row["prediction"] for row in found]
    assert answer["warnings"] == ["1 of 4 images could not be read; the column error says why"]
    assert broken[3]["prediction"] is None
    assert broken[3]["error"] == "image 00003.png cannot be read: it is not an image in a supported format"


def test_images_in_rows_come_in_base64(bundle: Bundle) -> None:
    path = bundle("shots")
    client, files = Client(App([str(path)])), [path.parent / "shots" / f"{i}.png" for i in range(3)]
    coded = [base64.b64encode(file.read_bytes()).decode() for file in files]
    sent = [coded[0], f"data:image/png;base64,{coded[1]}", coded[2], None, base64.b64encode(b"no image").decode()]
    answer = client.predict(json={"rows": [{"shot": cell, "size": 0.5} for cell in sent]})
    given = [{"shot": str(file), "size": 0.5} for file in files] + [{"shot": None, "size": 0.5}]
    wanted = [{**row, "error": None} for row in expected(luthier.load(path), given)]
    assert answer["predictions"][:4] == wanted
    assert answer["predictions"][4]["prediction"] is None
    assert answer["predictions"][4]["error"].startswith("image of row 5 cannot be read: it is not an image")
    for cell in (str(files[0]), 3, "====", "é"):  # a path is text as any other
        refused = client("POST", "/predict", json={"rows": [{"shot": coded[0], "size": 1}, {"shot": cell, "size": 1}]})
        assert (refused.status_code, refused.json()["row"], refused.json()["column"]) == (422, 2, "shot"), cell
    table = pl.DataFrame(given).write_csv().encode()
    refused = client("POST", "/predict", content=table, headers={"content-type": "text/csv"})
    assert (refused.status_code, refused.json()["hint"]) == (415, "send rows as JSON, with each image in base64")
    tensors = [("shot", "BYTES", coded[:2]), ("size", "FP64", [0.5, 0.5])]
    inputs = [{"name": name, "datatype": kind, "shape": [2], "data": data} for name, kind, data in tensors]
    found = client("POST", "/v2/models/shots/infer", json={"inputs": inputs}).json()["outputs"]
    assert found[0]["data"] == [row["prediction"] for row in wanted[:2]]


def test_a_network_of_an_own_file_answers_where_it_is_named(bundle: Bundle) -> None:
    path = bundle("own")
    network = f"{path.parent / 'nets.py'}:Net"
    with pytest.raises(BundleError, match="runs no code that only a file names"):
        App([str(path)])
    answer = Client(App([str(path)], network=network)).predict(json={"rows": rows(5)})
    assert answer["predictions"] == expected(luthier.load(path, network=network), rows(5))


@pytest.mark.parametrize("kind", ["series", "text"])
def test_series_and_text_come_as_json(bundle: Bundle, kind: str) -> None:
    given: list[dict[str, Any]] = [{"s": [0.5, 1.0, None, 2.0]}, {"s": [1.0]}]
    if kind == "text":
        given = [{"t": "good film"}, {"t": None}]
    found = Client(App([str(bundle(kind))])).predict(json={"rows": given})["predictions"]
    assert found == expected(luthier.load(bundle(kind)), given)


def test_cells_unlike_training_rows_are_warned_of_in_the_answer(client: Client, caplog: Any) -> None:
    odd = {**rows(1)[0], "city": "Mars <b>", "size": 1e6}
    warnings = client.predict(json={"rows": [odd]})["warnings"]
    assert len(warnings) == 2
    assert warnings[0] == "column 'city': 1 cell is of no category that training rows have"
    assert warnings[1].startswith("column 'size': 1 cell is above the training range")
    unread = client.predict(json={"rows": [{**odd, "size": "many"}]})["warnings"]
    assert "column 'size': 1 cell is not a number, and counts as missing" in unread
    assert not caplog.records  # the log holds nothing of the data


def test_models_have_names_and_versions(bundle: Bundle) -> None:
    client = Client(App([str(bundle("words")), str(bundle("number"))]))
    one, other = client("GET", "/models").json()["models"]
    assert (one["name"], other["name"]) == ("words", "number")
    answer = client("POST", "/models/number/predict", json={"rows": rows(1)})
    assert answer.headers["luthier-model-version"] == other["version"]
    refused = client("POST", "/predict", json={"rows": rows(1)})
    assert refused.status_code == 404
    assert "/models/words/predict or /models/number/predict" in refused.json()["hint"]
