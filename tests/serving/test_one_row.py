"""A dict of one row's values is answered without a frame, and as a frame of that row is."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

import luthier
from luthier.core.schema import Column, Schema, Target
from luthier.data.encode import OddCells, encode_inputs
from luthier.data.one_row import row_encoder
from luthier.data.tables import table_from
from luthier.networks.build import build
from luthier.networks.one_row import row_forward

COLUMNS = (
    Column(name="n", kind="number", means=(3.5,), stds=(2.25,), missing=4, span=(-4.0, 5.0)),
    Column(
        name="q", kind="number", means=(0.1,), stds=(1.3,), quantiles=(-3.0, -0.5, 0.0, 0.25, 4.0), span=(-3.0, 4.0)
    ),
    Column(name="w", kind="number", means=(0.1,), stds=(1.3,), missing_words=("99", "none")),
    Column(name="$", kind="number", means=(0.1,), stds=(1.3,), number_format="$1,234.5", span=(0.0, 9.0)),
    Column(name="b", kind="boolean", means=(0.4,), stds=(0.49,), categories=("no", "yes"), missing=1),
    Column(name="s", kind="boolean", means=(0.4,), stds=(0.49,), categories=("z", "a"), missing=1),
    Column(name="e", kind="boolean", means=(0.4,), stds=(0.49,), categories=("", "a"), missing_words=("-", "0")),
    Column(name="c", kind="category", categories=("a", "3", "true", "2.5", "")),
    Column(name="k", kind="category", categories=("x y", "Z", "007", "7.0", "1e3"), missing_words=("na", "3")),
    Column(
        name="d", kind="date", date_format="YYYY-MM-DD", parts=("seconds", "month_sin"), means=(1e9, 0.0),
        stds=(1e8, 0.7), missing=2, span=(9e8, 1.8e9),
    ),
    Column(name="m", kind="date", date_format="DD Mon YY", parts=("weekday",), means=(0.1,), stds=(1.0,)),
    Column(name="g", kind="date", date_format="YYYYMMDD", parts=("yearday",), means=(0.1,), stds=(1.0,)),
)  # fmt: skip
SCHEMA = Schema(task="regression", targets=(Target(name="y", kind="number"),), columns=COLUMNS)
WORDS = [
    "", " ", "na", "N/A", "?", "-", ".", "nan", "inf", "-inf", "1e400", "1_000", "1,5", "+5", "5.", ".5", "007", "-0.0",
    " 3 ", "3", "3.0", "2.5", "1e3", "yes", "No", "TRUE", "f", "0", "1", "1.0", "a", "A", "x y", " Z", "2024-05-01",
    "2024-05-01 08:30", "2024-13-01",
    "20240229", "20230229", "3 May 24", "31 Apr 24", "1 Mär 99 3:04 pm", "2024-05-01T08:30:11.25+02:00", "2024/05/01",
    "2024-05-01 25:00", "many", "user_12", "12-34", "$1,234.50", "($3)", "-9", "1e9", "99", "0", "z", "Z ", "7", "1000",
    "None", "null", "--", "٣", "x\x00", "\x1f", "\x1f3", "\u30003 ",
]  # fmt: skip
cells = (
    st.sampled_from(WORDS) | st.text(max_size=4) | st.none() | st.booleans() | st.integers(-(10**17), 10**17)
    | st.floats() | st.sampled_from([0, 1, 3, 0.0, 1.0, 2.5, 3.0, 99, 7, 20240501, 1e9])
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(row=st.fixed_dictionaries({column.name: cells for column in COLUMNS}))
def test_a_row_is_encoded_as_a_frame_of_it_is(row: dict[str, Any]) -> None:
    encoder = row_encoder(SCHEMA)
    assert encoder is not None
    found, odd = encoder(row), OddCells()
    assert found is not None
    expected = encode_inputs(table_from([row]).frame, SCHEMA, odd=odd)
    np.testing.assert_allclose(found[0], expected["numbers"][0], rtol=1e-6, atol=1e-7)
    assert found[1] == expected["categories"][0].tolist()
    assert found[2] == odd.lines(SCHEMA)


def test_what_is_more_than_a_row_of_values_is_left_to_frames() -> None:
    encoder = row_encoder(SCHEMA)
    assert encoder is not None
    row = {column.name: "" for column in COLUMNS}
    assert encoder(row) is not None
    assert encoder({**row, "n": [1, 2]}) is None
    assert encoder({**row, "n": np.float64(1)}) is None
    assert encoder({name: value for name, value in row.items() if name != "c"}) is None
    text = Column(name="t", kind="text", tokenizer="{}", vocabulary_size=9, max_tokens=4)
    assert row_encoder(Schema(task="regression", targets=SCHEMA.targets, columns=(text,))) is None


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid", "silu", "leaky_relu", "gelu"])
@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("number_size", [0, 4])
def test_the_forward_of_a_row_is_the_module_s(activation: str, batch_norm: bool, number_size: int) -> None:
    torch.manual_seed(0)
    arguments = {
        "num_numbers": 5, "num_outputs": 3, "category_sizes": [4, 6], "embedding_sizes": [2, 3], "widths": [16, 8],
        "activation": activation, "batch_norm": batch_norm, "number_size": number_size, "dropout": 0.5,
    }  # fmt: skip
    module = build(luthier.Blueprint(family="mlp", arguments=arguments))
    module(torch.randn(32, 5), torch.randint(0, 4, (32, 2)))  # moves the statistics of batch norm
    module.eval()
    numbers, codes = torch.randn(5), [3, 5]
    forward = row_forward(module)
    if activation == "gelu":
        assert forward is None
        return
    assert forward is not None

    def answers() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        found = forward(numbers.numpy(), codes)
        assert found is not None
        with torch.no_grad():
            return found, module(numbers[None], torch.tensor([codes]))[0].numpy()

    np.testing.assert_allclose(*answers(), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(1.5)
    np.testing.assert_allclose(*answers(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("task", "num_outputs"), [("regression", 2), ("multiclass", 3), ("binary", 1)])
@pytest.mark.parametrize("ranks", [[], [1, 3]])
def test_the_forward_of_a_row_is_tabm_s(task: str, num_outputs: int, ranks: list[int]) -> None:
    torch.manual_seed(0)
    arguments = {"num_numbers": 5, "num_outputs": num_outputs, "category_sizes": [4, 6], "ranks": ranks, "task": task}
    module = build(luthier.Blueprint(family="tabm", arguments=arguments)).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) / 10)
    forward, numbers, codes = row_forward(module), torch.randn(5), [3, 5]
    assert forward is not None
    with torch.no_grad():
        expected = module(numbers[None], torch.tensor([codes]))[0].numpy()
    found = forward(numbers.numpy(), codes)
    assert found is not None
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_changed_module_is_asked_itself() -> None:
    def fresh() -> tuple[Any, Any]:
        module: Any = build(luthier.Blueprint(family="mlp", arguments={"num_numbers": 3, "num_outputs": 2})).eval()
        forward = row_forward(module)
        assert forward is not None
        assert forward(np.zeros(3, np.float32), []) is not None
        return module, forward

    module, forward = fresh()
    module.head = nn.Linear(128, 2)
    assert forward(np.zeros(3, np.float32), []) is None
    module, forward = fresh()
    module.hidden[1] = nn.Tanh()
    assert forward(np.zeros(3, np.float32), []) is None
    module, forward = fresh()
    module.head.register_forward_hook(lambda *given: None)
    assert forward(np.zeros(3, np.float32), []) is None
    module, forward = fresh()
    module.head.forward = lambda x: x
    assert forward(np.zeros(3, np.float32), []) is None
    module, forward = fresh()
    handle = register_module_forward_hook(lambda *given: None)
    assert forward(np.zeros(3, np.float32), []) is None
    handle.remove()
    assert forward(np.zeros(3, np.float32), []) is not None
    module, forward = fresh()
    module.double()
    assert forward(np.zeros(3, np.float32), []) is None
    assert row_forward(module) is None


@pytest.fixture(scope="module")
def table() -> pl.DataFrame:
    generator = np.random.default_rng(0)
    x = generator.normal(size=300)
    kind = generator.choice(["a", "b", "c"], 300)
    y = np.where(x + (kind == "b") > 0, "up", "down")
    return pl.DataFrame({"x": x, "kind": kind, "y": y, "z": 3 * x + (kind == "c")})


@pytest.mark.parametrize(("target", "task"), [("y", "binary"), ("kind", "multiclass"), ("z", "regression")])
def test_predict_answers_a_row_as_it_does_in_a_frame(
    table: pl.DataFrame, target: str, task: str, tmp_path: Path
) -> None:
    result = luthier.train(table, target=target, epochs=2, run=tmp_path / "run", check=False)
    model = luthier.load(tmp_path / "run")
    assert model.task == task
    rows = table.drop(target).to_dicts()[:20]
    for row in rows:
        one, many = model.predict(row), result.model.predict([row])
        if task == "regression":
            np.testing.assert_allclose(one, many, rtol=1e-4)
        else:
            assert one.tolist() == many.tolist()
            np.testing.assert_allclose(model.predict_proba(row), model.predict_proba([row]), rtol=1e-4)
            assert one.shape == many.shape
    with pytest.raises(luthier.LuthierError, match="is a column of 2 values"):
        model.predict({**rows[0], next(iter(rows[0])): [1, 2]})
    model.module.bfloat16()
    assert len(model.predict(rows[0])) == 1
    with pytest.raises(luthier.LuthierError, match="lacks 1 column"):
        model.predict({name: value for name, value in rows[0].items() if name != "x"})
