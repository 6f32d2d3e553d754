# ruff: noqa: E501  (a table reads better in rows)
"""Every kind of bad input: one message with its code, exit status 2, no traceback, nothing written."""

import gzip
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from luthier.store.files import write_tensors
from tests.cli.conftest import PENGUINS, Command

ROWS = "".join(f"{i % 7},{'red' if i % 3 else 'blue'},{'yes' if i % 2 else 'no'}\n" for i in range(60))
GOOD = "size,colour,answer\n" + ROWS


def void(*values: object) -> None:
    """Throw away what calls gave."""


def text(name: str, content: str) -> Callable[[Path], None]:
    return lambda place: void((place / name).write_text(content))


def binary(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda place: void((place / name).write_bytes(content))


def both(*makers: Callable[[Path], None]) -> Callable[[Path], None]:
    return lambda place: void([make(place) for make in makers])


def nothing(place: Path) -> None:
    """Leave the place empty."""


def folder(place: Path) -> None:
    (place / "some").mkdir()


def picture(path: Path, value: int = 100) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((16, 16, 3), value, dtype=np.uint8)).save(path)


def pictures(place: Path, *, kinds: tuple[str, ...] = ("cat", "dog"), each: int = 8) -> None:
    for k, name in enumerate(kinds):
        for i in range(each):
            picture(place / "images" / name / f"{i}.png", 10 * i + k)


def broken_picture(content: bytes) -> Callable[[Path], None]:
    def make(place: Path) -> None:
        pictures(place)
        (place / "images" / "cat" / "broken.jpg").write_bytes(content)

    return make


def truncated_jpeg(place: Path) -> None:
    pictures(place)
    path = place / "images" / "cat" / "cut.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:600])


def npz(**arrays: object) -> Callable[[Path], None]:
    return lambda place: np.savez(place / "data.npz", **arrays)  # type: ignore[arg-type]


TRAIN_CSV = ("train", "data.csv", "--target", "answer")
TRAIN_NPZ = ("train", "data.npz")
TRAIN_IMAGES = ("train", "images")

TRAIN: dict[str, tuple[Callable[[Path], None], tuple[str, ...], str, str]] = {
    # what is there, the command's arguments, the code, words of the message
    "no file": (nothing, TRAIN_CSV, "data-no-file", "data.csv"),
    "a near file name": (text("date.csv", GOOD), TRAIN_CSV, "data-no-file", "date.csv"),
    "a folder for a file": (folder, ("predict", "x", "some"), "bundle-not-found", "x"),
    "an empty file": (text("data.csv", ""), TRAIN_CSV, "data-file-empty", "data.csv"),
    "a header only": (text("data.csv", "size,answer\n"), TRAIN_CSV, "data-no-rows", "data.csv"),
    "an empty gzip": (binary("data.csv", gzip.compress(b"")), TRAIN_CSV, "data-file-empty", "data.csv"),
    "a damaged gzip": (binary("data.csv", gzip.compress(GOOD.encode())[:60]), TRAIN_CSV, "data-file-damaged", "data.csv"),
    "a picture for a table": (binary("data.csv", b"\x89PNG\r\n\x1a\n\x00\x00\x00\x00" * 9), TRAIN_CSV, "data-file-binary", ""),
    "a damaged Parquet": (binary("data.parquet", b"PAR1junk"), ("train", "data.parquet", "-t", "y"), "data-file-damaged", ""),
    "a web page for a table": (text("data.csv", "\n<!DOCTYPE html><html>a,b\n1,2"), TRAIN_CSV, "data-file-binary", "web page"),
    "an SQLite file for a table": (binary("data.csv", b"SQLite format 3\x00" * 9), TRAIN_CSV, "data-file-binary", "--query"),
    "rows of unequal length": (text("data.csv", GOOD + "1,red,no,extra\n"), TRAIN_CSV, "data-ragged-rows", "61"),
    "no target said": (text("data.csv", GOOD), ("train", "data.csv"), "data-target-missing", "answer"),
    "a target that is not there": (
        text("data.csv", GOOD), ("train", "data.csv", "-t", "anser"), "data-column-missing", "did you mean 'answer'"
    ),
    "one class only": (
        text("data.csv", GOOD.replace("yes", "no")), TRAIN_CSV, "data-target-one-class", "answer"
    ),
    "an identifier as target": (
        text("data.csv", "x,id\n" + "".join(f"{i % 5},user{i}\n" for i in range(90))),
        ("train", "data.csv", "-t", "id"), "data-target-identifier", "id",
    ),
    "text in a target of numbers": (
        text("data.csv", "x,y\n" + "".join(f"{i % 9},{i * 1.5}\n" for i in range(90)) + "3,many\n"),
        ("train", "data.csv", "-t", "y"), "data-target-not-number", "many",
    ),
    "nothing to learn from": (
        text("data.csv", "same,who,y\n" + "".join(f"1,user{i},{i % 2}\n" for i in range(60))),
        ("train", "data.csv", "-t", "y", "--kind", "who=ignored"),
        "data-no-inputs", "same",
    ),
    "too few rows": (text("data.csv", "x,y\n1,a\n2,b\n"), ("train", "data.csv", "-t", "y"), "data-too-few-rows", ""),
    "an unknown kind": (text("data.csv", GOOD), (*TRAIN_CSV, "--kind", "size=colour"), "setting-unknown-choice", "size"),
    "a kind for no column": (text("data.csv", GOOD), (*TRAIN_CSV, "--kind", "sise=number"), "data-column-missing", "size"),
    "a kind that cannot be": (text("data.csv", GOOD), (*TRAIN_CSV, "--kind", "colour=number"), "data-kind-unmet", "colour"),
    "a weight that is not there": (text("data.csv", GOOD), (*TRAIN_CSV, "--weight", "w"), "data-column-missing", "'w'"),
    "weights below 0": (
        text("data.csv", "w,x,y\n" + "".join(f"-1,{i % 7},{i % 2}\n" for i in range(60))),
        ("train", "data.csv", "-t", "y", "--weight", "w"), "data-weights", "row 1",
    ),
    "a group that is not there": (text("data.csv", GOOD), (*TRAIN_CSV, "--group", "g"), "data-column-missing", "'g'"),
    "a time that orders nothing": (text("data.csv", GOOD), (*TRAIN_CSV, "--time", "colour"), "data-time-column", "colour"),
    "two ways to split": (text("data.csv", GOOD), (*TRAIN_CSV, "--time", "size", "--group", "colour"), "setting-ignored", ""),
    "no test file": (text("data.csv", GOOD), (*TRAIN_CSV, "--test", "other.csv"), "data-no-file", "other.csv"),
    "a positive class that is none": (
        text("data.csv", GOOD), (*TRAIN_CSV, "--positive", "yess"), "setting-unknown-choice", "did you mean 'yes'",
    ),
    "an unknown option": (text("data.csv", GOOD), (*TRAIN_CSV, "--epoch", "3"), "usage", "--epochs"),
    "an unknown command": (nothing, ("trian",), "usage", "train"),
    "text for a number": (text("data.csv", GOOD), (*TRAIN_CSV, "--epochs", "many"), "usage", "many"),
    "a format that says nothing": (text("data.csv", GOOD), (*TRAIN_CSV, "--format", "size="), "setting-out-of-range", "'size' is empty"),
    "labels that are one each": (text("data.csv", GOOD), (*TRAIN_CSV, "--labels", ";"), "setting-ignored", "labels would be ignored"),
    "a series of numbers": (text("data.csv", GOOD), (*TRAIN_CSV, "--kind", "size=series"), "data-kind-unmet", "series of 1 steps"),
    "no widths": (text("data.csv", GOOD), (*TRAIN_CSV, "--widths", ""), "usage", "--widths"),
    "no epochs": (text("data.csv", GOOD), (*TRAIN_CSV, "--epochs", "0"), "setting-out-of-range", "epochs"),
    "an unknown criterion": (text("data.csv", GOOD), (*TRAIN_CSV, "--criterion", "bcee"), "setting-criterion", "bce"),
    "a criterion for another task": (text("data.csv", GOOD), (*TRAIN_CSV, "--criterion", "mse"), "setting-criterion", "binary"),
    "an unknown optimizer": (text("data.csv", GOOD), (*TRAIN_CSV, "--optimizer", "Adamm"), "setting-optimizer", "Adam"),
    "a warm-up beside a closure": (
        text("data.csv", GOOD), (*TRAIN_CSV, "--optimizer", "LBFGS", "--warmup-steps", "5"), "setting-optimizer", "several times a step"
    ),
    "epochs and steps": (text("data.csv", GOOD), (*TRAIN_CSV, "--epochs", "2", "--max-steps", "5"), "setting-given-twice", "give one"),
    "an optimizer for sparse gradients": (text("data.csv", GOOD), (*TRAIN_CSV, "--optimizer", "SparseAdam"), "setting-optimizer", "sparse"),
    "a cycle that ends before the run": (
        text("data.csv", GOOD), (*TRAIN_CSV, "--scheduler", "OneCycleLR", "--scheduler-args", "total_steps=10"), "setting-scheduler", "ends after 10 steps"
    ),
    "a scheduler's argument that shows in a step": (
        text("data.csv", GOOD), (*TRAIN_CSV, "--scheduler", "StepLR", "--scheduler-args", "step_size=0"), "setting-scheduler", "StepLR"
    ),
    "a scheduler's argument of another type": (
        text("data.csv", GOOD), (*TRAIN_CSV, "--scheduler", "OneCycleLR", "--scheduler-args", "pct_start=x"), "setting-scheduler", "OneCycleLR"
    ),
    "an optimizer's pair of one": (
        text("data.csv", GOOD), (*TRAIN_CSV, "--optimizer", "Adam", "--optimizer-args", "betas=[0.9]"), "setting-optimizer", "Adam"
    ),
    "an optimizer's argument that shows in its second step": (
        text("data.csv", GOOD), (*TRAIN_CSV, "--optimizer", "SGD", "--momentum", "0.9", "--optimizer-args", "dampening=x"), "setting-optimizer", "SGD"
    ),
    "a criterion's argument that shows in a step": (
        text("data.csv", GOOD), (*TRAIN_CSV, "--criterion-args", "reduction=x"), "setting-criterion", "reduction"
    ),
    "batches of one row for batch norm": (
        text("data.csv", GOOD), (*TRAIN_CSV, "--batch-norm", "--batch-size", "1"), "setting-out-of-range", "no batch of one"
    ),
    "no class of a weight": (
        text("data.csv", GOOD), (*TRAIN_CSV, "--class-weights", "0,0"), "setting-out-of-range", "above 0"
    ),
    "a class of a weight below nought": (
        text("data.csv", GOOD), (*TRAIN_CSV, "--class-weights", "1,-1"), "setting-out-of-range", "above 0"
    ),
    "a first class without a weight": (
        text("data.csv", GOOD), (*TRAIN_CSV, "--class-weights", "0,1"), "setting-class-weights", "above 0"
    ),
    "more threads than a machine can start": (
        text("data.csv", GOOD), (*TRAIN_CSV, "--threads", "100000"), "setting-out-of-range", "1024"
    ),
    "momentum for Adam": (
        text("data.csv", GOOD), (*TRAIN_CSV, "--optimizer", "Adam", "--momentum", "0.9"), "setting-ignored", "momentum"
    ),
    "an unknown scheduler": (text("data.csv", GOOD), (*TRAIN_CSV, "--scheduler", "Cosine"), "setting-scheduler", "Cosine"),
    "a scheduler's name, before the data is read": (nothing, (*TRAIN_CSV, "--scheduler", "cos"), "setting-scheduler", "CosineAnnealingLR"),
    "an optimizer's name, before the data is read": (nothing, (*TRAIN_CSV, "--optimizer", "adm"), "setting-optimizer", "Adam"),
    "an unknown network": (text("data.csv", GOOD), (*TRAIN_CSV, "--network", "mpl"), "network-unknown-family", "mlp"),
    "a network for other data": (text("data.csv", GOOD), (*TRAIN_CSV, "--network", "resnet"), "network-wrong-family", ""),
    "augmentation of a table": (text("data.csv", GOOD), (*TRAIN_CSV, "--augment", "flip"), "setting-ignored", "augment"),
    "an unknown device": (text("data.csv", GOOD), (*TRAIN_CSV, "--device", "gpu"), "setting-device", "torch knows no such device"),
    "an unknown metric to watch": (
        text("data.csv", GOOD), (*TRAIN_CSV, "--monitor", "valid_acc", "--epochs", "1"), "setting-monitor", "valid_accuracy"
    ),
    "batches larger than the data": (
        text("data.csv", GOOD), (*TRAIN_CSV, "--batch-size", "1000", "--drop-last"), "training-no-batches", "drop_last"
    ),
    "weights of more classes": (text("data.csv", GOOD), (*TRAIN_CSV, "--class-weights", "1,2,3"), "setting-class-weights", "no, yes"),
    "a seed of many bytes": (text("data.csv", GOOD), (*TRAIN_CSV, "--seed", "9" * 25), "setting-out-of-range", "2**63"),
    "a run's folder that is taken": (
        both(text("data.csv", GOOD), folder, text("some/x", "1")),
        (*TRAIN_CSV, "--run", "some"), "run-folder-taken", "some",
    ),
    "a run that is none": (folder, ("resume", "some"), "run-not-found", "run.toml"),
    "no run file": (nothing, ("train", "run.toml"), "setting-no-run-file", "run.toml"),
    "broken TOML": (text("run.toml", "[data\n"), ("train", "run.toml"), "setting-toml", "line 1"),
    "an unknown section": (text("run.toml", "[dat]\n"), ("train", "run.toml"), "setting-unknown", "data"),
    "an unknown key": (
        text("run.toml", '[data]\nsource = "x.csv"\n[recipe]\nepoch = 3\n'), ("train", "run.toml"), "setting-unknown", "epochs"
    ),
    "a value of another type": (
        text("run.toml", '[data]\nsource = "x.csv"\n[recipe]\nepochs = "3"\n'), ("train", "run.toml"), "setting-wrong-type", "epochs"
    ),
    "an .npz without y": (npz(x=np.zeros((9, 2))), TRAIN_NPZ, "data-target-missing", "y"),
    "an .npz without x": (npz(a=np.zeros((9, 2)), y=np.zeros(9)), TRAIN_NPZ, "data-npz-keys", "x"),
    "x and y of different length": (npz(x=np.zeros((9, 2)), y=np.zeros(8)), TRAIN_NPZ, "data-length-mismatch", "9"),
    "a pickle in an .npz": (npz(x=np.array([{}] * 9, dtype=object), y=np.zeros(9)), TRAIN_NPZ, "data-npz-pickle", ""),
    "a damaged .npz": (binary("data.npz", b"PK\x03\x04junk"), TRAIN_NPZ, "data-file-damaged", "data.npz"),
    "NaN in images": (
        npz(x=np.full((40, 8, 8), np.nan, dtype=np.float32), y=np.arange(40) % 2), TRAIN_NPZ, "data-not-finite", ""
    ),
    "a folder without classes": (folder, ("train", "some"), "data-no-images", "some"),
    "one class of images": (lambda place: pictures(place, kinds=("cat",)), TRAIN_IMAGES, "data-one-class", "cat"),
    "an image of 0 bytes": (broken_picture(b""), TRAIN_IMAGES, "data-image-unreadable", "broken.jpg"),
    "an image that is none": (broken_picture(b"hello"), TRAIN_IMAGES, "data-image-unreadable", "broken.jpg"),
    "a truncated JPEG": (truncated_jpeg, TRAIN_IMAGES, "data-image-unreadable", "cut.jpg"),
    "a target for a folder": (pictures, (*TRAIN_IMAGES, "--target", "cat"), "setting-ignored", "target"),
}  # fmt: skip


def listing(place: Path) -> set[str]:
    return {str(path.relative_to(place)) for path in place.rglob("*")}


def check(command: Command, place: Path, arguments: tuple[object, ...], code: str, words: str) -> None:
    before = listing(place)
    status, _, err = command(*arguments)
    assert status == 2, err
    assert f"[{code}]" in err
    assert words in err
    assert "Traceback" not in err
    assert len(err.splitlines()) <= 3
    left = {name for name in listing(place) - before if name != "runs"}
    assert not left
    models = [path for path in place.rglob("model.safetensors") if str(path.relative_to(place)) not in before]
    assert not models
    assert not list(place.rglob("*.part"))


@pytest.mark.parametrize("case", TRAIN)
def test_bad_input_to_train(case: str, command: Command, tmp_path: Path) -> None:
    make, arguments, code, words = TRAIN[case]
    make(tmp_path)
    check(command, tmp_path, arguments, code, words)


def bundle_of_other_shape(place: Path) -> None:
    from safetensors import safe_open

    path = place / "table" / "model.safetensors"
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
        text = file.metadata()["luthier"]
    tensors["head.weight"] = tensors["head.weight"][:, :5].contiguous()
    import json

    document = json.loads(text)
    del document["sha256"]
    write_tensors(path, tensors, document, "luthier")


def cut_bundle(place: Path) -> None:
    path = place / "table" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def flipped_bundle(place: Path) -> None:
    path = place / "table" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-7] ^= 1
    path.write_bytes(content)


def pickled_bundle(place: Path) -> None:
    import torch

    torch.save({"weight": torch.zeros(2)}, place / "table" / "model.safetensors")


def foreign_bundle(place: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(2)}, place / "table" / "model.safetensors")


def own_bundle(place: Path) -> None:
    import torch

    from luthier.serving.model import Model

    Model(torch.nn.Linear(2, 2)).save(place / "table" / "model.safetensors")


def pipe(place: Path) -> None:
    os.mkfifo(place / "pipe.csv")


def other_record(place: Path) -> None:
    (place / "table" / "record.jsonl").write_text('{"prediction": 1}\n{"prediction": 2}\n')


PREDICT: dict[str, tuple[Callable[[Path], None], tuple[object, ...], str, str]] = {
    "a bundle cut short": (cut_bundle, ("predict", "table", PENGUINS), "bundle-damaged", "cut short"),
    "a bundle with one other bit": (flipped_bundle, ("predict", "table", PENGUINS), "bundle-damaged", "SHA-256"),
    "a bundle with a wrong shape": (bundle_of_other_shape, ("predict", "table", PENGUINS), "bundle-does-not-fit", "head.weight"),
    "a pickle as a bundle": (pickled_bundle, ("predict", "table", PENGUINS), "bundle-is-pickle", "code"),
    "another safetensors file": (foreign_bundle, ("predict", "table", PENGUINS), "bundle-foreign", ""),
    "data for a model": (text("d.csv", GOOD), ("predict", "d.csv", "table"), "bundle-damaged", "the data after it"),
    "a near run": (nothing, ("predict", "tabel", PENGUINS), "bundle-not-found", "did you mean 'table'?"),
    "the bundle of an own module": (own_bundle, ("predict", "table", PENGUINS), "bundle-module-needed", "module=Linear"),
    "a missing column": (text("d.csv", "island,year\nDream,2007\n"), ("predict", "table", "d.csv"), "data-column-missing", "sex"),
    "a folder for a table": (folder, ("predict", "table", "some"), "data-not-a-table", "some"),
    "no such image": (nothing, ("predict", "image", "x.png"), "data-no-file", "x.png"),
    "no target to compare with": (
        text("d.csv", PENGUINS.read_text().replace("species", "kind")), ("evaluate", "table", "d.csv"), "data-column-missing", "species"
    ),
    "a pipe for a table": (pipe, ("predict", "table", "pipe.csv"), "data-not-a-table", "give -"),
    "the run's own record": (nothing, ("predict", "table", PENGUINS, "-o", "table/record.jsonl"), "setting-output-format", "record"),
    "a record of other rows": (other_record, ("replay", "table"), "run-record-damaged", "line 1"),
    "a folder to write to": (
        lambda place: (place / "some.csv").mkdir(), ("predict", "table", PENGUINS, "-o", "some.csv"), "setting-output-format", "is a folder"
    ),
    "an unknown format": (nothing, ("predict", "table", PENGUINS, "-o", "x.xlsx"), "setting-output-format", ".csv"),
    "a folder that is not there": (nothing, ("predict", "table", PENGUINS, "-o", "no/x.csv"), "run-cannot-write", "no/x.csv"),
}  # fmt: skip


@pytest.mark.parametrize("case", PREDICT)
def test_bad_input_to_predict_and_evaluate(case: str, command: Command, models: Path, tmp_path: Path) -> None:
    for name in ("table", "image"):
        shutil.copytree(models / name, tmp_path / name)
    make, arguments, code, words = PREDICT[case]
    make(tmp_path)
    check(command, tmp_path, arguments, code, words)


def test_the_source_is_never_written_over(command: Command, models: Path, tmp_path: Path) -> None:
    shutil.copy(PENGUINS, tmp_path / "new.csv")
    status, _, err = command("predict", models / "table", "new.csv", "-o", "new.csv")
    assert status == 2
    assert "[setting-output-format]" in err
    assert (tmp_path / "new.csv").read_bytes() == PENGUINS.read_bytes()


def test_a_loss_that_is_not_finite_is_one_message(command: Command, tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("x,y\n" + "".join(f"{i % 17},{i * 1.5}\n" for i in range(200)))
    status, _, err = command(
        "train", "data.csv", "-t", "y", "--optimizer", "SGD", "--lr", "1e30", "--epochs", "50", "--clip-value", "1e30"
    )
    assert status == 2
    assert "[training-loss-not-finite]" in err
    assert "Traceback" not in err
    assert not list(tmp_path.rglob("model.safetensors"))


def test_a_full_disk_is_one_message(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "data.csv").write_text(GOOD)
    monkeypatch.setattr(os, "fsync", full)
    status, _, err = command("train", "data.csv", "-t", "answer")
    assert status == 2
    assert "[run-cannot-write]" in err
    assert "No space left" in err
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("output", ["summary", "predict"])
def test_no_output_is_written_over_what_is_read_or_another_file(output: str, models: Path, command: Command) -> None:
    shutil.copytree(models / "table", "run")
    Path("data.csv").write_bytes(PENGUINS.read_bytes())
    before = {path.name: path.read_bytes() for path in Path("run").iterdir() if path.is_file()}
    flag = {"summary": ("summary", "run", "--svg"), "predict": ("predict", "run", "data.csv", "-o")}[output]
    for place in ("run/model.safetensors", "run/run.toml", "run/record.jsonl", "data.csv", "run"):
        status, _, err = command(*flag, place)
        assert (status, "[setting-output-format]" in err) == (2, True), (place, err)
    assert {path.name: path.read_bytes() for path in Path("run").iterdir() if path.is_file()} == before
    assert Path("data.csv").read_bytes() == PENGUINS.read_bytes()


def test_a_folder_that_is_refused_keeps_its_hidden_files(command: Command) -> None:
    Path("data.csv").write_text(GOOD)
    Path("mine").mkdir()
    Path("mine/.notes.part").write_text("mine")
    Path("mine/.run.toml.77.part").write_text("of a run")
    status, _, err = command(*TRAIN_CSV, "--run", "mine", "--epochs", 1)
    assert (status, "[run-folder-taken]" in err) == (2, True)
    assert sorted(path.name for path in Path("mine").iterdir()) == [".notes.part", ".run.toml.77.part"]
    Path("mine/.notes.part").unlink()
    assert command(*TRAIN_CSV, "--run", "mine", "--epochs", 1)[0] == 0
