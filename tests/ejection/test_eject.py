"""An ejected project gives the run's weights to the bit, without Luthier, in a few formatted lines."""

import contextlib
import gzip
import io
import json
import os
import random
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

import luthier
from luthier.errors import RunError
from luthier.pipeline.eject import eject
from tests.pipeline.test_images_in_tables import album, picture
from tests.pipeline.test_series import SHAPES, bring, long_table, uneven, waves

N = 90


def draw() -> np.random.Generator:
    return np.random.default_rng(3)


def columns() -> dict[str, list[Any]]:
    g = draw()
    x = g.normal(size=N)
    return {
        "size": [f" {v:.3f}" if i % 9 else "NA" for i, v in enumerate(x)],
        "colour": [("red", "green", "blue", "")[i] for i in g.integers(0, 4, N)],
        "open": [("yes", "No", "?")[i] for i in g.integers(0, 3, N)],
        "day": [f"2024-{m:02d}-{m * 2:02d} 10:{m:02d}" for m in g.integers(1, 13, N)],
        "name": [f"é{i}, \"{i}\"" for i in range(N)],
        "level": [str(v) for v in g.integers(0, 3, N)],
        "y": [("no", "yes")[int(v > 0)] for v in x],
        "z": [f"{v * 2 + 1:.4f}" for v in x],
        "w": [f"{v:.2f}" for v in g.uniform(0.1, 2, N)],
        "a": [str(int(v > 0.3)) for v in x],
        "b": [str(int(v < 0.1)) for v in x],
        "tags": [("red", "red blue", "blue", "")[i] for i in g.integers(0, 4, N)],
    }  # fmt: skip


def write_csv(path: Path, names: str, *, rows: slice = slice(None), **more: Any) -> Path:
    chosen = {name: columns()[name][rows] for name in names.split()}
    text = pl.DataFrame(chosen).write_csv(**more)
    path.write_text(text, encoding="utf-8")
    return path


FEATURES = "size colour open day name level"


def plain(place: Path) -> tuple[Path, dict[str, Any]]:
    return write_csv(place / "d.csv", f"{FEATURES} y"), {"target": "y"}


def two_numbers(place: Path) -> tuple[Path, dict[str, Any]]:
    path = write_csv(place / "d.csv", "size level z w")
    return path, {
        "target": ["z", "w"], "monitor": "valid_rmse", "min_delta": 0.001, "patience": 2, "ema": 0.9, "warmup_steps": 3,
        "scheduler": "CosineAnnealingLR", "scheduler_args": {}, "batch_norm": True, "drop_last": True,
    }  # fmt: skip


def yes_no_columns(place: Path) -> tuple[Path, dict[str, Any]]:
    return write_csv(place / "d.csv", "size colour a b"), {"target": ["a", "b"], "monitor": "valid_f1"}


def labels_in_a_cell(place: Path) -> tuple[Path, dict[str, Any]]:
    return write_csv(place / "d.csv", "size open tags"), {
        "target": "tags", "labels": " ", "optimizer": "SGD", "lr": 0.05, "momentum": 0.9, "nesterov": True,
        "clip_value": 0.1, "shuffle": False,
    }  # fmt: skip


def weighted_rows(place: Path) -> tuple[Path, dict[str, Any]]:
    return write_csv(place / "d.csv", "size day level w"), {
        "target": "level", "weight": "w", "class_weights": "balanced", "label_smoothing": 0.1, "micro_batch_size": 5,
        "batch_size": 16,
    }  # fmt: skip


def other_validation_classes(place: Path) -> tuple[Path, dict[str, Any]]:
    write_csv(place / "v.csv", "size day level", rows=slice(0, 40))
    lines = (place / "v.csv").read_text().splitlines()
    lines[2::9] = [line[:-1] + "7" for line in lines[2::9]]
    (place / "v.csv").write_text("\n".join([*lines, "1.0,2024-01-02 10:01,9"]))
    return write_csv(place / "d.csv", "size day level"), {
        "target": "level", "valid": str(place / "v.csv"), "monitor": "valid_f1", "class_weights": "balanced",
        "eval_batch_size": 8,
    }  # fmt: skip


def another_word_in_validation(place: Path) -> tuple[Path, dict[str, Any]]:
    write_csv(place / "v.csv", "size level y", rows=slice(0, 40))
    with (place / "v.csv").open("a") as file:
        file.write("1.0,2,perhaps\n" * 30)
    return write_csv(place / "d.csv", "size level y"), {
        "target": "y", "valid": str(place / "v.csv"), "monitor": "valid_auc", "eval_batch_size": 8, "positive": "no",
    }  # fmt: skip


def class_weights(place: Path) -> tuple[Path, dict[str, Any]]:
    return write_csv(place / "d.csv", "size day level"), {
        "target": "level", "class_weights": "balanced", "micro_batch_size": 4, "batch_size": 18,
        "scheduler": "CyclicLR", "scheduler_args": {"base_lr": 0.001, "max_lr": 0.01, "cycle_momentum": False},
        "monitor": "valid_accuracy",
    }  # fmt: skip


def typed_parquet(place: Path) -> tuple[Path, dict[str, Any]]:
    g, text = draw(), columns()
    frame = pl.DataFrame(
        {
            "x": pl.Series(g.normal(size=N), dtype=pl.Float32),
            "kind": pl.Series(text["colour"], dtype=pl.Categorical),
            "half": pl.Series([0.5, 1.0, None] * 30),
            "yes": pl.Series([True, False, None] * 30),
            "when": pl.Series(text["day"]).str.slice(0, 10).str.to_date(),
            "took": pl.Series(range(N)).cast(pl.Duration("ms")),
            "y": pl.Series(g.integers(0, 2, N).astype(bool)),
        }
    )
    frame.write_parquet(place / "d.parquet")
    return place / "d.parquet", {
        "target": "y", "kind": {"half": "category"}, "scheduler": "ReduceLROnPlateau",
        "scheduler_args": {"patience": 0}, "limit": 3, "epochs": 4,
    }  # fmt: skip


def arrays_of_numbers(place: Path) -> tuple[Path, dict[str, Any]]:
    g = draw()
    x = g.normal(size=(N, 4)).astype(np.float32)
    np.savez(place / "d.npz", X=x, Y=x[:, :2].sum(1))
    return place / "d.npz", {"valid_fraction": 0.0, "test_fraction": 0.0, "ema": 0.8, "clip_norm": None}


def irregular_text(place: Path) -> tuple[Path, dict[str, Any]]:
    for name, rows in (("d.csv", slice(0, 60)), ("v.csv", slice(60, N))):
        write_csv(place / name, "size name open y", rows=rows, separator=";")
        text = (place / name).read_text().replace("\n", "\r\n", 5).replace("é", "ü")
        lines = text.splitlines(keepends=True)
        (place / name).write_bytes("".join([*lines[:7], "\n", *lines[7:], "\n\n"]).encode("latin-1"))
    return place / "d.csv", {
        "target": "y", "valid": str(place / "v.csv"), "encoding": "latin-1", "precision": "bf16",
        "optimizer_flavour": "fused", "test_fraction": 0.0, "monitor": "valid_auc",
    }  # fmt: skip


def decimal_commas(place: Path) -> tuple[Path, dict[str, Any]]:
    path = write_csv(place / "d.csv", "size open z", separator=";")
    path.write_text(path.read_text().replace(".", ","))
    return path, {"target": "z"}


def gzipped(place: Path) -> tuple[Path, dict[str, Any]]:
    path = write_csv(place / "d.csv", "size open z")
    (place / "d.csv.gz").write_bytes(gzip.compress(path.read_bytes()))
    settings = {"target": "z", "monitor": "train_loss", "criterion": "huber", "criterion_args": {"delta": 0.5}}
    return place / "d.csv.gz", settings


def from_a_bundle(place: Path) -> tuple[Path, dict[str, Any]]:
    path = write_csv(place / "d.csv", "size colour y")
    luthier.train(path, target="y", run=place / "before", epochs=1, widths=(4,))
    return path, {"target": "y", "start": str(place / "before")}


def text_beside_others(place: Path) -> tuple[Path, dict[str, Any]]:
    from tests.pipeline.test_text import reviews

    reviews(90).write_csv(place / "d.csv")
    return place / "d.csv", {"target": "liked", "reader": "gru", "widths": (6,)}


def text_alone(place: Path) -> tuple[Path, dict[str, Any]]:
    from tests.pipeline.test_text import reviews

    reviews(90).select("review", "stars").write_parquet(place / "d.parquet")
    return place / "d.parquet", {"target": "stars", "ema": 0.9}


def text_without_spaces(place: Path) -> tuple[Path, dict[str, Any]]:
    from tests.pipeline.test_text import SCRIPTS, sentences

    rows = [row for script in SCRIPTS for row in sentences(script, 30).rows()]
    frame = pl.DataFrame([*rows, ("", "yes"), ("＃1 ÅNGSTRÖM 😀", "no")], schema=["text", "liked"], orient="row")
    frame.write_csv(place / "d.csv")
    return place / "d.csv", {"target": "liked", "kind": {"text": "text"}, "widths": None}


def pixels(*shape: int, floats: bool = False) -> Any:
    made = draw().integers(0, 255, (N, *shape)).astype(np.uint8)
    return (made / 255).astype(np.float32) if floats else made


def grey_images(place: Path) -> tuple[Path, dict[str, Any]]:
    np.savez(place / "d.npz", x=pixels(12, 12), y=draw().integers(0, 3, N))
    return place / "d.npz", {"augment": ("flip", "shift", "erase"), "ema": 0.9, "widths": (4, 8), "micro_batch_size": 5}


def float_images(place: Path) -> tuple[Path, dict[str, Any]]:
    np.savez(place / "d.npz", x=pixels(9, 10, 3, floats=True), y=draw().normal(size=(N, 2)))
    return place / "d.npz", {"network": "resnet", "widths": (4, 8), "augment": ("erase",), "task": "regression"}


def images_with_opacity(place: Path) -> tuple[Path, dict[str, Any]]:
    np.savez(place / "d.npz", x=pixels(4, 8, 8), y=draw().integers(0, 2, (N, 3)))
    return place / "d.npz", {"task": "multilabel", "widths": (4,), "memory_format": "contiguous"}


def image_folders(place: Path) -> tuple[Path, dict[str, Any]]:
    g = draw()
    for part in ("train", "valid"):
        for i in range(24):
            folder = place / part / ("cat", "dog")[i % 2]
            folder.mkdir(parents=True, exist_ok=True)
            mode, ending = (("RGB", "jpg"), ("RGBA", "png"), ("L", "png"))[i % 3]
            size = (14 + i % 3, 12) if i % 4 else (40, 60)
            values = g.integers(0, 255, (size[1], size[0], {"RGB": 3, "RGBA": 4, "L": 1}[mode])).astype(np.uint8)
            Image.fromarray(values.squeeze(), mode=mode).save(folder / f"{i}.{ending}")
    return place / "train", {
        "valid": str(place / "valid"),
        "test_fraction": 0.0,
        "widths": (4, 8),
        "augment": ("flip",),
    }


def jpegs_by_another_decoder(place: Path) -> tuple[Path, dict[str, Any]]:
    g = np.random.default_rng(4)
    for i in range(60):
        folder = place / "all" / ("cat", "dog")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(g.integers(0, 200, (44, 40, 3)).astype(np.uint8) + np.uint8(40 * (i % 2)))
        exif = image.getexif()
        exif[0x0112] = 6 if i == 7 else 1  # one lies on its side
        image.save(folder / f"{i}.jpg", exif=exif)
    return place / "all", {"decoder": "simplejpeg", "image_size": 16}


def image_folder_of_three(place: Path) -> tuple[Path, dict[str, Any]]:
    g = draw()
    for i in range(36):
        folder = place / "all" / "abc"[i % 3]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(g.integers(0, 60000, (10, 10)).astype(np.uint16)).save(folder / f"{i}.png")
    return place / "all", {"network": "resnet", "widths": (4,)}


def series_in(shape: str) -> Callable[[Path], tuple[Path, dict[str, Any]]]:
    def case(place: Path) -> tuple[Path, dict[str, Any]]:
        source, settings = bring(shape, waves(60, gap=0.1), place)
        return source, {**settings, "network": "recurrent" if shape == "npz" else "inception", "widths": None}

    case.__name__ = f"series as {shape}"
    return case


def series_of_uneven_scale(place: Path) -> tuple[Path, dict[str, Any]]:
    source, settings = bring("lists", uneven(waves(60, gap=0.1)), place)  # x is scaled by row, and z is not
    return source, {**settings, "network": "rocket", "widths": None}


def series_of_uneven_scale_alone(place: Path) -> tuple[Path, dict[str, Any]]:
    long_table(uneven(waves(60, gap=0.1))).drop("site", "z").write_csv(place / "d.csv")
    return place / "d.csv", {"target": "kind", "series": "id", "order": "t", "widths": None}


def series_beside_others(place: Path) -> tuple[Path, dict[str, Any]]:
    long_table(waves(60, gap=0.1)).write_csv(place / "d.csv")
    return place / "d.csv", {"target": "kind", "series": "id", "order": "t"}


def lists_beside_others(place: Path) -> tuple[Path, dict[str, Any]]:
    frame = pl.DataFrame(waves(60, gap=0.1)).select("x", "site", "length", "kind")
    frame.with_columns(pl.col("x").cast(pl.List(pl.Float32))).write_parquet(place / "d.parquet")
    return place / "d.parquet", {"target": "length", "task": "regression"}


def pictures_in_a_table(place: Path) -> tuple[Path, dict[str, Any]]:
    path = album(place, 60)
    pl.read_csv(path).select("file", "bright").write_csv(path)
    return path, {"target": "bright", "augment": ("flip", "erase")}


def pictures_beside_others(place: Path) -> tuple[Path, dict[str, Any]]:
    path = album(place, 60)
    words = ["a good day in the sun", "rain on the old town again", "the light of an early morning"]
    frame = pl.read_csv(path).with_columns(pl.Series("words", [f"{words[i % 3]} {i}" for i in range(60)]))
    frame.with_columns(pl.when(pl.int_range(pl.len()) % 9 == 4).then(None).otherwise("file").alias("file")).write_csv(
        path
    )
    return path, {"target": "y"}


def pictures_by_ids(place: Path) -> tuple[Path, dict[str, Any]]:
    path, settings = pictures_beside_others(place)
    frame = pl.read_csv(path, infer_schema=False)
    name = next(name for name in frame.columns if frame[name][0].endswith(".png"))
    frame.with_columns(pl.col(name).str.strip_suffix(".png").str.replace_all("/", "\\")).write_csv(path)
    return path, {**settings, "kind": {**settings.get("kind", {}), name: "image"}}


def folders_of_parts(place: Path) -> tuple[Path, dict[str, Any]]:
    lot = random.Random(0)
    for i in range(50):
        picture(place / "all" / ("train" if i < 40 else "valid") / "ab"[i % 2] / f"{i}.png", i % 2 == 0, lot)
    return place / "all", {"widths": (4,)}


def refitted(place: Path) -> tuple[Path, dict[str, Any]]:
    return write_csv(place / "d.csv", "size level z"), {"target": "z", "refit": True, "target_transform": "log"}


def with_a_threshold(place: Path) -> tuple[Path, dict[str, Any]]:
    settings = {"target": "y", "threshold": "f1", "calibrate": True, "interval": 0.8}
    return write_csv(place / "d.csv", f"{FEATURES} y"), settings


def in_shards(place: Path) -> tuple[Path, dict[str, Any]]:
    path, settings = weighted_rows(place)
    del settings["micro_batch_size"]
    return path, {**settings, "shards": 3, "warmup_steps": 4}


def images_in_shards(place: Path) -> tuple[Path, dict[str, Any]]:
    path, settings = grey_images(place)
    del settings["micro_batch_size"]
    return path, {**settings, "shards": 4, "batch_size": 32}


def in_folds(place: Path) -> tuple[Path, dict[str, Any]]:
    return write_csv(place / "d.csv", "size colour day y"), {"target": "y", "folds": 3, "ema": 0.9}


def texts_in_folds(place: Path) -> tuple[Path, dict[str, Any]]:
    source, settings = text_alone(place)
    return source, {**settings, "folds": 2, "monitor": "valid_mae"}


def images_in_folds(place: Path) -> tuple[Path, dict[str, Any]]:
    source, settings = grey_images(place)
    return source, {**settings, "folds": 2, "scheduler": None, "scheduler_args": {}}


def refitted_texts(place: Path) -> tuple[Path, dict[str, Any]]:
    source, settings = text_alone(place)
    return source, {**settings, "refit": True}


def refitted_series(place: Path) -> tuple[Path, dict[str, Any]]:
    source, settings = series_beside_others(place)
    return source, {**settings, "refit": True}


def refitted_pictures(place: Path) -> tuple[Path, dict[str, Any]]:
    source, settings = pictures_in_a_table(place)
    return source, {**settings, "refit": True}


CASES: list[Callable[[Path], tuple[Path, dict[str, Any]]]] = [
    plain, two_numbers, yes_no_columns, labels_in_a_cell, weighted_rows, class_weights, typed_parquet,
    arrays_of_numbers, irregular_text, decimal_commas, gzipped, from_a_bundle, text_beside_others, text_alone,
    text_without_spaces,
    grey_images, float_images, images_with_opacity, image_folders, jpegs_by_another_decoder, image_folder_of_three,
    *map(series_in, SHAPES), series_of_uneven_scale, series_of_uneven_scale_alone, other_validation_classes,
    another_word_in_validation,
    series_beside_others, lists_beside_others, pictures_in_a_table, pictures_beside_others, pictures_by_ids,
    folders_of_parts, with_a_threshold, in_shards, images_in_shards, in_folds, texts_in_folds,
    images_in_folds, refitted, refitted_texts, refitted_series, refitted_pictures,
]  # fmt: skip
MONITORS = ["valid_mae", "valid_r2"]


def run_script(folder: Path) -> str:
    """Run `python train.py` in this process, which has torch already."""
    out, names = io.StringIO(), ("data", "network")
    sys.path.insert(0, str(folder))
    try:
        with contextlib.redirect_stdout(out):
            runpy.run_path(str(folder / "train.py"), run_name="__main__")
    finally:
        sys.path.remove(str(folder))
        for name in names:
            sys.modules.pop(name, None)
    return out.getvalue()


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated:DeprecationWarning")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_the_script_gives_the_runs_weights(case: Any, tmp_path: Path) -> None:
    source, settings = case(tmp_path)
    small: dict[str, Any] = {"epochs": 3, "threads": 1}
    if "widths" not in settings and "start" not in settings:
        small["widths"] = (8, 4)
    luthier.train(source, run=tmp_path / "run", **{**small, **{k: v for k, v in settings.items() if v is not None}})
    files = eject(tmp_path / "run", tmp_path / "out")

    out = run_script(tmp_path / "out")
    assert "the weights are the run's, to the bit" in out
    ours, theirs = (weights_of(tmp_path / name / "model.safetensors") for name in ("run", "out"))
    assert ours == theirs
    scripts = [tmp_path / "out" / name for name in files if name.endswith(".py")]
    lines = {path.name: len(path.read_text().splitlines()) for path in scripts}
    most = (
        540 if "pictures" in case.__name__ else 490 if "shards" in case.__name__ else 430
    )  # beside the network, which is the family's files as they stand
    assert sum(lines.values()) - lines["network.py"] - lines.get("tabm.py", 0) <= most, lines
    ruff = [sys.executable, "-m", "ruff", "format", "--check", "--line-length", "120", *map(str, scripts)]
    assert (
        subprocess.run(ruff, capture_output=True, text=True, check=False).stdout.strip()
        == f"{len(scripts)} files already formatted"
    )
    for path in scripts:
        assert "luthier" not in path.read_text().replace("luthier 0.1.0", "").replace("without luthier", "")


def weights_of(path: Path) -> dict[str, bytes]:
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        return {name: file.get_tensor(name).tobytes() for name in file.keys() if not name.startswith("luthier.")}  # noqa: SIM118


@pytest.mark.parametrize("monitor", MONITORS)
def test_any_figure_can_decide(monitor: str, tmp_path: Path) -> None:
    path = write_csv(tmp_path / "d.csv", "size level z")
    luthier.train(path, target="z", run=tmp_path / "run", epochs=4, widths=(4,), monitor=monitor)
    eject(tmp_path / "run", tmp_path / "out")
    assert "to the bit" in run_script(tmp_path / "out")


def test_the_project_needs_no_luthier(tmp_path: Path) -> None:
    path, settings = plain(tmp_path)
    luthier.train(path, run=tmp_path / "run", epochs=2, threads=1, widths=(4,), **settings)
    eject(tmp_path / "run", tmp_path / "out")
    program = (
        "import runpy, sys; sys.modules['luthier'] = None; sys.path.insert(0, '.')\n"
        "runpy.run_path('train.py', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path / "out", capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONSAFEPATH": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "to the bit" in done.stdout
    needs = (tmp_path / "out" / "requirements.txt").read_text()
    assert [line.partition("==")[0] for line in needs.splitlines()] == ["torch", "numpy", "safetensors", "polars"]


@pytest.mark.parametrize("is_said", [True, False])
def test_points_between_thousands_are_those_of_the_run(tmp_path: Path, is_said: bool) -> None:
    """Said, where no cell has a comma; or known from the training file, where the one to validate on has none."""
    more = ["7,5"] if not is_said else []
    path, valid = tmp_path / "t.csv", tmp_path / "v.csv"
    amounts = [f"{i * 137:,}".replace(",", ".") for i in range(120)]
    path.write_text("\n".join(["n;y", *(f"{n};{len(n)}" for n in amounts + more)]) + "\n")
    valid.write_text("n;y\n7.934;3\n8.905;2\n")
    settings: dict[str, Any] = {"target": "y", "task": "regression", "valid": str(valid), "test_fraction": 0.0}
    settings |= {"decimal": ","} if is_said else {}
    luthier.train(path, run=tmp_path / "run", epochs=2, threads=1, widths=(4,), **settings)
    eject(tmp_path / "run", tmp_path / "out")
    assert "points between thousands" in (tmp_path / "out" / "data.py").read_text()
    assert "to the bit" in run_script(tmp_path / "out")


@pytest.fixture
def done(tmp_path: Path) -> Path:
    path = write_csv(tmp_path / "d.csv", "size colour y")
    luthier.train(path, target="y", run=tmp_path / "run", epochs=2, widths=(4,))
    return tmp_path


def test_other_data_is_refused_by_the_script(done: Path) -> None:
    eject(done / "run", done / "out")
    (done / "d.csv").write_text((done / "d.csv").read_text().replace("red", "rot", 1))
    with pytest.raises(SystemExit, match=r"d\.csv is not the file that the run read"):
        run_script(done / "out")


def test_what_cannot_be_ejected_is_refused_with_the_reason(done: Path) -> None:
    shutil.copytree(done / "run", done / "unfinished")
    lines = (done / "run" / "record.jsonl").read_text().splitlines(keepends=True)
    (done / "unfinished" / "record.jsonl").write_text("".join(lines[:-1]))
    with pytest.raises(RunError, match="luthier resume"):
        eject(done / "unfinished", done / "out")
    luthier.resume(done / "run", epochs=3)
    with pytest.raises(RunError, match="more epochs"):
        eject(done / "run", done / "out")
    x = np.zeros((20, 3), dtype=np.float32)
    luthier.fit(
        luthier.build(luthier.Blueprint(family="mlp", arguments={"num_numbers": 3, "num_outputs": 1})),
        (x, np.zeros((20, 0), dtype=np.int64), x[:, :1]), criterion="mse", optimizer="SGD", lr=0.1, epochs=1,
        run=done / "fit",
    )  # fmt: skip
    with pytest.raises(RunError, match="made by fit"):
        eject(done / "fit", done / "out")
    (done / "taken").mkdir()
    (done / "taken" / "file").touch()
    with pytest.raises(RunError, match="is there already"):
        eject(done / "run", done / "taken")
    assert not (done / "out").exists()
    assert not list(done.glob(".*"))


@pytest.mark.parametrize("harm", ["gone", "damaged"])
def test_a_split_that_cannot_be_read_is_named_and_written_anew(done: Path, harm: str) -> None:
    path = done / "run" / "split.safetensors"
    path.unlink()
    if harm == "damaged":
        path.write_bytes(b"x")
    with pytest.raises(RunError, match=r"split\.safetensors cannot be read"):
        eject(done / "run", done / "out")
    path.unlink(missing_ok=True)
    luthier.resume(done / "run")
    eject(done / "run", done / "out")


def test_changed_data_is_refused_at_once(done: Path) -> None:
    lines = (done / "d.csv").read_text().splitlines(keepends=True)
    (done / "d.csv").write_text("".join(lines[:-9]))
    with pytest.raises(RunError, match="data has changed"):
        eject(done / "run", done / "out")


def test_the_facts_are_plain_and_from_training_rows(done: Path) -> None:
    eject(done / "run", done / "out")
    facts = json.loads((done / "out" / "data.json").read_text())
    schema = luthier.load(done / "run").schema
    assert schema is not None
    by_name = {column["name"]: column for column in facts["columns"]}
    assert by_name["size"]["means"] == list(schema.columns[0].means)
    assert by_name["colour"]["categories"] == list(schema.columns[1].categories)
