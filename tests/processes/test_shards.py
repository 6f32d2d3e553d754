"""Any number of processes up to the shards gives the same bits."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.core.processes import Tree, _covering, combined, own_shards
from tests.processes import programs
from tests.processes.kit import Workers

PROBLEMS = ["mlp", "convnet", "lstm", "drawing", "loader", "noisy", "step"]
PROGRAM = "tests.processes.programs"


@given(st.integers(1, 40), st.integers(1, 9), st.data())
@settings(deadline=None)
def test_the_sum_is_the_same_for_any_number_of_processes(shards: int, size: int, data: Any) -> None:
    used = data.draw(st.integers(1, shards))
    vectors = torch.randn(used, 3, generator=torch.Generator().manual_seed(0))
    whole = Tree()
    for shard in range(used):
        whole.add(shard, vectors[shard])
    nodes: dict[Any, Any] = {}
    for rank in range(size):
        tree, (first, stop) = Tree(), own_shards(rank, size, shards)
        for shard in range(first, min(stop, used)):
            tree.add(shard, vectors[shard])
        assert list(tree.nodes) == _covering(first, stop, used)
        nodes |= tree.nodes
    assert torch.equal(combined(nodes, used), combined(whole.nodes, used))


@pytest.fixture(scope="module", params=[2, 3, 4])
def group(request: Any) -> Iterator[Workers]:
    made = Workers(request.param)
    yield made
    made.end()


@pytest.mark.parametrize("name", PROBLEMS)
def test_any_number_of_processes_gives_the_bits_of_one(name: str, group: Workers) -> None:
    alone = programs.train(name, 8)
    assert isinstance(alone, list), alone
    for answer in group.run(f"{PROGRAM}:train", name, 8):
        assert answer == alone


def test_a_run_goes_on_with_another_number_of_processes(group: Workers, tmp_path: Path) -> None:
    whole = programs.train("mlp", 4)
    for name, first in (("first", programs.train_until), ("then", None)):
        place = str(tmp_path / name)
        if first is None:
            stopped = group.run(f"{PROGRAM}:train_until", "mlp", 4, place, 3)[0]
            ended = [programs.train("mlp", 4, place)]
        else:
            stopped = first("mlp", 4, place, 5)
            ended = group.run(f"{PROGRAM}:train", "mlp", 4, place)
        assert stopped[-1] is False
        assert all(answer == whole for answer in ended)


def test_shards_give_the_losses_of_none_to_rounding() -> None:
    plain: dict[str, Any] = {"ema": None}
    for name in ("lstm", "mlp"):
        found = []
        for shards in (None, 5):
            arguments = {**programs.problem(name), "shards": shards, **(plain if name == "mlp" else {})}
            for part in arguments["module"].modules():
                if isinstance(part, torch.nn.Dropout):
                    part.p = 0.0
            import luthier

            found.append([row["train_loss"] for row in luthier.fit(**arguments).record.epochs])
        assert found[0] == pytest.approx(found[1], abs=1e-6)


@pytest.mark.parametrize("field", ["lr", "batch_size"])
def test_processes_called_otherwise_are_refused(group: Workers, field: str) -> None:
    for answer in group.run(f"{PROGRAM}:differing", "mlp", field, group.size - 1):
        assert answer.startswith("setting-processes: ")
        assert field in answer
        assert f"process {group.size - 1}" in answer


def test_more_processes_than_shards_are_refused(group: Workers) -> None:
    for answer in group.run(f"{PROGRAM}:train", "mlp", 1):
        assert (
            answer
            == f"setting-processes: there are {group.size} processes and 1 shards, and a process computes at least one"
        )
