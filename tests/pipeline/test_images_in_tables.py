"""A table with a column of image files, alone and beside others; and folders that hold train, valid and test."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

import luthier
from luthier.errors import DataError, SettingError
from tests.problems import same_weights
from tests.training.test_resume import CopyAt

FAST: dict[str, Any] = {"epochs": 20, "batch_size": 16, "threads": 1}


def picture(path: Path, is_bright: bool, lot: random.Random) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(lot.randrange(2**31)).integers(0, 90, (12, 14, 3)) + 120 * is_bright
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def album(place: Path, n: int = 200, seed: int = 0) -> Path:
    """Write pictures and a table of them; `y` says whether the picture is bright, turned round in shop b."""
    lot = random.Random(seed)
    rows = []
    for i in range(n):
        is_bright, shop = lot.random() < 0.5, lot.choice(["a", "b"])
        name = f"shots/{seed}-{i}.png"
        picture(place / name, is_bright, lot)
        rows.append({
            "file": name, "shop": shop, "price": round(lot.gauss(3, 1), 2), "bright": is_bright,
            "y": "yes" if is_bright == (shop == "a") else "no",
        })  # fmt: skip
    pl.DataFrame(rows).write_csv(place / f"{seed}.csv")
    return place / f"{seed}.csv"


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    place = tmp_path_factory.mktemp("album")
    kinds = {"bright": "ignored"}
    return place, luthier.train(album(place), target="y", kind=kinds, run=place / "run", seed=0, **FAST)


def test_pictures_beside_other_columns_are_learnt(mixed: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    place, result = mixed
    assert result.model.blueprint.family == "mixed"
    assert result.model.schema.blocks == ("numbers", "categories", "pixels")
    assert {column.name: column.kind for column in result.model.schema.inputs} == {
        "file": "image", "shop": "category", "price": "number",
    }  # fmt: skip
    assert result.test["accuracy"] > 0.9
    new = album(place, 60, seed=1)
    loaded = luthier.load(place / "run")
    assert loaded.evaluate(new)["accuracy"] > 0.9
    monkeypatch.chdir(place)  # of rows that are in no file, the paths are relative to where one stands
    frame = pl.read_csv(new).select("price", "file", "shop")
    np.testing.assert_array_equal(loaded.predict_proba(frame), loaded.predict_proba(new))
    np.testing.assert_allclose(loaded.predict_proba(frame[7:8]), loaded.predict_proba(new)[7:8], rtol=1e-4)


def test_a_table_of_pictures_alone(tmp_path: Path) -> None:
    path = album(tmp_path)
    frame = pl.read_csv(path).select("file", "bright")
    frame.write_csv(path)
    result: Any = luthier.train(path, target="bright", run=tmp_path / "run", **FAST)
    assert result.model.blueprint.family == "convnet"
    assert result.test["accuracy"] > 0.9
    answers = next(luthier.load(tmp_path / "run").stream(path))
    assert answers["error"].null_count() == 200
    (tmp_path / frame["file"][3]).write_bytes(b"no picture")
    broken = next(luthier.load(tmp_path / "run").stream(path))
    assert broken["prediction"][3] is None
    assert "cannot be read" in broken["error"][3]
    assert broken["prediction"].null_count() == 1


def test_a_run_with_pictures_in_a_table_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    more: dict[str, Any] = {
        "target": "y",
        **FAST,
        "epochs": 3,
        "checkpoint_every_steps": 2,
        "augment": ("shift", "flip"),
    }
    path = album(tmp_path, 80)
    whole = luthier.train(path, run=tmp_path / "whole", callbacks=[CopyAt(5, tmp_path / "cut")], **more)
    same_weights(luthier.resume(tmp_path / "cut").module, whole.module)


def test_pictures_that_cannot_be_read_or_are_not_given(tmp_path: Path) -> None:
    path = album(tmp_path, 60)
    frame = pl.read_csv(path)
    (tmp_path / frame["file"][5]).unlink()
    with pytest.raises(DataError, match=r"5\.png cannot be read"):
        luthier.design(path, target="y")
    plan = luthier.design(path, target="y", skip_unreadable=True)
    rows = torch.cat([torch.from_numpy(part.rows) for part in plan.prepared.parts.values()])
    assert sorted(rows.tolist()) == [row for row in range(60) if row != 5]
    assert any("5.png" in note for note in plan.prepared.notes)
    frame.with_columns(pl.when(pl.int_range(pl.len()) == 5).then(None).otherwise("file").alias("file")).write_csv(path)
    plan = luthier.design(path, target="y", kind={"bright": "ignored"})
    part: Any = next(part for part in plan.prepared.parts.values() if 5 in part.rows)
    batch = next(iter(part.source.batches([torch.tensor(np.flatnonzero(part.rows == 5))], 0, 0)))
    assert batch.inputs[-1].abs().max() < 0.05  # the mean of training images


def test_copies_of_a_picture_stay_in_one_part(tmp_path: Path) -> None:
    path = album(tmp_path, 60)
    frame = pl.read_csv(path).select("file", "y")
    copies = []
    for name in frame["file"]:
        copies.append(name.replace("shots", "more"))
        (tmp_path / copies[-1]).parent.mkdir(exist_ok=True)
        (tmp_path / copies[-1]).write_bytes((tmp_path / name).read_bytes())
    pl.concat([frame, frame.with_columns(pl.Series("file", copies))]).write_csv(path)
    parts = luthier.design(path, target="y").prepared.parts
    where = {int(row): name for name, part in parts.items() for row in part.rows}
    assert all(where[row] == where[row + 60] for row in range(60))


def test_two_columns_of_pictures_are_named(tmp_path: Path) -> None:
    path = album(tmp_path, 40)
    pl.read_csv(path).with_columns(pl.col("file").alias("back")).write_csv(path)
    with pytest.raises(DataError, match="'file', 'back'"):
        luthier.design(path, target="y")
    assert luthier.design(path, target="y", kind={"back": "ignored"}).schema.image is not None
    with pytest.raises(SettingError, match="image_size"):
        luthier.design({"a": list(range(60)), "y": [0, 1] * 30}, target="y", image_size=32)


@pytest.mark.parametrize("names", [("train", "valid", "test"), ("Train", "val"), ("training", "testing")])
def test_folders_of_parts_are_seen(names: tuple[str, ...], tmp_path: Path) -> None:
    lot = random.Random(0)
    for name, n in zip(names, (40, 12, 10), strict=False):
        for i in range(n):
            picture(tmp_path / "data" / name / ("dark" if i % 2 else "bright") / f"{name}{i}.png", i % 2 == 0, lot)
    plan = luthier.design(tmp_path / "data")
    sizes = {part: len(found.rows) for part, found in plan.prepared.parts.items()}
    expected = {"train": 40, "valid": 12, "test": 10} if len(names) == 3 else None
    if expected is None:
        given = "valid" if "val" in names else "test"
        assert sizes[given] == 12
        assert sum(sizes.values()) == 52
    else:
        assert sizes == expected
    luthier.train(tmp_path / "data", run=tmp_path / "run", **{**FAST, "epochs": 2, "checkpoint_every_steps": 1})
    (tmp_path / "run" / "model.safetensors").unlink()
    assert luthier.resume(tmp_path / "run").is_done


def test_folders_of_parts_that_are_no_split_are_named(tmp_path: Path) -> None:
    lot = random.Random(0)
    for name in ("train", "val", "valid"):
        for kind in ("a", "b"):
            picture(tmp_path / "data" / name / kind / "1.png", True, lot)
    with pytest.raises(DataError, match="the same part"):
        luthier.design(tmp_path / "data")


SPELLINGS = {
    "id": pl.col("file").str.strip_suffix(".png"),
    "id in another case": pl.col("file").str.strip_suffix(".png") + ".PnG",
    "id with a dot": "./" + pl.col("file").str.strip_suffix(".png"),
    "upper": pl.col("file").str.replace(".png", ".PNG", literal=True),
    "backslashes": pl.col("file").str.replace("/", "\\", literal=True),
    "slash": "/" + pl.col("file"),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_pictures_are_found_by_what_people_write(spelling: str, tmp_path: Path) -> None:
    path = album(tmp_path, 60)
    frame = pl.read_csv(path).select("file", "bright")
    kind = {"file": "image"} if spelling.startswith("id") else {}
    given: dict[str, Any] = {"target": "bright", "kind": kind, "seed": 0, "epochs": 2, "threads": 1, "check": False}
    frame.write_csv(tmp_path / "plain.csv")
    frame.with_columns(SPELLINGS[spelling].alias("file")).write_csv(tmp_path / "words.csv")
    want = luthier.train(tmp_path / "plain.csv", **given)
    found = luthier.train(tmp_path / "words.csv", **given)
    same_weights(found.module, want.module)
    np.testing.assert_array_equal(found.predict(tmp_path / "words.csv"), found.predict(tmp_path / "plain.csv"))


def test_a_name_that_is_no_file_says_the_near_ones(tmp_path: Path) -> None:
    path = album(tmp_path, 40)
    frame = pl.read_csv(path).select("file", "bright")
    frame.with_columns(pl.col("file").str.replace("0-", "1-")).write_csv(path)
    with pytest.raises(DataError, match=r"cannot be read: No such file") as caught:
        luthier.design(path, target="bright")
    assert ".png" in (caught.value.hint or "")
    frame.with_columns(pl.col("file").str.strip_prefix("shots/")).write_csv(path)
    with pytest.raises(DataError) as caught:
        luthier.design(path, target="bright")
    assert (caught.value.hint or "").startswith("there is shots/0-")
    picture(tmp_path / "shots" / "0-3.jpg", True, random.Random(0))  # two files may be meant
    frame.with_columns(pl.col("file").str.strip_suffix(".png")).write_csv(path)
    with pytest.raises(DataError, match="0-3 cannot be read"):
        luthier.design(path, target="bright", kind={"file": "image"})


def test_whole_numbers_may_name_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lot = random.Random(0)
    for i in range(40):
        picture(Path(f"{i}.png"), i % 2 == 0, lot)
    frame = pl.DataFrame({"id": range(40), "y": ["a", "b"] * 20})
    frame.write_csv("t.csv")
    frame.write_parquet("t.parquet")
    for source in (frame, "t.csv", "t.parquet"):
        result = luthier.train(source, target="y", kind={"id": "image"}, epochs=1, threads=1, check=False)
        assert len(result.predict(frame)) == len(result.predict("t.csv")) == 40


@pytest.mark.parametrize("inside", ["", "images/", "unknown/deep/"])
def test_a_folder_of_pictures_without_classes_is_no_part(
    inside: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lot = random.Random(0)
    for i in range(24):
        picture(tmp_path / "all" / ("train" if i % 3 else "val") / "ab"[i % 2] / f"{i}.png", i % 2 == 0, lot)
        picture(tmp_path / "all" / "test" / f"{inside}{i}.png", i % 2 == 0, lot)
    plan = luthier.design(tmp_path / "all")
    assert set(plan.prepared.parts) == {"train", "valid"}
    assert len(plan.prepared.parts["train"].rows) == 16
    assert "test has no folders of the classes that train has, so it is left out" in caplog.text
    (tmp_path / "all" / "val").rename(tmp_path / "old")
    (tmp_path / "all" / "test").rename(tmp_path / "all" / "val")
    assert set(luthier.design(tmp_path / "all").prepared.parts) == {"train", "valid", "test"}
