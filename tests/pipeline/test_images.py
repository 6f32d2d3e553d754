"""Images and arrays to a network to a bundle to predictions."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits, load_iris, load_linnerud

import luthier
from luthier.training.progress import Progress

QUIET = Progress(quiet=True)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def save_digits(place: Path, n: int = 600) -> None:
    x, y = load_digits(return_X_y=True)
    np.savez(place / "digits.npz", x=(x[:n].reshape(-1, 8, 8) * 15.9).astype(np.uint8), y=y[:n])


@pytest.mark.parametrize("network", ["convnet", "resnet"])
def test_digits_as_arrays(here: Path, network: str) -> None:
    save_digits(here)
    result = luthier.train("digits.npz", network=network, epochs=6, run=True, callbacks=[QUIET])
    assert result.test["accuracy"] > 0.9
    loaded = luthier.load("runs/digits")
    pixels = np.load("digits.npz")["x"]
    assert list(loaded.predict(pixels)) == list(loaded.predict("digits.npz"))
    assert loaded.evaluate("digits.npz")["accuracy"] > 0.9


def test_a_folder_of_images(here: Path) -> None:
    x, y = load_digits(return_X_y=True)
    for i in range(300):
        folder = here / "digits" / f"is {y[i]}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((x[i].reshape(8, 8) * 15.9).astype(np.uint8)).resize((20, 20)).save(folder / f"{i}.png")
    result = luthier.train("digits", epochs=10, run=True, callbacks=[QUIET])
    assert result.test["accuracy"] > 0.7
    schema = luthier.load("runs/digits").schema
    assert schema is not None
    assert schema.image is not None
    assert (schema.image.channels, schema.image.height) == (1, 20)
    one = here / "digits" / "is 3"
    answers = luthier.load("runs/digits").predict(one)
    assert (answers == "is 3").mean() > 0.7


def test_copies_of_an_image_stay_in_one_part(here: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (here / "images" / name).mkdir(parents=True)
        for i in range(20):
            path = here / "images" / name / f"{i}.png"
            Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(path)
            shutil.copy(path, path.with_name(f"{i} copy.png"))
    parts = luthier.design("images").prepared.parts
    place = {int(row): name for name, part in parts.items() for row in part.rows}
    assert all(place[i] == place[i + 1] for i in range(0, 80, 2))


def test_an_array_of_numbers_is_a_table(here: Path) -> None:
    x, y = load_iris(return_X_y=True)
    np.savez("iris.npz", x=x, y=np.array(["setosa", "versicolor", "virginica"])[y])
    result = luthier.train("iris.npz", epochs=40, run=True, callbacks=[QUIET])
    assert result.test["accuracy"] > 0.8
    assert set(luthier.load("runs/iris").predict("iris.npz")) == {"setosa", "versicolor", "virginica"}


def test_an_array_with_several_targets(here: Path) -> None:
    x, y = load_linnerud(return_X_y=True)
    np.savez("linnerud.npz", x=np.repeat(x, 5, axis=0) + np.arange(100)[:, None] * 0.01, y=np.repeat(y, 5, axis=0))
    result = luthier.train("linnerud.npz", epochs=3, task="regression", run=True, callbacks=[QUIET])
    assert result.predict("linnerud.npz").shape == (100, 3)


def test_augmented_images_resume_to_the_same_bits(here: Path) -> None:
    class StopAt(luthier.Callback):
        def on_step_end(self, run: luthier.View) -> luthier.Stop | None:
            return luthier.Stop("asked", finished=False) if run.global_step == 30 else None

    save_digits(here, 300)
    settings: dict[str, Any] = {"epochs": 3, "augment": ("flip", "shift", "erase"), "ema": 0.9, "batch_size": 16}
    whole = luthier.train("digits.npz", run=True, callbacks=[QUIET], **settings)
    cut = luthier.train("digits.npz", run=True, callbacks=[QUIET, StopAt()], **settings)
    assert cut.folder is not None
    resumed = luthier.resume(cut.folder, callbacks=[QUIET])
    for name, value in whole.module.state_dict().items():
        assert torch.equal(resumed.module.state_dict()[name], value), name


def test_other_sizes_and_types_are_refused(here: Path) -> None:
    save_digits(here, 200)
    model = luthier.train("digits.npz", epochs=1, run=True, callbacks=[QUIET]).model
    with pytest.raises(luthier.LuthierError, match="the network takes"):
        model.predict(np.zeros((2, 9, 9), dtype=np.uint8))
    with pytest.raises(luthier.LuthierError):
        model.predict(np.full((2, 8, 8), 0.5, dtype=np.float32))
