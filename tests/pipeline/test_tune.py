"""`tune`: trials over data that is read once; cut off anywhere, a study goes on to the same trials and winner."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import luthier
from luthier.cli.main import _run
from luthier.errors import MissingPackageError, RunError, SettingError, TrainingError
from luthier.pipeline.space import Setting, read_space, write_space
from luthier.pipeline.tune import print_space, tune

optuna = pytest.importorskip("optuna")
pytestmark = pytest.mark.filterwarnings("default")  # of Optuna


def people(count: int = 300) -> pl.DataFrame:
    rng = np.random.default_rng(3)
    age, city = rng.normal(40, 12, count).round(3), rng.choice(["Ayr", "Bonn", "Cork"], count)
    left = np.where((age - 40) / 8 + (city == "Cork") * 2 + rng.normal(size=count) > 0, "yes", "no")
    return pl.DataFrame({"age": age, "city": city, "left": left})


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    people().write_csv("people.csv")
    return tmp_path


QUICK: dict[str, Any] = {"target": "left", "epochs": 12, "threads": 1}


def plain(study: luthier.Study) -> list[dict[str, Any]]:
    return [{**row, "seconds": None} for row in study.trials]


def test_a_study_is_repeatable_and_its_winner_is_a_run(here: Path) -> None:
    heard: list[tuple[int, bool]] = []
    study = tune(
        "people.csv", trials=5, run="a", on_trial=lambda row, best: heard.append((row["trial"], best)), **QUICK
    )
    assert [number for number, _ in heard] == [0, 1, 2, 3, 4]
    assert study.trials[0]["settings"] == {}
    values = [row["value"] for row in study.trials if row["state"] == "complete"]
    assert study.number is not None
    best_number = min((row["value"], row["trial"]) for row in study.trials if row["value"] is not None)[1]
    if best_number:  # it is kept where it is better by more than chance has it
        assert study.errors is not None
        assert study.number == (best_number if study.errors >= 1.96 else 0)
    assert len({json.dumps(row["settings"]) for row in study.trials}) == 5
    again = tune("people.csv", trials=5, run="b", **QUICK)
    assert plain(again) == plain(study)
    best = study.best
    assert best is not None
    assert best.folder == Path(f"a/trial-{study.number:04d}")
    assert best.model.metrics["valid"]["loss"] == study.trials[study.number]["value"]
    assert min(values) <= best.model.metrics["valid"]["loss"]
    model = luthier.load(best.folder)
    assert model.evaluate("people.csv")["rows"] == 300
    assert best.test["log_loss"] == pytest.approx(model.metrics["test"]["log_loss"])
    others = list(Path("a").glob("trial-*/model.safetensors"))
    assert len(others) == 1  # no other trial has seen the test rows
    luthier.eject(best.folder, "ejected")
    best.report("page.html")
    page = Path("page.html").read_text()
    assert f"This run is trial {study.number} of 5" in page
    assert "loss of the trials" in page
    assert '"search"' in page
    assert list(study.frame()["trial"]) == [0, 1, 2, 3, 4]
    assert "best: trial" in repr(study)
    assert "<table" in study._repr_html_()


KILLED = """
import os, sys, luthier
class Kill(luthier.Callback):
    left = int(sys.argv[1])
    def on_epoch_end(self, run):
        Kill.left -= 1
        if Kill.left == 0:
            os._exit(9)
luthier.tune("people.csv", target="left", epochs=12, threads=1, trials=5, run="killed", callbacks=[Kill()],
    checkpoint_every_steps=1)
"""


def test_a_study_that_is_killed_comes_to_the_same(here: Path) -> None:
    whole = tune("people.csv", trials=5, run="whole", checkpoint_every_steps=1, **QUICK)
    for epochs in (5, 16):
        done = subprocess.run([sys.executable, "-c", KILLED, str(epochs)], check=False, capture_output=True, text=True)
        assert done.returncode == 9, done.stderr
    study = tune("people.csv", trials=5, run="killed", checkpoint_every_steps=1, **QUICK)
    assert plain(study) == plain(whole)
    weights = [
        (Path(name) / f"trial-{study.number:04d}" / "model.safetensors").read_bytes() for name in ("whole", "killed")
    ]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("damage", ["cut", "garbage", "appended", "emptied", "checkpoints", "cut checkpoint"])
def test_a_damaged_study_goes_on(here: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    whole = tune("people.csv", trials=3, run="a", **QUICK)
    subprocess.run([sys.executable, "-c", KILLED.replace("trials=5", "trials=3"), "16"], check=False)
    journal = Path("killed/study.log")
    if damage in ("cut", "emptied"):
        journal.write_bytes(journal.read_bytes()[: -7 if damage == "cut" else 0])
    elif damage == "garbage":
        lines = journal.read_bytes().splitlines(keepends=True)
        journal.write_bytes(b"".join([*lines[:9], b"garbage{\n", *lines[10:]]))
    elif damage == "appended":
        journal.write_bytes(journal.read_bytes() + b'{"x":1}\n')
    else:
        newest = sorted(Path("killed").glob("trial-*"))[-1] / "checkpoints"
        for path in newest.iterdir():
            path.write_bytes(path.read_bytes()[:100]) if damage == "cut checkpoint" else path.unlink()
    study = tune("people.csv", trials=3, run="killed", checkpoint_every_steps=1, **QUICK)
    assert [row["value"] for row in study.trials] == [row["value"] for row in whole.trials]
    assert [row["settings"] for row in study.trials] == [row["settings"] for row in whole.trials]
    for text in ("{", "[]", "{}"):
        Path("killed/study.json").write_text(text)
        with pytest.raises(RunError, match="cannot be read"):
            tune("people.csv", trials=3, run="killed", checkpoint_every_steps=1, **QUICK)
    Path("killed/study.json").unlink()
    assert plain(tune("people.csv", trials=3, run="killed", checkpoint_every_steps=1, **QUICK)) == plain(study)


def test_the_trade_of_figures_is_what_no_trial_betters(here: Path) -> None:
    study = tune("people.csv", trials=6, run="front", **QUICK)
    front = study.pareto("loss", "parameters")
    assert 1 <= len(front) <= 6
    frame = study.frame().filter(pl.col("state") == "complete")
    for row in frame.iter_rows(named=True):
        betters = [
            other["trial"]
            for other in frame.iter_rows(named=True)
            if other["loss"] <= row["loss"]
            and other["parameters"] <= row["parameters"]
            and (other["loss"], other["parameters"]) != (row["loss"], row["parameters"])
        ]
        assert (row["trial"] in front["trial"]) == (not betters)
    assert len(study.pareto("seconds")) >= 1
    with pytest.raises(SettingError, match="no figure"):
        study.pareto("speed")


def test_more_trials_go_on_and_another_search_is_refused(here: Path) -> None:
    few = tune("people.csv", trials=2, run="a", **QUICK)
    more = tune("people.csv", trials=4, run="a", **QUICK)
    assert plain(more)[:2] == plain(few)
    assert len(more.trials) == 4
    with pytest.raises(RunError, match="the metric differ"):
        tune("people.csv", trials=4, run="a", metric="accuracy", **QUICK)
    with pytest.raises(RunError, match="the data or a setting differ"):
        tune("people.csv", trials=4, run="a", **{**QUICK, "epochs": 3})
    people(200).write_csv("people.csv")
    with pytest.raises(RunError, match="the data or a setting differ"):
        tune("people.csv", trials=4, run="a", **QUICK)
    luthier.train("people.csv", run="plain", **QUICK)
    with pytest.raises(RunError, match="is no study"):
        tune("people.csv", trials=1, run="plain", **QUICK)


def test_a_worse_trial_is_given_up(here: Path) -> None:
    Path("search.toml").write_text("[mlp]\nlr = { choices = [1e-7, 0.01] }\n")
    study = tune("people.csv", trials=10, run="a", search="search.toml", network="mlp", **{**QUICK, "epochs": 20})
    states = {row["settings"].get("lr"): row["state"] for row in study.trials}
    assert states[1e-7] == "pruned"
    assert all(row["epochs"] == 8 for row in study.trials if row["state"] == "pruned")


def test_a_metric_and_folds(here: Path) -> None:
    study = tune("people.csv", trials=2, run="a", metric="auc", **QUICK)
    assert study.higher_is_better
    assert study.best is not None
    assert study.number is not None
    assert study.best.model.metrics["valid"]["auc"] == study.trials[study.number]["value"]
    folds = tune("people.csv", trials=2, run="b", folds=2, metric="accuracy", **QUICK)
    assert folds.best is not None
    assert folds.best.model.blueprint is not None
    assert folds.best.model.blueprint.members == 2
    assert folds.best.test["rows"] > 0
    with pytest.raises(SettingError, match="metric is 'aucc'"):
        tune("people.csv", trials=1, run="c", metric="aucc", **QUICK)
    assert not Path("c").exists()


def test_the_time_of_a_study_is_kept(here: Path) -> None:
    start = time.monotonic()
    study = tune("people.csv", max_time_s=4.0, run="a", **{**QUICK, "epochs": 100_000, "patience": None})
    assert study.best is not None
    assert study.best.stopped == "the time limit of the study is reached"
    assert study.best.test["rows"] > 0
    assert time.monotonic() - start < 60  # far from 100,000 epochs; a busy machine takes what it takes


def test_a_trial_is_kept_where_it_is_better_by_more_than_chance(here: Path) -> None:
    Path("search.toml").write_text("[mlp]\nlr = { choices = [0.01] }\n")
    given = {**QUICK, "network": "mlp", "epochs": 12, "run": "a"}
    study = tune("people.csv", trials=2, search="search.toml", **{**given, "weight_decay": 0.0})
    assert study.number in (0, 1)
    # a design that learns nothing is left for one that does
    Path("search.toml").write_text("[mlp]\nlr = { choices = [0.01] }\n")
    study = tune("people.csv", trials=2, search="search.toml", **{**given, "run": "b", "lr": 1e-9})
    assert study.number == 1
    assert study.errors is not None
    assert study.errors > 1.96


def test_what_cannot_be_searched_is_said(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for text, words in (
        ("[tabn]\n", "no network 'tabn'"),
        ("[tabm]\nlrr = { low = 1, high = 2 }\n", "there is no such setting"),
        ("[tabm]\nlr = { low = 1 }\n", "needs either choices, or low and high"),
        ("[tabm]\nlr = { choices = [] }\n", "choices is empty"),
        ("[tabm]\nlr = { low = 2, high = 1 }\n", "goes from 2 to 1"),
        ("[tabm]\nlr = { low = 0, high = 1, log = true }\n", "needs more than 0"),
        ("[tabm]\nlr = 3\n", "is not a table"),
        ("lr = 3\n", "no network 'lr'"),
        ("", "names no network"),
        ("[[", "cannot be read"),
    ):
        Path("search.toml").write_text(text)
        with pytest.raises(SettingError, match=words):
            tune("people.csv", trials=1, run="a", search="search.toml", **QUICK)
    for given in ({"trials": 0}, {"max_time_s": 0.0}, {"trials": 1, "valid_fraction": 0.0}):
        with pytest.raises(SettingError):
            tune("people.csv", run="a", **QUICK, **given)
    assert not Path("a").exists()
    Path("search.toml").write_text("[tabm]\nlr = { choices = [1e9] }\noptimizer = { choices = ['SGD'] }\n")
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingPackageError, match="needs the package optuna"):
        tune("people.csv", trials=1, run="a", **QUICK)


def test_a_trial_that_fails_is_one_and_the_next_begins(here: Path) -> None:
    Path("search.toml").write_text("[mlp]\nlr = { choices = [1e30] }\n")
    study = tune("people.csv", trials=2, run="a", search="search.toml", network="mlp", clip_norm=None, **QUICK)
    assert [row["state"] for row in study.trials] == ["complete", "failed"]
    with pytest.raises(TrainingError, match="none of 1 trials was completed"):
        tune("people.csv", trials=1, run="b", network="mlp", lr=1e30, clip_norm=None, **QUICK)


def test_a_space_is_written_and_read(here: Path) -> None:
    plan = luthier.design("people.csv", target="left")
    text = print_space("people.csv", target="left", lr=0.1)
    Path("search.toml").write_text(text)
    found = read_space(
        Path("search.toml"), {"tabm": (plan.blueprint, plan.recipe), "mlp": (plan.blueprint, plan.recipe)}
    )
    assert set(found) == {"tabm", "mlp"}
    assert "lr" not in found["tabm"]  # it was asked for
    assert write_space(found) == text
    assert found["tabm"]["dropout"] == Setting(low=0.0, high=0.5)


def test_the_command(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["tune", "people.csv", "-t", "left", "--epochs", "3", "--trials", "2", "--run", "a"]
    assert _run(words) == 0
    out = capsys.readouterr().out
    assert "    0  complete" in out
    assert "as designed" in out
    assert "kept: trial" in out
    assert "luthier predict a/trial-" in out
    assert _run([*words, "--json"]) == 0
    outcome = json.loads(capsys.readouterr().out)
    assert (outcome["done"], len(outcome["trials"])) == (True, 2)
    assert _run([*words[:4], "--print-search"]) == 0
    assert "[tabm]" in capsys.readouterr().out
    assert _run([*words, "--jobs", "0"]) == 2
    assert _run([*words[:8], "--jobs", "2"]) == 2
    assert "--run" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_share_a_study(here: Path) -> None:
    words = [
        "tune",
        "people.csv",
        "-t",
        "left",
        "--epochs",
        "12",
        "--trials",
        "6",
        "--run",
        "a",
        "--jobs",
        "2",
        "--json",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "luthier", *words], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    trials = json.loads(done.stdout)["trials"]
    assert sorted(row["trial"] for row in trials) == list(range(6))
    assert all(row["state"] in ("complete", "pruned") for row in trials)
