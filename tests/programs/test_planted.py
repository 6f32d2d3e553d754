"""Mistakes planted into public programs (benchmarks/public/planted.py): the text must be there, and the mistake act."""

from pathlib import Path

import pytest
import torch
from benchmarks.public.loading import Edit, Sources, put_once
from benchmarks.public.planted import PLANTED, Planted, verify
from benchmarks.public.programs import PROGRAMS
from torch import nn

from tests.checks.kit.program import Parts

SCRIPT = "me/it/train.py"
NET = "me/it/net.py"


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    place = tmp_path / "me" / "it"
    place.mkdir(parents=True)
    (place / "train.py").write_text(
        "from net import scale\nlr = 0.1 * scale()\nfor epoch in range(2):\n    lr += 1\nend\n"
    )
    (place / "net.py").write_text("def scale():\n    return 1.0\n")
    return tmp_path


@pytest.mark.parametrize(("old", "times"), [("zero_grad", 0), ("step", 2)])
def test_text_that_is_not_there_once_is_refused(old: str, times: int) -> None:
    with pytest.raises(ValueError, match=f"^a/b/c.py has this {times} times, not once: '{old}'$"):
        put_once("loss.backward(); opt.step(); scheduler.step()", old, "", "a/b/c.py")
    assert put_once("opt.step()", "step", "zero_grad", "a/b/c.py") == "opt.zero_grad()"


@pytest.mark.parametrize("old", ["momentum", "lr"])
def test_a_source_whose_text_is_not_there_once_is_refused(sources: Path, old: str) -> None:
    with pytest.raises(ValueError, match="not once"):
        Sources(sources, [(SCRIPT, old, "x")])


def test_an_edit_is_in_force_in_a_script_and_in_what_it_imports_and_nowhere_after(sources: Path) -> None:
    before = [(sources / path).read_text() for path in (SCRIPT, NET)]
    edits: list[Edit] = [(SCRIPT, "0.1 *", "0.5 *"), (NET, "return 1.0", "return 2.0"), (NET, "2.0", "4.0")]
    edited = Sources(sources, edits)
    assert len(edited.unused) == 2
    found = edited.script("me/it", "train.py", until="for epoch")
    assert found.lr == 2.0
    assert not edited.unused
    assert Sources(sources).script("me/it", "train.py", until="for epoch").lr == 0.1
    assert [(sources / path).read_text() for path in (SCRIPT, NET)] == before


def test_the_rest_of_a_script_runs_on_with_its_names(sources: Path) -> None:
    edited = Sources(
        sources,
        [(SCRIPT, "lr += 1", "seen.append(epoch); lr += len(seen)"), (SCRIPT, "lr = 0.1", "seen = []; lr = 0.1")],
    )
    found = edited.script("me/it", "train.py", until="for epoch")
    assert found.seen == []
    edited.rest("end")()
    assert found.seen == [0, 1]


def tiny(sources: Sources) -> Parts:
    scale = sources.module("me/it", "net.py").scale()
    net = nn.Linear(2, 1)
    data = (torch.ones(8, 2) * scale, torch.zeros(8, 1))
    return Parts(net, data, None, nn.MSELoss(), torch.optim.SGD(net.parameters(), 0.1))


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        ((NET, "return 1.0", "return 1.0  # the same"), "changes nothing"),
        ((NET, "return 1.0", "return float('nan')"), "not finite"),
        ((SCRIPT, "0.1", "0.2"), "edits what is not run"),
    ],
)
def test_a_mistake_that_does_not_act_is_refused(
    monkeypatch: pytest.MonkeyPatch, sources: Path, edit: Edit, said: str
) -> None:
    monkeypatch.setitem(PROGRAMS, "tiny", tiny)
    sound = Planted("scaled", "tiny", "data", "", ((NET, "return 1.0", "return 3.0"),))
    assert "with the mistake" in verify(sound, sources)
    with pytest.raises(ValueError, match=said):
        verify(Planted("none", "tiny", "data", "", (edit,)), sources)


def test_every_mistake_has_a_name_of_its_own_and_a_program_that_there_is() -> None:
    assert len({entry.name for entry in PLANTED}) == len(PLANTED)
    assert {entry.program for entry in PLANTED} <= set(PROGRAMS)
    assert all(bool(entry.edits) != bool(entry.change) for entry in PLANTED)
