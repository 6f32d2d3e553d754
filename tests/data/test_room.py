"""Decoded images in memory or in a file: the same numbers, and no half-written disk."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from luthier.core.machine import free_memory
from luthier.data import room
from luthier.data.room import room_for, without
from luthier.errors import DataError
from luthier.pipeline.train import train


@pytest.fixture
def short_of_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(room, "free_memory", lambda: 1000.0)
    monkeypatch.setattr(room, "_SMALL", 0)
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    return folder


def test_memory_is_found() -> None:
    assert 2**20 < free_memory() < 2**50


def test_what_does_not_fit_is_kept_in_a_file_without_a_name(
    short_of_memory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert not isinstance(room_for((10, 10)), np.memmap)
    found = room_for((10, 1000))
    assert isinstance(found, np.memmap)
    assert found.shape == (10, 1000)
    assert not found.any()
    found[3] = 7
    assert found[3].sum() == 7000
    assert not list(short_of_memory.iterdir())
    assert "kept in a temporary file" in caplog.text


def test_no_room_anywhere(short_of_memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
    with pytest.raises(DataError, match="either: too little room") as caught:
        room_for((10, 1000))
    assert caught.value.code == "data-no-room"
    assert not list(short_of_memory.iterdir())


@pytest.mark.parametrize("said", ["there is none", "a file", ""])
def test_a_folder_that_cannot_be_used(
    short_of_memory: Path, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv("TMPDIR", str(tmp_path / said) if said else "")
    monkeypatch.setattr("os.access", lambda path, mode: False)

    def none() -> str:
        raise FileNotFoundError(2, "No usable temporary directory")

    monkeypatch.setattr("tempfile.gettempdir", none)
    with pytest.raises(DataError) as caught:
        room_for((10, 1000))
    assert caught.value.code == "data-no-room"


def test_images_are_left_out_in_place() -> None:
    pixels = np.arange(5000, dtype=np.int64).astype(np.uint8)[:, None]
    expected = np.delete(pixels, [0, 7, 4999], axis=0)
    found = without(pixels, np.array([0, 7, 4999]))
    assert found.base is not None
    np.testing.assert_array_equal(found, expected)


def test_a_run_is_the_same_where_images_are_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    for i in range(60):
        folder = tmp_path / "images" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 128, (12, 12, 3)) + 100 * (i % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
    in_memory = train(tmp_path / "images", epochs=2, seed=0, run=tmp_path / "one")
    monkeypatch.setattr(room, "free_memory", lambda: 1000.0)
    monkeypatch.setattr(room, "_SMALL", 0)
    in_file = train(tmp_path / "images", epochs=2, seed=0, run=tmp_path / "two")
    for name, value in in_memory.module.state_dict().items():
        assert value.equal(in_file.module.state_dict()[name]), name
