"""SIGKILL at any moment of `predict -o`, `eject` and `resume`, and two processes on one folder: whole files or none."""

import contextlib
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import luthier
from luthier.cli.main import _run
from tests.training.test_resume import CopyAt

COMMAND = [sys.executable, "-c", "from luthier.cli.main import run; run()"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table with text and dates, a run over it, a copy of the run in mid-epoch, and answers never interrupted."""
    place = tmp_path_factory.mktemp("kills")
    g, n = np.random.default_rng(0), 400
    words = g.choice(["good", "bad", "fine", "poor"], (n, 6))
    frame = pl.DataFrame(
        {
            "text": [" ".join(row) for row in words.tolist()],
            "day": [f"2024-{m:02d}-{d:02d}" for m, d in zip(g.integers(1, 13, n), g.integers(1, 28, n), strict=True)],
            "x": g.normal(size=n),
            "y": np.where((words == "good").sum(axis=1) > 1, "yes", "no"),
        }
    )
    frame.write_csv(place / "d.csv")
    pl.concat([frame] * 40).write_csv(place / "many.csv")
    settings: dict[str, Any] = {"target": "y", "kind": {"text": "text"}, "epochs": 6, "checkpoint_every_steps": 5}
    luthier.train(place / "d.csv", run=place / "run", callbacks=[CopyAt(20, place / "cut")], batch_size=16, **settings)
    finish(place, "predict", "run", "many.csv", "-o", "whole.csv", "-q")
    return place


def start(place: Path, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*COMMAND, *arguments], cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(place: Path, *arguments: str) -> int:
    """Run the command to its end, in this process: what is killed needs one of its own, and this does not."""
    with contextlib.chdir(place):
        return _run(list(arguments))


def kill_at(process: "subprocess.Popen[str]", place: Path, part: str) -> None:
    """Kill a process once a file is being written beside the one that is named, or it has ended."""
    deadline = time.monotonic() + 300
    while process.poll() is None and not list(place.rglob(part)) and time.monotonic() < deadline:
        time.sleep(0.001)
    process.kill()
    process.communicate()


def same(one: Path, other: Path) -> bool:
    ours, theirs = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("name", ["answers.csv", "answers.parquet"])
def test_predict_leaves_a_whole_file_or_none(name: str, place: Path) -> None:
    kill_at(start(place, "predict", "run", "many.csv", "-o", name, "-q"), place, f".{name}.*.part")
    assert finish(place, "predict", "run", "many.csv", "-o", name, "-q") == 0
    read = pl.read_csv if name.endswith("csv") else pl.read_parquet
    assert read(place / name).equals(pl.read_csv(place / "whole.csv"))


def test_eject_leaves_a_whole_folder_or_none(place: Path) -> None:
    kill_at(start(place, "eject", "run", "out", "-q"), place, ".out.*.part")
    assert not (place / "out").exists() or (place / "out" / "train.py").exists()
    shutil.rmtree(place / "out", ignore_errors=True)
    assert finish(place, "eject", "run", "out", "-q") == 0


@pytest.mark.parametrize("part", [".step-*.part", ".model.safetensors.*.part", "model.safetensors"])
def test_a_resume_that_is_killed_is_resumed(part: str, place: Path) -> None:
    run = place / f"killed {len(part)}"
    shutil.copytree(place / "cut", run)
    kill_at(start(place, "resume", run.name, "-q"), run, part)
    assert finish(place, "resume", run.name, "-q") == 0
    assert same(run, place / "run")
    assert not list(run.rglob("*.part"))


def write_images(place: Path) -> tuple[str, dict[str, Any]]:
    g = np.random.default_rng(0)
    for i in range(96):
        picture = Image.fromarray(np.add(g.integers(0, 60, (12, 12, 3)), [150 * (i % 2), 0, 0]).astype("uint8"))
        path = place / "album" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
    return "album", {"num_workers": 2, "network": "convnet"}


def write_series(place: Path) -> tuple[str, dict[str, Any]]:
    g = np.random.default_rng(0)
    rows = [(i, t, round(float(g.normal() + i % 2), 3), "ab"[i % 2]) for i in range(96) for t in range(6 + i % 5)]
    pl.DataFrame(rows, schema=["id", "t", "v", "y"], orient="row").write_csv(place / "steps.csv")
    return "steps.csv", {"target": "y", "series": "id", "order": "t", "network": "recurrent"}


@pytest.mark.parametrize("write", [write_images, write_series])
@pytest.mark.parametrize("step", [3, 11])
def test_images_with_workers_and_series_go_on_from_any_kill(write: Any, step: int, tmp_path: Path) -> None:
    source, given = write(tmp_path)
    settings = {"epochs": 4, "batch_size": 16, "checkpoint_every_steps": 2, "threads": 1, "seed": 3, **given}
    luthier.train(tmp_path / source, run=tmp_path / "run", callbacks=[CopyAt(step, tmp_path / "cut")], **settings)
    kill_at(start(tmp_path, "resume", "cut", "-q"), tmp_path / "cut", ".step-*.part")
    assert finish(tmp_path, "resume", "cut", "-q") == 0
    assert same(tmp_path / "cut", tmp_path / "run")


def test_two_processes_on_one_folder(place: Path) -> None:
    shutil.copytree(place / "cut", place / "shared")
    both = [start(place, "resume", "shared", "-q") for _ in range(2)]
    said = [process.communicate(timeout=600)[1] for process in both]
    statuses = sorted(process.returncode for process in both)
    assert statuses in ([0, 0], [0, 2]), said  # one after the other, or one is told that the other trains
    assert statuses == [0, 0] or any("[run-in-use]" in text for text in said)
    assert same(place / "shared", place / "run")
