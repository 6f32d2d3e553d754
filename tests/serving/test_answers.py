"""Answers have the type of the target, and figures say what they mean: against scikit-learn and sums by hand."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.metrics import accuracy_score, f1_score, mean_squared_error, roc_auc_score

import luthier
from luthier.cli.output import say_json
from luthier.errors import DataError, SettingError

N = 120
QUICK: dict[str, Any] = {"epochs": 3, "seed": 1, "threads": 1, "check": False}


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def made(*, num_classes: int = 3) -> pd.DataFrame:
    rng = np.random.default_rng(4)
    frame = pd.DataFrame({"x": rng.normal(size=N), "z": rng.normal(size=N)})
    frame["code"] = np.clip((frame.x + 1).round(), 0, num_classes - 1).astype(int)
    return frame


def trained(source: Any, target: Any = "y", **given: Any) -> luthier.Model:
    model = luthier.train(source, target=target, **{**QUICK, **given}).model
    assert model is not None
    return model


TARGETS = {
    "whole numbers": lambda code: code,
    "whole numbers below 0": lambda code: code - 1,
    "numbers": lambda code: code / 2,
    "yes and no": lambda code: code > 0,
    "text": lambda code: code.map({0: "low", 1: "mid", 2: "high"}),
    "digits as text": lambda code: code.astype(str),
    "Int64": lambda code: code.astype("Int64"),
    "boolean": lambda code: (code > 0).astype("boolean"),
    "a category of text": lambda code: code.map({0: "low", 1: "mid", 2: "high"}).astype("category"),
    "a category of numbers": lambda code: (code * 10).astype("category"),
    "small numbers": lambda code: code.astype("int8"),
}


@pytest.mark.parametrize("kind", TARGETS)
def test_answers_are_of_the_targets_type(kind: str, tmp_path: Path) -> None:
    frame = made()
    y = TARGETS[kind](frame.pop("code"))
    frame["y"] = y
    frame.index = pd.Index(np.random.default_rng(0).permutation(N) + 7, name="who")
    model = trained(frame, task="multiclass" if kind == "numbers" else None)
    answers = model.predict(frame)
    accuracy = model.evaluate(frame)["accuracy"]
    assert (answers == frame.y.to_numpy()).mean() == pytest.approx(accuracy)
    if kind != "numbers":  # scikit-learn takes those for a regression
        assert accuracy_score(frame.y.tolist(), answers.tolist()) == pytest.approx(accuracy)
    series = model.predict(frame, as_frame=True)
    assert series.index.equals(frame.index)
    assert series.name == "y"
    assert (series == frame.y).mean() == pytest.approx(accuracy)
    if kind in ("Int64", "boolean"):
        assert series.dtype == frame.y.dtype
    elif kind.startswith("a category"):
        assert set(series.cat.categories) == set(frame.y.cat.categories)
    model.save(tmp_path / "model.safetensors")
    again = luthier.load(tmp_path / "model.safetensors")
    row = {"x": float(frame.x.iloc[0]), "z": float(frame.z.iloc[0])}
    lone = again.predict(row)
    assert lone.dtype == answers.dtype
    assert lone[0] == answers[0]
    proba = again.predict_proba(frame, as_frame=True)
    assert proba.index.equals(frame.index)
    assert list(proba.columns) == list(model.schema.targets[0].classes)  # type: ignore[union-attr]
    assert proba.to_numpy().tolist() == again.predict_proba(frame).tolist()


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (("0", "1", "2"), np.int64), (("-1", "0", "1"), np.int64), (("a", "b", "c"), object),
        (("007", "008", "010"), object), (("1.0", "2.0", "3.0"), np.float64),
    ],
)  # fmt: skip
def test_a_csv_says_no_types_so_its_words_do(words: tuple[str, ...], kind: Any, tmp_path: Path) -> None:
    frame = made()
    frame["y"] = [words[code] for code in frame.pop("code")]
    frame.to_csv("t.csv", index=False)
    model = trained("t.csv")
    assert model.predict("t.csv").dtype == kind
    read = pd.read_csv("t.csv", dtype={"y": str} if words[0] == "007" else None)
    assert (model.predict("t.csv") == read.y.to_numpy()).mean() == pytest.approx(model.evaluate("t.csv")["accuracy"])
    written = pl.concat(list(model.stream("t.csv")))["prediction"]
    assert set(written.to_list()) <= set(words), "the command's answers are spelled as in the file"


def test_true_and_false_in_a_csv_are_bool() -> None:
    frame = made()
    frame["y"] = frame.pop("code") > 0
    frame.to_csv("t.csv", index=False)
    model = trained("t.csv")
    assert model.predict("t.csv").dtype == np.bool_
    assert (model.predict("t.csv") == frame.y).mean() == pytest.approx(model.evaluate("t.csv")["accuracy"])


def test_a_frame_of_polars_gives_polars_and_others_too() -> None:
    frame = pl.DataFrame(made().rename(columns={"code": "y"}).to_dict("list"))
    model = trained(frame)
    series = model.predict(frame, as_frame=True)
    assert isinstance(series, pl.Series)
    assert series.dtype == pl.Int64
    assert series.to_list() == model.predict(frame).tolist()
    assert model.predict_proba(frame, as_frame=True).columns == ["0", "1", "2"]
    row = model.predict({"x": 0.5, "z": 0.1}, as_frame=True)
    assert isinstance(row, pl.Series)
    assert row.len() == 1
    numbers = trained(frame.with_columns(w=pl.col("x") * 2).select("x", "z", "w"), ["z", "w"])
    both = numbers.predict(frame, as_frame=True)
    assert both.columns == ["z", "w"]
    assert both.to_numpy().tolist() == numbers.predict(frame).tolist()


def test_columns_may_be_called_by_numbers() -> None:
    frame = made().rename(columns={"x": 0, "z": 1, "code": 2})
    model = trained(frame, 2, kind={1: "number"}, group=None)
    answers = model.predict(frame)
    assert model.predict({0: frame[0].iloc[0], 1: frame[1].iloc[0]})[0] == answers[0]
    assert model.predict([{0: frame[0].iloc[3], 1: frame[1].iloc[3]}])[0] == answers[3]
    first = trained(frame.rename(columns={2: 0, 0: 2}), 0)
    assert first.schema is not None
    assert first.schema.targets[0].name == "0"
    frame[3] = made()["x"]
    two = trained(frame, [0, np.int64(1)])
    assert two.predict(frame, as_frame=True).shape == (N, 2)


def with_unseen(frame: pd.DataFrame, *names: str) -> pd.DataFrame:
    other = frame.copy()
    other.loc[other.index[: len(names)], "y"] = list(names)
    return other


def test_an_unseen_class_is_wrong_and_said(caplog: pytest.LogCaptureFixture) -> None:
    frame = made().rename(columns={"code": "y"})
    frame["y"] = frame.y.map({0: "low", 1: "mid", 2: "high"})
    frame.to_csv("t.csv", index=False)
    other = with_unseen(frame, "huge", "tiny", "huge")
    other.to_csv("other.csv", index=False)
    with caplog.at_level(logging.WARNING):
        result = luthier.train("t.csv", target="y", valid="other.csv", test="other.csv", run="run", **QUICK)
    assert (
        "3 rows of the valid data have classes that the training rows do not have: 'huge' (2), 'tiny' (1)"
        in caplog.text
    )
    assert result.model is not None
    for source in (other, "other.csv"):
        caplog.clear()
        figures = result.model.evaluate(source)
        answers = result.model.predict(source)
        assert figures["accuracy"] == pytest.approx(accuracy_score(other.y, answers))
        assert figures["f1"] == pytest.approx(f1_score(other.y, answers, average="macro", zero_division=0))
        assert figures["unseen"] == [{"class": "huge", "rows": 2}, {"class": "tiny", "rows": 1}]
        assert "'huge' (2)" in caplog.text
        precision = [
            ((answers == name) & (other.y == name)).sum() / max((answers == name).sum(), 1)
            for name in ("high", "low", "mid")
        ]
        assert [row["precision"] for row in figures["classes"]] == pytest.approx(precision)
    assert result.test["accuracy"] == figures["accuracy"]
    known = other[3:]
    last = result.record.epochs[result.best_epoch or 0]
    logits = np.log(result.model.predict_proba(known))
    rows = np.searchsorted(["high", "low", "mid"], known.y)
    loss = -logits[np.arange(len(known)), rows].mean()
    assert last["valid_loss"] == pytest.approx(loss, rel=1e-4)


def test_an_unseen_class_beside_two(caplog: pytest.LogCaptureFixture) -> None:
    frame = made(num_classes=2).rename(columns={"code": "y"})
    frame["y"] = frame.y.map({0: "no", 1: "yes"})
    other = with_unseen(frame, "maybe", "maybe")
    frame.to_csv("t.csv", index=False)
    other.to_csv("other.csv", index=False)
    result = luthier.train("t.csv", target="y", valid="other.csv", **QUICK)
    assert result.model is not None
    figures = result.model.evaluate(other)
    answers = result.model.predict(other)
    assert figures["accuracy"] == pytest.approx(accuracy_score(other.y, answers))
    assert figures["f1"] == pytest.approx(f1_score(other.y == "yes", answers == "yes"))
    known = other[2:]
    chances = result.model.predict_proba(known)[:, 1]
    assert figures["auc"] == pytest.approx(roc_auc_score(known.y == "yes", chances))
    y = (known.y == "yes").to_numpy()
    loss = -np.log(np.where(y, chances, 1 - chances)).mean()
    assert result.record.epochs[result.best_epoch or 0]["valid_loss"] == pytest.approx(loss, rel=1e-4)
    only = with_unseen(frame, *["maybe"] * N)
    assert result.model.evaluate(only)["accuracy"] == 0.0


def test_unseen_classes_where_the_split_is_by_time_or_group() -> None:
    frame = made()
    frame["y"] = [*"ab" * 48, *"c" * 24]
    frame["when"] = np.arange(N)
    result = luthier.train(frame, target="y", time="when", test_fraction=0.1, valid_fraction=0.1, **QUICK)
    assert result.test["unseen"] == [{"class": "c", "rows": 12}]
    assert result.test["accuracy"] == 0.0


def test_training_goes_on_from_a_model_without_the_rows_of_new_classes(caplog: pytest.LogCaptureFixture) -> None:
    frame = made().rename(columns={"code": "y"})
    frame["y"] = frame.y.map({0: "low", 1: "mid", 2: "high"})
    trained(frame).save("first.safetensors")
    model = trained(with_unseen(frame, *["new"] * 30), start="first.safetensors")
    assert model.schema is not None
    assert "training rows are left out: the model to start from has no such class: 'new'" in caplog.text
    with pytest.raises(DataError, match="no training row has a class of the model") as caught:
        trained(with_unseen(frame, *["new", "other"] * (N // 2)), start="first.safetensors")
    assert caught.value.code == "data-target-unseen-class"


def test_labels_that_training_does_not_have_are_said(caplog: pytest.LogCaptureFixture) -> None:
    frame = made()
    frame["y"] = frame.pop("code").map({0: "a", 1: "a;b", 2: "b"})
    model = trained(frame, labels=";")
    figures = model.evaluate(with_unseen(frame, "a;z"))
    assert figures["unseen"] == [{"class": "z", "rows": 1}]
    assert "no figure counts these labels" in caplog.text


def test_the_positive_class_can_be_chosen_and_is_said() -> None:
    frame = made(num_classes=2)
    frame["y"] = frame.pop("code").map({0: "sick", 1: "well"})
    plain, chosen = trained(frame), trained(frame, positive="sick")
    assert plain.evaluate(frame)["positive"] == "well"
    figures = chosen.evaluate(frame)
    assert figures["positive"] == "sick"
    assert chosen.schema is not None
    assert chosen.schema.targets[0].classes == ("well", "sick")
    answers = chosen.predict(frame)
    assert figures["f1"] == pytest.approx(f1_score(frame.y, answers, pos_label="sick"))
    assert figures["auc"] == pytest.approx(roc_auc_score(frame.y == "sick", chosen.predict_proba(frame)[:, 1]))
    again = luthier.design(frame, target="y", positive="sick").toml()
    assert 'positive = "sick"' in again
    with pytest.raises(SettingError, match="positive is 'sik'"):
        luthier.design(frame, target="y", positive="sik")
    with pytest.raises(SettingError, match="the task is regression"):
        luthier.design(frame, target="x", positive="sick")
    whole = made(num_classes=2)
    assert trained(whole, "code", positive=0).evaluate(whole)["positive"] == "0"


def test_each_of_several_targets_has_figures() -> None:
    frame = made()
    frame["y"] = frame.x * 3 + 100
    result = luthier.train(frame, target=["y", "z"], **QUICK)
    assert result.model is not None
    figures = result.model.evaluate(frame)
    answers = result.model.predict(frame)
    for i, name in enumerate(("y", "z")):
        assert figures[f"rmse_{name}"] == pytest.approx(mean_squared_error(frame[name], answers[:, i]) ** 0.5, rel=1e-4)
    assert figures["rmse"] == pytest.approx((figures["rmse_y"] + figures["rmse_z"]) / 2)
    assert {"mae_y", "mae_z", "r2_y", "r2_z"} <= set(figures)
    assert {"rmse_y", "rmse_z"} <= set(result.test)


def test_r2_of_a_constant_target_means_nothing(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = made()
    frame["y"] = frame.x * 3
    model = trained(frame)
    some = frame.assign(y=0.1)
    figures = model.evaluate(some)
    assert np.isnan(figures["r2"])
    say_json(figures)
    assert '"r2": null' in capsys.readouterr().out
    assert "r2" in caplog.text
    assert figures["rmse"] == pytest.approx(mean_squared_error(some.y, model.predict(some)) ** 0.5, rel=1e-4)


def test_rows_without_a_target_are_counted_with_their_words(caplog: pytest.LogCaptureFixture) -> None:
    frame = made()
    frame["y"] = frame.pop("code").map({0: "low", 1: "mid", 2: "high"})
    frame.loc[:9, "y"] = "NA"
    frame.loc[10:11, "y"] = ""
    frame.to_csv("t.csv", index=False)
    plan = luthier.design("t.csv", target="y")
    said = "12 rows without 'y' are left out: there the target is 'NA' (10), '' (2)"
    said += "; to keep such words as classes, pass missing=''"
    assert said in plan.prepared.notes
    assert said in caplog.text
    caplog.clear()
    luthier.design(pd.concat([made().rename(columns={"code": "y"})] * 3), target="y")
    assert not caplog.text
