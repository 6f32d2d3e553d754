"""What must not move an answer: units of a column, names of categories; and rows far outside what training has seen."""

from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import luthier

QUICK: dict[str, Any] = {"epochs": 3, "threads": 1, "verbose": False, "test_fraction": 0.0, "check": False}


def table(n: int = 160) -> pl.DataFrame:
    g = np.random.default_rng(0)
    x, z = g.normal(size=n), g.exponential(size=n)
    return pl.DataFrame(
        {
            "x": x,
            "z": z,
            "colour": [("red", "green", "blue")[i] for i in g.integers(0, 3, n)],
            "price": 3 * x - z + g.normal(size=n),
            "kind": [("no", "yes")[int(v)] for v in (x + z + g.normal(size=n) > 1)],
        }
    )


def answers(frame: pl.DataFrame, target: str, asked: pl.DataFrame) -> Any:
    """Train on the first rows, validate on the others, whatever they hold; return answers for `asked`."""
    other = "kind" if target == "price" else "price"
    frame = frame.drop(other).with_columns(part=pl.Series(["a"] * 130 + ["b"] * (frame.height - 130)))
    result = luthier.train(frame, target=target, valid_fraction=0.2, group="part", **QUICK)
    return result.predict(asked) if target == "price" else result.predict_proba(asked)


@pytest.mark.parametrize("target", ["price", "kind"])
@settings(max_examples=6, deadline=None)
@given(scale=st.sampled_from([1e-3, 0.5, 7.0, 1e4]), shift=st.sampled_from([-100.0, 0.0, 3.0]))
def test_the_unit_of_a_column_moves_no_answer(target: str, scale: float, shift: float) -> None:
    frame = table()
    other = frame.with_columns(x=pl.col("x") * scale + shift)
    plain, moved = answers(frame, target, frame), answers(other, target, other)
    assert moved == pytest.approx(plain, rel=2e-3, abs=2e-3)


@pytest.mark.parametrize("target", ["price", "kind"])
def test_names_of_categories_in_the_same_order_move_no_answer(target: str) -> None:
    frame = table()
    names = {"blue": "first of all", "green": "second", "red": "third"}
    other = frame.with_columns(colour=pl.col("colour").replace_strict(names))
    assert answers(other, target, other) == pytest.approx(answers(frame, target, frame), rel=1e-6)


@settings(max_examples=20, deadline=None)
@given(
    x=st.floats(allow_nan=False, allow_infinity=False, width=32),
    z=st.floats(allow_nan=False, allow_infinity=False, width=32),
)
@pytest.mark.parametrize("network", ["tabm", "mlp"])
def test_a_row_far_outside_is_answered_like_one_at_the_edge(network: str, x: float, z: float) -> None:
    frame, models = table(), _models(network)
    ends = {name: np.quantile(frame[name].to_numpy(), [0, 1]) for name in ("x", "z", "price")}
    inside = {name: float(np.clip(value, *ends[name])) for name, value in (("x", x), ("z", z))}
    rows = [pl.DataFrame({"x": [a], "z": [b], "colour": ["red"]}) for a, b in ((x, z), (inside["x"], inside["z"]))]
    far, edge = (models["price"].predict(row)[0] for row in rows)
    assert ends["price"][0] <= far <= ends["price"][1]
    assert far == pytest.approx(edge, rel=1e-5, abs=1e-5)
    sure = [models["kind"].predict_proba(row).max() for row in rows]
    assert sure[0] <= sure[1] + 1e-6


_MADE: dict[str, Any] = {}


def _models(network: str) -> dict[str, Any]:
    if network not in _MADE:
        frame = table()
        all_rows = {"valid_fraction": 0.0, "network": network}
        _MADE[network] = {
            target: luthier.train(frame.drop(other), target=target, **{**QUICK, **all_rows})
            for target, other in (("price", "kind"), ("kind", "price"))
        }
    found: dict[str, Any] = _MADE[network]
    return found


def test_the_order_of_columns_moves_figures_no_more_than_another_seed() -> None:
    frame = table(400)
    frame = frame.drop("kind")
    losses = [
        luthier.train(frame, target="price", seed=seed, threads=1, verbose=False, epochs=30).test["rmse"]
        for seed in range(4)
    ]
    turned = luthier.train(frame[frame.columns[::-1]], target="price", threads=1, verbose=False, epochs=30).test["rmse"]
    spread = max(losses) - min(losses)
    assert min(losses) - spread <= turned <= max(losses) + spread
