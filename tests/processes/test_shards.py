"""Any number of processes up to the shards gives the same bits."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import luthier
from luthier.core.processes import Tree, _covering, combined, own_shards
from luthier.store.checkpoint import checkpoints, step_of
from tests.faults.disk import small_disk
from tests.processes import programs
from tests.processes.kit import Workers, workers

PROBLEMS = ["mlp", "convnet", "lstm", "drawing", "loader", "noisy", "step"]
PROGRAM = "tests.processes.programs"


@given(st.integers(1, 40), st.integers(1, 9), st.data())
@settings(deadline=None)
def test_the_sum_is_the_same_for_any_number_of_processes(shards: int, size: int, data: Any) -> None:
    used = data.draw(st.integers(1, shards))
    vectors = torch.randn(used, 3, generator=torch.Generator().manual_seed(0))
    whole = Tree()
    for shard in range(used):
        whole.add(shard, vectors[shard].clone())
    nodes: dict[Any, Any] = {}
    for rank in range(size):
        tree, (first, stop) = Tree(), own_shards(rank, size, shards)
        for shard in range(first, min(stop, used)):
            tree.add(shard, vectors[shard].clone())
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


@pytest.fixture(scope="module")
def groups() -> Iterator[dict[int, Workers]]:
    with workers(2) as two, workers(3) as three:
        yield {2: two, 3: three}


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_run_goes_on_in_mid_epoch_with_another_number_of_processes(
    name: str, groups: dict[int, Workers], tmp_path: Path
) -> None:
    """An epoch has 4 updates: processes go from 1 to 2 to 3 to 1, the first three times within an epoch."""
    whole, run = programs.train(name, 4), str(tmp_path / "run")
    assert programs.train_until(name, 4, run, 2)[-1] is False
    for size, step in ((2, 5), (3, 9)):
        answers = groups[size].run(f"{PROGRAM}:train_until", name, 4, run, step)
        assert answers == [answers[0]] * size
        assert answers[0][-1] is False
    assert programs.train(name, 4, run) == whole


def test_shards_give_the_losses_of_none_to_rounding() -> None:
    plain: dict[str, Any] = {"ema": None}
    for name in ("lstm", "mlp"):
        found = []
        for shards in (None, 5):
            arguments = {**programs.problem(name), "shards": shards, **(plain if name == "mlp" else {})}
            for part in arguments["module"].modules():
                if isinstance(part, torch.nn.Dropout):
                    part.p = 0.0
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


def test_a_loss_across_rows_is_found_before_the_first_update() -> None:
    for loss in ("contrastive", "summed"):
        answer = programs.checked(loss)
        assert answer.startswith("check-shards: the gradient of a batch is not the mean"), answer
    code = ("check-shards",)
    assert isinstance(programs.checked("contrastive", {"check": luthier.CheckSettings(select=code, ignore=code)}), list)
    for loss, more in (("noisy_loss", {}), ("summed", {"criterion": torch.nn.MSELoss(reduction="sum")})):
        assert isinstance(programs.checked(loss, more), list)


def test_looking_at_shards_moves_no_bit() -> None:
    on, off = ({"criterion": torch.nn.MSELoss(), "check": check} for check in (True, False))
    assert programs.checked("summed", on) == programs.checked("summed", off)


def test_a_process_that_fails_ends_all_and_is_named() -> None:
    with workers(3) as group:
        answers = group.run(f"{PROGRAM}:failing", 1)
        assert group.run(f"{PROGRAM}:train", "step", 4) == [programs.train("step", 4)] * 3
    assert answers[1][:2] == ["ValueError", "the cat sat on the cable"]
    for kind, words, seconds in (answers[0], answers[2]):
        assert kind == "TrainingError"
        assert "process 1 on " in words
        assert "ValueError: the cat sat on the cable" in words
        assert seconds < 60


def test_processes_that_come_to_other_weights_are_told() -> None:
    with workers(2) as group:
        for answer in group.run(f"{PROGRAM}:drifting"):
            assert answer.startswith(
                "training-replicas-differ: process 1 and process 0 have different weights after epoch 1"
            )


def test_a_process_can_train_for_itself(group: Workers) -> None:
    assert group.run(f"{PROGRAM}:for_itself", 7) == [programs.for_itself(7)] * group.size


def test_processes_that_do_not_know_where_to_meet_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for answer in (programs.train("mlp", None), programs.checked("summed")):
        assert answer.startswith("setting-processes: WORLD_SIZE is 2, and no address is set")


def test_a_group_of_one_process_trains_as_alone(tmp_path: Path) -> None:
    alone = programs.train("mlp", None)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    try:
        assert programs.train("mlp", None) == alone
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"accumulate": 2}, "accumulate"),
        ({"optimizer": "LBFGS", "clip_norm": None}, "LBFGS evaluates the loss several"),
    ],
)
def test_what_shards_do_not_do_is_refused(more: dict[str, Any], words: str) -> None:
    answer = programs.train("mlp", 4, None, more)
    assert words in answer, answer


def test_a_sharded_run_is_replayed_and_its_data_is_read_by_parts(tmp_path: Path, group: Workers) -> None:
    table = {"x": [i % 7 for i in range(200)], "z": [i % 5 for i in range(200)], "y": ["a", "b"] * 100}
    run = luthier.train(table, target="y", run=tmp_path / "memory", shards=3, epochs=2, threads=1, seed=0)
    assert run.is_done
    source = tmp_path / "d.csv"
    source.write_text("x,z,y\n" + "".join(f"{i % 7},{i % 5},{'ab'[i % 2]}\n" for i in range(200)))
    luthier.train(source, target="y", run=tmp_path / "run", shards=3, epochs=2, threads=1, seed=0)
    assert luthier.replay(tmp_path / "run").is_equal
    answers = group.run(f"{PROGRAM}:train_table", str(source), str(tmp_path / "group"))
    if group.size <= 3:
        assert answers == [programs.file_digest(tmp_path / "run"), *[None] * (group.size - 1)]
    else:
        assert all("4 processes and 3 shards" in answer for answer in answers)


def test_each_process_reads_its_own_samples(group: Workers) -> None:
    counts = group.run(f"{PROGRAM}:counted_reads")
    assert sum(counts) == 3 * 63
    assert max(counts) <= 3 * 63 / group.size + 3 * 4 * 3


@pytest.mark.parametrize(
    ("what", "words"), [("module", "wrapped by DistributedDataParallel"), ("loader", "(DistributedSampler)")]
)
def test_what_spreads_over_processes_itself_is_refused(group: Workers, what: str, words: str) -> None:
    for answer in group.run(f"{PROGRAM}:spread_already", what):
        assert answer.startswith("setting-processes: ")
        assert words in answer


def test_a_failure_is_of_one_call(group: Workers) -> None:
    alone = programs.train("mlp", 8)
    for refused, trained in group.run(f"{PROGRAM}:twice", "mlp"):
        assert refused.startswith("setting-processes")
        assert trained == alone


def test_a_process_that_takes_long_to_read_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_PROCESS_TIMEOUT_S", "1")
    alone = programs.train("drawing", 4)[:2]
    with workers(2) as group:
        assert group.run(f"{PROGRAM}:over", "Sleeping") == [alone] * 2


def test_a_full_disk_of_another_process_ends_all_and_the_run_goes_on(tmp_path: Path) -> None:
    alone = programs.train("drawing", 4)[:2]
    run = str(tmp_path / "run")
    with small_disk(tmp_path / "small", "400k") as disk, workers(2) as group:
        filler = disk / "filler"
        filler.write_bytes(bytes(300 << 10))
        first, second = group.run(f"{PROGRAM}:over", "Keeping4k", run, str(disk))
        assert first.startswith(
            f"TrainingError: process 1 on {socket.gethostname()}: OSError: [Errno 28] No space left"
        )
        assert second.startswith("OSError: [Errno 28] No space left")
        assert [path for path in Path(run).rglob("*") if path.suffix == ".part"] == []
        assert step_of(checkpoints(Path(run, "checkpoints"))[0]) > 0
        filler.unlink()
        assert group.run(f"{PROGRAM}:over", "Keeping4k", run, str(disk)) == [alone] * 2
