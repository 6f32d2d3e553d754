"""What moved one answer: sums, exact values of a linear network, columns without use, and the command."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from torch import nn

import luthier
from luthier.core.schema import Column, Schema, Target
from luthier.errors import DataError, SettingError
from luthier.serving.model import Model


class Net(nn.Module):
    """3 x a - 2 x b, with a product of the two where it is asked for; `c` is not used."""

    def __init__(self, product: float = 0.0) -> None:
        super().__init__()
        self.product = nn.Parameter(torch.tensor(product))

    def forward(self, numbers: torch.Tensor, categories: torch.Tensor) -> torch.Tensor:
        a, b, _ = numbers.unbind(dim=1)
        return (3 * a - 2 * b + self.product * a * b)[:, None]


def model(product: float = 0.0) -> Model:
    columns = tuple(Column(name=name, kind="number", means=(0.0,), stds=(1.0,), span=(-9.0, 9.0)) for name in "abc")
    return Model(
        Net(product), schema=Schema(task="regression", targets=(Target(name="y", kind="number"),), columns=columns)
    )


def rows(count: int = 40) -> pl.DataFrame:
    return pl.DataFrame(np.random.default_rng(0).normal(size=(count, 3)), schema=["a", "b", "c"])


def test_values_of_a_linear_network_are_exact_and_an_unused_column_has_none() -> None:
    background = rows()
    found = model().explain({"a": 2.0, "b": -1.0, "c": 5.0}, background)
    means = background.mean().row(0)
    values = dict(zip(found.columns, found.values, strict=True))
    assert values["a"] == pytest.approx(3 * (2 - means[0]), abs=1e-5)
    assert values["b"] == pytest.approx(-2 * (-1 - means[1]), abs=1e-5)
    assert values["c"] == 0.0
    assert dict(zip(found.columns, found.errors, strict=True))["c"] == 0.0
    assert found.answer == pytest.approx(8.0)
    assert (found.of, found.rows) == ("y", 40)


def test_values_sum_to_the_answer_less_the_mean_answer() -> None:
    net, background = model(product=2.0), rows(300)
    found = net.explain({"a": 2.0, "b": -1.0, "c": 5.0}, background)
    assert found.rows == 100
    assert sum(found.values) == pytest.approx(found.answer - found.mean, abs=1e-5)
    # of a product of two: half of what each does first and last, so a gets (a - a')(b + b') / 2 on average
    a, b, _ = (background[name].to_numpy() for name in "abc")
    exact = np.mean(3 * (2 - a) + 2 * (2 - a) * (-1 + b) / 2)
    at = found.columns.index("a")
    assert abs(found.values[at] - exact) < 4 * found.errors[at]


def test_what_cannot_be_explained_is_said() -> None:
    with pytest.raises(DataError, match="40 rows"):
        model().explain(rows(), rows())
    with pytest.raises(SettingError, match="no answer 'z'"):
        model().explain({"a": 2.0, "b": -1.0, "c": 5.0}, rows(), of="z")
    with pytest.raises(DataError, match="custom module"):
        Model(nn.Linear(2, 1)).explain(torch.zeros(1, 2), torch.zeros(5, 2))


def test_a_notebook_shows_table_and_chart() -> None:
    html = model().explain({"a": 2.0, "b": -1.0, "c": "<b>"}, rows())._repr_html_()
    assert "<svg" in html
    assert "<b>" not in html
    assert html.count("<style>") == 1


def test_texts_and_series_of_other_lengths_are_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    words = ["good", "fine", "bad", "poor", "film", "long", "the", "a"]
    texts = [" ".join(rng.choice(words, int(rng.integers(20, 60)))) for _ in range(200)]
    frame = pl.DataFrame({"text": texts, "x": rng.normal(size=200), "y": [str("good" in text[:80]) for text in texts]})
    found = luthier.train(frame, target="y", epochs=1, kind={"text": "text"}).model.explain(
        {"text": "good", "x": 0.5}, frame
    )
    assert sorted(found.columns) == ["text", "x"]
    assert sum(found.values) == pytest.approx(found.answer - found.mean, abs=1e-5)
