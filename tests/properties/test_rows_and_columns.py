"""What a row is answered depends on the row alone: not on its neighbours, their lengths, or any order."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import luthier
from tests.pipeline.test_images_in_tables import picture

N = 60
WORDS = ["good", "bad", "old", "new", "fine", "poor"]


def everything(place: Path) -> pl.DataFrame:
    """Return rows with a number, a category, a date, a text, a series and a picture each."""
    lot = random.Random(4)
    rows = []
    for i in range(N):
        picture(place / "shots" / f"{i}.png", i % 2 == 0, lot)
        rows.append({
            "price": lot.choice([None, lot.gauss(3, 1)]), "shop": lot.choice(["a", "b", None]),
            "day": f"2024-{lot.randrange(1, 13):02d}-{lot.randrange(1, 28):02d}",
            "words": " ".join(lot.choices(WORDS, k=lot.randrange(5, 20))) + f" {i}",
            "x": [lot.gauss(0, 1) for _ in range(lot.randrange(1, 40))], "file": str(place / "shots" / f"{i}.png"),
            "y": "yes" if i % 2 == 0 else "no",
        })  # fmt: skip
    return pl.DataFrame(rows)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[pl.DataFrame, Any, Any]:
    place = tmp_path_factory.mktemp("everything")
    frame = everything(place)
    more: dict[str, Any] = {"reader": "gru", "epochs": 2, "kind": {"words": "text"}}
    result = luthier.train(frame, target="y", run=place / "run", **more)
    assert result.model is not None
    assert result.model.schema is not None
    assert result.model.schema.blocks == (
        "numbers",
        "categories",
        "tokens",
        "characters",
        "values",
        "lengths",
        "pixels",
    )
    return frame.drop("y"), result.model, result.model.predict_proba(frame)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.permutations(range(N)), size=st.integers(1, N), columns=st.permutations(range(6)))
def test_neighbours_and_orders_change_no_answer(
    trained: tuple[pl.DataFrame, Any, Any], rows: list[int], size: int, columns: list[int]
) -> None:
    frame, model, expected = trained
    chosen = rows[:size]
    asked = frame[chosen].select(frame.columns[i] for i in columns)
    np.testing.assert_allclose(model.predict_proba(asked), expected[chosen], rtol=1e-4, atol=1e-5)
