"""Files beside the training file, and bundles to start from: read by what the training rows were."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import luthier
from luthier.data import textfile
from luthier.errors import DataError, RunError, SettingError
from luthier.pipeline.eject import eject


def _sizes(rows: int, sizes: tuple[str, ...]) -> pl.DataFrame:
    draw = np.random.default_rng(rows)
    size = draw.choice(sizes, rows)
    flag = np.isin(size, sizes[:2])
    return pl.DataFrame({"size": size, "x": draw.normal(size=rows).round(3), "y": np.where(flag, "p", "q")})


@pytest.fixture
def files(tmp_path: Path) -> Path:
    _sizes(400, ("1.0", "2.0", "3.50", "XL")).write_csv(tmp_path / "t.csv")
    _sizes(100, ("1.0", "2.0", "3.50")).write_csv(tmp_path / "v.csv")  # all of them numbers
    return tmp_path


def test_a_category_whose_texts_are_numbers_in_another_file_stays_one(files: Path) -> None:
    trained = luthier.train(
        files / "t.csv", target="y", valid=str(files / "v.csv"), test=str(files / "v.csv"), epochs=12, lr=0.02, seed=0,
        run=files / "run",
    )  # fmt: skip
    assert trained.test["accuracy"] == luthier.load(files / "run").evaluate(files / "v.csv")["accuracy"] > 0.9
    assert luthier.resume(files / "run", epochs=15).is_done
    again = luthier.train(
        files / "v.csv", target="y", start=str(files / "run" / "model.safetensors"), epochs=2, lr=0.0, seed=0,
        run=files / "again",
    )  # fmt: skip
    assert again.test["accuracy"] > 0.9


def test_cells_of_other_files_that_cannot_be_read_are_said(files: Path) -> None:
    pl.read_csv(files / "v.csv").with_columns(pl.col("x").cast(pl.String) + " kg").write_csv(files / "w.csv")
    plan = luthier.design(files / "t.csv", target="y", test=str(files / "w.csv"))
    assert "column 'x' of w.csv: 100 cells are not numbers, and count as missing" in plan.prepared.notes


def test_what_a_bundle_brings_along_is_not_given_beside_it(files: Path) -> None:
    luthier.train(files / "t.csv", target="y", epochs=1, run=files / "run", seed=0)
    start = str(files / "run" / "model.safetensors")
    for given, said in (
        ({"target": "x"}, "target would be ignored: .* it has target"),
        ({"target": "y", "widths": (8,), "kind": {"x": "category"}}, "kind, widths would be ignored"),
        ({"target": "y", "task": "multiclass"}, "task would be ignored"),
    ):
        with pytest.raises(SettingError, match=said):
            luthier.design(files / "t.csv", start=start, **given)
    assert luthier.design(files / "t.csv", target=["y"], task="binary", start=start).schema.targets[0].name == "y"


def test_a_file_that_is_written_otherwise_is_not_ejected_and_that_is_said(files: Path) -> None:
    pl.read_csv(files / "v.csv", infer_schema=False).select("y", "size", "x").write_csv(files / "w.csv", separator=";")
    luthier.train(files / "t.csv", target="y", valid=str(files / "w.csv"), epochs=1, run=files / "run", seed=0)
    with pytest.raises(RunError, match=r"w\.csv cannot be read in the same way as .*t\.csv"):
        eject(files / "run", files / "project")
    assert not (files / "project").exists()


def test_a_run_whose_data_has_changed_is_not_ejected(files: Path) -> None:
    luthier.train(files / "t.csv", target="y", valid=str(files / "v.csv"), epochs=1, run=files / "run", seed=0)
    changed = pl.read_csv(files / "v.csv", infer_schema=False).with_row_index()
    odd = pl.when(pl.col("index") == 60).then(pl.lit("9.5")).otherwise(pl.col("x")).alias("x")
    changed.with_columns(odd).drop("index").write_csv(files / "v.csv")
    with pytest.raises(RunError, match="its data has changed: the valid data"):
        eject(files / "run", files / "project")


def test_rows_that_turn_out_to_be_read_wrongly_are_no_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [f"{i * 7 % 101};{i},5" for i in range(200)]
    (tmp_path / "t.csv").write_text("\n".join(["x;y", *rows]))
    model = luthier.train(tmp_path / "t.csv", target="y", epochs=1, run=tmp_path / "run", seed=0)
    monkeypatch.setattr(textfile, "_BLOCK_BYTES", 200)
    late = [*(str(1000 + i) for i in range(200)), "12.125", "3.5"]
    (tmp_path / "new.csv").write_text("\n".join(["x;z", *(f"{x};1" for x in late)]))
    with pytest.raises(DataError, match=r"new\.csv: later rows show in x that points and commas have another meaning"):
        model.predict(tmp_path / "new.csv")


def test_errors_say_which_of_several_files_they_are_about(files: Path) -> None:
    other = pl.read_csv(files / "v.csv")
    other.with_columns(y=pl.lit("")).write_csv(files / "w.csv")
    other.drop("x").write_csv(files / "u.csv")
    for part in ("valid", "test"):
        for name, said in (("w", "^w.csv: no row has a value in 'y'"), ("u", "^u.csv lacks 1 column .*: 'x'")):
            with pytest.raises(DataError, match=said):
                luthier.design(files / "t.csv", target="y", **{part: str(files / f"{name}.csv")})
    for name, y in (("a", [0.5, 1.5, 2.5]), ("b", [0.5, np.nan, 1.5])):
        np.savez(files / f"{name}.npz", x=np.eye(3), y=np.asarray(y))
    with pytest.raises(DataError, match=r"^b\.npz: target .* in row 2: "):
        luthier.design(files / "a.npz", task="regression", valid=str(files / "b.npz"), test_fraction=0)


def frames(*sizes: int) -> list[pl.DataFrame]:
    generator = np.random.default_rng(0)
    made = []
    for size in sizes:
        x = generator.normal(size=size)
        made.append(pl.DataFrame({"x": x, "c": generator.choice(["a", "b"], size), "y": np.where(x > 0, "up", "down")}))
    return made


@pytest.mark.parametrize("kind", ["polars", "pandas", "columns"])
def test_frames_to_validate_and_test_on(kind: str, tmp_path: Path) -> None:
    made: list[Any] = frames(80, 30, 20)
    if kind != "polars":
        made = [frame.to_pandas() if kind == "pandas" else frame.to_dict(as_series=False) for frame in made]
    train, valid, test = made
    result = luthier.train(train, target="y", valid=valid, test=test, epochs=2, verbose=False, run=tmp_path / "run")
    assert result.test["rows"] == 20
    text = (tmp_path / "run" / "run.toml").read_text()
    assert text.count("<in memory>") == 6  # the call, and what it was given
    for name, frame in zip(("a", "b", "c"), frames(80, 30, 20), strict=True):
        frame.write_csv(tmp_path / f"{name}.csv")
    by_file = luthier.train(
        tmp_path / "a.csv",
        target="y",
        valid=str(tmp_path / "b.csv"),
        test=str(tmp_path / "c.csv"),
        epochs=2,
        verbose=False,
    )
    assert by_file.test["log_loss"] == result.test["log_loss"]


def test_frames_that_are_no_data_to_test_on(caplog: pytest.LogCaptureFixture) -> None:
    train, test = frames(80, 20)
    with pytest.raises(SettingError, match="test is the same object, which is also the training data"):
        luthier.design(train, target="y", test=train)
    with pytest.raises(SettingError, match=r"test is of type DataFrame, but the data is in examples/penguins\.csv"):
        luthier.design("examples/penguins.csv", target="species", test=test)
    with pytest.raises(DataError, match=r"^the test data lacks 1 column that the network was trained on: 'x'"):
        luthier.design(train, target="y", test=test.drop("x"))
    luthier.design(train, target="y", valid=test.with_columns(y=pl.lit("sideways")), epochs=1)
    assert "20 rows of the valid data have classes that the training rows do not have: 'sideways'" in caplog.text
