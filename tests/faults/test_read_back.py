"""Files of the right syntax and wrong contents are refused where they are read back, and odd files among images."""

import copy
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

import luthier
from luthier.errors import DataError, LuthierError, SettingError
from luthier.store.checkpoint import checkpoints
from luthier.store.files import unpack, write_tensors
from luthier.training.record import read_record
from tests.cli.conftest import PENGUINS

Change = Callable[[dict[str, Any], dict[str, torch.Tensor]], object]


def columns(document: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [column for column in document["schema"]["columns"] if column["kind"] == kind]


def arguments(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["blueprint"]["arguments"]
    return found


def target(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["schema"]["targets"][0]
    return found


def nest(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


CHANGES: dict[str, Change] = {
    "a class is gone": lambda d, t: target(d).update(classes=target(d)["classes"][:2]),
    "a class too many": lambda d, t: target(d).update(classes=[*target(d)["classes"], "other"]),
    "one class": lambda d, t: target(d).update(classes=["a"]),
    "a column is gone": lambda d, t: d["schema"]["columns"].remove(columns(d, "number")[0]),
    "a category too many": lambda d, t: columns(d, "category")[0]["categories"].append("x"),
    "NaN for a mean": lambda d, t: columns(d, "number")[0].update(means=[float("nan")]),
    "0 for a spread": lambda d, t: columns(d, "number")[0].update(stds=[0.0]),
    "two means": lambda d, t: columns(d, "number")[0].update(means=[0.0, 1.0], stds=[1.0, 1.0]),
    "falling quantiles": lambda d, t: columns(d, "number")[0].update(quantiles=[2.0, 1.0]),
    "another task": lambda d, t: d["schema"].update(task="regression"),
    "no targets": lambda d, t: d["schema"].update(targets=[]),
    "a width of billions": lambda d, t: arguments(d).update(widths=[10**10, 10**10]),
    "a million layers": lambda d, t: arguments(d).update(widths=[8] * 1_000_000),
    "other widths": lambda d, t: arguments(d).update(widths=[7, 7]),
    "a list as activation": lambda d, t: arguments(d).update(activation=["relu"]),
    "another family": lambda d, t: d["blueprint"].update(family="convnet"),
    "an integer of many bits": lambda d, t: d["schema"].update(num_rows=2**64),
    "steps without end": lambda d, t: d["schema"]["columns"][0].update(max_steps=10**12),
    "a text for a number": lambda d, t: d["schema"].update(num_rows="many"),
    "deep nesting": lambda d, t: d["state"].update(deep=nest(900)),
    "no state": lambda d, t: d.update(state=None),
    "a list for a state": lambda d, t: d.update(state=[1, 2]),
    "numbers for tensors": lambda d, t: d.update(state=dict.fromkeys(d["state"], 1.0)),
    "a dtype that is a function": lambda d, t: d["state"].update(x={"$": "dtype", "v": "load"}),
    "a tag that is none": lambda d, t: d["state"].update(x={"$": "eval", "v": "1"}),
    "metrics that are none": lambda d, t: d.update(metrics={"test": {"accuracy": "good"}}),
    "a format that is none": lambda d, t: d.update(format="1"),
    "weights that are NaN": lambda d, t: [value.fill_(float("nan")) for value in t.values() if value.ndim == 2],
    "a tensor of another shape": lambda d, t: t.update({list(t)[-1]: torch.zeros(3, 3, 3)}),
    "a tensor is gone": lambda d, t: t.pop(next(iter(t))),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("read-back")
    luthier.train(PENGUINS, target="species", run=place / "run", epochs=2)
    return place


@pytest.mark.parametrize("change", CHANGES)
def test_a_bundle_whose_parts_disagree_answers_nothing(change: str, place: Path, tmp_path: Path) -> None:
    tensors, document = unpack(place / "run" / "model.safetensors", "luthier")
    tensors = {name: value.clone() for name, value in tensors.items()}
    document = copy.deepcopy(document)
    CHANGES[change](document, tensors)
    write_tensors(tmp_path / "model.safetensors", tensors, document, "luthier")
    with pytest.raises(LuthierError) as caught:
        luthier.load(tmp_path / "model.safetensors").predict(PENGUINS)
    assert caught.value.code.startswith(("bundle-", "network-"))
    assert caught.value.exit_status == 2


def test_a_foreign_tokenizer_is_not_run(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    words = ["good", "bad", "fine", "poor"]
    rows = {"text": [f"{words[i % 4]} thing number {i % 9} of {i}" for i in range(120)], "y": ["a", "b"] * 60}
    result: Any = luthier.train(rows, target="y", kind={"text": "text"}, epochs=1)
    result.model.save(tmp_path / "good.safetensors")
    luthier.load(tmp_path / "good.safetensors").predict({"text": ["a" * 40]})
    tensors, document = unpack(tmp_path / "good.safetensors", "luthier")
    own = document["schema"]["columns"][0]["tokenizer"]
    for name in ("pattern", "padding", "numbers", "text"):
        made = tokenizers.Tokenizer.from_str(own)
        if name == "pattern":
            made.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex("(a*)*b"), "isolated")
        if name == "padding":
            made.enable_padding(length=10**9)
        text = made.to_str() if name != "text" else "{}"
        if name == "numbers":
            text = own.replace('"good":', '"good":9').replace('"bad":', '"bad":9')
        document["schema"]["columns"][0]["tokenizer"] = text
        write_tensors(tmp_path / "bad.safetensors", tensors, document, "luthier")
        with pytest.raises(LuthierError, match="tokenizer that Luthier does not write"):
            luthier.load(tmp_path / "bad.safetensors").predict({"text": ["a" * 40]})


ROWS: dict[str, Any] = {
    "an epoch without a step": {"event": "epoch", "epoch": 0},
    "an epoch that is text": {"event": "epoch", "epoch": "0", "step": 3},
    "an end without a reason": {"event": "end"},
    "epochs of many bits": {"event": "extended", "epoch": 1, "epochs": 10**30},
    "an event that is a list": {"event": ["end"]},
    "no event": {"epoch": 1},
    "a list": [1],
}


@pytest.mark.parametrize("row", ROWS)
def test_a_record_whose_rows_lack_keys_is_refused(row: str, tmp_path: Path) -> None:
    (tmp_path / "record.jsonl").write_text(json.dumps(ROWS[row]) + "\n")
    with pytest.raises(LuthierError, match=r"line 1 of .* is damaged"):
        read_record(tmp_path / "record.jsonl")
    (tmp_path / "record.jsonl").write_text("[" * 100_000 + "\n")
    with pytest.raises(LuthierError, match=r"line 1 of .* is damaged"):
        read_record(tmp_path / "record.jsonl")


@pytest.mark.parametrize("kind", ["a link", "a folder", "a pipe"])
@pytest.mark.parametrize("name", ["record.jsonl", "run.toml", "split.safetensors", "model.safetensors", "checkpoint"])
def test_a_file_of_a_run_that_is_no_file(kind: str, name: str, place: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(place / "run", run)
    path = checkpoints(run / "checkpoints")[0] if name == "checkpoint" else run / name
    kept = tmp_path / "kept"
    path.rename(kept)
    before = kept.read_bytes()
    if kind == "a link":
        path.symlink_to(kept)
    elif kind == "a folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    calls: list[Callable[[], Any]] = [
        lambda: luthier.resume(run, epochs=3),
        lambda: luthier.replay(run),
        lambda: luthier.eject(run, tmp_path / "out"),
        lambda: luthier.load(run),
    ]
    for call in calls:
        try:
            call()
        except LuthierError as error:
            assert error.exit_status == 2  # noqa: PT017  # a link may be read
    assert kept.read_bytes() == before


def test_deep_and_large_run_files(tmp_path: Path) -> None:
    for text in (
        "x = " + "[" * 5000,
        "x = " + "9" * 5000,
        'recipe = 3\n[data]\nsource = "a"\n',
        "[data]\nsource = 3\n",
    ):
        (tmp_path / "run.toml").write_text(text)
        with pytest.raises(SettingError):
            luthier.design(tmp_path / "run.toml")


def pictures(place: Path) -> Path:
    for name in ("cat", "dog"):
        (place / "images" / name).mkdir(parents=True)
        for i in range(8):
            Image.fromarray(np.full((16, 16, 3), 10 * i, dtype=np.uint8)).save(place / "images" / name / f"{i}.png")
    return place / "images"


@pytest.mark.parametrize("what", ["pipe", "device", "eps"])
def test_odd_files_among_images(what: str, tmp_path: Path) -> None:
    images = pictures(tmp_path)
    odd = images / "cat" / "odd.png"
    if what == "pipe":
        os.mkfifo(odd)
    elif what == "device":
        odd.symlink_to("/dev/zero")
    else:
        Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(tmp_path / "odd.eps")
        (tmp_path / "odd.eps").rename(odd)
    with pytest.raises(DataError, match=r"odd\.png cannot be read"):
        luthier.train(images, epochs=1)
    result: Any = luthier.train(images, epochs=1, skip_unreadable=True)
    frame = pl.concat(result.model.stream(images))
    assert frame.filter(pl.col("error").is_not_null())["image"].to_list() == ["cat/odd.png"]


def test_a_folder_that_cannot_be_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = pictures(tmp_path)
    (images / "cat" / "closed").mkdir()
    scan = os.scandir

    def refuse(path: Any) -> Any:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"closed cannot be read: Permission denied"):
        luthier.design(images)


@pytest.mark.parametrize("name", ["valid", "test"])
def test_training_data_is_no_test(name: str, tmp_path: Path) -> None:
    (tmp_path / "link.csv").symlink_to(PENGUINS)
    for other in (PENGUINS, tmp_path / "link.csv"):
        with pytest.raises(SettingError, match="also the training data") as caught:
            luthier.design(PENGUINS, target="species", **{name: str(other)})
        assert caught.value.code == "setting-same-data"


@pytest.mark.parametrize("kind", ["long double", "bytes"])
def test_arrays_of_odd_types_are_ejected_whole_or_not(kind: str, tmp_path: Path) -> None:
    x, y = np.random.default_rng(0).normal(size=(90, 3)), np.arange(90) % 2
    if kind == "bytes":
        np.savez(tmp_path / "d.npz", x=x, y=np.array([b"a", b"b"])[y])
    else:
        np.savez(tmp_path / "d.npz", x=x.astype(np.longdouble), y=y)
    luthier.train(tmp_path / "d.npz", run=tmp_path / "run", epochs=1)
    if kind == "bytes":  # read as text, and proven to be by the project's own reader
        assert "data.py" in luthier.eject(tmp_path / "run", tmp_path / "out")
        return
    with pytest.raises(LuthierError, match="run-cannot-eject"):
        luthier.eject(tmp_path / "run", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.npz", "run"]


@pytest.mark.parametrize("cell", [[1, 2], ["a"], {"a": 1}, b"a"])
def test_a_target_that_is_no_value_is_refused(cell: Any, tmp_path: Path) -> None:
    pl.DataFrame({"x": list(range(60)), "y": [cell] * 60}).write_parquet(tmp_path / "d.parquet")
    with pytest.raises(DataError):
        luthier.design(tmp_path / "d.parquet", target="y")


def test_a_path_with_a_nul_is_refused(place: Path) -> None:
    with pytest.raises(DataError, match="holds a NUL"):
        luthier.load(place / "run").predict("a\0b")


def test_loading_stays_light(place: Path) -> None:
    code = f"import sys, luthier; luthier.load({str(place / 'run')!r}); print('torch._dynamo' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"  # which takes a second, and is what drawing on the meta device would load
