"""The command that shows a network."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from torch import nn

import luthier
from tests.cli.conftest import Command


def test_a_run_is_shown_with_the_reasons_for_its_design(command: Command, models: Path) -> None:
    status, out, err = command("summary", models / "table")
    assert (status, err) == (0, "")
    for words in ("Linear(", "(N, 3)", "multiply-adds a row of data", "family: rows of a table"):
        assert words in out, words
    table = out.split("multiply-adds a row")[0].splitlines()[:-1]
    assert max(map(len, table)) <= 100
    status, from_file, _ = command("summary", models / "table" / "model.safetensors")
    assert status == 0
    assert out.startswith(from_file)


@pytest.mark.parametrize("kind", ["table", "image"])
def test_a_network_is_drawn(command: Command, models: Path, tmp_path: Path, kind: str) -> None:
    assert command("summary", models / kind, "--svg", "net.svg", "-q") == (0, "", "")
    root = ElementTree.parse(tmp_path / "net.svg").getroot()
    layers = [group.get("id") for group in root.iter("{http://www.w3.org/2000/svg}g") if group.get("class") == "layer"]
    assert "head" in layers


def test_json_for_programs(command: Command, models: Path) -> None:
    status, out, _ = command("summary", models / "image", "--json")
    found = json.loads(out)
    assert status == 0
    assert found["parameters"] == sum(row["parameters"] for row in found["rows"])
    assert found["rows"][-1]["output"] == ["N", 1]
    assert found["why"]["family"]


def test_bad_input_is_said(command: Command, models: Path, tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "model.pt")
    luthier.Model(nn.Linear(3, 2)).save(tmp_path / "own.safetensors")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "run.toml").write_bytes((models / "table" / "run.toml").read_bytes())
    (tmp_path / "empty").mkdir()
    for given, code in (
        ("nowhere", "bundle-not-found"),
        ("empty", "bundle-not-found"),
        ("half", "bundle-not-found"),
        ("model.pt", "bundle-is-pickle"),
        ("own.safetensors", "bundle-module-needed"),
    ):
        status, out, err = command("summary", given)
        assert (status, out) == (2, ""), given
        assert f"[{code}]" in err, given
        assert "Traceback" not in err
    assert "luthier resume half" in command("summary", "half")[2]
    status, _, err = command("summary", models / "table", "--svg", "no/such/folder/net.svg")
    assert (status, "[run-cannot-write]" in err) == (2, True)
