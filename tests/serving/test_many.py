"""Many files: answers as of `predict`, resumed, with errors named, whatever the number of workers."""

import json
import os
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

import luthier
from luthier.cli.main import _run
from luthier.errors import RunError, SettingError
from luthier.serving import many
from luthier.serving.many import predict_files

TABLE: dict[str, list[Any]] = {"x": [float(i % 7) for i in range(60)], "y": ["a", "b"] * 30}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("many") / "model.safetensors"
    luthier.train(TABLE, target="y", epochs=1, seed=0, check=False, verbose=False).save(path)
    return str(path)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    found = [tmp_path / "in" / name for name in ("one.csv", "deep/two.csv", "deep/three.parquet")]
    for number, path in enumerate(found):
        path.parent.mkdir(parents=True, exist_ok=True)
        frame = pl.DataFrame({"x": TABLE["x"][number : number + 9]})
        frame.write_parquet(path) if path.suffix == ".parquet" else frame.write_csv(path)
    return found


def test_answers_stand_at_the_same_path_and_are_those_of_predict(model: str, files: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = predict_files(model, files, out, workers=2)
    assert (found.rows, found.files, found.kept, found.errors) == (27, 3, 0, {})
    for path in files:
        wanted = pl.concat(luthier.load(model).stream(path))
        made = out / path.relative_to(tmp_path / "in").with_suffix(".parquet")
        assert_frame_equal(pl.read_parquet(made), wanted, check_exact=True)


def test_a_second_call_does_what_is_new_or_changed(model: str, files: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict_files(model, files[:2], out, suffix=".csv")
    again = predict_files(model, files, out, suffix=".csv")
    assert (again.files, again.kept) == (1, 2)
    files[0].write_text("x\n1\n")
    os.remove(out / "deep" / "two.csv")
    again = predict_files(model, files, out, suffix=".csv")
    assert (again.files, again.kept, again.rows) == (2, 1, 10)
    other = tmp_path / "other.safetensors"
    luthier.train(TABLE, target="y", epochs=1, seed=1, check=False, verbose=False).save(other)
    assert predict_files(str(other), files, out, suffix=".csv").files == 3
    (out / many.DONE).write_text("damaged")
    assert predict_files(str(other), files, out, suffix=".csv").files == 3


def test_a_bad_file_stops_no_other_and_is_tried_again(model: str, files: list[Path], tmp_path: Path) -> None:
    files[1].write_text("z\n1\n")
    found = predict_files(model, files, tmp_path / "out")
    assert (found.files, list(found.errors)) == (2, [str(files[1])])
    assert found.errors[str(files[1])].code == "data-column-missing"
    assert not list((tmp_path / "out").rglob("*.part"))
    files[1].write_text("x\n1\n")
    assert predict_files(model, files, tmp_path / "out").files == 1


def test_the_command_says_what_it_did(
    model: str, files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["predict", model, str(tmp_path / "in" / "**" / "*.*"), "--output-folder", str(tmp_path / "out")]
    assert _run([*given, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"rows": 27, "files": 3, "kept": 0, "errors": {}}
    files[0].write_text("z\n1\n")
    assert _run(given) == 2
    said = capsys.readouterr()
    assert "0 predictions in 0 files" in said.out
    assert "one.csv" in said.err
    assert _run([*given, "--output", "x.csv"]) == 2
    assert _run(["predict", model, str(files[0]), "--workers", "2"]) == 2


def test_mistakes_are_said_before_anything_is_written(model: str, files: list[Path], tmp_path: Path) -> None:
    twin = files[0].with_suffix(".parquet")
    pl.DataFrame({"x": [1.0]}).write_parquet(twin)
    with pytest.raises(SettingError, match="would have one file of answers"):
        predict_files(model, [*files, twin], tmp_path / "out")
    with pytest.raises(SettingError, match="answers cannot be written as"):
        predict_files(model, files, tmp_path / "out", suffix=".xml")
    assert not (tmp_path / "out").exists()


def _die(*_: object) -> None:
    os._exit(9)


def test_a_worker_that_dies_is_an_error_and_the_next_call_goes_on(
    model: str, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(many, "_answer", _die)
        with pytest.raises(RunError, match="a worker process died"):
            predict_files(model, files, tmp_path / "out")
    assert predict_files(model, files, tmp_path / "out").files == 3
