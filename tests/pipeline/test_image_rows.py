"""A store of a folder of images: the run of the folder in memory, whole or not there."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import luthier
from luthier.cli.main import _run
from luthier.errors import DataError, LuthierError, SettingError
from luthier.pipeline import image_rows
from luthier.pipeline import rows as conversion
from luthier.pipeline.rows import write_rows
from luthier.store import rows as stores
from luthier.store.rows import ROWS_DESCRIPTION, ROWS_FILE, open_rows
from tests.pipeline.test_own_networks import IMAGES, given_weights
from tests.pipeline.test_rows import figures
from tests.processes.kit import workers
from tests.training.test_resume import CopyAt

SETTINGS: dict[str, Any] = {"seed": 0, "epochs": 2, "batch_size": 32, "verbose": False}


def save(place: Path, n: int, *, channels: int = 1, unlike: bool = False, classes: int = 3, seed: int = 0) -> Path:
    g = np.random.default_rng(seed)
    for i in range(n):
        side = (int(g.integers(9, 20)), int(g.integers(9, 20))) if unlike else (12, 12)
        pixels = g.integers(0, 120, (*side, 3) if channels == 3 else side) + 60 * (i % classes)
        folder = place / f"is {i % classes}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{i:04d}.png")
    return place


def same(first: Any, second: Any) -> None:
    assert figures(first) == figures(second)
    assert first.test == second.test
    for name, value in first.module.state_dict().items():
        assert torch.equal(second.module.state_dict()[name], value), name


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_rows, "MOST_BYTES", 1000)
    monkeypatch.setattr(stores, "_BLOCK_BYTES", 1)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ({}, {}),
        ({"classes": 2}, {}),
        ({"channels": 3, "unlike": True}, {"image_size": 10, "augment": ("flip", "shift", "erase")}),
        ({"unlike": True}, {"image_means": (0.5,), "image_stds": (0.25,), "network": "resnet"}),
    ],
)
def test_a_store_gives_the_run_of_the_folder_in_memory(
    kind: dict[str, Any], settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_rows, "_PIECE_BYTES", 5000)
    source = save(tmp_path / "photos", 240, **kind)
    data = {name: settings.pop(name) for name in ("image_size", "image_means", "image_stds") if name in settings}
    store = write_rows(source, tmp_path / "s.rows", **data)
    in_memory = luthier.design(source, **data).prepared
    assert store.schema == in_memory.schema
    stored = luthier.design(tmp_path / "s.rows").prepared
    for part, found in in_memory.parts.items():
        own = stored.parts[part]
        assert (own.rows.tolist(), own.names, own.content) == (found.rows.tolist(), found.names, found.content)
    same(
        luthier.train(tmp_path / "s.rows", **SETTINGS, **settings),
        luthier.train(source, **SETTINGS, **settings, **data),
    )


def test_parts_in_folders_of_their_own_are_those_in_memory(tmp_path: Path) -> None:
    for seed, part in enumerate(("train", "val", "test")):
        save(tmp_path / "photos" / part, 120 if part == "train" else 40, seed=seed)
    write_rows(tmp_path / "photos", tmp_path / "s.rows")
    same(luthier.train(tmp_path / "s.rows", **SETTINGS), luthier.train(tmp_path / "photos", **SETTINGS))
    given: dict[str, Any] = {"valid": str(tmp_path / "photos/val"), "test": str(tmp_path / "photos/test")}
    write_rows(tmp_path / "photos/train", tmp_path / "given.rows", **given)
    same(
        luthier.train(tmp_path / "given.rows", **SETTINGS),
        luthier.train(tmp_path / "photos/train", **given, **SETTINGS),
    )


def test_one_folder_may_be_both_the_validation_and_the_test_rows(tmp_path: Path) -> None:
    source, other = save(tmp_path / "photos", 120), str(save(tmp_path / "other", 40, seed=1))
    store = write_rows(source, tmp_path / "s.rows", valid=other, test=other)
    assert (store.num_rows, len(store.files)) == (200, 160)
    in_memory = luthier.design(source, valid=other, test=other).prepared
    for part, found in luthier.design(tmp_path / "s.rows").prepared.parts.items():
        assert (found.names, found.content) == (in_memory.parts[part].names, in_memory.parts[part].content)
    with pytest.raises(SettingError, match="which is also the training data") as refused:
        write_rows(source, tmp_path / "t.rows", valid=str(source))
    assert refused.value.code == "setting-same-data"
    assert not (tmp_path / "t.rows").exists()


def test_images_of_joined_parts_keep_their_names(tmp_path: Path) -> None:
    write_rows(save(tmp_path / "photos", 120), tmp_path / "s.rows")
    parts = luthier.design(tmp_path / "s.rows").prepared.parts
    whole = parts["train"].joined(parts["valid"])
    assert whole.names == parts["train"].names + parts["valid"].names
    assert whole.name_of(len(whole.rows) - 1) == parts["valid"].names[-1]


def test_test_rows_are_the_same_wherever_the_folder_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_rows(save(Path("photos"), 120), "s.rows")
    shutil.copytree("photos", "elsewhere")
    places = ("photos", tmp_path / "photos", "elsewhere")
    named = [luthier.design(source).prepared.parts["test"].content for source in places]
    assert {*named} == {luthier.design("s.rows").prepared.parts["test"].content}


def test_images_that_cannot_be_read_are_refused_or_left_out_as_in_memory(tmp_path: Path) -> None:
    source = save(tmp_path / "photos", 150)
    for name in ("is 0/0030.png", "is 1/0031.png"):
        (source / name).write_bytes(b"no image")
    with pytest.raises(DataError, match=r"2 of 150 images cannot be read; the first: image .*0030.png") as refused:
        write_rows(source, tmp_path / "s.rows")
    assert refused.value.code == "data-image-unreadable"
    assert not (tmp_path / "s.rows").exists()
    store = write_rows(source, tmp_path / "s.rows", skip_unreadable=True)
    assert sum(part.count for part in store.parts.values()) == 148
    assert sum("left out: image" in note for note in store.notes) == 2
    same(
        luthier.train(tmp_path / "s.rows", **SETTINGS),
        luthier.train(source, skip_unreadable=True, **SETTINGS),
    )


@pytest.mark.parametrize("by_windows", [False, True])
def test_a_killed_run_is_resumed_exactly(by_windows: bool, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if by_windows:
        request.getfixturevalue("windows")
    assert write_rows(save(tmp_path / "photos", 240), tmp_path / "s.rows").by_windows == by_windows
    settings = {**SETTINGS, "augment": ("flip",), "checkpoint_every_steps": 2}
    cut = CopyAt(7, tmp_path / "cut")
    whole = luthier.train(tmp_path / "s.rows", run=tmp_path / "run", callbacks=[cut], **settings)
    same(luthier.resume(tmp_path / "cut", verbose=False), whole)


@pytest.mark.usefixtures("windows")
def test_shuffled_records_are_the_images_of_the_folder(tmp_path: Path) -> None:
    source = save(tmp_path / "photos", 240)
    write_rows(source, tmp_path / "s.rows")
    found, in_memory = luthier.design(tmp_path / "s.rows").prepared, luthier.design(source).prepared
    for part, own in found.parts.items():
        there = in_memory.parts[part]
        places = {name: place for place, name in enumerate(there.names)}
        rows = torch.tensor([places[name] for name in own.names])
        assert sorted(rows.tolist()) == list(range(len(rows)))
        assert rows.tolist() != sorted(rows.tolist())
        one, other = (
            next(iter(source.batches([chosen], 0, 0)))
            for source, chosen in ((own.source, torch.arange(len(rows))), (there.source, rows))
        )
        assert torch.equal(own.source.taken(torch.arange(len(rows))), there.source.taken(rows))  # type: ignore[union-attr]
        assert torch.equal(one.targets, other.targets)


def train_on(store: str, run: str | None) -> list[Any]:
    settings = {**SETTINGS, "augment": ("flip",), "shards": 2, "check": False}
    result = luthier.train(store, run=run, **settings)
    return [figures(result), [float(value.double().sum()) for value in result.module.state_dict().values()]]


@pytest.mark.parametrize("by_windows", [False, True])
def test_two_processes_give_the_bits_of_one(by_windows: bool, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if by_windows:
        request.getfixturevalue("windows")
    write_rows(save(tmp_path / "photos", 240), tmp_path / "s.rows")
    alone = json.loads(json.dumps(train_on(str(tmp_path / "s.rows"), None)))
    with workers(2) as group:
        for found in group.run(
            "tests.pipeline.test_image_rows:train_on", str(tmp_path / "s.rows"), str(tmp_path / "r")
        ):
            assert found == alone


def test_a_folder_that_memory_does_not_hold_becomes_a_store_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    source = save(tmp_path / "photos", 240)
    in_memory = luthier.train(source, **SETTINGS)
    assert not (tmp_path / "photos.rows").exists()
    for module in (conversion, image_rows):
        monkeypatch.setattr(module, "free_memory", lambda: 60_000.0)
    monkeypatch.setattr(conversion, "_SMALL", 0)
    same(luthier.train(source, run=tmp_path / "run", **SETTINGS), in_memory)
    (line,) = [record.message for record in caplog.records if "encoded once" in record.message]
    assert line.startswith("photos takes about")
    written = (tmp_path / "photos.rows" / ROWS_FILE).stat().st_mtime_ns
    luthier.train(source, **SETTINGS)
    assert (tmp_path / "photos.rows" / ROWS_FILE).stat().st_mtime_ns == written
    same(luthier.resume(tmp_path / "run", verbose=False), in_memory)


def test_a_finished_run_is_reported_evaluated_compared_and_ejected(tmp_path: Path) -> None:
    source = save(tmp_path / "photos", 200, channels=3)
    write_rows(source, tmp_path / "s.rows")
    luthier.train(tmp_path / "s.rows", run=tmp_path / "run", refit=True, **SETTINGS)
    luthier.train(source, run=tmp_path / "memory", refit=True, **SETTINGS)
    for run in ("run", "memory"):
        assert _run(["report", str(tmp_path / run), "-o", str(tmp_path / f"{run}.html"), "-q"]) == 0
    pictures = [(tmp_path / f"{run}.html").read_text().count("data:image/png") for run in ("run", "memory")]
    assert pictures[0] == pictures[1] > 0
    assert _run(["compare", str(tmp_path / "run"), str(tmp_path / "memory"), "-q"]) == 0
    ours, theirs = luthier.load(tmp_path / "run"), luthier.load(tmp_path / "memory")
    assert ours.evaluate(source) == theirs.evaluate(source)
    assert list(ours.predict(source)) == list(theirs.predict(source))
    luthier.eject(tmp_path / "run", tmp_path / "project")
    assert (tmp_path / "project" / "train.py").is_file()


@pytest.mark.parametrize("augment", [(), ("flip",)])
def test_a_frozen_trunk_over_a_store_gives_the_run_in_memory(augment: tuple[str, ...], tmp_path: Path) -> None:
    source, weights = save(tmp_path / "photos", 120), given_weights(tmp_path, "safetensors", 1)
    (tmp_path / "nets.py").write_text(IMAGES)
    data: dict[str, Any] = {"image_size": 9}
    settings: dict[str, Any] = {
        **SETTINGS, "network": f"{tmp_path / 'nets.py'}:Net", "weights": str(weights), "freeze": ("trunk",),
        "image_means": (0.4,), "image_stds": (0.2,), "augment": augment,
    }  # fmt: skip
    write_rows(source, tmp_path / "s.rows", **data)
    in_memory = luthier.train(source, **settings, **data)
    found: Any = luthier.train(tmp_path / "s.rows", run=tmp_path / "run", **settings)
    assert found.model.schema.image.means == (0.4,)
    same(found, in_memory)
    del settings["verbose"]
    assert (luthier.design(tmp_path / "s.rows", **settings).head is None) == bool(augment)
    same(luthier.resume(tmp_path / "run", verbose=False, trust_code=True), in_memory)


def test_a_changed_folder_is_said(tmp_path: Path) -> None:
    source = save(tmp_path / "photos", 120)
    write_rows(source, tmp_path / "s.rows")
    file = source / "is 0" / "0030.png"
    content = file.read_bytes()
    file.write_bytes(content)  # the same again, at another time
    luthier.design(tmp_path / "s.rows")
    file.write_bytes(content[:-1] + b"\0")
    with pytest.raises(DataError, match=r"0030.png has changed since s.rows was made of it") as refused:
        luthier.design(tmp_path / "s.rows")
    assert refused.value.code == "data-rows-changed"
    file.write_bytes(content)
    shutil.copy(file, source / "is 0" / "9999.png")
    with pytest.raises(DataError, match=r"9999.png is new in photos"):
        luthier.design(tmp_path / "s.rows")
    shutil.rmtree(source)
    luthier.train(tmp_path / "s.rows", **SETTINGS)  # a source that is gone is not missed


@pytest.mark.parametrize("by_windows", [False, True])
def test_a_damaged_block_is_said(by_windows: bool, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if by_windows:
        request.getfixturevalue("windows")
    write_rows(save(tmp_path / "photos", 120), tmp_path / "s.rows")
    file = tmp_path / "s.rows" / ROWS_FILE
    content = bytearray(file.read_bytes())
    content[5000] ^= 1
    file.write_bytes(content)
    with pytest.raises(LuthierError, match=r"s.rows is damaged: the block at row \d+ of rows.bin") as refused:
        luthier.train(tmp_path / "s.rows", **SETTINGS)
    assert refused.value.code == "data-rows-damaged"


def test_settings_that_do_not_go_with_a_store_are_refused(tmp_path: Path) -> None:
    source = save(tmp_path / "photos", 120)
    for wrong in ({"folds": 3}, {"target": "y"}, {"group": "shop"}):
        with pytest.raises(SettingError, match="would be ignored"):
            write_rows(source, tmp_path / "s.rows", **wrong)
    assert not (tmp_path / "s.rows").exists()
    write_rows(source, tmp_path / "s.rows")
    with pytest.raises(SettingError, match="image_size would be ignored"):
        luthier.design(tmp_path / "s.rows", image_size=10)


def test_a_conversion_that_is_killed_is_not_taken_for_whole(tmp_path: Path) -> None:
    source = save(tmp_path / "photos", 1500)
    command = [sys.executable, "-m", "luthier", "rows", str(source), "-o", str(tmp_path / "s.rows"), "-q"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while process.poll() is None and not list((tmp_path / "s.rows").glob(".rows.bin.*")):
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert not (tmp_path / "s.rows" / ROWS_DESCRIPTION).exists()
    with pytest.raises(LuthierError):
        luthier.design(tmp_path / "s.rows")
    assert _run([*command[3:]]) == 0
    assert open_rows(tmp_path / "s.rows").num_rows == 1500
