"""Loops of one's own in several processes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.custom import joint_programs
from tests.processes.kit import Workers

PROGRAM = "tests.custom.joint_programs"


@pytest.fixture(scope="module", params=[2, 3])
def group(request: Any) -> Iterator[Workers]:
    made = Workers(request.param)
    yield made
    made.end()


def test_weights_are_one_and_the_losses_those_of_one_process(group: Workers, tmp_path: Path) -> None:
    answers = group.run(f"{PROGRAM}:classes", str(tmp_path / "together"), None, False, "LayerNorm")
    assert all(answer == answers[0] for answer in answers)
    alone = joint_programs.classes(str(tmp_path / "alone"), norm="LayerNorm")
    assert torch.tensor(answers[0]["rows"]) == pytest.approx(torch.tensor(alone["rows"]), abs=2e-5)


@pytest.mark.parametrize("program", ["classes", "adversaries"])
def test_a_run_killed_anywhere_goes_on_with_the_same_bits(group: Workers, tmp_path: Path, program: str) -> None:
    whole = group.run(f"{PROGRAM}:{program}", str(tmp_path / "whole"))
    for at in (1, 4, 8):
        place = str(tmp_path / f"{program}-{at}")
        assert group.run(f"{PROGRAM}:{program}", place, at) == [None] * group.size
        again = group.run(f"{PROGRAM}:{program}", place)
        for before, now in zip(whole, again, strict=True):
            assert {**now, "drawn": 0} == {**before, "drawn": 0}
            if program == "adversaries":
                assert now["drawn"] == before["drawn"][-len(now["drawn"]) :]


def test_loaders_draw_alike_and_resume(group: Workers, tmp_path: Path) -> None:
    whole = group.run(f"{PROGRAM}:classes", str(tmp_path / "whole"), None, True)
    place = str(tmp_path / "killed")
    group.run(f"{PROGRAM}:classes", place, 7, True)
    assert group.run(f"{PROGRAM}:classes", place, None, True) == whole


def test_processes_draw_apart_and_come_to_the_same_weights(group: Workers, tmp_path: Path) -> None:
    answers = group.run(f"{PROGRAM}:adversaries", str(tmp_path / "run"))
    assert len({answer["weights"] for answer in answers}) == 1
    assert answers[0]["rows"] == answers[1]["rows"]
    assert not set(answers[0]["drawn"]) & set(answers[1]["drawn"])


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("apart", "call run.backward"),
        ("short", "a batch has 1 samples"),
        ("parts", "x is"),
        ("one", "no luck"),
    ],
)
def test_what_would_part_the_processes_is_refused(group: Workers, tmp_path: Path, what: str, said: str) -> None:
    answers = group.run(f"{PROGRAM}:refused", str(tmp_path / "run"), what)
    assert all(said in answer for answer in answers), answers


def test_a_run_goes_on_with_as_many_processes(group: Workers, tmp_path: Path) -> None:
    place = str(tmp_path / "run")
    group.run(f"{PROGRAM}:classes", place, 5)
    with pytest.raises(Exception, match=f"a run of {group.size} processes"):
        joint_programs.classes(place)


def test_a_signal_to_one_stops_all(group: Workers, tmp_path: Path) -> None:
    answers = group.run(f"{PROGRAM}:stopped", str(tmp_path / "run"))
    assert answers[0] == answers[1]
    assert answers[0][0] == 143
