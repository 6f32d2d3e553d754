"""Trackers get what the record has, once each, and stop no run. Those of packages are read back with the packages."""

import csv
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

import luthier
from luthier.cli.main import _run
from luthier.errors import MissingPackageError, SettingError
from luthier.training.trackers import TrackedRun

pytestmark = pytest.mark.filterwarnings("default")  # of other people's packages

Points = dict[str, list[tuple[int, float]]]
FIT = """
import os, sys, torch, luthier
class Stopped(luthier.Callback):
    def on_epoch_end(self, run):
        if run.epoch == 2 and "kill" in sys.argv: os._exit(9)
        if run.epoch == 2 and "stop" in sys.argv: return luthier.Stop("enough", finished=False)
x = torch.linspace(-1, 1, 24).reshape(12, 2)
torch.manual_seed(0)
luthier.fit(torch.nn.Linear(2, 1), (x, x[:, :1]), (x, x[:, :1]), criterion="mse", optimizer="SGD", lr=0.1, epochs=5,
    batch_size=4, seed=0, run="run", log_every_steps=2, checkpoint_every_steps=4, checkpoint_every_s=None,
    trackers=sys.argv[1:2], callbacks=[Stopped()], check=False)
"""


class Kept:
    """A tracker that keeps what it is told."""

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {}
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.ends: list[tuple[dict[str, Any], list[str]]] = []

    def start(self, settings: Mapping[str, Any], run: TrackedRun) -> str | None:
        self.settings = dict(settings)
        random.random(), np.random.rand(), torch.rand(1)
        return "an id"

    def log(self, figures: Mapping[str, float], step: int) -> None:
        self.rows.append((step, dict(figures)))
        torch.rand(1)

    def end(self, figures: Mapping[str, Any], files: Sequence[Path]) -> None:
        assert all(path.stat().st_size for path in files)
        self.ends.append((dict(figures), [path.name for path in files]))


class Broken(Kept):
    def log(self, figures: Mapping[str, float], step: int) -> None:
        raise OSError("the server is gone")


def fit(**more: Any) -> luthier.Result:
    x = torch.linspace(-1, 1, 24).reshape(12, 2)
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.Dropout(0.1))
    named: dict[str, Any] = {"optimizer": "SGD", "lr": 0.1, "epochs": 3, "batch_size": 4, "seed": 0, **more}
    return luthier.fit(module, (x, x[:, :1]), (x, x[:, :1]), criterion="mse", **named)


def test_a_tracker_gets_settings_rows_and_figures_and_moves_no_bit() -> None:
    kept = Kept()
    result = fit(trackers=[kept], log_every_steps=2)
    epochs = [figures for _, figures in kept.rows if "valid_loss" in figures]
    for row, figures in zip(result.record.epochs, epochs, strict=True):
        assert figures == {**{k: v for k, v in row.items() if k not in ("event", "step")}, "epoch": row["epoch"] + 1}
    assert [step for step, figures in kept.rows if "step_train_loss" in figures] == [2, 4, 6, 8]
    assert (kept.settings["recipe.lr"], kept.settings["module.class"]) == (0.1, "Sequential")
    ((figures, files),) = kept.ends
    assert figures["best_valid_loss"] == result.model.metrics["valid"]["loss"]
    assert files == ["model.safetensors", "report.html"]
    alone = fit(log_every_steps=2)
    for name, value in alone.module.state_dict().items():
        assert torch.equal(value, result.module.state_dict()[name])


def test_a_tracker_that_fails_is_said_once_and_training_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    kept = Kept()
    assert fit(trackers=[Broken(), kept]).is_done
    assert [r.message for r in caplog.records if "tracker" in r.message] == [
        "the tracker Broken-1 failed and is no longer used; training continues: OSError: the server is gone"
    ]
    assert len(kept.rows) == 3


def test_what_is_wrong_is_said_before_training(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="no tracker 'mlflo'"):
        fit(trackers=["mlflo"])
    monkeypatch.setattr("luthier.training.trackers.find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match="needs the package wandb"):
        fit(trackers=["wandb"])
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    assert _run(["train", str(tmp_path / "a.csv"), "--track", "mlflow", "--run", str(tmp_path / "run")]) == 2
    assert not (tmp_path / "run").exists()


def test_a_run_that_stops_has_no_last_figures_and_goes_on(tmp_path: Path) -> None:
    first, second = Kept(), Kept()
    fit(trackers=[first], run=tmp_path / "run", callbacks=[_Stop()])
    assert first.ends == [({}, [])]
    fit(trackers=[second], run=tmp_path / "run")
    steps = [step for kept in (first, second) for step, _ in kept.rows]
    assert steps == [3, 6, 9]
    assert len(second.ends[0][1]) == 2


class _Stop(luthier.Callback):
    def on_epoch_end(self, run: luthier.View) -> luthier.Stop | None:
        return luthier.Stop("enough", finished=False) if run.epoch == 0 and run.global_step == 3 else None


def test_the_folds_of_a_run_are_one_tracked_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _people().write_csv("people.csv")
    for run in (None, "runs/a"):
        kept = Kept()
        result = luthier.train("people.csv", target="left", epochs=1, folds=2, run=run, trackers=[kept])
        names = {name.partition("/")[0] for _, figures in kept.rows for name in figures if "/" in name}
        assert names == ({"fold-1", "fold-2"} if run else {"training-2"})
        ((figures, files),) = kept.ends
        assert figures["test_accuracy"] == result.test["accuracy"]
        assert files == ["model.safetensors", "report.html"]
        assert kept.settings["data.target"] == "['left']"


def _people(rows: int = 120) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    age = rng.normal(40, 9, rows).round(2)
    return pl.DataFrame(
        {"age": age, "city": rng.choice(["Ayr", "Bonn"], rows), "left": np.where(age > 40, "yes", "no")}
    )


def _of_csv(place: Path) -> Points:
    found: Points = {}
    with (place / "run" / "tracking.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row["step"] and row["name"] != "findings":
                found.setdefault(row["name"], []).append((int(row["step"]), float(row["value"])))
    return found


def _of_tensorboard(place: Path) -> Points:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(place / "run" / "tensorboard"))
    found.Reload()
    tags = found.Tags()["scalars"]
    assert any("settings" in tag for tag in found.Tags()["tensors"])
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in tags}


@pytest.fixture
def mlflow_server(tmp_path: Path) -> Iterator[str]:
    """A server of MLflow over SQLite."""
    pytest.importorskip("mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    store = [
        "--backend-store-uri",
        f"sqlite:///{tmp_path}/server.db",
        "--artifacts-destination",
        str(tmp_path / "kept"),
    ]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    server = subprocess.Popen([*command, *store], start_new_session=True, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        while True:  # as long as it starts; the limit of the whole suite ends it otherwise
            assert server.poll() is None
            with suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=5):
                break
        yield address
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()


def test_a_server_of_mlflow_gets_each_point_once(
    mlflow_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    for more in (["kill"], []):
        done = subprocess.run([sys.executable, "-c", FIT, "mlflow", *more], capture_output=True, text=True, check=False)
        assert done.returncode == (9 if more else 0), done.stderr
    points = _of_mlflow(tmp_path, mlflow_server)
    epochs = luthier.read_record("run/record.jsonl").epochs
    steps, values = zip(*sorted(points["valid_loss"]), strict=True)
    assert list(steps) == [row["step"] for row in epochs]
    assert values == pytest.approx([row["valid_loss"] for row in epochs], rel=1e-6)


def _of_mlflow(place: Path, address: str = "") -> Points:
    from mlflow import MlflowClient

    client = MlflowClient(address or f"sqlite:///{place}/mlflow.db")
    (run,) = client.search_runs(["0"])
    assert run.info.status == "FINISHED"
    assert run.data.params["recipe.lr"] == "0.1"
    assert {file.path for file in client.list_artifacts(run.info.run_id)} >= {"report.html", "model.safetensors"}
    return {
        name: [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)]
        for name in run.data.metrics
    }


def _of_wandb(place: Path) -> Points:
    from wandb.proto import wandb_internal_pb2

    found: Points = {}
    paths = sorted(place.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime)
    assert len({path.name for path in paths}) == 1
    for path in paths:
        for data in _wandb_records(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            row = {(item.key or item.nested_key[0]): item.value_json for item in record.history.item}
            for name in row.keys() - {"global_step", "_step", "_runtime", "_timestamp"}:
                found.setdefault(name, []).append((int(row["global_step"]), float(row[name])))
    return found


def _wandb_records(content: bytes) -> Iterator[bytes]:
    """Yield the records of a file of W&B: blocks of 32 KiB as LevelDB's log has them, after a header of 7 bytes."""
    at, whole = 7, b""
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack("<HB", content[at + 4 : at + 7])
        whole += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield whole
            whole = b""


def _of_trackio(place: Path) -> Points:
    from trackio.sqlite_storage import SQLiteStorage

    (run,) = SQLiteStorage.get_runs("luthier")
    found: Points = {}
    for row in SQLiteStorage.get_logs("luthier", run):
        for name, value in row.items():
            if isinstance(value, int | float) and name != "step":
                found.setdefault(name, []).append((row["step"], value))
    return found


def _of_aim(place: Path) -> Points:
    from aim import Repo

    (run,) = Repo(str(place)).iter_runs()
    assert run["settings"]["recipe.lr"] == 0.1
    assert "best_valid_loss" in run["figures"]
    found: Points = {}
    for metric in run.metrics():
        steps, (values, *_) = metric.data.items_list()
        found[metric.name] = list(zip(steps, values, strict=True))
    return found


@pytest.mark.parametrize(
    ("name", "read", "how"),
    [
        ("csv", _of_csv, "kill"), ("tensorboard", _of_tensorboard, "kill"), ("mlflow", _of_mlflow, "kill"),
        # these hand points on in the background, and a kill at once loses the last half second
        ("wandb", _of_wandb, "stop"), ("trackio", _of_trackio, "stop"),
        ("aim", _of_aim, "stop"),
    ],
)  # fmt: skip
def test_a_resumed_run_goes_on_in_the_same_tracked_run_without_double_points(
    name: str, read: Callable[[Path], Points], how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db", "WANDB_MODE": "offline",
             "TRACKIO_DIR": str(tmp_path / "trackio"), "WANDB_SILENT": "true", "HF_HUB_OFFLINE": "1"}  # fmt: skip
    for variable, value in given.items():
        monkeypatch.setenv(variable, value)
    pytest.importorskip(name)
    for more in ([how], []):
        done = subprocess.run([sys.executable, "-c", FIT, name, *more], capture_output=True, text=True, check=False)
        assert done.returncode == (9 if more == ["kill"] else 0), done.stderr
        assert "failed" not in done.stderr
    points = read(tmp_path)
    record = luthier.read_record("run/record.jsonl")
    expected = [(row["step"], row["valid_loss"]) for row in record.epochs]
    steps, values = zip(*sorted(points["valid_loss"]), strict=True)
    assert list(steps) == [step for step, _ in expected]
    assert values == pytest.approx([value for _, value in expected], rel=1e-6)
    rows = [row["step"] for row in record if row["event"] == "step"]
    assert sorted(step for step, _ in points["step_train_loss"]) == rows


def test_mlflow_keeps_a_model_that_answers_raw_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    pd = pytest.importorskip("pandas")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    rows = _people().with_columns(floor=pl.Series(np.arange(120) % 3), day=pl.lit("2024-05-01"))
    rows.write_csv("people.csv")
    with mlflow.start_run() as run:  # one that is open is gone on with
        assert (
            _run(
                ["train", "people.csv", "-t", "left", "--epochs", "2", "--kind", "floor=category", "--track", "mlflow"]
            )
            == 0
        )
        assert mlflow.active_run() is not None
    (logged,) = mlflow.search_logged_models(output_format="list")
    assert logged.source_run_id == run.info.run_id
    model = mlflow.pyfunc.load_model(logged.model_uri)
    frame = pd.read_csv("people.csv").drop(columns="left")
    assert model.predict(frame).tolist() == luthier.load("runs/people").predict("people.csv").tolist()
    assert "'age': double (optional)" in str(model.metadata.signature)
    with pytest.raises(mlflow.exceptions.MlflowException, match="age"):
        model.predict(frame.assign(age="old"))
