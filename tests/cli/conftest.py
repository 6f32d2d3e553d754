"""A place with one good file of each kind, and the command in it."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import luthier
from luthier.cli.main import _run

PENGUINS = Path(__file__).parents[2] / "examples" / "penguins.csv"
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained model of each kind of data, trained as briefly as can be."""
    place = tmp_path_factory.mktemp("models")
    before = Path.cwd()
    os.chdir(place)
    try:
        rng = np.random.default_rng(0)
        for name in ("light", "dark"):
            (place / "images" / name).mkdir(parents=True)
            for i in range(12):
                base = 200 if name == "light" else 30
                pixels = (base + rng.integers(-25, 25, (20, 20, 3))).astype(np.uint8)
                Image.fromarray(pixels).save(place / "images" / name / f"{i}.png")
        luthier.train(PENGUINS, target="species", run="table", epochs=1)
        luthier.train("images", run="image", epochs=1)
    finally:
        os.chdir(before)
    return place


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Call the command in an empty folder; return status, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        status = _run([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return status, captured.out, captured.err

    return call
