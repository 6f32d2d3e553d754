"""Real programs with loops of their own: the bits of the plain loop, and of a run never stopped after any kill."""

import importlib
import linecache
import logging
import multiprocessing
import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.custom.programs import NAMES, Outcome, seed_everything

HERE = str(Path(__file__).parent / "programs")
LUTHIER = str(Path(importlib.import_module("luthier").__file__ or "").parent)
SETTINGS: dict[str, Any] = {"checkpoint_every_s": None, "verbose": False}
EVERY = {"dqn": 25}  # steps; 7 of the others


class Killed(Exception):  # a kill is no error
    """Raised in the middle of a loop."""


class Lines:
    """Count the lines of programs and of luthier that run, and act at one of them."""

    def __init__(
        self, at: int | None = None, act: Callable[[], None] | None = None, *, of_luthier: bool = False
    ) -> None:
        self.at, self.act, self.of_luthier = at, act, of_luthier
        self.of_programs, self.of_both = 0, 0

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        file = frame.f_code.co_filename
        in_program = file.startswith(HERE)
        if not (in_program or (self.of_luthier and file.startswith(LUTHIER))):
            return None
        if event == "line":
            self.of_both += 1
            self.of_programs += in_program
            count = self.of_both if self.of_luthier else self.of_programs
            if self.at is not None and count >= self.at and not is_with(file, frame.f_lineno):
                sys.settrace(None)
                assert self.act is not None
                self.act()
        return self

    def run(self, program: str, folder: Path) -> Outcome:
        """Run the program with the lines counted."""
        with_run = importlib.import_module(f"tests.custom.programs.{program}").with_run
        traced = sys.gettrace()
        sys.settrace(self)
        try:
            outcome: Outcome = with_run(folder, checkpoint_every_steps=EVERY.get(program, 7), **SETTINGS)
        finally:
            sys.settrace(traced)
        return outcome


def is_with(file: str, number: int) -> bool:
    """Whether it is a line of `with`: an error there, after the block, would keep it from being closed."""
    return linecache.getline(file, number).lstrip().startswith("with ")


def raise_killed() -> None:
    raise Killed


def leave() -> None:
    os._exit(9)


def tells(entry: logging.LogRecord) -> bool:
    """Whether an entry is more than that the checks take time, which is so on a busy machine."""
    return entry.levelno >= logging.WARNING and not entry.getMessage().startswith("checking for silent mistakes")


def life(program: str, folder: Path, at: int, of_luthier: bool, said: Path) -> None:
    """Run in a process of its own, which ends at a line of the program, or of luthier; what it logs is in a file."""
    torch.set_num_threads(1)
    handler = logging.FileHandler(said)
    handler.addFilter(tells)
    logging.getLogger("luthier").addHandler(handler)
    Lines(at, leave, of_luthier=of_luthier).run(program, folder)


def run_in_process(program: str, folder: Path, at: int, *, of_luthier: bool) -> bool:
    """Return whether it came to its end; an error or a warning fails the test."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, *(f"tests.custom.programs.{name}" for name in NAMES)])
    said = folder.parent / f"{folder.name}.log"
    process = context.Process(target=life, args=(program, folder, at, of_luthier, said))
    process.start()
    process.join()
    assert process.exitcode in (0, 9)
    assert not said.exists() or said.read_text() == ""
    return process.exitcode == 0


def run_and_raise(program: str, folder: Path, at: int) -> bool:
    """Return whether it came to its end."""
    try:
        Lines(at, raise_killed).run(program, folder)
    except Killed:
        return False
    return True


def check_equal(ours: Outcome, theirs: Outcome) -> None:
    assert ours[0].keys() == theirs[0].keys()
    for name, state in theirs[0].items():
        assert ours[0][name].keys() == state.keys()
        for key, expected in state.items():
            value = ours[0][name][key]
            same = torch.equal(value, expected) if isinstance(expected, Tensor) else value == expected
            assert same, f"{name}.{key}"


def without_seconds(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def nothing_is_said(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """A healthy program is told nothing: neither findings of the watch nor variables that were not handed over."""
    yield
    for when in ("setup", "call"):
        assert [entry.getMessage() for entry in caplog.get_records(when) if tells(entry)] == []


def never_stopped(program: str, tmp_path: Path, *, of_luthier: bool) -> tuple[Outcome, Lines]:
    """Return the outcome, and how many lines ran."""
    lines = Lines(of_luthier=of_luthier)
    return lines.run(program, tmp_path / "whole"), lines


def check_same_run(program: str, folder: Path, whole: Outcome) -> None:
    again = Lines().run(program, folder)
    check_equal(again, whole)
    assert without_seconds(again[1]) == without_seconds(whole[1])


@pytest.mark.parametrize("program", NAMES)
def test_a_program_gives_the_bits_of_the_plain_loop_and_after_two_kills(program: str, tmp_path: Path) -> None:
    seed_everything(1)
    plain: Outcome = importlib.import_module(f"tests.custom.programs.{program}").plain()
    whole, lines = never_stopped(program, tmp_path, of_luthier=False)
    check_equal(whole, plain)
    assert len(whole[1]) == len(plain[1])
    for ours, theirs in zip(whole[1], plain[1], strict=True):
        assert {name: ours.get(name) for name in theirs} == pytest.approx(theirs, rel=1e-6)

    chance = random.Random(program)
    folder, count = tmp_path / "killed", lines.of_programs
    assert not run_in_process(program, folder, chance.randrange(count // 4, count * 6 // 10), of_luthier=False)
    assert not run_and_raise(program, folder, chance.randrange(count // 10, count * 3 // 10))
    check_same_run(program, folder, whole)


@pytest.mark.slow
@pytest.mark.parametrize("program", NAMES)
def test_a_program_that_is_killed_twenty_times_gives_the_same_bits(program: str, tmp_path: Path) -> None:
    whole, lines = never_stopped(program, tmp_path, of_luthier=True)
    chance = random.Random(f"twenty {program}")
    kills = 0
    while kills < 20:
        folder = tmp_path / f"killed {kills}"
        is_done = False
        while not is_done and kills < 20:
            if chance.random() < 0.5:
                is_done = run_in_process(program, folder, chance.randrange(1, lines.of_both), of_luthier=True)
            else:
                is_done = run_and_raise(program, folder, chance.randrange(1, lines.of_programs))
            kills += not is_done
        check_same_run(program, folder, whole)
