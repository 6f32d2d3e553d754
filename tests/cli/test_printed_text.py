"""Text from outside is printed as text: no markup, no codes of a terminal, no end of a name, no traceback."""

import json
import os
from html import unescape
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import luthier
from luthier.cli import show
from luthier.core.finding import Finding
from luthier.errors import DataError, printable
from luthier.networks.drawing import draw
from luthier.networks.summary import summarise
from tests.cli.conftest import Command

EVIL = ["speed [km/h]", "[/x]", "[bold]b[/bold]", ":smile:", "a\x1b[2Jb", "a\u202eb", "\x9b31m", "\x00\x07", "n" * 5000]


def table(place: Path, name: str, classes: tuple[str, str]) -> None:
    cell = '"' + name.replace('"', '""') + '"'
    rows = "".join(f'{i % 17}.5,{i % 7},"{classes[i % 2]}"\n' for i in range(80))
    (place / "data.csv").write_text(f"{cell},b,y\n{rows}", encoding="utf-8")


@given(st.text() | st.text(st.characters()) | st.sampled_from(EVIL))
def test_printable_text_is_safe_short_and_stays_as_it_is(text: str) -> None:
    shown = printable(text)
    assert shown.translate(dict.fromkeys(map(ord, "\n\t\u200c\u200d"))).isprintable()
    assert len(shown) <= 2000
    assert printable(shown) == shown
    shown.encode()
    if text.isprintable() and len(text) <= 2000:
        assert shown == text


@pytest.mark.parametrize("name", EVIL)
def test_columns_and_classes_are_shown_as_they_are_called(name: str, command: Command) -> None:
    name = name.replace("\x00", "\x01")  # a table holds no NUL
    table(Path(), name, (name, "other"))
    status, out, err = command("train", "data.csv", "--target", "y", "--epochs", 1, "--run", "run", "--limit", 2)
    assert status == 0, err
    assert "\x1b" not in out + err
    assert "\u202e" not in out + err
    assert "\x9b" not in out + err
    whole = "".join(out.split())
    assert "".join(printable(name, most=200).split())[:60] in whole
    assert max(map(len, (out + err).split("\n"))) < 5000
    status, out, _ = command("evaluate", "run", "data.csv", "--json")
    assert json.loads(out)["classes"][0]["class"] in (name, "other")
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert command("predict", "run", "data.csv", "-o", "out.csv")[0] == 0
    status, _, err = command("evaluate", "run", "missing.csv")
    assert status == 2
    assert command("train", "run/run.toml", "--run", "again")[0] == 0


def test_an_error_and_a_finding_hold_no_codes() -> None:
    name = "\x1b]0;title\x07\udce9" + "n" * 3_000_000
    error = DataError(f"no column {name}", hint=f"or {name}", code="data-column-missing")
    finding = Finding(code="check-mask", severity="note", what=name, where=name, fix=name)
    for text in (str(error), error.message, str(finding)):
        assert len(text) < 5000
        assert "\x1b" not in text
        text.encode()


def test_a_drawing_of_odd_names_is_xml() -> None:
    import xml.etree.ElementTree as ET

    import torch
    from torch import nn

    module = nn.Sequential()
    for i, name in enumerate(["<b>", "a\x1bb", "\x00", "\u202e", "]]>", "&", "n" * 500]):
        module.add_module(name, nn.Linear(3, 3, bias=bool(i % 2)))
    text = draw(summarise(module, torch.zeros(2, 3)))
    ET.fromstring(text)
    assert "\x1b" not in unescape(text)


def test_json_is_strict(capsys: pytest.CaptureFixture[str]) -> None:
    from luthier.cli.output import say_json

    say_json({"loss": float("nan"), "rows": [float("inf"), 1.5], "name": "a\u202eb\udce9\x7f é"})
    out = capsys.readouterr().out
    assert out.isascii() or "é" in out
    assert json.loads(out, parse_constant=lambda word: pytest.fail(word)) == {
        "loss": None, "rows": [None, 1.5], "name": "a\u202eb\udce9\x7f é",
    }  # fmt: skip


def test_a_table_on_a_terminal_takes_no_markup(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(show, "_console", lambda: Console(force_terminal=True, markup=False, emoji=False, width=100))
    show.figures(
        {"classes": [{"class": "[/x]", "rows": 3, "precision": 0.5, "recall": 0.5, "f1": 0.5}], "confusion": [[3]]}
    )
    assert "[/x]" in capsys.readouterr().out


def test_names_that_are_not_utf_8(command: Command) -> None:
    from tests.cli.test_bad_input import picture

    raw = os.fsdecode(b"caf\xe9")
    Path(f"{raw}.csv").write_text("x,y\n" + "".join(f"{i % 7},{'ab'[i % 2]}\n" for i in range(60)))
    for kind in ("cat", "dog"):
        for i in range(8):
            picture(Path("images") / kind / f"{i}.png", 10 * i)
    picture(Path("odd") / raw / "1.png")
    picture(Path("odd") / "dog" / "1.png")
    for arguments in (
        ("train", f"{raw}.csv", "--target", "y", "--epochs", 1),
        ("train", "images", "--run", raw, "--epochs", 1),
        ("train", "odd", "--epochs", 1),
        ("train", "images", "--test", raw, "--epochs", 1),
    ):
        status, _, err = command(*arguments)
        assert (status, "[data-name-encoding]" in err) == (2, True), err
        assert "caf\\udce9" in err
    assert not Path("runs").exists()
    assert command("train", "images", "--run", "run", "--epochs", 1)[0] == 0
    picture(Path("new") / f"{raw}.png")
    status, out, _ = command("predict", "run", "new")
    assert (status, "caf\\udce9.png" in out) == (0, True)
    assert luthier.load("run").predict("new").shape == (1,)


@pytest.mark.parametrize("flags", [[], ["--reasons"]])
def test_a_plan_of_many_columns_is_folded_unless_reasons_are_asked_for(flags: list[str], command: Command) -> None:
    lines = [",".join(f"{(i * 7 + j) % 53}.5" for j in range(30)) + f",{i % 2}" for i in range(60)]
    Path("wide.csv").write_text("\n".join([",".join([*(f"c{j}" for j in range(30)), "y"]), *lines]))
    status, out, err = command("train", "wide.csv", "--target", "y", "--epochs", 1, *flags)
    assert status == 0, err
    assert ("… and 10 more columns: 10 number; --reasons shows all" in out) == (not flags)
    assert ("c29" in out) == bool(flags)
