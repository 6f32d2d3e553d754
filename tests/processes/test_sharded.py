"""Weights spread over processes: the same bits as whole ones, with a part of the memory."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import luthier
from luthier.store.checkpoint import checkpoints, read_checkpoint, step_of
from tests.processes import programs
from tests.processes.kit import Workers

PROGRAM = "tests.processes.programs"
PLAIN = {"ema": None, "micro_batch_size": None}
SHARDED = {**PLAIN, "sharded": True}
ELEMENTWISE = [
    "SGD", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "Rprop", "Adagrad", "Adadelta", "ASGD"
]  # fmt: skip


@pytest.fixture(scope="module")
def groups() -> Iterator[Callable[[int], Workers]]:
    """Give groups of processes by their size, which live as long as these tests."""
    made: dict[int, Workers] = {}

    def group(size: int) -> Workers:
        if size not in made:
            made[size] = Workers(size)
        return made[size]

    yield group
    for found in made.values():
        found.end()


def some(values: list[Any], quick: list[Any]) -> list[Any]:
    """Return values for `parametrize`, of which all but some are slow."""
    return [value if value in quick else pytest.param(value, marks=pytest.mark.slow) for value in values]


@pytest.mark.parametrize("size", some([2, 3, 4], [4]))
@pytest.mark.parametrize("name", ["mlp", "transformer", "convnet", "lstm", "drawing", "loader", "step"])
def test_spread_weights_give_the_bits_of_whole_ones(name: str, size: int, groups: Any) -> None:
    alone = programs.train(name, 8, None, PLAIN)
    assert isinstance(alone, list), alone
    for answer in groups(size).run(f"{PROGRAM}:train", name, 8, None, SHARDED):
        assert answer == alone


@pytest.mark.parametrize("optimizer", some(ELEMENTWISE, ["SGD", "AdamW", "Adagrad"]))
def test_each_optimizer_updates_a_slice_as_the_whole(optimizer: str, groups: Any) -> None:
    more = {"optimizer": optimizer, "weight_decay": 0.01} if optimizer not in ("Rprop",) else {"optimizer": optimizer}
    alone = programs.train("mlp", 4, None, {**PLAIN, **more})
    assert isinstance(alone, list), alone
    assert groups(2).run(f"{PROGRAM}:train", "mlp", 4, None, {**SHARDED, **more}) == [alone] * 2


SETTINGS: dict[str, dict[str, Any]] = {
    "clip_norm": {"clip_norm": 0.01},
    "clip_value": {"clip_value": 0.001, "clip_norm": None},
    "freeze": {"freeze": ["embedding"]},
    "precision": {"precision": "bf16"},
    "scheduler": {"scheduler": "CosineAnnealingLR", "warmup_steps": 3, "valid_every_steps": 3, "patience": 1},
    "flavour": {"optimizer": "SGD", "momentum": 0.9, "optimizer_flavour": "foreach"},
}


@pytest.mark.parametrize("setting", some(list(SETTINGS), ["clip_norm", "freeze", "precision"]))
def test_settings_give_the_bits_of_whole_weights(setting: str, groups: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    more = SETTINGS[setting]
    monkeypatch.setenv("WORLD_SIZE", "1")
    alone = programs.train("transformer", 4, None, {**SHARDED, **more})
    assert isinstance(alone, list), alone
    assert alone != programs.train("transformer", 4, None, PLAIN)
    assert groups(4).run(f"{PROGRAM}:train", "transformer", 4, None, {**SHARDED, **more}) == [alone] * 4


def until(group: Workers, name: str, folder: Path, step: int) -> list[Any]:
    return group.run(f"{PROGRAM}:spread_until", name, str(folder), step)


@pytest.mark.parametrize("name", some(["mlp", "transformer"], ["transformer"]))
def test_a_run_goes_on_with_another_number_of_processes(name: str, groups: Any, tmp_path: Path) -> None:
    whole = programs.train(name, 4, str(tmp_path / "whole"), PLAIN)
    place = tmp_path / "run"
    assert {answer[-1] for answer in until(groups(4), name, place, 2)} == {False}
    assert len(list(checkpoints(place / "checkpoints")[0].iterdir())) == 4
    assert {answer[-1] for answer in until(groups(2), name, place, 5)} == {False}
    middle = {**PLAIN, "callbacks": [programs.StopAt(7)]}
    assert programs.train(name, 4, str(place), middle)[-1] is False
    assert groups(4).run(f"{PROGRAM}:train", name, 4, str(place), SHARDED) == [whole] * 4
    assert programs.file_digest(place) == programs.file_digest(tmp_path / "whole")
    found = luthier.load(place, programs.problem(name)["module"])
    assert programs.digest(found.module) == whole[0]


@pytest.mark.parametrize("harm", some(["cut", "missing", "empty"], ["cut", "missing"]))
def test_the_newest_whole_checkpoint_is_used(harm: str, groups: Any, tmp_path: Path) -> None:
    whole = programs.train("mlp", 4, None, PLAIN)
    until(groups(2), "mlp", tmp_path, 5)
    newest, before = checkpoints(tmp_path / "checkpoints")
    part = newest / "part-1-of-2.safetensors"
    if harm == "cut":
        part.write_bytes(part.read_bytes()[:-9])
    elif harm == "missing":
        part.unlink()
        assert checkpoints(tmp_path / "checkpoints") == [before]
    else:
        newest.joinpath("part-0-of-2.safetensors").write_bytes(b"")
    assert groups(4).run(f"{PROGRAM}:train", "mlp", 4, str(tmp_path), SHARDED) == [whole] * 4


def test_checkpoints_are_written_by_time_in_the_background(groups: Any, tmp_path: Path) -> None:
    whole = programs.train("mlp", 4, None, PLAIN)
    for found, count in groups(4).run(f"{PROGRAM}:by_time", "mlp", str(tmp_path)):
        assert found == whole
        assert count >= 4
    kept = sorted((tmp_path / "checkpoints").iterdir())
    assert len(kept) == 2
    assert {len(list(path.iterdir())) for path in kept} == {4}


def test_a_checkpoint_holds_no_pickle_and_reads_as_a_whole(groups: Any, tmp_path: Path) -> None:
    until(groups(4), "mlp", tmp_path, 5)
    newest = checkpoints(tmp_path / "checkpoints")[0]
    assert {path.read_bytes()[8:9] for path in newest.iterdir()} == {b"{"}
    tree = read_checkpoint(newest)
    state = programs.problem("mlp")["module"].state_dict()
    assert {name: value.shape for name, value in tree["module"]["state"].items()} == {
        name: value.shape for name, value in state.items()
    }
    place = tmp_path / "alone"
    programs.train_until("mlp", 4, str(place), tree["state"]["global_step"], PLAIN)
    alone = read_checkpoint(checkpoints(place / "checkpoints")[0])
    for name, value in alone["module"]["state"].items():
        assert torch.equal(tree["module"]["state"][name], value)
    for number, state in alone["optimizer"]["state"].items():
        for name, value in state.items():
            assert torch.equal(tree["optimizer"]["state"][number][name], value)


def test_the_module_is_left_as_it_was_found(groups: Any) -> None:
    for name in ("transformer", "lstm"):
        once, twice = (groups(2).run(f"{PROGRAM}:spread_again", name, again) for again in (False, True))
        for answer in (*once, *twice):
            assert answer[1:] == [True, [], True]
        assert once[0] != twice[0]


def test_an_optimizer_passed_in_keeps_its_state(groups: Any) -> None:
    alone = [programs.spread_optimizer("mlp", times, sharded=False) for times in (1, 2)]
    assert alone[0] != alone[1]
    for times in (1, 2):
        assert groups(2).run(f"{PROGRAM}:spread_optimizer", "mlp", times) == [alone[times - 1]] * 2


@pytest.mark.parametrize("size", some([2, 4], [4]))
def test_a_process_holds_its_part_of_the_memory(size: int, groups: Any) -> None:
    whole, alone = programs.weigh(False, 64, 4)
    assert alone > 4 * whole  # weights, gradients, and Adam's two moments
    for _, most in groups(size).run(f"{PROGRAM}:weigh", True, 64, 4):
        assert most < 1.1 * 4 * whole / size, (most, whole)


@pytest.mark.parametrize(
    ("kind", "more", "words"),
    [
        (None, {"ema": 0.9}, "ema cannot be combined with sharded"),
        (None, {"micro_batch_size": 2}, "micro_batch_size cannot be combined with sharded"),
        (None, {"compile": True}, "compile cannot be combined with sharded"),
        ("Convolving", {"memory_format": "channels_last"}, "is not contiguous"),
        (None, {"optimizer": "LBFGS", "clip_norm": None}, "LBFGS evaluates the loss several times"),
        (None, {"optimizer_flavour": "fused"}, "fused updates cannot be combined with sharded"),
        (None, {"optimizer": "Adafactor"}, "Adafactor cannot be combined with sharded"),
        (None, {"optimizer": "other"}, "parameters that are not of Sequential"),
        ("Shared", {}, "parameter layers.1.weight is also layers.0.weight, in another block"),
        ("SharedPart", {}, "parameter layers.2.inner.0.weight is also layers.0.inner.0.weight, in another block"),
        ("Scalar", {}, "parameter scale is a single number"),
        ("Sparse", {}, "embedding gives sparse gradients"),
        ("lazy", {}, "has lazy parameters"),
    ],
)
def test_what_cannot_be_spread_is_refused(kind: str | None, more: dict[str, Any], words: str, groups: Any) -> None:
    for answer, is_as_before in groups(2).run(f"{PROGRAM}:refused", kind, more):
        assert answer.startswith("setting-")
        assert words in answer
        assert "\n" not in answer
        assert is_as_before


def test_a_block_that_is_used_twice_is_refused(groups: Any) -> None:
    for answer, _ in groups(2).run(f"{PROGRAM}:refused", "Siamese", {}):
        assert "used twice in a forward pass" in answer


def test_one_process_has_nothing_to_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    assert programs.train("mlp", 4, None, SHARDED).startswith("setting-processes: sharded spreads the weights")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert programs.train("mlp", 4, None, SHARDED) == programs.train("mlp", 4, None, PLAIN)


def test_a_process_that_fails_ends_all_and_leaves_no_stale_weights() -> None:
    group = Workers(2)
    answers = group.run(f"{PROGRAM}:failing_spread", 1)
    group.end()
    assert answers[1][:2] == ["ValueError", "the cat sat on the cable"]
    assert answers[0][0] == "TrainingError"
    assert "process 1 on " in answers[0][1]
    assert [answer[3] for answer in answers] == [True, True]


@pytest.mark.slow
def test_a_killed_run_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    more = {**PLAIN, "epochs": 12}
    whole, steps = programs.train("transformer", 4, None, more), []
    for step, after_s in ((3, 0.0), (9, 0.013), (15, 0.037), (21, 0.005), (27, 0.071)):
        group = Workers(2)
        for process in group.processes:
            assert process.stdin is not None
            command = [f"{PROGRAM}:killed", ["transformer", str(tmp_path), step, after_s]]
            process.stdin.write(json.dumps(command) + "\n")
            process.stdin.flush()
        first, second = group.processes
        assert first.stdout is not None
        assert json.loads(first.stdout.readline()).startswith("training-process-lost")
        assert second.wait(60) == -9
        group.end()
        steps.append(step_of(checkpoints(tmp_path / "checkpoints")[0]))
    assert steps == sorted(steps)
    assert steps[0] >= 2
    assert programs.train("transformer", 4, str(tmp_path), more) == whole


def test_a_design_leaves_out_what_cannot_be_spread() -> None:
    plan = luthier.design("examples/penguins.csv", target="species", sharded=True, seed=0)
    assert (plan.recipe.ema, plan.recipe.optimizer_flavour) == (None, "foreach")
    assert luthier.design("examples/penguins.csv", target="species", seed=0).recipe.ema is not None
