"""How many threads a designed table takes."""

import numpy as np
import polars as pl
import pytest
import torch

import luthier


@pytest.mark.parametrize(("rows", "family", "expected"), [(600, "tabm", 1), (600, "mlp", 1), (6000, "tabm", 2)])
def test_a_small_table_takes_one_thread(rows: int, family: str, expected: int) -> None:
    rng = np.random.default_rng(0)
    data = pl.DataFrame({"a": rng.normal(size=rows), "y": rng.normal(size=rows)})
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        plan = luthier.design(data, target="y", network=family)
        own = luthier.design(data, target="y", network=family, threads=2)
    finally:
        torch.set_num_threads(before)
    assert plan.recipe.threads == expected
    assert own.recipe.threads == 2
