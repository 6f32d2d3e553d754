"""Addressed randomness."""

import torch
from hypothesis import given
from hypothesis import strategies as st

import luthier
from luthier.core.order import draws, mix


@given(st.integers(1, 200), st.integers(0, 2**40), st.integers(0, 1000))
def test_an_order_is_a_permutation_that_depends_on_its_address_alone(n: int, seed: int, epoch: int) -> None:
    torch.manual_seed(0)
    first = luthier.order(n, seed, epoch)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert torch.equal(luthier.order(n, seed, epoch), first)
    assert torch.equal(torch.get_rng_state(), before)
    assert sorted(first.tolist()) == list(range(n))


def test_seeds_and_epochs_give_other_orders() -> None:
    """A seed in the upper 32 bits would be dropped by torch's generator."""
    orders = {tuple(luthier.order(50, seed, epoch).tolist()) for seed in range(20) for epoch in range(20)}
    assert len(orders) == 400
    assert len({mix(seed, epoch, index) for seed in range(20) for epoch in range(20) for index in range(20)}) == 8000


def test_draws_are_a_row_a_sample() -> None:
    table = draws(10, 3, 0, 5)
    assert table.shape == (10, 3)
    assert 0 <= float(table.min()) <= float(table.max()) < 1
    assert not torch.equal(table, draws(10, 3, 0, 6))
