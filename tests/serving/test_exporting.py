"""An export answers as the model does: every family and task, edge rows, wrong calls, a difference that is planted."""

import io
import json
import random
import sys
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import polars as pl
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

import luthier
from luthier.core.schema import Column, ImageInput, Schema
from luthier.data.augment import normalise
from luthier.data.encode import OddCells, encode_column
from luthier.data.formats import DATE_FORMATS
from luthier.data.series import encode_series
from luthier.data.text import encode_texts, learn_tokenizer
from luthier.errors import CheckError, LuthierError, MissingPackageError, NetworkError, RunError, SettingError
from luthier.plain.cells import character_codes, date_parts, to_seconds
from luthier.plain.reader.reader import Reader, inputs_of, microseconds, number_of, read_text
from luthier.serving.exporting import proof, whole
from luthier.serving.exporting.export import Export
from luthier.serving.exporting.inputs import describe_columns, lookup, raw_inputs

N = 90
QUICK: dict[str, Any] = {"epochs": 1, "seed": 1, "threads": 1, "check": False}
WORDS = ["good", "bad", "great", "awful", "fine", "nice", "poor", "the", "a", "film", "plot"]


@pytest.fixture(autouse=True)
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prove it on 120 rows, so that a test takes seconds; the command's own size is asked in one test."""
    monkeypatch.setattr(proof, "SIZES", (0, 1, 7, 120))


def table() -> pl.DataFrame:
    rng = np.random.default_rng(3)
    random.seed(3)
    day = datetime(2021, 1, 1)
    rows = []
    for i in range(N):
        rows.append(
            {
                "size": None if i % 9 == 0 else float(rng.normal(100, 50)),
                "code": str(rng.integers(1, 4)),
                "colour": None if i % 11 == 0 else random.choice(["red", "green", "blue"]),
                "flag": random.choice(["yes", "no"]),
                "day": (day + timedelta(days=int(rng.integers(0, 700)))).strftime("%d.%m.%Y"),
                "at": day + timedelta(seconds=int(rng.integers(0, 9**8))),
                "price": f"${rng.exponential(3000):,.2f}",
                "kind": random.choice(["a", "b"]),
                "group": int(rng.integers(0, 4)),
                "y": float(rng.normal(5, 2)),
                "z": float(np.exp(rng.normal(5, 2))),
                "n": int(rng.poisson(3)),
                "one": int(rng.integers(0, 2)),
                "two": int(rng.integers(0, 2)),
            }
        )
    return pl.DataFrame(rows)


TARGETS = ("kind", "group", "y", "z", "n", "one", "two")


def inputs_and(*targets: str) -> pl.DataFrame:
    return table().drop(name for name in TARGETS if name not in targets)


def two_columns_and(*targets: str) -> pl.DataFrame:
    """Return fewer columns, where it is the answers that a case is about: their graph is made in half the time."""
    return table().select("size", "colour", *targets)


def series(*others: str) -> pl.DataFrame:
    rng = np.random.default_rng(5)
    random.seed(5)
    rows = []
    for i in range(48):
        steps = np.sin(np.arange(rng.integers(5, 20)) * (0.3 + 0.4 * (i % 2))) + rng.normal(0, 0.2)
        second = [None if rng.random() < 0.2 else float(x) for x in rng.normal(size=len(steps))]
        text = " ".join(random.choices(WORDS, k=6))
        rows.append({"steps": steps.tolist(), "second": second, "text": text, "size": rng.normal(), "y": "ab"[i % 2]})
    return pl.DataFrame(rows).select(*others, "y")


def texts() -> pl.DataFrame:
    random.seed(7)
    rows = [(" ".join(random.choices(WORDS, k=random.randint(3, 12))) + random.choice("!. "), i % 2) for i in range(60)]
    return pl.DataFrame({"text": [text for text, _ in rows], "y": [("no", "yes")[y] for _, y in rows]})


CASES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "binary, calibrated, with a threshold": (inputs_and("kind"), "kind", {"calibrate": True, "threshold": "f1"}),
    "classes that are whole numbers, mlp": (inputs_and("group"), "group", {"network": "mlp", "task": "multiclass"}),
    "sets of classes, folds": (two_columns_and("group"), "group", {"folds": 2, "task": "multiclass"}),
    "labels": (two_columns_and("one", "two"), ["one", "two"], {}),
    "a number with an interval": (inputs_and("y"), "y", {"interval": 0.8}),
    "a logarithm": (two_columns_and("z"), "z", {"target_transform": "log", "network": "mlp"}),
    "counts": (two_columns_and("n"), "n", {"criterion": "poisson", "task": "regression", "network": "mlp"}),
    "two numbers": (two_columns_and("y", "z"), ["y", "z"], {}),
    "rocket": (series("steps", "second"), "y", {"network": "rocket"}),
    "inception": (series("steps", "second"), "y", {"network": "inception", "network_args": {"depth": 4}}),
    "recurrent gru": (series("steps"), "y", {"network": "recurrent"}),
    "recurrent lstm": (
        series("steps"),
        "y",
        {"network": "recurrent", "network_args": {"cell": "lstm", "num_layers": 1}},
    ),
    "recurrent rnn": (
        series("steps"),
        "y",
        {"network": "recurrent", "network_args": {"cell": "rnn", "bidirectional": False, "pooling": "last"}},
    ),
    "text": (texts(), "y", {}),
    "text by a gru": (texts(), "y", {"reader": "gru"}),
    "text by convolutions": (texts(), "y", {"reader": "conv"}),
    "series, text and numbers": (series("steps", "text", "size"), "y", {}),
}


def trained(source: Any, target: Any, **given: Any) -> luthier.Model:
    model = luthier.train(source, target=target, **{**QUICK, **given}).model
    assert model is not None
    return model


@cache
def model_of(case: str) -> luthier.Model:
    """Return the model of a case; several tests export it."""
    source, target, given = CASES[case]
    return trained(source, target, **given)


@pytest.fixture(scope="module")
def binary() -> luthier.Model:
    return trained(inputs_and("kind"), "kind", kind={"code": "category"})


# torch takes seconds to make each graph; these differ from others by a layer or a formula
RARER = ("a logarithm", "counts", "two numbers", "recurrent lstm", "recurrent rnn", "text", "text by convolutions")


@pytest.mark.parametrize("case", [pytest.param(case, marks=[pytest.mark.slow] * (case in RARER)) for case in CASES])
def test_every_family_and_task_answers_alike(case: str, tmp_path: Path) -> None:
    (source, _, given), model = CASES[case], model_of(case)
    rows = source.to_dicts()
    made = model.export(tmp_path / "model.onnx", rows=rows)
    assert made.greatest <= proof.TOLERANCE
    assert made.rows == {"given": len(rows), "drawn": 128}
    assert made.reference.endswith("7 rows"), made.reference
    answers = Reader(made.path).predict(rows)
    wanted = model.predict(source)
    if model.task == "regression":
        np.testing.assert_allclose(answers["prediction"], wanted, rtol=1e-4)
    else:
        np.testing.assert_array_equal(answers["prediction"], wanted)
        np.testing.assert_allclose(answers["probabilities"], model.predict_proba(source), atol=proof.TOLERANCE)
    if "interval" in given:
        ends = np.stack([answers["prediction_low"], answers["prediction_high"]], axis=1)
        np.testing.assert_allclose(ends, model.predict_interval(source), rtol=1e-4)


@pytest.mark.parametrize("network", [pytest.param("convnet", marks=pytest.mark.slow), "resnet"])
def test_images_of_any_size_answer_alike(network: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("light", "dark"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(8):
            pixels = rng.integers(0, 90, (20, 24, 3)).astype(np.uint8) + (150 if name == "light" else 0)
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "images" / name / f"{i}.png")
    model = luthier.train(tmp_path / "images", network=network, **QUICK).model
    assert model is not None
    made = model.export(tmp_path / "model.onnx")
    assert made.greatest <= proof.TOLERANCE
    assert {"drawn, images of 20x24", "drawn, images of 43x73"} < set(made.rows)
    Image.fromarray(rng.integers(0, 255, (57, 31, 4)).astype(np.uint8)).save(tmp_path / "other.png")
    found = Reader(made.path).predict([{"image": tmp_path / "other.png"}])
    np.testing.assert_allclose(found["probabilities"], model.predict_proba(tmp_path / "other.png"), atol=1e-5)


def test_onnx_runtime_alone_takes_columns_by_their_names(binary: luthier.Model, made: Export) -> None:
    session = onnxruntime.InferenceSession(str(made.path))
    facts = json.loads(session.get_modelmeta().custom_metadata_map["luthier"])
    assert [value.name for value in session.get_inputs()] == [column.name for column in raw_inputs_of(binary)]
    assert facts["proof"]["greatest_difference"] == made.greatest
    assert facts["proof"]["rows"] == made.rows
    day = np.datetime64("2021-05-04T10:30", "us").astype(np.int64)
    feeds: dict[str, NDArray[Any]] = {
        "size": np.array([[120.5], [np.nan]]),
        "code": np.array([["2"], ["3.0"]], dtype=object),
        "colour": np.array([["red"], ["never seen"]], dtype=object),
        "flag": np.array([["YES"], ["n/a"]], dtype=object),
        "day": np.array([[day], [np.iinfo(np.int64).min]]),
        "at": np.array([[day], [day + 1]]),
        "price": np.array([[1000.0], [np.inf]]),
    }
    assert set(feeds) == {value.name for value in session.get_inputs()}
    prediction, probabilities = session.run(["prediction", "probabilities"], feeds)
    frame = pl.DataFrame(
        {
            "size": [120.5, None], "code": ["2", "3.0"], "colour": ["red", "never seen"], "flag": ["YES", "n/a"],
            "day": [datetime(2021, 5, 4, 10, 30), None],
            "at": [datetime(2021, 5, 4, 10, 30), datetime(2021, 5, 4, 10, 30, 0, 1)],
            "price": [1000.0, float("inf")],
        }
    )  # fmt: skip
    assert prediction.tolist() == binary.predict(frame).tolist()
    np.testing.assert_allclose(probabilities, binary.predict_proba(frame), atol=1e-5)


def raw_inputs_of(model: luthier.Model) -> Any:
    assert model.schema is not None
    return raw_inputs(model.schema)


EDGES: dict[str, dict[str, Any]] = {
    "missing": dict.fromkeys(("size", "code", "colour", "flag", "day", "at", "price")),
    "words for missing": {"size": "n/a", "code": "NULL", "colour": " NaN ", "flag": "?", "day": "", "price": "-"},
    "unseen": {"code": "9", "colour": "§", "flag": "maybe"},
    "extreme": {"size": 1e308, "price": -1e308, "day": datetime(1, 1, 1), "at": datetime(9999, 12, 31)},
    "infinite": {"size": float("inf"), "price": float("-inf")},
    "spaces and other spellings": {"code": " 3.0 ", "colour": " red ", "flag": " No ", "price": "$1,234.50"},
    "numbers as text": {"size": "1.5e2", "code": 2, "price": "($12.00)"},
    "dates as text": {"day": "29.02.2020", "at": "2021-03-04 05:06:07.25"},
    "a date in another form": {"day": "2021-12-31", "at": "2021-03-04T05:06:07+02:00"},
}


@pytest.mark.parametrize("edge", EDGES)
def test_edge_rows_answer_alike(edge: str, exported: Path, binary: luthier.Model) -> None:
    row = {"size": 80.0, "code": "1", "colour": "blue", "flag": "no", "day": "01.02.2021", "price": "$5.00"}
    row |= {"at": "2021-01-02 03:04:05"}
    row |= EDGES[edge]
    wanted = binary.predict_proba(pl.DataFrame({name: [cell] for name, cell in row.items()}))
    np.testing.assert_allclose(Reader(exported).predict([row])["probabilities"], wanted, atol=1e-5)


@pytest.fixture(scope="module")
def made(binary: luthier.Model, tmp_path_factory: pytest.TempPathFactory) -> Export:
    """One export with the whole proof, as fixtures of a module come before those of a test."""
    made = binary.export(tmp_path_factory.mktemp("export") / "model.onnx")
    assert made.rows == {"drawn": 1008}
    return made


@pytest.fixture(scope="module")
def exported(made: Export) -> Path:
    return made.path


def test_an_input_called_prediction_keeps_its_name(tmp_path: Path) -> None:
    draws = np.random.default_rng(0).normal(size=(2, 40))
    source = pl.DataFrame({"prediction": draws[0], "add": draws[1], "y": ["a", "b"] * 20})
    made = trained(source, "y").export(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(made.path))
    assert [value.name for value in session.get_inputs()] == ["prediction", "add"]
    assert [value.name for value in session.get_outputs()] == ["prediction_", "probabilities"]
    assert set(Reader(made.path).predict(source.to_dicts())["prediction_"]) <= {"a", "b"}


@pytest.mark.parametrize(
    "case",
    [
        "a number with an interval",
        "recurrent gru",
        *(pytest.param(case, marks=pytest.mark.slow) for case in ("text", "labels")),
    ],
)
def test_a_program_of_torch_answers_alike(case: str, tmp_path: Path) -> None:
    made = model_of(case).export(tmp_path / "model.pt2", rows=CASES[case][0].to_dicts())
    assert made.greatest <= proof.TOLERANCE
    extra = {"luthier.json": ""}
    torch.export.load(made.path, extra_files=extra)
    facts = json.loads(extra["luthier.json"])
    assert facts["format"] == "pt2"
    assert facts["proof"]["rows"] == made.rows


@pytest.mark.slow  # a compiler takes a minute
def test_a_compiled_package_answers_alike(binary: luthier.Model, tmp_path: Path) -> None:
    made = binary.export(tmp_path / "model.pt2", format="aoti")
    assert made.greatest <= proof.TOLERANCE
    loaded: Any = torch._inductor.aoti_load_package(str(made.path))
    assert json.loads(loaded.get_metadata()["luthier"])["format"] == "aoti"


class Two(nn.Module):
    """Takes a row and a series, gives a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.recurrent = nn.Linear(4, 3), nn.GRU(4, 3, batch_first=True)

    def forward(self, row: Tensor, steps: Tensor) -> dict[str, Tensor]:
        return {"logits": self.linear(row) + self.recurrent(steps)[0][:, -1], "more": row}


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
@pytest.mark.parametrize("is_named", [True, False])
def test_an_own_module_answers_alike(suffix: str, is_named: bool, tmp_path: Path) -> None:
    row, steps, targets = torch.randn(32, 4), torch.randn(32, 5, 4), torch.randint(3, (32,))
    model = luthier.fit(Two(), (row, steps, targets), criterion="cross-entropy", optimizer="Adam", **QUICK).model
    assert model is not None
    example = {"row": row[:6], "steps": steps[:6]} if is_named else (row[:6], steps[:6])
    made = model.export(tmp_path / f"model{suffix}", example=example)
    assert made.greatest <= proof.TOLERANCE
    if suffix == ".onnx":
        session = onnxruntime.InferenceSession(str(made.path))
        given = {"row": row.numpy(), "steps": steps.numpy()}
        decided, likely = session.run(["prediction", "probabilities"], given)
        np.testing.assert_array_equal(decided, model.predict((row, steps)))
        np.testing.assert_allclose(likely, model.predict_proba((row, steps)), atol=1e-6)


def test_a_folder_of_an_own_module_has_a_card(tmp_path: Path) -> None:
    rows = torch.randn(16, 4)
    model = luthier.fit(nn.Linear(4, 1), (rows, rows[:, :1]), criterion="mse", optimizer="SGD", lr=0.01, **QUICK).model
    assert model is not None
    made = model.export(tmp_path / "made", example=rows)
    assert {path.name for path in made.path.iterdir()} == {"model.onnx", "README.md"} == set(made.files)
    assert "`Linear` with 5 parameters" in (made.path / "README.md").read_text()


class Branch(nn.Module):
    """Follows its data by an `if`."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 1)

    def forward(self, rows: Tensor) -> Tensor:
        found: Tensor = self.linear(rows)
        return found if float(rows.sum()) > 0 else -found


class Drawing(Branch):
    """Draws random numbers, also in eval mode."""

    def forward(self, rows: Tensor) -> Tensor:
        found: Tensor = self.linear(rows + torch.randn_like(rows))
        return found


@pytest.mark.parametrize(("module", "code"), [(Branch, "export-not-possible"), (Drawing, "export-differs")])
def test_what_cannot_be_exported_is_said(
    module: type[nn.Module], code: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = torch.randn(16, 4)
    model = luthier.fit(module(), (rows, rows[:, :1]), criterion="mse", optimizer="SGD", lr=0.01, **QUICK).model
    assert model is not None
    capfd.readouterr()
    with pytest.raises(NetworkError if code == "export-not-possible" else CheckError) as caught:
        model.export(tmp_path / "model.onnx", example=rows[:5])
    assert caught.value.code == code
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr().err == ""


def test_the_reader_stands_alone(exported: Path, tmp_path: Path) -> None:
    import luthier.plain.reader.reader as module

    text = Path(module.__file__).read_text()
    assert "luthier." not in text.replace("Luthier", "")
    rows = inputs_and("kind").drop("kind").head(3)
    rows.write_csv(tmp_path / "rows.csv")
    (tmp_path / "reader.py").write_text(text)
    (tmp_path / "model.onnx").write_bytes(exported.read_bytes())
    import subprocess

    done = subprocess.run(
        [sys.executable, "-I", "reader.py", "rows.csv"], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    lines = done.stdout.splitlines()
    assert lines[0] == "prediction,probabilities_a,probabilities_b"
    assert len(lines) == 4


WRONG: dict[str, tuple[dict[str, Any], type[LuthierError], str]] = {
    "a suffix": ({"path": "model.txt"}, SettingError, "setting-output-format"),
    "another suffix than the format's": ({"path": "m.onnx", "format": "pt2"}, SettingError, "setting-output-format"),
    "a format": ({"path": "m.onnx", "format": "tflite"}, SettingError, "setting-unknown-choice"),
    "an example beside a Schema": ({"path": "m.onnx", "example": torch.zeros(2, 2)}, SettingError, "setting-ignored"),
    "a folder that is there": ({"path": "taken"}, RunError, "run-folder-taken"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_calls_are_refused(
    wrong: str, binary: luthier.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, kind, code = WRONG[wrong]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "x").touch()
    with pytest.raises(kind) as caught:
        binary.export(**given)
    assert caught.value.code == code
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named(
    package: str, binary: luthier.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError, match=rf"package {package}.*\n.*luthier\[onnx\]"):
        binary.export(tmp_path / "model.onnx")


def test_an_own_module_needs_an_example(tmp_path: Path) -> None:
    rows = torch.randn(16, 4)
    model = luthier.fit(nn.Linear(4, 1), (rows, rows[:, :1]), criterion="mse", optimizer="SGD", lr=0.01, **QUICK).model
    assert model is not None
    with pytest.raises(SettingError, match="example="):
        model.export(tmp_path / "model.onnx")
    with pytest.raises(SettingError, match="has 1 rows"):
        model.export(tmp_path / "model.onnx", example=rows[:1])


def test_a_set_of_classes_that_differs_is_seen() -> None:
    likely = np.array([[0.7, 0.2, 0.1]])
    wanted = {"prediction": np.array(["a"]), "probabilities": likely, "prediction_set": np.array([[True, True, False]])}
    other = wanted | {"prediction_set": np.array([[True, False, False]])}
    assert not proof.difference(other, wanted, "multiclass", least=0.15).is_within
    assert proof.difference(other, wanted, "multiclass", least=0.2).is_within
    assert proof.difference(wanted, wanted, "multiclass", least=0.15).is_within


def test_a_decision_that_differs_is_seen_unless_it_ties() -> None:
    wanted = {"prediction": np.array(["a", "a"]), "probabilities": np.array([[0.6, 0.4], [0.5, 0.5 - 1e-6]])}
    other = wanted | {"prediction": np.array(["a", "b"])}
    assert proof.difference(other, wanted, "multiclass").is_within
    seen = proof.difference(wanted | {"prediction": np.array(["b", "a"])}, wanted, "multiclass")
    assert (seen.is_within, seen.decided, seen.row) == (False, 1, 0)


# What the graph and the readers do anew, against what they stand for


def test_calendar_parts_are_those_of_training() -> None:
    rng = np.random.default_rng(0)
    seconds = np.concatenate([rng.integers(-(10**11), 2 * 10**11, 20_000), np.arange(-800, 800) * 43_200])
    parts = ("yearday", "month_sin", "month_cos", "monthday", "weekday", "weekday_sin", "hour", "hour_cos")
    turns = whole.calendar(torch.from_numpy(seconds).double())
    for part, wanted in zip(parts, date_parts(seconds.astype(np.float64), parts), strict=True):
        np.testing.assert_allclose(whole._turned(turns, part).numpy(), wanted, atol=1e-9, err_msg=part)


@pytest.mark.parametrize("size", [(20, 30), (7, 9), (1, 1), (20, 64), (133, 30), (400, 300)])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_resized_as_pillow_does_bit_for_bit(size: tuple[int, int], channels: int) -> None:
    image = ImageInput(channels=channels, height=20, width=30, means=(0.0,) * channels, stds=(1.0,) * channels)
    pixels = np.random.default_rng(1).integers(0, 256, (2, *size, channels), dtype=np.uint8)
    found = whole.pixels_of(torch.from_numpy(pixels), image, tall_first=whole.is_tall_first())
    wanted = normalise(torch.from_numpy(proof._decoded(pixels, image)), image)
    assert torch.equal(found, wanted)


def test_steps_become_what_training_makes_of_them() -> None:
    random.seed(2)
    rng = np.random.default_rng(2)
    rows = [
        [None if rng.random() < 0.3 else float(rng.normal() * 10) for _ in range(rng.integers(0, 9))] for _ in range(50)
    ]
    rows += [[None, None], [1e30, -1e30], [5.0] * 12, [float("inf"), 1.0]]
    columns = [
        Column(name="a", kind="series", means=(0.5,), stds=(2.0,), missing=3),
        Column(name="b", kind="series", means=(0.1, 0.2), stds=(1.5, 0.5)),
    ]
    cells = [pl.Series(rows, dtype=pl.List(pl.Float64)), pl.Series(rows[::-1], dtype=pl.List(pl.Float64))]
    wanted = encode_series(cells, columns)
    raw = []
    for some in (rows, rows[::-1]):
        steps = np.full((len(rows), 12), np.nan)
        for place, row in zip(steps, some, strict=True):
            place[: len(row)] = [np.nan if step is None else step for step in row]
        raw.append(torch.from_numpy(steps))
    values, lengths = whole.encoded_series(raw, columns)
    np.testing.assert_array_equal(lengths, wanted["lengths"])
    most = wanted["values"].shape[2]
    np.testing.assert_allclose(values[:, :, :most].numpy(), wanted["values"].astype(np.float64), atol=1e-6)
    assert not values[:, :, most:].any()


DATES = {
    "YYYY-MM-DD": ["2024-02-29", "2023-02-29", "1999-12-31T23:59:59.5Z", "2024-01-01 10:00 +05:30"],
    "DD/MM/YYYY": ["31/12/1999", "31/04/2020", "1/2/2021 3:04 pm"],
    "DD Mon YY": ["3 Mar 29", "3 März 30", "12 dec 99", "4 blah 20"],
    "Mon DD YYYY": ["January 5, 2020", "Sept 7th, 1980"],
    "YYYY-W": ["2021-W01", "2020-W53-7"],
    "YYYY-Q": ["2020-Q3"],
    "YYYY-DDD": ["2020-366"],
    "MM/YYYY": ["05/2020"],
    "YYYYMMDD": ["20231231", "20231231 0915"],
    "TIME": ["11:59 pm", "00:30:15"],
}


@pytest.mark.parametrize("name", DATES)
def test_the_reader_reads_dates_as_training_does(name: str) -> None:
    from luthier.data.formats import patterns

    assert name in DATE_FORMATS
    column = Column(name="d", kind="date", parts=("seconds",), means=(0.0,), stds=(1.0,), date_format=name)
    about = describe_columns(Schema(task="regression", targets=(), columns=(column,)), with_lookups=False)[0]
    for text in DATES[name]:
        first, others = patterns(name)
        wanted = to_seconds(pl.Series([text]), first, others)[0]
        if np.isnan(wanted):
            with pytest.raises(ValueError, match="takes dates"):
                microseconds(text, about)
        else:
            assert microseconds(text, about) == round(wanted * 1e6), text


def test_the_reader_reads_numbers_in_the_columns_form() -> None:
    column = Column(name="x", kind="number", means=(0.0,), stds=(1.0,), number_format="$1,234.5")
    about = describe_columns(Schema(task="regression", targets=(), columns=(column,)), with_lookups=False)[0]
    found = [number_of(text, about) for text in ("$1,234.50", "-$5", "($5.25)", "7", "n/a", None, 3)]
    assert found[:4] == [1234.5, -5.0, -5.25, 7.0]
    assert np.isnan(found[4:6]).all()
    assert found[6] == 3.0
    with pytest.raises(ValueError, match="takes numbers"):
        number_of("many", about)


ODD_TEXTS = [
    "",
    "Good film!",
    "don't — ﬁne  Ünïcode\t१२",
    "naïve café; x_y-z",
    "👍🏽 ok…",
    "İstanbul ΣΑΣ",
    "नमस्ते दुनिया",
    None,
    "a" * 90,
]


@pytest.mark.parametrize("training", [["good film", "don't ok naïve नमस्ते"], ["今日は 良い天気", "雨です。"]])
def test_the_reader_reads_texts_as_training_does(training: list[str]) -> None:
    texts = [*ODD_TEXTS, *training, "雨 good"]
    tokenizer, size, most = learn_tokenizer(training * 2)
    column = Column(
        name="t", kind="text", tokenizer=tokenizer, vocabulary_size=size, max_tokens=most + 3, max_characters=40
    )
    about = describe_columns(Schema(task="regression", targets=(), columns=(column,)), with_lookups=False)[0]
    found = read_text(texts, about)
    cells = pl.Series(texts, dtype=pl.String)
    np.testing.assert_array_equal(found["t tokens"], encode_texts(cells, column))
    np.testing.assert_array_equal(found["t characters"], character_codes(cells, 40, 40))


def test_look_ups_say_what_training_says() -> None:
    column = Column(name="c", kind="category", categories=("1", "2.50", "Red", "True", ""), missing=1)
    table = lookup(column)
    for text in ("1", "1.0", "2.5", "2.50", "Red", "na", "N/A", "null", "NULL", ""):
        wanted = encode_column(pl.Series([text]), column, OddCells())[0][0]
        assert table.get(text, 0) == wanted, text
    assert table["true"] == 4  # as a typed column has it
    assert "red" not in table


def test_an_export_is_proven_by_onnx_itself(exported: Path) -> None:
    model = onnx.load(io.BytesIO(exported.read_bytes()))
    onnx.checker.check_model(model, full_check=True)
    names = {node.name for node in model.graph.node}
    assert not any("site-packages" in name or "/src/" in name for name in names)
    assert str(Path(luthier.__file__).parent).encode() not in exported.read_bytes()


def test_rows_without_a_column_are_refused_by_the_reader(exported: Path) -> None:
    with pytest.raises(KeyError, match="lacks the column 'size'"):
        inputs_of([{"code": "1"}], Reader(exported).facts)


def test_a_date_with_a_zone_is_read_as_utc() -> None:
    about = {"patterns": [], "format": "YYYY-MM-DD", "name": "d", "zones": {}}
    assert microseconds(datetime(1970, 1, 1, 1, tzinfo=UTC), about) == 3_600_000_000
    assert microseconds(np.datetime64("1969-12-31T23:59:59.5"), about) == -500_000
